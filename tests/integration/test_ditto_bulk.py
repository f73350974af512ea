"""`POST /api/2/bulk`: order, bounds, bad lines, rights, slow readers, callers that go away."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from gateway.config.ditto import Bulk
from gateway.ditto.bulk import Window
from tests.ditto_rig import Answer, Stack, a_ditto, curl, put
from tests.hono_rig import basic

LINES = "application/x-ndjson"
SMALL = Bulk(max_line=2_000, in_flight=8, pending=20_000, max_array=5, max_array_bytes=4_000)


@pytest.fixture
async def ditto() -> AsyncIterator[Stack]:
    async with a_ditto(bulk=SMALL) as stack:
        yield stack


def a_command(thing: str, action: str = "modify", path: str = "/", **members: Any) -> Any:
    topic = f"org.acme/{thing}/things/twin/commands/{action}"
    return {"topic": topic, "path": path, **members}


def as_lines(*commands: Any) -> bytes:
    return b"".join(
        (one if isinstance(one, bytes) else json.dumps(one).encode()) + b"\n" for one in commands
    )


async def bulk(
    ditto: Stack, body: bytes, user: str = "ditto:ditto", kind: str = LINES, query: str = ""
) -> Answer:
    return await curl(
        "-X",
        "POST",
        f"{ditto.api}/bulk{query}",
        "-H",
        f"Content-Type: {kind}",
        "--data-binary",
        "@-",
        user=user,
        stdin=body,
    )


async def answers(ditto: Stack, *commands: Any, user: str = "ditto:ditto") -> list[Any]:
    answer = await bulk(ditto, as_lines(*commands), user)
    assert answer.status == 200, answer.body
    return [json.loads(line) for line in answer.body.splitlines()]


def of(found: list[Any], member: str = "status") -> list[Any]:
    return [one.get(member) for one in found]


async def test_each_command_is_answered_in_its_place(ditto: Stack) -> None:
    found = await answers(
        ditto,
        a_command("a", "create", value={"attributes": {"n": 1}}),
        a_command("a", "create", value={}),
        a_command("b", value={"attributes": {"n": 2}}, headers={"correlation-id": "mine"}),
        a_command("a", "merge", "/attributes", value={"m": 2}),
        a_command("a", "retrieve", "/attributes"),
        a_command("a", "retrieve", fields="thingId,_revision"),
        {
            "topic": "_/_/things/twin/commands/retrieve",
            "path": "/",
            "value": {"thingIds": ["org.acme:b"]},
        },
        {"topic": "org.acme/a/policies/commands/retrieve", "path": "/entries/DEFAULT/subjects"},
        a_command("a", "delete", "/attributes/n"),
        a_command("c", "delete"),
    )
    assert of(found) == [201, 409, 201, 204, 200, 200, 200, 200, 204, 404]
    assert found[4]["value"] == {"n": 1, "m": 2}
    assert found[5]["value"] == {"thingId": "org.acme:a", "_revision": 2}
    assert [one["thingId"] for one in found[6]["value"]] == ["org.acme:b"]
    assert "nginx:ditto" in found[7]["value"]
    assert found[1]["value"]["error"] == "things:thing.conflict"
    assert found[1]["headers"]["twinspan-line"] == 2
    assert found[2]["headers"]["correlation-id"] == "mine"
    given = {one["headers"]["correlation-id"].rpartition("-")[0] for one in found[3:6]}
    assert len(given) == 1


async def test_commands_of_one_thing_run_in_their_order_and_answers_keep_theirs(
    ditto: Stack,
) -> None:
    count = 400
    commands = [
        a_command(f"t{n % 7}", path="/attributes/n" if n >= 7 else "/", value=n if n >= 7 else {})
        for n in range(count)
    ]
    found = await answers(ditto, *commands)
    assert len(found) == count
    for at, one in enumerate(found):
        assert one["topic"].split("/")[1] == f"t{at % 7}"
        assert one["headers"]["entity-revision"] == at // 7 + 1
    for n in range(7):
        thing = await curl(f"{ditto.api}/things/org.acme:t{n}/attributes/n")
        assert thing.json == max(at for at in range(count) if at % 7 == n)


async def test_a_bad_line_is_told_with_its_number_and_the_rest_goes_on(ditto: Stack) -> None:
    found = await answers(
        ditto,
        a_command("a", value={}),
        b"nonsense",
        b"",
        b"[1,2]",
        {"path": "/"},
        {"topic": "x", "path": "/"},
        a_command("a", value={"x": "y" * 3_000}),
        a_command("a", "modify", "/attributes"),
        a_command("a", "explode", "/attributes"),
        {"topic": "org.acme/a/things/live/commands/retrieve", "path": "/"},
        {"topic": "org.acme/a/things/live/messages/go", "path": "/inbox/messages/go"},
        {"topic": "_/_/things/twin/search/subscribe", "path": "/", "value": {}},
        a_command("bad id", "retrieve", headers={"timeout": "never"}),
        a_command("a", "retrieve", "/", headers={"x": "y" * 1_000}),
    )
    assert of(found) == [201, 400, 400, 400, 400, 413, *([400] * 5), 400, 200]
    lines = [one["headers"].get("twinspan-line") for one in found]
    assert lines == [None, 2, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, None]
    assert ditto.sample("twinspan_bulk_items_total", outcome="done") == 2
    assert ditto.sample("twinspan_bulk_items_total", outcome="malformed") == 10


async def test_each_command_is_judged_by_the_rights_of_the_caller(ditto: Stack) -> None:
    await put(f"{ditto.api}/things/org.acme:a", {"attributes": {"secret": 1}})
    found = await answers(
        ditto,
        a_command("a", "retrieve"),
        a_command("a", path="/attributes/x", value=1),
        {"topic": "org.acme/a/policies/commands/delete", "path": "/"},
        a_command("b", value={}),
        user="alice:wonder",
    )
    assert of(found) == [404, 403, 403, 201]
    assert found[1]["value"]["error"] == "things:attribute.notmodifiable"
    assert (await bulk(ditto, b"", user="")).status == 401
    assert (await bulk(ditto, b"", user="devops:foobar")).status == 401


async def test_policies_come_before_the_things_that_use_them(ditto: Stack) -> None:
    entries = {
        "owner": {
            "subjects": {"nginx:ditto": {"type": "x"}},
            "resources": {
                key: {"grant": ["READ", "WRITE"], "revoke": []} for key in ("thing:/", "policy:/")
            },
        }
    }
    commands: list[Any] = []
    for n in range(20):
        below: Any = {"imports": {f"org.acme:p{n - 1}": {}}} if n else {}
        topic = f"org.acme/p{n}/policies/commands/modify"
        commands.append({"topic": topic, "path": "/", "value": {"entries": entries, **below}})
        commands.append(a_command(f"t{n}", value={"policyId": f"org.acme:p{n}"}))
    found = await answers(ditto, *commands)
    assert set(of(found)) == {201}, found


async def test_an_array_is_answered_by_an_array(ditto: Stack) -> None:
    commands = [a_command("a", value={}), 7, a_command("a", "retrieve")]
    answer = await bulk(ditto, json.dumps(commands).encode(), kind="application/json")
    assert answer.headers["content-type"] == "application/json"
    assert of(answer.json) == [201, 400, 200]
    assert answer.json[1]["headers"]["twinspan-line"] == 2
    assert (await bulk(ditto, b"[]", kind="application/json")).json == []
    assert (await bulk(ditto, b"")).body == ""


@pytest.mark.parametrize(
    ("body", "kind", "query", "status", "code"),
    [
        (b"{}", "application/json", "", 400, "json.invalid"),
        (b"[", "application/json", "", 400, "json.invalid"),
        (b"[1,2,3,4,5,6]", "application/json", "", 413, "too.large"),
        (b"[" + b" " * 4_000 + b"]", "application/json", "", 413, "too.large"),
        (b"", LINES, "?atomic=true", 400, "parameter.invalid"),
        (b"", LINES, "?atomic", 400, "parameter.invalid"),
        (b"", "text/plain", "", 415, "mediatype.unsupported"),
    ],
)
async def test_a_request_that_cannot_be_run_is_refused_in_dittos_form(
    ditto: Stack, body: bytes, kind: str, query: str, status: int, code: str
) -> None:
    answer = await bulk(ditto, body, kind=kind, query=query)
    assert (answer.status, answer.error) == (status, code), answer.body
    read = await curl(f"{ditto.api}/bulk")
    assert (read.status, read.error) == (405, "gateway:method.notallowed")


# --- streams -----------------------------------------------------------------------------------


class Caller:
    """A client that sends and reads when it is told to."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self._rest = b""

    def send(self, body: bytes) -> None:
        self.writer.write(b"%x\r\n%b\r\n" % (len(body), body) if body else b"0\r\n\r\n")

    async def head(self) -> None:
        async with asyncio.timeout(10):
            assert (await self.reader.readline()).startswith(b"HTTP/1.1 200")
            while await self.reader.readline() != b"\r\n":
                pass

    async def chunk(self) -> bytes:
        async with asyncio.timeout(10):
            size = int(await self.reader.readline(), 16)
            data = await self.reader.readexactly(size)
            await self.reader.readexactly(2)
            return data

    async def line(self) -> Any:
        while b"\n" not in self._rest:
            self._rest += await self.chunk()
        line, _, self._rest = self._rest.partition(b"\n")
        return json.loads(line)


@asynccontextmanager
async def a_caller(ditto: Stack) -> AsyncIterator[Caller]:
    """A client whose request has begun; it goes away without a word at the end of the block."""
    host, _, port = ditto.address.rpartition(":")
    caller = Caller(*await asyncio.open_connection(host, int(port), limit=65_536))
    credentials = basic("ditto", "ditto")["Authorization"]
    caller.writer.write(
        f"POST /api/2/bulk HTTP/1.1\r\nHost: x\r\nAuthorization: {credentials}\r\n"
        f"Content-Type: {LINES}\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    )
    try:
        yield caller
    finally:
        caller.writer.transport.abort()
        with suppress(ConnectionError):
            await caller.writer.wait_closed()


async def is_free_again(ditto: Stack) -> None:
    """The only place for a bulk request is taken no more."""
    for _ in range(200):
        if (await bulk(ditto, b"")).status == 200:
            return
        await asyncio.sleep(0.05)
    pytest.fail("the place of a caller is still taken")


async def test_answers_leave_while_commands_still_come_in(ditto: Stack) -> None:
    async with a_caller(ditto) as caller:
        for n in range(5):
            data = as_lines(
                a_command("a", path="/attributes/n" if n else "/", value=n if n else {})
            )
            caller.send(data[:20])
            caller.send(data[20:])
            if not n:
                await caller.head()
            assert (await caller.line())["status"] in (201, 204)
        caller.send(json.dumps(a_command("a", "retrieve")).encode())
        caller.send(b"")
        assert (await caller.line())["status"] == 200
        assert await caller.chunk() == b""


async def a_big_thing(ditto: Stack) -> bytes:
    """Commands whose answers are far larger than they are."""
    await put(f"{ditto.api}/things/org.acme:big", {"attributes": {"x": "y" * 20_000}})
    return as_lines(*(a_command("big", "retrieve") for _ in range(50)))


async def test_who_does_not_read_answers_is_not_read_from(ditto: Stack) -> None:
    body = await a_big_thing(ditto)
    async with a_caller(ditto) as caller:
        sent = 0
        while True:
            caller.send(body)
            sent += 50
            try:
                async with asyncio.timeout(0.2):
                    await caller.writer.drain()
            except TimeoutError:
                break
            assert sent < 200_000, "it was read from without end"
        begun = ditto.sample("twinspan_bulk_items_total", outcome="done")
        assert begun < sent
        await caller.head()
        for _ in range(int(begun) + 10):  # once answers are taken, it goes on
            assert (await caller.line())["status"] == 200
        assert (await curl(f"{ditto.api}/whoami")).status == 200


async def test_a_caller_that_goes_away_leaves_nothing_behind() -> None:
    async with a_ditto(bulk=Bulk(max_requests=1)) as ditto:
        async with a_caller(ditto) as caller:
            caller.send(as_lines(a_command("a", value={})))
            await caller.head()
            assert (await caller.line())["status"] == 201
            refused = await bulk(ditto, b"")
            assert (refused.status, refused.error) == (503, "service.unavailable")
        await is_free_again(ditto)


async def test_a_caller_that_never_reads_is_hung_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.ditto.bulk_http.WRITE_SECONDS", 0.1)
    async with a_ditto(bulk=Bulk(max_requests=1)) as ditto:
        body = await a_big_thing(ditto)
        async with a_caller(ditto) as caller:
            for _ in range(100):
                caller.send(body)
            await is_free_again(ditto)


async def test_a_body_that_breaks_off_is_told_as_one_more_line(
    ditto: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.ditto.bulk_http.BODY_SECONDS", 0.1)
    async with a_caller(ditto) as caller:
        caller.send(as_lines(a_command("a", value={})) + b'{"topic":')
        await caller.head()
        assert (await caller.line())["status"] == 201
        last = await caller.line()
        assert (last["status"], last["headers"]["twinspan-line"]) == (408, 2)
        assert await caller.chunk() == b""


# --- the window --------------------------------------------------------------------------------


async def test_a_window_has_room_for_so_many_and_so_much() -> None:
    window = Window(2, 100)
    first = await window.open(1, 500)  # one always finds room
    waiting = asyncio.ensure_future(window.open(2, 10))
    await asyncio.sleep(0)
    assert not waiting.done()
    window.settle(first, b"a" * 10)
    second = await asyncio.wait_for(waiting, 5)
    third = asyncio.ensure_future(window.open(3, 1))
    await asyncio.sleep(0)
    assert not third.done()  # two are in the queue, answered or not
    assert await window.answers() == [b"a" * 10]
    slot = await asyncio.wait_for(third, 5)
    window.settle(slot, b"c")
    quiet = asyncio.ensure_future(window.answers())
    await asyncio.sleep(0)
    assert not quiet.done()  # the second comes first
    window.settle(second, b"b")
    assert await quiet == [b"b", b"c"]
    window.close()
    assert await window.answers() == []
