"""The small HTTP server and client, against each other and strangers: aiohttp, http.client, raw bytes."""

from __future__ import annotations

import asyncio
import http.client
import ssl
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from gateway.errors import BadRequest, NotFound, TooLarge, Undeliverable
from gateway.runtime import small_service
from gateway.runtime.listener import Endpoints, serve_app
from gateway.runtime.small_client import HttpAnswer, NotSent, fetch, open_stream
from gateway.runtime.small_service import Request, Respond, Response, serve_requests
from tests.device_pki import a_server

FREE = "127.0.0.1:0"


@asynccontextmanager
async def a_service(respond: Respond, **options: Any) -> AsyncIterator[str]:
    endpoints = Endpoints()
    options = {"max_body": 1_000, **options}
    async with serve_requests(endpoints, "s", FREE, respond, setting="s.bind", **options):
        yield endpoints.get("s")


async def mirror(request: Request) -> Response:
    """Answer what was understood."""
    said = f"{request.method} {request.path}?{request.query} {request.headers.get('x')}".encode()
    return Response(200, {"Content-Type": "text/plain"}, said + b" " + request.body)


async def ask(address: str, data: bytes, *, until_end: bool = True) -> bytes:
    """Send raw bytes and return what comes until the server hangs up."""
    host, _, port = address.partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(data)
    try:
        async with asyncio.timeout(5):
            return await reader.read(-1 if until_end else 65_536)
    finally:
        writer.close()


def get(address: str, **options: Any) -> Awaitable[HttpAnswer]:
    options = {"seconds": 5.0, "max_body": 10_000, **options}
    return fetch("GET", f"http://{address}/a%2Fb?x=1&y", **options)


# --- server ----------------------------------------------------------------------------------------


async def test_a_request_is_read_and_answered() -> None:
    async with a_service(mirror) as address:
        url = f"http://{address}/a%2Fb/c?x=1&y"
        found = await fetch(
            "PUT", url, headers={"X": ["1", "2"]}, body=b"hello", seconds=5, max_body=100
        )
    assert found.status == 200
    assert found.body == b"PUT /a%2Fb/c?x=1&y 1, 2 hello"
    assert found.header("Content-Type") == "text/plain"
    assert found.header("Date")


async def test_other_clients_are_served_on_kept_connections() -> None:
    async with a_service(mirror) as address, aiohttp.ClientSession() as session:
        for text in (b"one", b"two"):
            async with session.post(f"http://{address}/p", data=text) as answer:
                assert (await answer.read()).endswith(text)

        def plain() -> list[tuple[int, bytes]]:
            client = http.client.HTTPConnection(address, timeout=5)
            found = []
            for _ in range(2):
                client.request("GET", "/p", headers={"X": "7"})
                answer = client.getresponse()
                found.append((answer.status, answer.read()))
            client.close()
            return found

        assert await asyncio.to_thread(plain) == [(200, b"GET /p? 7 ")] * 2


async def test_a_chunked_body_is_put_together() -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for piece in (b"one ", b"two ", b"three"):
            yield piece

    async with (
        a_service(mirror) as address,
        aiohttp.ClientSession() as session,
        session.post(f"http://{address}/p", data=pieces()) as answer,
    ):
        assert (await answer.read()).endswith(b"one two three")


async def test_pipelined_requests_are_answered_in_order() -> None:
    async with a_service(mirror) as address:
        first = b"POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi"
        last = b"GET /2 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
        answer = await ask(address, first + last)
    assert answer.index(b"POST /1") < answer.index(b"GET /2")


async def test_a_head_request_gets_the_length_without_the_body() -> None:
    async with a_service(mirror) as address:
        answer = await ask(address, b"HEAD /p HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    assert b"Content-Length: 14\r\n" in answer
    assert answer.endswith(b"\r\n\r\n")


async def test_http_1_0_is_served_and_closed() -> None:
    async with a_service(mirror) as address:
        answer = await ask(address, b"GET /p HTTP/1.0\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"Connection: close\r\n" in answer


async def test_absolute_targets_lead_to_their_path() -> None:
    async with a_service(mirror) as address:
        head = b"GET http://other:1/p?q HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
        assert b"GET /p?q None" in await ask(address, head)


async def test_a_client_that_expects_to_be_told_is() -> None:
    async with a_service(mirror) as address:
        head = b"POST /p HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"
        host, _, port = address.partition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(head)
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"hi")
        assert b"200 OK" in await reader.readuntil(b"\r\n\r\n")
        writer.close()


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 400),
        (b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"G@T / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET nowhere HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET /\x01 HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET /#a HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: \x00\r\n\r\n", 400),
        (b"GET / HTTP/1.1\nHost: a\n\n\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\na", 400),
        (
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
        ),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
        (b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n\r\n", 400),
        (
            b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nabc\r\n0\r\n\r\n",
            400,
        ),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1001\r\n\r\n", 413),
        (
            b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3e9\r\n"
            + b"a" * 1001,
            413,
        ),
        (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 101 + b"\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 20_000 + b"\r\n\r\n", 431),
    ],
)
async def test_what_is_no_request_is_refused_and_ends_the_connection(
    request_bytes: bytes, status: int
) -> None:
    asked = []

    async def respond(request: Request) -> Response:
        asked.append(request)
        return Response(200)

    async with a_service(respond) as address:
        answer = await ask(address, request_bytes)
    assert answer.startswith(b"HTTP/1.1 %d " % status), answer
    assert b"Connection: close" in answer
    assert asked == []


async def test_errors_of_the_room_have_their_status_and_bugs_are_500(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def respond(request: Request) -> Response:
        if request.path == "/bug":
            raise KeyError
        raise NotFound("nothing here")

    async with a_service(respond) as address:
        found = await fetch("GET", f"http://{address}/x", seconds=5, max_body=100)
        bug = await fetch("GET", f"http://{address}/bug", seconds=5, max_body=100)
    assert (found.status, found.body) == (404, b"nothing here\n")
    assert bug.status == 500
    assert "a request failed" in caplog.text


async def test_a_stream_comes_piece_by_piece_and_is_closed_when_the_client_goes() -> None:
    go_on, closed = asyncio.Event(), asyncio.Event()

    async def pieces() -> AsyncIterator[bytes]:
        try:
            yield b"one"
            await go_on.wait()
            yield b"two"
            await asyncio.Event().wait()
        finally:
            closed.set()

    async def respond(_: Request) -> Response:
        return Response(200, {}, pieces())

    async with a_service(respond) as address:
        async with open_stream("GET", f"http://{address}/watch") as answer:
            assert await anext(answer.body) == b"one"
            go_on.set()
            assert await anext(answer.body) == b"two"
            assert not closed.is_set()
        async with asyncio.timeout(5):
            await closed.wait()


async def test_a_stream_ends_and_the_connection_goes_on() -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"one"
        yield b""
        yield b"two"

    async def respond(_: Request) -> Response:
        return Response(200, {}, pieces())

    async with a_service(respond) as address, aiohttp.ClientSession() as session:
        for _ in range(2):
            async with session.get(f"http://{address}/") as answer:
                assert await answer.read() == b"onetwo"
        assert b"onetwo" in await ask(address, b"GET / HTTP/1.0\r\n\r\n")


async def test_a_stream_that_fails_does_not_look_complete(caplog: pytest.LogCaptureFixture) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"one"
        raise KeyError

    async def respond(_: Request) -> Response:
        return Response(200, {}, pieces())

    async with a_service(respond) as address:
        with pytest.raises(Undeliverable):
            await get(address)
    assert "a connection failed" in caplog.text


async def test_a_request_whose_client_goes_away_is_cancelled() -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def respond(_: Request) -> Response:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        raise AssertionError

    async with a_service(respond) as address:
        host, _, port = address.partition(":")
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await begun.wait()
        writer.close()
        async with asyncio.timeout(5):
            await ended.wait()


async def test_more_connections_than_allowed_are_hung_up_on() -> None:
    async with a_service(mirror, max_connections=1) as address:
        host, _, port = address.partition(":")
        reader, first = await asyncio.open_connection(host, int(port))
        first.write(b"GET / HTTP/1.1\r\n")
        first.write(b"Host: a\r\n\r\n")
        assert b"200 OK" in await reader.readuntil(b"\r\n\r\n")
        with pytest.raises(Undeliverable):
            await get(address)
        first.close()


async def test_who_does_not_finish_a_head_is_hung_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(small_service, "HEAD_SECONDS", 0.05)
    async with a_service(mirror) as address:
        assert await ask(address, b"GET / HT") == b""


async def test_who_does_not_read_a_stream_is_hung_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(small_service, "WRITE_SECONDS", 0.1)
    closed = asyncio.Event()

    async def flood() -> AsyncIterator[bytes]:
        try:
            while True:
                yield bytes(1_000_000)
        finally:
            closed.set()

    async def respond(_: Request) -> Response:
        return Response(200, {}, flood())

    async with a_service(respond) as address:
        host, _, port = address.partition(":")
        _, writer = await asyncio.open_connection(host, int(port), limit=1_000)
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        async with asyncio.timeout(10):
            await closed.wait()
        writer.close()


async def test_a_header_that_would_end_early_is_never_written() -> None:
    async def respond(request: Request) -> Response:
        return Response(200, {"X": "a\r\nSet-Cookie: b"})

    async with a_service(respond) as address:
        with pytest.raises(Undeliverable):
            await get(address)


# --- client ----------------------------------------------------------------------------------------


@asynccontextmanager
async def a_peer(answer: bytes) -> AsyncIterator[str]:
    """A server that reads a head, answers these bytes and hangs up."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        yield f"127.0.0.1:{port}"


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi and more", b"hi"),
        (b"HTTP/1.0 200 OK\r\n\r\nto the end", b"to the end"),
        (b"HTTP/1.1 200\r\n\r\n", b""),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 Gone\r\nContent-Length: 5\r\n\r\n", b""),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"2;ext=1\r\nhi\r\nA\r\n0123456789\r\n0\r\nTrailer: x\r\n\r\n",
            b"hi0123456789",
        ),
    ],
)
async def test_answers_of_every_form_are_read(answer: bytes, body: bytes) -> None:
    async with a_peer(answer) as address:
        assert (await get(address)).body == body


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhi",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhi",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\nhi",
        b"HTTP/1.1 100 Continue\r\n\r\n" * 11,
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 20_000 + b"\r\n\r\n",
    ],
)
async def test_what_is_no_answer_is_told_with_the_url_and_without_its_query(answer: bytes) -> None:
    async with a_peer(answer) as address:
        with pytest.raises(Undeliverable, match=f"http://{address}/a%2Fb: ") as caught:
            await get(address)
    assert "x=1" not in caught.value.message
    assert not isinstance(caught.value, NotSent)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\n" + bytes(11),
        b"HTTP/1.1 200 OK\r\n\r\n" + bytes(11),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nb\r\n"
        + bytes(11)
        + b"\r\n0\r\n\r\n",
    ],
)
async def test_an_answer_that_is_too_long_is_refused(answer: bytes) -> None:
    async with a_peer(answer) as address:
        with pytest.raises(TooLarge):
            await get(address, max_body=10)


async def test_a_peer_that_is_away_has_got_nothing() -> None:
    async with a_peer(b"") as address:
        pass
    with pytest.raises(NotSent):
        await get(address)


async def test_a_peer_that_is_silent_is_given_up() -> None:
    async def silent(_: Request) -> Response:
        await asyncio.Event().wait()
        raise AssertionError

    async with a_service(silent) as address:
        with pytest.raises(Undeliverable, match="no answer in"):
            await get(address, seconds=0.1)


@pytest.mark.parametrize(
    ("method", "url", "headers"),
    [
        ("GET", "ftp://a/", {}),
        ("GET", "nowhere", {}),
        ("GET", "http://user:secret@a/", {}),
        ("GET", "http://a:99999/", {}),
        ("GET", "http://a/b c", {}),
        ("GET", "http://a/\u00e4", {}),
        ("G ET", "http://a/", {}),
        ("GET", "http://a/", {"X": "a\r\nb"}),
        ("GET", "http://a/", {"X:": "a"}),
    ],
)
async def test_what_cannot_be_written_is_refused(
    method: str, url: str, headers: dict[str, str]
) -> None:
    with pytest.raises(BadRequest) as caught:
        await fetch(method, url, headers=headers, seconds=1, max_body=1)
    assert "secret" not in caught.value.message


async def test_an_aiohttp_server_understands_the_client() -> None:
    async def handle(request: web.Request) -> web.Response:
        said = f"{request.method} {request.path_qs} {request.headers.getall('X')}"
        return web.Response(text=f"{said} {await request.text()}", status=201)

    app, endpoints = web.Application(), Endpoints()
    app.router.add_route("*", "/{path:.*}", handle)
    async with serve_app(endpoints, "a", FREE, app, setting="a.bind"):
        url = f"http://{endpoints.get('a')}/p?q=1"
        headers = {"X": ["1", "2"], "Content-Length": "99"}
        found = await fetch("POST", url, headers=headers, body=b"hi", seconds=5, max_body=1_000)
    assert (found.status, found.body) == (201, b"POST /p?q=1 ['1', '2'] hi")


async def test_tls_is_served_and_spoken_both_ways(tmp_path: Path) -> None:
    pem = a_server(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    trust = ssl.create_default_context(cafile=str(pem))
    async with a_service(mirror, ssl=context) as address:
        url = f"https://localhost:{address.rpartition(':')[2]}/p"
        found = await fetch("GET", url, seconds=5, max_body=100, ssl=trust)
        with pytest.raises(NotSent):
            await fetch("GET", url, seconds=5, max_body=100)
    assert found.body == b"GET /p? None "


async def test_stopping_ends_what_is_under_way() -> None:
    begun = asyncio.Event()
    tasks: list[asyncio.Task[HttpAnswer]] = []

    async def respond(_: Request) -> Response:
        begun.set()
        await asyncio.Event().wait()
        raise AssertionError

    async with a_service(respond) as address:
        tasks.append(asyncio.ensure_future(get(address)))
        await begun.wait()
    with pytest.raises(Undeliverable):
        await tasks[0]
