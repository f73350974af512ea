"""Databases written by each older version are brought to the newest one, with what they hold."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest

from gateway.store.database import migrate, migrations

SCHEMAS = ("gateway", "events", "kube", "edge", "relay")
STEPS = [(schema, number) for schema in SCHEMAS for number, _ in migrations(schema)]


def _shape(connection: sqlite3.Connection) -> list[tuple[str, str, str]]:
    rows = connection.execute(
        "SELECT type, name, COALESCE(sql, '') FROM sqlite_master ORDER BY type, name"
    )
    return [tuple(row) for row in rows]


@pytest.mark.parametrize("schema", SCHEMAS)
def test_versions_are_numbered_without_gaps(schema: str) -> None:
    numbers = [number for number, _ in migrations(schema)]
    assert numbers == list(range(1, len(numbers) + 1))


@pytest.mark.parametrize(("schema", "version"), STEPS)
def test_a_database_of_an_older_version_becomes_the_newest(schema: str, version: int) -> None:
    scripts = migrations(schema)
    with closing(sqlite3.connect(":memory:")) as old, closing(sqlite3.connect(":memory:")) as new:
        migrate(old, [step for step in scripts if step[0] <= version])
        assert old.execute("PRAGMA user_version").fetchone() == (version,)
        migrate(old, scripts)
        migrate(new, scripts)
        assert _shape(old) == _shape(new)
        assert old.execute("PRAGMA user_version").fetchone() == (scripts[-1][0],)


@pytest.mark.parametrize("schema", SCHEMAS)
def test_an_upgrade_that_was_done_changes_nothing(schema: str) -> None:
    with closing(sqlite3.connect(":memory:")) as connection:
        migrate(connection, migrations(schema))
        before = _shape(connection)
        migrate(connection, migrations(schema))
        assert _shape(connection) == before
