"""What edge nodes and their Pods use: their kubelets' `/metrics/resource`, read through the stream tunnels.

For the embedded API alone; in a cluster its metrics-server asks by way of CloudStream's own listener. A few
nodes are asked at a time; one that does not answer is asked more seldom, and what is old is forgotten.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from gateway.errors import GatewayError
from gateway.kube.kubelets import Headers
from gateway.wire.cloudedge.tunnel import FrameType
from gateway.wire.kube.usage import NodeUsage, Reading, read_metrics, usage_between

log = logging.getLogger(__name__)

PATH = "/metrics/resource"
AT_ONCE = 20
"""Nodes that are asked at a time."""
ANSWER_SECONDS = 10.0
MAX_TEXT = 4 * 1024 * 1024
"""Bytes of one node's answer."""
OLD_ROUNDS = 4
"""Rounds after which figures count no more."""
MAX_SKIPPED = 16
"""Rounds that a silent node is left out at most."""


class TunnelReader(Protocol):
    """The stream tunnels."""

    def nodes(self) -> Iterable[str]: ...
    def fetch(
        self, node: str, kind: FrameType, path: str, query: str, headers: Headers
    ) -> AsyncIterator[bytes]: ...


@dataclass(slots=True)
class _Node:
    readings: list[tuple[float, Reading]] = field(default_factory=list)
    usage: NodeUsage = field(default_factory=NodeUsage)
    failures: int = 0
    skip: int = 0


class NodeUsages:
    """Module: the rounds, and what they found (`gateway.kube.usage.Usage`)."""

    name = "cloud.nodeusage"

    def __init__(
        self, tunnels: TunnelReader, interval: float, now: Callable[[], float] = time.time
    ) -> None:
        self._tunnels = tunnels
        self._interval = interval
        self._now = now
        self._nodes: dict[str, _Node] = {}

    def usage(self) -> Mapping[str, NodeUsage]:
        oldest = self._now() - OLD_ROUNDS * max(self._interval, 15.0)
        return {
            name: node.usage
            for name, node in self._nodes.items()
            if node.readings and node.readings[-1][0] >= oldest
        }

    async def run(self, ready: Callable[[], None]) -> None:
        ready()
        while True:
            await self.look()
            await asyncio.sleep(self._interval)

    async def look(self) -> None:
        """Ask all nodes that have a tunnel once."""
        names = list(self._tunnels.nodes())
        for gone in self._nodes.keys() - set(names):
            del self._nodes[gone]
        places = asyncio.Semaphore(AT_ONCE)
        async with asyncio.TaskGroup() as group:
            for name in names:
                node = self._nodes.setdefault(name, _Node())
                if node.skip > 0:
                    node.skip -= 1
                else:
                    group.create_task(self._ask(name, node, places))

    async def _ask(self, name: str, node: _Node, places: asyncio.Semaphore) -> None:
        try:
            async with places, asyncio.timeout(ANSWER_SECONDS):
                text = await self._fetch(name)
        except (GatewayError, TimeoutError) as error:
            node.failures += 1
            node.skip = min(2**node.failures - 1, MAX_SKIPPED)
            cause = str(error) or "no answer in time"
            log.debug("a node's usage is not known", extra={"node": name, "cause": cause})
            return
        node.failures = 0
        self._take(node, read_metrics(text, self._now()))

    async def _fetch(self, name: str) -> bytes:
        pieces = bytearray()
        async for piece in self._tunnels.fetch(name, FrameType.METRICS, PATH, "", {}):
            pieces += piece
            if len(pieces) > MAX_TEXT:
                raise GatewayError(f"{PATH}: at most {MAX_TEXT} bytes are read")
        return bytes(pieces)

    def _take(self, node: _Node, reading: Reading) -> None:
        """Keep a reading; one that the node had made before already says nothing new."""
        if node.readings and _is_same(node.readings[-1][1], reading):
            return
        node.readings = [*node.readings[-1:], (self._now(), reading)]
        if len(node.readings) == 2:
            node.usage = usage_between(node.readings[0][1], node.readings[1][1])


def _is_same(old: Reading, new: Reading) -> bool:
    times = {place: point.at for place, point in old.points.items()}
    return times == {place: point.at for place, point in new.points.items()}
