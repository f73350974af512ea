"""Watching a tenant's traffic over the management API: all is told, nothing is taken away."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import aiohttp
import pytest

from gateway.errors import NoConsumer, QuotaExceeded
from gateway.hono.traffic import MAX_LINES, MAX_SHOWN, MAX_WATCHERS, Passing, Traffic
from gateway.model.message import (
    Adapter,
    Command,
    CommandResponse,
    DeviceCommand,
    Kind,
    Principal,
    Upload,
)
from gateway.model.ports import Done
from tests.hono_rig import ADMIN, Core, a_core, a_fleet, a_registry_api, an_http_adapter, basic

LOGIN = basic(*ADMIN)


class Stream:
    """What a watcher reads, line by line."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response

    async def next(self) -> Any:
        """The next line that says something."""
        async for line in self._response.content:
            if line.strip():
                return json.loads(line)
        raise EOFError


@asynccontextmanager
async def watching(url: str, query: str = "") -> AsyncIterator[Stream]:
    async with (
        aiohttp.ClientSession(headers=LOGIN) as http,
        http.get(f"{url}/traffic/acme{query}") as response,
    ):
        assert response.status == 200
        assert response.content_type == "application/x-ndjson"
        assert await response.content.readline() == b"\n"
        yield Stream(response)


@pytest.fixture
async def core() -> AsyncIterator[Core]:
    async with a_core() as core:
        await a_fleet(core)
        yield core


@pytest.fixture
async def url(core: Core) -> AsyncIterator[str]:
    async with a_registry_api(core) as url:
        yield url


def an_upload(device: str = "d1", payload: bytes = b"21", kind: Kind = Kind.TELEMETRY) -> Upload:
    return Upload(
        adapter=Adapter.HTTP,
        principal=Principal(tenant="acme", device="d1", auth_id="sensor1"),
        kind=kind,
        qos=1,
        payload=payload,
        address="/telemetry",
        device=device,
    )


async def test_an_upload_is_told_with_its_outcome_and_still_reaches_the_consumer(
    core: Core, url: str
) -> None:
    async with (
        an_http_adapter(core) as adapter,
        watching(url) as stream,
        aiohttp.ClientSession() as http,
    ):
        async with http.post(
            f"{adapter}/telemetry",
            json={"temp": 21.5},
            headers={**basic("sensor1@acme", "pw"), "QoS-Level": "1"},
        ) as response:
            assert response.status == 202
        line = await stream.next()
    assert line.pop("at") > 1_700_000_000
    assert len(line.pop("trace")) == 32
    assert line == {
        "tenant": "acme",
        "device": "d1",
        "kind": "telemetry",
        "status": 202,
        "adapter": "hono-http",
        "address": "/telemetry",
        "qos": 1,
        "content-type": "application/json",
        "encoding": "json",
        "payload": {"temp": 21.5},
        "size": 14,
    }
    assert [m.payload for m in core.consumer.uploads] == [b'{"temp": 21.5}']


async def test_what_was_refused_is_told_with_its_reason(core: Core, url: str) -> None:
    core.consumer.outcome = NoConsumer()
    async with watching(url) as stream:
        core.ingress.submit(an_upload(), lambda _e: None)
        nobody = await stream.next()
        core.ingress.submit(an_upload("no-such"), lambda _e: None)
        unknown = await stream.next()
    assert (nobody["status"], nobody["device"]) == (503, "d1")
    assert (unknown["status"], unknown["device"], unknown["gateway"]) == (404, "no-such", "d1")
    assert unknown["error"]


async def test_kinds_and_device_choose(core: Core, url: str) -> None:
    async with watching(url, "?kind=event&device=d1") as stream:
        core.ingress.submit(an_upload(payload=b"no"), lambda _e: None)
        core.ingress.submit(an_upload(payload=b"yes", kind=Kind.EVENT), lambda _e: None)
        line = await stream.next()
    assert (line["kind"], line["payload"]) == ("event", "yes")


async def test_commands_and_answers_are_told(core: Core, url: str) -> None:
    class Link:
        def deliver(self, command: DeviceCommand, done: Done) -> None:
            done(None)

    class Sink:
        def owns(self, tenant: str, reply_id: str) -> bool:
            return True

        def take(self, response: CommandResponse, done: Done) -> None:
            done(None)

    core.commands.add_sink(Sink())
    async with watching(url, "?kind=command,response") as stream:
        command = Command(tenant="acme", device="d1", name="on", payload=b"\x00\xff")
        core.commands.route(command, lambda _e: None)
        nobody = await stream.next()
        core.commands.subscribe("acme", "d1", Link(), adapter=Adapter.HTTP)
        core.commands.route(command, lambda _e: None)
        taken = await stream.next()
        core.commands.respond(
            CommandResponse(
                tenant="acme", device="d1", reply_id="r", correlation_id="c", status=200
            ),
            lambda _e: None,
        )
        answer = await stream.next()
    assert (nobody["status"], nobody["subject"]) == (503, "on")
    assert (taken["status"], taken["encoding"], taken["payload"]) == (202, "base64", "AP8=")
    assert (answer["kind"], answer["response-status"], answer["correlation-id"]) == (
        "response",
        200,
        "c",
    )


async def test_a_long_payload_is_cut(core: Core, url: str) -> None:
    async with watching(url) as stream:
        core.ingress.submit(an_upload(payload=b"x" * (MAX_SHOWN + 5)), lambda _e: None)
        line = await stream.next()
    assert (len(line["payload"]), line["size"], line["cut"]) == (MAX_SHOWN, MAX_SHOWN + 5, True)


async def test_a_slow_watcher_misses_the_oldest_and_is_told_how_many() -> None:
    traffic = Traffic()
    watcher, end = traffic.watch("acme", frozenset(), None)
    for number in range(MAX_LINES + 7):
        traffic.uploaded(an_upload(payload=b"%d" % number), "acme", "d1", "")
    missed, lines = await watcher.lines()
    assert (missed, len(lines), lines[0].payload) == (7, MAX_LINES, 7)
    end()
    assert traffic.watchers == ()


async def test_too_many_watchers_are_refused(core: Core, url: str) -> None:
    for _ in range(MAX_WATCHERS):
        core.traffic.watch("acme", frozenset({Passing.EVENT}), None)
    with pytest.raises(QuotaExceeded):
        core.traffic.watch("acme", frozenset(), None)
    async with (
        aiohttp.ClientSession(headers=LOGIN) as http,
        http.get(f"{url}/traffic/acme") as response,
    ):
        assert response.status == 429


@pytest.mark.parametrize(
    ("path", "login", "status"),
    [("acme?kind=music", LOGIN, 400), ("nobody", LOGIN, 404), ("acme", {}, 401)],
)
async def test_bad_requests_get_an_error(
    url: str, path: str, login: dict[str, str], status: int
) -> None:
    async with (
        aiohttp.ClientSession(headers=login) as http,
        http.get(f"{url}/traffic/{path}") as response,
    ):
        assert response.status == status
        assert (await response.json())["error"]


async def test_a_service_that_stops_ends_the_streams(core: Core) -> None:
    async with AsyncExitStack() as clients:
        async with a_registry_api(core) as url:
            stream = await clients.enter_async_context(watching(url))
        with pytest.raises(EOFError):
            await stream.next()
        assert core.traffic.watchers == ()


async def test_a_reader_who_left_is_forgotten(core: Core, url: str) -> None:
    async with watching(url):
        assert len(core.traffic.watchers) == 1
    async with watching(url) as stream:
        core.ingress.submit(an_upload(), lambda _e: None)
        await stream.next()
        assert len(core.traffic.watchers) == 1
