"""What Ditto's dashboards ask for under Ditto's names, where it means the same here.

The values are those of our own metrics, read when a scrape asks.
Source: Eclipse Ditto, Operating, Monitoring.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from prometheus_client import Counter, Gauge
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

TYPES: Final = {"websocket": "ws", "sse": "sse"}


class DittoNames(Collector):
    """`streaming_sessions_count` and `streaming_messages`, from the metrics of streaming sessions."""

    def __init__(self, sessions: Gauge, frames: Counter) -> None:
        self._sessions = sessions
        self._frames = frames

    def collect(self) -> Iterator[Metric]:
        (sessions,) = self._sessions.collect()
        yield GaugeMetricFamily(
            "streaming_sessions_count",
            "Open WebSocket and SSE sessions.",
            value=sum(sample.value for sample in sessions.samples),
        )
        family = CounterMetricFamily(
            "streaming_messages",
            "Frames of streaming sessions, by direction.",
            labels=("type", "direction"),
        )
        for sample in _totals(self._frames):
            kind, direction = sample[0]["kind"], sample[0]["direction"]
            family.add_metric((TYPES.get(kind, kind), direction), sample[1])
        yield family


def _totals(counter: Counter) -> Iterator[tuple[dict[str, str], float]]:
    for family in counter.collect():
        for sample in family.samples:
            if sample.name.endswith("_total"):
                yield dict(sample.labels), sample.value
