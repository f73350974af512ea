"""What searches find out before they search, kept on each connection until somebody writes.

Who reads under which policies, and whether some things need a closer look, is the same for one search after
another: SQLite's own version of the data says how long.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Hashable
from typing import Any, Final, TypeVar

T = TypeVar("T")

_MAX_KEPT: Final = 1_000


class Memory:
    """Answers of one connection; all are forgotten with the first commit of another one."""

    __slots__ = ("_known", "_version")

    def __init__(self) -> None:
        self._version = -1
        self._known: dict[Hashable, Any] = {}

    def refresh(self, connection: sqlite3.Connection) -> None:
        """Forget what may not be true any more; inside a transaction it is its snapshot that counts."""
        (version,) = connection.execute("PRAGMA data_version").fetchone()
        if version != self._version or len(self._known) > _MAX_KEPT:
            self._version, self._known = version, {}

    def once(self, key: Hashable, find: Callable[[], T]) -> T:
        """What `find` said of a key, asked once."""
        known = self._known
        if key not in known:
            known[key] = find()
        found: T = known[key]
        return found
