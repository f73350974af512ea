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
from gateway.errors import Forbidden, GatewayError, NotFound
from gateway.kube.client import KubeClient
from gateway.model.json import JsonObject
from gateway.runtime.backoff import Backoff
from gateway.wire.cloudedge.devices import mapping
from gateway.wire.cloudedge.link import ObjectMessage

log = logging.getLogger(__name__)

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0
"""Seconds before a node's place is told again, where it could not be."""


class Presence:
    """Module and listener of the hub: writes the annotation at each connect, until it is written."""

    name = "cloud.presence"

    def __init__(self, kube: KubeClient, place: StreamPort, store_of: Callable[[str], str]) -> None:
        self._kube = kube
        self._place = place
        self._store_of = store_of
        self._waiting: dict[str, None] = {}
        self._here: set[str] = set()
        self._wake = asyncio.Event()

    def node_connected(self, node: str) -> None:
        self._here.add(node)
        self._waiting[node] = None
        self._wake.set()

    def node_disconnected(self, node: str) -> None:
        self._here.discard(node)
        self._waiting.pop(node, None)

    def node_is_new(self, node: str) -> None:
        """Its address here is the same."""

    def delivered(self, node: str, item: ObjectMessage) -> None:
        """Nothing to tell."""

    async def run(self, ready: Callable[[], None]) -> None:
        ready()
        backoff = Backoff(FIRST_PAUSE, LONGEST_PAUSE)
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._waiting:
                node = next(iter(self._waiting))
                del self._waiting[node]
                if await self._tell(node):
                    backoff.reset()
                    continue
                if node in self._here:  # behind the others
                    self._waiting.setdefault(node, None)
                await asyncio.sleep(backoff.next())

    async def _tell(self, node: str) -> bool:
        """Write the address; False where that is to be tried again.

        A Node that is not there yet gets it when the node registers. What the mirror says counts for nothing
        here: the node may come right from another CloudCore.
        """
        words: JsonObject = {CLOUDCORE: self._place.address, STORE: self._store_of(node)}
        patch: JsonObject = {"metadata": {"annotations": words}}
        status = self._place.status
        try:
            found = await self._kube.patch("v1", "nodes", None, node, patch)
            if status and mapping(found.get("status")) | status != found.get("status"):
                told: JsonObject = {"status": status}
                await self._kube.patch("v1", "nodes", None, node, told, subresource="status")
        except NotFound:
            return True
        except GatewayError as error:
            log.info("node's CloudCore not noted", extra={"node": node, "cause": error.message})
            return isinstance(error, Forbidden)  # trying again would not help
        return True
