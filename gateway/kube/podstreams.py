"""Logs, exec, attach and port-forward of Pods: handed on to the node's kubelet as they are.

Exec, attach and port-forward are upgrades. Which ones there are (SPDY, WebSocket and its versions) is the
kubelet's matter: its answer is the client's from the head on, a refusal too, and clients try their next
protocol then. Of the answer only its head is read: where it is no 101, nothing of the client goes to the
kubelet any more, whose connection trusts whatever comes as the API server's own request.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from typing import cast

from aiohttp import web

from gateway.errors import BadRequest, GatewayError, Undeliverable
from gateway.kube.kubelets import Answer, ByteStream, Kubelets
from gateway.kube.objects import Objects
from gateway.kube.watch import Key
from gateway.model.json import JsonObject
from gateway.wire.kube.podasks import log_request, node_of, stream_request
from gateway.wire.kube.requests import Target

log = logging.getLogger(__name__)

LOG = "log"
UPGRADES = ("exec", "attach", "portforward")
STREAMED = (LOG, *UPGRADES)
SWITCHING = 101
ANSWER_SECONDS = 30.0
"""How long the kubelet's head is waited for."""
REFUSAL_SECONDS = 10.0
"""How long the rest of a refusal is waited for."""
MAX_HEAD = 65_536
MAX_REFUSAL = 1_048_576
_PIECE = 65_536
MAX_WAITING = 1_048_576
"""Bytes of a client that wait for its kubelet; reading from the client pauses above."""
_HANDED_ON = ("connection", "upgrade", "content-length", "content-type", "origin")
_HANDED_ON_PREFIX = ("x-stream-", "sec-websocket-")


class PodStreams:
    """Answers the streaming subresources of Pods."""

    def __init__(self, objects: Objects, kubelets: Kubelets) -> None:
        self._objects = objects
        self._kubelets = kubelets

    async def answer(self, request: web.Request, target: Target) -> web.StreamResponse:
        """Answer a request; who asks has the right to. Errors: BadRequest; NotFound; Undeliverable."""
        pods = self._objects.resource("v1", "pods")
        pod = self._objects.get(pods, target.namespace, target.name).object
        if target.subresource == LOG:
            return await self._log(request, pod)
        if "upgrade" not in request.headers.get("Connection", "").lower():
            raise BadRequest("Upgrade request required")
        return await self._upgrade(request, pod, target.subresource)

    # --- logs -------------------------------------------------------------------------------------

    async def log(self, pod: JsonObject, query: Mapping[str, str]) -> AsyncIterator[bytes] | None:
        """Return a Pod's log as its kubelet tells it, None for a Pod without a node; to be read to the end
        or closed. Errors: BadRequest; Unprocessable; Undeliverable.
        """
        path, asked = log_request(pod, query)
        if not node_of(pod):
            return None
        told = await self._kubelets.get(self._node(pod), path, asked)
        if told.status >= 400:
            raise await _refusal(told)
        return told.body

    async def _log(self, request: web.Request, pod: JsonObject) -> web.StreamResponse:
        body = await self.log(pod, request.query)
        if body is None:
            return web.Response(body=b"", content_type="text/plain")
        response = web.StreamResponse(headers={"Content-Type": "text/plain"})
        await response.prepare(request)
        try:
            async for piece in body:
                await response.write(piece)
        except Undeliverable as error:
            log.info("a log ended early", extra={"path": request.path, "cause": error.message})
            _cut(request)
            return response
        await response.write_eof()
        return response

    def _node(self, pod: JsonObject) -> JsonObject:
        """Errors: Undeliverable when the node is gone."""
        name = node_of(pod)
        stored = self._objects.storage.get(Key("nodes", "", name))
        if stored is None:
            raise Undeliverable(f'nodes "{name}" not found')
        return stored.object

    # --- upgrades ---------------------------------------------------------------------------------

    async def _upgrade(
        self, request: web.Request, pod: JsonObject, subresource: str
    ) -> web.StreamResponse:
        query = {key: request.query.getall(key) for key in request.query}
        path, asked = stream_request(pod, subresource, query)
        headers: dict[str, list[str]] = {}
        for name, value in request.headers.items():
            if name.lower() in _HANDED_ON or name.lower().startswith(_HANDED_ON_PREFIX):
                headers.setdefault(name, []).append(value)
        stream = await self._kubelets.upgrade(self._node(pod), request.method, path, asked, headers)
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                first = await _head(stream)
        except TimeoutError as error:
            await stream.close()
            raise Undeliverable("the node's kubelet does not answer") from error
        except BaseException:
            await stream.close()
            raise
        return await _carry(request, first, stream)


_STATUS = re.compile(rb"HTTP/1\.[01] ([0-9]{3})[ \r]")
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,9})[ \t]*\r\n", re.IGNORECASE)
_END = b"\r\n\r\n"


async def _head(stream: ByteStream) -> bytes:
    """Read at least the head of the kubelet's answer. Errors: Undeliverable."""
    first = b""
    while _END not in first:
        piece = await stream.read()
        if not piece:
            raise Undeliverable("the node's kubelet closed the connection")
        first += piece
        if len(first) > MAX_HEAD + _PIECE:
            raise Undeliverable("the node's kubelet answers with a head that is too long")
    if not _STATUS.match(first):
        raise Undeliverable("the node's kubelet answers something that is no HTTP")
    return first


def _status(first: bytes) -> int:
    found = _STATUS.match(first)
    return int(found[1]) if found else 502


async def _refusal(told: Answer) -> GatewayError:
    """What the kubelet said instead of a log."""
    text = b""
    async for piece in told.body:
        text += piece
        if len(text) > 4_096:
            break
    message = text[:4_096].decode("utf-8", "replace").strip() or f"the kubelet said {told.status}"
    return BadRequest(message) if told.status < 500 else Undeliverable(message)


def _cut(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.abort()


class _Client(asyncio.Protocol):
    """The client's end, once its connection is no HTTP any more.

    Shape:  `before` is who had the connection; it is told when the connection is lost.
    """

    def __init__(self, transport: asyncio.Transport, before: asyncio.BaseProtocol) -> None:
        self._transport = transport
        self._before = before
        self._pieces: list[bytes] = []
        self._size = 0
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._has_ended = False
        self._keeps_way_back = transport.get_extra_info("sslcontext") is None
        """Asked now: a TLS connection that was closed here cannot be asked when its end comes."""

    def data_received(self, data: bytes) -> None:
        self._pieces.append(data)
        self._size += len(data)
        self._news.set()
        if self._size > MAX_WAITING:
            self._transport.pause_reading()

    def eof_received(self) -> bool:
        """Keep the way back open where that can be: TLS ends both ways at once."""
        self._has_ended = True
        self._news.set()
        return self._keeps_way_back

    def connection_lost(self, error: Exception | None) -> None:
        self._before.connection_lost(error)
        self._has_ended = True
        self._news.set()
        self._room.set()

    def pause_writing(self) -> None:
        self._room.clear()

    def resume_writing(self) -> None:
        self._room.set()

    async def read(self) -> bytes:
        while not self._pieces and not self._has_ended:
            self._news.clear()
            await self._news.wait()
        data, self._pieces, self._size = b"".join(self._pieces), [], 0
        if not self._transport.is_closing():
            self._transport.resume_reading()
        return data

    async def write(self, data: bytes) -> None:
        if self._transport.is_closing():
            raise Undeliverable("the client is gone")
        self._transport.write(data)
        await self._room.wait()


async def _carry(request: web.Request, first: bytes, stream: ByteStream) -> web.StreamResponse:
    """Give the connection to the kubelet until either end closes it."""
    transport = cast("asyncio.Transport", request.transport)
    client = _Client(transport, request.protocol)
    transport.set_protocol(client)
    try:
        if _status(first) == SWITCHING:
            await _both_ways(client, first, stream)
        else:
            await _refuse(client, first, stream)
    except Undeliverable as error:
        log.debug("a stream of a pod ended", extra={"cause": error.message})
    finally:
        await stream.close()
        transport.close()
    return web.StreamResponse(status=_status(first))


async def _both_ways(client: _Client, first: bytes, stream: ByteStream) -> None:
    async with asyncio.TaskGroup() as group:
        up = group.create_task(_up(client, stream))
        try:
            await client.write(first)
            async for piece in _pieces(stream):
                await client.write(piece)
        except Undeliverable as error:
            log.debug("a stream of a pod ended", extra={"cause": error.message})
        finally:
            up.cancel()


async def _refuse(client: _Client, first: bytes, stream: ByteStream) -> None:
    """Tell the client what the kubelet said instead, and take nothing more from it.

    Errors: Undeliverable when an end breaks.
    """
    length = _LENGTH.search(first, 0, first.index(_END) + 2)
    whole = first.index(_END) + len(_END) + (int(length[1]) if length else MAX_REFUSAL)
    whole, told = min(whole, MAX_REFUSAL), first[:whole]
    await client.write(told)
    with suppress(TimeoutError):
        async with asyncio.timeout(REFUSAL_SECONDS):
            while len(told) < whole and (piece := await stream.read()):
                told += piece
                await client.write(piece)


async def _pieces(stream: ByteStream) -> AsyncIterator[bytes]:
    while piece := await stream.read():
        yield piece


async def _up(client: _Client, stream: ByteStream) -> None:
    """Send the client's bytes to the node until it closes; then the node's side is closed too."""
    with suppress(Undeliverable):
        while data := await client.read():
            await stream.write(data)
    await stream.close()
