"""The radio library's database in the family's folder: one that cannot be read is set aside, never lost."""

from __future__ import annotations

import logging
import os
import sqlite3
from contextlib import closing
from pathlib import Path

log = logging.getLogger(__name__)

NAME = "zigbee.db"
BACKUP = "network.json"
_SIDES = ("", "-wal", "-shm")


def find_damage(path: Path) -> str:
    """Say what is wrong with a database, "" for nothing; a file that is not there is fine."""
    if not path.exists():
        return ""
    try:
        with closing(sqlite3.connect(path, timeout=0.1)) as connection:
            row = connection.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.OperationalError:
        return ""  # locked, no right, a full disk: nothing that is wrong with the file
    except sqlite3.DatabaseError as error:
        return str(error)
    return "" if row is None or row[0] == "ok" else str(row[0])[:200]


def set_aside(path: Path, damage: str, now_ms: int) -> Path:
    """Move a database out of the way; return where it is now."""
    aside = path.with_name(f"{path.name}.corrupt-{now_ms}")
    for side in _SIDES:
        part = path.with_name(path.name + side)
        if part.exists():
            part.rename(aside.with_name(aside.name + side))
    log.warning(
        "the Zigbee database is damaged and was set aside",
        extra={"aside": str(aside), "cause": damage},
    )
    return aside


def keep(path: Path, text: str) -> None:
    """Write a file that only its owner may read; a disk that takes nothing more costs just that."""
    part = path.with_name(path.name + ".part")
    try:
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(text)
        part.replace(path)
    except OSError as error:
        facts = {"path": str(path), "cause": str(error)}
        log.warning("the Zigbee network's settings are not kept", extra=facts)
