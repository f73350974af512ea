"""Deployments on the running server, with a kubelet that runs nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

from gateway.kube.client import PatchType
from gateway.model.json import Json, JsonObject
from gateway.wire.kube.conditions import find
from gateway.wire.kube.parts import annotations_of, labels_of, part, rows, text, whole
from tests.fake_kubelet import Fate
from tests.workload_rig import Workloads, eventually, name_of, names, workloads

DEPLOYMENTS, SETS = ("apps/v1", "deployments"), ("apps/v1", "replicasets")
REVISION = "deployment.kubernetes.io/revision"


def a_deployment(replicas: int = 3, image: str = "web:1", **spec: Json) -> JsonObject:
    template: JsonObject = {
        "metadata": {"labels": {"app": "web"}},
        "spec": {"containers": [{"name": "web", "image": image}]},
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web", "labels": {"app": "web"}},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": "web"}},
            "template": template,
            "progressDeadlineSeconds": 600,
            "revisionHistoryLimit": 10,
            "strategy": {
                "type": "RollingUpdate",
                "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"},
            },
            **spec,
        },
    }


def a_rig(folder: Path) -> AbstractAsyncContextManager[Workloads]:
    return workloads(folder, "deployment", "replicaset")


async def change(rig: Workloads, **spec: Json) -> None:
    await rig.kube.patch(*DEPLOYMENTS, "default", "web", {"spec": spec})


async def set_image(rig: Workloads, image: str) -> None:
    containers: list[Json] = [{"name": "web", "image": image}]
    patch: JsonObject = {"spec": {"template": {"spec": {"containers": containers}}}}
    await rig.kube.patch(*DEPLOYMENTS, "default", "web", patch, patch_type=PatchType.STRATEGIC)


async def sets(rig: Workloads) -> list[JsonObject]:
    found = (await rig.kube.list(*SETS, "default")).items
    return sorted(found, key=lambda item: int(annotations_of(item).get(REVISION, "0")))


def sizes(items: list[JsonObject]) -> list[int]:
    return [whole(part(item, "spec")["replicas"]) for item in items]


def image_of(pod: JsonObject) -> str:
    return text(rows(part(pod, "spec").get("containers"))[0].get("image"))


def image_fate(bad: str) -> Callable[[JsonObject], Fate]:
    """Pods of an image never serve."""
    return lambda pod: "running" if image_of(pod) == bad else "ready"


def reason(status: JsonObject, type_: str = "Progressing") -> str:
    found = find(rows(status.get("conditions")), type_)
    return "" if found is None else text(found["reason"])


async def until(rig: Workloads, is_so: Callable[[JsonObject], bool]) -> JsonObject:
    return await rig.until(DEPLOYMENTS, "web", is_so)


async def until_complete(rig: Workloads, replicas: int) -> JsonObject:
    """Wait until a rollout is over, as `kubectl rollout status` sees it."""

    async def seen() -> JsonObject:
        return await rig.kube.get(*DEPLOYMENTS, "default", "web")

    def is_over(item: JsonObject) -> bool:
        status = part(item, "status")
        return (
            status.get("observedGeneration") == part(item, "metadata")["generation"]
            and [
                whole(status.get(key))
                for key in ("replicas", "updatedReplicas", "availableReplicas")
            ]
            == [replicas] * 3
            and reason(status) == "NewReplicaSetAvailable"
        )

    return await eventually(seen, is_over)


async def test_a_deployment_comes_up_and_shows_it_as_others_do(tmp_path: Path) -> None:
    async with a_rig(tmp_path) as rig:
        await rig.kube.create(*DEPLOYMENTS, "default", a_deployment())
        item = await until_complete(rig, 3)
        (made,) = await sets(rig)
        told = part(item, "status")
        assert {key: value for key, value in told.items() if key != "conditions"} == {
            "observedGeneration": 1,
            "replicas": 3,
            "updatedReplicas": 3,
            "readyReplicas": 3,
            "availableReplicas": 3,
            "terminatingReplicas": 0,
        }
        said = {text(row["type"]): row for row in rows(told["conditions"])}
        assert said["Available"]["reason"] == "MinimumReplicasAvailable"
        assert said["Available"]["message"] == "Deployment has minimum availability."
        message = f'ReplicaSet "{name_of(made)}" has successfully progressed.'
        assert said["Progressing"]["message"] == message
        assert annotations_of(item)[REVISION] == "1"
        hash_ = labels_of(made)["pod-template-hash"]
        assert name_of(made) == f"web-{hash_}"
        assert part(made, "spec", "selector")["matchLabels"] == {
            "app": "web",
            "pod-template-hash": hash_,
        }
        assert annotations_of(made) == {
            REVISION: "1",
            "deployment.kubernetes.io/desired-replicas": "3",
            "deployment.kubernetes.io/max-replicas": "4",
        }
        assert all(labels_of(pod)["pod-template-hash"] == hash_ for pod in await rig.pods())
        line = f"Scaled up replica set {name_of(made)} from 0 to 3"
        await eventually(rig.told, lambda told: ("ScalingReplicaSet", line) in told)


async def test_a_new_image_rolls_out_within_its_limits_and_back(tmp_path: Path) -> None:
    async with a_rig(tmp_path) as rig:
        limits: JsonObject = {
            "type": "RollingUpdate",
            "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 1},
        }
        await rig.kube.create(*DEPLOYMENTS, "default", a_deployment(4, strategy=limits))
        await until_complete(rig, 4)
        await set_image(rig, "web:2")
        await until_complete(rig, 4)
        first, second = await sets(rig)
        assert sizes([first, second]) == [0, 4]
        assert {image_of(pod) for pod in await rig.pods()} == {"web:2"}
        await set_image(rig, "web:1")
        item = await until_complete(rig, 4)
        second, first = await sets(rig)
        assert sizes([second, first]) == [0, 4]
        assert annotations_of(first)[REVISION] == annotations_of(item)[REVISION] == "3"
        assert annotations_of(first)["deployment.kubernetes.io/revision-history"] == "1"


async def test_pods_that_never_serve_stop_a_rollout_and_it_is_late(tmp_path: Path) -> None:
    async with a_rig(tmp_path) as rig:
        limits: JsonObject = {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}
        body = a_deployment(3, strategy=limits, progressDeadlineSeconds=2)
        await rig.kube.create(*DEPLOYMENTS, "default", body)
        await until_complete(rig, 3)
        rig.kubelet.fate = image_fate("web:bad")
        await set_image(rig, "web:bad")
        status = await until(rig, lambda status: reason(status) == "ProgressDeadlineExceeded")
        assert sizes(await sets(rig)) == [3, 1]
        assert whole(status["availableReplicas"]) == 3
        assert whole(status["unavailableReplicas"]) == 1
        late = find(rows(status["conditions"]), "Progressing")
        assert late is not None
        assert text(late["message"]).endswith('" has timed out progressing.')
        await set_image(rig, "web:1")
        await until_complete(rig, 3)


async def test_scaling_in_the_middle_of_a_rollout_keeps_the_shares(tmp_path: Path) -> None:
    async with a_rig(tmp_path) as rig:
        limits: JsonObject = {"rollingUpdate": {"maxSurge": 3, "maxUnavailable": 2}}
        await rig.kube.create(*DEPLOYMENTS, "default", a_deployment(10, strategy=limits))
        await until_complete(rig, 10)
        rig.kubelet.fate = image_fate("web:bad")
        await set_image(rig, "web:bad")
        await eventually(lambda: sets(rig), lambda found: sizes(found) == [8, 5])
        await change(rig, replicas=15)
        await eventually(lambda: sets(rig), lambda found: sizes(found) == [11, 7])
        status = await until(rig, lambda status: whole(status.get("replicas")) == 18)
        assert whole(status["updatedReplicas"]) == 7


async def test_recreate_waits_until_the_last_old_pod_is_gone(tmp_path: Path) -> None:
    async with a_rig(tmp_path) as rig:
        body = a_deployment(2, strategy={"type": "Recreate"})
        await rig.kube.create(*DEPLOYMENTS, "default", body)
        await until_complete(rig, 2)
        rig.kubelet.lets_go = False
        await set_image(rig, "web:2")
        await until(rig, lambda status: status.get("terminatingReplicas") == 2)
        await asyncio.sleep(0.1)
        assert sizes(await sets(rig)) == [0]
        assert {image_of(pod) for pod in await rig.pods()} == {"web:1"}
        rig.kubelet.lets_go = True
        rig.kubelet.review()
        await until_complete(rig, 2)
        assert {image_of(pod) for pod in await rig.pods()} == {"web:2"}


async def test_a_pause_collects_changes_and_a_resume_rolls_them_out_once(tmp_path: Path) -> None:
    async with a_rig(tmp_path) as rig:
        await rig.kube.create(*DEPLOYMENTS, "default", a_deployment(2))
        await until_complete(rig, 2)
        await change(rig, paused=True)
        await until(rig, lambda status: reason(status) == "DeploymentPaused")
        await set_image(rig, "web:2")
        await set_image(rig, "web:3")
        await change(rig, replicas=4)  # is scaled in a pause, too
        await rig.until_pods(lambda pods: len(pods) == 4)
        assert {image_of(pod) for pod in await rig.pods()} == {"web:1"}
        await change(rig, paused=False)
        await until_complete(rig, 4)
        assert {image_of(pod) for pod in await rig.pods()} == {"web:3"}
        assert len(await sets(rig)) == 2


async def test_history_keeps_as_many_sets_as_it_should(tmp_path: Path) -> None:
    async with a_rig(tmp_path) as rig:
        await rig.kube.create(*DEPLOYMENTS, "default", a_deployment(1, revisionHistoryLimit=1))
        for number in (2, 3, 4):
            await until_complete(rig, 1)
            await set_image(rig, f"web:{number}")
        await until_complete(rig, 1)
        left = await eventually(lambda: sets(rig), lambda found: len(found) == 2)
        assert [annotations_of(item)[REVISION] for item in left] == ["3", "4"]


async def test_a_set_of_that_name_that_is_another_ones_is_a_collision(tmp_path: Path) -> None:
    async with workloads(tmp_path, "replicaset") as rig:
        await rig.kube.create(*DEPLOYMENTS, "default", a_deployment(1))
    async with a_rig(tmp_path) as rig:
        await until_complete(rig, 1)
        (made,) = await sets(rig)
        name, template = name_of(made), part(made, "spec", "template")
        await rig.kube.delete(*DEPLOYMENTS, "default", "web")
        await rig.until_empty(SETS)
        other: JsonObject = {
            "apiVersion": "apps/v1",
            "kind": "ReplicaSet",
            "metadata": {"name": name, "labels": {"app": "other"}},
            "spec": {
                "replicas": 0,
                "selector": {"matchLabels": {"app": "web"}},
                "template": template,
            },
        }
        await rig.kube.create(*SETS, "default", other)
        await rig.kube.create(*DEPLOYMENTS, "default", a_deployment(1))
        item = await until_complete(rig, 1)
        assert part(item, "status")["collisionCount"] == 1
        assert names(await sets(rig)) > {name}


async def test_orphaned_sets_are_adopted_by_the_next_deployment(tmp_path: Path) -> None:
    async with a_rig(tmp_path) as rig:
        await rig.kube.create(*DEPLOYMENTS, "default", a_deployment(2))
        await until_complete(rig, 2)
        before = names(await rig.pods())
        await rig.kube.delete(*DEPLOYMENTS, "default", "web", propagation="Orphan")
        await rig.until_empty(DEPLOYMENTS)
        assert names(await rig.pods()) == before
        await rig.kube.create(*DEPLOYMENTS, "default", a_deployment(2))
        await until_complete(rig, 2)
        assert names(await rig.pods()) == before


async def test_deleting_takes_sets_and_pods_along(tmp_path: Path) -> None:
    for propagation in ("Background", "Foreground"):
        async with a_rig(tmp_path / propagation) as rig:
            await rig.kube.create(*DEPLOYMENTS, "default", a_deployment(2))
            await until_complete(rig, 2)
            await rig.kube.delete(*DEPLOYMENTS, "default", "web", propagation=propagation)
            await rig.until_pods(lambda pods: not pods)
            await rig.until_empty(SETS)
            await rig.until_empty(DEPLOYMENTS)


async def test_a_restart_in_the_middle_of_a_rollout_goes_on(tmp_path: Path) -> None:
    async with a_rig(tmp_path) as rig:
        await rig.kube.create(*DEPLOYMENTS, "default", a_deployment(6))
        await until_complete(rig, 6)
        await set_image(rig, "web:2")
        await rig.until_pods(lambda pods: "web:2" in map(image_of, pods))
    async with a_rig(tmp_path) as rig:
        await until_complete(rig, 6)
        assert {image_of(pod) for pod in await rig.pods()} == {"web:2"}
        assert sizes(await sets(rig)) == [0, 6]


async def test_pods_that_are_refused_are_told_at_set_and_deployment(tmp_path: Path) -> None:
    async with a_rig(tmp_path) as rig:
        await rig.kube.create(*DEPLOYMENTS, "default", a_deployment(2))
        await until_complete(rig, 2)
        wrong: JsonObject = {"template": {"spec": {"priorityClassName": "no-such-class"}}}
        await change(rig, **wrong)
        status = await until(rig, lambda status: bool(reason(status, "ReplicaFailure")))
        told = find(rows(status["conditions"]), "ReplicaFailure")
        assert told is not None
        assert told["reason"] == "FailedCreate"
        assert "no PriorityClass with name no-such-class was found" in text(told["message"])
        assert whole(status["availableReplicas"]) == 2
        events = await eventually(
            rig.told, lambda told: any(reason == "FailedCreate" for reason, _ in told)
        )
        assert any(text.startswith('Error creating: pods "web-') for _, text in events)
        right: JsonObject = {"template": {"spec": {"priorityClassName": None}}}
        await change(rig, **right)
        await until_complete(rig, 2)
        await until(rig, lambda status: not reason(status, "ReplicaFailure"))


async def test_a_change_in_the_middle_of_a_rollout_turns_it_to_the_newest(tmp_path: Path) -> None:
    async with a_rig(tmp_path) as rig:
        limits: JsonObject = {"rollingUpdate": {"maxSurge": 2, "maxUnavailable": 1}}
        await rig.kube.create(*DEPLOYMENTS, "default", a_deployment(5, strategy=limits))
        await until_complete(rig, 5)
        rig.kubelet.fate = image_fate("web:2")
        await set_image(rig, "web:2")
        await eventually(lambda: sets(rig), lambda found: sizes(found) == [4, 3])
        await set_image(rig, "web:3")
        await until_complete(rig, 5)
        assert sizes(await sets(rig)) == [0, 0, 5]
        assert {image_of(pod) for pod in await rig.pods()} == {"web:3"}
