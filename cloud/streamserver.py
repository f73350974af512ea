"""CloudStream's HTTPS listener of port 10003: the kubelets of all edge nodes, as API servers ask them.

The client must show a certificate of `cloud.stream.client_ca`; nodes' own certificates are refused, for
CloudCore's CA signs them too. Which node is meant says the Host, where it is a node's name; else the path of
the API server's own proxy, or the node of the Pod: API servers hand on the Host that their client asked, and
an address may be that of several nodes. One whose tunnel is at another CloudCore is asked for there. What the
node's kubelet answers comes as a 200 in chunks: of its status, our edges tell one that is an error. Where it
is known at once that there is no answer, that is said with 503. For exec and attach the connection is the
kubelet's from its head on, and nothing is read here.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING
from urllib.parse import unquote

from cloud.certificates import OLD_COMMON_NAME
from cloud.nodepods import node_of
from cloud.peers import FORWARDED, Peers
from cloud.ports import KubeletRefused
from cloud.streamforward import forward
from cloud.streams import Tunnels, TunnelStream
from gateway.errors import BadRequest, Forbidden, NotFound, Undeliverable
from gateway.runtime.listener import Endpoints
from gateway.runtime.small_service import Request, Response, Takeover, Write, serve_requests
from gateway.wire.cloudedge.names import ORGANISATION
from gateway.wire.cloudedge.tunnel import LARGE_FRAME, FrameType, kind_of

if TYPE_CHECKING:
    from cloud.identity import Identity
    from cloud.nodepods import NodePods
    from gateway.config.cloud_services import Stream
    from gateway.observe.metrics import Metrics

log = logging.getLogger(__name__)

ENDPOINT = "stream.https"
MAX_BODY = 65_536
MAX_CONNECTIONS = 1_000
FIRST_SECONDS = 2.0
"""How long the head of an answer waits for its first bytes, or for the reason why there are none."""
ANSWER_SECONDS = 30.0
"""How long exec and attach wait for the kubelet's head."""
_OF_NODES = frozenset({("organizationName", ORGANISATION), ("commonName", OLD_COMMON_NAME)})
_NOT_FORWARDED = frozenset(
    {"host", "content-length", "transfer-encoding", "accept-encoding", "authorization", "cookie"}
)


class StreamServer:
    """Module: the listener."""

    name = "cloud.stream"

    def __init__(
        self,
        settings: Stream,
        identity: Identity,
        tunnels: Tunnels,
        peers: Peers,
        pods: NodePods,
        endpoints: Endpoints,
        metrics: Metrics,
    ) -> None:
        self._settings = settings
        self._identity = identity
        self._tunnels = tunnels
        self._peers = peers
        self._pods = pods
        self._endpoints = endpoints
        self._metrics = metrics

    async def run(self, ready: Callable[[], None]) -> None:
        async with serve_requests(
            self._endpoints,
            ENDPOINT,
            self._settings.bind,
            self._respond,
            max_body=MAX_BODY,
            setting="cloud.stream.bind",
            ssl=self._identity.api_server_tls(self._settings.client_ca),
            max_connections=MAX_CONNECTIONS,
        ):
            ready()
            await asyncio.Event().wait()

    async def _respond(self, request: Request) -> Response | Takeover:
        check_caller(request.peer_certificate)
        path = unquote(request.path)
        kind = kind_of(path)
        if kind is None:
            raise NotFound(f"{path[:200]}: not a path of the stream tunnel")
        try:
            response = await self._ask(kind, path, request)
        except (NotFound, Undeliverable):
            self._count(kind, "undeliverable")
            raise
        return response

    async def _ask(self, kind: FrameType, path: str, request: Request) -> Response | Takeover:
        method, is_raw = request.method, kind in (FrameType.EXEC, FrameType.ATTACH)
        if method not in (("GET", "POST") if is_raw else ("GET",)):
            raise BadRequest(f"{path[:200]}: the method {method[:20]} is not taken", status=405)
        host = self._meant(path, request.headers)
        peer = await self._elsewhere(host, request)
        if peer is not None:
            self._count(kind, "forwarded")
            port = self._endpoints.port(ENDPOINT)
            by = self._peers.address
            return await forward(request, peer, port, self._identity, by=by, is_raw=is_raw)
        node = self._tunnels.node_at(host)
        headers = {k.title(): [v] for k, v in request.headers.items() if k not in _NOT_FORWARDED}
        stream = await self._tunnels.open(node, kind, method, path, request.query, headers)
        self._count(kind, "open")
        return await (_taken_over(stream) if is_raw else _streamed(stream))

    def _meant(self, path: str, headers: Mapping[str, str]) -> str:
        """Return the name or address of the node that is meant."""
        host = host_of(headers.get("host", ""))
        if self._peers.is_node(host):
            return host
        return proxied(headers.get("x-forwarded-uri", "")) or self._node_of_pod(path) or host

    def _node_of_pod(self, path: str) -> str:
        _, kind, *rest = path.split("/")
        pod = self._pods.pod(rest[0], rest[1]) if kind in OF_PODS and len(rest) > 1 else None
        return node_of(pod)

    async def _elsewhere(self, host: str, request: Request) -> str | None:
        """Return the CloudCore to ask for a node without a tunnel here, None where none is known.

        Errors: Undeliverable when the node is said to be where no CloudCore is.
        """
        if FORWARDED in request.headers or self._tunnels.has(host):
            return None
        try:
            return await self._peers.find(self._peers.node_at(host), of_tunnel=True)
        except NotFound:
            return None

    def _count(self, kind: FrameType, outcome: str) -> None:
        self._metrics.edge.streams.labels(kind.name.lower(), outcome).inc()


async def _streamed(stream: TunnelStream) -> Response:
    """Answer with what comes; a request that fails before its first byte fails as a whole."""
    first = b""
    try:
        with suppress(TimeoutError):
            async with asyncio.timeout(FIRST_SECONDS):
                await stream.wait()
                first = await stream.read()
    except KubeletRefused as error:
        await stream.close()
        said = error.message.encode()
        return Response(error.answered, {"Content-Type": "text/plain; charset=utf-8"}, said)
    except BaseException:
        await stream.close()
        raise
    return Response(200, {"Content-Type": "text/plain"}, _body(first, stream))


async def _taken_over(stream: TunnelStream) -> Takeover:
    """Hand the connection to the kubelet, once it has begun to answer."""
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            first = await stream.read()
    except TimeoutError as error:
        await stream.close()
        raise Undeliverable("the node's kubelet does not answer") from error
    except BaseException:
        await stream.close()
        raise

    async def carry(reader: asyncio.StreamReader, write: Write) -> None:
        up = asyncio.get_running_loop().create_task(_up(reader, stream))
        piece = first
        try:
            while piece:
                await write(piece)
                piece = await stream.read()
        except Undeliverable as error:
            raise ConnectionResetError(error.message) from error
        finally:
            up.cancel()
            await asyncio.gather(up, return_exceptions=True)
            await stream.close()

    return Takeover(carry)


async def _up(reader: asyncio.StreamReader, stream: TunnelStream) -> None:
    """Send the client's bytes to the node until either ends."""
    with suppress(Undeliverable, ConnectionError):
        while data := await reader.read(LARGE_FRAME):
            await stream.write(data)


async def _body(first: bytes, stream: TunnelStream) -> AsyncIterator[bytes]:
    try:
        yield first
        while piece := await stream.read():
            yield piece
    except (
        Undeliverable
    ) as error:  # the head has left: all that can be said is that the body is cut
        raise ConnectionResetError(error.message) from error
    finally:
        await stream.close()


def host_of(authority: str) -> str:
    """Return name or address of a Host header, without its port."""
    if authority.startswith("["):
        return authority[1:].partition("]")[0]
    return authority.rpartition(":")[0] if ":" in authority else authority


_PROXIED = re.compile(r"/api/v1/nodes/(?:https?:)?([^/:]+)(?::[0-9]*)?/proxy(?:[/?]|$)")
OF_PODS = frozenset({"containerLogs", "exec", "attach", "portForward"})


def proxied(uri: str) -> str:
    """Return the node that an API server's client named for the proxy, "" where it named none."""
    found = _PROXIED.match(uri)
    return unquote(found[1]) if found else ""


def check_caller(certificate: Mapping[str, object] | None) -> None:
    """Refuse a verified certificate that is a node's, of the present or the old form. Errors: Forbidden."""
    names = set(_names(certificate or {}))
    if not names or not names.isdisjoint(_OF_NODES):
        raise Forbidden("an API server's client certificate is needed, a node's does not do")


def _names(certificate: Mapping[str, object]) -> Iterator[tuple[object, object]]:
    """Yield attribute and value of the subject, in the form of `ssl.getpeercert`."""
    subject = certificate.get("subject")
    for part in subject if isinstance(subject, tuple) else ():
        yield from part
