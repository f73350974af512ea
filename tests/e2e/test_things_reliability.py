"""The shipped process under load: killed, full, full of readers that do not read, full of idle sessions."""

from __future__ import annotations

import asyncio
import json
import re
import resource
import socket
from collections.abc import Iterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import aiohttp
import pytest

from bench.ws_load import EVENTS, Socket, connected, subscribed
from tests.e2e.test_bad_input import fill, small_disk
from tests.hono_rig import basic, until
from tests.process import Twinspan, twinspan
from tests.walk import Walk, curl, in_thread

pytestmark = pytest.mark.e2e

HEADERS = basic("ditto", "ditto")
AUTHORIZATION = HEADERS["Authorization"]
PATIENCE = 60.0


def resident(running: Twinspan) -> int:
    """Bytes in memory."""
    status = Path(f"/proc/{running.pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert found
    return int(found[1]) * 1_024


def sample(running: Twinspan, name: str) -> float:
    """A metric with its labels, 0 where it was never counted."""
    text = curl("GET", running.url("ops.http", "/metrics")).body
    found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
    return float(found[1]) if found else 0.0


async def counted(running: Twinspan, name: str, value: float) -> None:
    """Wait until a metric has a value."""
    async with asyncio.timeout(PATIENCE):
        while await in_thread(sample, running, name) != value:  # noqa: ASYNC110  metrics are asked
            await asyncio.sleep(0.05)


# --- killed ------------------------------------------------------------------------------------

ROUNDS = 4
HTTP_WRITERS, WS_WRITERS = 8, 4
ANSWERS = 150
"""Changes that are answered before a kill."""


def crash_thing(writer: int) -> str:
    return f"org.acme:crash-{writer}"


class Writers:
    """Each counts up an attribute of its own thing and keeps what was answered."""

    def __init__(self, stored: dict[int, int]) -> None:
        self.answered = dict(stored)
        self.count = 0
        self.enough = asyncio.Event()

    def _take(self, writer: int, value: int) -> None:
        self.answered[writer] = value
        self.count += 1
        if self.count >= ANSWERS:
            self.enough.set()

    async def over_http(self, running: Twinspan, writer: int) -> None:
        url = running.url("ditto.http", f"/api/2/things/{crash_thing(writer)}/attributes/n")
        with suppress(aiohttp.ClientError, ConnectionError):
            async with aiohttp.ClientSession(headers=HEADERS) as http:
                while True:
                    value = self.answered[writer] + 1
                    async with http.put(url, json=value) as response:
                        assert response.status == 204, await response.text()
                        self._take(writer, value)

    async def over_websocket(self, running: Twinspan, writer: int) -> None:
        url = running.url("ditto.http", "/ws/2")
        topic = crash_thing(writer).replace(":", "/") + "/things/twin/commands/modify"
        with suppress(aiohttp.ClientError, ConnectionError, TypeError):  # TypeError: it was closed
            async with (
                aiohttp.ClientSession(headers=HEADERS) as http,
                http.ws_connect(url) as session,
            ):
                while True:
                    value = self.answered[writer] + 1
                    await session.send_json(
                        {"topic": topic, "path": "/attributes/n", "value": value}
                    )
                    answer = await session.receive_json()
                    assert answer["status"] == 204, answer
                    self._take(writer, value)


async def test_kill_9_under_load_loses_nothing_that_was_answered(tmp_path: Path) -> None:
    stored = dict.fromkeys(range(HTTP_WRITERS + WS_WRITERS), 0)
    with twinspan(tmp_path / "data", "gateway", "--demo") as running:
        walk = Walk(running)
        for writer in stored:
            made = walk.ditto("PUT", f"things/{crash_thing(writer)}", data={"attributes": {"n": 0}})
            assert made.status == 201
        for _ in range(ROUNDS):
            writers = Writers(stored)
            async with asyncio.TaskGroup() as tasks:
                for writer in stored:
                    write = writers.over_http if writer < HTTP_WRITERS else writers.over_websocket
                    tasks.create_task(write(running, writer))
                async with asyncio.timeout(PATIENCE):
                    await writers.enough.wait()
                running.kill()
            await in_thread(running.start)
            for writer, answered in writers.answered.items():
                stored[writer] = value_of(walk, writer)
                assert answered <= stored[writer] <= answered + 1
        for writer, value in stored.items():
            assert past_of(walk, writer) == list(range(value + 1))


def value_of(walk: Walk, writer: int) -> int:
    """What is stored; every revision made one step."""
    thing = walk.thing(crash_thing(writer), "?fields=_revision,attributes")
    value: int = thing["attributes"]["n"]
    assert thing["_revision"] == value + 1
    return value


def past_of(walk: Walk, writer: int) -> list[int]:
    """All values that the thing ever had, as its history tells them."""
    url = f"things/{crash_thing(writer)}/attributes/n?from-historical-revision=1"
    body = walk.ditto("GET", url, "-H", "Accept: text/event-stream").body
    return [int(line[5:]) for line in body.splitlines() if line.startswith("data:")]


# --- full --------------------------------------------------------------------------------------


async def test_things_refuse_changes_while_the_disk_is_full_and_go_on_after(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        data_dir, ballast = disk / "data", disk / "ballast"
        with twinspan(data_dir, "gateway", "--demo") as running:
            walk = Walk(running)
            walk.ditto("PUT", "things/org.acme:full", data={"attributes": {"n": 0}})
            last = fill_up(walk, ballast)
            url = running.url("ditto.http", "/ws/2")
            async with (
                aiohttp.ClientSession(headers=HEADERS) as http,
                http.ws_connect(url) as session,
            ):
                await session.send_json(change(-1))
                refused = await session.receive_json()
                assert refused["status"] == 503, refused
            assert walk.thing("org.acme:full", "/attributes/n") == last
            found = walk.ditto("GET", f"search/things/count?filter=eq(attributes/n,{last})")
            assert (found.status, found.json) == (200, 1)
            ballast.unlink()
            assert walk.ditto("PUT", "things/org.acme:full/attributes/n", data="7").status == 204
            assert walk.ditto("POST", "things", data={"attributes": {"n": 7}}).status == 201
            revision = walk.thing("org.acme:full", "?fields=_revision")["_revision"]
            running.kill()
            await in_thread(running.start)
            thing = walk.thing("org.acme:full", "?fields=_revision,attributes")
            assert (thing["_revision"], thing["attributes"]["n"]) == (revision, 7)
            assert "Traceback" not in running.log.read_text()


def fill_up(walk: Walk, ballast: Path) -> int:
    """Take all room of the disk, then change a thing until that is refused; the last value stored."""
    fill(ballast)
    last = 0
    for value in range(1, 5_000):
        status = walk.ditto(
            "PATCH",
            "things/org.acme:full",
            data={"attributes": {"n": value, "text": "x" * 50_000}},
            content_type="application/merge-patch+json",
        ).status
        if status == 503:
            return last
        assert status == 204
        last = value
    raise AssertionError("the disk was never full")


def change(value: int) -> dict[str, object]:
    topic = "org.acme/full/things/twin/commands/modify"
    return {"topic": topic, "path": "/attributes/text", "value": f"{value} {'y' * 50_000}"}


# --- readers that do not read --------------------------------------------------------------------

DEAF = 20
"""Of each kind."""
MOST = 60 * 1_024 * 1_024
"""Bytes that the deaf ones may cost together: what waits is shared, and what the kernel takes is not ours."""


def spec_of(running: Twinspan) -> dict[str, object]:
    return {"port": running.port("ditto.http"), "authorization": AUTHORIZATION}


async def a_deaf_stream(running: Twinspan, stack: AsyncExitStack) -> None:
    """A client of an event stream that reads its beginning and no more."""
    own = stack.enter_context(socket.socket())
    own.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    own.connect(("127.0.0.1", running.port("ditto.http")))
    own.sendall(
        f"GET /api/2/things HTTP/1.1\r\nHost: x\r\nAuthorization: {AUTHORIZATION}\r\n"
        "Accept: text/event-stream\r\n\r\n".encode()
    )
    own.setblocking(False)
    async with asyncio.timeout(PATIENCE):
        await asyncio.get_running_loop().sock_recv(own, 1_024)


async def a_deaf_session(running: Twinspan, stack: AsyncExitStack) -> None:
    """A WebSocket subscriber that reads no more."""
    session = await subscribed(spec_of(running), EVENTS)
    stack.callback(session.transport.abort)
    session.transport.pause_reading()


async def test_those_who_do_not_read_cost_little_and_are_ended(tmp_path: Path) -> None:
    with twinspan(tmp_path / "data", "gateway", "--demo") as running:
        walk = Walk(running)
        walk.ditto("PUT", "things/org.acme:loud", data={"attributes": {"n": ""}})
        async with AsyncExitStack() as stack:
            hearing = await subscribed(spec_of(running), EVENTS)
            stack.callback(hearing.transport.abort)
            heard: list[bytes] = []
            hearing.on_frame = heard.append
            for _ in range(DEAF):
                await a_deaf_session(running, stack)
                await a_deaf_stream(running, stack)
            before = resident(running)
            most, sent = 0, 0
            while not await in_thread(all_are_gone, running):
                sent += await in_thread(shout, walk, sent)
                most = max(most, resident(running) - before)
            assert most < MOST
            await until(lambda: len(heard) == sent, PATIENCE)
            await counted(running, 'twinspan_stream_sessions{kind="websocket"}', 1.0)
            await counted(running, 'twinspan_stream_sessions{kind="sse"}', 0.0)
        assert "Traceback" not in running.log.read_text()


def all_are_gone(running: Twinspan) -> bool:
    kinds = ("websocket", "sse")
    names = [f'twinspan_stream_sessions_dropped_total{{kind="{kind}"}}' for kind in kinds]
    return all(sample(running, name) == DEAF for name in names)


def shout(walk: Walk, number: int) -> int:
    """Some big events; how many."""
    for at in range(20):
        answer = walk.ditto(
            "PUT",
            "things/org.acme:loud/attributes/n",
            data=json.dumps(f"{number + at}{'x' * 60_000}"),
        )
        assert answer.status == 204
    return 20


# --- idle sessions -------------------------------------------------------------------------------

IDLE = 2_000
BYTES_EACH = 64 * 1_024


@pytest.fixture
def many_files() -> Iterator[None]:
    """Enough open files for the sessions on this side."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 2 * IDLE:
        pytest.skip(f"NOT RUN: {2 * IDLE} open files are needed, the system allows {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2 * IDLE), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("many_files")
async def test_two_thousand_idle_sessions_cost_little(tmp_path: Path) -> None:
    with twinspan(tmp_path / "data", "gateway", "--demo") as running:
        walk = Walk(running)
        assert walk.ditto("PUT", "things/org.acme:quiet", data={}).status == 201
        before = resident(running)
        sessions: list[Socket] = []
        for _ in range(IDLE // 50):
            sessions += await asyncio.gather(*(connected(spec_of(running)) for _ in range(50)))
        assert (
            await in_thread(sample, running, 'twinspan_stream_sessions{kind="websocket"}') == IDLE
        )
        assert (resident(running) - before) / IDLE < BYTES_EACH
        assert (await in_thread(walk.thing, "org.acme:quiet"))["thingId"] == "org.acme:quiet"
        for session in sessions:
            session.transport.abort()
        await counted(running, 'twinspan_stream_sessions{kind="websocket"}', 0.0)
