"""What a scrape shows of each edge node: whether it is connected, when it was heard of, what it owes.

Read when a scrape asks, so that a thousand nodes cost nothing between scrapes; nodes are bounded by
`cloud.hub.node_limit` and by the Node objects that there are.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cloud.hub import CloudHub
    from cloud.nodebook import NodeBook
    from gateway.observe.metrics import Metrics
    from gateway.wire.cloudedge.link import ObjectMessage

Rows = Iterator[tuple[tuple[str, ...], float]]


class NodeMeters:
    """Listener of the hub; the rows of the metrics of nodes."""

    def __init__(self, hub: CloudHub, book: NodeBook, metrics: Metrics) -> None:
        self._hub = hub
        self._book = book
        self._left: dict[str, float] = {}
        own = metrics.own
        own.node_connected.watch(self._connected)
        own.node_seen.watch(self._seen)
        own.node_waiting.watch(self._waiting)
        own.node_seconds.watch(self._round_trips)
        own.watch_queue("cloudhub_work", lambda: hub.in_work, hub.limit_of_work)
        hub.add_listener(self)

    # --- listener --------------------------------------------------------------------------------

    def node_connected(self, node: str) -> None:
        self._left.pop(node, None)

    def node_disconnected(self, node: str) -> None:
        self._left[node] = time.time()
        if len(self._left) > 2 * len(self._book.registered) + 1_000:
            self._forget()

    def node_is_new(self, node: str) -> None:
        """Its place in the figures is the same."""

    def delivered(self, node: str, item: ObjectMessage) -> None:
        """The link knows how long it took."""

    def _forget(self) -> None:
        """Deleted nodes are nobody's concern any more."""
        known = self._book.registered
        self._left = {node: at for node, at in self._left.items() if node in known}

    # --- rows ------------------------------------------------------------------------------------

    def _connected(self) -> Rows:
        here = self._hub.nodes
        yield from (((node,), 1.0) for node in here)
        yield from (((node,), 0.0) for node in self._book.registered.difference(here))

    def _seen(self) -> Rows:
        wall = time.time() - asyncio.get_running_loop().time()
        for node, link in self._hub.links():
            yield (node,), round(link.alive_at + wall, 3)
        known = self._book.registered
        yield from (((node,), at) for node, at in self._left.items() if node in known)

    def _waiting(self) -> Rows:
        yield from (((node,), float(link.waiting)) for node, link in self._hub.links())

    def _round_trips(self) -> Rows:
        for node, link in self._hub.links():
            if link.round_trip is not None:
                yield (node,), link.round_trip
