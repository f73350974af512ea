"""Room on the disk that is kept for the next start: without some, SQLite opens no file on a full disk.

An edge that does not start can neither say that its disk is full nor end Pods that fill it.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

log = logging.getLogger(__name__)

BYTES = 1024 * 1024
"""For the log of the database and its index, and the small files that are written at a start."""
PLENTY = 16
"""So many times as much has to be free before room is kept."""


class Reserve:
    """A file beside a database that only takes room. Blocks."""

    def __init__(self, database: Path) -> None:
        self._file = database.with_name(f"{database.name}-reserve")

    def use(self) -> None:
        """Give the room up where the disk has none left. Never fails."""
        try:
            if _free(self._file.parent) < BYTES and self._file.exists():
                self._file.unlink()
                log.warning("the disk is full", extra={"file": str(self._file)})
        except OSError as error:
            log.warning("the disk cannot be looked at", extra={"cause": str(error)})

    def keep(self) -> None:
        """Take the room where there is plenty. Never fails."""
        try:
            if not self._file.exists() and _free(self._file.parent) > PLENTY * BYTES:
                self._take()
        except OSError as error:
            log.info("no room is kept on the disk", extra={"cause": str(error)})

    def _take(self) -> None:
        descriptor = os.open(self._file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, BYTES)
        except OSError:
            self._file.unlink(missing_ok=True)
            raise
        finally:
            os.close(descriptor)


def _free(folder: Path) -> int:
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize
