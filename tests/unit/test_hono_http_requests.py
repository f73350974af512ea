"""Requests with a head that came before are what the parser would have made of them."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.hono.adapters import http_requests
from gateway.hono.adapters.http_requests import KEPT, MAX_HEAD, Heads, Request
from gateway.hono.adapters.http_server import Exchange, Response
from tests.unit.test_hono_http_server import a_connection

HEADS = (
    "POST /telemetry HTTP/1.1\r\nHost: h\r\nContent-Length: {size}\r\n\r\n",
    "PUT /telemetry/a/b?hono-ttd=5 HTTP/1.1\r\nContent-Length: {size}\r\nX-One: 1\r\n\r\n",
    "POST /event HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: {size}\r\n\r\n",
    "POST /event HTTP/1.1\r\nConnection: keep-alive\r\nContent-Length: {size}\r\n\r\n",
    "POST /long HTTP/1.1\r\nX: " + "y" * MAX_HEAD + "\r\nContent-Length: {size}\r\n\r\n",
)
BARE = b"GET /b HTTP/1.1\r\nHost: h\r\n\r\n"
CHUNKED = b"PUT /c HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nde\r\n0\r\n\r\n"
BODIES = st.sampled_from((b"", b"a", b"b" * 3, b"\r\n\r\n", BARE))
REQUESTS = st.builds(
    lambda head, body: head.format(size=len(body)).encode() + body, st.sampled_from(HEADS), BODIES
) | st.sampled_from((BARE, CHUNKED))

Seen = tuple[str, str, dict[str, str], bytes]


def request(body: bytes, length: int | None = None) -> bytes:
    return HEADS[0].format(size=len(body) if length is None else length).encode() + body


async def served(pieces: list[bytes]) -> tuple[list[Seen], bytes]:
    """What a server saw, and what it wrote."""
    seen: list[Seen] = []

    def handle(exchange: Exchange) -> None:
        found = exchange.request
        seen.append((found.method, found.target, dict(found.headers), found.body))
        exchange.respond(Response(202))

    connection, pipe = a_connection(handle)
    for piece in pieces:
        connection.data_received(piece)
    connection.connection_lost(None)
    return seen, pipe.out


@given(st.lists(REQUESTS, max_size=12), st.lists(st.integers(1, 200), max_size=12), st.booleans())
def test_requests_are_the_same_with_and_without_the_parser(
    requests: list[bytes], cuts: list[int], is_whole: bool
) -> None:
    stream, pieces = b"".join(requests), list(requests)
    if not is_whole:
        pieces = []
        for cut in [*cuts, len(stream)]:
            pieces.append(stream[:cut])
            stream = stream[cut:]
    by_parser: tuple[list[Seen], bytes]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(http_requests.Heads, "find", lambda _self, _data: None)
        by_parser = asyncio.run(served(pieces))
    found = asyncio.run(served(pieces))
    assert found[0] == by_parser[0]
    assert found[1].count(b"202 Accepted") == by_parser[1].count(b"202 Accepted")


async def test_the_second_request_with_a_head_needs_no_parser(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[bytes] = []

    def handle(exchange: Exchange) -> None:
        seen.append(exchange.request.body)
        exchange.respond(Response(202))

    connection, _ = a_connection(handle)
    connection.data_received(request(b"one"))
    monkeypatch.setattr(connection, "_parser", None)  # whoever used it would fail
    connection.data_received(request(b"two") + request(b"six"))
    assert seen == [b"one", b"two", b"six"]
    connection.connection_lost(None)


async def test_empty_lines_between_requests_do_not_repeat_the_last_one() -> None:
    blank = b"\r\n\r\n"
    seen, _ = await served([request(b""), blank, blank, blank + request(b"")])
    assert len(seen) == 2


async def test_a_body_that_is_not_all_there_is_waited_for() -> None:
    seen, _ = await served([request(b"one"), request(b"t", 3), b"wo", request(b"six")])
    assert [body for *_, body in seen] == [b"one", b"two", b"six"]


def test_what_was_noted_about_a_head_is_made_once() -> None:
    made: list[str] = []

    def path(request: Request) -> str:
        made.append(request.target)
        return request.path

    first = Request("POST", "/a?x=1", {}, b"one")
    assert [first.noted(path), first.with_body(b"two").noted(path)] == ["/a", "/a"]
    assert made == ["/a?x=1"]


def test_heads_are_bounded() -> None:
    heads = Heads()
    for number in range(KEPT + 1):
        data = b"POST /%d HTTP/1.1\r\n\r\n" % number
        heads.keep(data, Request("POST", f"/{number}"))
    assert heads.find(b"POST /0 HTTP/1.1\r\n\r\n") is None
    assert heads.find(b"POST /%d HTTP/1.1\r\n\r\n" % KEPT) is not None
