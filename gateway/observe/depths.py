"""Gauges that ask when they are scraped."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

Source = Callable[[], float]
RowSource = Callable[[], Iterable[tuple[tuple[str, ...], float]]]


class Depths(Collector):
    """A gauge whose values are asked for when it is scraped."""

    def __init__(self, name: str, documentation: str, *labels: str) -> None:
        self._name = name
        self._documentation = documentation
        self._labels = labels
        self._sources: dict[tuple[str, ...], Source] = {}

    def watch(self, values: str | tuple[str, ...], source: Source) -> None:
        """Report what `source()` returns under the label values, of which there may be one."""
        self._sources[(values,) if isinstance(values, str) else values] = source

    def collect(self) -> list[Metric]:
        family = GaugeMetricFamily(self._name, self._documentation, labels=self._labels)
        for values, source in self._sources.items():
            family.add_metric(values, float(source()))
        return [family]


class Rows(Collector):
    """A gauge whose label values and values are asked for together when it is scraped."""

    def __init__(self, name: str, documentation: str, *labels: str) -> None:
        self._name = name
        self._documentation = documentation
        self._labels = labels
        self._sources: list[RowSource] = []

    def watch(self, source: RowSource) -> None:
        """Report what `source()` yields: label values and the value."""
        self._sources.append(source)

    def collect(self) -> list[Metric]:
        family = GaugeMetricFamily(self._name, self._documentation, labels=self._labels)
        for source in self._sources:
            for values, value in source():
                family.add_metric(values, value)
        return [family]
