"""Requests through the stream tunnel at the edge: each is one connection to the local kubelet.

The kubelet is the one of `edge.stream.kubelet`, whatever host a request names, and only the paths of logs,
metrics, exec, attach and port-forward are asked for there. Our own kubelet is shown its token, whatever a
request says of its sender. Exec and attach are raw bytes both ways after the kubelet's
`101`. Source: KubeEdge, EdgeStream.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from urllib.parse import quote

from edge.kubeletaccess import Kubelet
from gateway.errors import GatewayError, MalformedPacket, Undeliverable
from gateway.runtime.http_heads import MAX_HEAD, is_target, is_token, write_head
from gateway.runtime.listener import parse_bind
from gateway.runtime.small_client import HttpStream, open_stream
from gateway.wire.cloudedge.tunnel import (
    OPENING,
    SMALL_FRAME,
    Connect,
    Frame,
    FrameType,
    decode_connect,
    kind_of,
    refusal_reason,
)

log = logging.getLogger(__name__)

MAX_LINKS = 200
"""Requests at a time."""
MAX_LINE = 65_536
"""Bytes of one line of metrics; a longer one is split."""
MAX_WAITING = 1_048_576
"""Bytes that wait for the kubelet on one connection."""
SLOW_SECONDS = 5.0
"""How long the tunnel waits for a kubelet that does not read."""
CONNECT_SECONDS = 10.0
REFUSAL_SECONDS = 10.0
"""In which a kubelet that refused an upgrade must have said why."""
RAW = frozenset({FrameType.EXEC, FrameType.ATTACH})
_OWN = frozenset({"host", "content-length", "transfer-encoding", "authorization"})
_PATH_SAFE = "/:@!$&'()*+,;=~"
Send = Callable[[Frame], Awaitable[None]]


class Links:
    """The requests of one tunnel.

    Shape:  `kubelet` is asked at each request. `send` writes a frame and waits while too much waits before
            it. `frame_bytes` of data go into one.
            `is_ours`: the cloud takes a reason for an answer, so a kubelet's refusal is told as one.
    """

    def __init__(
        self,
        kubelet: Callable[[], Kubelet],
        send: Send,
        *,
        frame_bytes: int = SMALL_FRAME,
        is_ours: bool = False,
    ) -> None:
        self._kubelet = kubelet
        self._send = send
        self._frame_bytes = frame_bytes
        self._is_ours = is_ours
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._inputs: dict[int, _Input] = {}

    async def take(self, frame: Frame) -> None:
        """Do what a frame of the cloud asks for."""
        if frame.type in OPENING:
            await self._open(frame)
        elif frame.type is FrameType.DATA:
            await self._feed(frame)
        elif frame.type in (FrameType.CLOSE, FrameType.REMOVE):
            await self._close(frame.connection)

    async def close(self) -> None:
        """End all requests."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _open(self, frame: Frame) -> None:
        number = frame.connection
        try:
            if number in self._tasks:
                raise MalformedPacket(f"connection {number} is open already")
            if len(self._tasks) >= MAX_LINKS:
                raise Undeliverable(f"this node serves {MAX_LINKS} requests at a time")
            connect = decode_connect(frame.data)
            if kind_of(connect.path) is not frame.type:
                raise MalformedPacket("the path is not one of the stream tunnel")
        except GatewayError as error:
            await self._send(Frame(number, FrameType.REMOVE, error.message.encode()[:500]))
            return
        if frame.type in RAW:
            self._inputs[number] = _Input()
        work = self._serve(number, frame.type, connect)
        self._tasks[number] = asyncio.get_running_loop().create_task(work)

    async def _feed(self, frame: Frame) -> None:
        into = self._inputs.get(frame.connection)
        if into is not None and not await into.take(frame.data):
            await self._close(frame.connection, b"the kubelet reads too slowly")

    async def _close(self, number: int, reason: bytes = b"") -> None:
        task = self._tasks.pop(number, None)
        if task is not None:
            task.cancel()
            await self._send(Frame(number, FrameType.REMOVE, reason))

    async def _serve(self, number: int, kind: FrameType, connect: Connect) -> None:
        reason = ""
        try:
            await self._carry(number, kind, connect)
        except GatewayError as error:
            reason = error.message
        except ConnectionError:
            return  # the tunnel broke
        except Exception:  # top of a task: an odd request must not end the tunnel
            log.exception("a request of the stream tunnel failed")
            reason = "internal error"
        finally:
            self._inputs.pop(number, None)
        if self._tasks.pop(number, None) is not None:
            with suppress(ConnectionError):
                await self._send(Frame(number, FrameType.REMOVE, reason.encode()[:500]))

    async def _carry(self, number: int, kind: FrameType, connect: Connect) -> None:
        if kind in RAW:
            await self._carry_raw(number, connect, self._inputs[number])
            return
        kubelet = self._kubelet()
        url = f"http://{kubelet.address}{_target(connect)}"
        async with open_stream("GET", url, headers=_headers(connect, kubelet)) as answer:
            if self._is_ours and answer.status >= 300:
                raise Undeliverable(refusal_reason(answer.status, await _text(answer)))
            pieces = lines(answer.body) if kind is FrameType.METRICS else answer.body
            async for piece in pieces:
                await self._send_data(number, piece)

    async def _carry_raw(self, number: int, connect: Connect, into: _Input) -> None:
        """Copy bytes both ways once the kubelet has agreed to an upgrade; what else it answers, one way."""
        kubelet = self._kubelet()
        reader, writer = await _connect(kubelet.address)
        try:
            writer.write(_request(connect, kubelet))
            head = await _read_head(reader)
            await self._send_data(number, head)
            if head.split(b" ", 2)[1:2] == [b"101"]:
                await into.open(writer)
                await self._copy(number, reader)
                return
            writer.write_eof()  # a refused client must not ask the kubelet for more
            with suppress(TimeoutError):
                async with asyncio.timeout(REFUSAL_SECONDS):
                    await self._copy(number, reader)
        except OSError as error:
            raise Undeliverable(f"the kubelet: {error}") from error
        finally:
            writer.transport.abort()

    async def _copy(self, number: int, reader: asyncio.StreamReader) -> None:
        while data := await reader.read(self._frame_bytes):
            await self._send_data(number, data)

    async def _send_data(self, number: int, data: bytes) -> None:
        for begin in range(0, len(data), self._frame_bytes):
            piece = data[begin : begin + self._frame_bytes]
            await self._send(Frame(number, FrameType.DATA, piece))


def _target(connect: Connect) -> str:
    query = f"?{connect.query}" if connect.query else ""
    return f"{quote(connect.path, safe=_PATH_SAFE)}{query}"


def _login(kubelet: Kubelet) -> dict[str, str]:
    return {"Authorization": f"Bearer {kubelet.token}"} if kubelet.token else {}


def _request(connect: Connect, kubelet: Kubelet) -> bytes:
    target = _target(connect)
    if not is_token(connect.method) or not is_target(target):
        raise MalformedPacket("exec: the request line is malformed")
    fields = [(k, v) for k, values in connect.headers.items() for v in values]
    fields = [(k, v) for k, v in fields if k.lower() not in _OWN]
    fields += _login(kubelet).items()
    try:
        start = f"{connect.method} {target} HTTP/1.1"
        return write_head(start, [("Host", kubelet.address), ("Content-Length", "0"), *fields])
    except (ValueError, UnicodeError) as error:
        raise MalformedPacket(f"exec: {error}") from error


class _Input:
    """What a client sends to the kubelet: it waits for the upgrade, and then for who reads slowly."""

    def __init__(self) -> None:
        self._early = bytearray()
        self._writer: asyncio.StreamWriter | None = None

    async def open(self, writer: asyncio.StreamWriter) -> None:
        """Send from now on to the kubelet."""
        self._writer = writer
        writer.write(self._early)
        self._early.clear()

    async def take(self, data: bytes) -> bool:
        """Send or keep; False when too much waits for too long."""
        if self._writer is None:
            self._early += data
            return len(self._early) <= MAX_WAITING
        self._writer.write(data)
        if self._writer.transport.get_write_buffer_size() <= MAX_WAITING:
            return True
        with suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(SLOW_SECONDS):
                await self._writer.drain()
                return True
        return False


async def _connect(kubelet: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, port = parse_bind(kubelet, "edge.stream.kubelet")
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            return await asyncio.open_connection(host, port, limit=MAX_HEAD)
    except (OSError, TimeoutError) as error:
        raise Undeliverable(f"the kubelet {kubelet} cannot be reached") from error


async def _read_head(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
        raise Undeliverable("the kubelet did not answer in HTTP") from error


def _headers(connect: Connect, kubelet: Kubelet) -> dict[str, str | list[str]]:
    """The headers for the kubelet; its own do not travel back, so nothing may be encoded."""
    dropped = ("accept-encoding", "authorization")
    kept = {k: list(v) for k, v in connect.headers.items() if k.lower() not in dropped}
    return {**kept, "Accept-Encoding": ["identity"], **_login(kubelet)}


async def _text(answer: HttpStream) -> str:
    """Return the beginning of a refusal, for people."""
    async for piece in answer.body:
        return piece[:300].decode("utf-8", "replace").strip()
    return ""


async def lines(body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    r"""Yield a body line by line, each with its `\n`, the last one too."""
    rest = b""
    async for piece in body:
        *whole, rest = (rest + piece).split(b"\n")
        for line in whole:
            yield line + b"\n"
        if len(rest) > MAX_LINE:
            yield rest
            rest = b""
    if rest:
        yield rest + b"\n"
