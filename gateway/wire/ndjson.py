"""Newline-delimited JSON, cut into lines as bytes come in; what the lines say is not looked at."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Line:
    """One line that is not blank.

    Shape:  `number` counts from 1, blank lines too; `data` without its end, None where it was too long.
    """

    number: int
    data: bytes | None


class LineSplitter:
    """Keeps what is not a whole line yet, at most `limit` bytes; of a longer line it keeps nothing."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._rest = bytearray()
        self._is_too_long = False
        self._number = 0

    def feed(self, data: bytes) -> list[Line]:
        """The lines that are complete now."""
        *whole, rest = data.split(b"\n")
        found = [line for part in whole if (line := self._end(part)) is not None]
        self._keep(rest)
        return found

    def end(self) -> list[Line]:
        """The last line, which needs no end."""
        line = self._end(b"") if self._rest or self._is_too_long else None
        return [] if line is None else [line]

    def _keep(self, data: bytes) -> None:
        if self._is_too_long or len(self._rest) + len(data) > self._limit:
            self._is_too_long = True
            self._rest.clear()
        else:
            self._rest += data

    def _end(self, data: bytes) -> Line | None:
        self._keep(data)
        self._number += 1
        line = None
        if self._is_too_long:
            line = Line(self._number, None)
        elif text := bytes(self._rest).strip(b" \t\r"):
            line = Line(self._number, text)
        self._rest.clear()
        self._is_too_long = False
        return line
