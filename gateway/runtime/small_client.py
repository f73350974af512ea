"""One HTTP/1.1 request over asyncio's streams, and nothing to import: for edges, which do without aiohttp.

Each request has a connection of its own; redirects are not followed. Source: RFC 9110, RFC 9112.
"""

from __future__ import annotations

import asyncio
import ssl as tls
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import MappingProxyType
from urllib.parse import urlsplit

from gateway.errors import BadRequest, TooLarge, Undeliverable
from gateway.runtime.http_heads import (
    MAX_HEAD,
    Fields,
    Malformed,
    body_length,
    is_target,
    is_token,
    read_chunks,
    read_head,
    write_head,
)

NO_HEADERS: Mapping[str, str | Sequence[str]] = MappingProxyType({})
MAX_INTERIM = 10
"""1xx answers before the final one."""
Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""Returns the addresses of a host to connect to; what it raises, whoever asks gets."""
_OWN = frozenset({"host", "content-length", "transfer-encoding", "connection", "expect"})
"""Fields that are written here."""
_EMPTY_ALLOWED = frozenset({"GET", "HEAD", "DELETE", "OPTIONS"})


class NotSent(Undeliverable):
    """The peer could not be reached: nothing of the request has left, so it may be sent again."""

    code = "http.notsent"
    default_message = "the peer cannot be reached"


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """A whole answer; header names in lower case."""

    status: int
    headers: Fields
    body: bytes = b""

    def header(self, name: str) -> str:
        """Return a header's first value, "" without one."""
        return (self.headers.get(name.lower()) or ("",))[0]


@dataclass(frozen=True, slots=True)
class HttpStream:
    """An answer whose body comes piece by piece; read it inside the block."""

    status: int
    headers: Fields
    body: AsyncIterator[bytes]


@dataclass(frozen=True, slots=True)
class _Target:
    host: str
    port: int
    authority: str
    path: str
    is_secure: bool


async def fetch(
    method: str,
    url: str,
    *,
    headers: Mapping[str, str | Sequence[str]] = NO_HEADERS,
    body: bytes = b"",
    seconds: float,
    max_body: int,
    ssl: tls.SSLContext | None = None,
    resolve: Resolve | None = None,
) -> HttpAnswer:
    """Send one request and return its answer, whatever its status.

    Shape:  `ssl` for https, else the system's CAs; `headers` without those about length and connection;
            `resolve` in the place of the system's look-up.
    Units:  `seconds` for all of it; `max_body` bytes of the answer.
    Errors: BadRequest for a request that cannot be written; NotSent when the peer is away; Undeliverable when
            the answer did not come, or was no HTTP; TooLarge for an answer over `max_body`.
    """
    try:
        async with asyncio.timeout(seconds):
            async with open_stream(
                method, url, headers=headers, body=body, max_body=max_body, ssl=ssl, resolve=resolve
            ) as answer:
                pieces = [piece async for piece in answer.body]
                return HttpAnswer(answer.status, answer.headers, b"".join(pieces))
    except TimeoutError as error:
        raise Undeliverable(f"{_shown(url)}: no answer in {seconds:g} s") from error


@asynccontextmanager
async def open_stream(
    method: str,
    url: str,
    *,
    headers: Mapping[str, str | Sequence[str]] = NO_HEADERS,
    body: bytes = b"",
    max_body: int = 2**62,
    ssl: tls.SSLContext | None = None,
    connect_seconds: float = 10.0,
    host: str = "",
    resolve: Resolve | None = None,
) -> AsyncIterator[HttpStream]:
    """Send one request and read its answer while it comes; leaving the block hangs up.

    Only connecting has a time limit. `host` is the Host header where it is not the URL's.

    Errors: as `fetch`; those of the body from its iterator.
    """
    target = _target(url)
    request = _request(method, target, headers, body, host or target.authority)
    reader, writer = await _connect(target, ssl, connect_seconds, url, resolve)
    try:
        with _told(url):
            writer.write(request + body)
            await writer.drain()
            status, fields = await _answer_head(reader)
        yield HttpStream(status, fields, _body(reader, method, status, fields, max_body, url))
    finally:
        writer.transport.abort()


def _target(url: str) -> _Target:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise BadRequest(f"not a URL: {_shown(url)}") from error
    host = parts.hostname or ""
    if parts.scheme not in ("http", "https") or not host or parts.username is not None:
        raise BadRequest(f"expected http(s)://host[:port]/path, got {_shown(url)}")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    authority = parts.netloc.rpartition("@")[2]
    if not is_target(path) or not is_target(authority):
        raise BadRequest("a URL with blanks, control or other than ASCII characters")
    is_secure = parts.scheme == "https"
    return _Target(host, port or (443 if is_secure else 80), authority, path, is_secure)


def _request(
    method: str,
    target: _Target,
    headers: Mapping[str, str | Sequence[str]],
    body: bytes,
    host: str,
) -> bytes:
    if not is_token(method):
        raise BadRequest(f"not an HTTP method: {method[:100]!r}")
    lines = [("Host", host), ("Connection", "close")]
    if body or method not in _EMPTY_ALLOWED:
        lines.append(("Content-Length", str(len(body))))
    for name, value in headers.items():
        if name.lower() not in _OWN:
            values = (value,) if isinstance(value, str) else value
            lines += [(name, each) for each in values]
    try:
        return write_head(f"{method} {target.path} HTTP/1.1", lines)
    except (ValueError, UnicodeError) as error:
        raise BadRequest(str(error)) from error


async def _connect(
    target: _Target,
    ssl: tls.SSLContext | None,
    seconds: float,
    url: str,
    resolve: Resolve | None,
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    context = (ssl or tls.create_default_context()) if target.is_secure else None
    try:
        async with asyncio.timeout(seconds):
            places = [target.host] if resolve is None else await resolve(target.host, target.port)
            return await _connect_any(places, target, context)
    except (OSError, UnicodeError, TimeoutError) as error:
        why = str(error) or "no connection in time"
        raise NotSent(f"{_shown(url)}: {why}") from error


async def _connect_any(
    places: Sequence[str], target: _Target, context: tls.SSLContext | None
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect to the first place that takes us. Errors: OSError of the last."""
    refusal = OSError("the host has no address")
    for place in places:
        try:
            return await asyncio.open_connection(
                place,
                target.port,
                ssl=context,
                server_hostname=target.host if context else None,
                limit=MAX_HEAD,
            )
        except OSError as error:
            refusal = error
    raise refusal


async def _answer_head(reader: asyncio.StreamReader) -> tuple[int, Fields]:
    for _ in range(MAX_INTERIM):
        head = await read_head(reader)
        if head is None:
            raise Malformed("the peer hung up instead of answering")
        line, fields = head
        parts = line.split(" ", 2)
        known = len(parts) > 1 and parts[0] in ("HTTP/1.1", "HTTP/1.0")
        if not known or not (parts[1].isascii() and parts[1].isdigit() and len(parts[1]) == 3):
            raise Malformed("not an HTTP/1.1 answer")
        if int(parts[1]) == 101 or int(parts[1]) >= 200:
            return int(parts[1]), fields
    raise Malformed("too many interim answers")


async def _body(
    reader: asyncio.StreamReader, method: str, status: int, fields: Fields, limit: int, url: str
) -> AsyncIterator[bytes]:
    if method == "HEAD" or status in (101, 204, 304):
        return
    with _told(url):
        length = body_length(fields)
        if length is None:
            async for piece in read_chunks(reader, limit):
                yield piece
            return
        if length > limit:
            raise TooLarge(f"{_shown(url)}: an answer of {length} bytes; at most {limit}")
        left, total = length, 0
        while left and (piece := await reader.read(65_536 if left < 0 else min(left, 65_536))):
            left -= len(piece) if left > 0 else 0
            total += len(piece)
            if total > limit:
                raise TooLarge(f"{_shown(url)}: an answer of more than {limit} bytes")
            yield piece
        if left > 0:
            raise Malformed("the answer ends too early")


class _told:  # noqa: N801  reads as a word in `with`
    """Turns what goes wrong with a peer into our errors, with the URL."""

    def __init__(self, url: str) -> None:
        self._url = url

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, Malformed) and error.status == 413:
            raise TooLarge(f"{_shown(self._url)}: {error}") from error
        if isinstance(error, Malformed | OSError | EOFError):
            raise Undeliverable(f"{_shown(self._url)}: {error}") from error


def _shown(url: str) -> str:
    """The URL as texts show it: without a query, which may hold secrets, and without a log-in."""
    head, _, rest = url.partition("://")
    return f"{head}://{rest.partition('?')[0].rpartition('@')[2]}"[:300] if rest else url[:100]
