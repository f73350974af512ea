"""The scheduler on a running API: Pods get nodes, wait for what they miss, and say why."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from gateway.errors import Undeliverable
from gateway.kube.client import KubeClient
from gateway.kube.local import LocalClient
from gateway.model.json import JsonObject
from tests.cloud_rig import eventually
from tests.kube_server import kube_server
from tests.scheduling_samples import a_node, a_pod

PODS = ("v1", "pods", "default")


@asynccontextmanager
async def scheduling(folder: Path) -> AsyncIterator[KubeClient]:
    async with kube_server(folder, controllers=("scheduler",)) as server:
        yield server.api.client("tester")


def named(name: str, **more: Any) -> JsonObject:
    pod: Any = a_pod(name, **more)
    del pod["metadata"]["uid"]
    return {**pod}


async def places(kube: KubeClient) -> dict[str, str]:
    items: list[Any] = (await kube.list(*PODS)).items
    return {pod["metadata"]["name"]: pod["spec"].get("nodeName", "") for pod in items}


async def placed(kube: KubeClient, name: str) -> str:
    async def there() -> str:
        return (await places(kube)).get(name, "")

    return await eventually(there)


async def why(kube: KubeClient, name: str, is_so: Callable[[Any], bool] = bool) -> Any:
    """The condition that says why a Pod has no node."""

    async def told() -> Any:
        pod: Any = await kube.get(*PODS, name)
        found = [c for c in pod["status"].get("conditions", []) if c["type"] == "PodScheduled"]
        return found[0] if found and is_so(found[0]) else None

    return await eventually(told)


async def events(kube: KubeClient, name: str) -> set[tuple[str, str, str]]:
    items: list[Any] = (await kube.list("v1", "events", "default")).items
    return {
        (event["type"], event["reason"], event["message"])
        for event in items
        if event["involvedObject"]["name"] == name
    }


async def test_a_pod_gets_a_node_and_both_say_so(tmp_path: Path) -> None:
    async with scheduling(tmp_path) as kube:
        await kube.create("v1", "nodes", None, a_node("n"))
        await kube.create(*PODS, named("a"))
        assert await placed(kube, "a") == "n"
        assert (await why(kube, "a"))["status"] == "True"

        async def told() -> bool:
            return ("Normal", "Scheduled", "Successfully assigned default/a to n") in await events(
                kube, "a"
            )

        await eventually(told)


async def test_a_pod_that_nothing_fits_says_why_and_goes_when_a_node_does(tmp_path: Path) -> None:
    async with scheduling(tmp_path) as kube:
        await kube.create(*PODS, named("a", requests={"cpu": "3"}))
        assert (await why(kube, "a"))["message"] == "no nodes available to schedule pods"
        await kube.create("v1", "nodes", None, a_node("small"))
        text = (
            "0/1 nodes are available: 1 Insufficient cpu."
            " preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling."
        )
        found = await why(kube, "a", lambda row: row["message"] == text)
        assert (found["status"], found["reason"]) == ("False", "Unschedulable")

        async def told() -> bool:
            return ("Warning", "FailedScheduling", text) in await events(kube, "a")

        await eventually(told)
        await kube.create("v1", "nodes", None, a_node("large", cpu="4"))
        assert await placed(kube, "a") == "large"


@pytest.mark.parametrize(
    "change",
    [
        {"spec": {"unschedulable": None}},
        {"spec": {"taints": None}},
        {"metadata": {"labels": {"disk": "ssd"}}},
    ],
)
async def test_a_node_that_changes_takes_who_waited_for_it(
    tmp_path: Path, change: JsonObject
) -> None:
    async with scheduling(tmp_path) as kube:
        node: Any = a_node("n", labels={"disk": "ssd"})
        if "metadata" in change:
            node["metadata"]["labels"]["disk"] = "slow"
        elif "taints" in change["spec"]:  # type: ignore[operator]
            node["spec"]["taints"] = [{"key": "a", "effect": "NoSchedule"}]
        else:
            node["spec"]["unschedulable"] = True
        await kube.create("v1", "nodes", None, node)
        await kube.create(*PODS, named("a", nodeSelector={"disk": "ssd"}))
        await why(kube, "a")
        await kube.patch("v1", "nodes", None, "n", change)
        assert await placed(kube, "a") == "n"


async def test_a_pod_that_goes_makes_room_for_the_next(tmp_path: Path) -> None:
    async with scheduling(tmp_path) as kube:
        await kube.create("v1", "nodes", None, a_node("n"))
        await kube.create(*PODS, named("a", requests={"cpu": "2"}))
        assert await placed(kube, "a") == "n"
        await kube.create(*PODS, named("b", requests={"cpu": "2"}))
        await why(kube, "b")
        done: JsonObject = {"status": {"phase": "Succeeded"}}
        await kube.patch(*PODS, "a", done, subresource="status")
        assert await placed(kube, "b") == "n"
        await kube.create(*PODS, named("c", requests={"cpu": "2"}))
        await why(kube, "c")
        await kube.delete(*PODS, "b", grace_seconds=0)
        assert await placed(kube, "c") == "n"


async def test_pods_of_other_schedulers_and_behind_gates_are_left_alone(tmp_path: Path) -> None:
    async with scheduling(tmp_path) as kube:
        await kube.create("v1", "nodes", None, a_node("n"))
        await kube.create(*PODS, named("other", schedulerName="mine"))
        await kube.create(*PODS, named("gated", schedulingGates=[{"name": "example.com/wait"}]))
        await kube.create(*PODS, named("plain"))
        assert await placed(kube, "plain") == "n"
        assert await places(kube) == {"other": "", "gated": "", "plain": "n"}
        open_gates: JsonObject = {"spec": {"schedulingGates": None}}
        await kube.patch(*PODS, "gated", open_gates)
        assert await placed(kube, "gated") == "n"


async def test_who_matters_more_gets_room_from_who_matters_less(tmp_path: Path) -> None:
    async with scheduling(tmp_path) as kube:
        await kube.create("v1", "nodes", None, a_node("n"))
        priority: JsonObject = {"metadata": {"name": "high"}, "value": 1_000}
        await kube.create("scheduling.k8s.io/v1", "priorityclasses", None, priority)
        await kube.create(*PODS, named("low", requests={"cpu": "2"}))
        assert await placed(kube, "low") == "n"
        high = named("high", requests={"cpu": "2"}, priority=1_000, priorityClassName="high")
        await kube.create(*PODS, high)

        async def ends() -> Any:
            low: Any = await kube.get(*PODS, "low")
            return low if low["metadata"].get("deletionTimestamp") else None

        low = await eventually(ends)
        reasons = {c["type"]: c.get("reason") for c in low["status"]["conditions"]}
        assert reasons["DisruptionTarget"] == "PreemptionByScheduler"

        async def nominated() -> bool:
            pod: Any = await kube.get(*PODS, "high")
            return bool(pod["status"].get("nominatedNodeName") == "n")

        await eventually(nominated)
        await kube.create(*PODS, named("late", requests={"cpu": "1"}))
        await why(kube, "late")
        await kube.delete(*PODS, "low", grace_seconds=0)
        assert await placed(kube, "high") == "n"
        assert (await places(kube))["late"] == ""


async def test_a_restart_goes_on_where_it_was_and_never_overcommits(tmp_path: Path) -> None:
    async with scheduling(tmp_path) as kube:
        for at in range(3):
            await kube.create("v1", "nodes", None, a_node(f"n{at}", pods="4"))
        for at in range(9):
            await kube.create(*PODS, named(f"p{at}"))
    async with scheduling(tmp_path) as kube:
        for at in range(9, 15):
            await kube.create(*PODS, named(f"p{at}"))

        async def full() -> Counter[str] | None:
            found = Counter((await places(kube)).values())
            return found if found[""] == 3 else None

        found = await eventually(full)
        assert found == Counter({"n0": 4, "n1": 4, "n2": 4, "": 3})


async def test_a_binding_that_fails_gives_its_place_back_and_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, failures = LocalClient.create, ["once", "twice"]

    async def create(self: LocalClient, *args: Any, **more: Any) -> JsonObject:
        if more.get("subresource") == "binding" and failures:
            raise Undeliverable(failures.pop())
        return await original(self, *args, **more)

    monkeypatch.setattr(LocalClient, "create", create)
    monkeypatch.setattr("gateway.wire.kube.scheduling.queue.FIRST_BACKOFF", 0.01)
    async with scheduling(tmp_path) as kube:
        await kube.create("v1", "nodes", None, a_node("n", pods="1"))
        await kube.create(*PODS, named("a"))
        assert await placed(kube, "a") == "n"
        assert not failures

        async def told() -> bool:
            text = "binding rejected: twice"
            return ("Warning", "FailedScheduling", text) in await events(kube, "a")

        await eventually(told)


async def test_a_namesake_that_comes_while_a_binding_fails_gets_its_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, first = LocalClient.create, ["a"]

    async def create(self: LocalClient, *args: Any, **more: Any) -> JsonObject:
        if more.get("subresource") == "binding" and first:
            first.pop()
            await self.delete(*PODS, "a", grace_seconds=0)
            await original(self, *PODS, named("a", labels={"is": "new"}))
        return await original(self, *args, **more)

    monkeypatch.setattr(LocalClient, "create", create)
    async with scheduling(tmp_path) as kube:
        await kube.create("v1", "nodes", None, a_node("n", pods="1"))
        await kube.create(*PODS, named("a"))
        assert await placed(kube, "a") == "n"
        pod: Any = await kube.get(*PODS, "a")
        assert pod["metadata"]["labels"] == {"is": "new"}
