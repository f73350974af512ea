"""What tenants used of their limits, and which devices are connected.

`Usage` counts bytes and connected time per tenant and accounting period, in memory and every few seconds on
disk; a crash may lose those seconds. `Connections` admits devices with lasting connections (MQTT, AMQP), and
closes them when their device or tenant goes.
Source: Hono, Resource limits: data volume includes the message that is checked; the first month of a monthly
period is prorated.
"""

from __future__ import annotations

import asyncio
import calendar
import logging
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from gateway.errors import (
    AdapterDisabled,
    AuthenticatedDeviceNotFound,
    ConnectionLimitExceeded,
    DeviceNotFound,
    GatewayError,
    QuotaExceeded,
    TenantDisabled,
    TenantNotFound,
)
from gateway.hono.meters import UNKNOWN
from gateway.hono.registry_view import RegistryView
from gateway.model.message import Adapter, Principal
from gateway.model.registry import (
    UNLIMITED,
    Assertion,
    Change,
    PeriodMode,
    Quota,
    RegistryChange,
    Subject,
    Tenant,
)
from gateway.observe.metrics import Metrics
from gateway.store.database import Database

log = logging.getLogger(__name__)

FLUSH_SECONDS = 5.0
DAY = 86_400
DURATION_EXCEEDED = "tenant's accumulated device connection time exceeds configured maximum"


def period_start(quota: Quota, now: float) -> int:
    """Return when the accounting period around `now` began, in seconds since the epoch."""
    if quota.mode is PeriodMode.DAYS:
        length = quota.days * DAY
        return quota.since + max(0, int(now) - quota.since) // length * length
    if quota.mode is PeriodMode.MONTHLY:
        month = datetime.fromtimestamp(now, UTC).replace(
            day=1, hour=0, minute=0, second=0, microsecond=0
        )
        return max(quota.since, int(month.timestamp()))
    return quota.since


def allowance(quota: Quota, now: float) -> float:
    """Return what may be used in the period around `now`; a month that began late is prorated."""
    if quota.mode is not PeriodMode.MONTHLY or period_start(quota, now) != quota.since:
        return quota.maximum
    since = datetime.fromtimestamp(quota.since, UTC)
    days = calendar.monthrange(since.year, since.month)[1]
    return quota.maximum * (days - since.day + 1) / days


@dataclass(slots=True)
class _Counter:
    """One quantity of one tenant in the period that began at `start`."""

    start: int
    value: float = 0.0
    dirty: bool = False


class Usage:
    """Counters of tenants that have a limit; a module that loads and saves them.

    Shape:  `clock` gives seconds since the epoch; without a database nothing outlives the process.
    """

    name = "usage"

    def __init__(
        self, database: Database | None, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._database = database
        self._clock = clock
        self._bytes: dict[str, _Counter] = {}
        self._seconds: dict[str, _Counter] = {}

    async def run(self, ready: Callable[[], None]) -> None:
        """Save every few seconds until cancelled, and once at the end."""
        if self._database is None:
            ready()
            await asyncio.Event().wait()
            return
        await self._database.read(self._load)
        ready()
        try:
            while True:
                await asyncio.sleep(FLUSH_SECONDS)
                self._save()
        finally:
            self._save()

    def would_exceed(self, tenant: Tenant, size: int) -> bool:
        """True when `size` more metered bytes go beyond the tenant's data volume."""
        quota = tenant.limits.data_volume
        if quota is None or quota.maximum == UNLIMITED:
            return False
        now = self._clock()
        used = self._counter(self._bytes, tenant.tenant_id, period_start(quota, now)).value
        return now >= quota.since and used + size > allowance(quota, now)

    def forget(self, tenant: str) -> None:
        """A tenant is gone, and its rows with it: one of the same name begins anew."""
        self._bytes.pop(tenant, None)
        self._seconds.pop(tenant, None)

    def add_bytes(self, tenant: Tenant, size: int) -> None:
        """Count metered bytes of a message that was forwarded or refused for its content."""
        quota = tenant.limits.data_volume
        if quota is not None and size:
            self._add(self._bytes, tenant.tenant_id, quota, size)

    def add_seconds(self, tenant: Tenant, seconds: float) -> None:
        """Count the time of a connection that ended."""
        quota = tenant.limits.connection_duration
        if quota is not None:
            self._add(self._seconds, tenant.tenant_id, quota, seconds)

    def duration_exceeded(self, tenant: Tenant, open_seconds: float) -> bool:
        """True when ended and open connections used up the tenant's connection time."""
        quota = tenant.limits.connection_duration
        if quota is None or quota.maximum == UNLIMITED:
            return False
        now = self._clock()
        used = self._counter(self._seconds, tenant.tenant_id, period_start(quota, now)).value
        return now >= quota.since and used + open_seconds > allowance(quota, now) * 60

    def used(self, tenant: Tenant) -> tuple[float, float]:
        """Return the bytes and the seconds of connection that count now against the tenant's limits."""
        now, limits = self._clock(), tenant.limits
        return (
            self._used(self._bytes, tenant.tenant_id, limits.data_volume, now),
            self._used(self._seconds, tenant.tenant_id, limits.connection_duration, now),
        )

    def _used(
        self, counters: dict[str, _Counter], tenant: str, quota: Quota | None, now: float
    ) -> float:
        return (
            0.0
            if quota is None
            else self._counter(counters, tenant, period_start(quota, now)).value
        )

    def tenants(self) -> set[str]:
        """Return the tenants of which something was counted."""
        return {*self._bytes, *self._seconds}

    def connected_elsewhere(self, tenant: str) -> int:
        """How many devices of a tenant are connected to other processes."""
        del tenant
        return 0

    def _add(self, counters: dict[str, _Counter], tenant: str, quota: Quota, more: float) -> None:
        counter = self._counter(counters, tenant, period_start(quota, self._clock()))
        counter.value += more
        counter.dirty = True

    @staticmethod
    def _counter(counters: dict[str, _Counter], tenant: str, start: int) -> _Counter:
        counter = counters.get(tenant)
        if counter is None or counter.start != start:
            counter = counters[tenant] = _Counter(start)
        return counter

    def _load(self, db: sqlite3.Connection) -> None:
        rows = db.execute(
            "SELECT tenant, period_start, bytes, connected_seconds FROM tenant_usage ORDER BY period_start"
        )
        for tenant, start, count, seconds in rows:
            if count:
                self._bytes[tenant] = _Counter(start, count)
            if seconds:
                self._seconds[tenant] = _Counter(start, seconds)

    def _save(self) -> None:
        rows = [
            (column, tenant, counter.start, counter.value)
            for column, counters in (("bytes", self._bytes), ("connected_seconds", self._seconds))
            for tenant, counter in counters.items()
            if counter.dirty
        ]
        if not rows or self._database is None:
            return
        for counter in (*self._bytes.values(), *self._seconds.values()):
            counter.dirty = False
        self._database.submit(lambda db: _write_usage(db, rows), _saved)


def _write_usage(db: sqlite3.Connection, rows: list[tuple[str, str, int, float]]) -> None:
    for column, tenant, start, value in rows:  # a tenant may have gone meanwhile
        db.execute(
            f"INSERT INTO tenant_usage (tenant, period_start, {column})"  # noqa: S608 two fixed names
            " SELECT ?, ?, ? WHERE EXISTS (SELECT 1 FROM tenant WHERE id = ?)"
            f" ON CONFLICT (tenant, period_start) DO UPDATE SET {column} = excluded.{column}",
            (tenant, start, value, tenant),
        )


def _saved(result: GatewayError | None) -> None:
    if result is not None:
        log.warning("tenant usage was not saved", extra={"cause": result.message})


# --- connections -----------------------------------------------------------------------------------


class Lease:
    """An admitted connection; `release` once, when it has gone."""

    __slots__ = ("_connections", "adapter", "close", "principal", "started", "tenant")

    def __init__(
        self,
        connections: Connections,
        tenant: Tenant,
        principal: Principal,
        adapter: Adapter,
        close: Callable[[GatewayError], None],
        started: float,
    ) -> None:
        self._connections = connections
        self.tenant = tenant
        self.principal = principal
        self.adapter = adapter
        self.close = close
        self.started = started

    def release(self) -> None:
        """Give the place back; a second call changes nothing."""
        self._connections.end(self)


class Connections:
    """Authenticated devices that are connected, by tenant.

    Shape:  `now` is a steady clock in seconds.
    """

    def __init__(
        self,
        registry: RegistryView,
        usage: Usage,
        metrics: Metrics,
        *,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._registry = registry
        self._usage = usage
        self._metrics = metrics
        self._now = now
        self._open: dict[str, set[Lease]] = {}
        self._generation = 0
        registry.on_change(self._changed)

    def count(self, tenant: str) -> int:
        """How many devices of a tenant are connected."""
        return len(self._open.get(tenant, ()))

    def limited(self) -> dict[str, tuple[int, float]]:
        """Return connections, and seconds that they last, of the tenants whose connections are limited."""
        now, found = self._now(), {}
        for tenant, leases in self._open.items():
            if any(_is_limited(lease.tenant) for lease in leases):
                found[tenant] = len(leases), sum(now - lease.started for lease in leases)
        return found

    def admit(
        self,
        principal: Principal,
        adapter: Adapter,
        close: Callable[[GatewayError], None],
        done: Callable[[Lease | GatewayError], None],
        *,
        cipher_suite: str = UNKNOWN,
        remote_id: str = "",  # noqa: ARG002  who tells applications of connections asks for it
    ) -> None:
        """Ask whether an authenticated device may connect; may answer before it returns.

        `close` is called when the device or its tenant goes: end the connection, then release the lease.
        Errors (through `done`): TenantNotFound; TenantDisabled; AdapterDisabled; AuthenticatedDeviceNotFound;
            ConnectionLimitExceeded; QuotaExceeded; StoreUnavailable.
        """

        generation = self._generation

        def asserted(found: Assertion | GatewayError) -> None:
            if (
                generation != self._generation
            ):  # it may be older than a change that ends connections
                self.admit(principal, adapter, close, done, cipher_suite=cipher_suite)
                return
            result = self._judged(found, principal, adapter, close)
            self._count_attempt(principal.tenant, adapter, result, cipher_suite)
            done(result)

        self._registry.assert_device(principal.tenant, principal.device, None, asserted)

    def _judged(
        self,
        found: Assertion | GatewayError,
        principal: Principal,
        adapter: Adapter,
        close: Callable[[GatewayError], None],
    ) -> Lease | GatewayError:
        if isinstance(found, DeviceNotFound):
            return AuthenticatedDeviceNotFound()
        if isinstance(found, GatewayError):
            return found
        refusal = self._refusal(found.tenant, adapter)
        if refusal is not None:
            return refusal
        lease = Lease(self, found.tenant, principal, adapter, close, self._now())
        self._open.setdefault(principal.tenant, set()).add(lease)
        self._metrics.connections.labels(principal.tenant, adapter.value).inc()
        return lease

    def _refusal(self, tenant: Tenant, adapter: Adapter) -> GatewayError | None:
        if not tenant.adapter(adapter).enabled:
            return AdapterDisabled()
        limit = tenant.limits.max_connections
        leases = self._open.get(tenant.tenant_id, ())
        elsewhere = self._usage.connected_elsewhere(tenant.tenant_id)
        if limit != UNLIMITED and len(leases) + elsewhere >= limit:
            return ConnectionLimitExceeded()
        now = self._now()
        if self._usage.duration_exceeded(tenant, sum(now - lease.started for lease in leases)):
            return ConnectionLimitExceeded(DURATION_EXCEEDED, code="connection.duration")
        if self._usage.would_exceed(tenant, 1):
            return QuotaExceeded()
        return None

    def _count_attempt(
        self, tenant: str, adapter: Adapter, result: Lease | GatewayError, cipher_suite: str
    ) -> None:
        outcome = attempt_outcome(result if isinstance(result, GatewayError) else None)
        known = UNKNOWN if isinstance(result, TenantNotFound) else tenant
        self._metrics.connection_attempts.labels(known, outcome, cipher_suite, adapter.value).inc()

    def end(self, lease: Lease) -> None:
        """Forget a connection; see `Lease.release`."""
        tenant = lease.principal.tenant
        leases = self._open.get(tenant, set())
        if lease not in leases:
            return
        leases.discard(lease)
        if not leases:
            del self._open[tenant]
        seconds = self._now() - lease.started
        self._usage.add_seconds(lease.tenant, seconds)
        self._metrics.connections.labels(tenant, lease.adapter.value).dec()
        self._metrics.connection_seconds.labels(tenant, lease.adapter.value).observe(seconds)

    def _changed(self, change: RegistryChange) -> None:
        self._end_changed(change)
        if change.subject is Subject.TENANT and change.change is Change.DELETE:
            self._usage.forget(change.tenant_id)  # after its connections have told their time

    def _end_changed(self, change: RegistryChange) -> None:
        if not change.ends_connections:
            return
        self._generation += 1
        is_tenant = change.subject is Subject.TENANT
        reason = TenantDisabled() if is_tenant else AuthenticatedDeviceNotFound()
        for lease in tuple(self._open.get(change.tenant_id, ())):
            if change.device_id in (None, lease.principal.device):
                _close(lease, reason)


def _is_limited(tenant: Tenant) -> bool:
    limits = tenant.limits
    return limits.max_connections != UNLIMITED or limits.connection_duration is not None


def _close(lease: Lease, reason: GatewayError) -> None:
    try:
        lease.close(reason)
    except Exception:  # top of a callback: the tenant's other connections have to end too
        log.exception("a connection was not closed")


_ATTEMPTS: dict[type[GatewayError], str] = {
    AdapterDisabled: "adapter-disabled",
    DeviceNotFound: "registration-assertion-failure",
    TenantDisabled: "unauthorized",
    TenantNotFound: "unauthorized",
    QuotaExceeded: "data-volume-exceeded",
}


def attempt_outcome(error: GatewayError | None) -> str:
    """Return the `outcome` label of a connection attempt."""
    if error is None:
        return "succeeded"
    if isinstance(error, ConnectionLimitExceeded):
        by_time = error.code == "connection.duration"
        return "connection-duration-exceeded" if by_time else "tenant-connections-exceeded"
    for kind, outcome in _ATTEMPTS.items():
        if isinstance(error, kind):
            return outcome
    return {401: "unauthorized", 503: "unavailable"}.get(error.status, "unknown")
