"""What CloudCore knows of nodes and Devices beside the API, for who shows it (`gateway.console`)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from cloud.catalog import Catalog
from cloud.hub import CloudHub
from cloud.mapping import NotMappable
from cloud.nodebook import NodeBook
from gateway.wire.cloudedge.link import ObjectMessage
from gateway.wire.cloudedge.subjects import DeviceKey


class CloudFacts:
    """Answers from memory. `on_link` is told of each link that comes or goes."""

    def __init__(self, hub: CloudHub, book: NodeBook, catalog: Catalog) -> None:
        self._hub = hub
        self._book = book
        self._catalog = catalog
        self.on_link: Callable[[str], None] = _nobody
        hub.add_listener(self)

    def link_since(self, node: str) -> float | None:
        """When a node's link was made, seconds since the epoch; None without one."""
        since = self._hub.connected_since(node)
        if since is None:
            return None
        return round(time.time() - (asyncio.get_running_loop().time() - since), 1)

    def certificates(self, node: str) -> tuple[int, float | None]:
        """How many certificates of a node count, and when others were revoked last."""
        revoked_at = self._book.revoked_at(node)
        return self._book.count(node), revoked_at if revoked_at >= 0 else None

    def thing_id(self, namespace: str, name: str) -> str | None:
        """The thing of a Device, None where it has none."""
        try:
            return self._catalog.thing_id(DeviceKey(namespace, name))
        except NotMappable:
            return None

    # --- as a listener of the hub (`cloud.hub.NodeListener`) ----------------------------------------

    def node_connected(self, node: str) -> None:
        self.on_link(node)

    def node_disconnected(self, node: str) -> None:
        self.on_link(node)

    def node_is_new(self, node: str) -> None:
        """Its link is what it was."""

    def delivered(self, node: str, item: ObjectMessage) -> None:
        """Nothing to show."""


def _nobody(_node: str) -> None:
    """Until somebody looks."""
