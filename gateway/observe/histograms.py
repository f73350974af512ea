"""Histograms for what happens with every message: plain numbers, made into samples when scraped.

The client library's own histogram takes a lock per bucket and per sum, which costs more than the rest of a
message's accounting together. Use these only from the event loop's thread.

Hono's timers and summaries also tell the largest value of late; who asks for it (`has_max`) gets a second
family, a gauge with the suffix `_max`.
"""

from __future__ import annotations

import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar
from prometheus_client.utils import floatToGoString

_INFINITY: Final = "+Inf"
FOLD: Final = 256
"""Values that are sorted into buckets at a time."""
PEAK_SECONDS: Final = 60.0
"""A largest value is told for one to two of these."""


class Tally:
    """The values of one set of labels: how many per bucket, and their sum.

    Values are only noted when they come, and sorted into buckets many at a time: that costs a tenth.
    """

    __slots__ = ("_bounds", "_counts", "_total", "exemplars", "pending")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._total = 0.0
        self.pending: list[float] = []
        """Values that were not sorted in yet; who appends here itself calls `fold` at `FOLD` of them."""
        self.exemplars: dict[int, Exemplar] = {}
        """Bucket -> the last value there whose trace was sampled."""

    def observe(self, value: float) -> None:
        """Count a value."""
        self.pending.append(value)
        if len(self.pending) >= FOLD:
            self.fold()

    def fold(self) -> None:
        """Sort in what was noted; a bound belongs to the bucket that it closes."""
        values = self.pending
        if not values:
            return
        values.sort()
        self._total += sum(values)
        before = 0
        for place, bound in enumerate(self._bounds):
            upto = bisect_right(values, bound, before)
            self._counts[place] += upto - before
            before = upto
        self._counts[-1] += len(values) - before
        values.clear()

    @property
    def counts(self) -> list[int]:
        """How many per bucket, the one for all larger values last."""
        self.fold()
        return self._counts

    @property
    def total(self) -> float:
        """The sum of all values."""
        self.fold()
        return self._total

    def add(self, other: Tally) -> None:
        """Count what another with the same bounds has counted."""
        self._counts = [a + b for a, b in zip(self._counts, other.counts, strict=True)]
        self._total += other.total

    def mark(self, value: float, trace_id: str) -> None:
        """Note whose trace a value that was observed belongs to."""
        place = bisect_left(self._bounds, value)
        self.exemplars[place] = Exemplar({"trace_id": trace_id}, value, time.time())


class PeakTally(Tally):
    """A tally that also knows its largest value of late."""

    __slots__ = ("_before", "_now")

    def __init__(self, bounds: Sequence[float]) -> None:
        super().__init__(bounds)
        self._now = self._before = 0.0

    def fold(self) -> None:
        """Sort in what was noted."""
        if self.pending:
            self._now = max(self._now, *self.pending)
            super().fold()

    @property
    def peak(self) -> float:
        self.fold()
        return max(self._now, self._before)

    def turn(self) -> None:
        """Begin a new stretch of time; what was largest before the last is forgotten."""
        self.fold()
        self._before, self._now = self._now, 0.0


class LoopHistogram(Collector):
    """A family of tallies, with the interface of the library's histogram where we use it.

    Shape:  `buckets` are the upper bounds, ascending; the one for all larger values is added. `has_max` adds
            the family `<name>_max`; `now` is a steady clock in seconds.
    """

    def __init__(
        self,
        name: str,
        documentation: str,
        labelnames: Sequence[str],
        *,
        buckets: Iterable[float],
        registry: CollectorRegistry,
        has_max: bool = False,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._kind = PeakTally if has_max else Tally
        self._clock = now
        self._turned = now()
        self._name = name
        self._documentation = documentation
        self._labelnames = tuple(labelnames)
        self._bounds = tuple(float(bound) for bound in buckets)
        self._names = (*map(floatToGoString, self._bounds), _INFINITY)
        self._tallies: dict[tuple[str, ...], Tally] = {}
        registry.register(self)

    def labels(self, *values: str) -> Tally:
        """Return the tally of one set of label values, to be kept by who counts often."""
        if len(values) != len(self._labelnames):
            raise ValueError(f"{self._name}: expected {self._labelnames}, got {values}")
        tally = self._tallies.get(values)
        if tally is None:
            tally = self._tallies[values] = self._kind(self._bounds)
        return tally

    def summed(self, by: Sequence[str]) -> dict[tuple[str, ...], Tally]:
        """Return what was counted, added up over all labels but these; a look, cheaper than a scrape."""
        places = [self._labelnames.index(name) for name in by]
        found: dict[tuple[str, ...], Tally] = {}
        for values, tally in self._tallies.items():
            key = tuple(values[place] for place in places)
            known = found.get(key)
            if known is None:
                known = found[key] = Tally(self._bounds)
            known.add(tally)
        return found

    @property
    def bounds(self) -> tuple[float, ...]:
        """The upper bounds, ascending, without the one for all larger values."""
        return self._bounds

    def collect(self) -> list[Metric]:
        family = HistogramMetricFamily(self._name, self._documentation, labels=self._labelnames)
        for values, tally in self._tallies.items():
            counts = zip(self._names, accumulate(tally.counts), strict=True)
            told = tally.exemplars
            buckets = [
                (name, count, told[place]) if place in told else (name, count)
                for place, (name, count) in enumerate(counts)
            ]
            family.add_metric(values, buckets, tally.total)
        return [family] if self._kind is Tally else [family, self._peaks()]

    def _peaks(self) -> Metric:
        family = GaugeMetricFamily(
            f"{self._name}_max",
            f"{self._documentation} The largest of late.",
            labels=self._labelnames,
        )
        for _ in range(min(2, int((self._clock() - self._turned) / PEAK_SECONDS))):
            self._turned = self._clock()
            for tally in self._tallies.values():
                if isinstance(tally, PeakTally):
                    tally.turn()
        for values, tally in self._tallies.items():
            if isinstance(tally, PeakTally):
                family.add_metric(values, tally.peak)
        return family
