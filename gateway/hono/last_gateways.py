"""Through which gateway a device was heard last, for devices that several gateways may speak for.

Kept in memory: after a restart the next upload tells again, and commands find another authorised gateway
until then. Over its bound the entry that was written first goes.
Source: Hono, concepts Device identity, Connecting via a device gateway.
"""

from __future__ import annotations

MAX_ENTRIES = 100_000


class LastGateways:
    """(tenant, device) -> gateway id."""

    def __init__(self, *, capacity: int = MAX_ENTRIES) -> None:
        self._capacity = capacity
        self._entries: dict[tuple[str, str], str] = {}

    def note(self, tenant: str, device: str, gateway: str | None) -> None:
        """Remember who spoke for a device; None when it spoke itself."""
        key = (tenant, device)
        if gateway is None:
            self._entries.pop(key, None)
            return
        if self._entries.get(key) == gateway:
            return
        if key not in self._entries and len(self._entries) >= self._capacity:
            del self._entries[next(iter(self._entries))]
        self._entries[key] = gateway

    def get(self, tenant: str, device: str) -> str | None:
        return self._entries.get((tenant, device))
