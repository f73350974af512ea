"""Looks at the process's own metrics every few seconds and keeps an hour of the plots.

Only the families that plots need are collected, unless there are worker processes, whose numbers come with
all others. Memory is bounded by `gateway.console.series`: at most 29 plots of 24 series, about 4 MB in all.
"""

from __future__ import annotations

import asyncio
import math
import time
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Final

from prometheus_client.core import Metric
from prometheus_client.samples import Sample

from gateway.console.plots import PLOTS, Kind, Plot
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
from gateway.observe.merging import MergingRegistry

STEP_SECONDS: Final = 5.0


class Gauge:
    """Plots of what is now."""

    def __init__(self, plot: Plot) -> None:
        self.plot = plot
        self.ring = Ring()

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
        self.ring = Ring()
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
        self.ring = Ring()
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


_MAKERS: Final[dict[Kind, Callable[[Plot], Gauge | Rate | Quantile]]] = {
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
        plots: Iterable[Plot] = PLOTS,
        *,
        clock: Callable[[], float] = time.time,
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        self._registry = registry
        self._clock = clock
        self._steady = steady
        self._last = -math.inf
        self._plots = {plot.id: _MAKERS[plot.kind](plot) for plot in plots}
        self._families = sorted({each.plot.family for each in self._plots.values()})
        self._times = array("d", [0.0] * POINTS)
        self._at = 0

    async def run(self, ready: Callable[[], None]) -> None:
        self.sample()
        ready()
        while True:
            await asyncio.sleep(STEP_SECONDS)
            self.sample()

    def sample(self) -> None:
        """Note one point of every plot."""
        now = self._steady()
        seconds, self._last = now - self._last, now
        found: dict[str, list[Sample]] = {
            family.name: family.samples for family in self._collected()
        }
        for each in self._plots.values():
            samples = found.get(each.plot.family, [])
            each.take([one for one in samples if _fits(each.plot, one)], seconds)
        self._times[self._at] = round(self._clock(), 1)
        self._at = (self._at + 1) % POINTS

    def _collected(self) -> Iterable[Metric]:
        if tuple(self._registry.elsewhere()):
            return self._registry.collect()
        wanted = set(self._families)
        names = [f"{name}{end}" for name in wanted for end in ("", "_total", "_bucket", "_count")]
        return self._registry.restricted_registry(names).collect()

    def shown(self, plot: Plot, seconds: float) -> list[JsonObject]:
        """The newest points of a plot."""
        ring = self._plots[plot.id].ring
        return shown(ring, plot.by, self._times, int(seconds / STEP_SECONDS) + 1)


def _fits(plot: Plot, sample: Sample) -> bool:
    return all(sample.labels.get(name) in values for name, values in plot.where)
