"""Export of finished spans to an OpenTelemetry collector; the SDK is imported only when this is on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from gateway.config.observe import Otlp
from gateway.errors import InvalidSetting
from gateway.observe.tracing import Span, Tracer

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import ReadableSpan

SCOPE = "twinspan"


class OtlpExport:
    """Module: sends sampled spans in batches; a collector that is away costs nothing but the spans."""

    name = "otlp"

    def __init__(self, settings: Otlp, tracer: Tracer, resource: Mapping[str, str]) -> None:
        self._settings = settings
        self._tracer = tracer
        self._resource = dict(resource)

    async def run(self, ready: Callable[[], None]) -> None:
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
        except ImportError as error:
            raise InvalidSetting(
                "observe.traces.otlp.enabled: needs OpenTelemetry: pip install 'twinspan[otlp]'"
            ) from error
        exporter = OTLPSpanExporter(
            endpoint=self._settings.endpoint.rstrip("/") + "/v1/traces",
            timeout=self._settings.timeout,
        )
        processor = BatchSpanProcessor(
            exporter,
            max_queue_size=self._settings.max_queue,
            schedule_delay_millis=1_000,
            max_export_batch_size=min(512, self._settings.max_queue),
        )
        resource = Resource.create(self._resource)
        self._tracer.add_sink(lambda span: processor.on_end(_readable(span, resource)))
        ready()
        try:
            await asyncio.Event().wait()
        finally:
            # Flushing talks to the network: off the loop, and no longer than one export may take.
            await asyncio.get_running_loop().run_in_executor(None, processor.shutdown)


def _readable(span: Span, resource: Resource) -> ReadableSpan:
    """Turn our span into the SDK's."""
    from opentelemetry.sdk.trace import Event, ReadableSpan
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope
    from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

    def context(span_id: str, is_remote: bool) -> SpanContext:
        return SpanContext(
            int(span.context.trace_id, 16),
            int(span_id, 16),
            is_remote,
            TraceFlags(span.context.flags & 1),
        )

    return ReadableSpan(
        name=span.name,
        context=context(span.context.span_id, False),
        parent=context(span.parent_id, True) if span.parent_id else None,
        resource=resource,
        attributes=span.attributes,
        events=[Event(name, dict(attributes), at) for at, name, attributes in span.events],
        kind=SpanKind[span.kind.upper()],
        status=Status(StatusCode.ERROR, span.error) if span.error else Status(StatusCode.UNSET),
        start_time=span.started,
        end_time=span.ended,
        instrumentation_scope=InstrumentationScope(SCOPE),
    )
