"""Requests of devices; those whose head came before on the same connection are read without a parser.

Devices send the same request line and headers again and again, with another body. What a head means is known
from the first time: where its body ends, and what handlers noted about it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeVar, cast
from urllib.parse import parse_qsl

T = TypeVar("T")

KEPT: Final = 4
"""Heads of one connection; when there are more all are forgotten."""
MAX_HEAD: Final = 1_024
"""Bytes; longer heads are parsed each time."""
_END: Final = b"\r\n\r\n"
_CHANGES_FRAMING: Final = frozenset({"transfer-encoding", "expect", "upgrade"})
_KEEP_ALIVE: Final = "keep-alive"


@dataclass(slots=True)
class Request:
    """A whole request.

    Shape:  `target` as sent, with query; header names in lower case, of repeated ones the last. `notes` is
            what was made of all that, by `noted`: requests that differ in the body alone share it.
    """

    method: str = ""
    target: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    notes: dict[Callable[[Request], object], object] = field(default_factory=dict)

    def with_body(self, body: bytes) -> Request:
        """The same request with another body."""
        return Request(self.method, self.target, self.headers, body, self.notes)

    def noted(self, make: Callable[[Request], T]) -> T:
        """Return `make(self)`, made once for all requests with this head; it does not look at the body.

        Errors: those of `make`.
        """
        found = self.notes.get(make)
        if found is None:
            found = self.notes[make] = make(self)
        return cast(T, found)

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    @property
    def query(self) -> Mapping[str, str]:
        _, mark, query = self.target.partition("?")
        return dict(parse_qsl(query, keep_blank_values=True)) if mark else {}


class Heads:
    """The heads of one connection that mean nothing but a body of a given length."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: dict[bytes, tuple[Request, int]] = {}

    def find(self, data: bytes) -> tuple[Request, int] | None:
        """Read the request that `data` begins with; None unless its head is known and all of it is there.

        Shape:  the request, and how many bytes it has.
        """
        known = self._known
        if not known:
            return None
        start = data.find(_END, 0, MAX_HEAD) + len(_END)
        found = known.get(data[:start])
        if found is None:
            return None
        first, size = found
        end = start + size
        return (first.with_body(data[start:end]), end) if len(data) >= end else None

    def keep(self, data: bytes, request: Request) -> None:
        """Remember the head of `request` if `data` is that request and nothing else."""
        start = data.find(_END, 0, MAX_HEAD) + len(_END)
        headers = request.headers
        size = int(headers.get("content-length", "0"))
        goes_on = headers.get("connection", _KEEP_ALIVE).lower() == _KEEP_ALIVE
        if start + size != len(data) or not goes_on or not _CHANGES_FRAMING.isdisjoint(headers):
            return
        if len(self._known) >= KEPT:
            self._known.clear()
        self._known[data[:start]] = (request, size)
