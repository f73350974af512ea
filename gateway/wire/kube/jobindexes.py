"""Sets of completion indexes as the status of an Indexed Job writes them: `0,2-4,7`.

Source: Kubernetes, "Jobs", completedIndexes and failedIndexes (Job API reference, batch/v1).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Indexes:
    """Whole numbers from 0, kept as spans (first, last) in order that do not touch."""

    spans: tuple[tuple[int, int], ...] = ()

    @classmethod
    def parse(cls, text: str, limit: int) -> Indexes:
        """Read a set; what is no number is left out, and so is what is not below `limit`."""
        spans: list[tuple[int, int]] = []
        for part in text.split(",") if text else ():
            first, _, last = part.partition("-")
            if first.isdecimal() and (not last or last.isdecimal()):
                spans.append((int(first), min(int(last or first), limit - 1)))
        return cls(_joined(span for span in spans if span[0] <= span[1]))

    @classmethod
    def of(cls, numbers: Iterable[int]) -> Indexes:
        return cls(_joined((number, number) for number in numbers))

    def with_(self, other: Indexes) -> Indexes:
        """Return what is in one of them."""
        return Indexes(_joined((*self.spans, *other.spans)))

    def common(self, other: Indexes) -> int:
        """Count what is in both."""
        mine, others, found = list(self.spans), list(other.spans), 0
        while mine and others:
            found += max(0, min(mine[0][1], others[0][1]) - max(mine[0][0], others[0][0]) + 1)
            (mine if mine[0][1] <= others[0][1] else others).pop(0)
        return found

    def missing(self, limit: int) -> Iterator[int]:
        """Iterate over the numbers below `limit` that are not in here."""
        following = 0
        for first, last in self.spans:
            yield from range(following, min(first, limit))
            following = last + 1
        yield from range(following, limit)

    def __contains__(self, number: object) -> bool:
        return isinstance(number, int) and any(
            first <= number <= last for first, last in self.spans
        )

    def __len__(self) -> int:
        return sum(last - first + 1 for first, last in self.spans)

    def __str__(self) -> str:
        return ",".join(_span_text(first, last) for first, last in self.spans)


def _span_text(first: int, last: int) -> str:
    if first == last:
        return str(first)
    return f"{first},{last}" if last == first + 1 else f"{first}-{last}"


def _joined(spans: Iterable[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    found: list[tuple[int, int]] = []
    for first, last in sorted(spans):
        if found and first <= found[-1][1] + 1:
            found[-1] = found[-1][0], max(found[-1][1], last)
        else:
            found.append((first, last))
    return tuple(found)
