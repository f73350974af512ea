"""The small HTTP server of the operations port, with http.client, curl's forms and bare bytes."""

from __future__ import annotations

import asyncio
import http.client
import json
import urllib.request
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.config.observe import OpsHttp
from gateway.console.operations import Operations
from gateway.model.json import JsonObject
from gateway.observe.metrics import Metrics
from gateway.runtime import small_http
from gateway.runtime.listener import Endpoints
from gateway.runtime.module import Readiness, running
from gateway.runtime.small_http import (
    Reply,
    fetch_document,
    serve_documents,
    serve_documents_at,
)
from tests.mqtt_peers import raw_client


@asynccontextmanager
async def documents(**more: Reply) -> AsyncIterator[str]:
    endpoints = Endpoints()
    known = {f"/{name}": (lambda _headers, reply=reply: reply) for name, reply in more.items()}
    async with serve_documents(endpoints, "ops", "127.0.0.1:0", known, setting="ops.bind"):
        yield endpoints.get("ops")


async def exchange(address: str, request: bytes) -> bytes:
    """Send bytes; return all that comes until the other side closes."""
    async with raw_client(address) as peer:
        peer.send(request)
        return await peer.rest()


@asynccontextmanager
async def operations(readiness: Readiness) -> AsyncIterator[str]:
    endpoints = Endpoints()
    more: dict[str, Callable[[], JsonObject]] = {"/edge": lambda: {"node": "edge-1"}}
    module = Operations(OpsHttp(bind="127.0.0.1:0"), endpoints, Metrics(), readiness, more)
    async with running(module):
        yield endpoints.get("ops.http")


async def test_the_operations_port_answers_as_ever() -> None:
    readiness = Readiness(("a",))
    async with operations(readiness) as address:

        def ask(path: str, **headers: str) -> tuple[int, str, bytes]:
            with closing(http.client.HTTPConnection(address, timeout=5)) as connection:
                connection.request("GET", path, headers=headers)
                answer = connection.getresponse()
                return answer.status, answer.getheader("Content-Type", ""), answer.read()

        status, kind, body = await asyncio.to_thread(ask, "/readiness")
        assert (status, kind) == (503, "application/json; charset=utf-8")
        checks = [{"name": "a", "status": "DOWN"}]
        assert json.loads(body) == {"status": "DOWN", "checks": checks}
        readiness.mark("a", True)
        assert (await asyncio.to_thread(ask, "/readiness?x=1"))[0] == 200
        assert json.loads((await asyncio.to_thread(ask, "/liveness"))[2])["status"] == "UP"
        assert json.loads((await asyncio.to_thread(ask, "/edge"))[2]) == {"node": "edge-1"}
        status, kind, body = await asyncio.to_thread(ask, "/metrics")
        assert (status, kind.partition(";")[0]) == (200, "text/plain")
        assert b"twinspan_edge_link_up" in body
        accept = "application/openmetrics-text"
        status, kind, body = await asyncio.to_thread(lambda: ask("/metrics", Accept=accept))
        assert kind.startswith(accept)
        assert body.endswith(b"# EOF\n")


async def test_a_kept_connection_serves_one_request_after_another() -> None:
    async with documents(a=Reply(b"A"), b=Reply(b"B")) as address:

        def ask() -> list[bytes]:
            bodies = []
            with closing(http.client.HTTPConnection(address, timeout=5)) as connection:
                for path in ("/a", "/b", "/a"):
                    connection.request("GET", path)
                    bodies.append(connection.getresponse().read())
            return bodies

        assert await asyncio.to_thread(ask) == [b"A", b"B", b"A"]


async def test_urllib_and_head_and_http_1_0_work() -> None:
    async with documents(a=Reply(b"A")) as address:
        url = f"http://{address}/a"
        assert await asyncio.to_thread(lambda: urllib.request.urlopen(url).read()) == b"A"
        head = await exchange(address, b"HEAD /a HTTP/1.1\r\nConnection: close\r\n\r\n")
        assert b"Content-Length: 1\r\n" in head
        assert head.endswith(b"\r\n\r\n")
        assert (await exchange(address, b"GET /a HTTP/1.0\r\n\r\n")).endswith(b"A")


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET /none HTTP/1.0\r\n\r\n", 404),
        (b"POST /a HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc", 405),
        (b"GET /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", 200),
        (b"GET /a\r\n\r\n", 400),
        (b"GET /a HTTP/2.0\r\n\r\n", 400),
        (b"GET  /a HTTP/1.1\r\n\r\n", 400),
        (b"GET /a HTTP/1.1\r\nno colon\r\n\r\n", 400),
        (b"GET /a HTTP/1.1\r\n folded: x\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\r\n\r\n", 400),
        (b"GET /" + b"a" * 20_000, 431),
    ],
)
async def test_odd_requests_are_answered_and_the_connection_closed(
    request_bytes: bytes, status: int
) -> None:
    async with documents(a=Reply(b"A")) as address:
        answer = await exchange(address, request_bytes)
        assert answer.startswith(f"HTTP/1.1 {status} ".encode())


async def test_every_cut_of_a_request_gives_the_same_answer() -> None:
    whole = b"GET /a HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    async with documents(a=Reply(b"A")) as address:
        for cut in range(1, len(whole), 5):
            async with raw_client(address) as peer:
                peer.send(whole[:cut])
                await asyncio.sleep(0)
                peer.send(whole[cut:])
                assert (await peer.rest()).endswith(b"\r\n\r\nA")


async def test_a_client_that_never_finishes_is_hung_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(small_http, "HEAD_SECONDS", 0.02)
    async with documents(a=Reply(b"A")) as address:
        assert await exchange(address, b"GET /a HTTP/1.1\r\nHo") == b""


async def test_one_connection_too_many_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(small_http, "MAX_CONNECTIONS", 1)
    async with documents(a=Reply(b"A")) as address, raw_client(address) as first:
        first.send(b"GET /a HTTP/1.1\r\n\r\n")
        await first.read(10)
        assert await exchange(address, b"GET /a HTTP/1.1\r\n\r\n") == b""
        first.send(b"GET /a HTTP/1.1\r\nConnection: close\r\n\r\n")
        assert (await first.rest()).endswith(b"A")


async def test_a_client_that_does_not_read_gets_no_more_than_fits() -> None:
    asked = 0

    def big(_headers: object) -> Reply:
        nonlocal asked
        asked += 1
        return Reply(b"x" * 100_000)

    endpoints = Endpoints()
    async with (
        serve_documents(endpoints, "o", "127.0.0.1:0", {"/b": big}, setting="o"),
        raw_client(endpoints.get("o"), receive_buffer=4_096) as peer,
    ):
        peer.stop_reading()
        peer.send(b"GET /b HTTP/1.1\r\n\r\n" * 300)
        await asyncio.sleep(0.1)
        assert 0 < asked < 300
        peer.go_on_reading()
        async with asyncio.timeout(10):
            while asked < 300:
                await peer.reader.read(1_000_000)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.binary(max_size=300), st.booleans())
def test_no_bytes_break_the_server(data: bytes, ends: bool) -> None:
    async def run() -> None:
        async with documents(a=Reply(b"A")) as address:
            async with raw_client(address) as peer:
                peer.send(data + (b"\r\n\r\n" if ends else b""))
                peer.writer.write_eof()
                answer = await peer.rest()
                assert not answer or answer.startswith(b"HTTP/1.1 ")
            assert (await exchange(address, b"GET /a HTTP/1.0\r\n\r\n")).endswith(b"A")

    asyncio.run(run())


async def test_documents_are_fetched_over_a_unix_socket(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    documents = {
        "/a": lambda _headers: Reply(b"x" * 200_000),
        "/b": lambda _headers: Reply(b"", status=503),
    }
    async with serve_documents_at(path, documents, setting="s"):
        body = await fetch_document(path, "/a", seconds=5, max_bytes=300_000)
        assert body == b"x" * 200_000
        for document, limit in (("/a", 100_000), ("/b", 100), ("/none", 1_000)):
            with pytest.raises(OSError, match=document):
                await fetch_document(path, document, seconds=5, max_bytes=limit)
    with pytest.raises(OSError, match="No such file"):
        await fetch_document(path, "/a", seconds=5, max_bytes=100)
