"""The durable event store on SQLite: one row per event, one row per event and cursor that is owed it.

A device's acknowledgement waits for the insert alone. Settling is collected and written behind: after a
crash what was settled in the last moments may come again (at least once). An event is deleted when nobody is
owed it any more, or when its time to live is over.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections.abc import Callable
from typing import Any

import msgspec

from gateway.errors import GatewayError, StoreUnavailable
from gateway.model.message import Kind, Message, SpoolId
from gateway.model.ports import Done
from gateway.model.trace import TraceContext
from gateway.store.cursors import ReadAhead
from gateway.store.database import Database
from gateway.store.event_room import STORE, EventRoom
from gateway.store.ports import CONSUMERS, StoredEvent

log = logging.getLogger(__name__)

ROW_OVERHEAD = 128
"""Bytes that a row costs beside its message; an estimate that counts against the limit."""
PURGE_SECONDS = 30.0
PURGE_ROWS = 5_000
MAX_SETTLE = 2_000
"""Settlements in one write."""

Freed = list[tuple[str, int]]
"""Tenant and bytes of events that were deleted."""

_PLAIN = tuple(
    name
    for name in Message.__struct_fields__
    if name not in ("trace", "spool", "properties", "kind")
)
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder()


def encode_event(message: Message) -> bytes:
    """Write a message as msgpack, field names and all, so that fields may be added later."""
    row: dict[str, Any] = {name: getattr(message, name) for name in _PLAIN}
    trace, spool = message.trace, message.spool
    row["trace"] = (trace.trace_id, trace.span_id, trace.flags, trace.state)
    row["spool"] = spool and (spool.edge, spool.lane, spool.sequence)
    row["properties"] = dict(message.properties)
    return _encoder.encode(row)


def decode_event(raw: bytes) -> Message:
    """Read an event that `encode_event` wrote."""
    return decode_message(raw, Kind.EVENT)


def decode_message(raw: bytes, kind: Kind) -> Message:
    """Read what `encode_event` wrote; unknown fields of a newer version are ignored."""
    row: dict[str, Any] = _decoder.decode(raw)
    known = {name: row[name] for name in _PLAIN if name in row}
    spool = row["spool"]
    return Message(
        **known,
        kind=kind,
        trace=TraceContext(*row["trace"]),
        spool=SpoolId(*spool) if spool else None,
        properties=row["properties"],
    )


def expiry_of(message: Message, max_ttl: float) -> float | None:
    """Return when an event is not wanted any more, seconds since the epoch; None for never."""
    ttl = message.ttl
    if max_ttl > 0:
        ttl = max_ttl if ttl is None else min(ttl, max_ttl)
    return None if ttl is None else message.at + ttl


class SqliteEvents:
    """The event store as a module: it opens its database and writes what is settled behind."""

    name = "events"

    def __init__(
        self,
        database: Database,
        *,
        max_bytes: int = 1_073_741_824,
        max_bytes_per_tenant: int = 0,
        max_ttl: float = 0.0,
        read_ahead: int = 500,
        clock: Callable[[], float] = time.time,
        on_stored: Callable[[str], None] = lambda _tenant: None,
        on_refused: Callable[[str, str], None] = lambda _tenant, _reason: None,
    ) -> None:
        self._database = database
        self._room = EventRoom(max_bytes, max_bytes_per_tenant, on_refused)
        self._max_ttl = max_ttl
        self._read_ahead = read_ahead
        self._on_stored = on_stored
        self.now = clock
        self._open: dict[str, dict[str, ReadAhead]] = {}
        self._taps: dict[str, set[str]] = {}
        """Tenant -> names of cursors beside CONSUMERS, also of those that are not open."""
        self._settled: list[tuple[int, int]] = []
        self._attempts: list[tuple[int, int]] = []
        self._settling = 0
        self._is_running = False

    async def run(self, ready: Callable[[], None]) -> None:
        async with self._database.running():
            for tenant, size in await self._database.read(_sizes):
                self._room.take(tenant, size)
            for tenant, name in await self._database.read(_taps):
                self._taps.setdefault(tenant, set()).add(name)
            self._is_running = True
            ready()
            try:
                while True:
                    await asyncio.sleep(PURGE_SECONDS)
                    self.purge()
                    self._write_settled()
                    self._nudge()
            finally:
                self._is_running = False
                await self._write_rest()

    def _nudge(self) -> None:
        for cursors in list(self._open.values()):
            for cursor in list(cursors.values()):
                cursor.nudge()

    async def _write_rest(self) -> None:
        settled, attempts = self._settled, self._attempts
        if settled or attempts:
            await self._database.write(lambda connection: _settle(connection, settled, attempts))

    @property
    def size(self) -> int:
        """Bytes that count against the limit."""
        return self._room.total

    # --- storing -----------------------------------------------------------------------------------

    def has_taps(self, tenant: str) -> bool:
        return bool(self._taps.get(tenant))

    def append(self, message: Message, done: Done, *, consumers: bool = True) -> None:
        raw = encode_event(message)
        size = len(raw) + ROW_OVERHEAD
        if not self._is_running:
            done(StoreUnavailable("the event store is not open"))
        elif (refusal := self._room.refusal(message.tenant, size)) is not None:
            done(refusal)
        else:
            self._room.take(message.tenant, size)
            self._insert(message, raw, size, done, consumers)

    def _insert(self, message: Message, raw: bytes, size: int, done: Done, consumers: bool) -> None:
        expires = expiry_of(message, self._max_ttl)
        row = (message.tenant, expires, size, raw)

        def stored(result: int | GatewayError) -> None:
            if isinstance(result, GatewayError):
                self._room.give_back([(message.tenant, size)])
                self._room.refused(message.tenant, STORE)
                done(result)
                return
            if not result:
                self._room.give_back([(message.tenant, size)])
                done(None)
                return
            self._on_stored(message.tenant)
            try:
                done(None)
            finally:  # a cursor that is level would never hear of it again
                self._offer(result, message, expires, consumers)

        insert = _insert if consumers else _insert_for_taps
        self._database.submit(lambda connection: insert(connection, row), stored, grows=True)

    def _offer(
        self, event_id: int, message: Message, expires: float | None, consumers: bool
    ) -> None:
        for name, cursor in list(self._open.get(message.tenant, {}).items()):
            if name == CONSUMERS and not consumers:
                continue
            cursor.offer(StoredEvent(event_id, message, expires))

    # --- cursors -----------------------------------------------------------------------------------

    def open_cursor(self, tenant: str, name: str, on_ready: Callable[[], None]) -> ReadAhead:
        cursors = self._open.setdefault(tenant, {})
        if name in cursors:
            raise ValueError(f"cursor {name} of {tenant} is open already")
        cursor = ReadAhead(self, (tenant, name), self._read_ahead, on_ready)
        cursors[name] = cursor
        if name != CONSUMERS:
            self._taps.setdefault(tenant, set()).add(name)
        self.load(cursor, 0, self._read_ahead)
        return cursor

    def drop_cursor(self, tenant: str, name: str) -> None:
        cursor = self._open.get(tenant, {}).get(name)
        if cursor is not None:
            cursor.close()
        self._taps.get(tenant, set()).discard(name)

        def dropped(result: Freed | GatewayError) -> None:
            if isinstance(result, GatewayError):
                log.warning("cursor not dropped", extra={"tenant": tenant, "cause": str(result)})
            else:
                self._room.give_back(result)

        self._database.submit(lambda connection: _drop(connection, tenant, name), dropped)

    def load(self, cursor: ReadAhead, after: int, limit: int) -> None:
        self._submit_settled()  # first, or a cursor opened anew would be given them again

        def loaded(result: tuple[int, list[tuple[Any, ...]]] | GatewayError) -> None:
            if isinstance(result, GatewayError):
                log.warning("events not read", extra={"cause": str(result)})
                cursor.load_failed()
                return
            cursor.row, rows = result
            cursor.loaded([_event(row) for row in rows], limit)

        self._database.submit(
            lambda connection: _load(connection, cursor.key, after, limit), loaded
        )

    def closed(self, cursor: ReadAhead) -> None:
        tenant, name = cursor.key
        cursors = self._open.get(tenant, {})
        cursors.pop(name, None)
        if not cursors:
            self._open.pop(tenant, None)
        if name == CONSUMERS:
            self._database.submit(lambda connection: _tidy(connection, tenant), _no_matter)

    def settled(self, cursor: ReadAhead, event: StoredEvent) -> None:
        self._settled.append((cursor.row, event.id))
        self._write_settled()

    def attempted(self, cursor: ReadAhead, event: StoredEvent) -> None:
        self._attempts.append((cursor.row, event.id))
        self._write_settled()

    def _write_settled(self) -> None:
        """Write what has collected, one write at a time; a failed one is tried again later."""
        if not self._settling:
            self._submit_settled()

    def _submit_settled(self) -> None:
        if not (self._settled or self._attempts):
            return
        self._settling += 1
        settled, self._settled = self._settled[:MAX_SETTLE], self._settled[MAX_SETTLE:]
        attempts, self._attempts = self._attempts, []

        def written(result: Freed | GatewayError) -> None:
            self._settling -= 1
            if isinstance(result, GatewayError):
                self._settled = settled + self._settled
                self._attempts = attempts + self._attempts
            else:
                self._room.give_back(result)
                self._write_settled()

        self._database.submit(lambda connection: _settle(connection, settled, attempts), written)

    # --- time to live --------------------------------------------------------------------------------

    def purge(self) -> None:
        """Delete events whose time is over."""
        now = self.now()

        def purged(result: Freed | GatewayError) -> None:
            if isinstance(result, GatewayError):
                return  # the next round tries again
            self._room.give_back(result)
            if result:
                log.info("events expired", extra={"count": len(result)})
            if len(result) >= PURGE_ROWS:
                self.purge()

        self._database.submit(lambda connection: _purge(connection, now), purged)


def _no_matter(_result: object) -> None:
    """Tidying that failed is done at the next occasion."""


def _event(row: tuple[Any, ...]) -> StoredEvent:
    event_id, raw, expires, attempts = row
    return StoredEvent(event_id, decode_event(raw), expires, attempts)


# --- in the writer's thread ----------------------------------------------------------------------------


def _sizes(connection: sqlite3.Connection) -> Freed:
    return connection.execute("SELECT tenant, SUM(size) FROM event GROUP BY tenant").fetchall()


def _taps(connection: sqlite3.Connection) -> list[tuple[str, str]]:
    rows = connection.execute("SELECT tenant, name FROM cursor WHERE name <> ?", (CONSUMERS,))
    return rows.fetchall()


def _insert(connection: sqlite3.Connection, row: tuple[object, ...]) -> int:
    connection.execute(
        "INSERT OR IGNORE INTO cursor (tenant, name) VALUES (?, ?)", (row[0], CONSUMERS)
    )
    event_id = _insert_event(connection, row)
    connection.execute(
        "INSERT INTO owed (cursor, event) SELECT id, ? FROM cursor WHERE tenant = ?",
        (event_id, row[0]),
    )
    return event_id


def _insert_for_taps(connection: sqlite3.Connection, row: tuple[object, ...]) -> int:
    """Store an event for who is there beside the consumers; 0 where nobody is any more."""
    event_id = _insert_event(connection, row)
    owed = connection.execute(
        "INSERT INTO owed (cursor, event) SELECT id, ? FROM cursor WHERE tenant = ? AND name <> ?",
        (event_id, row[0], CONSUMERS),
    )
    if owed.rowcount:
        return event_id
    connection.execute("DELETE FROM event WHERE id = ?", (event_id,))
    return 0


def _insert_event(connection: sqlite3.Connection, row: tuple[object, ...]) -> int:
    event_id = connection.execute(
        "INSERT INTO event (tenant, expires, size, message) VALUES (?, ?, ?, ?)", row
    ).lastrowid
    assert event_id is not None  # noqa: S101  an INSERT has one
    return event_id


def _load(
    connection: sqlite3.Connection, key: tuple[str, str], after: int, limit: int
) -> tuple[int, list[tuple[Any, ...]]]:
    connection.execute("INSERT OR IGNORE INTO cursor (tenant, name) VALUES (?, ?)", key)
    (row,) = connection.execute(
        "SELECT id FROM cursor WHERE tenant = ? AND name = ?", key
    ).fetchone()
    events = connection.execute(
        "SELECT event.id, event.message, event.expires, owed.attempts"
        " FROM owed JOIN event ON event.id = owed.event"
        " WHERE owed.cursor = ? AND owed.event > ? ORDER BY owed.event LIMIT ?",
        (row, after, limit),
    ).fetchall()
    return row, events


def _tidy(connection: sqlite3.Connection, tenant: str) -> None:
    """Forget the consumers' cursor of a tenant that has no events: whoever asks for any name makes one."""
    connection.execute(
        "DELETE FROM cursor WHERE tenant = ? AND name = ?"
        " AND NOT EXISTS (SELECT 1 FROM owed WHERE owed.cursor = cursor.id)",
        (tenant, CONSUMERS),
    )


def _settle(
    connection: sqlite3.Connection,
    settled: list[tuple[int, int]],
    attempts: list[tuple[int, int]],
) -> Freed:
    connection.executemany(
        "UPDATE owed SET attempts = attempts + 1 WHERE cursor = ? AND event = ?", attempts
    )
    connection.executemany("DELETE FROM owed WHERE cursor = ? AND event = ?", settled)
    return [freed for _, event in settled for freed in _delete_if_free(connection, event)]


def _delete_if_free(connection: sqlite3.Connection, event: int) -> Freed:
    return connection.execute(
        "DELETE FROM event WHERE id = ? AND NOT EXISTS"
        " (SELECT 1 FROM owed WHERE owed.event = event.id) RETURNING tenant, size",
        (event,),
    ).fetchall()


def _drop(connection: sqlite3.Connection, tenant: str, name: str) -> Freed:
    connection.execute("DELETE FROM cursor WHERE tenant = ? AND name = ?", (tenant, name))
    return connection.execute(
        "DELETE FROM event WHERE tenant = ? AND NOT EXISTS"
        " (SELECT 1 FROM owed WHERE owed.event = event.id) RETURNING tenant, size",
        (tenant,),
    ).fetchall()


def _purge(connection: sqlite3.Connection, now: float) -> Freed:
    return connection.execute(
        "DELETE FROM event WHERE id IN"
        " (SELECT id FROM event WHERE expires IS NOT NULL AND expires <= ? LIMIT ?)"
        " RETURNING tenant, size",
        (now, PURGE_ROWS),
    ).fetchall()
