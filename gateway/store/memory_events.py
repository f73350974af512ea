"""The event store in memory: the same contract, for tests and for a gateway that keeps nothing."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from gateway.model.message import Message
from gateway.model.ports import Done
from gateway.store.cursors import ReadAhead
from gateway.store.event_room import EventRoom
from gateway.store.events import ROW_OVERHEAD, expiry_of
from gateway.store.ports import CONSUMERS, StoredEvent


@dataclass(slots=True)
class _Row:
    message: Message
    expires: float | None
    size: int
    owed: dict[str, int] = field(default_factory=dict)
    """Cursor name -> attempts."""


class MemoryEvents:
    """Events in a dict; what a crash leaves is nothing."""

    def __init__(
        self,
        *,
        max_bytes: int = 67_108_864,
        max_bytes_per_tenant: int = 0,
        max_ttl: float = 0.0,
        read_ahead: int = 500,
        clock: Callable[[], float] = time.time,
        on_refused: Callable[[str, str], None] = lambda _tenant, _reason: None,
    ) -> None:
        self._room = EventRoom(max_bytes, max_bytes_per_tenant, on_refused)
        self._max_ttl = max_ttl
        self._read_ahead = read_ahead
        self.now = clock
        self._rows: dict[int, _Row] = {}
        self._next = 1
        self._names: dict[str, set[str]] = {}
        self._open: dict[tuple[str, str], ReadAhead] = {}

    @property
    def size(self) -> int:
        """Bytes that count against the limit."""
        return self._room.total

    def has_taps(self, tenant: str) -> bool:
        return bool(self._names.get(tenant, set()) - {CONSUMERS})

    def append(self, message: Message, done: Done, *, consumers: bool = True) -> None:
        size = len(message.payload) + ROW_OVERHEAD
        refusal = self._room.refusal(message.tenant, size)
        if refusal is not None:
            done(refusal)
            return
        event_id, self._next = self._next, self._next + 1
        names = self._names.setdefault(message.tenant, set())
        if consumers:
            names.add(CONSUMERS)
        owed = names if consumers else names - {CONSUMERS}
        expires = expiry_of(message, self._max_ttl)
        self._rows[event_id] = _Row(message, expires, size, dict.fromkeys(owed, 0))
        self._room.take(message.tenant, size)
        if not owed:
            self._delete(event_id)
        try:
            done(None)
        finally:  # a cursor that is level would never hear of it again
            for cursor in [
                c for key, c in self._open.items() if key[0] == message.tenant and key[1] in owed
            ]:
                cursor.offer(StoredEvent(event_id, message, expires))

    def open_cursor(self, tenant: str, name: str, on_ready: Callable[[], None]) -> ReadAhead:
        if (tenant, name) in self._open:
            raise ValueError(f"cursor {name} of {tenant} is open already")
        self._names.setdefault(tenant, set()).add(name)
        cursor = self._open[tenant, name] = ReadAhead(
            self, (tenant, name), self._read_ahead, on_ready
        )
        self.load(cursor, 0, self._read_ahead)
        return cursor

    def drop_cursor(self, tenant: str, name: str) -> None:
        cursor = self._open.get((tenant, name))
        if cursor is not None:
            cursor.close()
        self._names.get(tenant, set()).discard(name)
        for event_id, row in list(self._rows.items()):
            if row.message.tenant == tenant:
                self._done(event_id, name)

    def purge(self) -> None:
        """Delete events whose time is over."""
        for event_id, row in list(self._rows.items()):
            if row.expires is not None and row.expires <= self.now():
                self._delete(event_id)

    # --- for cursors

    def load(self, cursor: ReadAhead, after: int, limit: int) -> None:
        tenant, name = cursor.key
        found = [
            StoredEvent(event_id, row.message, row.expires, row.owed[name])
            for event_id, row in self._rows.items()
            if event_id > after and row.message.tenant == tenant and name in row.owed
        ]
        cursor.loaded(found[:limit], limit)

    def settled(self, cursor: ReadAhead, event: StoredEvent) -> None:
        self._done(event.id, cursor.key[1])

    def attempted(self, cursor: ReadAhead, event: StoredEvent) -> None:
        row = self._rows.get(event.id)
        if row is not None and cursor.key[1] in row.owed:
            row.owed[cursor.key[1]] += 1

    def closed(self, cursor: ReadAhead) -> None:
        self._open.pop(cursor.key, None)

    def _done(self, event_id: int, name: str) -> None:
        row = self._rows.get(event_id)
        if row is not None:
            row.owed.pop(name, None)
            if not row.owed:
                self._delete(event_id)

    def _delete(self, event_id: int) -> None:
        row = self._rows.pop(event_id)
        self._room.give_back([(row.message.tenant, row.size)])
