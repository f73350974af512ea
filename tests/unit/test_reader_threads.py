"""Threads that read: answers, errors and refusals reach who asked, and nobody else."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator

import pytest

from gateway.errors import StoreUnavailable
from gateway.store.reader_threads import ReaderThreads


@pytest.fixture
def opened() -> list[sqlite3.Connection]:
    return []


@pytest.fixture
async def readers(opened: list[sqlite3.Connection]) -> AsyncIterator[ReaderThreads]:
    def connect() -> sqlite3.Connection:
        opened.append(sqlite3.connect(":memory:", check_same_thread=False))
        return opened[-1]

    made = ReaderThreads("reader", connect, threads=2, limit=3)
    yield made
    made.stop()


def number(connection: sqlite3.Connection) -> int:
    found: int = connection.execute("SELECT 7").fetchone()[0]
    return found


async def test_reads_answer_and_raise(readers: ReaderThreads) -> None:
    assert await asyncio.gather(*(readers.read(number) for _ in range(3))) == [7, 7, 7]
    with pytest.raises(sqlite3.OperationalError, match="no such table"):
        await readers.read(lambda one: one.execute("SELECT * FROM nowhere"))
    assert await readers.read(number) == 7


async def test_no_connection_is_opened_before_somebody_reads(
    readers: ReaderThreads, opened: list[sqlite3.Connection]
) -> None:
    assert opened == []
    await readers.read(number)
    assert len(opened) == 1


async def test_what_is_too_much_is_refused_and_the_rest_goes_on(readers: ReaderThreads) -> None:
    gate, busy = threading.Event(), threading.Barrier(3)

    def held(connection: sqlite3.Connection) -> int:
        busy.wait()
        gate.wait()
        return number(connection)

    running = [asyncio.create_task(readers.read(held)) for _ in range(2)]
    await asyncio.get_running_loop().run_in_executor(None, busy.wait)
    waiting = [asyncio.create_task(readers.read(number)) for _ in range(3)]
    await asyncio.sleep(0)
    with pytest.raises(StoreUnavailable):
        await readers.read(number)
    waiting[0].cancel()
    gate.set()
    assert await asyncio.gather(*running, *waiting[1:]) == [7, 7, 7, 7]
    assert waiting[0].cancelled()


async def test_stopping_finishes_what_waits_and_closes_connections(
    readers: ReaderThreads, opened: list[sqlite3.Connection]
) -> None:
    last = [asyncio.create_task(readers.read(number)) for _ in range(3)]
    await asyncio.sleep(0)
    await asyncio.get_running_loop().run_in_executor(None, readers.stop)
    assert await asyncio.gather(*last) == [7, 7, 7]
    for connection in opened:
        with pytest.raises(sqlite3.ProgrammingError, match="closed"):
            connection.execute("SELECT 1")
