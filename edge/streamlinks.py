"""Requests through the stream tunnel at the edge: each is one connection to the local kubelet.

The kubelet is the one of `edge.stream.kubelet`, whatever host a request names, and only the paths of logs and
metrics are asked for there. Source: KubeEdge, EdgeStream.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from urllib.parse import quote

from gateway.errors import GatewayError, MalformedPacket, NotBuilt, Undeliverable
from gateway.runtime.small_client import HttpStream, open_stream
from gateway.wire.cloudedge.tunnel import (
    OPENING,
    SMALL_FRAME,
    Connect,
    Frame,
    FrameType,
    decode_connect,
    kind_of,
)

log = logging.getLogger(__name__)

MAX_LINKS = 200
"""Requests at a time."""
MAX_LINE = 65_536
"""Bytes of one line of metrics; a longer one is split."""
_PATH_SAFE = "/:@!$&'()*+,;=~"
Send = Callable[[Frame], Awaitable[None]]


class Links:
    """The requests of one tunnel.

    Shape:  `send` writes a frame and waits while too much waits before it. `frame_bytes` of data go into one.
            `is_ours`: the cloud takes a reason for an answer, so a kubelet's refusal is told as one.
    """

    def __init__(
        self,
        kubelet: str,
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

    async def take(self, frame: Frame) -> None:
        """Do what a frame of the cloud asks for."""
        if frame.type in OPENING:
            await self._open(frame)
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
        work = self._serve(number, frame.type, connect)
        self._tasks[number] = asyncio.get_running_loop().create_task(work)

    async def _close(self, number: int) -> None:
        task = self._tasks.pop(number, None)
        if task is not None:
            task.cancel()
            await self._send(Frame(number, FrameType.REMOVE))

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
        if self._tasks.pop(number, None) is not None:
            with suppress(ConnectionError):
                await self._send(Frame(number, FrameType.REMOVE, reason.encode()[:500]))

    async def _carry(self, number: int, kind: FrameType, connect: Connect) -> None:
        if kind in (FrameType.EXEC, FrameType.ATTACH):
            raise NotBuilt("exec and attach at the edge are not there")
        async with open_stream("GET", self._url(connect), headers=_headers(connect)) as answer:
            if self._is_ours and answer.status >= 300:
                raise Undeliverable(f"the kubelet answered {answer.status}: {await _text(answer)}")
            pieces = lines(answer.body) if kind is FrameType.METRICS else answer.body
            async for piece in pieces:
                await self._send_data(number, piece)

    async def _send_data(self, number: int, data: bytes) -> None:
        for begin in range(0, len(data), self._frame_bytes):
            piece = data[begin : begin + self._frame_bytes]
            await self._send(Frame(number, FrameType.DATA, piece))

    def _url(self, connect: Connect) -> str:
        query = f"?{connect.query}" if connect.query else ""
        return f"http://{self._kubelet}{quote(connect.path, safe=_PATH_SAFE)}{query}"


def _headers(connect: Connect) -> dict[str, list[str]]:
    """The headers for the kubelet; its own do not travel back, so nothing may be encoded."""
    kept = {k: list(v) for k, v in connect.headers.items() if k.lower() != "accept-encoding"}
    return {**kept, "Accept-Encoding": ["identity"]}


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
