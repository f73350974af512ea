"""EdgeStream: the edge's end of the stream tunnel, to this node's kubelet.

It keeps one WebSocket to CloudStream up, with the hub's certificate, beside the hub and independent of it.
Source: KubeEdge, EdgeStream.
"""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from edge.kubeletaccess import Kubelet
from edge.machine import address_of
from edge.streamlinks import Links
from edge.upgrading import CHUNK, answered
from edge.websocket import ClientSession, Closed, Event, Opened, Refused, Text
from gateway.errors import GatewayError, MalformedPacket, Undeliverable
from gateway.wire.cloudedge.tunnel import (
    FRAME_BYTES,
    LARGE_FRAME,
    MAX_MESSAGE,
    NODE_ADDRESS,
    NODE_NAME,
    PING,
    SMALL_FRAME,
    TUNNEL_PATH,
    Frame,
    decode_frame,
    encode_frame,
)

log = logging.getLogger(__name__)

RETRY_SECONDS = 2.0
PING_SECONDS = 5.0
SILENT_SECONDS = 30.0
HANDSHAKE_SECONDS = 30.0
GOODBYE_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class TunnelTarget:
    """Where the tunnel goes, and as whom."""

    host: str
    port: int
    node: str
    context: ssl.SSLContext


class EdgeStream:
    """The tunnel as a module. `target` is asked at each try, so that a new certificate counts at once.

    Shape:  `kubelet` tells where requests go, at each of them.
    """

    name = "edge.stream"

    def __init__(self, target: Callable[[], TunnelTarget], kubelet: Callable[[], Kubelet]) -> None:
        self._target = target
        self._kubelet = kubelet
        self._last_error = ""
        self.is_connected = False

    async def run(self, ready: Callable[[], None]) -> None:
        ready()  # the edge works without it
        while True:
            try:
                await self._one_connection()
            except (OSError, GatewayError, TimeoutError, EOFError) as error:
                self._note(str(error) or type(error).__name__)
            await asyncio.sleep(RETRY_SECONDS)

    def _note(self, cause: str) -> None:
        level = logging.INFO if cause != self._last_error else logging.DEBUG
        self._last_error = cause
        log.log(level, "no stream tunnel", extra={"cause": cause})

    async def _one_connection(self) -> None:
        target = self._target()
        async with asyncio.timeout(HANDSHAKE_SECONDS):
            reader, writer = await asyncio.open_connection(
                target.host, target.port, ssl=target.context, limit=CHUNK
            )
        try:
            async with asyncio.timeout(HANDSHAKE_SECONDS):
                session, opened, rest = await _upgrade(target, reader, writer)
            self._last_error = ""
            tunnel = _Tunnel(session, reader, writer, self._kubelet, opened)
            self.is_connected = True
            try:
                await tunnel.pump(rest)
            finally:
                self.is_connected = False
                await tunnel.close()
        finally:
            await _close(writer)


class _Tunnel:
    """One open tunnel."""

    def __init__(
        self,
        session: ClientSession,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        kubelet: Callable[[], Kubelet],
        opened: Opened,
    ) -> None:
        self._session = session
        self._reader = reader
        self._writer = writer
        told = opened.headers.get(FRAME_BYTES, "")
        size = min(int(told), LARGE_FRAME) if told.isascii() and told.isdigit() else 0
        self._links = Links(
            kubelet, self.send, frame_bytes=max(size, SMALL_FRAME), is_ours=bool(size)
        )

    async def send(self, frame: Frame) -> None:
        """Write a frame; wait while much waits before it. Errors: ConnectionError."""
        if self._session.closed or self._writer.is_closing():
            raise ConnectionResetError("the tunnel is closed")
        self._session.send_text(encode_frame(frame))
        self._flush()
        await self._writer.drain()

    def _flush(self) -> None:
        data = self._session.to_send()
        if data and not self._writer.is_closing():
            self._writer.write(data)

    async def pump(self, rest: list[Event]) -> None:
        """Read until the tunnel ends; ping it, and notice a silent cloud."""
        time = asyncio.get_running_loop().time
        heard = time()
        next_ping = heard + PING_SECONDS
        await self._take_all(rest)
        while not self._session.closed:
            data = None
            with suppress(TimeoutError):
                async with asyncio.timeout_at(next_ping):
                    data = await self._reader.read(CHUNK)
            if data is not None:
                heard = time()
                await self._take_all(self._session.receive(data))
            if time() - heard > SILENT_SECONDS:
                raise Undeliverable("the cloud was silent")
            if time() >= next_ping:
                self._session.ping(PING)
                next_ping = time() + PING_SECONDS
            self._flush()

    async def _take_all(self, events: list[Event]) -> None:
        for event in events:
            if isinstance(event, Text):
                await self._take(event.data)
            elif isinstance(event, Closed):
                raise Undeliverable(f"the cloud closed the tunnel: {event.code}")

    async def _take(self, data: bytes) -> None:
        try:
            frame = decode_frame(data)
        except MalformedPacket as error:
            log.warning("odd tunnel frame", extra={"cause": error.message})
            return
        await self._links.take(frame)

    async def close(self) -> None:
        """End all requests and say goodbye."""
        await self._links.close()
        self._session.close()
        self._flush()


async def _upgrade(
    target: TunnelTarget, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> tuple[ClientSession, Opened, list[Event]]:
    session = ClientSession(
        f"{target.host}:{target.port}",
        TUNNEL_PATH,
        {NODE_NAME: target.node, NODE_ADDRESS: address_of(writer.transport)},
        key=os.urandom(16),
        mask=lambda: os.urandom(4),
        limit=MAX_MESSAGE,
    )
    return session, *await answered(session, reader, writer, _refusal)


def _refusal(event: Event) -> GatewayError:
    if isinstance(event, Refused):
        return Undeliverable(f"the cloud refused the tunnel: {event.status} {event.reason}")
    return Undeliverable("the cloud closed the connection instead of answering the upgrade")


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(OSError, TimeoutError):
        async with asyncio.timeout(GOODBYE_SECONDS):
            await writer.wait_closed()
    writer.transport.abort()
