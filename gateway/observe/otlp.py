"""Export of finished spans and of log lines to an OpenTelemetry collector; the SDK is imported only when
on."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from gateway.config.observe import Observe
from gateway.errors import InvalidSetting
from gateway.observe.batches import Batches
from gateway.observe.loglines import LinesHandler, LogLine
from gateway.observe.logs import Traced
from gateway.observe.metrics import Metrics
from gateway.observe.otlp_choices import Destination, destination, is_on, resource
from gateway.observe.tracing import Span, Tracer

if TYPE_CHECKING:
    from types import ModuleType

EXTRAS = "needs OpenTelemetry: pip install 'twinspan[otlp]'"
GRPC_EXTRAS = "gRPC needs its exporter: pip install 'twinspan[otlp-grpc]'"


class _Export:
    """What both signals share: a destination, and who we are."""

    def __init__(self, signal: str, to: Destination, own: Mapping[str, str]) -> None:
        self._signal = signal
        self._to = to
        self._own = own

    def _sdk(self) -> ModuleType:
        """Errors: InvalidSetting where the SDK, or gRPC, is not installed."""
        try:
            from gateway.observe import otlp_sdk
        except ImportError as error:
            raise InvalidSetting(f"observe.{self._signal}.otlp.enabled: {EXTRAS}") from error
        return otlp_sdk

    def _made(self, make: Callable[[Destination, Mapping[str, str]], Any]) -> Any:
        try:
            return make(self._to, self._own)
        except ImportError as error:
            raise InvalidSetting(f"observe.{self._signal}.otlp.protocol: {GRPC_EXTRAS}") from error


class SpanExport(_Export):
    """Module: sends sampled spans in batches; a collector that is away costs nothing but the spans."""

    name = "otlp"

    def __init__(
        self, to: Destination, tracer: Tracer, own: Mapping[str, str], metrics: Metrics
    ) -> None:
        super().__init__("traces", to, own)
        self._tracer = tracer
        self._batches: Batches[Span] = Batches(
            "otlp-spans", to.max_queue, metrics.own.otlp_spans, to.timeout
        )
        metrics.own.watch_queue("otlp_spans", lambda: self._batches.depth, to.max_queue)

    async def run(self, ready: Callable[[], None]) -> None:
        export, shutdown = self._made(self._sdk().span_exporter)
        self._tracer.add_sink(self._batches.put)
        ready()
        await self._batches.run(export, shutdown)


class LogExport(_Export):
    """Module: sends log lines in batches, beside what goes to standard error."""

    name = "otlp-logs"

    def __init__(self, to: Destination, own: Mapping[str, str], metrics: Metrics) -> None:
        super().__init__("logs", to, own)
        self._batches: Batches[LogLine] = Batches(
            "otlp-logs", to.max_queue, metrics.own.otlp_logs, to.timeout
        )
        metrics.own.watch_queue("otlp_logs", lambda: self._batches.depth, to.max_queue)

    async def run(self, ready: Callable[[], None]) -> None:
        export, shutdown = self._made(self._sdk().log_exporter)
        handler = LinesHandler(self._batches.put)
        handler.addFilter(Traced())
        root = logging.getLogger()
        root.addHandler(handler)
        try:
            ready()
            await self._batches.run(export, shutdown)
        finally:
            root.removeHandler(handler)


def build_exports(
    settings: Observe, tracer: Tracer, metrics: Metrics, own: Mapping[str, str]
) -> list[SpanExport | LogExport]:
    """Return the exports that are on, by settings or OTEL_* variables.

    Shape:  `own` are resource attributes of this process that settings and variables may replace.
    Errors: InvalidSetting.
    """
    environment = os.environ
    about = {"host.name": socket.gethostname(), **own}
    found: list[SpanExport | LogExport] = []
    who = resource(settings.resource, environment, about)
    if is_on(settings.traces.otlp, "traces", environment):
        to = destination(settings.traces.otlp, "traces", environment)
        found.append(SpanExport(to, tracer, who, metrics))
    if is_on(settings.logs.otlp, "logs", environment):
        to = destination(settings.logs.otlp, "logs", environment)
        found.append(LogExport(to, who, metrics))
    return found
