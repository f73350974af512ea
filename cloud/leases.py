"""Which nodes have stopped renewing their Lease, by our own clock alone. Pure: `now` is a parameter.

A Lease says when its node renewed it, by the node's clock, which may be years off. So what counts is how long
ago we have seen it change. Source: Kubernetes' node lifecycle controller does the same.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from gateway.model.json import Json, JsonObject
from gateway.wire.cloudedge.devices import mapping

LEASE_SECONDS = 40


@dataclass(slots=True)
class Renewals:
    """When each node's Lease was seen to change last; `now` in seconds of a clock that never goes back."""

    _seen: dict[str, tuple[Json, float]] = field(default_factory=dict)

    def has_run_out(self, node: str, lease: JsonObject, now: float) -> bool:
        """True when the Lease has not changed for longer than it lasts (40 s where it does not say)."""
        spec = mapping(lease.get("spec"))
        renewed, seconds = spec.get("renewTime"), spec.get("leaseDurationSeconds")
        known = self._seen.get(node)
        if known is None or known[0] != renewed:
            self._seen[node] = (renewed, now)
            return False
        return now - known[1] > (seconds if isinstance(seconds, int) else LEASE_SECONDS)

    def keep(self, nodes: Collection[str]) -> None:
        """Forget all others."""
        for node in [node for node in self._seen if node not in nodes]:
            del self._seen[node]
