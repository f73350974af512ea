"""How much room stored events take, altogether and by tenant, and when there is none left.

One tenant whose events nobody consumes must not keep the others from storing theirs: beside the limit for all
there is a share that one tenant may use.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from gateway.errors import StoreUnavailable

FULL = "full"
SHARE = "share"
STORE = "store"
REASONS = (FULL, SHARE, STORE)
"""Why an event was not stored: no room for anybody, none for its tenant, or the store could not write."""


class EventRoom:
    """The sizes of the events that are there.

    Shape:  `refused` is called with the tenant and one of REASONS for each event that is not stored.
    Units:  bytes; a `per_tenant` of 0 lets one tenant use all.
    """

    def __init__(self, limit: int, per_tenant: int, refused: Callable[[str, str], None]) -> None:
        self._limit = limit
        self._per_tenant = per_tenant or limit
        self._tenants: dict[str, int] = {}
        self.refused = refused
        self.total = 0

    def of(self, tenant: str) -> int:
        """Return what a tenant's events take."""
        return self._tenants.get(tenant, 0)

    def refusal(self, tenant: str, size: int) -> StoreUnavailable | None:
        """Return why an event finds no room, None where it does; a refusal is counted."""
        if self.total + size > self._limit:
            self.refused(tenant, FULL)
            return StoreUnavailable(f"the event store is full: {self._limit} bytes")
        if self.of(tenant) + size > self._per_tenant:
            self.refused(tenant, SHARE)
            return StoreUnavailable(f"the tenant's events fill its share: {self._per_tenant} bytes")
        return None

    def take(self, tenant: str, size: int) -> None:
        """An event is about to be there."""
        self.total += size
        self._tenants[tenant] = self.of(tenant) + size

    def give_back(self, freed: Iterable[tuple[str, int]]) -> None:
        """Events are gone: tenant and size of each, or of many together."""
        for tenant, size in freed:
            self.total -= size
            left = self.of(tenant) - size
            if left > 0:
                self._tenants[tenant] = left
            else:
                self._tenants.pop(tenant, None)
