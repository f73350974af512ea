"""DaemonSets on the running server, with a kubelet that runs nothing."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from pathlib import Path

from gateway.model.json import Json, JsonObject
from gateway.wire.kube.daemons import target_node
from gateway.wire.kube.parts import labels_of, part, rows, text
from tests.workload_rig import Workloads, eventually, name_of, names, workloads

SETS = "apps/v1", "daemonsets"
REVISIONS = "apps/v1", "controllerrevisions"
HASH = "controller-revision-hash"


def a_template(image: str = "agent:1", **spec: Json) -> JsonObject:
    return {
        "metadata": {"labels": {"app": "agent"}},
        "spec": {"containers": [{"name": "agent", "image": image}], **spec},
    }


def a_set(template: JsonObject | None = None, **spec: Json) -> JsonObject:
    return {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": "agent"},
        "spec": {
            "selector": {"matchLabels": {"app": "agent"}},
            "template": template or a_template(),
            **spec,
        },
    }


def a_rig(folder: Path) -> AbstractAsyncContextManager[Workloads]:
    return workloads(folder, "daemonset")


async def add_nodes(rig: Workloads, *which: str) -> None:
    for name in which:
        body: JsonObject = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}}
        await rig.kube.create("v1", "nodes", None, body)


async def taint(rig: Workloads, node: str, *effects: str) -> None:
    taints: list[Json] = [{"key": "closed", "effect": effect} for effect in effects]
    await rig.kube.patch("v1", "nodes", None, node, {"spec": {"taints": taints or None}})


async def change(rig: Workloads, **spec: Json) -> None:
    await rig.kube.patch(*SETS, "default", "agent", {"spec": spec})


async def until_done(rig: Workloads, nodes: int, generation: int = 1) -> JsonObject:
    """Wait until the newest template serves on so many nodes."""

    def is_done(status: JsonObject) -> bool:
        return status.get("observedGeneration") == generation and all(
            status.get(key, 0) == nodes
            for key in ("updatedNumberScheduled", "numberAvailable", "desiredNumberScheduled")
        )

    return await rig.until(SETS, "agent", is_done)


def places(pods: list[JsonObject]) -> list[str]:
    return sorted(target_node(pod) or "" for pod in pods)


def images(pods: list[JsonObject]) -> set[str]:
    return {text(rows(part(pod, "spec").get("containers"))[0]["image"]) for pod in pods}


async def test_each_node_has_its_pod_also_one_that_comes_later(tmp_path: Path) -> None:
    async with a_rig(tmp_path) as rig:
        await add_nodes(rig, "n1", "n2")
        await rig.kube.create(*SETS, "default", a_set())
        status = await until_done(rig, 2)
        assert status == {
            "currentNumberScheduled": 2,
            "desiredNumberScheduled": 2,
            "numberMisscheduled": 0,
            "numberReady": 2,
            "numberAvailable": 2,
            "updatedNumberScheduled": 2,
            "observedGeneration": 1,
        }
        pods = await rig.pods()
        assert places(pods) == ["n1", "n2"]
        (revision,) = (await rig.kube.list(*REVISIONS, "default")).items
        assert {labels_of(pod)[HASH] for pod in pods} == {labels_of(revision)[HASH]}
        await add_nodes(rig, "n3")
        await until_done(rig, 3)
        told = await eventually(rig.told, lambda found: len(found) == 3)
        assert {message for _, message in told} == {
            f"Created pod: {name}" for name in names(await rig.pods())
        }


async def test_a_taint_keeps_new_pods_away_and_one_that_executes_drives_them_off(
    tmp_path: Path,
) -> None:
    async with a_rig(tmp_path) as rig:
        await add_nodes(rig, "n1", "n2", "n3")
        await taint(rig, "n3", "NoSchedule")
        await rig.kube.create(*SETS, "default", a_set())
        await until_done(rig, 2)
        await taint(rig, "n2", "NoSchedule")
        await rig.until(SETS, "agent", lambda it: it.get("numberMisscheduled") == 1)
        assert places(await rig.pods()) == ["n1", "n2"]
        await taint(rig, "n2", "NoExecute")
        await rig.until_pods(lambda pods: places(pods) == ["n1"])
        await taint(rig, "n2")
        await taint(rig, "n3")
        await until_done(rig, 3)


async def test_a_pod_on_a_node_that_is_away_stays(tmp_path: Path) -> None:
    async with a_rig(tmp_path) as rig:
        await add_nodes(rig, "n1", "n2")
        await rig.kube.create(*SETS, "default", a_set())
        await until_done(rig, 2)
        before = names(await rig.pods())
        away: list[Json] = [
            {"key": "node.kubernetes.io/unreachable", "effect": effect}
            for effect in ("NoSchedule", "NoExecute")
        ]
        await rig.kube.patch("v1", "nodes", None, "n2", {"spec": {"taints": away}})
        await rig.until(SETS, "agent", lambda it: it.get("numberMisscheduled") == 1)
        await rig.kube.patch("v1", "nodes", None, "n2", {"spec": {"taints": None}})
        await until_done(rig, 2)
        assert names(await rig.pods()) == before


async def test_an_update_goes_on_one_node_at_a_time(tmp_path: Path) -> None:
    async with a_rig(tmp_path) as rig:
        await add_nodes(rig, "n1", "n2", "n3")
        await rig.kube.create(*SETS, "default", a_set())
        await until_done(rig, 3)
        rig.kubelet.fate = lambda pod: "running" if images([pod]) == {"agent:2"} else "ready"
        await change(rig, template=a_template("agent:2"))
        await rig.until(
            SETS,
            "agent",
            lambda it: it.get("updatedNumberScheduled") == 1 and it.get("numberAvailable") == 2,
        )
        pods = await rig.pods()
        assert sorted(str(images([pod])) for pod in pods).count("{'agent:2'}") == 1
        rig.kubelet.fate = lambda _: "ready"
        rig.kubelet.review()
        await until_done(rig, 3, generation=2)
        assert images(await rig.pods()) == {"agent:2"}


async def test_with_a_surge_the_new_pod_comes_before_the_old_one_goes(tmp_path: Path) -> None:
    async with a_rig(tmp_path) as rig:
        await add_nodes(rig, "n1", "n2")
        surge: JsonObject = {"maxSurge": 1, "maxUnavailable": 0}
        body = a_set(updateStrategy={"type": "RollingUpdate", "rollingUpdate": surge})
        await rig.kube.create(*SETS, "default", body)
        await until_done(rig, 2)
        rig.kubelet.fate = lambda pod: "running" if images([pod]) == {"agent:2"} else "ready"
        rig.kubelet.review()
        await change(rig, template=a_template("agent:2"))
        pods = await rig.until_pods(lambda found: len(found) == 3)
        assert images(pods) == {"agent:1", "agent:2"}
        status = part(await rig.kube.get(*SETS, "default", "agent"), "status")
        assert status["numberReady"] == 2
        rig.kubelet.fate = lambda _: "ready"
        rig.kubelet.review()
        await until_done(rig, 2, generation=2)
        await rig.until_pods(lambda found: len(found) == 2)


async def test_on_delete_only_what_is_deleted_is_renewed(tmp_path: Path) -> None:
    async with a_rig(tmp_path) as rig:
        await add_nodes(rig, "n1", "n2")
        await rig.kube.create(*SETS, "default", a_set(updateStrategy={"type": "OnDelete"}))
        await until_done(rig, 2)
        await change(rig, template=a_template("agent:2"))
        await rig.until(SETS, "agent", lambda it: it.get("observedGeneration") == 2)
        one = next(pod for pod in await rig.pods() if target_node(pod) == "n2")
        assert images(await rig.pods()) == {"agent:1"}
        await rig.kube.delete("v1", "pods", "default", name_of(one))
        await rig.until(SETS, "agent", lambda it: it.get("updatedNumberScheduled") == 1)


async def test_a_failed_pod_is_replaced_and_the_set_says_so(tmp_path: Path) -> None:
    async with a_rig(tmp_path) as rig:
        await add_nodes(rig, "n1")
        await rig.kube.create(*SETS, "default", a_set())
        await until_done(rig, 1)
        (old,) = await rig.pods()
        rig.kubelet.fate = lambda pod: "failed" if name_of(pod) == name_of(old) else "ready"
        rig.kubelet.review()
        await rig.until_pods(lambda found: len(found) == 1 and name_of(found[0]) != name_of(old))
        message = f"Found failed daemon pod default/{name_of(old)} on node n1, will try to kill it"
        await eventually(rig.told, lambda found: ("FailedDaemonPod", message) in found)


async def test_a_rollback_takes_the_old_revision_up_again_and_history_is_kept_short(
    tmp_path: Path,
) -> None:
    async with a_rig(tmp_path) as rig:
        await add_nodes(rig, "n1")
        await rig.kube.create(*SETS, "default", a_set(revisionHistoryLimit=1))
        await until_done(rig, 1)
        for generation, image in ((2, "agent:2"), (3, "agent:3"), (4, "agent:2")):
            await change(rig, template=a_template(image))
            await until_done(rig, 1, generation)

        async def numbers() -> dict[str, object]:
            found = (await rig.kube.list(*REVISIONS, "default")).items
            return {
                text(
                    rows(part(each, "data", "spec", "template", "spec")["containers"])[0]["image"]
                ): each["revision"]
                for each in found
            }

        await eventually(numbers, lambda found: found == {"agent:2": 4, "agent:3": 3})


async def test_doubles_of_a_revision_become_one(tmp_path: Path) -> None:
    async with a_rig(tmp_path) as rig:
        await add_nodes(rig, "n1")
        await rig.kube.create(*SETS, "default", a_set())
        await until_done(rig, 1)
        (revision,) = (await rig.kube.list(*REVISIONS, "default")).items
        meta = part(revision, "metadata")
        double: JsonObject = {
            **revision,
            "revision": 5,
            "metadata": {
                "name": "agent-double",
                "labels": {**part(meta, "labels"), HASH: "double"},
                "ownerReferences": meta["ownerReferences"],
            },
        }
        await rig.kube.create(*REVISIONS, "default", double)

        async def left() -> set[str]:
            return names((await rig.kube.list(*REVISIONS, "default")).items)

        await eventually(left, lambda found: found == {"agent-double"})
        await rig.until_pods(lambda found: [labels_of(pod)[HASH] for pod in found] == ["double"])


async def test_the_loop_goes_on_where_it_was_killed(tmp_path: Path) -> None:
    async with workloads(tmp_path) as rig:  # nobody looks after the set yet
        await add_nodes(rig, *(f"n{number}" for number in range(8)))
        await rig.kube.create(*SETS, "default", a_set())
    async with a_rig(tmp_path) as rig:
        await rig.until_pods(bool)
    async with a_rig(tmp_path) as rig:
        await until_done(rig, 8)
        await change(rig, template=a_template("agent:2"))
        await rig.until(
            SETS, "agent", lambda it: it.get("updatedNumberScheduled", 0) in range(1, 8)
        )
    async with a_rig(tmp_path) as rig:
        await until_done(rig, 8, generation=2)
        assert places(await rig.pods()) == [f"n{number}" for number in range(8)]
