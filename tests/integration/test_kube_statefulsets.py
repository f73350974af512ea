"""StatefulSets on the running server, with a kubelet that runs nothing."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

from gateway.kube.client import EventType
from gateway.model.json import Json, JsonObject
from gateway.wire.kube.parts import labels_of, part, rows, text
from gateway.wire.kube.statefulplans import revision_of
from tests.workload_rig import Workloads, eventually, name_of, names, workloads

SETS = "apps/v1", "statefulsets"
REVISIONS = "apps/v1", "controllerrevisions"
CLAIMS = "v1", "persistentvolumeclaims"


def a_template(image: str = "web:1") -> JsonObject:
    return {
        "metadata": {"labels": {"app": "web"}},
        "spec": {"containers": [{"name": "web", "image": image}]},
    }


def a_set(replicas: int = 3, **spec: Json) -> JsonObject:
    return {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": {"name": "web"},
        "spec": {
            "replicas": replicas,
            "serviceName": "web",
            "selector": {"matchLabels": {"app": "web"}},
            "template": a_template(),
            **spec,
        },
    }


def with_claims(replicas: int, **policy: Json) -> JsonObject:
    template: JsonObject = {
        "metadata": {"name": "data"},
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "1Gi"}},
        },
    }
    return a_set(
        replicas,
        volumeClaimTemplates=[template],
        persistentVolumeClaimRetentionPolicy=policy or None,
    )


def a_rig(folder: Path) -> AbstractAsyncContextManager[Workloads]:
    return workloads(folder, "statefulset")


def is_complete(replicas: int, generation: int) -> Callable[[JsonObject], bool]:
    def judge(status: JsonObject) -> bool:
        return (
            status.get("observedGeneration") == generation
            and status.get("readyReplicas", 0) == replicas
            and status.get("updatedReplicas", 0) == replicas
            and status.get("replicas") == replicas
        )

    return judge


def images(pods: list[JsonObject]) -> dict[str, str]:
    return {
        name_of(pod): text(rows(part(pod, "spec").get("containers"))[0]["image"]) for pod in pods
    }


async def change(rig: Workloads, **spec: Json) -> None:
    await rig.kube.patch(*SETS, "default", "web", {"spec": spec})


async def test_members_come_in_order_and_the_set_tells_of_each(tmp_path: Path) -> None:
    async with a_rig(tmp_path) as rig:
        await rig.kube.create(*SETS, "default", a_set(3))
        status = await rig.until(SETS, "web", is_complete(3, 1))
        revision = status["updateRevision"]
        assert status == {
            "replicas": 3,
            "readyReplicas": 3,
            "availableReplicas": 3,
            "currentReplicas": 3,
            "updatedReplicas": 3,
            "currentRevision": revision,
            "updateRevision": revision,
            "collisionCount": 0,
            "observedGeneration": 1,
        }
        pods = await rig.pods()
        assert [name_of(pod) for pod in pods] == ["web-0", "web-1", "web-2"]
        assert {revision_of(pod) for pod in pods} == {revision}
        expected = [
            ("SuccessfulCreate", f"Create Pod web-{n} in StatefulSet web successful")
            for n in range(3)
        ]
        assert await eventually(rig.told, lambda it: len(it) >= 3) == expected


async def test_order_is_kept_on_the_way_up_and_down(tmp_path: Path) -> None:
    async with a_rig(tmp_path) as rig:
        seen: list[str] = []
        before = (await rig.kube.list("v1", "pods", "default")).resource_version
        await rig.kube.create(*SETS, "default", a_set(3))
        await rig.until(SETS, "web", is_complete(3, 1))
        await change(rig, replicas=0)
        async for event in rig.kube.watch("v1", "pods", "default", resource_version=before):
            if event.type in (EventType.ADDED, EventType.DELETED):
                seen.append(f"{event.type.value} {name_of(event.object)}")
            if len(seen) == 6:
                break
        assert seen == [
            "ADDED web-0",
            "ADDED web-1",
            "ADDED web-2",
            "DELETED web-2",
            "DELETED web-1",
            "DELETED web-0",
        ]


async def test_a_member_that_does_not_come_up_holds_the_others_back(tmp_path: Path) -> None:
    async with a_rig(tmp_path) as rig:
        rig.kubelet.fate = lambda pod: "running" if name_of(pod) == "web-1" else "ready"
        await rig.kube.create(*SETS, "default", a_set(3))
        await rig.until(SETS, "web", lambda status: status.get("replicas") == 2)
        assert names(await rig.pods()) == {"web-0", "web-1"}
        rig.kubelet.fate = lambda _: "ready"
        rig.kubelet.review()
        await rig.until(SETS, "web", is_complete(3, 1))


async def test_in_parallel_nobody_waits(tmp_path: Path) -> None:
    async with a_rig(tmp_path) as rig:
        rig.kubelet.fate = lambda _: "running"
        body = a_set(4, podManagementPolicy="Parallel", ordinals={"start": 7})
        await rig.kube.create(*SETS, "default", body)
        pods = await rig.until_pods(lambda found: len(found) == 4)
        assert names(pods) == {"web-7", "web-8", "web-9", "web-10"}


async def test_an_update_stops_at_the_partition_and_goes_on(tmp_path: Path) -> None:
    async with a_rig(tmp_path) as rig:
        await rig.kube.create(*SETS, "default", a_set(3))
        await rig.until(SETS, "web", is_complete(3, 1))
        rolling: JsonObject = {"type": "RollingUpdate", "rollingUpdate": {"partition": 2}}
        await change(rig, updateStrategy=rolling, template=a_template("web:2"))
        await rig.until(SETS, "web", lambda it: it.get("updatedReplicas") == 1 and _all_ready(it))
        assert images(await rig.pods()) == {"web-0": "web:1", "web-1": "web:1", "web-2": "web:2"}
        await rig.kube.delete("v1", "pods", "default", "web-0")
        await rig.until_pods(lambda found: len(found) == 3)
        assert images(await rig.pods())["web-0"] == "web:1"
        await change(rig, updateStrategy={"rollingUpdate": {"partition": 0}})
        await rig.until(SETS, "web", is_complete(3, 3))
        assert set(images(await rig.pods()).values()) == {"web:2"}


def _all_ready(status: JsonObject) -> bool:
    return status.get("readyReplicas") == 3


async def test_a_rollback_takes_the_old_revision_up_again(tmp_path: Path) -> None:
    async with a_rig(tmp_path) as rig:
        await rig.kube.create(*SETS, "default", a_set(1))
        first = await rig.until(SETS, "web", is_complete(1, 1))
        await change(rig, template=a_template("web:2"))
        await rig.until(SETS, "web", is_complete(1, 2))
        await change(rig, template=a_template("web:1"))
        last = await rig.until(SETS, "web", is_complete(1, 3))
        assert last["currentRevision"] == first["currentRevision"]
        found = (await rig.kube.list(*REVISIONS, "default")).items
        assert {name_of(each): each["revision"] for each in found}[
            text(first["currentRevision"])
        ] == 3
        assert sorted(str(each["revision"]) for each in found) == ["2", "3"]


async def test_old_revisions_go_when_there_are_too_many(tmp_path: Path) -> None:
    async with a_rig(tmp_path) as rig:
        await rig.kube.create(*SETS, "default", a_set(1, revisionHistoryLimit=1))
        await rig.until(SETS, "web", is_complete(1, 1))
        for number in range(2, 5):
            await change(rig, template=a_template(f"web:{number}"))
            await rig.until(SETS, "web", is_complete(1, number))

        async def numbers() -> list[str]:
            found = (await rig.kube.list(*REVISIONS, "default")).items
            return sorted(str(each["revision"]) for each in found)

        await eventually(numbers, lambda found: found == ["3", "4"])


async def test_claims_are_made_kept_and_owned_as_the_set_says(tmp_path: Path) -> None:
    async with a_rig(tmp_path) as rig:
        body = with_claims(2, whenDeleted="Delete", whenScaled="Delete")
        await rig.kube.create(*SETS, "default", body)
        await rig.until(SETS, "web", is_complete(2, 1))

        async def owners() -> dict[str, list[str]]:
            found = (await rig.kube.list(*CLAIMS, "default")).items
            return {
                name_of(claim): [
                    text(row["kind"])
                    for row in rows(part(claim, "metadata").get("ownerReferences"))
                ]
                for claim in found
            }

        assert await eventually(owners, lambda found: len(found) == 2) == {
            "data-web-0": ["StatefulSet"],
            "data-web-1": ["StatefulSet"],
        }
        rig.kubelet.lets_go = False
        await change(rig, replicas=1)
        await eventually(owners, lambda found: found["data-web-1"] == ["Pod"])
        told = await eventually(rig.told, lambda found: len(found) >= 5)
        assert (
            "SuccessfulCreate",
            "Create Claim data-web-0 Pod web-0 in StatefulSet web success",
        ) in told


async def test_a_member_that_failed_comes_again(tmp_path: Path) -> None:
    async with a_rig(tmp_path) as rig:
        await rig.kube.create(*SETS, "default", a_set(2))
        await rig.until(SETS, "web", is_complete(2, 1))
        old = {name_of(pod): part(pod, "metadata")["uid"] for pod in await rig.pods()}
        rig.kubelet.fate = lambda pod: (
            "failed" if part(pod, "metadata")["uid"] == old["web-0"] else "ready"
        )
        rig.kubelet.review()
        await rig.until_pods(
            lambda found: (
                len(found) == 2
                and all(part(pod, "metadata")["uid"] != old["web-0"] for pod in found)
            )
        )
        await rig.until(SETS, "web", is_complete(2, 1))


async def test_a_lost_label_is_mended(tmp_path: Path) -> None:
    async with a_rig(tmp_path) as rig:
        await rig.kube.create(*SETS, "default", a_set(1))
        await rig.until(SETS, "web", is_complete(1, 1))
        label = "statefulset.kubernetes.io/pod-name"
        await rig.kube.patch(
            "v1", "pods", "default", "web-0", {"metadata": {"labels": {label: None}}}
        )
        await rig.until_pods(lambda found: all(labels_of(pod).get(label) for pod in found))


async def test_the_loop_goes_on_where_it_was_killed(tmp_path: Path) -> None:
    async with workloads(tmp_path) as rig:  # nobody looks after the set yet
        await rig.kube.create(*SETS, "default", with_claims(3))
    for replicas in (1, 2, 3):
        async with a_rig(tmp_path) as rig:
            await rig.until(SETS, "web", lambda it, n=replicas: it.get("replicas", 0) >= n)  # type: ignore[misc]
    async with a_rig(tmp_path) as rig:
        await change(rig, template=a_template("web:2"))
        await rig.until(SETS, "web", lambda it: it.get("updateRevision") != it["currentRevision"])
    async with a_rig(tmp_path) as rig:
        await rig.until(SETS, "web", is_complete(3, 2))
        assert set(images(await rig.pods())) == {"web-0", "web-1", "web-2"}
        assert len((await rig.kube.list(*CLAIMS, "default")).items) == 3
        assert len((await rig.kube.list(*REVISIONS, "default")).items) == 2
