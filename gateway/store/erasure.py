"""Erasing a namespace: its things and policies with all that was ever kept of them, a few at a time.

What an event would do to the search index when its entity goes is done here too, by the same code.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Final

from gateway.model.policy import PolicyEvent
from gateway.model.thing import EventAction, ThingEvent
from gateway.store.search_writes import PolicyIndexing, ThingIndexing
from gateway.twin.policy_roots import Root

# All IDs of a namespace stand between `<namespace>:` and `<namespace>;`, the next character.
_THINGS: Final = "SELECT thing_id FROM things WHERE thing_id >= ? AND thing_id < ? LIMIT ?"
_POLICIES: Final = "SELECT policy_id FROM policies WHERE policy_id >= ? AND policy_id < ? LIMIT ?"
_THING_PARTS: Final = (
    "DELETE FROM thing_events WHERE thing_id = ?",
    "DELETE FROM things WHERE thing_id = ?",
)
_POLICY_PARTS: Final = (
    "DELETE FROM policy_events WHERE policy_id = ?",
    "DELETE FROM policies WHERE policy_id = ?",
)
_OLD_MARKS: Final = """
DELETE FROM thing_events WHERE thing_id = '' AND sequence < (SELECT MAX(sequence) FROM thing_events)
"""
_KEEP_LAST: Final = """
UPDATE thing_events SET
  thing_id = '', revision = sequence, action = 'deleted', path = '/', value = NULL, facts = '{}',
  snapshot = NULL
WHERE thing_id = ? AND sequence = (SELECT MAX(sequence) FROM thing_events)
"""


def erase(connection: sqlite3.Connection, namespace: str, limit: int, roots: Sequence[Root]) -> int:
    """Delete up to `limit` things and as many policies; returns how many entities went, 0 at the end.

    Shape:  the newest event of all loses what it told, but keeps its number: sequences never start again.
    """
    bounds = (f"{namespace}:", f"{namespace};", limit)
    things = [str(row[0]) for row in connection.execute(_THINGS, bounds)]
    policies = [str(row[0]) for row in connection.execute(_POLICIES, bounds)]
    for thing_id in things:
        _erase_thing(connection, thing_id)
    for policy_id in policies:
        _erase_policy(connection, policy_id, roots)
    connection.execute(_OLD_MARKS)
    return len(things) + len(policies)


def _erase_thing(connection: sqlite3.Connection, thing_id: str) -> None:
    gone = ThingEvent(
        thing_id=thing_id,
        action=EventAction.DELETED,
        path=(),
        revision=0,
        timestamp="",
        after=None,
    )
    connection.execute(_KEEP_LAST, (thing_id,))
    for statement in _THING_PARTS:
        connection.execute(statement, (thing_id,))
    ThingIndexing(gone, {}).run(connection)


def _erase_policy(connection: sqlite3.Connection, policy_id: str, roots: Sequence[Root]) -> None:
    gone = PolicyEvent(
        policy_id=policy_id,
        action=EventAction.DELETED,
        path=(),
        revision=0,
        timestamp="",
        after=None,
    )
    for statement in _POLICY_PARTS:
        connection.execute(statement, (policy_id,))
    PolicyIndexing(gone, roots).run(connection)
