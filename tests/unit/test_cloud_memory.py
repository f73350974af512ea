"""What CloudCore remembers between two looks, and what it must not take for something else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from cloud.bases import Bases
from cloud.devicethings import DeviceThings, Twinned
from cloud.mapping import Layout
from cloud.nodes import NodeWatch
from cloud.removals import Removals
from cloud.reports import Reports
from cloud.statuses import belongs_to
from cloud.syncbook import NEVER, Held, SyncBook
from gateway.config.cloud import CloudHub as HubSettings
from gateway.errors import NotFound, StoreUnavailable
from gateway.model.json import JsonObject
from gateway.model.thing import Action, Thing, ThingCommand, ThingResult
from gateway.observe.metrics import Metrics
from gateway.store.database import Database
from gateway.wire.cloudedge.devices import DeviceView
from gateway.wire.cloudedge.subjects import DeviceKey
from tests.cloud_samples import a_device

KEY = DeviceKey("default", "lamp")
THING = "default:lamp"


def a_view(uid: str) -> DeviceView:
    document = a_device()
    document["metadata"]["uid"] = uid  # type: ignore[index, call-overload]
    return DeviceView.read(document)


# --- things of Devices -----------------------------------------------------------------------------


class Things:
    """A things service; `during` runs while a command is under way."""

    def __init__(self) -> None:
        self.revision = 5
        self.exists = True
        self.deleted: list[str] = []
        self.during: Callable[[], None] = lambda: None
        self.failures: list[Exception] = []

    async def execute(self, command: ThingCommand) -> ThingResult:
        if self.failures:
            raise self.failures.pop(0)
        if command.action is Action.DELETE:
            self.deleted.append(command.thing_id)
            return ThingResult(status=204)
        exists, revision = self.exists, self.revision
        self.during()
        await asyncio.sleep(0)
        if not exists:
            raise NotFound
        return ThingResult(status=200, value={"revision": revision}, revision=revision)


@pytest.fixture
def things() -> Things:
    return Things()


@pytest.fixture
def own(things: Things) -> DeviceThings:
    return DeviceThings(cast("Any", things), cast("Any", None), ())


@pytest.mark.parametrize("exists", [True, False])
async def test_what_an_event_tells_while_a_thing_is_read_is_not_undone(
    things: Things, own: DeviceThings, exists: bool
) -> None:
    twin = Twinned(THING)
    newer = Thing(THING, 6, {"revision": 6}, "", "")
    things.exists = exists

    def event() -> None:
        twin.thing = newer

    things.during = event
    await own.load(twin)
    assert twin.thing is newer
    assert twin.is_loaded


async def test_a_thing_that_nobody_told_of_is_as_it_is_read(
    things: Things, own: DeviceThings
) -> None:
    twin = Twinned(THING, Thing(THING, 4, {}, "", ""))
    await own.load(twin)
    assert twin.thing is not None
    assert twin.thing.revision == 5
    things.exists = False
    await own.load(twin)
    assert twin.thing is None


# --- Devices that are gone ---------------------------------------------------------------------------


@pytest.fixture
async def bases() -> AsyncIterator[Bases]:
    database = Database(None, "gateway")
    async with database.running():
        yield Bases(database)


class Catalog:
    def __init__(self, view: DeviceView | None = None) -> None:
        self.view = view

    @property
    def device_keys(self) -> list[DeviceKey]:
        return [KEY] if self.view else []

    def device(self, _: DeviceKey) -> DeviceView | None:
        return self.view


def removals(own: DeviceThings, bases: Bases, catalog: Catalog) -> Removals:
    def find(thing_id: str) -> DeviceKey | None:
        return KEY if thing_id == THING else None

    return Removals(own, bases, cast("Any", catalog), find, lambda: None)


async def test_a_removal_that_failed_is_tried_again(
    things: Things, own: DeviceThings, bases: Bases
) -> None:
    await bases.bind("first", THING, made=True, keep=False)
    leaving = removals(own, bases, Catalog())
    leaving.note(KEY, "first")
    things.failures = [StoreUnavailable()]
    with pytest.raises(StoreUnavailable):
        await leaving.settle(KEY)
    await leaving.settle(KEY)
    await leaving.settle(KEY)
    assert things.deleted == [THING]
    assert bases.uids == []


async def test_a_thing_that_a_new_device_has_taken_over_is_the_new_one_s(
    things: Things, own: DeviceThings, bases: Bases
) -> None:
    await bases.bind("first", THING, made=True, keep=False)
    await bases.bind("second", THING, made=False, keep=False)
    await removals(own, bases, Catalog(a_view("second"))).sweep()
    assert things.deleted == []
    assert bases.uids == ["second"]
    assert bases.of("second").made


async def test_the_thing_of_a_predecessor_goes_before_a_new_device_takes_it_over(
    things: Things, own: DeviceThings, bases: Bases
) -> None:
    await bases.bind("first", THING, made=True, keep=False)
    await removals(own, bases, Catalog(a_view("second"))).sweep()
    assert things.deleted == [THING]


# --- reports -----------------------------------------------------------------------------------------


class Kube:
    """Takes writes; fails as told."""

    def __init__(self) -> None:
        self.failures: list[Exception] = []
        self.written: list[JsonObject] = []

    async def patch(self, *_: object, **__: object) -> JsonObject:
        if self.failures:
            raise self.failures.pop(0)
        patch = cast("JsonObject", _[4])
        self.written.append(patch)
        return patch


A_STATUS: JsonObject = {"metadata": {"resourceVersion": "7"}, "status": {}}


async def test_a_state_that_could_not_be_written_is_written_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("cloud.reports.RETRIES", (0.0, 0.0))
    kube = Kube()
    told: list[str] = []

    async def write_reported(_key: DeviceKey, patch: JsonObject, _trace: object) -> None:
        if len(told) < 2:
            told.append("failed")
            raise StoreUnavailable
        told.append(str(patch))

    view = a_view("u")
    reports = Reports(
        kube=cast("Any", kube),
        catalog=cast(
            "Any", SimpleNamespace(on_device=lambda _: None, status_object=lambda _: A_STATUS)
        ),
        controller=cast("Any", SimpleNamespace(write_reported=write_reported)),
        events=cast("Any", None),
        metrics=Metrics(),
        tracer=cast("Any", None),
    )
    kube.failures = [StoreUnavailable()]
    with pytest.raises(StoreUnavailable):
        await reports._write_state(view, {"state": "online"}, None, None)
    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            await reports._write_state(view, {"state": "online"}, None, None)
    await reports._write_state(view, {"state": "online"}, None, None)
    await reports._write_state(view, {"state": "online"}, None, None)
    assert kube.written[-1]["status"] == {"twins": [], "state": "online"}
    assert len(kube.written) == 1
    assert told[2:] == ["{'attributes': {'kubeedge': {'state': 'online'}}}"]


async def test_what_was_just_reported_is_not_written_again_to_catch_up() -> None:
    """A report was under way when its DeviceStatus was seen: the thing counts as it is afterwards."""
    written: list[JsonObject] = []

    async def write_reported(_key: DeviceKey, patch: JsonObject, _trace: object) -> None:
        written.append(patch)

    def a_thing(revision: int, *, on: bool) -> Thing:
        features: JsonObject = {"on": {"properties": {"value": on}}}
        return Thing(THING, revision, {"features": features}, "", "")

    view, seen = a_view("u"), {"thing": a_thing(1, on=True)}
    reported: JsonObject = {"value": "false", "metadata": {"type": "boolean", "timestamp": "1"}}
    status: JsonObject = {
        **A_STATUS,
        "status": {"twins": [{"propertyName": "on", "reported": reported}]},
    }
    catalog = SimpleNamespace(
        on_device=lambda _: None,
        device=lambda _: view,
        layout=lambda _: Layout({}, {}),
        status_object=lambda _: status,
    )
    controller = SimpleNamespace(thing_of=lambda _: seen["thing"], write_reported=write_reported)
    reports = Reports(
        kube=cast("Any", Kube()),
        catalog=cast("Any", catalog),
        controller=cast("Any", controller),
        events=cast("Any", None),
        metrics=Metrics(),
        tracer=cast("Any", None),
        things_may_lag=True,
    )
    async with reports._known_of(view).telling:
        behind = asyncio.create_task(reports.catch_up(view.key))
        await asyncio.sleep(0)
        seen["thing"] = a_thing(2, on=False)
    await behind
    assert written == []
    reports.resynced()
    seen["thing"] = a_thing(3, on=True)
    await reports.catch_up(view.key)
    assert written == [{"features": {"on": {"properties": {"value": False}}}}]


def test_the_status_of_a_namesake_does_not_count() -> None:
    owner: JsonObject = {"kind": "Device", "uid": "first"}
    status: JsonObject = {"metadata": {"ownerReferences": [owner]}}
    assert belongs_to(status, "first")
    assert not belongs_to(status, "second")
    assert belongs_to({}, "second")


# --- nodes -------------------------------------------------------------------------------------------


def test_what_a_new_store_may_lack_counts_as_promised_alone() -> None:
    book = SyncBook(cast("Any", None))
    book.promise("n", Held("u", "v", "Device", "default", "lamp"))
    book.acknowledge("n", "u", "7")
    book.doubt("n")
    book.doubt("other")
    assert book.held("n")["u"].version == NEVER


async def test_a_revocation_that_could_not_be_kept_is_kept_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("cloud.nodes.RETRY_SECONDS", 0.0)
    done: list[str] = []
    failures = [StoreUnavailable(), StoreUnavailable()]

    class Book:
        registered = frozenset({"n"})

        async def load(self, _: float) -> None: ...

        async def revoke(self, node: str, _: float, **__: object) -> None:
            if failures:
                raise failures.pop(0)
            done.append(f"revoked {node}")

        async def unregister(self, _: str) -> None: ...

        def uid(self, _: str) -> str:
            return ""

        def is_known(self, _: str) -> bool:
            return False

    class Quiet:
        nodes = ()

        def __getattr__(self, name: str) -> Callable[..., None]:
            return lambda *_, **__: end() if name == "end" else None

    ended = asyncio.Event()

    def end() -> None:
        done.append("end")
        ended.set()

    notes: list[Any] = []
    node: JsonObject = {"metadata": {"name": "n"}}
    catalog = SimpleNamespace(
        on_node=notes.append,
        node_annotations=lambda _: {},
        nodes=SimpleNamespace(objects={("", "n"): node}),
    )

    watch = NodeWatch(
        cast("Any", catalog),
        cast("Any", Quiet()),
        cast("Any", Book()),
        cast("Any", Quiet()),
        Metrics(),
        HubSettings(),
    )
    running = asyncio.create_task(watch.run(lambda: None))
    notes[0](SimpleNamespace(key=("", "n"), old=node, new=None))
    async with asyncio.timeout(5):
        await ended.wait()
    running.cancel()
    assert done == ["revoked n", "end"]
