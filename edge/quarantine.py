"""What an edge does with a database that is not sound: put it aside, keep it, begin anew.

An edge has nobody beside it who could mend a file, and a cloud that has all of it but what was still to be
sent. So the file goes aside with its log, a fresh store takes its place, and the cloud, which sees a store
that it does not know, sends everything again. The node's name, certificate and key are not in this file.
What waited for the cloud is lost to it: how much, as far as the old file still tells, is counted as loss and
told by `twinspan edge status`.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NoReturn

from edge.clock import now_ms, rfc3339
from gateway.observe.metrics import Metrics
from gateway.store.damage import StoreDamaged
from gateway.store.database import Database

log = logging.getLogger(__name__)

CORRUPT = "corrupt"
"""The cause under which lost messages are counted."""
KEEP = 3
"""Files put aside that are kept; older ones go, so that a dying disk does not fill itself."""
FACT = "set_aside"
"""The row of `identity` that holds the last case."""
EXAMINE_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class SetAside:
    """A file that was put aside.

    Shape:  `file` is its path; `messages`, and `reports` of twins, that waited in it, None where that
            could not be read; `losses` that it had counted before, by cause.
    Units:  `at` is RFC 3339.
    """

    file: str
    at: str
    cause: str
    messages: int | None
    reports: int | None
    losses: dict[str, int]


async def put_aside_if_damaged(database: Database) -> SetAside | None:
    """Look at the store before it is opened; put aside what is not sound.

    Errors: StoreUnavailable when it cannot be opened for another reason; OSError when it cannot be moved.
    """
    path = database.path
    if path is None or not path.exists():
        return None
    try:
        _raise_what_was_marked(path)
        await database.examine(EXAMINE_SECONDS)
    except StoreDamaged as damage:
        found = await asyncio.to_thread(_put_aside, path, damage)
    else:
        return None
    facts = {"file": found.file, "cause": found.cause, "messages": found.messages}
    log.error("store put aside", extra=facts)
    return found


async def until_damaged(database: Database) -> NoReturn:
    """Wait for the open file to break; a part that can only say 503 must not look alive.

    Errors: StoreDamaged, once word is left for the next start.
    """
    broken: asyncio.Future[StoreDamaged] = asyncio.get_running_loop().create_future()

    def tell(damage: StoreDamaged) -> None:
        if not broken.done():
            broken.set_result(damage)

    database.on_damage = tell
    damage = await broken
    if database.path is not None:
        await asyncio.to_thread(_leave_word, database.path, damage)
    raise StoreDamaged(damage.message, description="EdgeCore puts it aside at its next start.")


def counted(metrics: Metrics) -> Callable[[SetAside], None]:
    """Return what counts a case in the metrics."""

    def count(found: SetAside) -> None:
        metrics.edge.stores_set_aside.inc()
        metrics.edge_loss.labels(CORRUPT).inc(found.messages or 0)

    return count


def remember(found: SetAside | None, connection: sqlite3.Connection) -> SetAside | None:
    """Write into the new store what became of the old one; return the last case.

    Shape:  on the writer's connection.
    """
    if found is not None:
        _note(connection, found)
    row = connection.execute("SELECT value FROM identity WHERE name = ?", (FACT,)).fetchone()
    return None if row is None else SetAside(**json.loads(row[0]))


def _note(connection: sqlite3.Connection, found: SetAside) -> None:
    connection.execute(
        "INSERT OR REPLACE INTO identity (name, value) VALUES (?, ?)",
        (FACT, json.dumps(asdict(found))),
    )
    losses = dict(found.losses)
    if found.messages:
        losses[CORRUPT] = losses.get(CORRUPT, 0) + found.messages
    connection.executemany(
        "INSERT INTO loss (cause, messages) VALUES (?, ?)"
        " ON CONFLICT (cause) DO UPDATE SET messages = messages + excluded.messages",
        list(losses.items()),
    )


# --- files ---------------------------------------------------------------------------------------


def _mark(path: Path) -> Path:
    return path.with_name(f"{path.name}-is-damaged")


def _leave_word(path: Path, damage: StoreDamaged) -> None:
    with contextlib.suppress(OSError):  # then the next start finds it, or this comes again
        _mark(path).write_text(damage.message, "utf-8")


def _raise_what_was_marked(path: Path) -> None:
    if _mark(path).exists():
        raise StoreDamaged(_mark(path).read_text("utf-8"))


def _put_aside(path: Path, damage: StoreDamaged) -> SetAside:
    messages, reports, losses = _what_waited(path)
    at = now_ms()
    aside = _free_name(path, at)
    for ending in ("-wal", ""):  # the database itself last: until it is gone this can begin again
        with contextlib.suppress(FileNotFoundError):
            path.with_name(path.name + ending).rename(aside.with_name(aside.name + ending))
    path.with_name(f"{path.name}-shm").unlink(missing_ok=True)
    _mark(path).unlink(missing_ok=True)
    _drop_old(path)
    return SetAside(str(aside), rfc3339(at), damage.message, messages, reports, losses)


def _free_name(path: Path, at: int) -> Path:
    names = (path.with_name(f"{path.name}.damaged-{number}") for number in itertools.count(at))
    return next(name for name in names if not name.exists())


def _drop_old(path: Path) -> None:
    kept = [p for p in path.parent.glob(f"{path.name}.damaged-*") if not p.name.endswith("-wal")]
    for old in sorted(kept, key=lambda p: p.stat().st_mtime)[:-KEEP]:
        old.unlink()
        old.with_name(f"{old.name}-wal").unlink(missing_ok=True)


def _what_waited(path: Path) -> tuple[int | None, int | None, dict[str, int]]:
    """Ask the old file what it still held; it may answer some questions and not others."""
    uri = f"{path.absolute().as_uri()}?mode=ro"
    with contextlib.suppress(sqlite3.Error), closing(sqlite3.connect(uri, uri=True)) as old:
        messages = _number(old, "SELECT sum(messages) FROM spool_total")
        reports = _number(old, "SELECT count(*) FROM report")
        with contextlib.suppress(sqlite3.Error, ValueError):
            rows = old.execute("SELECT cause, messages FROM loss").fetchall()
            return messages, reports, {str(cause): int(count) for cause, count in rows}
        return messages, reports, {}
    return None, None, {}


def _number(old: sqlite3.Connection, sql: str) -> int | None:
    try:
        return int(old.execute(sql).fetchone()[0] or 0)
    except (sqlite3.Error, TypeError, ValueError):
        return None
