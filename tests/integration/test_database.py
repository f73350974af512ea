"""The one-writer store: group commit, failures of one item, a full disk, migration."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from pathlib import Path

import pytest

from gateway.errors import Conflict, StoreUnavailable
from gateway.store import database as module
from gateway.store.damage import SchemaTooNew
from gateway.store.database import Database, migrate
from gateway.store.disk import Disk


@pytest.fixture(autouse=True)
def _small_schema(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        module,
        "migrations",
        lambda _schema: [(1, "CREATE TABLE t (k INTEGER PRIMARY KEY, v TEXT)")],
    )


def _put(key: int, value: str) -> module.Work[int]:
    def work(db: sqlite3.Connection) -> int:
        db.execute("INSERT INTO t VALUES (?, ?)", (key, value))
        return key

    return work


def _refuse(db: sqlite3.Connection) -> None:
    db.execute("INSERT INTO t VALUES (99, 'undone')")
    raise Conflict("no")


def _all(db: sqlite3.Connection) -> list[int]:
    return [k for (k,) in db.execute("SELECT k FROM t ORDER BY k")]


async def test_what_was_acknowledged_is_there_after_opening_again(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    first = Database(path, "x")
    async with first.running():
        assert await asyncio.gather(*(first.write(_put(n, "v")) for n in range(200))) == list(
            range(200)
        )
    second = Database(path, "x")
    async with second.running():
        assert await second.read(_all) == list(range(200))


async def test_an_item_that_fails_undoes_itself_alone() -> None:
    db = Database(None, "x")
    async with db.running():
        results = await asyncio.gather(
            db.write(_put(1, "a")),
            db.write(_refuse),
            db.write(_put(2, "b")),
            return_exceptions=True,
        )
        assert isinstance(results[1], Conflict)
        assert await db.read(_all) == [1, 2]


async def test_a_reader_cannot_write() -> None:
    db = Database(None, "x")
    async with db.running():
        with pytest.raises(StoreUnavailable, match="cannot read"):
            await db.read(_put(1, "a"))


async def test_a_full_disk_answers_503_and_mends_itself() -> None:
    db = Database(None, "x")
    async with db.running():
        (pages,) = await db.write(lambda c: c.execute("PRAGMA page_count").fetchone())
        await db.write(lambda c: c.execute(f"PRAGMA max_page_count={pages + 2}").fetchone())
        with pytest.raises(StoreUnavailable, match="full"):
            await db.write(_put(1, "x" * 100_000))
        assert await db.read(_all) == []
        await db.write(lambda c: c.execute("PRAGMA max_page_count=100000").fetchone())
        await db.write(_put(1, "x" * 100_000))
        assert await db.read(_all) == [1]


async def test_below_the_floor_of_free_bytes_only_what_grows_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    database = Database(None, "events", min_free=1)
    async with database.running():
        assert await database.write(lambda one: one.total_changes, grows=True) == 0
        monkeypatch.setattr(Disk, "is_tight", property(lambda _: True))
        with pytest.raises(StoreUnavailable, match="nearly full"):
            await database.write(lambda one: one.total_changes, grows=True)
        assert await database.write(lambda one: one.total_changes) == 0
        monkeypatch.undo()
        assert await database.write(lambda one: one.total_changes, grows=True) == 0


async def test_a_full_queue_refuses() -> None:
    db = Database(None, "x", max_queue=1)
    answers: list[object] = []
    async with db.running():
        for n in range(50):
            db.submit(_put(n, "v"), answers.append)
    assert len(answers) == 50
    assert any(isinstance(a, StoreUnavailable) for a in answers)
    assert any(isinstance(a, int) for a in answers)


async def test_a_write_that_comes_while_the_store_closes_is_answered() -> None:
    db = Database(None, "x")
    written = asyncio.Event()
    began, gate = threading.Event(), threading.Event()

    def hold_up(_: sqlite3.Connection) -> bool:
        began.set()
        return gate.wait(5)

    async def close() -> None:
        async with db.running():
            db.submit(hold_up, lambda _: written.set())

    closing = asyncio.create_task(close())
    await asyncio.to_thread(began.wait, 5)
    late: list[object] = []
    db.submit(_put(1, "late"), late.append)
    gate.set()
    await closing
    assert written.is_set()
    assert [type(answer) for answer in late] == [StoreUnavailable]


async def test_one_answer_that_is_not_taken_does_not_lose_the_others() -> None:
    db = Database(None, "x")
    answers: list[object] = []

    def broken(_result: object) -> None:
        raise RuntimeError("nobody is at home")

    async with db.running():
        db.submit(_put(1, "a"), broken)
        db.submit(_put(2, "b"), answers.append)
    assert answers == [2]


async def test_a_closed_store_refuses() -> None:
    db = Database(None, "x")
    with pytest.raises(StoreUnavailable, match="not open"):
        await db.write(_put(1, "a"))


def test_a_newer_file_is_left_alone() -> None:
    connection = sqlite3.connect(":memory:")
    connection.execute("PRAGMA user_version=7")
    with pytest.raises(SchemaTooNew):
        migrate(connection, [(1, "CREATE TABLE t (k)")])
    connection.close()
