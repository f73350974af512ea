"""Reading events ahead, bounded: what a cursor holds in memory between the store and its reader.

Theory: the store answers appends and loads in one order (that of its writer). A cursor is either *behind*
(the store holds events it has not loaded; appends are ignored, a load will bring them) or *level* (every
append is handed to it as it is stored). It falls behind when its read-ahead is full, and is level again when
a load brings fewer events than asked for.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from typing import Protocol

from gateway.store.ports import StoredEvent


class CursorBackend(Protocol):
    """What a cursor asks of its store."""

    def now(self) -> float: ...

    def load(self, cursor: ReadAhead, after: int, limit: int) -> None:
        """Bring up to `limit` events after `after` by `cursor.loaded`."""

    def settled(self, cursor: ReadAhead, event: StoredEvent) -> None: ...

    def attempted(self, cursor: ReadAhead, event: StoredEvent) -> None: ...

    def closed(self, cursor: ReadAhead) -> None: ...


class ReadAhead:
    """An `EventCursor` over any backend."""

    def __init__(
        self,
        backend: CursorBackend,
        key: tuple[str, str],
        limit: int,
        on_ready: Callable[[], None],
    ) -> None:
        self.key = key
        self.row = 0
        """The store's number of this cursor, once it is known."""
        self._backend = backend
        self._limit = limit
        self._on_ready = on_ready
        self._ready: deque[StoredEvent] = deque()
        self._returned: list[tuple[int, StoredEvent]] = []
        self._last = 0
        self._is_behind = True
        self._is_loading = True
        self._is_open = True

    # --- for the reader

    def take(self) -> StoredEvent | None:
        while self._is_open:
            event = self._next()
            if event is None:
                return None
            if event.expires is None:
                return event
            event.left = event.expires - self._backend.now()
            if event.left > 0:
                return event
            self._backend.settled(self, event)
        return None

    def is_over(self, event: StoredEvent) -> bool:
        return event.expires is not None and event.expires <= self._backend.now()

    def settle(self, event: StoredEvent) -> None:
        self._backend.settled(self, event)

    def release(self, event: StoredEvent, *, failed: bool) -> None:
        if failed:
            event.attempts += 1
            self._backend.attempted(self, event)
        if self._is_open:
            heapq.heappush(self._returned, (event.id, event))
            self._on_ready()

    def close(self) -> None:
        if self._is_open:
            self._is_open = False
            self._ready.clear()
            self._returned.clear()
            self._backend.closed(self)

    # --- for the store

    def offer(self, event: StoredEvent) -> None:
        """Take a new event at the moment it is stored."""
        if self._is_behind or not self._is_open:
            return
        if len(self._ready) >= self._limit:
            self._is_behind = True
            return
        self._ready.append(event)
        self._last = event.id
        self._on_ready()

    def loaded(self, events: list[StoredEvent], asked: int) -> None:
        """Take what a load brought."""
        self._is_loading = False
        if not self._is_open:
            return
        self._is_behind = len(events) >= asked
        if events:
            self._ready.extend(events)
            self._last = events[-1].id
            self._on_ready()

    def load_failed(self) -> None:
        """The store could not read; the next `take` asks again."""
        self._is_loading = False

    def nudge(self) -> None:
        """Have the reader ask again if there may be something that it was not told of."""
        if self._is_open and self._is_behind and not self._is_loading:
            self._on_ready()

    def _next(self) -> StoredEvent | None:
        if self._returned:
            return heapq.heappop(self._returned)[1]
        event = self._ready.popleft() if self._ready else None
        if self._is_behind and not self._is_loading and len(self._ready) * 2 <= self._limit:
            self._is_loading = True
            self._backend.load(self, self._last, self._limit - len(self._ready))
        return event
