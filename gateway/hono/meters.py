"""Hono's meters: what is counted under which labels.

Source: Hono `Metrics.md`: sizes count with the tenant's minimum message size; `ttd` says how a wait for a
command ended; a tenant that is not known is `UNKNOWN`, so that nobody outside can make label values.
"""

from __future__ import annotations

import enum

from gateway.errors import GatewayError
from gateway.model.message import Adapter, Kind
from gateway.model.trace import TraceContext
from gateway.observe.histograms import Tally
from gateway.observe.metrics import Metrics
from gateway.outcome import Processing, outcome_of

UNKNOWN = "UNKNOWN"


class Ttd(enum.StrEnum):
    """How a device's wait for a command ended."""

    NONE = "none"
    EXPIRED = "expired"
    COMMAND = "command"


class Direction(enum.StrEnum):
    """Which way a command message goes."""

    ONE_WAY = "one-way"
    REQUEST = "request"
    RESPONSE = "response"


def status_of(error: GatewayError | None) -> Processing:
    """Return the `status` label for an outcome."""
    return Processing.FORWARDED if error is None else outcome_of(error).metric


Meters = tuple[Tally, Tally]
"""Time and size."""


class UploadMeter:
    """Counts uploads."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def record(
        self,
        tenant: str,
        kind: Kind,
        status: Processing,
        qos: int,
        adapter: Adapter,
        seconds: float,
        size: int,
        ttd: Ttd = Ttd.NONE,
    ) -> None:
        """Count one upload; `size` is the metered one."""
        of_time, of_size = self.meters(tenant, kind, status, qos, adapter, ttd)
        of_time.observe(seconds)
        of_size.observe(size)

    def meters(
        self,
        tenant: str,
        kind: Kind,
        status: Processing,
        qos: int,
        adapter: Adapter,
        ttd: Ttd = Ttd.NONE,
    ) -> Meters:
        """Return the meters of one set of labels, to be kept by who counts often."""
        labels = (tenant, kind.value, status.value, str(qos), ttd.value, adapter.value)
        return (
            self._metrics.telemetry_seconds.labels(*labels),
            self._metrics.telemetry_bytes.labels(*labels),
        )


class CommandMeter:
    """Counts commands and their responses."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def record(
        self,
        tenant: str,
        direction: Direction,
        error: GatewayError | None,
        component: str,
        seconds: float,
        size: int,
        trace: TraceContext | None = None,
    ) -> None:
        """Count one command or response; `size` is the metered one, `trace` of its span."""
        labels = (tenant, direction.value, status_of(error).value, component)
        times = self._metrics.command_seconds.labels(*labels)
        times.observe(seconds)
        if trace is not None and trace.is_sampled:
            times.mark(seconds, trace.trace_id)
        self._metrics.command_bytes.labels(*labels).observe(size)
