"""Hono's meters, with the children of each label set looked up once.

Source: Hono `Metrics.md`: sizes count with the tenant's minimum message size; `ttd` says how a wait for a
command ended; a tenant that is not known is `UNKNOWN`, so that nobody outside can make label values.
"""

from __future__ import annotations

import enum

from prometheus_client import Histogram

from gateway.errors import GatewayError
from gateway.model.message import Adapter, Kind
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


_UploadKey = tuple[str, Kind, Processing, int, Ttd, str]
_CommandKey = tuple[str, Direction, Processing, str]
_Pair = tuple[Histogram, Histogram]


class UploadMeter:
    """Counts uploads."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._pairs: dict[_UploadKey, _Pair] = {}

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
        key = (tenant, kind, status, qos, ttd, adapter)
        pair = self._pairs.get(key) or self._make(key)
        pair[0].observe(seconds)
        pair[1].observe(size)

    def _make(self, key: _UploadKey) -> _Pair:
        tenant, kind, status, qos, ttd, component = key
        pair = (
            self._metrics.telemetry_seconds.labels(
                tenant, kind.value, status.value, str(qos), ttd.value, component
            ),
            self._metrics.telemetry_bytes.labels(tenant, kind.value, status.value, component),
        )
        self._pairs[key] = pair
        return pair


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
    ) -> None:
        """Count one command or response; `size` is the metered one."""
        labels = (tenant, direction.value, status_of(error).value, component)
        self._metrics.command_seconds.labels(*labels).observe(seconds)
        self._metrics.command_bytes.labels(*labels).observe(size)
