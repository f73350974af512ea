"""Through which gateway a device was heard last, for devices that several gateways may speak for.

Kept in memory, and on disk a moment later: a crash loses what was heard in its last half second, and commands
find another authorised gateway until the device is heard again. An entry that was not renewed for four weeks
goes; over its bound in memory the one that was written first.
Source: Hono, concepts Device identity, Connecting via a device gateway; Command Router, life of entries.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections.abc import Callable, Mapping
from typing import TypeAlias

from gateway.errors import GatewayError
from gateway.model.registry import Change, RegistryChange, Subject
from gateway.store.database import Database

log = logging.getLogger(__name__)

MAX_ENTRIES = 100_000
FLUSH_SECONDS = 0.4
DAY = 86_400
LIFE_DAYS = 28

Key: TypeAlias = tuple[str, str]
Entry: TypeAlias = tuple[str, int]
"""A gateway and the day on which it was heard, in seconds since the epoch."""


class LastGateways:
    """(tenant, device) -> gateway id; a module that loads and saves them where there is a database.

    Shape:  `clock` gives seconds since the epoch.
    """

    name = "last-gateways"

    def __init__(
        self,
        database: Database | None = None,
        *,
        capacity: int = MAX_ENTRIES,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._capacity = capacity
        self._clock = clock
        self._entries: dict[Key, Entry] = {}
        self._unsaved: dict[Key, Entry | None] = {}
        self._today = self._day()

    def note(self, tenant: str, device: str, gateway: str | None) -> None:
        """Remember who spoke for a device; None when it spoke itself."""
        key = (tenant, device)
        entry = self._entries.get(key)
        if gateway is None:
            if entry is not None:
                self._forget(key)
        elif entry is None or entry[0] != gateway or entry[1] != self._today:
            self._keep(key, entry is None, (gateway, self._today))

    def _keep(self, key: Key, is_new: bool, entry: Entry) -> None:
        if is_new and len(self._entries) >= self._capacity:
            del self._entries[next(iter(self._entries))]
        self._entries[key] = entry
        if self._database is not None:
            self._unsaved[key] = entry

    def _forget(self, key: Key) -> None:
        del self._entries[key]
        if self._database is not None:
            self._unsaved[key] = None

    def get(self, tenant: str, device: str) -> str | None:
        entry = self._entries.get((tenant, device))
        return None if entry is None else entry[0]

    def changed(self, change: RegistryChange) -> None:
        """Forget devices that were deleted; their rows go with them."""
        if change.change is not Change.DELETE or change.subject is Subject.CREDENTIALS:
            return
        if change.device_id is not None:
            self._drop((change.tenant_id, change.device_id))
        elif change.subject is Subject.ALL_DEVICES:
            for key in [key for key in self._entries if key[0] == change.tenant_id]:
                self._drop(key)

    def _drop(self, key: Key) -> None:
        self._entries.pop(key, None)
        self._unsaved.pop(key, None)

    # --- on disk ---------------------------------------------------------------------------------------

    async def run(self, ready: Callable[[], None]) -> None:
        """Load, then save every moment until cancelled, and once at the end."""
        if self._database is not None:
            oldest, capacity = self._day() - LIFE_DAYS * DAY, self._capacity
            found = await self._database.read(lambda db: _load(db, oldest, capacity))
            self._entries = {**found, **self._entries}
        ready()
        try:
            while True:
                await asyncio.sleep(FLUSH_SECONDS)
                self._turn_the_day()
                self._save()
        finally:
            self._save()

    def _day(self) -> int:
        return int(self._clock()) // DAY * DAY

    def _turn_the_day(self) -> None:
        if self._day() == self._today:
            return
        self._today = self._day()
        oldest = self._today - LIFE_DAYS * DAY
        for key in [key for key, entry in self._entries.items() if entry[1] < oldest]:
            self._forget(key)

    def _save(self) -> None:
        if self._database is None or not self._unsaved:
            return
        unsaved, self._unsaved = self._unsaved, {}

        def saved(result: GatewayError | None) -> None:
            if result is not None:
                log.warning("last gateways were not saved", extra={"cause": result.message})
                self._unsaved = {**unsaved, **self._unsaved}

        self._database.submit(lambda db: _write(db, unsaved), saved)


def _load(db: sqlite3.Connection, oldest: int, capacity: int) -> dict[Key, Entry]:
    rows = db.execute(
        "SELECT tenant, device, gateway, seen FROM last_gateway WHERE seen >= ? ORDER BY seen DESC LIMIT ?",
        (oldest, capacity),
    ).fetchall()
    return {(tenant, device): (gateway, seen) for tenant, device, gateway, seen in reversed(rows)}


def _write(db: sqlite3.Connection, entries: Mapping[Key, Entry | None]) -> None:
    for key, entry in entries.items():
        if entry is None:
            db.execute("DELETE FROM last_gateway WHERE tenant = ? AND device = ?", key)
        else:  # a device may have gone meanwhile
            db.execute(
                "INSERT INTO last_gateway (tenant, device, gateway, seen) SELECT ?1, ?2, ?3, ?4"
                " WHERE EXISTS (SELECT 1 FROM device WHERE tenant = ?1 AND id = ?2)"
                " ON CONFLICT (tenant, device) DO UPDATE SET gateway = excluded.gateway,"
                " seen = excluded.seen",
                (*key, *entry),
            )
