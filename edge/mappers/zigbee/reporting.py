"""Which devices were told to report what: kept in the family's folder, so that a sleepy one is asked once."""

from __future__ import annotations

import logging
from pathlib import Path

import msgspec

log = logging.getLogger(__name__)

NAME = "reporting.json"
MAX_BYTES = 4 * 1024 * 1024
Book = dict[str, dict[str, list[int]]]


class Told:
    """A book of what was configured, by device: `endpoint/cluster` -> the attributes that are reported."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / NAME
        self._book: Book = {}

    def load(self) -> None:
        """Read the book; one that cannot be read is begun anew: devices are told again."""
        try:
            if self._path.stat().st_size <= MAX_BYTES:
                self._book = msgspec.json.decode(self._path.read_bytes(), type=Book)
        except FileNotFoundError:
            return
        except (OSError, ValueError) as error:
            log.warning("what devices were told is not known any more", extra={"cause": str(error)})

    def get(self, ieee: str, part: str) -> set[int] | None:
        """Return what a part of a device reports, None where it was not told yet."""
        found = self._book.get(ieee, {}).get(part)
        return None if found is None else set(found)

    def note(self, ieee: str, part: str, attributes: set[int]) -> None:
        self._book.setdefault(ieee, {})[part] = sorted(attributes)
        self._save()

    def forget(self, ieee: str) -> None:
        """A device has joined anew: it knows nothing."""
        if self._book.pop(ieee, None) is not None:
            self._save()

    def _save(self) -> None:
        part = self._path.with_name(self._path.name + ".part")
        try:
            part.write_bytes(msgspec.json.encode(self._book))
            part.replace(self._path)
        except OSError as error:
            log.warning("what devices were told is not kept", extra={"cause": str(error)})
