"""Which sort keys all things have: without it a sorted search would look for those without, each time."""

from __future__ import annotations

import sqlite3
from typing import Final

from gateway.model.json import Pointer
from gateway.store.leaves import ARRAY, path_text
from gateway.store.search_sql import path_condition

_PRESENCE: Final = "SELECT value FROM search_facts WHERE name = 'presence'"
_ALL_HAVE: Final = """
SELECT (
  SELECT count(*) FROM search_rows s INDEXED BY search_rows_by_value
  WHERE {} AND s.position = 0 AND s.value < x'02'
) >= (SELECT count(*) FROM things WHERE policy_id IS NOT NULL)
"""
_HAS_ARRAY: Final = """
SELECT 1 FROM search_rows s INDEXED BY search_rows_by_value WHERE {} AND s.value = ? LIMIT 1
"""
_KEPT_PATHS: Final = 1_000


def has_arrays(connection: sqlite3.Connection, pointer: Pointer) -> bool:
    """True when some thing has an array at or above a pointer: what it holds matches, but orders nothing."""
    for length in range(1, len(pointer) + 1):
        where = path_condition(pointer[:length], "s.path")
        found = connection.execute(_HAS_ARRAY.format(where), (*where.values, ARRAY)).fetchone()
        if found is not None:
            return True
    return False


class Presence:
    """Which paths all things have a value at, as it was found when values last came or went."""

    __slots__ = ("_known", "_state")

    def __init__(self) -> None:
        self._state = ""
        self._known: dict[str, bool] = {}

    def at(self, connection: sqlite3.Connection, pointer: Pointer) -> bool:
        """True when each thing has a value at a pointer that it is sorted by."""
        (state,) = connection.execute(_PRESENCE).fetchone()
        if state != self._state or len(self._known) >= _KEPT_PATHS:
            self._state, self._known = state, {}
        path = path_text(pointer)
        known = self._known
        if path not in known:
            where = path_condition(pointer, "s.path")
            row = connection.execute(_ALL_HAVE.format(where), where.values).fetchone()
            known[path] = bool(row[0])
        return known[path]
