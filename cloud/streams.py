"""The cloud's end of the stream tunnels: the WebSocket listener of port 10004, one tunnel per edge node.

A node is who its certificate says. Requests for its kubelet share the tunnel, each with a number of its own.
What came for one whose client reads slowly is bounded: the tunnel waits for it some seconds, then that one
request ends and the others go on. The tunnel has nothing to do with the hub's link. Source: KubeEdge,
CloudStream.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import ssl
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from aiohttp import WSMsgType, web

from cloud.certificates import NodeCertificate, read_node_certificate
from cloud.joining import peer_certificate, refusal
from cloud.ports import KubeletRefused
from cloud.sessions import refused
from gateway.errors import GatewayError, MalformedPacket, Undeliverable
from gateway.kube.kubelets import Headers
from gateway.runtime.listener import Endpoints, serve_app
from gateway.wire.cloudedge.names import Refusal
from gateway.wire.cloudedge.tunnel import (
    FRAME_BYTES,
    LARGE_FRAME,
    MAX_MESSAGE,
    NODE_ADDRESS,
    NODE_NAME,
    TUNNEL_PATH,
    Connect,
    Frame,
    FrameType,
    decode_frame,
    encode_connect,
    encode_frame,
    read_refusal,
)

if TYPE_CHECKING:
    from cloud.identity import Identity
    from cloud.nodebook import NodeBook
    from gateway.config.cloud_services import Stream
    from gateway.observe.metrics import Metrics

log = logging.getLogger(__name__)

ENDPOINT = "tunnel.wss"
MAX_WAITING = 1_048_576
"""Bytes that wait for one client."""
MAX_STREAMS = 1_000
"""Requests through one tunnel at a time."""
MAX_TUNNELS = 10_000
SLOW_SECONDS = 5.0
"""How long a tunnel waits for a client that does not read."""
SILENT_SECONDS = 30.0
"""Edges ping every 5 s."""
WRITE_SECONDS = 10.0
CLOSE_SECONDS = 1.0
Send = Callable[[Frame], Awaitable[None]]


class TunnelStream:
    """One request through a tunnel (`gateway.kube.kubelets.ByteStream`)."""

    def __init__(self, number: int, send: Send, forget: Callable[[int], None]) -> None:
        self._number = number
        self._send = send
        self._forget = forget
        self._pieces: deque[bytes] = deque()
        self._size = 0
        self._has_ended = False
        self._failure = ""
        self._news = asyncio.Event()
        self._room = asyncio.Event()

    def take(self, data: bytes) -> None:
        """Keep what came for the client."""
        self._pieces.append(data)
        self._size += len(data)
        self._news.set()

    def end(self, failure: str = "") -> None:
        """Nothing more comes; `failure` says why when that is no good end."""
        if not self._has_ended:
            self._has_ended, self._failure = True, failure
            self._news.set()
            self._room.set()

    async def has_room(self) -> bool:
        """Wait until the client has read enough; False when it does not."""
        with suppress(TimeoutError):
            async with asyncio.timeout(SLOW_SECONDS):
                while self._size > MAX_WAITING and not self._has_ended:
                    self._room.clear()
                    await self._room.wait()
                return True
        return False

    async def wait(self) -> None:
        """Wait until `read` has something to say."""
        while not self._pieces and not self._has_ended:
            self._news.clear()
            await self._news.wait()

    async def read(self) -> bytes:
        """Return what came next, b"" at the end.

        Errors: Undeliverable when it ended badly, KubeletRefused when the kubelet said so.
        """
        await self.wait()
        if self._pieces:
            data = self._pieces.popleft()
            self._size -= len(data)
            self._room.set()
            return data
        if self._failure:
            refusal = read_refusal(self._failure)
            raise Undeliverable(self._failure) if refusal is None else KubeletRefused(*refusal)
        return b""

    async def write(self, data: bytes) -> None:
        """Send bytes. Errors: Undeliverable."""
        if self._has_ended:
            raise Undeliverable(self._failure or "the node has ended the connection")
        for begin in range(0, len(data), LARGE_FRAME):
            piece = data[begin : begin + LARGE_FRAME]
            await self._send(Frame(self._number, FrameType.DATA, piece))

    async def close(self) -> None:
        """End the request; never raises."""
        self._forget(self._number)
        if not self._has_ended:
            self.end()
            with suppress(Undeliverable):
                await self._send(Frame(self._number, FrameType.CLOSE))


class _Tunnel:
    """One node's tunnel."""

    def __init__(
        self, certificate: NodeCertificate, socket: web.WebSocketResponse, request: web.Request
    ) -> None:
        self.certificate = certificate
        self.address = request.headers.get(NODE_ADDRESS, "")[:64]
        self._socket = socket
        self._transport = request.transport
        self._writing = asyncio.Lock()
        self._streams: dict[int, TunnelStream] = {}

    async def open(self, kind: FrameType, connect: Connect) -> TunnelStream:
        """Ask the node for a connection. Errors: Undeliverable."""
        if len(self._streams) >= MAX_STREAMS:
            raise Undeliverable(f"node {self.certificate.node}: {MAX_STREAMS} requests are open")
        number = connect.connection
        stream = TunnelStream(number, self.send, lambda n: void(self._streams.pop(n, None)))
        self._streams[number] = stream
        try:
            await self.send(Frame(number, kind, encode_connect(connect, kind)))
        except BaseException:
            self._streams.pop(number, None)
            raise
        return stream

    async def send(self, frame: Frame) -> None:
        """Write a frame. Errors: Undeliverable; the tunnel is of no use then."""
        try:
            async with asyncio.timeout(WRITE_SECONDS), self._writing:
                await self._socket.send_frame(encode_frame(frame), WSMsgType.TEXT)
        except (TimeoutError, ConnectionError, RuntimeError) as error:
            self.abort()
            raise Undeliverable(f"node {self.certificate.node}: its tunnel broke") from error

    async def read(self) -> None:
        """Hand out frames until the tunnel ends."""
        with suppress(TimeoutError, Undeliverable):
            async for message in self._socket:
                if message.type not in (WSMsgType.TEXT, WSMsgType.BINARY):
                    return
                data = message.data
                await self._take(decode_frame(data.encode() if isinstance(data, str) else data))

    async def _take(self, frame: Frame) -> None:
        stream = self._streams.get(frame.connection)
        if stream is None:
            return
        if frame.type is FrameType.REMOVE:
            self._streams.pop(frame.connection, None)
            stream.end(frame.data[:1_000].decode("utf-8", "replace"))
        elif frame.type is FrameType.DATA and frame.data:
            stream.take(frame.data)
            if not await stream.has_room():
                self._streams.pop(frame.connection, None)
                stream.end("the client reads too slowly")
                await self.send(Frame(frame.connection, FrameType.CLOSE))

    def end(self) -> None:
        """Tell all requests that nothing more comes."""
        for stream in self._streams.values():
            stream.end(f"node {self.certificate.node}: its tunnel broke")
        self._streams.clear()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    async def hang_up(self) -> None:
        with suppress(TimeoutError, ConnectionError, RuntimeError):
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._socket.close()
        self.abort()


def void(_: object) -> None:
    """Drop a result."""


class Tunnels:
    """Module: the tunnels' listener (`cloud.ports.NodeStreams`)."""

    name = "cloud.tunnels"

    def __init__(
        self,
        settings: Stream,
        identity: Identity,
        book: NodeBook,
        endpoints: Endpoints,
        metrics: Metrics,
    ) -> None:
        self._settings = settings
        self._identity = identity
        self._book = book
        self._endpoints = endpoints
        self._metrics = metrics
        self._tunnels: dict[str, _Tunnel] = {}
        self._numbers = itertools.count(1)
        self.on_open: Callable[[str], None] = void
        """Told the node whose tunnel has opened; set before `run`."""

    async def run(self, ready: Callable[[], None]) -> None:
        app = web.Application()
        app.router.add_get(TUNNEL_PATH, self._connect)
        async with serve_app(
            self._endpoints,
            ENDPOINT,
            self._settings.tunnel_bind,
            app,
            ssl=self._identity.tls(ssl.CERT_REQUIRED),
            setting="cloud.stream.tunnel_bind",
        ):
            ready()
            try:
                await asyncio.Event().wait()
            finally:
                goodbyes = [tunnel.hang_up() for tunnel in self._tunnels.values()]
                await asyncio.gather(*goodbyes, return_exceptions=True)

    # --- for other rooms ------------------------------------------------------------------------

    def nodes(self) -> list[str]:
        """Return the nodes that have a tunnel here."""
        return list(self._tunnels)

    def is_connected(self, node: str) -> bool:
        return node in self._tunnels

    def has(self, host: str) -> bool:
        """True when a node of this name or internal address has a tunnel here."""
        return host in self._tunnels or any(t.address == host for t in self._tunnels.values())

    def node_at(self, host: str) -> str:
        """Return the node of this name or internal address.

        Errors: Undeliverable for none, or an address that several nodes say is theirs.
        """
        if host in self._tunnels:
            return host
        found = [name for name, tunnel in self._tunnels.items() if tunnel.address == host]
        if len(found) == 1:
            return found[0]
        what = "several nodes have a tunnel" if found else "no node has a tunnel here"
        raise Undeliverable(f"{host[:100]}: {what} by that name or address")

    async def open(
        self, node: str, kind: FrameType, method: str, path: str, query: str, headers: Headers
    ) -> TunnelStream:
        """Ask a node's kubelet for something. Errors: Undeliverable."""
        tunnel = self._tunnels.get(node)
        if tunnel is not None and self._book.is_revoked(tunnel.certificate):
            tunnel.abort()
            tunnel = None
        if tunnel is None:
            raise Undeliverable(f"node {node[:100]} has no tunnel here")
        connect = Connect(next(self._numbers), method, path, query, headers)
        return await tunnel.open(kind, connect)

    async def fetch(
        self, node: str, kind: FrameType, path: str, query: str, headers: Headers
    ) -> AsyncIterator[bytes]:
        """Yield the body of a GET. Errors: Undeliverable."""
        stream = await self.open(node, kind, "GET", path, query, headers)
        try:
            while piece := await stream.read():
                yield piece
        finally:
            await stream.close()

    async def upgrade(
        self, node: str, kind: FrameType, method: str, path: str, query: str, headers: Headers
    ) -> TunnelStream:
        """Open exec or attach. Errors: Undeliverable."""
        return await self.open(node, kind, method, path, query, headers)

    # --- connecting -----------------------------------------------------------------------------

    async def _connect(self, request: web.Request) -> web.StreamResponse:
        try:
            certificate = self._admit(request)
        except GatewayError as error:
            return refusal(request, error)
        socket = web.WebSocketResponse(
            timeout=CLOSE_SECONDS,
            receive_timeout=SILENT_SECONDS,
            max_msg_size=MAX_MESSAGE + 1,
            compress=False,
            decode_text=False,
        )
        if not socket.can_prepare(request):
            return web.Response(status=426, text="expected a WebSocket upgrade")
        socket.headers[FRAME_BYTES] = str(LARGE_FRAME)
        await socket.prepare(request)
        tunnel = _Tunnel(certificate, socket, request)
        self._open(tunnel)
        try:
            await tunnel.read()
        except MalformedPacket as error:
            log.warning(
                "odd tunnel frame", extra={"node": certificate.node, "cause": error.message}
            )
        finally:
            self._forget(tunnel)
        return socket

    def _admit(self, request: web.Request) -> NodeCertificate:
        der = peer_certificate(request)
        if der is None:
            raise refused(Refusal.NO_CERTIFICATE, "a client certificate is needed")
        certificate = read_node_certificate(der)
        name = request.headers.get(NODE_NAME, "")
        if name != certificate.node:
            raise refused(
                Refusal.NODE_MISMATCH,
                f"the certificate is of node {certificate.node}, {NODE_NAME} says {name[:100]}",
            )
        if self._book.is_revoked(certificate):
            raise refused(Refusal.REVOKED, f"node {name} was deleted or replaced: join again")
        if name not in self._tunnels and len(self._tunnels) >= MAX_TUNNELS:
            raise Undeliverable(f"{MAX_TUNNELS} tunnels are open already")
        return certificate

    def _open(self, tunnel: _Tunnel) -> None:
        node = tunnel.certificate.node
        old = self._tunnels.get(node)
        self._tunnels[node] = tunnel
        if old is not None:
            old.abort()
        self._metrics.edge.tunnels.set(len(self._tunnels))
        log.info("tunnel open", extra={"node": node})
        self.on_open(node)

    def _forget(self, tunnel: _Tunnel) -> None:
        tunnel.end()
        tunnel.abort()
        node = tunnel.certificate.node
        if self._tunnels.get(node) is tunnel:
            del self._tunnels[node]
            log.info("tunnel closed", extra={"node": node})
        self._metrics.edge.tunnels.set(len(self._tunnels))
