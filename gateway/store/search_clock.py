"""The time that a search may take."""

from __future__ import annotations

import sqlite3
import time
from typing import Final

from gateway.errors import CommandTimeout

_STEPS: Final = 20_000
"""Instructions of SQLite's machine between two looks at the clock."""


class Clock:
    """Stops a connection's statement once the time is over."""

    def __init__(self, connection: sqlite3.Connection, seconds: float) -> None:
        self._connection = connection
        self._until = time.monotonic() + seconds

    def __enter__(self) -> None:
        self._connection.execute("BEGIN")
        self._connection.set_progress_handler(self._is_over, _STEPS)

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._connection.set_progress_handler(None, 0)
        if self._connection.in_transaction:
            self._connection.execute("COMMIT")
        if isinstance(error, sqlite3.OperationalError) and str(error) == "interrupted":
            raise CommandTimeout(
                "The query ran out of its time limit.",
                code="thing-search:query.time.exceeded",
                description="Narrow the filter, or raise the timeout.",
            ) from error

    def _is_over(self) -> bool:
        return time.monotonic() > self._until
