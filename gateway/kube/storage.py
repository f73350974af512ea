"""Objects on disk and in memory: one version counter, compare-and-set, committed changes in order.

All objects are kept in memory, as text, the latest ones parsed too; the database is the truth that memory is
filled from. A write allots the next resourceVersion, checks the old one inside the writer's transaction, and
reaches memory and watchers when it is committed, so nobody ever sees a version that a power loss could take
back. Versions may have gaps (a refused write), they never return: a start takes its first one from the time
of day, where that is further on, so that not even a file that was put back from a copy, or that lost its end,
gives out one again. Who asks to go on from before a start is told to list anew (410).
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from bisect import bisect_left, bisect_right, insort
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import msgspec

from gateway.errors import GatewayError, NotFound, RevisionConflict, TooLarge
from gateway.kube.client import EventType
from gateway.kube.watch import Change, Filter, Key, Stored, Watcher, Window, with_version
from gateway.model.json import JsonObject
from gateway.store.database import Database
from gateway.wire.kube.status import AlreadyExists, expired, future_version

_INSERT = """
INSERT INTO objects (kind, namespace, name, version, body) VALUES (?, ?, ?, ?, ?)
ON CONFLICT DO NOTHING
"""
_UPDATE = """
UPDATE objects SET version = ?, body = ? WHERE kind = ? AND namespace = ? AND name = ? AND version = ?
"""
_DELETE = "DELETE FROM objects WHERE kind = ? AND namespace = ? AND name = ? AND version = ?"
_TICK = "UPDATE clock SET version = ? WHERE version < ?"
_HAS_NAMESPACE = "SELECT 1 FROM objects WHERE kind = 'namespaces' AND namespace = '' AND name = ?"
_HAS_CONTENT = "SELECT 1 FROM objects WHERE namespace = ? LIMIT 1"

AWAKE = 256
"""Objects that are kept parsed beside their text."""
MAX_OBJECT = 1_572_864
"""Bytes of one stored object, as etcd takes them; patches could make one grow for ever."""

LITTLE = 1_024
"""Bytes by which an object may grow on a disk that is nearly full: leases and conditions have to go on."""

VERSIONS_PER_SECOND = 10_000
"""Versions that may be given out in a second, on average, for a start to be sure to lie beyond them."""
FIRST_DAY = 1_704_067_200
"""Seconds of the day from which versions count, 2024-01-01."""

_Statement = Callable[[sqlite3.Connection], None]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Objects at one instant.

    Shape:  `last` is the key to go on after, None at the end; `rest` how many follow, not counted (0) where a
            selector would have to look at each.
    """

    items: list[Stored]
    version: int
    rest: int = 0
    last: Key | None = None


class Kind:
    """The objects of one kind in memory, sorted when somebody lists them."""

    def __init__(self, window: Window) -> None:
        self.objects: dict[Key, Stored] = {}
        self.window = window
        self._sorted: list[Key] | None = None

    def put(self, stored: Stored) -> None:
        if stored.key not in self.objects and self._sorted is not None:
            insort(self._sorted, stored.key, key=_order)
        self.objects[stored.key] = stored

    def drop(self, key: Key) -> None:
        if self.objects.pop(key, None) is not None and self._sorted is not None:
            del self._sorted[bisect_left(self._sorted, _order(key), key=_order)]

    def in_order(self) -> list[Key]:
        if self._sorted is None:
            self._sorted = sorted(self.objects, key=_order)
        return self._sorted

    def as_of(self, version: int) -> tuple[list[Key], Callable[[Key], Stored]]:
        """Return the keys in order and the objects as they were at `version`. Errors: Gone."""
        then = self.window.before(version)
        keys = list(self.in_order())
        for key, stored in then.items():
            if stored is None and key in self.objects:
                del keys[bisect_left(keys, _order(key), key=_order)]
            elif stored is not None and key not in self.objects:
                insort(keys, key, key=_order)

        def find(key: Key) -> Stored:
            return then.get(key) or self.objects[key]

        return keys, find


def _span(keys: list[Key], namespace: str | None, after: tuple[str, str] | None) -> tuple[int, int]:
    """Where a namespace stands among the keys, without what has been seen already."""
    start = 0 if after is None else bisect_right(keys, after, key=_order)
    if namespace is None:
        return start, len(keys)
    first = bisect_left(keys, namespace, key=_namespace)
    return max(start, first), bisect_right(keys, namespace, key=_namespace)


def _namespace(key: Key) -> str:
    return key.namespace


def _order(key: Key) -> tuple[str, str]:
    return (key.namespace, key.name)


class Storage:
    """The objects of one API server.

    Shape:  `window` is how many changes of each kind are kept for watches to resume, of `window_bytes` at
            most, `buffer` how many may wait for one watcher.
    """

    def __init__(
        self,
        database: Database,
        *,
        window: int = 10_000,
        window_bytes: int = 4_194_304,
        buffer: int = 1_000,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._window = window
        self._window_bytes = window_bytes
        self._awake: deque[Stored] = deque()
        self._buffer = buffer
        self._now = now
        self._kinds: dict[str, Kind] = {}
        self._allotted = 0
        self._floor = 0
        self._listeners: list[Callable[[Change], None]] = []
        self.version = 0
        """The newest committed resourceVersion."""

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Load everything; the database must be running. Leaving ends all watches."""
        rows, clock = await self._database.read(_load)
        self.version = self._allotted = self._floor = self._beginning(clock)
        self._kinds.clear()
        for row in rows:
            stored = _stored(row)
            self._kind(stored.key.kind).put(stored)
        try:
            yield
        finally:
            self.end_watches()

    def _beginning(self, newest: int) -> int:
        """A version that nobody can have seen, whatever has become of the file."""
        return max(newest + 1, int((self._now() - FIRST_DAY) * VERSIONS_PER_SECOND))

    def end_watches(self, of: str | None = None) -> None:
        """Close every watch, or those of one kind; readers come back with their last version."""
        for name, kind in self._kinds.items():
            if of in (None, name):
                kind.window.close()

    def _kind(self, name: str) -> Kind:
        kind = self._kinds.get(name)
        if kind is None:
            kind = self._kinds[name] = Kind(Window(self._window, self._floor, self._window_bytes))
        return kind

    def listen(self, listener: Callable[[Change], None]) -> None:
        """Tell `listener` about each committed change, at once and in order; it must not block."""
        self._listeners.append(listener)

    # --- reads ------------------------------------------------------------------------------------

    def get(self, key: Key) -> Stored | None:
        kind = self._kinds.get(key.kind)
        stored = kind.objects.get(key) if kind else None
        if stored is not None and stored.rests:
            stored.wake()
            self._note_awake(stored)
        return stored

    def _note_awake(self, stored: Stored) -> None:
        """Keep what is asked for parsed, until many others were asked for."""
        self._awake.append(stored)
        if len(self._awake) > AWAKE:
            self._awake.popleft().rest()

    def all(self, kind: str, wanted: Filter | None = None) -> Iterator[Stored]:
        """Objects of a kind by namespace and name."""
        known = self._kinds.get(kind)
        if known is None:
            return
        for stored in [known.objects[key] for key in known.in_order()]:
            if wanted is None or wanted.matches(stored):
                yield stored

    def count(self, kind: str) -> int:
        known = self._kinds.get(kind)
        return len(known.objects) if known else 0

    def kinds(self) -> dict[str, int]:
        """How many objects there are of each kind."""
        return {name: len(kind.objects) for name, kind in self._kinds.items() if kind.objects}

    def watchers(self) -> int:
        return sum(kind.window.watchers for kind in self._kinds.values())

    def page(
        self,
        kind: str,
        wanted: Filter,
        *,
        limit: int = 0,
        after: tuple[str, str] | None = None,
        version: int | None = None,
    ) -> Snapshot:
        """List, now or as of `version`; `after` is the namespace and name of the last item seen.

        Errors: Gone when that version is no longer kept.
        """
        known = self._kind(kind)
        at = self.version if version is None else version
        if at == self.version:
            keys, find = known.in_order(), known.objects.__getitem__
        else:
            keys, find = self._as_of(known, at)
        start, end = _span(keys, wanted.namespace, after)
        found: list[Stored] = []
        for index in range(start, end):
            stored = find(keys[index])
            if not wanted.matches(stored):
                continue
            if limit and len(found) == limit:
                rest = 0 if wanted.selects else end - index
                return Snapshot(found, at, rest, found[-1].key)
            found.append(stored)
        return Snapshot(found, at)

    def _as_of(self, known: Kind, version: int) -> tuple[list[Key], Callable[[Key], Stored]]:
        if version > self.version:
            raise future_version(version, self.version)
        try:
            return known.as_of(version)
        except GatewayError as error:
            raise expired(
                "The provided continue parameter is too old to display a consistent list result."
                " You must start a new list without the continue parameter."
            ) from error

    def follow(self, kind: str, wanted: Filter, since: int) -> Watcher:
        """Watch changes after a version. Errors: Gone; TooEarly."""
        return self._kind(kind).window.follow(wanted, self._buffer, since, self.version)

    # --- writes -----------------------------------------------------------------------------------

    async def create(self, key: Key, item: JsonObject) -> Stored:
        """Store a new object.

        Errors: AlreadyExists; NotFound when its namespace went meanwhile; TooLarge; StoreUnavailable.
        """
        stored = _capped(self._allot(key, item))

        def work(connection: sqlite3.Connection) -> None:
            if (
                key.namespace
                and not connection.execute(_HAS_NAMESPACE, (key.namespace,)).fetchone()
            ):
                raise NotFound(f'namespaces "{key.namespace}" not found')
            row = (key.kind, key.namespace, key.name, stored.version, stored.body)
            if connection.execute(_INSERT, row).rowcount == 0:
                raise AlreadyExists(f'{key.kind} "{key.name}" already exists')

        return await self._commit(work, Change(EventType.ADDED, None, stored), grows=True)

    async def replace(self, before: Stored, item: JsonObject) -> Stored:
        """Store the next state of an object.

        Errors: RevisionConflict when `before` is not the newest; TooLarge; StoreUnavailable.
        """
        key = before.key
        stored = _capped(self._allot(key, item))

        def work(connection: sqlite3.Connection) -> None:
            place = (key.kind, key.namespace, key.name, before.version)
            if connection.execute(_UPDATE, (stored.version, stored.body, *place)).rowcount == 0:
                raise RevisionConflict

        grows = len(stored.body) > len(before.body) + LITTLE
        return await self._commit(work, Change(EventType.MODIFIED, before, stored), grows=grows)

    async def remove(self, before: Stored, last: JsonObject | None = None) -> Stored:
        """Take an object away; a namespace goes only when nothing is left in it.

        Shape:  `last` is the state that watchers are shown, by default the one that was stored.

        Errors: RevisionConflict when `before` is not the newest; StoreUnavailable.
        """
        key = before.key
        stored = self._allot(key, before.object if last is None else last)

        def work(connection: sqlite3.Connection) -> None:
            if (
                key.kind == "namespaces"
                and connection.execute(_HAS_CONTENT, (key.name,)).fetchone()
            ):
                raise RevisionConflict(f'namespaces "{key.name}" is not empty')
            place = (key.kind, key.namespace, key.name, before.version)
            if connection.execute(_DELETE, place).rowcount == 0:
                raise RevisionConflict

        return await self._commit(work, Change(EventType.DELETED, before, stored))

    def _allot(self, key: Key, item: JsonObject) -> Stored:
        self._allotted += 1
        stamped = with_version(item, self._allotted)
        return Stored(key, self._allotted, stamped, msgspec.json.encode(stamped))

    async def _commit(self, work: _Statement, change: Change, *, grows: bool = False) -> Stored:
        """Run a write; memory follows in the commit's callback, also when the caller is gone by then."""
        version = change.after.version
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def write(connection: sqlite3.Connection) -> None:
            work(connection)
            connection.execute(_TICK, (version, version))

        def done(result: GatewayError | None) -> None:
            try:
                if not isinstance(result, GatewayError):
                    self._apply(change)
            finally:  # a listener that fails must not leave the caller waiting
                _settle(future, result)

        self._database.submit(write, done, grows=grows)
        await future
        return change.after

    def _apply(self, change: Change) -> None:
        kind = self._kind(change.after.key.kind)
        self.version = change.after.version
        if change.type is EventType.DELETED:
            kind.drop(change.after.key)
        else:
            kind.put(change.after)
        kind.window.add(change)
        self._note_awake(change.after)
        for listener in self._listeners:
            listener(change)
        if change.before is not None:
            change.before.rest()


_Row = tuple[str, str, str, int, bytes]


def _settle(future: asyncio.Future[None], result: GatewayError | None) -> None:
    if future.done():
        return
    if isinstance(result, GatewayError):
        future.set_exception(result)
    else:
        future.set_result(None)


def _capped(stored: Stored) -> Stored:
    if len(stored.body) > MAX_OBJECT:
        size = len(stored.body)
        raise TooLarge(f"Request entity too large: an object takes {MAX_OBJECT} bytes, got {size}")
    return stored


def _load(connection: sqlite3.Connection) -> tuple[list[_Row], int]:
    connection.execute("BEGIN")
    try:
        rows = connection.execute(
            "SELECT kind, namespace, name, version, body FROM objects"
        ).fetchall()
        (clock,) = connection.execute("SELECT version FROM clock").fetchone()
    finally:
        connection.execute("COMMIT")
    return rows, max([clock, *(row[3] for row in rows)])


def _stored(row: _Row) -> Stored:
    kind, namespace, name, version, body = row
    return Stored(Key(kind, namespace, name), version, None, bytes(body))
