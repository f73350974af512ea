"""A thin HTTP/1.1 server for devices: httptools on an asyncio.Protocol, answers by callback.

Pipelined requests are handled as they come and answered in order. What a peer may cost is bounded: bytes and
number of headers, bytes of the body and around it, time for a whole request (a slow sender is closed),
requests in the pipeline (then reading stops), time for taking the answers, sockets. `Expect: 100-continue` is
answered before the body is read.
Source: RFC 9112; limits of the adapter's settings.
"""

from __future__ import annotations

import asyncio
import enum
import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus
from typing import cast

import httptools

from gateway.hono.adapters.http_requests import Heads, Request
from gateway.model.login import NO_TLS, TlsPeer
from gateway.runtime.device_tls import tls_peer

MAX_HEADERS = 64
MAX_HEADER_BYTES = 16_384
MAX_PIPELINE = 16
MAX_FRAMING = 8
"""Bytes on the wire for one of the body's; more is chunks of nearly nothing, or trailers."""
SLICE = 4_096
WRITE_SECONDS = 30.0
LINGER_SECONDS = 1.0

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Limits:
    """What one connection may cost; bytes and seconds."""

    body: int
    request_seconds: float
    idle_seconds: float


@dataclass(frozen=True, slots=True)
class Response:
    """An answer; `Content-Length` and `Date` are added."""

    status: int
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()


class Exchange:
    """One request on its way to its answer.

    `on_gone` is called when the peer has gone before it was answered.
    """

    __slots__ = ("_connection", "_written", "keep_alive", "on_gone", "payload", "request")

    def __init__(self, connection: HttpConnection, request: Request, keep_alive: bool) -> None:
        self._connection = connection
        self._written: Callable[[bool], None] | None = None
        self.request = request
        self.keep_alive = keep_alive
        self.payload: bytes | None = None
        self.on_gone: Callable[[], None] = _nothing

    def respond(self, response: Response, written: Callable[[bool], None] | None = None) -> None:
        """Answer, once; `written` hears whether the answer was handed to the socket."""
        if self.payload is not None:
            if written is not None:
                written(False)
            return
        self.payload = encode(response, keep_alive=self.keep_alive)
        self._written = written
        self._connection.flush()

    @property
    def peer(self) -> TlsPeer:
        """What TLS says about the other end."""
        return self._connection.peer

    @property
    def is_over(self) -> bool:
        """True once it is answered, or the peer has gone."""
        return self.payload is not None

    def settle(self, is_written: bool) -> None:
        """Say what became of the answer, or that the peer has gone without one."""
        if self.payload is None:
            self.payload = b""
            self.on_gone()
        elif self._written is not None:
            written, self._written = self._written, None
            written(is_written)


Handler = Callable[[Exchange], None]


class Dates:
    """The `Date` header, and answers that are nothing but a status: made once a second."""

    def __init__(self) -> None:
        self._second = 0
        self._text = ""
        self._plain: dict[int, bytes] = {}

    def now(self) -> str:
        second = int(time.time())
        if second != self._second:
            self._second, self._text = second, formatdate(second, usegmt=True)
            self._plain.clear()
        return self._text

    def plain(self, response: Response) -> bytes:
        """An answer without headers and body, on a connection that goes on."""
        self.now()
        found = self._plain.get(response.status)
        if found is None:
            found = self._plain[response.status] = _encode(response, keep_alive=True)
        return found


_dates = Dates()
_REASONS = {status.value: status.phrase for status in HTTPStatus}


def encode(response: Response, *, keep_alive: bool) -> bytes:
    """Write an answer; a header value that would break the head loses its line ends."""
    if keep_alive and not response.headers and not response.body:
        return _dates.plain(response)
    return _encode(response, keep_alive=keep_alive)


def _encode(response: Response, *, keep_alive: bool) -> bytes:
    lines = [f"HTTP/1.1 {response.status} {_REASONS.get(response.status, '')}"]
    lines.extend(f"{name}: {_one_line(value)}" for name, value in response.headers)
    if response.status != HTTPStatus.NO_CONTENT:
        lines.append(f"Content-Length: {len(response.body)}")
    lines.append(f"Date: {_dates.now()}")
    if not keep_alive:
        lines.append("Connection: close")
    return "\r\n".join(lines).encode("utf-8") + b"\r\n\r\n" + response.body


def _one_line(value: str) -> str:
    if value.isprintable():
        return value
    return "".join(c if c.isprintable() else " " for c in value)


_NAMES = {
    form.encode(): name.lower()
    for name in (
        "Host", "User-Agent", "Accept", "Accept-Encoding", "Connection", "Content-Type", "Content-Length",
        "Authorization", "QoS-Level", "Hono-TTD", "Hono-TTL", "Hono-Cmd-Status", "Traceparent",
    )
    for form in (name, name.lower())
}  # fmt: skip
"""Header names as they mostly come; making the lower-case text of each costs more than finding it."""


def _nothing() -> None:
    """Nobody listens."""


class Phase(enum.Enum):
    """What the next bytes belong to."""

    IDLE = enum.auto()
    HEAD = enum.auto()
    BODY = enum.auto()
    ENDING = enum.auto()
    """Nothing more is read; the connection ends with the last answer."""


class HttpConnection(asyncio.Protocol):
    """One socket.

    Shape:  `refuse` renders the server's own errors (400, 408, 413, 431).
    """

    def __init__(
        self,
        handle: Handler,
        refuse: Callable[[int, str], Response],
        limits: Limits,
        on_lost: Callable[[HttpConnection], None],
    ) -> None:
        self._handle = handle
        self._refuse = refuse
        self._limits = limits
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpRequestParser(self)
        self._phase = Phase.IDLE
        self._queue: deque[Exchange] = deque()
        self._heads = Heads()
        self._buffer = b""
        self._out: list[bytes] = []
        self._is_feeding = False
        self._is_reading_paused = False
        self._request = Request()
        self._url = b""
        self._body: list[bytes] = []
        self._size = 0
        self._raw = 0
        self._began = self._idle_since = self._loop.time()
        self._blocked_since: float | None = None
        self._idle_seconds = limits.request_seconds
        self._poll_seconds = min(limits.request_seconds, limits.idle_seconds)
        self._timer: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport | None = None
        self._peer: TlsPeer | None = None

    @property
    def peer(self) -> TlsPeer:
        """What TLS says about the other end; asked for once."""
        if self._peer is None and self._transport is not None:
            self._peer = tls_peer(self._transport.get_extra_info("ssl_object"))
        return self._peer or NO_TLS

    # --- asyncio ------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have the interface without the class
        self._transport = cast(asyncio.Transport, transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        self._buffer = self._buffer + data if self._buffer else data
        self._feed()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 the going is enough
        self._transport = None
        self._phase = Phase.ENDING
        if self._timer is not None:
            self._timer.cancel()
        queue, self._queue = self._queue, deque()
        for exchange in queue:
            exchange.settle(False)
        self._on_lost(self)

    def pause_writing(self) -> None:
        self._blocked_since = self._loop.time()

    def resume_writing(self) -> None:
        self._blocked_since = None

    def close(self) -> None:
        """End the connection; who waits is told that the peer has gone."""
        if self._transport is not None:
            self._transport.close()

    # --- time -----------------------------------------------------------------------------------------

    def _deadline(self) -> float:
        """When the connection ends if nothing changes."""
        if self._blocked_since is not None:
            return self._blocked_since + WRITE_SECONDS
        is_receiving = self._phase in (Phase.HEAD, Phase.BODY)
        if is_receiving and len(self._queue) < MAX_PIPELINE:
            return self._began + self._limits.request_seconds
        return math.inf if self._queue else self._idle_since + self._idle_seconds

    def _watch(self) -> None:
        """Look at the deadline now and then: one timer, however often the deadline moves."""
        left = self._deadline() - self._loop.time()
        if left > 0:
            self._timer = self._loop.call_later(min(left, self._poll_seconds), self._watch)
        elif self._phase in (Phase.HEAD, Phase.BODY) and self._blocked_since is None:
            self._end_with(408, "the request did not arrive in time")
            self._timer = self._loop.call_later(self._poll_seconds, self._watch)
        elif self._transport is not None:
            self._transport.abort()

    # --- reading --------------------------------------------------------------------------------------

    def _feed(self) -> None:
        if self._is_feeding:
            return  # an answer that came at once; the loop below goes on
        self._is_feeding = True
        while self._buffer and len(self._queue) < MAX_PIPELINE:
            if self._phase is Phase.ENDING:
                self._buffer = b""
                break
            if self._phase is Phase.IDLE and self._take_known():
                continue
            piece, self._buffer = self._buffer[:SLICE], self._buffer[SLICE:]
            is_between, before = self._phase is Phase.IDLE, self._request
            self._parse(piece)
            is_whole = is_between and self._phase is Phase.IDLE
            if is_whole and self._request is not before:  # empty lines are no request
                self._heads.keep(piece, self._request)
        self._is_feeding = False
        self._push()
        self._regulate()

    def _take_known(self) -> bool:
        """Take a request whose head came before; the parser is between two messages and misses nothing."""
        found = self._heads.find(self._buffer)
        if found is None:
            return False
        request, size = found
        self._buffer = self._buffer[size:]
        self._take(request, keep_alive=True)
        return True

    def _take(self, request: Request, *, keep_alive: bool) -> None:
        exchange = Exchange(self, request, keep_alive)
        self._queue.append(exchange)
        self._handle(exchange)

    def _parse(self, piece: bytes) -> None:
        try:
            self._parser.feed_data(piece)
        except httptools.HttpParserUpgrade:
            self._end_after_last()
        except httptools.HttpParserError as error:
            self._end_with(400, f"malformed request: {error}")
        if self._phase is Phase.HEAD:
            self._add_head(len(piece))  # counts twice what was whole: a cap, not a measure
        elif self._phase is Phase.BODY:
            self._raw += len(piece)
            if self._raw > MAX_HEADER_BYTES + MAX_FRAMING * self._limits.body:
                self._too_large()

    def _regulate(self) -> None:
        """Stop reading while the pipeline is full."""
        if self._transport is None or self._transport.is_closing():
            return
        is_full = len(self._queue) >= MAX_PIPELINE
        if is_full and not self._is_reading_paused:
            self._transport.pause_reading()
        elif not is_full and self._is_reading_paused:
            self._transport.resume_reading()
        self._is_reading_paused = is_full

    def _add_head(self, size: int) -> None:
        self._size += size
        if self._size > MAX_HEADER_BYTES or len(self._request.headers) > MAX_HEADERS:
            self._end_with(
                431, f"request headers: at most {MAX_HEADERS}, {MAX_HEADER_BYTES} bytes in all"
            )

    # --- what the parser calls ------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self._phase is Phase.ENDING:
            return
        self._phase = Phase.HEAD
        self._began = self._loop.time()
        self._request = Request()
        self._url = b""
        self._body = []
        self._size = 0

    def on_url(self, url: bytes) -> None:
        if self._phase is Phase.HEAD:
            self._url += url
            self._add_head(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        if (
            self._phase is Phase.HEAD
        ):  # its size is judged at the end of the piece, which is bounded
            known = _NAMES.get(name) or name.decode("latin-1").lower()
            self._request.headers[known] = value.decode("latin-1")
            self._size += len(name) + len(value)

    def on_headers_complete(self) -> None:
        if self._phase is Phase.HEAD:
            self._add_head(0)
        if self._phase is not Phase.HEAD:
            return
        self._phase = Phase.BODY
        self._size = self._raw = 0
        headers = self._request.headers
        length = headers.get("content-length", "0")
        if len(length) > 18 or int(length) > self._limits.body:
            self._too_large()
        elif headers.get("expect", "").lower() == "100-continue" and not self._queue:
            self._write(CONTINUE)

    def on_body(self, body: bytes) -> None:
        if self._phase is not Phase.BODY:
            return
        self._size += len(body)
        if self._size > self._limits.body:
            self._too_large()
        else:
            self._body.append(body)

    def on_message_complete(self) -> None:
        if self._phase is not Phase.BODY:
            return
        request = self._request
        request.method = self._parser.get_method().decode("latin-1")
        request.target = self._url.decode("utf-8", "replace")
        request.body = b"".join(self._body)
        keep_alive = self._parser.should_keep_alive()
        self._phase = Phase.IDLE if keep_alive else Phase.ENDING
        self._idle_seconds = self._limits.idle_seconds
        self._take(request, keep_alive=keep_alive)

    def _too_large(self) -> None:
        self._end_with(413, f"payload too large: at most {self._limits.body} bytes")

    # --- answering ------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Write the answers that are due, in the order of their requests."""
        queue = self._queue
        done: list[Exchange] = []
        answers: list[bytes] = []
        while queue and (answer := queue[0].payload) is not None:
            done.append(queue.popleft())
            answers.append(answer)
        if not done:
            return
        is_written = self._write(answers[0] if len(answers) == 1 else b"".join(answers))
        if not queue:
            self._idle_since = self._loop.time()
            if not done[-1].keep_alive:
                self._finish()
        for exchange in done:
            exchange.settle(is_written)
        self._feed()

    def _write(self, data: bytes) -> bool:
        if self._transport is None or self._transport.is_closing():
            return False
        self._out.append(data)
        if not self._is_feeding:
            self._push()
        return True

    def _push(self) -> None:
        """Hand to the socket what was written: once for all requests that came together."""
        out, self._out = self._out, []
        if out and self._transport is not None:
            self._transport.write(b"".join(out))

    def _end_with(self, status: int, text: str) -> None:
        """Answer with an error after what is due, read no more."""
        if self._phase is Phase.ENDING:
            return
        self._phase = Phase.ENDING
        exchange = Exchange(self, self._request, keep_alive=False)
        self._queue.append(exchange)
        exchange.respond(self._refuse(status, text))

    def _end_after_last(self) -> None:
        """Read no more: the peer asks for another protocol after the request just read."""
        self._phase = Phase.ENDING
        if self._queue:
            self._queue[-1].keep_alive = False
        else:
            self._finish()

    def _finish(self) -> None:
        """Close so that a peer that still sends can read the answer: its bytes are read and dropped."""
        self._push()
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        if transport.can_write_eof():
            transport.write_eof()
            self._loop.call_later(LINGER_SECONDS, transport.close)
        else:
            transport.close()
