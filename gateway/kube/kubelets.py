"""The way from the API server to the kubelet of a node: logs, exec, attach, port-forward.

`DirectKubelets` asks the node's own address, as any API server does; CloudCore puts its tunnels before it.
Source: Kubernetes "Communication between Nodes and the Control Plane".
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from gateway.errors import GatewayError, MalformedPacket, NotBuilt, Undeliverable
from gateway.model.json import JsonObject
from gateway.wire.kube.parts import part, rows, text, whole

Headers = Mapping[str, Sequence[str]]
"""HTTP header name -> values."""

CONNECT_SECONDS = 10.0
HEAD_SECONDS = 30.0
MAX_HEAD = 65_536
PIECE = 65_536
ADDRESSES = ("Hostname", "InternalDNS", "InternalIP", "ExternalDNS", "ExternalIP")
"""The order in which an API server tries a node's addresses."""


class ByteStream(Protocol):
    """A connection to a kubelet, raw bytes both ways."""

    async def read(self) -> bytes:
        """Return what came next, b"" at the end. Errors: Undeliverable when the way broke."""

    async def write(self, data: bytes) -> None:
        """Send bytes. Errors: Undeliverable."""

    async def close(self) -> None:
        """End the connection; never raises."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A kubelet's answer to a GET. Shape: `body` ends with the connection."""

    status: int
    media_type: str
    body: AsyncIterator[bytes]


class Kubelets(Protocol):
    """Requests to kubelets; `node` is the Node object."""

    async def get(self, node: JsonObject, path: str, query: str, /) -> Answer:
        """Ask for logs or metrics. Errors: Undeliverable when the node cannot be reached."""

    async def upgrade(
        self, node: JsonObject, method: str, path: str, query: str, headers: Headers, /
    ) -> ByteStream:
        """Open exec, attach or port-forward; the first bytes read are the kubelet's answer with its head.

        Errors: Undeliverable when the node cannot be reached.
        """


class NoKubelets:
    """Where nobody knows a way: the API of an edge node's own store, for example."""

    async def get(self, _node: JsonObject, _path: str, _query: str) -> Answer:
        """Errors: NotBuilt."""
        raise NotBuilt("this API server has no way to kubelets")

    async def upgrade(
        self, _node: JsonObject, _method: str, _path: str, _query: str, _headers: Headers
    ) -> ByteStream:
        """Errors: NotBuilt."""
        raise NotBuilt("this API server has no way to kubelets")


class DirectKubelets:
    """Asks a node at its own address, with the API server's client certificate.

    The kubelet's certificate is not judged, as with API servers without `--kubelet-certificate-authority`:
    most kubelets sign their own.
    """

    def __init__(self, tls: Callable[[], ssl.SSLContext]) -> None:
        self._tls = tls

    async def get(self, node: JsonObject, path: str, query: str) -> Answer:
        """Ask for logs or metrics."""
        stream = await self._connect(node)
        try:
            await stream.send_head("GET", path, query, {"Connection": ("close",)})
            async with asyncio.timeout(HEAD_SECONDS):
                status, headers = await stream.read_head()
        except TimeoutError as error:
            await stream.close()
            raise Undeliverable(f"{stream.where}: no answer") from error
        except BaseException:
            await stream.close()
            raise
        chunked = headers.get("transfer-encoding", "").lower() == "chunked"
        body = stream.chunks() if chunked else stream.rest(headers.get("content-length", ""))
        return Answer(status, headers.get("content-type", "text/plain"), body)

    async def upgrade(
        self, node: JsonObject, method: str, path: str, query: str, headers: Headers
    ) -> ByteStream:
        """Open exec, attach or port-forward."""
        stream = await self._connect(node)
        await stream.send_head(method, path, query, headers)
        return stream

    async def _connect(self, node: JsonObject) -> _Socket:
        port = whole(part(node, "status", "daemonEndpoints", "kubeletEndpoint").get("Port"))
        hosts = _hosts(node)
        name = text(part(node, "metadata").get("name"))
        if not port or not hosts:
            raise Undeliverable(f"node {name} does not say where its kubelet is")
        why = ""
        for host in hosts:
            try:
                async with asyncio.timeout(CONNECT_SECONDS):
                    reader, writer = await asyncio.open_connection(
                        host, port, ssl=self._tls(), limit=MAX_HEAD
                    )
            except (OSError, TimeoutError) as error:
                why = f"{host}:{port}: {error or 'no answer'}"
                continue
            return _Socket(f"{host}:{port}", reader, writer)
        raise Undeliverable(f"the kubelet of node {name} cannot be reached: {why}")


def _hosts(node: JsonObject) -> list[str]:
    addresses = rows(part(node, "status").get("addresses"))
    found = [
        text(row.get("address"))
        for kind in ADDRESSES
        for row in addresses
        if row.get("type") == kind
    ]
    return list(dict.fromkeys(host for host in found if host))


class _Socket:
    """A connection to a kubelet."""

    def __init__(
        self, where: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.where = where
        self._reader = reader
        self._writer = writer

    async def send_head(self, method: str, path: str, query: str, headers: Headers) -> None:
        target = f"{path}?{query}" if query else path
        lines = [f"{method} {target} HTTP/1.1", f"Host: {self.where}"]
        lines += [f"{name}: {value}" for name, values in headers.items() for value in values]
        if any("\r" in line or "\n" in line for line in lines):
            raise MalformedPacket("a line break in a request for a kubelet")
        await self.write("\r\n".join((*lines, "", "")).encode("latin-1", "replace"))

    async def read_head(self) -> tuple[int, dict[str, str]]:
        try:
            head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            status = int(head[0].split(" ")[1])
        except (EOFError, asyncio.LimitOverrunError, ValueError, IndexError) as error:
            raise Undeliverable(f"{self.where}: an answer that is no HTTP") from error
        pairs = (line.partition(":") for line in head[1:] if line)
        return status, {name.strip().lower(): value.strip() for name, _, value in pairs}

    async def chunks(self) -> AsyncIterator[bytes]:
        try:
            while size := int((await self._reader.readline()).split(b";")[0], 16):
                while size:
                    piece = await self._reader.readexactly(min(size, PIECE))
                    size -= len(piece)
                    yield piece
                await self._reader.readexactly(2)
        except (EOFError, ValueError, OSError) as error:
            raise Undeliverable(f"{self.where}: the answer was cut") from error
        finally:
            await self.close()

    async def rest(self, length: str) -> AsyncIterator[bytes]:
        left = int(length) if length.isdigit() else None
        try:
            while left is None or left > 0:
                piece = await self.read()
                if not piece:
                    break
                left = None if left is None else left - len(piece)
                yield piece
        finally:
            await self.close()

    async def read(self) -> bytes:
        try:
            return await self._reader.read(PIECE)
        except OSError as error:
            raise Undeliverable(f"{self.where}: {error}") from error

    async def write(self, data: bytes) -> None:
        try:
            self._writer.write(data)
            await self._writer.drain()
        except OSError as error:
            raise Undeliverable(f"{self.where}: {error}") from error

    async def close(self) -> None:
        self._writer.close()
        with suppress(OSError, GatewayError, TimeoutError):
            async with asyncio.timeout(1.0):
                await self._writer.wait_closed()
