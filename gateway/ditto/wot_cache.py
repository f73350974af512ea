"""What is kept of Thing Models: bounded in entries and bytes, the least recently used goes first."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Generic, TypeVar

V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class Kept(Generic[V]):
    """A value, its size in bytes, and the loop's time at which it is out of date."""

    value: V
    size: int
    expires: float


class Cache(Generic[V]):
    """Values by URL. What is out of date stays until it is replaced or has to go."""

    def __init__(self, entries: int, size: int) -> None:
        self._most_entries = entries
        self._most_bytes = size
        self._kept: OrderedDict[str, Kept[V]] = OrderedDict()
        self.size = 0

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, url: str) -> Kept[V] | None:
        """The entry of a URL, now the most recently used."""
        found = self._kept.get(url)
        if found is not None:
            self._kept.move_to_end(url)
        return found

    def put(self, url: str, kept: Kept[V]) -> None:
        """Keep a value; one that is larger than all there is room for is not kept."""
        self.drop(url)
        if kept.size > self._most_bytes:
            return
        self._kept[url] = kept
        self.size += kept.size
        while len(self._kept) > self._most_entries or self.size > self._most_bytes:
            _, gone = self._kept.popitem(last=False)
            self.size -= gone.size

    def drop(self, url: str) -> None:
        """Forget a URL."""
        gone = self._kept.pop(url, None)
        if gone is not None:
            self.size -= gone.size
