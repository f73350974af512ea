"""From counters to rates, from buckets to quantiles, and the ring that keeps them. Pure.

Bound: a plot holds at most `MAX_SERIES` series of `POINTS` numbers of 8 bytes, about 140 kB (plots of single
nodes: `NODE_SERIES`, 1.5 MB); a series that is one too many is added to "(other)".
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from gateway.model.json import Json, JsonObject

POINTS: Final = 720
MAX_SERIES: Final = 24
NODE_SERIES: Final = 256
OTHER: Final = "(other)"
QUANTILE: Final = 0.99

Labels: TypeAlias = "tuple[str, ...]"
Buckets: TypeAlias = "dict[float, float]"


def growth(now: float, before: float | None) -> float:
    """How much a counter has grown; one that went back has begun anew."""
    if before is None or now < before:
        return now
    return now - before


def quantile(share: float, buckets: Mapping[float, float]) -> float | None:
    """A quantile of what fell into buckets, as Prometheus reckons it; None of nothing.

    Shape:  upper bound (infinity included) -> cumulative count.
    """
    bounds = sorted(buckets)
    if not bounds or not math.isinf(bounds[-1]) or buckets[bounds[-1]] <= 0:
        return None
    rank = share * buckets[bounds[-1]]
    below = start = 0.0
    for bound in bounds:
        count = buckets[bound]
        if count >= rank and count > below:
            if math.isinf(bound):
                return bounds[-2] if len(bounds) > 1 else None
            return start + (bound - start) * (rank - below) / (count - below)
        below, start = max(below, count), bound
    return None


@dataclass(slots=True)
class Ring:
    """The newest points of a plot's series; all series share the places."""

    most: int = MAX_SERIES
    at: int = 0
    filled: int = 0
    series: dict[Labels, array[float]] = field(default_factory=dict)

    def put(self, values: Mapping[Labels, float | None]) -> None:
        """Note one point of each series that `key` gave; what is not there has none."""
        for labels, ring in self.series.items():
            value = values.get(labels)
            ring[self.at] = math.nan if value is None else value
        self.at = (self.at + 1) % POINTS
        self.filled = min(self.filled + 1, POINTS)
        if self.at == 0:
            self._drop_silent()

    def _drop_silent(self) -> None:
        """Series that have said nothing for a whole round make room for others."""
        for labels, ring in list(self.series.items()):
            if all(math.isnan(value) for value in ring):
                del self.series[labels]

    def key(self, labels: Labels) -> Labels:
        """Where a value belongs: its own series, or the one of all others when there are too many."""
        if labels in self.series:
            return labels
        if len(self.series) >= self.most - 1:
            labels = (OTHER,) * len(labels)
        self.series.setdefault(labels, _empty())
        return labels

    def last(self, count: int) -> list[int]:
        """The places of the newest points, oldest first."""
        count = min(count, self.filled)
        return [(self.at - count + step) % POINTS for step in range(count)]


def _empty() -> array[float]:
    return array("d", [math.nan] * POINTS)


def shown(
    ring: Ring,
    names: Sequence[str],
    times: Sequence[float],
    count: int,
    only: Labels | None = None,
) -> list[JsonObject]:
    """The newest points of each series, or of one alone. Shape: `times` by place."""
    places = ring.last(count)
    found: list[JsonObject] = []
    for labels, values in sorted(ring.series.items()):
        if only is not None and labels != only:
            continue
        points: list[Json] = [[times[place], _number(values[place])] for place in places]
        if any(not math.isnan(values[place]) for place in places):
            found.append({"labels": dict(zip(names, labels, strict=True)), "points": points})
    return found


def _number(value: float) -> float | None:
    return None if math.isnan(value) or math.isinf(value) else value


def summed(pairs: Iterable[tuple[Labels, float]]) -> dict[Labels, float]:
    """Values by labels, added up."""
    found: dict[Labels, float] = {}
    for labels, value in pairs:
        found[labels] = found.get(labels, 0.0) + value
    return found
