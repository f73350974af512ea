"""What happens to database files: cards that wear out, power that goes, the wrong version put back."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

SCHEMAS = ("gateway", "events", "kube", "edge", "relay")
PAGE = 4_096


def garbage_header(path: Path) -> None:
    """Write over the first bytes, which say that it is a database."""
    _overwrite(path, 0, 100)


def garbage_pages(path: Path) -> None:
    """Write over all pages but the first."""
    _overwrite(path, PAGE, path.stat().st_size)


def truncated(path: Path) -> None:
    """Cut off the second half."""
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // PAGE // 2 * PAGE)


def empty(path: Path) -> None:
    """Leave the name alone."""
    path.write_bytes(b"")


def _overwrite(path: Path, start: int, end: int) -> None:
    with path.open("r+b") as file:
        file.seek(start)
        file.write(b"\xa5" * (end - start))


def with_statement(sql: str) -> Callable[[Path], None]:
    """Run one statement on the file."""

    def change(path: Path) -> None:
        with closing(sqlite3.connect(path, isolation_level=None)) as db:
            db.execute(sql)

    return change


def without_a_table(path: Path) -> None:
    """Take away one table."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        name = db.execute(
            "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
            " ORDER BY name DESC"
        ).fetchone()[0]
        db.execute("PRAGMA foreign_keys=OFF")
        db.execute(f'DROP TABLE "{name}"')


DAMAGES: dict[str, Callable[[Path], None]] = {
    "garbage header": garbage_header,
    "garbage pages": garbage_pages,
    "truncated": truncated,
    "empty": empty,
    "newer version": with_statement("PRAGMA user_version=999"),
    "no version": with_statement("PRAGMA user_version=0"),
    "a table is missing": without_a_table,
}
