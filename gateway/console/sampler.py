"""Looks at the process's own metrics every few seconds and keeps an hour of the plots.

Only the families that plots need are looked at, unless there are worker processes, whose numbers come with
all others. Memory is bounded by `gateway.console.series`: at most 29 plots of 24 series, about 4 MB in
all, and three of up to 256 nodes, as much again with so many nodes.
"""

from __future__ import annotations

import asyncio
import math
import time
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterable
from itertools import accumulate
from typing import Final, TypeAlias

from prometheus_client.core import Metric
from prometheus_client.samples import Sample

from gateway.console.plots import NODE_PLOTS, PLOTS, Kind, Plot
from gateway.console.series import (
    POINTS,
    QUANTILE,
    Buckets,
    Labels,
    Ring,
    growth,
    quantile,
    shown,
    summed,
)
from gateway.model.json import JsonObject
from gateway.observe.histograms import LoopHistogram
from gateway.observe.merging import MergingRegistry

STEP_SECONDS: Final = 5.0


class Gauge:
    """Plots of what is now."""

    def __init__(self, plot: Plot) -> None:
        self.plot = plot
        self.ring = Ring(plot.most)

    def take(self, samples: Iterable[Sample], _seconds: float) -> None:
        name = self.plot.sample
        pairs = (
            (self.ring.key(_labels(self.plot, each)), each.value)
            for each in samples
            if each.name == name
        )
        self.ring.put(summed(pairs))


class Rate:
    """Plots of counters: how much they grow in a second."""

    def __init__(self, plot: Plot) -> None:
        self.plot = plot
        self.ring = Ring(plot.most)
        self._before: dict[Labels, float] | None = None

    def take(self, samples: Iterable[Sample], seconds: float) -> None:
        name, before = self.plot.sample, self._before
        now = summed(
            (_labels(self.plot, each), each.value) for each in samples if each.name == name
        )
        self._before = now
        if before is None or seconds <= 0:
            self.ring.put({})
            return
        grown = ((self.ring.key(k), growth(v, before.get(k)) / seconds) for k, v in now.items())
        self.ring.put(summed(grown))


class Quantile:
    """Plots of histograms: the quantile of what came since the last look."""

    def __init__(self, plot: Plot) -> None:
        self.plot = plot
        self.ring = Ring(plot.most)
        self._before: dict[Labels, Buckets] | None = None

    def take(self, samples: Iterable[Sample], _seconds: float) -> None:
        before = self._before
        now: defaultdict[Labels, Buckets] = defaultdict(dict)
        name = f"{self.plot.sample}_bucket"
        for each in samples:
            if each.name == name:
                buckets, bound = now[_labels(self.plot, each)], float(each.labels["le"])
                buckets[bound] = buckets.get(bound, 0.0) + each.value
        self._before = dict(now)
        if before is None:
            self.ring.put({})
            return
        grown = {
            self.ring.key(labels): quantile(QUANTILE, _grown(buckets, before.get(labels, {})))
            for labels, buckets in now.items()
        }
        self.ring.put(grown)


def _grown(now: Buckets, before: Buckets) -> Buckets:
    if any(count < before.get(bound, 0.0) for bound, count in now.items()):
        return now
    return {bound: count - before.get(bound, 0.0) for bound, count in now.items()}


def _labels(plot: Plot, sample: Sample) -> Labels:
    return tuple(sample.labels.get(name, "") for name in plot.by)


Taker: TypeAlias = Gauge | Rate | Quantile
_MAKERS: Final[dict[Kind, Callable[[Plot], Taker]]] = {
    Kind.GAUGE: Gauge,
    Kind.RATE: Rate,
    Kind.QUANTILE: Quantile,
}


class Sampler:
    """Module: keeps the rings."""

    name = "console.plots"

    def __init__(
        self,
        registry: MergingRegistry,
        plots: Iterable[Plot] = (*PLOTS, *NODE_PLOTS),
        *,
        clock: Callable[[], float] = time.time,
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        self._registry = registry
        self._clock = clock
        self._steady = steady
        self._last = -math.inf
        self._plots: dict[str, Taker] = {plot.id: _MAKERS[plot.kind](plot) for plot in plots}
        self._times = array("d", [0.0] * POINTS)
        self._at = 0

    async def run(self, ready: Callable[[], None]) -> None:
        await self.sample()
        ready()
        while True:
            await asyncio.sleep(STEP_SECONDS)
            await self.sample()

    async def sample(self) -> None:
        """Note one point of every plot; others have their turn between two families."""
        now = self._steady()
        seconds, self._last = now - self._last, now
        self._times[self._at] = round(self._clock(), 1)
        self._at = (self._at + 1) % POINTS
        left = dict(self._plots)
        if not tuple(self._registry.elsewhere()):
            for each in list(left.values()):
                collector = self._registry.collector(each.plot.sample)
                if isinstance(collector, LoopHistogram) and not each.plot.where:
                    del left[each.plot.id]
                    each.take(_looked_at(collector, each.plot), seconds)
                    await asyncio.sleep(0)
        await self._scraped(left, seconds)

    async def _scraped(self, left: dict[str, Taker], seconds: float) -> None:
        """Plots of metrics that can only be collected as for a scrape."""
        by_family: defaultdict[str, list[Taker]] = defaultdict(list)
        for each in left.values():
            by_family[each.plot.family].append(each)
        for family in self._collected(by_family):
            for each in by_family.pop(family.name, ()):
                each.take([one for one in family.samples if _fits(each.plot, one)], seconds)
            await asyncio.sleep(0)
        for missing in by_family.values():
            for each in missing:
                each.take([], seconds)

    def _collected(self, families: Iterable[str]) -> Iterable[Metric]:
        if tuple(self._registry.elsewhere()):
            return self._registry.collect()
        ends = ("", "_total", "_bucket", "_count", "_sum")
        names = [f"{name}{end}" for name in families for end in ends]
        return self._registry.restricted_registry(names).collect()

    def shown(self, plot: Plot, seconds: float, *only: str) -> list[JsonObject]:
        """The newest points of a plot; `only` are the label values of the one series that is wanted."""
        ring = self._plots[plot.id].ring
        return shown(ring, plot.by, self._times, int(seconds / STEP_SECONDS) + 1, only or None)


def _looked_at(histogram: LoopHistogram, plot: Plot) -> list[Sample]:
    """A histogram's samples as a plot needs them, added up already."""
    found: list[Sample] = []
    name = plot.sample.removesuffix("_count").removesuffix("_sum")
    bounds = (*histogram.bounds, math.inf)
    for values, tally in histogram.summed(plot.by).items():
        labels = dict(zip(plot.by, values, strict=True))
        if plot.kind is Kind.QUANTILE:
            counts = zip(bounds, accumulate(tally.counts), strict=True)
            found += [
                Sample(f"{name}_bucket", {**labels, "le": str(bound)}, count)
                for bound, count in counts
            ]
            continue
        found.append(Sample(f"{name}_count", labels, sum(tally.counts)))
        found.append(Sample(f"{name}_sum", labels, tally.total))
    return found


def _fits(plot: Plot, sample: Sample) -> bool:
    return all(sample.labels.get(name) in values for name, values in plot.where)
