"""One contract for event stores, run against each."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path
from typing import Any

import pytest

from gateway.errors import GatewayError, StoreUnavailable
from gateway.model.message import Kind, Message, SpoolId
from gateway.model.trace import TraceContext
from gateway.runtime.module import running
from gateway.store.database import Database
from gateway.store.events import SqliteEvents
from gateway.store.memory_events import MemoryEvents
from gateway.store.ports import CONSUMERS, EventCursor, EventStore, StoredEvent

TRACE = TraceContext("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331")


def an_event(payload: bytes = b"{}", tenant: str = "acme", **more: Any) -> Message:
    given: dict[str, Any] = {"device": "4711", "qos": 1, "at": 1_000.0, "trace": TRACE, **more}
    return Message(tenant=tenant, kind=Kind.EVENT, payload=payload, **given)


class Rig:
    """A store with a hand-moved clock that may be stopped and started again."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.time = 1_000.0
        self.options: dict[str, Any] = {}

    @asynccontextmanager
    async def open(self, **options: Any) -> AsyncIterator[EventStore]:
        if self.path is None:
            yield MemoryEvents(clock=lambda: self.time, **options)
            return
        store = SqliteEvents(Database(self.path, "events"), clock=lambda: self.time, **options)
        async with running(store):
            yield store


@pytest.fixture(params=["sqlite", "memory"])
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Rig:
    return Rig(tmp_path / "events.db" if request.param == "sqlite" else None)


@pytest.fixture
def disk(tmp_path: Path) -> Rig:
    return Rig(tmp_path / "events.db")


async def stored(store: EventStore, message: Message) -> GatewayError | None:
    answer: asyncio.Future[GatewayError | None] = asyncio.get_running_loop().create_future()
    store.append(message, answer.set_result)
    return await answer


class Reader:
    """Takes from a cursor, waiting for its `on_ready`."""

    def __init__(self, store: EventStore, tenant: str = "acme", name: str = CONSUMERS) -> None:
        self._ready = asyncio.Event()
        self.cursor: EventCursor = store.open_cursor(tenant, name, self._ready.set)

    async def take(self) -> StoredEvent:
        async with asyncio.timeout(5):
            while (event := self.cursor.take()) is None:
                self._ready.clear()
                await self._ready.wait()
        return event

    async def payloads(self, count: int) -> list[bytes]:
        return [(await self.take()).message.payload for _ in range(count)]


async def settled_down(store: EventStore) -> None:
    """Everything asked of the store before is done."""
    for _ in range(3):
        await stored(store, an_event(tenant="elsewhere"))


async def test_events_come_in_order_and_whole(rig: Rig) -> None:
    message = an_event(
        b"\x00\xff",
        content_type="text/plain",
        adapter="hono-mqtt",
        address="event",
        via="gw",
        ttl=60.0,
        ttd=5,
        retain=True,
        properties={"a": 1, "b": True, "c": 1.5, "d": "x"},
        spool=SpoolId("e", "l", 3),
        duplicate=True,
        twin_owned=True,
    )
    async with rig.open() as store:
        assert await stored(store, message) is None
        assert await stored(store, an_event(b"2")) is None
        reader = Reader(store)
        first = await reader.take()
        assert first.message == message
        assert (await reader.take()).message.payload == b"2"
        assert reader.cursor.take() is None


async def test_a_waiting_reader_gets_new_events(rig: Rig) -> None:
    async with rig.open() as store:
        reader = Reader(store)
        await settled_down(store)
        await stored(store, an_event(b"1"))
        assert (await reader.take()).message.payload == b"1"


async def test_tenants_do_not_see_each_other(rig: Rig) -> None:
    async with rig.open() as store:
        await stored(store, an_event(b"theirs", tenant="other"))
        await stored(store, an_event(b"ours"))
        assert (await Reader(store).take()).message.payload == b"ours"


async def test_settled_events_do_not_come_again_and_others_do(rig: Rig) -> None:
    async with rig.open() as store:
        for payload in (b"1", b"2", b"3"):
            await stored(store, an_event(payload))
        reader = Reader(store)
        events = [await reader.take() for _ in range(3)]
        reader.cursor.settle(events[1])
        reader.cursor.close()
        await settled_down(store)
        assert await Reader(store).payloads(2) == [b"1", b"3"]


async def test_what_is_settled_after_closing_does_not_come_again(rig: Rig) -> None:
    async with rig.open() as store:
        for number in range(2):
            await stored(store, an_event(str(number).encode()))
        reader = Reader(store)
        first = await reader.take()
        reader.cursor.close()
        reader.cursor.settle(first)
        assert await Reader(store).payloads(1) == [b"1"]


async def test_a_released_event_comes_first_with_its_attempts(rig: Rig) -> None:
    async with rig.open() as store:
        for payload in (b"1", b"2"):
            await stored(store, an_event(payload))
        reader = Reader(store)
        first = await reader.take()
        reader.cursor.release(first, failed=True)
        again = await reader.take()
        assert (again.message.payload, again.attempts) == (b"1", 1)
        reader.cursor.release(again, failed=False)
        assert (await reader.take()).attempts == 1


async def test_attempts_survive_the_reader(rig: Rig) -> None:
    async with rig.open() as store:
        await stored(store, an_event(b"1"))
        reader = Reader(store)
        reader.cursor.release(await reader.take(), failed=True)
        reader.cursor.close()
        await settled_down(store)
        assert (await Reader(store).take()).attempts == 1


async def test_more_events_than_the_read_ahead_all_come(rig: Rig) -> None:
    async with rig.open(read_ahead=4) as store:
        for number in range(10):
            await stored(store, an_event(str(number).encode()))
        reader = Reader(store)
        await settled_down(store)
        for number in range(10, 20):
            await stored(store, an_event(str(number).encode()))
        assert await reader.payloads(20) == [str(number).encode() for number in range(20)]


async def test_a_named_cursor_starts_with_the_next_event_and_reads_on_later(rig: Rig) -> None:
    async with rig.open() as store:
        await stored(store, an_event(b"before"))
        tap = Reader(store, name="tap:c1")
        await settled_down(store)
        await stored(store, an_event(b"1"))
        tap.cursor.settle(await tap.take())
        tap.cursor.close()
        await stored(store, an_event(b"while closed"))
        assert await Reader(store, name="tap:c1").payloads(1) == [b"while closed"]
        assert await Reader(store).payloads(3) == [b"before", b"1", b"while closed"]


async def test_an_event_stays_until_every_cursor_is_done(rig: Rig) -> None:
    async with rig.open() as store:
        tap, consumers = Reader(store, name="tap:c1"), Reader(store)
        await settled_down(store)
        await stored(store, an_event(b"1"))
        tap.cursor.settle(await tap.take())
        await settled_down(store)
        event = await consumers.take()
        consumers.cursor.release(event, failed=False)
        assert (await consumers.take()).message.payload == b"1"


async def test_a_dropped_cursor_owes_nothing(rig: Rig) -> None:
    async with rig.open() as store:
        tap = Reader(store, name="tap:c1")
        await settled_down(store)
        await stored(store, an_event(b"1"))
        store.drop_cursor("acme", "tap:c1")
        await settled_down(store)
        assert tap.cursor.take() is None
        await stored(store, an_event(b"2"))
        fresh = Reader(store, name="tap:c1")
        await settled_down(store)
        assert fresh.cursor.take() is None


async def test_a_full_store_refuses_and_keeps_what_it_has(rig: Rig) -> None:
    async with rig.open(max_bytes=2_000) as store:
        answers = [await stored(store, an_event(b"x" * 300)) for _ in range(10)]
        accepted = answers.count(None)
        assert 0 < accepted < 10
        assert all(isinstance(answer, StoreUnavailable) for answer in answers[accepted:])
        reader = Reader(store)
        for _ in range(accepted):
            reader.cursor.settle(await reader.take())

        async def room() -> bool:
            return await stored(store, an_event(b"x" * 300)) is None

        async with asyncio.timeout(5):
            while not await room():  # noqa: ASYNC110  the store tells nobody that it has room
                await asyncio.sleep(0.01)


async def test_a_tenant_that_fills_its_share_leaves_room_for_others(rig: Rig) -> None:
    refused: list[tuple[str, str]] = []
    room = {"max_bytes": 6_000, "max_bytes_per_tenant": 2_000}
    async with rig.open(**room, on_refused=lambda *what: refused.append(what)) as store:
        answers = [await stored(store, an_event(b"x" * 300)) for _ in range(10)]
        accepted = answers.count(None)
        assert 0 < accepted < 10
        assert all(isinstance(answer, StoreUnavailable) for answer in answers[accepted:])
        assert set(refused) == {("acme", "share")}
        assert await stored(store, an_event(b"x" * 300, tenant="other")) is None
        reader = Reader(store)
        reader.cursor.settle(await reader.take())
        async with asyncio.timeout(5):
            while await stored(store, an_event(b"x" * 300)) is not None:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        while await stored(store, an_event(b"x" * 300, tenant=f"t{len(refused)}")) is None:
            refused.append(("", ""))  # another tenant each time
        assert refused[-1][1] == "full"


async def test_the_share_that_a_tenant_used_is_known_after_a_restart(disk: Rig) -> None:
    async with disk.open(max_bytes_per_tenant=1_000) as store:
        assert await stored(store, an_event(b"x" * 400)) is None
    async with disk.open(max_bytes_per_tenant=1_000) as store:
        assert isinstance(await stored(store, an_event(b"x" * 400)), StoreUnavailable)
        assert await stored(store, an_event(b"x" * 400, tenant="other")) is None


async def test_an_event_tells_the_time_that_it_has_left_each_time_it_comes(rig: Rig) -> None:
    async with rig.open(max_ttl=60.0) as store:
        await stored(store, an_event(b"1", ttl=100.0))
        reader = Reader(store)
        rig.time = 1_010.0
        event = await reader.take()
        assert event.left == 50.0
        assert not reader.cursor.is_over(event)
        rig.time = 1_030.0
        reader.cursor.release(event, failed=True)
        event = await reader.take()
        assert (event.left, event.attempts) == (30.0, 1)
        rig.time = 1_060.0
        assert reader.cursor.is_over(event)
        reader.cursor.release(event, failed=True)
        assert reader.cursor.take() is None


async def test_an_expired_event_is_not_delivered(rig: Rig) -> None:
    async with rig.open() as store:
        await stored(store, an_event(b"short", ttl=10.0))
        await stored(store, an_event(b"long"))
        rig.time = 1_011.0
        assert (await Reader(store).take()).message.payload == b"long"


async def test_the_store_caps_the_time_to_live(rig: Rig) -> None:
    async with rig.open(max_ttl=5.0) as store:
        await stored(store, an_event(b"1", ttl=100.0))
        await stored(store, an_event(b"2"))
        rig.time = 1_006.0
        reader = Reader(store)
        await settled_down(store)
        assert reader.cursor.take() is None


async def test_purging_frees_the_room_of_expired_events(rig: Rig) -> None:
    async with rig.open(max_bytes=1_000) as store:
        assert await stored(store, an_event(b"x" * 300, ttl=1.0)) is None
        assert isinstance(await stored(store, an_event(b"y" * 900)), StoreUnavailable)
        rig.time = 1_002.0
        purge: Callable[[], None] = store.purge  # type: ignore[attr-defined]
        purge()
        async with asyncio.timeout(5):
            while await stored(store, an_event(b"y" * 500)) is not None:  # noqa: ASYNC110
                await asyncio.sleep(0.01)


async def test_readers_of_tenants_without_events_leave_nothing_on_disk(disk: Rig) -> None:
    def cursors() -> list[str]:
        with closing(sqlite3.connect(disk.path or "")) as db:
            return [row[0] for row in db.execute("SELECT tenant FROM cursor")]

    async with disk.open() as store:
        await stored(store, an_event(b"1", tenant="acme"))
        for tenant in ("guess-1", "guess-2", "acme"):
            Reader(store, tenant=tenant).cursor.close()
        await settled_down(store)
        assert set(cursors()) == {"acme", "elsewhere"}
        reader = Reader(store)
        reader.cursor.settle(await reader.take())
        reader.cursor.close()
        await settled_down(store)
        assert set(cursors()) == {"elsewhere"}
        await stored(store, an_event(b"2"))
        assert await Reader(store).payloads(1) == [b"2"]


async def test_an_answer_that_is_not_taken_keeps_no_event_from_its_readers(rig: Rig) -> None:
    def broken(_error: GatewayError | None) -> None:
        raise RuntimeError("the device is gone")

    async with rig.open() as store:
        reader = Reader(store)
        await settled_down(store)
        with suppress(RuntimeError):
            store.append(an_event(b"1"), broken)
        assert await reader.payloads(1) == [b"1"]


async def test_events_survive_a_restart(disk: Rig) -> None:
    async with disk.open() as store:
        await stored(store, an_event(b"1"))
        await stored(store, an_event(b"2"))
        reader = Reader(store)
        reader.cursor.settle(await reader.take())
    async with disk.open() as store:
        reader = Reader(store)
        assert (await reader.take()).message.payload == b"2"
        assert reader.cursor.take() is None


async def test_a_store_that_is_not_open_refuses(disk: Rig) -> None:
    store = SqliteEvents(Database(disk.path, "events"))
    assert isinstance(await stored(store, an_event()), StoreUnavailable)


async def test_an_event_for_taps_alone_does_not_reach_consumers(rig: Rig) -> None:
    async with rig.open() as store:
        assert not store.has_taps("acme")
        consumers, tap = Reader(store), Reader(store, name="tap:c1")
        assert store.has_taps("acme")
        answers: list[GatewayError | None] = []
        store.append(an_event(b"for taps"), answers.append, consumers=False)
        assert await stored(store, an_event(b"for all")) is None
        assert answers == [None]
        assert await tap.payloads(2) == [b"for taps", b"for all"]
        assert await consumers.payloads(1) == [b"for all"]


async def test_a_tap_that_is_closed_is_owed_events_also_after_a_restart(disk: Rig) -> None:
    async with disk.open() as store:
        Reader(store, name="tap:c1").cursor.close()
    async with disk.open() as store:
        assert store.has_taps("acme")
        answer: asyncio.Future[GatewayError | None] = asyncio.get_running_loop().create_future()
        store.append(an_event(b"meanwhile"), answer.set_result, consumers=False)
        assert await answer is None
        assert await Reader(store, name="tap:c1").payloads(1) == [b"meanwhile"]
        store.drop_cursor("acme", "tap:c1")
        assert not store.has_taps("acme")


async def test_an_event_for_taps_that_have_gone_is_not_kept(rig: Rig) -> None:
    async with rig.open() as store:
        store.open_cursor("acme", "tap:c1", lambda: None)
        store.drop_cursor("acme", "tap:c1")
        answer: asyncio.Future[GatewayError | None] = asyncio.get_running_loop().create_future()
        store.append(an_event(b"late"), answer.set_result, consumers=False)
        assert await answer is None
        assert store.size == 0  # type: ignore[attr-defined]
