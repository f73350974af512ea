"""Which of those that serve gets the next connection. Pure but for what it remembers.

In turns; this node's own first, as others may not be reached from here; a client stays with its endpoint
where its Service says so. Source: Kubernetes "Virtual IPs and Service Proxies", session affinity.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

Address = tuple[str, int]
MAX_REMEMBERED = 10_000
"""Clients of one Service port."""


@dataclass(frozen=True, slots=True)
class Target:
    address: Address
    is_here: bool


class Picker:
    """Units: `affinity` seconds that a client stays with who served it, 0 for none."""

    def __init__(self) -> None:
        self._targets: tuple[Target, ...] = ()
        self._affinity = 0
        self._turn = 0
        self._clients: OrderedDict[str, tuple[Address, float]] = OrderedDict()

    def set(self, targets: Sequence[Target], affinity: int) -> None:
        self._targets, self._affinity = tuple(targets), affinity
        if not affinity:
            self._clients.clear()

    @property
    def targets(self) -> frozenset[Address]:
        return frozenset(target.address for target in self._targets)

    def order(self, client: str, now: float) -> list[Address]:
        """Return whom to try for a client, best first."""
        self._turn += 1
        found = [
            *_turned([t.address for t in self._targets if t.is_here], self._turn),
            *_turned([t.address for t in self._targets if not t.is_here], self._turn),
        ]
        kept = self._clients.get(client) if self._affinity else None
        if kept is not None and kept[1] > now and kept[0] in found:
            found.remove(kept[0])
            found.insert(0, kept[0])
        return found

    def served(self, client: str, address: Address, now: float) -> None:
        """Note who served a client."""
        if not self._affinity:
            return
        self._clients[client] = address, now + self._affinity
        self._clients.move_to_end(client)
        if len(self._clients) > MAX_REMEMBERED:
            self._clients.popitem(last=False)


def _turned(addresses: list[Address], turn: int) -> list[Address]:
    at = turn % len(addresses) if addresses else 0
    return addresses[at:] + addresses[:at]
