"""Tells the cluster at which CloudCore a node's stream tunnel is: an annotation of the Node.

Mostly that is where its hub's link is (`cloudcore`), but the two are connections of their own, and each may
be made anew without the other. API requests for the node's kubelet are forwarded to where the tunnel is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from cloud.restrictions import TUNNEL
from gateway.errors import NotFound
from gateway.model.json import JsonObject
from gateway.runtime.keyworker import KeyWorker

if TYPE_CHECKING:
    from cloud.peers import Peers
    from cloud.streams import Tunnels
    from gateway.kube.client import KubeClient
    from gateway.kube.informer import Change


class TunnelPlaces:
    """Module: writes the annotation when a tunnel opens, and once its Node is there."""

    name = "cloud.tunnelplaces"

    def __init__(self, kube: KubeClient, peers: Peers, tunnels: Tunnels) -> None:
        self._kube = kube
        self._catalog = peers.catalog
        self._address = peers.address
        self._tunnels = tunnels
        self._worker: KeyWorker[str] | None = None
        peers.catalog.on_node(self._node_changed)
        tunnels.on_open = self._poke

    async def run(self, ready: Callable[[], None]) -> None:
        async with asyncio.TaskGroup() as group:
            self._worker = KeyWorker(group, self._tell)
            ready()
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                self._worker = None

    def _node_changed(self, change: Change) -> None:
        if change.old is None and change.new is not None:
            self._poke(change.key[1])

    def _poke(self, node: str) -> None:
        if self._worker is not None and self._tunnels.is_connected(node):
            self._worker.poke(node)

    async def _tell(self, node: str) -> None:
        """Write where the tunnel is. Errors: those of the API; then it is tried again."""
        known = self._catalog.node_annotations(node)
        if known is None or known.get(TUNNEL) == self._address:
            return
        if not self._tunnels.is_connected(node):
            return
        patch: JsonObject = {"metadata": {"annotations": {TUNNEL: self._address}}}
        try:
            await self._kube.patch("v1", "nodes", None, node, patch)
        except NotFound:
            return
