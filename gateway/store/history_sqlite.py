"""How the past gets shorter: which events may go, and giving back the space they took.

An event may go once a kept state after it (a snapshot, or a deletion) is itself past the retention: whatever
lies within it is rebuilt from that state. So of each entity the events that stay are the last ones without a
gap, at every moment; and a crash between two steps leaves a few events too many, never one too few.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from gateway.store.things import Keep

FREE_SHARE: Final = 0.1
"""The part of a file that may be free: new events soon take it again."""
FREE_PAGES: Final = 1_024


@dataclass(frozen=True, slots=True)
class Past:
    """Where events of one kind of entity are."""

    events: str
    key: str
    entities: str


OF_THINGS: Final = Past("thing_events", "thing_id", "things")
OF_POLICIES: Final = Past("policy_events", "policy_id", "policies")

_LOOK: Final = """
SELECT sequence, {key}, revision, timestamp, action = 'deleted' AND path = '/' FROM {events}
WHERE sequence > ? ORDER BY sequence LIMIT ?
"""
_NEXT_BASE: Final = """
SELECT revision, timestamp FROM {events}
WHERE {key} = ? AND revision > ? AND (snapshot IS NOT NULL OR action = 'deleted' AND path = '/')
ORDER BY revision LIMIT 1
"""
_NEWEST: Final = "SELECT revision FROM {entities} WHERE {key} = ?"


@dataclass(frozen=True, slots=True)
class Look:
    """Sequences of events that may go, and where to go on; None at the end."""

    sequences: list[int]
    after: int | None


def look(connection: sqlite3.Connection, past: Past, keep: Keep, after: int, limit: int) -> Look:
    """Look at some events for those that may go; reads only."""
    rows = connection.execute(_sql(_LOOK, past), (after, limit)).fetchall()
    looked = _Looker(connection, past, keep)
    gone = [row[0] for row in rows if looked.may_go(*row[1:])]
    is_end = len(rows) < limit or (not keep.revisions and rows[-1][3] >= keep.since)
    return Look(gone, None if is_end else rows[-1][0])


class _Looker:
    """Judges events one after the other; remembers what it asked of each entity."""

    def __init__(self, connection: sqlite3.Connection, past: Past, keep: Keep) -> None:
        self._connection = connection
        self._past = past
        self._keep = keep
        self._bases: dict[str, tuple[int, bool]] = {}
        self._newest: dict[str, int] = {}

    def may_go(self, entity: str, revision: int, timestamp: str, is_deletion: int) -> bool:
        """True when no state that is kept needs this event."""
        if is_deletion and timestamp < self._keep.since:
            return True  # what comes later begins anew, and until then there was nothing
        base, is_past = self._bases.get(entity, (0, False))
        if base <= revision:
            base, is_past = self._next_base(entity, revision)
            self._bases[entity] = base, is_past
        return is_past

    def _next_base(self, entity: str, revision: int) -> tuple[int, bool]:
        """The next kept state after a revision, and whether all states before it are past the retention."""
        row = self._connection.execute(_sql(_NEXT_BASE, self._past), (entity, revision)).fetchone()
        if row is None:
            return 2**62, False
        is_past = row[1] < self._keep.since
        if self._keep.revisions and not is_past:
            is_past = row[0] <= self._revision(entity) - self._keep.revisions + 1
        return row[0], is_past

    def _revision(self, entity: str) -> int:
        if entity not in self._newest:
            row = self._connection.execute(_sql(_NEWEST, self._past), (entity,)).fetchone()
            self._newest[entity] = row[0] if row else 0
        return self._newest[entity]


def drop(connection: sqlite3.Connection, past: Past, sequences: Sequence[int]) -> int:
    """Delete events; the newest row of all stays, so that sequences never start again."""
    cursor = connection.executemany(
        f"DELETE FROM {past.events} WHERE sequence = ?"  # noqa: S608
        f" AND sequence < (SELECT MAX(sequence) FROM {past.events})",
        [(one,) for one in sequences],
    )
    return cursor.rowcount


def give_back(connection: sqlite3.Connection, pages: int) -> int:
    """Give free pages back to the file system, while more are free than soon will be used; returns how many.

    Shape:  0 also for a file that was made without the means for it.
    """
    (mode,) = connection.execute("PRAGMA auto_vacuum").fetchone()
    (free,) = connection.execute("PRAGMA freelist_count").fetchone()
    (whole,) = connection.execute("PRAGMA page_count").fetchone()
    most: int = min(pages, free - max(FREE_PAGES, int(whole * FREE_SHARE)))
    if mode != _INCREMENTAL or most <= 0:
        return 0
    for _ in range(most):
        connection.execute("PRAGMA incremental_vacuum(1)")  # one step of it moves one page
    return most


_INCREMENTAL: Final = 2


def _sql(text: str, past: Past) -> str:
    names: dict[str, Any] = {"events": past.events, "key": past.key, "entities": past.entities}
    return text.format(**names)
