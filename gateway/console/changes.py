"""What changes, told to readers: one message per object and turn, the newest state, never more than so many.

A feed keeps for each reader which objects it has not been told yet. Who falls behind too far is told to
start over. What is told is made when it is told, once for all readers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, TypeAlias

import msgspec

from gateway.model.json import JsonObject

MAX_WAITING: Final = 5_000
"""Objects that one reader has not been told yet; above it the reader starts over."""
TURN_SECONDS: Final = 0.25
"""Between two messages about one object."""
KINDS: Final = ("nodes", "devices", "pods", "discovered")

ObjectKey: TypeAlias = "tuple[str, str, str]"
Show: TypeAlias = Callable[[], "JsonObject"]


@dataclass(slots=True, eq=False)
class News:
    """One change, encoded when the first reader is told."""

    kind: str
    type: str
    show: Callable[[], JsonObject]
    _encoded: bytes = b""

    @property
    def data(self) -> bytes:
        if not self._encoded:
            told = {"kind": self.kind, "type": self.type, "object": self.show()}
            self._encoded = msgspec.json.encode(told)
        return self._encoded


@dataclass(slots=True, eq=False)
class Reader:
    """What one reader has not been told yet, by object."""

    kinds: frozenset[str]
    waiting: dict[ObjectKey, News] = field(default_factory=dict)
    is_behind: bool = False
    news: asyncio.Event = field(default_factory=asyncio.Event)

    def take(self, key: ObjectKey, news: News) -> None:
        known = self.waiting.pop(key, None)
        if known is not None and known.type == "added" and news.type == "changed":
            news = News(news.kind, "added", news.show)
        if len(self.waiting) >= MAX_WAITING:
            self.is_behind = True
            self.waiting.clear()
        elif not self.is_behind:
            self.waiting[key] = news
        self.news.set()

    def taken(self) -> list[News]:
        """Everything that waits; it waits no more."""
        found = list(self.waiting.values())
        self.waiting.clear()
        self.news.clear()
        return found


class Feed:
    """All readers."""

    def __init__(self) -> None:
        self._readers: tuple[Reader, ...] = ()

    @contextmanager
    def read(self, kinds: frozenset[str]) -> Iterator[Reader]:
        """A reader, for the length of the block."""
        reader = Reader(kinds)
        self._readers += (reader,)
        try:
            yield reader
        finally:
            self._readers = tuple(each for each in self._readers if each is not reader)

    def tell(self, kind: str, type_: str, namespace: str, name: str, show: Show) -> None:
        """Tell a change to who reads its kind; `show` is asked for the object when it is told."""
        if not self._readers:
            return
        news = News(kind, type_, show)
        for reader in self._readers:
            if kind in reader.kinds:
                reader.take((kind, namespace, name), news)


PIECE: Final = 65_536


def framed_news(news: Iterable[News]) -> Iterator[bytes]:
    """Changes as they stand on the wire, in pieces of about `PIECE` bytes."""
    piece = bytearray()
    for each in news:
        piece += b"event: change\ndata: " + each.data + b"\n\n"
        if len(piece) >= PIECE:
            yield bytes(piece)
            piece.clear()
    if piece:
        yield bytes(piece)
