"""Gauges that ask when they are scraped."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

Source = Callable[[], float]


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
