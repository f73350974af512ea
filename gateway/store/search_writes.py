"""The search index kept with the things: made on the caller's thread, run in the thing's own transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from functools import lru_cache
from operator import itemgetter
from typing import Final

import msgspec

from gateway.model.json import JsonObject
from gateway.model.policy import PolicyEvent
from gateway.model.thing import ThingEvent
from gateway.store.leaves import Changes, Key, TooWide, changes, rows_of
from gateway.store.policy_rights import Signer, adopt_roots
from gateway.twin.policy_roots import Root

_FIND_PATH: Final = "SELECT id FROM search_paths WHERE path = ?"
_ADD_PATH: Final = "INSERT INTO search_paths (path, pattern) VALUES (?, ?)"
_UPDATE: Final = "UPDATE search_rows SET value = ? WHERE thing_id = ? AND path = ? AND position = ?"
_DELETE: Final = "DELETE FROM search_rows WHERE thing_id = ? AND path = ? AND position = ?"
_INSERT: Final = """
INSERT OR REPLACE INTO search_rows (thing_id, path, position, value) VALUES (?, ?, ?, ?)
"""
_CLEAR: Final = "DELETE FROM search_rows WHERE thing_id = ?"
_PRESENCE: Final = "UPDATE search_facts SET value = value + 1 WHERE name = 'presence'"
_IS_WIDE: Final = "SELECT 1 FROM search_wide WHERE thing_id = ?"
_MARK_WIDE: Final = "INSERT OR REPLACE INTO search_wide (thing_id, is_waiting) VALUES (?, 0)"
_UNMARK: Final = "DELETE FROM search_wide WHERE thing_id = ?"
_WAITING: Final = """
SELECT things.thing_id, things.document FROM search_wide JOIN things USING (thing_id)
WHERE search_wide.is_waiting = 1 LIMIT ?
"""

_decode = msgspec.json.Decoder().decode


class Paths:
    """The numbers of paths: those known to be stored, and those met in a transaction that may yet fail.

    `met` belongs to the writer's thread until its transaction is committed.
    """

    __slots__ = ("known", "met")

    def __init__(self, known: Mapping[str, int]) -> None:
        self.known = known
        self.met: dict[str, int] = {}

    def number(self, connection: sqlite3.Connection, path: str) -> int:
        """The number of a path, given now if it has none."""
        found = self.known.get(path) or self.met.get(path)
        if found is None:
            row = connection.execute(_FIND_PATH, (path,)).fetchone()
            if row is None:
                found = connection.execute(_ADD_PATH, (path, pattern_of(path))).lastrowid or 0
            else:
                found = int(row[0])
            self.met[path] = found
        return found


class ThingIndexing:
    """What an event does to the index."""

    __slots__ = ("_changes", "_document", "_thing_id", "paths")

    def __init__(self, event: ThingEvent, known: Mapping[str, int]) -> None:
        self.paths = Paths(known)
        self._thing_id = event.thing_id
        self._document = None if event.after is None else event.after.document
        self._changes: Changes | None = None
        if event.before is None or event.after is None:
            return
        try:
            self._changes = changes(event.before.document, event.after.document, event.path)
        except TooWide:
            self._changes = None

    def run(self, connection: sqlite3.Connection) -> None:
        """Write the rows."""
        if self._document is None:
            connection.execute(_CLEAR, (self._thing_id,))
            connection.execute(_UNMARK, (self._thing_id,))
            connection.execute(_PRESENCE)
        elif self._changes is None or not self._apply(connection, self._changes):
            index_whole(connection, self._thing_id, self._document, self.paths)

    def _apply(self, connection: sqlite3.Connection, wanted: Changes) -> bool:
        """Write a difference; False when the thing has no rows to change."""
        thing_id, number = self._thing_id, self.paths.number
        if (wanted.added or wanted.dropped) and _is_wide(connection, thing_id):
            return False
        if not wanted.is_same_shape:
            connection.execute(_PRESENCE)
        for value, path, position in wanted.kept:
            place = (value, thing_id, number(connection, path), position)
            if connection.execute(_UPDATE, place).rowcount != 1:
                return False
        for path, position in wanted.dropped:
            connection.execute(_DELETE, (thing_id, number(connection, path), position))
        for path, position, value in wanted.added:
            connection.execute(_INSERT, (thing_id, number(connection, path), position, value))
        return True


def _is_wide(connection: sqlite3.Connection, thing_id: str) -> bool:
    return connection.execute(_IS_WIDE, (thing_id,)).fetchone() is not None


def index_whole(
    connection: sqlite3.Connection, thing_id: str, document: JsonObject, paths: Paths
) -> None:
    """Write all rows of a thing anew; one that does not fit is marked."""
    connection.execute(_CLEAR, (thing_id,))
    connection.execute(_PRESENCE)
    try:
        rows = rows_of(document)
    except TooWide:
        connection.execute(_MARK_WIDE, (thing_id,))
        return
    connection.execute(_UNMARK, (thing_id,))
    numbered: list[tuple[str, int, int, Key]] = [
        (thing_id, paths.number(connection, path), position, value)
        for (path, position), value in rows.items()
    ]
    numbered.sort(key=itemgetter(1, 2))
    connection.executemany(_INSERT, numbered)


@lru_cache(maxsize=4_096)
def pattern_of(path: str) -> str | None:
    """The path with `*` for its feature, None where it is in none."""
    parts = path.split("/", 3)
    if parts[1] != "features" or len(parts) < 3:
        return None
    return "/".join(["", "features", "*", *parts[3:]])


class PolicyIndexing:
    """What a policy's event does to the readers; `has_stale` says that dependent policies wait."""

    __slots__ = ("_document", "_policy_id", "_roots", "has_stale")

    def __init__(self, event: PolicyEvent, roots: Sequence[Root]) -> None:
        self._policy_id = event.policy_id
        self._document = event.after.document if event.after else None
        self._roots = roots
        self.has_stale = False

    def run(self, connection: sqlite3.Connection) -> None:
        """Write the readers; the policy's own row is written."""
        signer = Signer(connection, self._roots)
        self.has_stale = signer.stored(self._policy_id, self._document)


def catch_up(connection: sqlite3.Connection, limit: int, roots: Sequence[Root]) -> int:
    """Index some things stored without an index, and sign some policies that are stale; how many."""
    paths = Paths({})
    waiting = connection.execute(_WAITING, (limit,)).fetchall()
    for thing_id, document in waiting:
        index_whole(connection, thing_id, _decode(document), paths)
    adopted = adopt_roots(connection, roots)
    return len(waiting) + Signer(connection, roots).resign(limit) + adopted
