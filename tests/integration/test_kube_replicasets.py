"""ReplicaSets on the running server, with a kubelet that runs nothing."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

from gateway.kube.client import PatchType
from gateway.model.json import Json, JsonObject
from gateway.wire.kube.parts import part, rows
from gateway.wire.kube.podstate import is_active
from tests.workload_rig import Workloads, eventually, name_of, names, workloads

SETS = "apps/v1", "replicasets"


def a_template(app: str = "web", image: str = "web:1") -> JsonObject:
    return {
        "metadata": {"labels": {"app": app}},
        "spec": {"containers": [{"name": "web", "image": image}]},
    }


def a_set(name: str = "web", replicas: int = 3, **spec: Json) -> JsonObject:
    return {
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": "web"}},
            "template": a_template(),
            **spec,
        },
    }


Rig = Workloads


def a_rig(folder: Path) -> AbstractAsyncContextManager[Rig]:
    return workloads(folder, "replicaset")


async def until(rig: Rig, is_so: Callable[[JsonObject], bool]) -> JsonObject:
    """Wait until the status of the set is so."""
    return await rig.until(SETS, "web", is_so)


async def scale(rig: Rig, replicas: int) -> None:
    await rig.kube.patch(*SETS, "default", "web", {"spec": {"replicas": replicas}})


async def test_a_set_has_as_many_pods_as_it_says_and_tells_of_each(tmp_path: Path) -> None:
    async with a_rig(tmp_path) as rig:
        await rig.kube.create(*SETS, "default", a_set(replicas=5))
        status = await until(rig, lambda status: status.get("availableReplicas") == 5)
        assert status == {
            "replicas": 5,
            "fullyLabeledReplicas": 5,
            "readyReplicas": 5,
            "availableReplicas": 5,
            "terminatingReplicas": 0,
            "observedGeneration": 1,
        }
        pods = await rig.pods()
        owner = await rig.kube.get(*SETS, "default", "web")
        assert len(pods) == 5
        for pod in pods:
            meta = part(pod, "metadata")
            assert name_of(pod).startswith("web-")
            assert meta["ownerReferences"] == [
                {
                    "apiVersion": "apps/v1",
                    "kind": "ReplicaSet",
                    "name": "web",
                    "uid": part(owner, "metadata")["uid"],
                    "controller": True,
                    "blockOwnerDeletion": True,
                }
            ]
        told = await eventually(rig.told, lambda told: len(told) == 5)
        assert set(told) == {("SuccessfulCreate", f"Created pod: {name}") for name in names(pods)}


async def test_fewer_are_asked_for_and_those_that_do_not_serve_go_first(tmp_path: Path) -> None:
    async with a_rig(tmp_path) as rig:
        await rig.kube.create(*SETS, "default", a_set(replicas=4))
        await until(rig, lambda status: status.get("readyReplicas") == 4)
        good = sorted(names(await rig.pods()))[:2]
        rig.kubelet.fate = lambda pod: "ready" if name_of(pod) in good else "running"
        rig.kubelet.review()
        await until(rig, lambda status: status.get("readyReplicas") == 2)
        await scale(rig, 2)
        left = await rig.until_pods(lambda pods: len(pods) == 2)
        assert names(left) == set(good)


async def test_a_pod_that_ends_or_goes_is_replaced_and_never_too_many(tmp_path: Path) -> None:
    async with a_rig(tmp_path) as rig:
        await rig.kube.create(*SETS, "default", a_set(replicas=3))
        await until(rig, lambda status: status.get("readyReplicas") == 3)
        lost = sorted(names(await rig.pods()))
        rig.kubelet.fate = lambda pod: "failed" if name_of(pod) == lost[0] else "ready"
        rig.kubelet.review()
        await rig.kube.delete("v1", "pods", "default", lost[1])
        pods = await rig.until_pods(
            lambda pods: sum(map(is_active, pods)) == 3 and lost[1] not in names(pods)
        )
        assert len(pods) == 4  # one of them failed and stays to be looked at
        assert lost[2] in names(pods)


async def test_orphans_are_adopted_and_what_matches_no_more_is_released(tmp_path: Path) -> None:
    async with a_rig(tmp_path) as rig:
        orphan: JsonObject = {"apiVersion": "v1", "kind": "Pod", **a_template()}
        orphan["metadata"] = {"name": "orphan", "labels": {"app": "web"}}
        await rig.kube.create("v1", "pods", "default", orphan)
        await rig.kube.create(*SETS, "default", a_set(replicas=2))
        await until(rig, lambda status: status.get("readyReplicas") == 2)
        assert len(await rig.pods()) == 2
        assert "orphan" in names(await rig.pods())
        away: JsonObject = {"metadata": {"labels": {"app": "debug"}}}
        await rig.kube.patch("v1", "pods", "default", "orphan", away)
        pods = await rig.until_pods(lambda pods: len(pods) == 3)
        freed = next(pod for pod in pods if names([pod]) == {"orphan"})
        await rig.until_pods(
            lambda pods: (
                not any(
                    part(pod, "metadata").get("ownerReferences")
                    for pod in pods
                    if names([pod]) == {"orphan"}
                )
            )
        )
        assert is_active(freed)


async def test_a_set_that_is_deleted_in_the_foreground_makes_no_new_pods(tmp_path: Path) -> None:
    async with a_rig(tmp_path) as rig:
        rig.kubelet.lets_go = False
        await rig.kube.create(*SETS, "default", a_set(replicas=2))
        await until(rig, lambda status: status.get("readyReplicas") == 2)
        before = names(await rig.pods())
        await rig.kube.delete(*SETS, "default", "web", propagation="Foreground")
        await until(rig, lambda status: status.get("terminatingReplicas") == 2)
        assert names(await rig.pods()) == before
        rig.kubelet.lets_go = True
        rig.kubelet.review()
        await rig.until_pods(lambda pods: not pods)
        await rig.until_empty(SETS)


async def test_a_restart_in_the_middle_neither_loses_nor_doubles_pods(tmp_path: Path) -> None:
    async with a_rig(tmp_path) as rig:
        await rig.kube.create(*SETS, "default", a_set(replicas=20))
        await rig.until_pods(lambda pods: len(pods) >= 3)
    async with a_rig(tmp_path) as rig:
        status = await until(rig, lambda status: status.get("readyReplicas") == 20)
        assert status["replicas"] == 20
        assert len(await rig.pods()) == 20


async def test_a_replication_controller_is_the_older_form(tmp_path: Path) -> None:
    async with workloads(tmp_path, "replicationcontroller") as rig:
        body: JsonObject = {
            "apiVersion": "v1",
            "kind": "ReplicationController",
            "metadata": {"name": "old"},
            "spec": {"replicas": 2, "selector": {"app": "web"}, "template": a_template()},
        }
        await rig.kube.create("v1", "replicationcontrollers", "default", body)
        pods = await rig.until_pods(lambda pods: len(pods) == 2)
        reference = rows(part(pods[0], "metadata")["ownerReferences"])[0]
        assert (reference["apiVersion"], reference["kind"]) == ("v1", "ReplicationController")
        place = "v1", "replicationcontrollers"
        status = await rig.until(place, "old", lambda status: status.get("readyReplicas") == 2)
        assert "terminatingReplicas" not in status


async def test_a_pod_is_available_after_it_has_served_for_its_time(tmp_path: Path) -> None:
    async with a_rig(tmp_path) as rig:
        await rig.kube.create(*SETS, "default", a_set(replicas=1, minReadySeconds=1))
        status = await until(rig, lambda status: status.get("readyReplicas") == 1)
        assert status.get("availableReplicas", 0) in (0, 1)
        await until(rig, lambda status: status.get("availableReplicas") == 1)


async def test_labels_of_the_template_are_counted_apart(tmp_path: Path) -> None:
    async with a_rig(tmp_path) as rig:
        wide = a_set(replicas=2)
        part(wide, "spec", "template", "metadata")["labels"] = {"app": "web", "tier": "front"}
        await rig.kube.create(*SETS, "default", wide)
        await until(rig, lambda status: status.get("fullyLabeledReplicas") == 2)
        one = sorted(names(await rig.pods()))[0]
        patch: list[Json] = [{"op": "remove", "path": "/metadata/labels/tier"}]
        await rig.kube.patch("v1", "pods", "default", one, patch, patch_type=PatchType.JSON)
        status = await until(rig, lambda status: status.get("fullyLabeledReplicas") == 1)
        assert status["replicas"] == 2
