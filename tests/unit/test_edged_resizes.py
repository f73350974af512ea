"""Resizes in place: what runs gets what its Pod asks for now, or its status says why not."""

from __future__ import annotations

from typing import Any

from edge.pods.admission import allotted
from edge.pods.containerstatuses import HeldBack
from edge.pods.podspec import read_pod
from edge.pods.ports import Observed, Running
from edge.pods.preemption import takes
from edge.pods.resizes import ASKED, made_with
from edge.pods.runtime import ContainerState, RuntimeFault, State
from gateway.model.json import JsonObject
from tests.pod_rig import PodRig, a_container, a_pod, on_a_rig

BEFORE: JsonObject = {"requests": {"cpu": "100m"}, "limits": {"cpu": "250m"}}
AFTER: JsonObject = {"requests": {"cpu": "200m"}, "limits": {"cpu": "500m"}}


def sized(resources: JsonObject, **fields: Any) -> JsonObject:
    return a_pod(containers=[a_container(resources=resources, **fields)])


def shown(rig: PodRig) -> Any:
    rows: Any = rig.rooms.statuses["u1"]["containerStatuses"]
    return rows[0]["resources"]


def updates(rig: PodRig) -> int:
    return sum(call.startswith("update_resources") for call in rig.runtime.calls)


def pending(rig: PodRig) -> Any:
    rows: Any = rig.rooms.statuses["u1"]["conditions"]
    return next((row for row in rows if row["type"] == "PodResizePending"), None)


def test_a_container_that_runs_is_given_what_is_asked_now() -> None:
    async def work(rig: PodRig) -> None:
        async with rig.process():
            rig.apply(sized(BEFORE))
            await rig.until(lambda: rig.phase() == "Running")
            assert shown(rig) == BEFORE
            assert updates(rig) == 0
            rig.apply(sized(AFTER))
            await rig.until(lambda: shown(rig) == AFTER)
            assert updates(rig) == 1
            told = '{"containers":[{"name":"c","resources":'
            assert rig.rooms.told("ResizeStarted")[0].startswith(f"Pod resize started: {told}")
            assert rig.rooms.told("ResizeCompleted")[0].startswith(f"Pod resize completed: {told}")
            assert rig.state()["running"]
        async with rig.process():
            await rig.until(lambda: updates(rig) == 2)  # once more after a restart: no harm
            await rig.until(lambda: shown(rig) == AFTER)

    on_a_rig(work)


def test_a_resize_without_room_waits_and_the_status_shows_what_there_is() -> None:
    async def work(rig: PodRig) -> None:
        async with rig.process():
            rig.apply(sized(BEFORE))
            await rig.until(lambda: rig.phase() == "Running")
            said = "Node didn't have enough resource: cpu, requested: 200, used: 9, capacity: 9"
            rig.rooms.no_room = HeldBack("Deferred", said)
            rig.apply(sized(AFTER))
            await rig.until(lambda: pending(rig))
            assert (pending(rig)["status"], pending(rig)["reason"]) == ("True", "Deferred")
            assert shown(rig) == BEFORE
            assert updates(rig) == 0
            assert rig.rooms.statuses["u1"]["allocatedResources"] == {"cpu": "100m"}
            (told,) = rig.rooms.told("ResizeDeferred")
            assert told.startswith('Pod resize OutOfcpu: {"containers":[{"name":"c"')
            assert told.endswith(f'"error":"{said}"}}')
            rig.rooms.no_room = None
            await rig.until(lambda: shown(rig) == AFTER)
            await rig.until(lambda: pending(rig) is None)

    on_a_rig(work)


def test_a_resize_that_asks_for_a_restart_runs_the_container_anew() -> None:
    policy = [{"resourceName": "cpu", "restartPolicy": "RestartContainer"}]

    async def work(rig: PodRig) -> None:
        async with rig.process():
            rig.apply(sized(BEFORE, resizePolicy=policy))
            await rig.until(lambda: rig.phase() == "Running")
            rig.apply(sized(AFTER, resizePolicy=policy))
            await rig.until(lambda: rig.rooms.told("Killing"))
            assert rig.rooms.told("Killing") == ["Container c resize requires restart"]
            await rig.until(lambda: shown(rig) == AFTER and "running" in rig.state())
            assert updates(rig) == 0

    on_a_rig(work)


def test_what_the_runtime_refuses_is_told_once() -> None:
    async def work(rig: PodRig) -> None:
        async with rig.process():
            rig.apply(sized(BEFORE))
            await rig.until(lambda: rig.phase() == "Running")
            rig.runtime.faults["update_resources"] = [RuntimeFault("no such cgroup")]
            rig.apply(sized(AFTER))
            await rig.until(lambda: rig.rooms.told("ResizeError"))
            (told,) = rig.rooms.told("ResizeError")
            assert told.endswith('"error":"no such cgroup"}')
            assert shown(rig) == BEFORE

    on_a_rig(work)


def test_a_container_of_before_says_nothing_of_its_size() -> None:
    def state(note: str) -> ContainerState:
        notes = {ASKED: note}
        box = {"id": "c", "sandbox_id": "s", "name": "c", "attempt": 0, "created_at": 0}
        return ContainerState(**box, state=State.RUNNING, annotations=notes)  # type: ignore[arg-type]

    assert made_with(state("")) is None
    assert made_with(state("[]")) is None
    assert made_with(state('{"limits":{}}')) == {"limits": {}}


def test_what_waits_to_be_resized_counts_by_what_it_has() -> None:
    pod = read_pod(sized(AFTER))
    given: JsonObject = {"name": "c", "allocatedResources": {"cpu": "100m"}}
    status: JsonObject = {"containerStatuses": [given], "conditions": []}
    observed = Observed("u1")
    assert allotted(Running(pod, status, observed)) is pod
    status["conditions"] = [{"type": "PodResizePending", "status": "True"}]
    assert takes(allotted(Running(pod, status, observed)))["cpu"] == 100
