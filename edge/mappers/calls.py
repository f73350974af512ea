"""Calls to devices, measured: how long each took, and why it failed."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from gateway.errors import GatewayError
from gateway.observe.mapper_metrics import MapperMetrics

CONNECTED, WAITING = "connected", "waiting"


@contextmanager
def measured(metrics: MapperMetrics, protocol: str, call: str) -> Iterator[None]:
    """Measure the call in the block; one that is broken off counts as none."""
    started = time.perf_counter()
    try:
        yield
    except Exception as error:
        metrics.call_failures.labels(protocol, call, _cause(error)).inc()
        raise
    finally:
        metrics.call_seconds.labels(protocol, call).observe(time.perf_counter() - started)


def _cause(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "timeout"
    if isinstance(error, GatewayError):
        return "unreachable" if error.status >= 500 else "refused"
    return "unreachable" if isinstance(error, OSError) else "error"


class Tally:
    """How many devices of each protocol are connected, and how many wait for it."""

    def __init__(self, metrics: MapperMetrics) -> None:
        self._metrics = metrics
        self._counts: Counter[tuple[str, str]] = Counter()

    def move(self, protocol: str, before: str, after: str) -> None:
        """Count a device that changed its state; "" for one that comes or goes."""
        for state, by in ((before, -1), (after, 1)):
            if state:
                self._counts[protocol, state] += by
                gauge = self._metrics.devices.labels(protocol, state)
                gauge.set(self._counts[protocol, state])
