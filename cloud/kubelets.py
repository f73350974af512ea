"""The kubelets of edge nodes for the embedded API server: through the stream tunnel, where there is one."""

from __future__ import annotations

from collections.abc import AsyncIterator

from cloud.ports import KubeletRefused, NodeStreams
from gateway.errors import Undeliverable
from gateway.kube.kubelets import Answer, ByteStream, Headers, Kubelets
from gateway.model.json import JsonObject
from gateway.wire.cloudedge.tunnel import FrameType, kind_of
from gateway.wire.kube.parts import labels_of, part, text

EDGE_ROLE = "node-role.kubernetes.io/edge"


_FIGURES, _JSON = "text/plain; version=0.0.4; charset=utf-8", "application/json"
_MEDIA_TYPES = {
    "metrics": _FIGURES,
    **dict.fromkeys(("stats", "pods", "runningpods", "configz"), _JSON),
}


class EdgeKubelets:
    """Edge nodes by their tunnels, other nodes as before."""

    def __init__(self, tunnels: NodeStreams, others: Kubelets) -> None:
        self._tunnels = tunnels
        self._others = others

    async def get(self, node: JsonObject, path: str, query: str) -> Answer:
        """Ask for logs or metrics. Errors: Undeliverable."""
        if not self._is_ours(node):
            return await self._others.get(node, path, query)
        kind = _kind(path)
        pieces = self._tunnels.fetch(_name(node), kind, path, query, {})
        try:
            return Answer(200, _media_type(path), await _begun(pieces))
        except KubeletRefused as error:
            return Answer(error.answered, "text/plain", _one(error.message.encode()))

    async def upgrade(
        self, node: JsonObject, method: str, path: str, query: str, headers: Headers
    ) -> ByteStream:
        """Open exec, attach or port-forward. Errors: Undeliverable."""
        if not self._is_ours(node):
            return await self._others.upgrade(node, method, path, query, headers)
        return await self._tunnels.upgrade(_name(node), _kind(path), method, path, query, headers)

    def _is_ours(self, node: JsonObject) -> bool:
        """Errors: Undeliverable for an edge node without a tunnel."""
        name = _name(node)
        if self._tunnels.is_connected(name):
            return True
        if EDGE_ROLE in labels_of(node):
            raise Undeliverable(f"node {name}: its stream tunnel is not connected")
        return False


def _media_type(path: str) -> str:
    """Return what a kubelet says with a path: tunnels carry bodies alone."""
    return _MEDIA_TYPES.get(path.split("/", 2)[1], "text/plain")


def _name(node: JsonObject) -> str:
    return text(part(node, "metadata").get("name"))


def _kind(path: str) -> FrameType:
    kind = kind_of(path)
    if kind is None:
        raise Undeliverable(f"{path}: the stream tunnel does not carry this")
    return kind


async def _one(piece: bytes) -> AsyncIterator[bytes]:
    yield piece


async def _begun(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Wait for the first bytes: what fails before them can still be said. Errors: Undeliverable."""
    first = await anext(pieces, b"")

    async def rest() -> AsyncIterator[bytes]:
        if first:
            yield first
            async for piece in pieces:
                yield piece

    return rest()
