"""A store in memory: the same SQL without file, thread or sync. What is in it goes with the process."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

from gateway.errors import GatewayError, StoreUnavailable
from gateway.store.database import Database, migrate, migrations

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], T]
PAGES = 64
"""Pages of cache: a thousand of these stores are in one process."""


class MemoryDatabase(Database):
    """Runs each write and read at once, on the loop's thread; answers come a turn later, in order."""

    def __init__(self, schema: str) -> None:
        super().__init__(None, schema)
        self._connection: sqlite3.Connection | None = None

    @property
    def is_open(self) -> bool:
        return self._connection is not None

    @property
    def depth(self) -> int:
        return 0

    @asynccontextmanager
    async def running(
        self,
        *,
        is_examined: bool = False,  # noqa: ARG002  nothing is there to be damaged
    ) -> AsyncIterator[None]:
        connection = sqlite3.connect(":memory:", isolation_level=None, cached_statements=16)
        connection.executescript(f"PRAGMA cache_size={PAGES}; PRAGMA foreign_keys=ON;")
        migrate(connection, migrations(self.schema))
        self._connection = connection
        try:
            yield
        finally:
            self._connection = None
            connection.close()

    def submit(
        self,
        work: Work[T],
        done: Callable[[T | GatewayError], None],
        *,
        grows: bool = False,  # noqa: ARG002  memory is not a disk that fills
    ) -> None:
        result: T | GatewayError
        if self._connection is None:
            result = StoreUnavailable(f"the {self.schema} store is not open")
        else:
            result = _in_transaction(self._connection, work)
        asyncio.get_running_loop().call_soon(done, result)

    async def read(self, work: Work[T]) -> T:
        if self._connection is None:
            raise StoreUnavailable(f"the {self.schema} store is not open")
        return work(self._connection)


def _in_transaction(connection: sqlite3.Connection, work: Work[T]) -> T | GatewayError:
    connection.execute("BEGIN")
    try:
        result = work(connection)
    except GatewayError as error:
        connection.execute("ROLLBACK")
        return error
    except sqlite3.Error as error:
        connection.execute("ROLLBACK")
        return GatewayError(f"store: {error}")
    connection.execute("COMMIT")
    return result
