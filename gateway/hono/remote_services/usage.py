"""Limits of tenants where several worker processes serve the same devices.

Bytes are counted in the main process, which sees every message: what it refuses comes back as QuotaExceeded.
What it has counted up to about a second ago also lets a worker refuse a connection, or an upload, by itself.
Connections and their seconds are counted where they are; the main process adds them up about once a second
and tells every worker the share of the others. So a tenant may get a few connections more than its limit when
many come in that second.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from gateway.hono.limits import Usage, allowance
from gateway.model.registry import UNLIMITED, Quota, Tenant


class Share(msgspec.Struct, frozen=True):
    """What one worker knows of one tenant.

    Shape:  `seconds` of connections that have ended, since the worker began; `open_seconds` of the
            `connections` that are open now.
    """

    seconds: float = 0.0
    connections: int = 0
    open_seconds: float = 0.0


class Total(msgspec.Struct, frozen=True):
    """What the main process says about one tenant, to one worker.

    Shape:  `used_bytes` and `used_seconds` count in the present accounting periods, the worker's own ended
            seconds up to `seen_seconds` among them; `others` are those of the other workers.
    """

    used_bytes: float = 0.0
    used_seconds: float = 0.0
    seen_seconds: float = 0.0
    others: Share = Share()


NOTHING = Total()


class SharedUsage(Usage):
    """A worker's view of limits; `totals` is replaced with each word of the main process."""

    def __init__(self) -> None:
        super().__init__(None)
        self.totals: Mapping[str, Total] = {}
        self._ended: dict[str, float] = {}

    def shares(self, open_ones: Mapping[str, tuple[int, float]]) -> dict[str, Share]:
        """Return what the main process asks for; `open_ones` are connections and their seconds by tenant."""
        return {
            tenant: Share(self._ended.get(tenant, 0.0), *open_ones.get(tenant, (0, 0.0)))
            for tenant in {*self._ended, *open_ones}
        }

    def would_exceed(self, tenant: Tenant, size: int) -> bool:
        quota = tenant.limits.data_volume
        return quota is not None and self._is_over(quota, self._total(tenant).used_bytes + size, 1)

    def add_bytes(self, tenant: Tenant, size: int) -> None:
        """The main process counts them."""

    def add_seconds(self, tenant: Tenant, seconds: float) -> None:
        if tenant.limits.connection_duration is not None:
            ended = self._ended
            ended[tenant.tenant_id] = ended.get(tenant.tenant_id, 0.0) + seconds

    def duration_exceeded(self, tenant: Tenant, open_seconds: float) -> bool:
        quota = tenant.limits.connection_duration
        if quota is None:
            return False
        total = self._total(tenant)
        unseen = self._ended.get(tenant.tenant_id, 0.0) - total.seen_seconds
        used = total.used_seconds + unseen + total.others.open_seconds + open_seconds
        return self._is_over(quota, used, 60)

    def connected_elsewhere(self, tenant: str) -> int:
        return self.totals.get(tenant, NOTHING).others.connections

    def forget(self, tenant: str) -> None:
        self._ended.pop(tenant, None)

    def _total(self, tenant: Tenant) -> Total:
        return self.totals.get(tenant.tenant_id, NOTHING)

    def _is_over(self, quota: Quota, used: float, unit: int) -> bool:
        now = self._clock()
        is_limited = quota.maximum != UNLIMITED and now >= quota.since
        return is_limited and used > allowance(quota, now) * unit
