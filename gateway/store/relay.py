"""What waits on disk for a remote Hono: messages of one tenant, bounded by bytes and age.

A message is appended before its device is acknowledged, and deleted once the remote has accepted or finally
refused it. Full: telemetry pushes out the oldest telemetry or is refused, as set; events are refused. What is
lost is counted by cause where its row is deleted, so nothing is counted twice.
"""

from __future__ import annotations

import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

from gateway.errors import GatewayError, StoreUnavailable, TooLarge
from gateway.model.message import Kind, Message
from gateway.store.database import Database
from gateway.store.events import decode_message, encode_event

ROW_BYTES = 128
"""What a row costs beside its message; counts against the limits."""
DROP_AT_ONCE = 100
"""Rows that are pushed out in one step; more steps follow while it is not enough."""
PURGE_ROWS = 2_000
UNANSWERED_MAX = 100_000
"""Ids of deletions that failed and are tried again; more are left to the next start."""

EXPIRED = "expired"
DROPPED_OLDEST = "dropped_oldest"

LaneKey: TypeAlias = tuple[bool, str]
"""Whether it holds events, and the device: what keeps its order."""


class RelayFull(StoreUnavailable):
    """What waits for the remote fills its share of the disk; the sender must keep this one."""

    code = "relay.full"
    default_message = "the remote is away, and what waits for it fills its share of the disk"


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayLimits:
    """How much may wait, and how long.

    Units:  bytes; seconds, 0 for ever.
    """

    bytes: Mapping[Kind, int]
    age: Mapping[Kind, float]
    drops_telemetry: bool = True

    def expiry(self, message: Message) -> float | None:
        """Return when nobody wants a message any more, seconds since the epoch; None for never."""
        own = message.ttl if message.kind is Kind.EVENT else None
        ages = [age for age in (own, self.age[message.kind] or None) if age is not None]
        return message.at + min(ages) if ages else None


@dataclass(frozen=True, slots=True)
class Stored:
    """A message and its place."""

    id: int
    message: Message
    expires: float | None


@dataclass(frozen=True, slots=True)
class WaitingLane:
    """A lane with messages on disk, up to `newest`."""

    lane: LaneKey
    newest: int


@dataclass(slots=True)
class Depth:
    """How much waits."""

    messages: int = 0
    bytes: int = 0

    def add(self, messages: int, size: int) -> None:
        self.messages += messages
        self.bytes += size


_Freed = list[tuple[int, int]]
"""Event or not, and size, of rows that were deleted."""


class RelaySpool:
    """One tenant's messages on disk. Answers come on the loop's thread, those of appends in their order.

    Shape:  `on_lost` hears cause, kind and number of messages that nobody will get; `on_dropped` the highest
            id that was pushed out. `clock` gives seconds since the epoch.
    """

    def __init__(
        self,
        database: Database,
        tenant: str,
        limits: RelayLimits,
        *,
        on_lost: Callable[[str, Kind, int], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._tenant = tenant
        self._limits = limits
        self._on_lost = on_lost
        self.now = clock
        self.depths = {kind: Depth() for kind in Kind}
        self.on_dropped: Callable[[int], None] = _ignore
        self._dropping = 0
        self._undeleted: list[int] = []

    async def load(self) -> tuple[list[WaitingLane], int]:
        """Read what an earlier run left: its lanes, the oldest first, and up to which id it may have sent."""
        for event, messages, size in await self._database.read(partial(_depths, self._tenant)):
            self.depths[_kind(event)] = Depth(messages, size)
        lanes = await self._database.read(partial(_lanes, self._tenant))
        sent = await self._database.read(partial(_sent, self._tenant))
        return [WaitingLane((bool(event), device), newest) for event, device, newest in lanes], sent

    # --- in ------------------------------------------------------------------------------------------

    def append(self, message: Message, done: Callable[[Stored | GatewayError], None]) -> None:
        """Put a message on disk; `done` gets its place after the commit.

        Errors (through `done`): RelayFull, TooLarge, StoreUnavailable.
        """
        raw = encode_event(message)
        size, kind = len(raw) + ROW_BYTES, message.kind
        refusal = self._make_room(kind, size)
        if refusal is not None:
            done(refusal)
            return
        depth, expires = self.depths[kind], self._limits.expiry(message)
        depth.add(1, size)
        is_event = kind is Kind.EVENT
        row = (self._tenant, int(is_event), message.device, expires, size, raw)

        def answer(result: int | GatewayError) -> None:
            if isinstance(result, GatewayError):
                depth.add(-1, -size)
                done(result)
            else:
                done(Stored(result, message, expires))

        self._database.submit(partial(_insert, row), answer, grows=True)

    def _make_room(self, kind: Kind, size: int) -> GatewayError | None:
        """Return why a message finds no room; telemetry may take that of the oldest."""
        limit = self._limits.bytes[kind]
        excess = self.depths[kind].bytes + size - limit
        if size > limit:
            return TooLarge(f"message of {size} bytes: {limit} may wait for the remote")
        if excess <= 0:
            return None
        if kind is Kind.EVENT or not self._limits.drops_telemetry:
            return RelayFull()
        self._drop_oldest(excess - self._dropping)
        return None

    def _drop_oldest(self, excess: int) -> None:
        if excess <= 0:
            return
        self._dropping += excess

        def dropped(result: tuple[_Freed, int] | GatewayError) -> None:
            self._dropping -= excess
            if not isinstance(result, GatewayError):
                freed, up_to = result
                self.on_dropped(up_to)
                self._freed(freed, DROPPED_OLDEST)

        self._database.submit(partial(_drop_oldest, self._tenant, excess), dropped)

    # --- out -----------------------------------------------------------------------------------------

    async def read(self, wanted: Sequence[tuple[LaneKey, int]], limit: int) -> list[list[Stored]]:
        """Return the next messages of some lanes, each behind an id, oldest first.

        Errors: StoreUnavailable.
        """
        rows = await self._database.read(partial(_read, self._tenant, wanted, limit))
        return [[_stored(row) for row in lane] for lane in rows]

    async def may_send(self, up_to: int) -> None:
        """Note on disk that messages up to an id may have been sent.

        Errors: StoreUnavailable.
        """
        await self._database.write(partial(_note_sent, self._tenant, up_to))

    def remove(self, ids: Iterable[int], cause: str | None = None) -> None:
        """Delete messages: taken by the remote, or lost for a `cause`.

        Not waited for: after a crash they come twice, marked. What a disk in trouble does not delete is
        deleted with the next ones.
        """
        wanted = list(ids)
        if cause is None:
            wanted, self._undeleted = [*self._undeleted, *wanted], []

        def removed(result: _Freed | GatewayError) -> None:
            if isinstance(result, GatewayError):
                self._undeleted = [*self._undeleted, *wanted][-UNANSWERED_MAX:]
            else:
                self._freed(result, cause)

        self._database.submit(partial(_remove, wanted), removed)

    def purge(self) -> None:
        """Delete messages whose time is over."""
        now = self.now()

        def purged(result: _Freed | GatewayError) -> None:
            if not isinstance(result, GatewayError):  # else the next round tries again
                self._freed(result, EXPIRED)
                if len(result) >= PURGE_ROWS:
                    self.purge()

        self._database.submit(partial(_purge, self._tenant, now), purged)

    def _freed(self, rows: _Freed, cause: str | None) -> None:
        for event, size in rows:
            self.depths[_kind(event)].add(-1, -size)
        if cause is not None:
            for event, count in Counter(event for event, _ in rows).items():
                self._on_lost(cause, _kind(event), count)


def _kind(event: int) -> Kind:
    return Kind.EVENT if event else Kind.TELEMETRY


def _ignore(_up_to: int) -> None:
    """Nobody keeps messages in memory."""


def _stored(row: tuple[int, int, float | None, bytes]) -> Stored:
    row_id, event, expires, raw = row
    return Stored(row_id, decode_message(raw, _kind(event)), expires)


# --- SQL -------------------------------------------------------------------------------------------------


def _depths(tenant: str, db: sqlite3.Connection) -> list[tuple[int, int, int]]:
    return db.execute(
        "SELECT event, COUNT(*), SUM(size) FROM waiting WHERE tenant = ? GROUP BY event", (tenant,)
    ).fetchall()


def _lanes(tenant: str, db: sqlite3.Connection) -> list[tuple[int, str, int]]:
    return db.execute(
        "SELECT event, device, MAX(id) FROM waiting WHERE tenant = ?"
        " GROUP BY event, device ORDER BY MIN(id)",
        (tenant,),
    ).fetchall()


def _sent(tenant: str, db: sqlite3.Connection) -> int:
    row = db.execute("SELECT up_to FROM sent WHERE tenant = ?", (tenant,)).fetchone()
    return int(row[0]) if row else 0


def _note_sent(tenant: str, up_to: int, db: sqlite3.Connection) -> None:
    db.execute(
        "INSERT INTO sent (tenant, up_to) VALUES (?, ?)"
        " ON CONFLICT (tenant) DO UPDATE SET up_to = excluded.up_to",
        (tenant, up_to),
    )


def _insert(row: tuple[object, ...], db: sqlite3.Connection) -> int:
    row_id = db.execute(
        "INSERT INTO waiting (tenant, event, device, expires, size, message)"
        " VALUES (?, ?, ?, ?, ?, ?)",
        row,
    ).lastrowid
    assert row_id is not None  # noqa: S101  an INSERT has one
    return row_id


def _read(
    tenant: str, wanted: Sequence[tuple[LaneKey, int]], limit: int, db: sqlite3.Connection
) -> list[list[tuple[Any, ...]]]:
    return [
        db.execute(
            "SELECT id, event, expires, message FROM waiting"
            " WHERE tenant = ? AND event = ? AND device = ? AND id > ? ORDER BY id LIMIT ?",
            (tenant, int(is_event), device, after, limit),
        ).fetchall()
        for (is_event, device), after in wanted
    ]


def _remove(ids: list[int], db: sqlite3.Connection) -> _Freed:
    freed: _Freed = []
    for row_id in ids:
        row = db.execute("DELETE FROM waiting WHERE id = ? RETURNING event, size", (row_id,))
        freed += row.fetchall()  # nothing: pushed out or purged while it was on its way
    return freed


def _drop_oldest(tenant: str, excess: int, db: sqlite3.Connection) -> tuple[_Freed, int]:
    """Delete the oldest telemetry until `excess` bytes are free; returns also the highest id that went."""
    freed: _Freed = []
    up_to = 0
    while excess > 0:
        rows = db.execute(
            "SELECT id, size FROM waiting WHERE tenant = ? AND event = 0 ORDER BY id LIMIT ?",
            (tenant, DROP_AT_ONCE),
        ).fetchall()
        if not rows:
            break
        for row_id, size in rows:
            db.execute("DELETE FROM waiting WHERE id = ?", (row_id,))
            freed.append((0, size))
            up_to, excess = row_id, excess - size
            if excess <= 0:
                break
    return freed, up_to


def _purge(tenant: str, now: float, db: sqlite3.Connection) -> _Freed:
    return db.execute(
        "DELETE FROM waiting WHERE id IN"
        " (SELECT id FROM waiting WHERE expires <= ? AND tenant = ? LIMIT ?) RETURNING event, size",
        (now, tenant, PURGE_ROWS),
    ).fetchall()
