"""What searches remember of a connection is true of the snapshot that they read."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from itertools import count
from pathlib import Path

import pytest

from gateway.store.search_memory import Memory

Two = tuple[sqlite3.Connection, sqlite3.Connection]


@pytest.fixture
def two(tmp_path: Path) -> Iterator[Two]:
    """A reader and a writer of one database."""
    path = tmp_path / "memory.db"
    with (
        closing(sqlite3.connect(path, isolation_level=None)) as reader,
        closing(sqlite3.connect(path, isolation_level=None)) as writer,
    ):
        writer.executescript("PRAGMA journal_mode=WAL; CREATE TABLE facts (number INTEGER);")
        yield reader, writer


def numbers(reader: sqlite3.Connection) -> int:
    found: int = reader.execute("SELECT count(*) FROM facts").fetchone()[0]
    return found


def test_what_is_known_is_not_asked_again_until_somebody_writes(two: Two) -> None:
    reader, writer = two
    memory, asked = Memory(), count(1)
    for _ in range(3):
        memory.refresh(reader)
        assert memory.once("asked", lambda: next(asked)) == 1
    writer.execute("INSERT INTO facts VALUES (1)")
    memory.refresh(reader)
    assert memory.once("asked", lambda: next(asked)) == 2


def test_a_transaction_goes_on_with_its_snapshot(two: Two) -> None:
    reader, writer = two
    memory = Memory()
    reader.execute("BEGIN")
    memory.refresh(reader)
    writer.execute("INSERT INTO facts VALUES (1)")
    assert memory.once("numbers", lambda: numbers(reader)) == 0
    memory.refresh(reader)
    assert memory.once("numbers", lambda: numbers(reader)) == 0
    reader.execute("COMMIT")
    memory.refresh(reader)
    assert memory.once("numbers", lambda: numbers(reader)) == 1


def test_it_does_not_grow_without_end(two: Two) -> None:
    reader, _ = two
    memory, asked = Memory(), count(1)
    memory.refresh(reader)
    assert memory.once("first", lambda: next(asked)) == 1
    for number in range(1_001):
        memory.once(number, lambda: 0)
    memory.refresh(reader)
    assert memory.once("first", lambda: next(asked)) == 2
