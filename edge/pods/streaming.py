"""Exec, attach and port-forward: the connection of a client becomes the runtime's, byte by byte.

The runtime gives a one-time URL of its own streaming server. Which protocol is spoken (SPDY, a WebSocket of
some version) is between it and the client; what it refuses is handed back as it says it. A URL that is not of
this machine is never called. The end of either side ends both, as with the kubelet; so do four hours of
silence.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
from collections.abc import Iterator
from contextlib import suppress
from urllib.parse import urlsplit

from edge.pods.kubeletrules import Refused
from gateway.runtime.http_heads import is_target, write_head
from gateway.runtime.small_service import Request, Response, Takeover, Write

IDLE_SECONDS = 4 * 3_600.0
"""The kubelet's streamingConnectionIdleTimeout."""
CONNECT_SECONDS = 10.0
ANSWER_SECONDS = 30.0
REFUSAL_SECONDS = 10.0
MAX_HEAD = 65_536
MAX_REFUSAL = 65_536
CHUNK = 65_536
_STATUS = re.compile(rb"HTTP/1\.[01] ([0-9]{3})[ \r]")
_PROTOCOLS = "x-stream-protocol-version"
_HANDED_ON = ("connection", "upgrade", "origin")
_SWITCHING = 101


def check_upgrade(request: Request) -> None:
    """Errors: Refused for a request that asks for no other protocol."""
    wishes = request.headers.get("connection", "").lower()
    if "upgrade" not in wishes or not request.headers.get("upgrade"):
        raise Refused(500, "Upgrade request required")


async def pass_through(url: str, request: Request) -> Response | Takeover:
    """Ask the runtime's streaming server in a client's name, and hand over the connection.

    Errors: Refused when the URL is not of this machine, or nothing there answers.
    """
    host, port, target = _place(url)
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            reader, writer = await asyncio.open_connection(host, port, limit=MAX_HEAD)
    except (OSError, TimeoutError) as error:
        why = str(error) or "no answer"
        raise Refused(500, f"the runtime's streaming server {host}:{port}: {why}") from error
    try:
        start = f"{request.method} {target} HTTP/1.1"
        writer.write(write_head(start, [("Host", f"{host}:{port}"), *_headers(request)]))
        head = await _head(reader)
        if _status(head) != _SWITCHING:
            return await _refusal(head, reader, writer)
    except BaseException:
        writer.transport.abort()
        raise

    async def carry(client: asyncio.StreamReader, write: Write) -> None:
        try:
            await write(head)
            await _both_ways(client, write, reader, writer)
        finally:
            writer.transport.abort()

    return Takeover(carry)


def _place(url: str) -> tuple[str, int, str]:
    """Return host, port and target of a streaming URL. Errors: Refused."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
        is_local = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        host, port, is_local = "", None, False
    target = parts.path + (f"?{parts.query}" if parts.query else "") if is_local else ""
    if not is_local or parts.scheme != "http" or not port or not is_target(target):
        shown = url[:100].partition("?")[0].rpartition("/")[0]
        raise Refused(
            500,
            f"the runtime streams at {shown!r}: only http at a loopback address is called"
            " (containerd: stream_server_address)",
        )
    return host, port, target


def _headers(request: Request) -> Iterator[tuple[str, str]]:
    for name, value in request.headers.items():
        if name in _HANDED_ON or name.startswith("sec-websocket-"):
            yield name.title(), value
        elif name == _PROTOCOLS:  # older servers want one in a line
            for each in value.split(","):
                yield "X-Stream-Protocol-Version", each.strip()
    yield "Content-Length", "0"


async def _head(reader: asyncio.StreamReader) -> bytes:
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            head = await reader.readuntil(b"\r\n\r\n")
    except (EOFError, asyncio.LimitOverrunError, OSError, TimeoutError) as error:
        raise Refused(500, "the runtime's streaming server does not answer in HTTP") from error
    if not _STATUS.match(head):
        raise Refused(500, "the runtime's streaming server does not answer in HTTP")
    return head


def _status(head: bytes) -> int:
    found = _STATUS.match(head)
    return int(found[1]) if found else 500


async def _refusal(
    head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> Response:
    """Return what the runtime says instead."""
    said = re.search(rb"\r\ncontent-length: *([0-9]{1,6}) *\r\n", head, re.IGNORECASE)
    left = min(int(said[1]), MAX_REFUSAL) if said else MAX_REFUSAL
    body = b""
    with suppress(TimeoutError, OSError):
        async with asyncio.timeout(REFUSAL_SECONDS if said else 1.0):
            while left > len(body) and (piece := await reader.read(left - len(body))):
                body += piece
    writer.transport.abort()
    status = _status(head)
    return Response(
        status if 400 <= status < 600 else 502,
        {"Content-Type": "text/plain; charset=utf-8", "Connection": "close"},
        body,
    )


async def _both_ways(
    client: asyncio.StreamReader,
    write: Write,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
) -> None:
    """Copy until either side ends, or both are silent for too long."""
    loop = asyncio.get_running_loop()
    with suppress(TimeoutError, OSError):
        async with asyncio.timeout(IDLE_SECONDS) as limit:

            async def up() -> None:
                with suppress(OSError):
                    while data := await client.read(CHUNK):
                        limit.reschedule(loop.time() + IDLE_SECONDS)
                        writer.write(data)
                        await writer.drain()
                writer.transport.abort()  # and with it the reader ends

            task = loop.create_task(up())
            try:
                while data := await reader.read(CHUNK):
                    limit.reschedule(loop.time() + IDLE_SECONDS)
                    await write(data)
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
