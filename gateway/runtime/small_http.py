"""An HTTP/1.1 server for a few fixed documents: GET and HEAD, no bodies, nothing to import.

For the operations port. An edge agent that answers a scrape every few seconds should not pay for a web
framework: aiohttp would be a fifth of its memory. Whatever needs more than this uses aiohttp.

Bounds: 100 connections, 16 KB of request head, 10 s for it, 75 s of silence; who does not read gets no more.
Source: RFC 9112.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus
from typing import cast

from gateway.runtime.listener import Endpoints, listen_tcp
from gateway.runtime.unix_socket import listening_at

log = logging.getLogger(__name__)

MAX_HEAD = 16_384
MAX_CONNECTIONS = 100
HEAD_SECONDS = 10.0
IDLE_SECONDS = 75.0
PLAIN = "text/plain; charset=utf-8"
JSON = "application/json; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Reply:
    """What a document is now."""

    body: bytes
    content_type: str = JSON
    status: int = 200


Headers = Mapping[str, str]
"""Names in lower case; `:path` is the request's target with its query, `:peer` who asks (empty: a Unix
socket)."""
Document = Callable[[Headers], Reply | Coroutine[None, None, Reply]]
"""Makes the answer, at once or in its own time: what comes behind it on the connection waits."""


@dataclass(frozen=True, slots=True)
class _Request:
    method: str
    path: str
    headers: dict[str, str]
    keeps: bool


class _Malformed(Exception):
    """The bytes are not a request that we read."""


@asynccontextmanager
async def serve_documents(
    endpoints: Endpoints, name: str, bind: str, documents: Mapping[str, Document], *, setting: str
) -> AsyncIterator[None]:
    """Serve `documents` by path for the length of the block; one whose path ends with `/` has all below it.

    Errors: PortTaken; InvalidSetting for a bad `bind`.
    """
    open_ones: set[_Connection] = set()
    server = await listen_tcp(
        endpoints, name, bind, lambda: _Connection(documents, open_ones), setting=setting
    )
    try:
        yield
    finally:
        server.close()
        for connection in list(open_ones):
            connection.abort()
        await server.wait_closed()


@asynccontextmanager
async def serve_documents_at(
    path: str, documents: Mapping[str, Document], *, setting: str
) -> AsyncIterator[None]:
    """Serve `documents` on a Unix socket for the length of the block; errors as `listening_at`."""
    open_ones: set[_Connection] = set()
    async with listening_at(path, lambda: _Connection(documents, open_ones), setting=setting):
        try:
            yield
        finally:
            for connection in list(open_ones):
                connection.abort()


async def fetch_document(path: str, document: str, *, seconds: float, max_bytes: int) -> bytes:
    """Return a document of another process from its Unix socket.

    Errors: OSError when it is not there, not in time, longer than `max_bytes` or not answered with 200.
    """
    try:
        async with asyncio.timeout(seconds):
            reader, writer = await asyncio.open_unix_connection(path)
            try:
                writer.write(f"GET {document} HTTP/1.0\r\n\r\n".encode())
                answer = await reader.read(max_bytes + 1)
                while answer and len(answer) <= max_bytes:
                    more = await reader.read(max_bytes)
                    if not more:
                        break
                    answer += more
            finally:
                writer.close()
    except TimeoutError as error:
        raise OSError(f"{document}: no answer in {seconds} s") from error
    head, _, body = answer.partition(b"\r\n\r\n")
    status = head.partition(b"\r\n")[0].split(b" ")[1:2]
    if status != [b"200"] or len(answer) > max_bytes:
        raise OSError(f"{document}: expected 200 and at most {max_bytes} bytes, got {status}")
    return body


class _Connection(asyncio.Protocol):
    """One client."""

    def __init__(self, documents: Mapping[str, Document], open_ones: set[_Connection]) -> None:
        self._documents = documents
        self._open = open_ones
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._is_paused = False
        self._peer = ""
        self._work: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        peer = transport.get_extra_info("peername")
        self._peer = str(peer[0]) if isinstance(peer, tuple) else ""
        self._open.add(self)
        if len(self._open) > MAX_CONNECTIONS:
            self.abort()
        self._wait(HEAD_SECONDS)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  asyncio's signature
        self._open.discard(self)
        if self._work is not None:
            self._work.cancel()
        if self._timer is not None:
            self._timer.cancel()

    def abort(self) -> None:
        """Hang up."""
        if self._transport is not None:
            self._transport.abort()

    def _wait(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(seconds, self.abort)

    def pause_writing(self) -> None:
        self._is_paused = True
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._is_paused = self._work is not None
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()
            self._answer_all()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._answer_all()

    def _answer_all(self) -> None:
        """Answer the requests that are whole, one after another."""
        transport = self._transport
        while transport is not None and not transport.is_closing() and not self._is_paused:
            end = self._buffer.find(b"\r\n\r\n", 0, MAX_HEAD)
            if end < 0:
                if len(self._buffer) >= MAX_HEAD:
                    self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
                return
            head = bytes(self._buffer[:end])
            del self._buffer[: end + 4]
            try:
                request = _read(head)
            except _Malformed:
                self._refuse(HTTPStatus.BAD_REQUEST)
                return
            self._answer(request)
            self._wait(IDLE_SECONDS)

    def _answer(self, request: _Request) -> None:
        folder = request.path[: request.path.rfind("/") + 1]
        document = self._documents.get(request.path) or self._documents.get(folder)
        request.headers[":peer"] = self._peer
        if document is None:
            reply = _plain(HTTPStatus.NOT_FOUND)
        elif request.method not in ("GET", "HEAD"):
            reply = _plain(HTTPStatus.METHOD_NOT_ALLOWED)
        else:
            made = document(request.headers)
            if not isinstance(made, Reply):
                self._is_paused = True
                self._work = asyncio.get_running_loop().create_task(self._later(made, request))
                return
            reply = made
        self._send(reply, keeps=request.keeps, has_body=request.method != "HEAD")

    async def _later(self, made: Coroutine[None, None, Reply], request: _Request) -> None:
        try:
            reply = await made
        except Exception:  # top of a request
            log.exception("a document could not be made", extra={"path": request.path[:200]})
            reply = _plain(HTTPStatus.INTERNAL_SERVER_ERROR)
        self._work = None
        self._is_paused = False  # before writing, which may pause again
        self._send(reply, keeps=request.keeps, has_body=request.method != "HEAD")
        self._answer_all()

    def _refuse(self, status: HTTPStatus) -> None:
        self._send(_plain(status), keeps=False, has_body=True)

    def _send(self, reply: Reply, *, keeps: bool, has_body: bool) -> None:
        if self._transport is None:
            return
        lines = [
            f"HTTP/1.1 {reply.status} {HTTPStatus(reply.status).phrase}",
            f"Content-Type: {reply.content_type}",
            f"Content-Length: {len(reply.body)}",
            f"Date: {formatdate(usegmt=True)}",
        ]
        if reply.status == HTTPStatus.METHOD_NOT_ALLOWED:
            lines.append("Allow: GET, HEAD")
        if not keeps:
            lines.append("Connection: close")
        head = "\r\n".join([*lines, "", ""]).encode("latin-1")
        self._transport.write(head + reply.body if has_body else head)
        if not keeps:
            self._transport.close()


def _plain(status: HTTPStatus) -> Reply:
    return Reply(f"{status.value}: {status.phrase}".encode(), PLAIN, status.value)


def _read(head: bytes) -> _Request:
    """Read a request without its body; one with a body is answered and the connection closed."""
    first, *rest = head.decode("latin-1").split("\r\n")
    parts = first.split(" ")
    if len(parts) != 3 or parts[2] not in ("HTTP/1.1", "HTTP/1.0") or not parts[0].isalpha():
        raise _Malformed
    headers = {":path": parts[1]}
    for line in rest:
        name, colon, value = line.partition(":")
        if not colon or not name or name != name.strip():
            raise _Malformed
        headers[name.lower()] = value.strip()
    has_body = "transfer-encoding" in headers or headers.get("content-length", "0") != "0"
    wish = headers.get("connection", "").lower()
    keeps = wish != "close" if parts[2] == "HTTP/1.1" else wish == "keep-alive"
    path = parts[1].partition("?")[0]
    return _Request(parts[0], path, headers, keeps and not has_body)
