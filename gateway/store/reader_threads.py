"""Threads that read, each on a connection of its own: between them and the loop is one queue and one call.

A thread pool of the standard library hands a result through three futures and two locks, which costs more
than most reads.
"""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from gateway.errors import StoreUnavailable

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], T]
_Item = tuple[Work[Any], "asyncio.Future[Any]"]


class ReaderThreads:
    """Runs reads in the order they come, as many at a time as there are threads.

    Shape:  `connect` opens a connection; the first reads start a thread each, until there are `threads`. At
            most `limit` reads wait; more are refused.
    """

    def __init__(
        self, name: str, connect: Callable[[], sqlite3.Connection], *, threads: int, limit: int
    ) -> None:
        self._name = name
        self._connect = connect
        self._most = threads
        self._limit = limit
        self._loop = asyncio.get_running_loop()
        self._queue: queue.SimpleQueue[_Item | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []

    @property
    def depth(self) -> int:
        """How many reads wait for a thread."""
        return self._queue.qsize()

    def stop(self) -> None:
        """Finish what waits, then end; blocks."""
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join()

    async def read(self, work: Work[T]) -> T:
        """Run a read and return its result, or raise what it raised.

        Errors: StoreUnavailable when too many wait.
        """
        if self._queue.qsize() >= self._limit:
            raise StoreUnavailable(f"more than {self._limit} reads wait")
        future: asyncio.Future[T] = self._loop.create_future()
        self._queue.put((work, future))
        if len(self._threads) < self._most:
            self._start()
        return await future

    def _start(self) -> None:
        name = f"{self._name}-{len(self._threads)}"
        thread = threading.Thread(target=self._serve, name=name)
        self._threads.append(thread)
        thread.start()

    def _serve(self) -> None:
        connection: sqlite3.Connection | None = None
        while (item := self._queue.get()) is not None:
            work, future = item
            if future.cancelled():
                continue
            answer, error = None, None
            try:
                connection = connection or self._connect()
                answer = work(connection)
            except Exception as raised:  # noqa: BLE001  who asked is told
                error = raised
            self._loop.call_soon_threadsafe(_tell, future, answer, error)
            del item, work, future, answer, error
        if connection is not None:
            connection.close()


def _tell(future: asyncio.Future[Any], answer: object, error: Exception | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(answer)
    else:
        future.set_exception(error)
