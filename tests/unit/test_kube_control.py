"""What all control loops stand on: mirrors that know of own writes, loops with appointments."""

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from gateway.errors import Conflict, InvalidSetting
from gateway.kube.client import EventType, KubeClient, ObjectList, WatchEvent
from gateway.kube.control import manager
from gateway.kube.control.loop import Loop
from gateway.kube.control.mirrors import Mirrors, controller_uid
from gateway.kube.events import BURST, EventRecorder
from gateway.model.json import JsonObject


def pod(name: str, version: int, owner: str = "") -> JsonObject:
    metadata: JsonObject = {"namespace": "n", "name": name, "uid": f"u-{name}"}
    metadata["resourceVersion"] = str(version)
    metadata["managedFields"] = [{"manager": "somebody"}]
    if owner:
        metadata["ownerReferences"] = [{"uid": owner, "controller": True}]
    return {"metadata": metadata}


class OnePage:
    """A collection of a page, and a watch that says what it is told."""

    def __init__(self, *items: JsonObject) -> None:
        self._items = list(items)
        self.events: asyncio.Queue[WatchEvent] = asyncio.Queue()

    async def list(self, *_at: object, **_how: object) -> ObjectList:
        return ObjectList(self._items, "10")

    async def watch(self, *_at: object, **_how: object) -> AsyncIterator[WatchEvent]:
        while True:
            yield await self.events.get()


async def test_a_mirror_finds_by_its_index_and_leaves_out_managed_fields() -> None:
    mirrors = Mirrors(cast(KubeClient, OnePage(pod("a", 1, "rs"), pod("b", 2))))
    pods = mirrors.of("v1", "pods")
    owned = pods.index("controller", controller_uid)
    ready = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        task = group.create_task(mirrors.run(ready.set))
        await ready.wait()
        assert [item["metadata"]["name"] for item in cast(Any, owned.get("rs"))] == ["a"]
        assert "managedFields" not in cast(Any, pods.get("n", "a"))["metadata"]
        assert mirrors.of("v1", "pods") is pods
        task.cancel()


async def test_what_a_write_returned_is_known_at_once_and_old_news_is_not() -> None:
    source = OnePage(pod("a", 1))
    mirrors = Mirrors(cast(KubeClient, source))
    pods = mirrors.of("v1", "pods")
    ready, seen = asyncio.Event(), asyncio.Event()
    async with asyncio.TaskGroup() as group:
        task = group.create_task(mirrors.run(ready.set))
        await ready.wait()
        pods.put(pod("new", 11, "rs"))
        assert len(pods.index("controller", controller_uid).get("rs")) == 1
        pods.doom(pod("a", 1))
        assert pods.is_doomed(cast(JsonObject, pods.get("n", "a")))
        pods.on_change(lambda _change: seen.set())
        source.events.put_nowait(WatchEvent(EventType.DELETED, pod("a", 12), "12"))
        await seen.wait()
        pods.put(pod("a", 9))
        assert pods.get("n", "a") is None
        task.cancel()


async def test_a_loop_looks_again_when_the_work_failed_and_at_its_appointment() -> None:
    done: list[str] = []

    async def work(key: str) -> None:
        done.append(key)
        if done.count("x") == 1 and key == "x":
            raise Conflict("moved")

    loop: Loop[str] = Loop(work)
    loop.poke("x")
    async with asyncio.TaskGroup() as group:
        task = group.create_task(loop.run())
        await asyncio.sleep(0)
        loop.poke_after("later", 0.01)
        loop.poke_after("later", 500.0)
        async with asyncio.timeout(10):
            while done.count("x") < 2 or "later" not in done:  # noqa: ASYNC110  no event of its own
                await asyncio.sleep(0.005)
        task.cancel()
    assert done.count("later") == 1


async def test_an_event_that_happens_again_is_counted_and_a_burst_is_cut() -> None:
    created: list[JsonObject] = []
    patched: list[JsonObject] = []

    async def create(*at: Any) -> JsonObject:
        created.append(at[3])
        return cast(JsonObject, at[3])

    async def patch(*at: Any) -> JsonObject:
        patched.append(at[4])
        return {}

    clock = [1_000.0]
    kube = cast(KubeClient, SimpleNamespace(create=create, patch=patch))
    events = EventRecorder(kube, "some-controller", now=lambda: clock[0])
    about: JsonObject = {"apiVersion": "v1", "kind": "Pod", **pod("a", 1)}
    for _ in range(BURST + 5):
        events.record(about, "Killing", "stopping")
    async with asyncio.TaskGroup() as group:
        task = group.create_task(events.run())
        async with asyncio.timeout(10):
            while len(patched) < BURST - 1:  # noqa: ASYNC110  no event of its own
                await asyncio.sleep(0)
        task.cancel()
    assert len(created) == 1
    assert patched[-1]["count"] == BURST
    involved = cast(JsonObject, created[0]["involvedObject"])
    assert (involved["kind"], involved["uid"]) == ("Pod", "u-a")


async def test_events_that_differ_in_their_text_share_one_from_the_tenth_on() -> None:
    created: list[JsonObject] = []
    patched: list[JsonObject] = []

    async def create(*at: Any) -> JsonObject:
        created.append(at[3])
        return cast(JsonObject, at[3])

    async def patch(*at: Any) -> JsonObject:
        patched.append(at[4])
        return {}

    clock = [1_000.0]
    kube = cast(KubeClient, SimpleNamespace(create=create, patch=patch))
    events = EventRecorder(kube, "some-controller", now=lambda: clock[0])
    about: JsonObject = {"apiVersion": "v1", "kind": "Pod", **pod("a", 1)}
    for number in range(12):
        events.record(about, "Created", f"made {number}")
    clock[0] += 3_600.0
    events.record(about, "Created", "made 12")
    async with asyncio.TaskGroup() as group:
        task = group.create_task(events.run())
        async with asyncio.timeout(10):
            while len(created) < 11:  # noqa: ASYNC110  no event of its own
                await asyncio.sleep(0)
        task.cancel()
    assert [event["message"] for event in created[:9]] == [f"made {n}" for n in range(9)]
    assert created[9]["message"] == "(combined from similar events): made 9"
    assert [(event["count"], event["message"]) for event in patched] == [
        (2, "(combined from similar events): made 10"),
        (3, "(combined from similar events): made 11"),
    ]
    assert created[10]["message"] == "made 12"


def test_controllers_are_chosen_as_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(_context: object) -> Any:
        raise AssertionError

    monkeypatch.setattr(manager, "CONTROLLERS", {"deployment": nobody, "job": nobody})
    assert manager.chosen(("*",)) == ("deployment", "job")
    assert manager.chosen(("*", "-job")) == ("deployment",)
    assert manager.chosen(("job",)) == ("job",)
    with pytest.raises(InvalidSetting, match="no controller is called 'jobs'"):
        manager.chosen(("jobs",))
