"""Many writers at once, readers that do not read, clocks that are set: revisions and events stay whole."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import pytest

from gateway.ditto.clock import text_of
from gateway.ditto.service import PoliciesService, ThingsService
from gateway.ditto.subject_expiry import SubjectExpiry
from gateway.errors import GatewayError
from gateway.model.policy import PolicyCommand
from gateway.model.thing import Action, ThingCommand, ThingResult
from gateway.observe.metrics import Metrics
from gateway.observe.tracing import Tracer
from gateway.runtime.module import running
from gateway.store.database import Database
from gateway.store.things_sqlite import SqliteThingStore
from tests.ditto_rig import PUMP, Stack, WsClient, a_ditto, a_websocket, an_event_stream, curl, put
from tests.hono_rig import basic

ME = ("nginx:ditto",)
WRITERS = 200
SOCKETS = 10
TWIN = f"{PUMP.replace(':', '/')}/things/twin/commands"


@pytest.fixture
async def ditto() -> AsyncIterator[Stack]:
    async with a_ditto() as stack:
        yield stack


# --- many writers ------------------------------------------------------------------------------


async def write_over_http(stack: Stack, numbers: range) -> list[int]:
    """Each number its own attribute, all at once; the revisions that were answered."""
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, headers=basic("ditto", "ditto")) as http:

        async def write(number: int) -> int:
            url = f"{stack.api}/things/{PUMP}/attributes/w{number}"
            async with http.put(url, json=number) as response:
                assert response.status == 201
                return int(response.headers["entity-revision"])

        return await asyncio.gather(*map(write, numbers))


async def write_over_websockets(clients: list[WsClient], numbers: range) -> list[int]:
    """The same over sessions that do not wait before they send the next one."""
    for number in numbers:
        envelope = {
            "topic": f"{TWIN}/modify",
            "path": f"/attributes/w{number}",
            "headers": {"correlation-id": f"w{number}"},
            "value": number,
        }
        await clients[number % SOCKETS].socket.send_str(json.dumps(envelope))
    revisions = []
    for number in numbers:
        answer = await clients[number % SOCKETS].envelope()
        assert answer["status"] == 201, answer
        revisions.append(int(answer["headers"]["entity-revision"]))
    return revisions


async def test_two_hundred_writers_on_one_thing_make_two_hundred_revisions(ditto: Stack) -> None:
    await put(f"{ditto.api}/things/{PUMP}", {})
    async with AsyncExitStack() as stack:
        subscriber = await stack.enter_async_context(a_websocket(ditto))
        await subscriber.control("START-SEND-EVENTS")
        url = f"{ditto.api}/things/{PUMP}?fields=_revision,attributes"
        stream = await stack.enter_async_context(an_event_stream(url))
        clients = [await stack.enter_async_context(a_websocket(ditto)) for _ in range(SOCKETS)]
        answered = await asyncio.gather(
            write_over_http(ditto, range(WRITERS // 2)),
            write_over_websockets(clients, range(WRITERS // 2, WRITERS)),
        )
        events = [await subscriber.envelope() for _ in range(WRITERS)]
        streamed = [await stream.json() for _ in range(WRITERS)]
    due = list(range(2, WRITERS + 2))
    assert sorted(answered[0] + answered[1]) == due
    assert [event["revision"] for event in events] == due
    assert [event["_revision"] for event in streamed] == due
    written = {event["path"].removeprefix("/attributes/"): event["value"] for event in events}
    thing = (await curl(f"{ditto.api}/things/{PUMP}?fields=_revision,attributes")).json
    assert thing["_revision"] == WRITERS + 1
    assert thing["attributes"] == written == {f"w{n}": n for n in range(WRITERS)}
    kept = await ditto.things.history(PUMP, 0, 1_000)
    assert [event.revision for event in kept] == [1, *due]


async def test_of_writers_that_saw_the_same_revision_one_wins(ditto: Stack) -> None:
    await put(f"{ditto.api}/things/{PUMP}", {"attributes": {"n": 0}})
    connector = aiohttp.TCPConnector(limit=0)
    headers = {**basic("ditto", "ditto"), "If-Match": '"rev:1"', "Content-Type": "application/json"}
    body = json.dumps({"attributes": {"n": 1}})
    async with aiohttp.ClientSession(connector=connector, headers=headers) as http:

        async def write(_: int) -> int:
            async with http.put(f"{ditto.api}/things/{PUMP}", data=body) as response:
                return response.status

        statuses = await asyncio.gather(*map(write, range(50)))
    assert sorted(statuses) == [204] + [412] * 49
    assert (await curl(f"{ditto.api}/things/{PUMP}?fields=_revision")).json == {"_revision": 2}


# --- a slow reader -----------------------------------------------------------------------------


async def test_a_client_that_takes_a_big_answer_slowly_holds_up_nobody(ditto: Stack) -> None:
    text = "x" * 90_000
    for number in range(100):
        await put_quickly(ditto, f"org.acme:big-{number:03}", {"attributes": {"text": text}})
    host, _, port = ditto.address.partition(":")
    with socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        slow.connect((host, int(port)))
        head = "".join(f"{n}: {v}\r\n" for n, v in basic("ditto", "ditto").items())
        path = "/api/2/search/things?option=size(100)"
        slow.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n{head}Connection: close\r\n\r\n".encode())
        slow.setblocking(False)
        loop = asyncio.get_running_loop()
        first = await loop.sock_recv(slow, 1_024)
        for number in range(20):
            assert (await curl(f"{ditto.api}/things/org.acme:big-{number:03}")).status == 200
        assert (await put(f"{ditto.api}/things/{PUMP}", {})).status == 201
        received = bytearray(first)
        while data := await loop.sock_recv(slow, 262_144):
            received += data
    answer, _, body = bytes(received).partition(b"\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200")
    items = json.loads(body)["items"]
    assert len(items) == 100
    assert all(item["attributes"]["text"] == text for item in items)


async def put_quickly(stack: Stack, thing_id: str, value: dict[str, Any]) -> None:
    await stack.things.execute(
        ThingCommand(thing_id=thing_id, action=Action.MODIFY, value=value, subjects=ME)
    )


# --- clocks ------------------------------------------------------------------------------------


@dataclass
class HandClock:
    """A wall clock that tests set."""

    now: datetime = field(default_factory=lambda: datetime(2026, 6, 1, 12, tzinfo=UTC))

    def __call__(self) -> datetime:
        return self.now

    def turn(self, **by: float) -> None:
        self.now += timedelta(**by)


@dataclass
class Clocked:
    """The services under a clock of their own."""

    things: ThingsService
    policies: PoliciesService
    clock: HandClock

    async def set_n(self, value: int) -> ThingResult:
        path = ("attributes", "n")
        return await self.things.execute(
            ThingCommand(thing_id=PUMP, action=Action.MODIFY, path=path, value=value, subjects=ME)
        )

    async def get(self, *subjects: str, **headers: Any) -> Any:
        command = ThingCommand(
            thing_id=PUMP,
            action=Action.RETRIEVE,
            path=("attributes", "n"),
            subjects=subjects or ME,
            headers=headers,
        )
        return (await self.things.execute(command)).value


@asynccontextmanager
async def clocked(database: Database | None = None) -> AsyncIterator[Clocked]:
    clock, database = HandClock(), database or Database(None, "gateway")
    store = SqliteThingStore(database)
    policies = PoliciesService(store, clock=clock)
    things = ThingsService(store, policies, metrics=Metrics(), tracer=Tracer(), clock=clock)
    async with database.running(), running(things), running(SubjectExpiry(policies)):
        yield Clocked(things, policies, clock)


async def test_history_stays_in_order_when_the_clock_is_set_back() -> None:
    async with clocked() as rig:
        await put_at(rig, {"attributes": {"n": 0}})
        moments = {}
        for value in range(1, 6):
            rig.clock.turn(minutes=1)
            await rig.set_n(value)
            moments[value] = text_of(rig.clock.now)
        rig.clock.turn(hours=-1)
        for value in range(6, 9):
            assert (await rig.set_n(value)).revision == value + 1
            rig.clock.turn(minutes=1)
        events = await rig.things.history(PUMP, 0)
        assert [event.revision for event in events] == list(range(1, 10))
        assert [event.timestamp for event in events] == sorted(event.timestamp for event in events)
        for value in range(1, 5):
            assert await rig.get(**{"at-historical-timestamp": moments[value]}) == value
            assert await rig.get(**{"at-historical-revision": str(value + 1)}) == value
        assert await rig.get(**{"at-historical-timestamp": moments[5]}) == 8
        assert await rig.get() == 8


async def test_a_thing_made_again_before_it_was_deleted_by_the_clock_keeps_its_order() -> None:
    async with clocked() as rig:
        await put_at(rig, {"attributes": {"n": 0}})
        await rig.things.execute(ThingCommand(thing_id=PUMP, action=Action.DELETE, subjects=ME))
        deleted = text_of(rig.clock.now)
        rig.clock.turn(hours=-1)
        await put_at(rig, {"policyId": PUMP, "attributes": {"n": 1}})
        thing = await rig.things.load(PUMP)
        assert thing is not None
        assert (thing.revision, thing.created, thing.modified) == (3, deleted, deleted)


async def test_order_survives_a_restart_between_the_steps_of_the_clock(tmp_path: Any) -> None:
    path = tmp_path / "gateway.db"
    async with clocked(Database(path, "gateway")) as rig:
        await put_at(rig, {"attributes": {"n": 0}})
        noon = text_of(rig.clock.now)
    async with clocked(Database(path, "gateway")) as rig:
        rig.clock.turn(hours=-1)
        await rig.set_n(1)
        events = await rig.things.history(PUMP, 0)
        assert [event.timestamp for event in events] == [noon, noon]


async def put_at(rig: Clocked, value: dict[str, Any]) -> None:
    await rig.things.execute(
        ThingCommand(thing_id=PUMP, action=Action.MODIFY, value=value, subjects=ME)
    )


async def test_a_subject_ends_by_the_clock_that_is() -> None:
    """Set back, it may act for longer; set forward, it may not any more."""
    async with clocked() as rig:
        await put_at(rig, {"attributes": {"n": 7}})
        ends = rig.clock.now + timedelta(minutes=30)
        await add_subject(rig, text_of(ends))
        assert await rig.get("nginx:guest") == 7
        rig.clock.turn(hours=-1)
        assert await rig.get("nginx:guest") == 7
        rig.clock.turn(hours=2)
        with pytest.raises(GatewayError) as refused:
            await rig.get("nginx:guest")
        assert refused.value.code.endswith("notfound")
        assert await rig.get() == 7


async def add_subject(rig: Clocked, expiry: str) -> None:
    await rig.policies.execute(
        PolicyCommand(
            policy_id=PUMP,
            action=Action.MODIFY,
            path=("entries", "guest"),
            value={
                "subjects": {"nginx:guest": {"type": "guest", "expiry": expiry}},
                "resources": {"thing:/": {"grant": ["READ"], "revoke": []}},
            },
            subjects=ME,
        )
    )
