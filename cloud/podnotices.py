"""Tells, with an Event on the Pod, that nothing at its node runs it.

An edge of ours says in its Node that it has no container runtime: Pods are kept there and stay Pending. Each
such Pod is told of once, by the CloudCore that leads; an Event that was written is not written again while
it is kept, and not anew for what was there long ago.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from cloud.chores import Chores
from cloud.nodepods import uid_of
from cloud.runtimetaint import runs_nothing
from gateway.errors import GatewayError
from gateway.kube.informer import Change
from gateway.model.json import JsonObject
from gateway.wire.cloudedge.devices import ObjectMeta, mapping, text
from gateway.wire.cloudedge.names import EDGE_LABEL
from gateway.wire.kube.clock import parse_rfc3339

if TYPE_CHECKING:
    from cloud.catalog import Catalog
    from cloud.events import EventRecorder
    from cloud.ports import Leadership, PodsOfNodes

log = logging.getLogger(__name__)

REASON = "WorkloadsNotBuilt"
RECENT_SECONDS = 3_600.0
"""How long the API keeps Events; what Pods and nodes of before were told of stays told."""
MAX_TOLD = 50_000


class PodNotices:
    """Module: one worker, one node after another."""

    name = "cloud.podnotices"

    def __init__(
        self,
        catalog: Catalog,
        pods: PodsOfNodes,
        events: EventRecorder,
        leadership: Leadership,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._nodes = catalog.nodes
        self._pods = pods
        self._events = events
        self._leadership = leadership
        self._now = now
        self._chores: Chores[str] = Chores()
        self._told: dict[str, None] = {}
        """Uids of Pods; the oldest are forgotten first."""
        pods.on_change(lambda node: self._chores.add((node,)))
        catalog.on_node(self._node_changed)
        leadership.on_change(lambda _: self._chores.add(key[1] for key in self._nodes.objects))

    def _node_changed(self, change: Change) -> None:
        if _runs_nothing(change.new) and not _runs_nothing(change.old):
            self._chores.add((change.key[1],))

    async def run(self, ready: Callable[[], None]) -> None:
        ready()
        while True:
            node = await self._chores.next()
            try:
                await self._tell(node)
            except GatewayError as error:
                log.debug("an event must wait", extra={"node": node, "cause": error.message})
                self._chores.again(node)
            else:
                self._chores.done(node)

    async def _tell(self, node: str) -> None:
        message = (
            f"workloads at the edge are not built: node {node} has no container runtime,"
            " the Pod is kept there and stays Pending"
        )
        for pod in self._untold(node):
            if not self._leadership.leads:
                return
            named: JsonObject = {"apiVersion": "v1", "kind": "Pod", **pod}
            await self._events.write_once(named, REASON, message)
            self._told[uid_of(pod)] = None
            while len(self._told) > MAX_TOLD:
                del self._told[next(iter(self._told))]

    def _untold(self, name: str) -> Iterator[JsonObject]:
        """Yield the Pods that wait at a node for what is not there."""
        node = self._nodes.objects.get(("", name))
        if node is None or not _runs_nothing(node):
            return
        for pod in list(self._pods.pods(name)):
            is_over = text(mapping(pod.get("status")).get("phase")) not in ("", "Pending")
            if is_over or ObjectMeta.read(pod).is_deleting or uid_of(pod) in self._told:
                continue
            if self._now() - max(_made(pod), _made(node)) < RECENT_SECONDS:
                yield pod


def _runs_nothing(node: JsonObject | None) -> bool:
    if node is None or EDGE_LABEL not in ObjectMeta.read(node).labels:
        return False
    return runs_nothing(node.get("status")) is True


def _made(item: JsonObject) -> float:
    """Return when an object was made, in seconds since 1970."""
    return parse_rfc3339(mapping(item.get("metadata")).get("creationTimestamp")) or 0.0
