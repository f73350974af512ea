"""Listening sockets: addresses, taken ports, peers that do not finish their first request."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest
from aiohttp import web

from gateway.errors import InvalidSetting
from gateway.runtime.listener import (
    Door,
    Endpoints,
    PortTaken,
    doors_of,
    listen_tcp,
    listening,
    parse_bind,
    reserved,
    serve_app,
)

FREE = "127.0.0.1:0"


async def _hello(_request: web.Request) -> web.Response:
    return web.Response(text="hello")


def _app() -> web.Application:
    app = web.Application()
    app.router.add_get("/", _hello)
    return app


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:80", ("127.0.0.1", 80)),
        ("[::1]:80", ("::1", 80)),
        (":80", ("0.0.0.0", 80)),
        ("host:0", ("host", 0)),
    ],
)
def test_a_bind_is_read(text: str, expected: tuple[str, int]) -> None:
    assert parse_bind(text) == expected


@pytest.mark.parametrize("text", ["host", "host:", "host:x", "host:70000"])
def test_a_bad_bind_names_its_setting(text: str) -> None:
    with pytest.raises(InvalidSetting, match=r"a\.b: expected host:port"):
        parse_bind(text, "a.b")


async def test_a_taken_port_names_port_holder_and_setting() -> None:
    first, second = Endpoints(), Endpoints()
    server = await listen_tcp(first, "one", "127.0.0.1:0", asyncio.Protocol, setting="x.bind")
    async with server:
        port = first.port("one")
        with pytest.raises(PortTaken) as caught:
            await listen_tcp(second, "two", f"127.0.0.1:{port}", asyncio.Protocol, setting="x.bind")
        assert f"port {port} on 127.0.0.1 is taken by" in str(caught.value)
        assert "--set x.bind=" in str(caught.value)
        with pytest.raises(PortTaken, match=f"port {port}"):
            async with serve_app(second, "web", f"127.0.0.1:{port}", _app(), setting="y.bind"):
                pass


async def test_many_requests_pass_on_one_connection() -> None:
    endpoints = Endpoints()
    async with (
        serve_app(endpoints, "web", "127.0.0.1:0", _app(), setting="web.bind", header_seconds=0.2),
        aiohttp.ClientSession() as session,
    ):
        for _ in range(3):
            async with session.get(f"http://{endpoints.get('web')}/") as answer:
                assert await answer.text() == "hello"
            await asyncio.sleep(0.15)  # longer in all than a first request may take


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nHost: x\r\n"])
async def test_a_peer_that_does_not_finish_its_first_headers_is_hung_up_on(sent: bytes) -> None:
    endpoints = Endpoints()
    async with serve_app(
        endpoints, "web", "127.0.0.1:0", _app(), setting="web.bind", header_seconds=0.1
    ):
        reader, writer = await asyncio.open_connection("127.0.0.1", endpoints.port("web"))
        writer.write(sent)
        assert await asyncio.wait_for(_rest_of(reader), 5) == b""
        writer.close()


async def _rest_of(reader: asyncio.StreamReader) -> bytes:
    """What still comes before the peer hangs up, politely or not."""
    try:
        return await reader.read()
    except ConnectionResetError:
        return b""


async def test_a_socket_too_many_is_hung_up_on_and_the_others_go_on() -> None:
    endpoints = Endpoints()
    async with serve_app(
        endpoints, "web", "127.0.0.1:0", _app(), setting="web.bind", max_connections=1
    ):
        port = endpoints.port("web")
        first, to_first = await asyncio.open_connection("127.0.0.1", port)
        to_first.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"200 OK" in await asyncio.wait_for(first.readuntil(b"hello"), 5)
        second, to_second = await asyncio.open_connection("127.0.0.1", port)
        assert await asyncio.wait_for(_rest_of(second), 5) == b""
        to_first.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"200 OK" in await asyncio.wait_for(first.readuntil(b"hello"), 5)
        to_first.close()
        to_second.close()


async def test_headers_may_come_in_pieces() -> None:
    endpoints = Endpoints()
    async with serve_app(endpoints, "web", "127.0.0.1:0", _app(), setting="web.bind"):
        reader, writer = await asyncio.open_connection("127.0.0.1", endpoints.port("web"))
        for byte in b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n":
            writer.write(bytes((byte,)))
            await writer.drain()
            await asyncio.sleep(0)
        answer = await asyncio.wait_for(reader.read(), 5)
        assert answer.endswith(b"hello")
        writer.close()


async def test_when_one_door_is_taken_none_is_open() -> None:
    endpoints = Endpoints()
    async with listening(endpoints, asyncio.Protocol, [Door("one", FREE, "one.bind")]):
        taken = endpoints.get("one")
        doors = doors_of(Door("two", FREE, "two.bind"), "three", taken, None)
        assert [door.name for door in doors] == ["two"]
        both = [*doors, Door("three", taken, "two.tls_bind")]
        with pytest.raises(PortTaken, match=r"two\.tls_bind"):
            async with listening(endpoints, asyncio.Protocol, both):
                raise AssertionError("it is not to be entered")
    for name in ("one", "two"):
        host, _, port = endpoints.get(name).rpartition(":")
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(host, int(port))


async def test_processes_that_share_ports_listen_on_a_reserved_one() -> None:
    front, first, second = Endpoints(), Endpoints(shares_ports=True), Endpoints(shares_ports=True)
    with reserved(front, [Door("a", FREE, "a.bind")]) as found:
        door = Door("a", found["a.bind"], "a.bind")
        async with (
            listening(first, asyncio.Protocol, [door]),
            listening(second, asyncio.Protocol, [door]),
        ):
            assert first.get("a") == second.get("a") == front.get("a")


async def test_a_port_that_others_share_is_not_reserved_twice() -> None:
    with reserved(Endpoints(), [Door("a", FREE, "a.bind")]) as found:
        door = Door("a", found["a.bind"], "a.bind")
        with pytest.raises(PortTaken, match="a: port"), reserved(Endpoints(), [door]):
            pass
    with reserved(Endpoints(), [door]):
        pass  # free again
