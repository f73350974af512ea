"""Tells the cluster where a node is connected, and with which store: annotations, and its kubelet's port.

Other CloudCores forward to it what is for the node; the store tells them, and this one after a restart, when
the node has lost what it held. Source: KubeEdge, CloudHub session (`cloudcore`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from cloud.catalog import STORE
from cloud.restrictions import CLOUDCORE
from cloud.streamport import StreamPort
from gateway.errors import GatewayError, NotFound
from gateway.kube.client import KubeClient
from gateway.model.json import JsonObject
from gateway.wire.cloudedge.devices import mapping
from gateway.wire.cloudedge.link import ObjectMessage

log = logging.getLogger(__name__)

TRIES = 3
PAUSE_SECONDS = 1.0


class Presence:
    """Module and listener of the hub: writes the annotation at each connect."""

    name = "cloud.presence"

    def __init__(self, kube: KubeClient, place: StreamPort, store_of: Callable[[str], str]) -> None:
        self._kube = kube
        self._place = place
        self._store_of = store_of
        self._waiting: dict[str, None] = {}
        self._wake = asyncio.Event()

    def node_connected(self, node: str) -> None:
        self._waiting[node] = None
        self._wake.set()

    def node_disconnected(self, node: str) -> None:
        self._waiting.pop(node, None)

    def node_is_new(self, node: str) -> None:
        """Its address here is the same."""

    def delivered(self, node: str, item: ObjectMessage) -> None:
        """Nothing to tell."""

    async def run(self, ready: Callable[[], None]) -> None:
        ready()
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._waiting:
                node = next(iter(self._waiting))
                del self._waiting[node]
                await self._tell(node)

    async def _tell(self, node: str) -> None:
        """Write the address; a Node that is not there yet gets it when the node registers.

        What the mirror says counts for nothing here: the node may come right from another CloudCore.
        """
        words: JsonObject = {CLOUDCORE: self._place.address, STORE: self._store_of(node)}
        patch: JsonObject = {"metadata": {"annotations": words}}
        status = self._place.status
        for attempt in range(TRIES):
            try:
                found = await self._kube.patch("v1", "nodes", None, node, patch)
                if status and mapping(found.get("status")) | status != found.get("status"):
                    told: JsonObject = {"status": status}
                    await self._kube.patch("v1", "nodes", None, node, told, subresource="status")
            except NotFound:
                return
            except GatewayError as error:
                log.info("node's CloudCore not noted", extra={"node": node, "cause": error.message})
                if attempt < TRIES - 1:
                    await asyncio.sleep(PAUSE_SECONDS)
            else:
                return
