"""An HTTP/1.1 server with bodies and streamed answers, and nothing to import.

For what an edge agent serves to its neighbours: aiohttp would be a fifth of its memory. One request of a
connection is answered after the other; who goes away before the answer ends it.

Bounds: connections; 16 KB of request head in 10 s; bytes of the body, in 30 s; 75 s of silence between
requests; an answer's bytes wait for who reads, and who does not read for 30 s is hung up on.
Source: RFC 9110, RFC 9112.
"""

from __future__ import annotations

import asyncio
import logging
import ssl as tls
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from email.utils import formatdate
from http import HTTPStatus
from typing import Protocol, cast

from gateway.errors import GatewayError
from gateway.runtime.either_tls import Context, Doorman
from gateway.runtime.http_heads import (
    LAST_CHUNK,
    MAX_HEAD,
    Fields,
    Malformed,
    body_length,
    chunk,
    is_target,
    is_token,
    read_chunks,
    read_head,
    write_head,
)
from gateway.runtime.listener import Endpoints, listen_tcp, listening_socket

log = logging.getLogger(__name__)

MAX_CONNECTIONS = 100
HEAD_SECONDS = 10.0
BODY_SECONDS = 30.0
IDLE_SECONDS = 75.0
WRITE_SECONDS = 30.0
LINGER_SECONDS = 1.0
LINGER_READS = 256
_NO_BODY = frozenset({204, 304})
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Request:
    """A whole request.

    Shape:  `path` and `query` as sent, escapes and all (a `%2F` is no separator); header names in lower case,
            values of repeated ones joined by `, `; `peer_certificate` as `ssl.getpeercert`, None without.
    """

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes = b""
    peer_certificate: Mapping[str, object] | None = None


@dataclass(frozen=True, slots=True)
class Response:
    """An answer; length or chunking and the date are added.

    Shape:  a `body` that is an iterator is streamed: chunk by chunk, each sent at once; it is closed when the
            client goes away.
    """

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | AsyncIterator[bytes] = b""


Write = Callable[[bytes], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Takeover:
    """An answer that takes the whole connection, e.g. for an upgrade that others understand.

    Shape:  `carry` reads and writes raw bytes, the head of the answer among them; the connection ends after
            it. When the client goes away it is cancelled.
    """

    carry: Callable[[asyncio.StreamReader, Write], Awaitable[None]]


Respond = Callable[[Request], Awaitable[Response | Takeover]]


class Closable(Protocol):
    """What listens."""

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class _Service:
    respond: Respond
    max_body: int


@asynccontextmanager
async def serve_requests(
    endpoints: Endpoints,
    name: str,
    bind: str,
    respond: Respond,
    *,
    max_body: int,
    setting: str,
    ssl: tls.SSLContext | None = None,
    max_connections: int = MAX_CONNECTIONS,
    either_tls: Context | None = None,
) -> AsyncIterator[None]:
    """Answer requests with `respond` for the length of the block.

    Shape:  `either_tls` takes TLS clients on a plain port, too: its context is asked for at each of them,
            None sends them away. A GatewayError of `respond` is answered as text with its status; render it
            for a better form.
    Units:  `max_body` bytes; a longer one is answered with 413.
    Errors: PortTaken; InvalidSetting for a bad `bind`.
    """
    service, tasks = _Service(respond, max_body), set[asyncio.Task[None]]()
    loop = asyncio.get_running_loop()

    def own(work: Coroutine[object, object, None]) -> asyncio.Task[None]:
        task = loop.create_task(work)
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        return task

    def connect(connection: _Connection) -> None:
        if either_tls is None and len(tasks) >= max_connections:
            connection.abort()
            return
        connection.task = own(_serve(service, connection))

    if either_tls is None:
        server: Closable = await listen_tcp(
            endpoints, name, bind, lambda: _Connection(connect), setting=setting, ssl=ssl
        )
    else:
        server = sock = listening_socket(endpoints, name, bind, setting=setting)
        doorman = Doorman(lambda: _Connection(connect), either_tls, own)
        own(doorman.accept(sock, lambda: len(tasks) <= max_connections))
    try:
        yield
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class _Connection(asyncio.StreamReaderProtocol):
    """One client; its task ends when the client goes away while it waits for an answer."""

    def __init__(self, connected: Callable[[_Connection], None]) -> None:
        self.reader = asyncio.StreamReader(limit=MAX_HEAD)
        super().__init__(self.reader)
        self._connected = connected
        self.transport: asyncio.Transport | None = None
        self._writer: asyncio.StreamWriter | None = None
        self.task: asyncio.Task[None] | None = None
        self.is_answering = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.transport = cast(asyncio.Transport, transport)
        loop = asyncio.get_running_loop()
        self._writer = asyncio.StreamWriter(self.transport, self, self.reader, loop)
        self._connected(self)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._gone()

    def eof_received(self) -> bool | None:
        keeps = super().eof_received()
        self._gone()
        return keeps

    def _gone(self) -> None:
        if self.task is not None and self.is_answering:
            self.task.cancel()

    def abort(self) -> None:
        """Hang up."""
        if self.transport is not None:
            self.transport.abort()

    async def write(self, data: bytes) -> None:
        """Send, and wait until the client has taken enough. Errors: ConnectionError; TimeoutError."""
        if self._writer is None or self._writer.is_closing():
            raise ConnectionResetError
        self._writer.write(data)
        async with asyncio.timeout(WRITE_SECONDS):
            await self._writer.drain()


async def _serve(service: _Service, connection: _Connection) -> None:
    """Answer one connection's requests until it ends."""
    transport = connection.transport
    try:
        seconds = HEAD_SECONDS
        while await _one(service, connection, seconds):
            seconds = IDLE_SECONDS
        if transport is not None:
            transport.close()
    except (ConnectionError, TimeoutError, asyncio.IncompleteReadError):
        connection.abort()
    except asyncio.CancelledError:
        connection.abort()
        raise
    except Exception:  # top of a connection: an odd one must not end the server
        log.exception("a connection failed")
        connection.abort()


async def _one(service: _Service, connection: _Connection, seconds: float) -> bool:
    """Answer one request; True when the connection goes on."""
    try:
        async with asyncio.timeout(seconds):
            head = await read_head(connection.reader)
        if head is None:
            return False
        start, fields = head
        method, path, query, is_latest = _start(start)
        _check_host(fields, is_latest=is_latest)
        body = await _body(service, connection, fields, is_latest=is_latest)
    except Malformed as error:
        await _send(connection, _plain(error.status, str(error)), keeps=False)
        await _linger(connection)
        return False
    request = Request(
        method,
        path,
        query,
        {name: ", ".join(values) for name, values in fields.items()},
        body,
        _certificate(connection),
    )
    connection.is_answering = True
    try:
        response = await _respond(service.respond, request)
        if isinstance(response, Takeover):
            await response.carry(connection.reader, connection.write)
            return False
        keeps = _keeps(fields, is_latest=is_latest)
        return await _send(
            connection, response, keeps=keeps, is_head=method == "HEAD", is_latest=is_latest
        )
    finally:
        connection.is_answering = False


async def _linger(connection: _Connection) -> None:
    """Say that nothing more comes, and read on: a close over unread bytes would take the answer back."""
    if connection.transport is not None and connection.transport.can_write_eof():
        connection.transport.write_eof()
    with suppress(TimeoutError):
        async with asyncio.timeout(LINGER_SECONDS):
            for _ in range(LINGER_READS):
                if not await connection.reader.read(65_536):
                    return


def _start(line: str) -> tuple[str, str, str, bool]:
    """Read `GET /path?query HTTP/1.1` into method, path, query, and whether it is 1.1."""
    parts = line.split(" ")
    if len(parts) != 3 or parts[2] not in ("HTTP/1.1", "HTTP/1.0"):
        raise Malformed("not an HTTP/1.1 request")
    method, target, version = parts
    if not is_token(method) or len(method) > 32 or not is_target(target):
        raise Malformed("the request line is malformed")
    path, _, query = _origin(target).partition("?")
    return method, path, query, version == "HTTP/1.1"


def _origin(target: str) -> str:
    """Return the path and query of a target in origin or absolute form."""
    if target.startswith("/") and "#" not in target:
        return target
    for scheme in ("http://", "https://"):
        if target.lower().startswith(scheme) and "#" not in target:
            _, slash, rest = target[len(scheme) :].partition("/")
            return slash + rest or "/"
    raise Malformed("the request target is no path")


def _check_host(fields: Fields, *, is_latest: bool) -> None:
    hosts = fields.get("host", ())
    if len(hosts) > 1 or (is_latest and not hosts):
        raise Malformed("exactly one Host is needed")


async def _body(
    service: _Service, connection: _Connection, fields: Fields, *, is_latest: bool
) -> bytes:
    length = body_length(fields)
    if length is None and not is_latest:
        raise Malformed("HTTP/1.0 has no chunks")
    if length is not None and length <= 0:
        return b""
    if length is not None and length > service.max_body:
        raise Malformed(f"a body of at most {service.max_body} bytes is taken", 413)
    if is_latest and "100-continue" in [e.lower() for e in fields.get("expect", ())]:
        await connection.write(_CONTINUE)
    async with asyncio.timeout(BODY_SECONDS):
        if length is not None:
            return await connection.reader.readexactly(length)
        return b"".join([p async for p in read_chunks(connection.reader, service.max_body)])


def _keeps(fields: Fields, *, is_latest: bool) -> bool:
    wishes = {w.strip().lower() for v in fields.get("connection", ()) for w in v.split(",")}
    return "close" not in wishes and (is_latest or "keep-alive" in wishes)


def _certificate(connection: _Connection) -> Mapping[str, object] | None:
    transport = connection.transport
    found = transport.get_extra_info("peercert") if transport is not None else None
    return found or None


async def _respond(respond: Respond, request: Request) -> Response | Takeover:
    try:
        return await respond(request)
    except GatewayError as error:
        return _plain(error.status, error.message)
    except Exception:  # top of a request: a bug must not end the connection's neighbours
        log.exception("a request failed", extra={"method": request.method})
        return _plain(500, HTTPStatus(500).phrase)


def _plain(status: int, text: str) -> Response:
    return Response(status, {"Content-Type": "text/plain; charset=utf-8"}, f"{text}\n".encode())


async def _send(
    connection: _Connection,
    response: Response,
    *,
    keeps: bool,
    is_head: bool = False,
    is_latest: bool = True,
) -> bool:
    """Write an answer; True when the connection goes on."""
    body, lines = response.body, list(response.headers.items())
    lines.append(("Date", formatdate(usegmt=True)))
    has_body = not is_head and response.status not in _NO_BODY
    if isinstance(body, bytes):
        if response.status not in _NO_BODY:
            lines.append(("Content-Length", str(len(body))))
    elif is_latest:
        lines.append(("Transfer-Encoding", "chunked"))
    else:
        keeps = False  # the end of the connection is the end of the body
    if not keeps:
        lines.append(("Connection", "close"))
    elif not is_latest:
        lines.append(("Connection", "keep-alive"))
    head = write_head(f"HTTP/1.1 {response.status} {_phrase(response.status)}", lines)
    if isinstance(body, bytes):
        await connection.write(head + body if has_body else head)
    else:
        await _stream(connection, head, body, has_body=has_body, is_chunked=is_latest)
    return keeps


async def _stream(
    connection: _Connection,
    head: bytes,
    body: AsyncIterator[bytes],
    *,
    has_body: bool,
    is_chunked: bool,
) -> None:
    async with _closing(body):
        await connection.write(head)
        if not has_body:
            return
        async for piece in body:
            if piece:
                await connection.write(chunk(piece) if is_chunked else piece)
    if is_chunked:
        await connection.write(LAST_CHUNK)


@asynccontextmanager
async def _closing(body: AsyncIterator[bytes]) -> AsyncIterator[None]:
    """Close what can be closed (generators can), also when the client is gone."""
    try:
        yield
    finally:
        close = getattr(body, "aclose", None)
        if close is not None:
            await close()


def _phrase(status: int) -> str:
    with suppress(ValueError):
        return HTTPStatus(status).phrase
    return "Unknown"
