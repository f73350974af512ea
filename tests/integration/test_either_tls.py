"""One port for plain and TLS clients, on both event loops."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import AbstractAsyncContextManager, suppress
from pathlib import Path

import pytest
import uvloop

from gateway.runtime.certificates import ensure_server
from gateway.runtime.listener import Endpoints, PortTaken
from gateway.runtime.small_client import fetch
from gateway.runtime.small_service import Request, Response, serve_requests


async def hello(request: Request) -> Response:
    return Response(200, {}, f"{request.method} {request.path} {len(request.body)}".encode())


def contexts(folder: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's and a client's side."""
    certificate, key = ensure_server(folder, "test authority", "test", ["127.0.0.1"])
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate, key)
    return server, ssl.create_default_context(cafile=folder / "ca.crt")


def serving(
    endpoints: Endpoints, context: ssl.SSLContext | None, max_connections: int = 100
) -> AbstractAsyncContextManager[None]:
    return serve_requests(
        endpoints,
        "it",
        "127.0.0.1:0",
        hello,
        max_body=1_000_000,
        setting="it.bind",
        either_tls=lambda: context,
        max_connections=max_connections,
    )


async def ask(url: str, context: ssl.SSLContext | None = None, body: bytes = b"") -> str:
    answer = await fetch("POST", url, body=body, seconds=10, max_body=1_000, ssl=context)
    return answer.body.decode()


async def done(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()


async def both_ways(server: ssl.SSLContext, client: ssl.SSLContext) -> None:
    endpoints = Endpoints()
    body = b"x" * 500_000
    async with serving(endpoints, server):
        address = endpoints.get("it")
        for _ in range(3):
            assert await ask(f"http://{address}/a", body=body) == "POST /a 500000"
            assert await ask(f"https://{address}/b", client, body) == "POST /b 500000"


@pytest.mark.parametrize("make", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_plain_and_tls_clients_meet_the_same_server(make: object, tmp_path: Path) -> None:
    assert callable(make)
    with asyncio.Runner(loop_factory=make) as runner:
        runner.run(both_ways(*contexts(tmp_path)))


async def test_silent_and_odd_clients_hold_up_nobody_and_end_with_the_server() -> None:
    endpoints = Endpoints()
    async with serving(endpoints, None):
        address = endpoints.get("it")
        port = int(address.rpartition(":")[2])
        silent, keep = await asyncio.open_connection("127.0.0.1", port)
        refused, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"\x16\x03\x01")
        with suppress(ConnectionResetError):  # no certificate: sent away, its bytes unread
            assert await refused.read() == b""
        await done(writer)
        assert await ask(f"http://{address}/a") == "POST /a 0"
    assert await silent.read() == b""
    await done(keep)


async def test_more_connections_than_are_allowed_are_hung_up_on() -> None:
    endpoints = Endpoints()
    async with serving(endpoints, None, max_connections=2):
        port = int(endpoints.get("it").rpartition(":")[2])
        held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert await reader.read() == b""
        for _, each in (*held, (reader, writer)):
            await done(each)


async def test_a_taken_port_is_named() -> None:
    endpoints = Endpoints()
    async with serving(endpoints, None):
        bind = endpoints.get("it")
        with pytest.raises(PortTaken, match=r"it\.bind"):
            async with serve_requests(
                Endpoints(),
                "it",
                bind,
                hello,
                max_body=1,
                setting="it.bind",
                either_tls=lambda: None,
            ):
                pass
