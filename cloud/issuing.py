"""How often a node may have a certificate: whoever may ask for one could otherwise ask without end."""

from __future__ import annotations

from collections import OrderedDict

from gateway.errors import QuotaExceeded
from gateway.wire.cloudedge.names import Refusal

BURST = 10
"""Certificates of one node in quick succession: joins that failed half-way, and a rotation beside them."""
SECONDS = 60.0
"""After which one more may be had."""
MAX_NODES = 10_000
"""Nodes that are remembered; who asked longest ago is forgotten first."""


class IssueRate:
    """Counts certificates per node. Units: `now` in seconds of any clock that does not jump."""

    def __init__(self) -> None:
        self._used: OrderedDict[str, tuple[float, float]] = OrderedDict()
        """Node -> certificates lately, and when that was said."""

    def take(self, node: str, now: float) -> None:
        """Count one certificate. Errors: QuotaExceeded, whose text says when to come again."""
        used, at = self._used.get(node, (0.0, now))
        used = max(0.0, used - (now - at) / SECONDS)
        if used > BURST - 1:
            wait = int((used - BURST + 1) * SECONDS) + 1
            raise QuotaExceeded(
                f"node {node} had {BURST} certificates lately: ask again in {wait} s",
                details={"refusal": Refusal.TOO_OFTEN, "retry-after": wait},
            )
        self._used[node] = (used + 1.0, now)
        self._used.move_to_end(node)
        while len(self._used) > MAX_NODES:
            self._used.popitem(last=False)
