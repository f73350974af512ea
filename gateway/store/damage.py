"""Is this file a sound database of ours? Asked before it is opened for writing, and answered by name.

The file is opened read-only, so that one which is not sound stays as it was found, its `-wal` with it. What
is done about it is for the owner of the store: an edge puts the file aside and asks its cloud again; a cloud
has nobody to ask and does not start.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from gateway.errors import GatewayError, StoreUnavailable
from gateway.store.search_sql import add_functions

BUSY_SECONDS = 5.0
_CORRUPT = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_FOREIGN = (*_CORRUPT, sqlite3.SQLITE_ERROR)
"""What opening a sound file of ours never says: broken, or with tables that a step of the schema makes."""


class StoreDamaged(GatewayError):
    """The file is not, or no more, a sound database of this schema; it was left as it is."""

    code = "store.damaged"
    default_message = "the store is damaged"


class SchemaTooNew(StoreDamaged):
    """The file was written by a newer Twinspan; going on would damage it."""

    code = "store.newer"
    default_description = "Run the newer Twinspan again, or give another data directory."


def is_corrupt(error: sqlite3.Error) -> bool:
    """True when SQLite says that the file itself is broken, not the disk, the statement or a lock."""
    return _code(error) in _CORRUPT


def _code(error: sqlite3.Error) -> int:
    found: int = getattr(error, "sqlite_errorcode", 0)  # none where Python itself raised
    return found & 0xFF


def opening_failed(path: Path, schema: str, error: sqlite3.Error) -> GatewayError:
    """Return what to tell of a file that could not be opened."""
    if _code(error) in _FOREIGN:
        return damaged(path, schema, str(error))
    return StoreUnavailable(f"the {schema} store {path} cannot be opened: {error}")


def damaged(path: Path, schema: str, cause: str) -> StoreDamaged:
    """Return what to tell of a file that is not sound."""
    return StoreDamaged(
        f"the {schema} store {path} is damaged: {cause}",
        description=f"Put back {path.name} from a backup, or move it away (with {path.name}-wal) to start"
        " with an empty store. Nothing was changed.",
    )


Build = Callable[[sqlite3.Connection, int], None]
"""Brings an empty database to a version of the schema; raises SchemaTooNew for one ahead of it."""


def examine(path: Path, schema: str, build: Build, *, seconds: float) -> None:
    """Look at the file before anybody writes to it. Blocks.

    Shape:  no file is a sound one. All pages are read for at most `seconds`; what was not read by then is
            taken for sound, and tells when it is used.
    Errors: StoreDamaged; SchemaTooNew.
    """
    if not path.exists():
        return
    try:
        if path.stat().st_size == 0 and not _has_content(path.with_name(f"{path.name}-wal")):
            raise damaged(path, schema, "the file is empty")
        with closing(_open(path)) as found:
            _check_tables(found, path, schema, build)
            _check_pages(found, path, schema, seconds)
    except sqlite3.Error as error:
        raise opening_failed(path, schema, error) from error


def _has_content(path: Path) -> bool:
    return path.exists() and path.stat().st_size > 0


def _open(path: Path) -> sqlite3.Connection:
    uri = f"{path.absolute().as_uri()}?mode=ro"
    found = sqlite3.connect(uri, uri=True, timeout=BUSY_SECONDS, check_same_thread=False)
    add_functions(found)
    return found


def _check_tables(found: sqlite3.Connection, path: Path, schema: str, build: Build) -> None:
    """See that the file has the tables and columns that its version says."""
    (version,) = found.execute("PRAGMA user_version").fetchone()
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as model:
        add_functions(model)
        build(model, version)
        wanted, there = _columns(model), _columns(found)
    missing = wanted - there
    if missing:
        table, column = min(missing)
        raise damaged(path, schema, f"version {version} has {table}.{column}, the file has not")
    if version == 0 and there:
        raise damaged(path, schema, "it has tables and no version")


def _columns(connection: sqlite3.Connection) -> set[tuple[str, str]]:
    return set(
        connection.execute(
            "SELECT t.name, c.name FROM sqlite_schema AS t, pragma_table_info(t.name) AS c"
            " WHERE t.type = 'table' AND t.name NOT LIKE 'sqlite_%'"
        )
    )


def _check_pages(found: sqlite3.Connection, path: Path, schema: str, seconds: float) -> None:
    try:
        with _interrupted_after(found, seconds):
            (said,) = found.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.OperationalError as error:
        if _code(error) == sqlite3.SQLITE_INTERRUPT:
            return
        raise
    if said not in ("ok", "interrupted"):
        raise damaged(path, schema, str(said).replace("\n", "; "))


@contextmanager
def _interrupted_after(connection: sqlite3.Connection, seconds: float) -> Iterator[None]:
    timer = threading.Timer(seconds, connection.interrupt)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
