"""The thin HTTP server on a transport that the test plays: cuts, noise, caps, bad headers."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.hono.adapters.http_requests import Request
from gateway.hono.adapters.http_server import (
    MAX_HEADER_BYTES,
    SLICE,
    Exchange,
    HttpConnection,
    Limits,
    Response,
    encode,
)
from tests.hono_rig import until

LIMITS = Limits(body=100, request_seconds=10, idle_seconds=10)
STREAM = (
    b"POST /a?x=1 HTTP/1.1\r\nHost: h\r\nX-One: 1\r\nContent-Length: 3\r\n\r\nabc"
    b"GET /b HTTP/1.1\r\nHost: h\r\n\r\n"
    b"PUT /c HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    b"2\r\nde\r\n1\r\nf\r\n0\r\n\r\n"
)
SEEN = [("POST", "/a?x=1", b"abc"), ("GET", "/b", b""), ("PUT", "/c", b"def")]


class Pipe(asyncio.Transport):
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.out = b""
        self.is_closed = False
        self.is_paused = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.out += bytes(data)

    def can_write_eof(self) -> bool:
        return False

    def close(self) -> None:
        self.is_closed = True

    abort = close

    def is_closing(self) -> bool:
        return self.is_closed

    def pause_reading(self) -> None:
        self.is_paused = True

    def resume_reading(self) -> None:
        self.is_paused = False


def a_connection(handle: Callable[[Exchange], None]) -> tuple[HttpConnection, Pipe]:
    connection = HttpConnection(
        handle, lambda status, text: Response(status, text.encode()), LIMITS, lambda _: None
    )
    pipe = Pipe()
    connection.connection_made(pipe)
    return connection, pipe


def served(*pieces: bytes) -> tuple[list[tuple[str, str, bytes]], list[bytes], Pipe]:
    """Feed pieces to a server that echoes; returns requests, statuses and the transport."""
    seen: list[tuple[str, str, bytes]] = []

    def handle(exchange: Exchange) -> None:
        request = exchange.request
        seen.append((request.method, request.target, request.body))
        exchange.respond(Response(200, request.body))

    connection, pipe = a_connection(handle)
    for piece in pieces:
        connection.data_received(piece)
    connection.connection_lost(None)
    return seen, re.findall(rb"HTTP/1\.1 (\d+)", pipe.out), pipe


async def test_requests_do_not_depend_on_where_the_network_cuts_them() -> None:
    for cut in range(len(STREAM) + 1):
        seen, statuses, pipe = served(STREAM[:cut], STREAM[cut:])
        assert (seen, statuses) == (SEEN, [b"200"] * 3), cut
        assert pipe.is_closed
    seen, _, _ = served(*(STREAM[at : at + 1] for at in range(len(STREAM))))
    assert seen == SEEN


async def test_nothing_is_read_after_the_last_request() -> None:
    seen, statuses, _ = served(STREAM + STREAM)
    assert (seen, statuses) == (SEEN, [b"200"] * 3)


def test_noise_never_breaks_the_server() -> None:
    @given(st.lists(st.binary(max_size=300) | st.just(STREAM[:60]), max_size=8))
    def feed(pieces: list[bytes]) -> None:
        async def run() -> None:
            _, statuses, pipe = served(*pieces)
            assert set(statuses) <= {b"200", b"400", b"413", b"431"}
            assert len(pipe.out) < 5_000

        asyncio.run(run())

    feed()


async def test_a_head_without_end_is_cut_off() -> None:
    connection, pipe = a_connection(lambda _: None)
    connection.data_received(b"GET /a HTTP/1.1\r\nX: ")
    sent = 0
    while not pipe.out and sent < 10 * MAX_HEADER_BYTES:
        connection.data_received(b"y" * 1_000)
        sent += 1_000
    assert sent <= MAX_HEADER_BYTES + SLICE
    assert pipe.out.startswith(b"HTTP/1.1 431")
    assert pipe.is_closed
    connection.connection_lost(None)


async def test_reading_stops_while_the_pipeline_is_full() -> None:
    exchanges: list[Exchange] = []
    connection, pipe = a_connection(exchanges.append)
    connection.data_received(b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n" * 1_000)
    assert (pipe.is_paused, len(exchanges) < 200) == (True, True)
    while len(exchanges) < 1_000:
        for exchange in tuple(exchanges):
            exchange.respond(Response(204))
    for exchange in exchanges:
        exchange.respond(Response(204))
    assert not pipe.is_paused
    assert pipe.out.count(b"HTTP/1.1 204") == 1_000
    connection.connection_lost(None)


async def test_answers_wait_for_those_before_them() -> None:
    exchanges: list[Exchange] = []
    connection, pipe = a_connection(exchanges.append)
    connection.data_received(STREAM)
    written: list[bool] = []
    exchanges[2].respond(Response(203), written.append)
    exchanges[1].respond(Response(202), written.append)
    assert pipe.out == b""
    exchanges[0].respond(Response(201), written.append)
    assert re.findall(rb"HTTP/1\.1 (\d+)", pipe.out) == [b"201", b"202", b"203"]
    assert written == [True] * 3
    connection.connection_lost(None)


async def test_who_is_not_answered_hears_that_the_peer_has_gone() -> None:
    exchanges: list[Exchange] = []
    connection, _ = a_connection(exchanges.append)
    connection.data_received(STREAM)
    gone: list[str] = []
    written: list[bool] = []
    exchanges[0].on_gone = lambda: gone.append("first")
    exchanges[1].respond(Response(200), written.append)
    connection.connection_lost(None)
    exchanges[0].respond(Response(200))
    assert (gone, written) == (["first"], [False])


class Stuck(Pipe):
    """The transport of a peer that reads nothing: only an abort ends it."""

    is_aborted = False

    def close(self) -> None:
        """What was written waits to be read."""

    def abort(self) -> None:
        self.is_aborted = True


async def test_a_slow_sender_that_reads_nothing_is_dropped_in_the_end() -> None:
    connection = HttpConnection(
        lambda _: None,
        lambda status, text: Response(status, text.encode()),
        Limits(body=100, request_seconds=0.02, idle_seconds=0.02),
        lambda _: None,
    )
    pipe = Stuck()
    connection.connection_made(pipe)
    connection.data_received(b"POST /a HTTP/1.1\r\n")
    await until(lambda: pipe.is_aborted)
    assert pipe.out.startswith(b"HTTP/1.1 408")
    connection.connection_lost(None)


async def test_an_answer_that_is_too_late_was_not_written() -> None:
    exchanges: list[Exchange] = []
    connection, pipe = a_connection(exchanges.append)
    connection.data_received(STREAM)
    written: list[bool] = []
    pipe.is_closed = True
    exchanges[0].respond(Response(200), written.append)
    connection.connection_lost(None)
    exchanges[1].respond(Response(200), written.append)
    assert (written, pipe.out) == ([False, False], b"")


@pytest.mark.parametrize(
    "head",
    [
        b"Content-Length: 3\r\nTransfer-Encoding: chunked",
        b"Transfer-Encoding: chunked\r\nContent-Length: 3",
        b"Content-Length: 3\r\nContent-Length: 3",
        b"Content-Length: 3, 3",
        b"Content-Length: +3",
        b"Content-Length : 3",
        b"Content-Length:\r\n 3",
        b"X-Folded: a\r\n b\r\nContent-Length: 3",
        b"Transfer-Encoding: identity",
        b"Transfer-Encoding: xchunked",
        b"Transfer-Encoding: chunked, gzip",
        b"X-Bare: a\rContent-Length: 3",
    ],
)
async def test_a_body_of_uncertain_length_ends_the_connection(head: bytes) -> None:
    stream = b"POST /a HTTP/1.1\r\nHost: h\r\n" + head + b"\r\n\r\n" + STREAM
    seen, statuses, pipe = served(stream)
    assert (seen, statuses, pipe.is_closed) == ([], [b"400"], True)


@pytest.mark.parametrize("endless", [b"1\r\nx\r\n", b"0\r\nX: y\r\n", b"0\r\nX: "])
async def test_chunks_and_trailers_without_end_are_cut_off(endless: bytes) -> None:
    connection, pipe = a_connection(lambda _: None)
    connection.data_received(b"PUT /c HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" + endless)
    more, sent = (endless if endless.startswith(b"1") else b"y" * 500), 0
    while not pipe.out and sent < 100 * MAX_HEADER_BYTES:
        connection.data_received(more * 10)
        sent += len(more) * 10
    assert re.findall(rb"HTTP/1\.1 (\d+)", pipe.out) in ([b"413"], [b"400"])
    assert sent < 3 * MAX_HEADER_BYTES
    connection.connection_lost(None)


def test_a_header_value_cannot_add_headers() -> None:
    response = Response(200, b"", (("hono-command", "a\r\nSet-Cookie: x\x00"),))
    assert b"hono-command: a  Set-Cookie: x \r\n" in encode(response, keep_alive=True)


def test_the_last_of_repeated_query_parameters_counts() -> None:
    assert Request(target="/a?x=1&x=2&y=").query == {"x": "2", "y": ""}
