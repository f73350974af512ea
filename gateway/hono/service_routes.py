"""Which adapter instance elsewhere a device's commands go to.

A device has one instance, the one that registered last. Registrations outlive the instance's connection and
our own restart, as adapters do not register again when they reconnect; they end by their lifespan, when they
are taken back, or when their instance was away for `GONE_SECONDS`. Those of a device that waits for one
command only are not written down, nor are those of our own worker processes, which end with the worker.
Full: StoreUnavailable.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections.abc import Callable
from functools import partial
from typing import Final, NamedTuple, Protocol

from gateway.errors import GatewayError, StoreUnavailable
from gateway.hono.service_commands import CommandReceivers, RemoteDevice
from gateway.model.message import Adapter
from gateway.model.ports import DeviceLink, Done
from gateway.store.database import Database

log = logging.getLogger(__name__)

MAX_ROUTES: Final = 200_000
KEPT_SECONDS: Final = 120
"""Registrations for less than this are not written down."""
GONE_SECONDS: Final = 86_400.0
SWEEP_SECONDS: Final = 600.0


def ignore(_error: GatewayError | None) -> None:
    """Nobody waits for this write."""


class Router(Protocol):
    """What is asked of command routing."""

    def subscribe(
        self,
        tenant: str,
        device: str,
        link: DeviceLink,
        *,
        adapter: Adapter,
        gateway: str | None = None,
        announce: bool = True,
        for_its_devices: bool = True,
    ) -> Callable[[], None]: ...

    def newest_link(self, tenant: str, device: str) -> DeviceLink | None: ...

    def expect(self, tenant: str) -> None: ...


class Row(NamedTuple):
    """A registration on disk; `expires` in seconds since the epoch."""

    tenant: str
    device: str
    instance: str
    expires: float | None


class _Route:
    """One device's instance."""

    __slots__ = ("end", "instance", "is_kept", "link", "timer")

    def __init__(self, instance: str, link: RemoteDevice, end: Callable[[], None]) -> None:
        self.is_kept = False
        self.instance = instance
        self.link = link
        self.end = end
        self.timer: asyncio.TimerHandle | None = None

    def close(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
        self.end()


class Routes:
    """Devices of adapters elsewhere, by (tenant, device); without a database nothing outlives us.

    Shape:  `clock` gives seconds since the epoch.
    """

    def __init__(
        self,
        router: Router,
        receivers: CommandReceivers,
        database: Database | None = None,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._router = router
        self._receivers = receivers
        self._database = database
        self._clock = clock
        self._routes: dict[tuple[str, str], _Route] = {}
        self._away_since: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._routes)

    async def load(self) -> None:
        """Take up what was registered before we restarted.

        Errors: StoreUnavailable.
        """
        if self._database is None:
            return
        now = self._clock()
        for row in await self._database.read(_read):
            if row.expires is None or row.expires > now:
                self._add(row, now).is_kept = True
            else:
                self._forget(row.tenant, row.device)

    async def keep_clean(self) -> None:
        """Drop, now and then, what belongs to instances that have been away for long; until cancelled."""
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            self.sweep(self._clock())

    def sweep(self, now: float) -> None:
        """Drop the registrations of instances that have been away since `GONE_SECONDS` before `now`."""
        away = {route.instance for route in self._routes.values()}
        away = {instance for instance in away if not self._receivers.has(instance)}
        self._away_since = {instance: self._away_since.get(instance, now) for instance in away}
        gone = {name for name, since in self._away_since.items() if now - since >= GONE_SECONDS}
        for key, route in tuple(self._routes.items()):
            if route.instance in gone:
                self._drop(key, route)

    def set(
        self, tenant: str, device: str, instance: str, lifespan: int, done: Done = ignore
    ) -> None:
        """Send a device's commands to an instance, for `lifespan` seconds, below 0 for ever.

        `done` comes once it is on disk, where it is to be.

        Errors: StoreUnavailable.
        """
        now = self._clock()
        expires = now + lifespan if lifespan >= 0 else None
        row = Row(tenant, device, instance, expires)
        before = self._routes.get((tenant, device))
        route = self._add(row, now)
        is_short = 0 <= lifespan < KEPT_SECONDS
        route.is_kept = not is_short and not self._receivers.is_neighbour(instance)
        if not route.is_kept and before is not None and before.is_kept:
            self._forget(tenant, device)
        if route.is_kept and self._database is not None:
            self._database.submit(lambda db: _write(db, row), partial(_written, done))
        else:
            done(None)

    def _add(self, row: Row, now: float) -> _Route:
        tenant, device, instance, expires = row
        key = (tenant, device)
        old = self._routes.get(key)
        if old is None and len(self._routes) >= MAX_ROUTES:
            raise StoreUnavailable("too many devices of other adapters listen for commands")
        link = RemoteDevice(instance, self._receivers)
        end = self._router.subscribe(
            tenant, device, link, adapter=adapter_of(instance), announce=False
        )
        route = self._routes[key] = _Route(instance, link, end)
        if old is not None:
            old.close()
        if expires is not None:
            loop = asyncio.get_running_loop()
            route.timer = loop.call_later(expires - now, self._expire, key, route)
        return route

    def remove(self, tenant: str, device: str, instance: str, done: Done = ignore) -> bool:
        """Take a registration back; False when another instance, or an adapter here, has taken over.

        `done` comes once it is gone from disk, and only after True.
        """
        key = (tenant, device)
        route = self._routes.get(key)
        if route is None or route.instance != instance:
            return False
        is_newest = self._router.newest_link(tenant, device) is route.link
        self._drop(key, route, done if is_newest else ignore)
        return is_newest

    def end_instance(self, instance: str) -> None:
        """Take back everything of an instance that will not come back."""
        for key, route in tuple(self._routes.items()):
            if route.instance == instance:
                self._drop(key, route)

    def instance(self, tenant: str, device: str) -> str | None:
        """Return a device's instance, None where it has none elsewhere."""
        route = self._routes.get((tenant, device))
        return None if route is None else route.instance

    def close(self) -> None:
        """End all of them: the service stops."""
        for route in self._routes.values():
            route.close()
        self._routes.clear()

    def _expire(self, key: tuple[str, str], route: _Route) -> None:
        if self._routes.get(key) is route:
            self._drop(key, route)

    def _drop(self, key: tuple[str, str], route: _Route, done: Done = ignore) -> None:
        del self._routes[key]
        route.close()
        if route.is_kept:
            self._forget(*key, done)
        else:
            done(None)

    def _forget(self, tenant: str, device: str, done: Done = ignore) -> None:
        if self._database is None:
            done(None)
            return
        work = "DELETE FROM command_route WHERE tenant = ? AND device = ?"
        self._database.submit(
            lambda db: _execute(db, work, (tenant, device)), partial(_written, done), grows=False
        )


def adapter_of(instance: str) -> Adapter:
    """Return the type in an instance's name; AMQP, which we speak to it, for a name without."""
    return next((kind for kind in Adapter if instance.startswith(kind.value)), Adapter.AMQP)


def _read(db: sqlite3.Connection) -> list[Row]:
    return [Row(*row) for row in db.execute("SELECT * FROM command_route LIMIT ?", (MAX_ROUTES,))]


def _write(db: sqlite3.Connection, row: Row) -> None:
    _execute(db, "INSERT OR REPLACE INTO command_route VALUES (?, ?, ?, ?)", row)


def _execute(db: sqlite3.Connection, work: str, values: tuple[object, ...]) -> None:
    db.execute(work, values)


def _written(done: Done, result: GatewayError | None) -> None:
    if result is not None:
        log.warning("a registration was not written down", extra={"cause": result.message})
    done(result)
