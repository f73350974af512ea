"""The one place that imports the OpenTelemetry SDK: exporters, and our spans and log lines in its form."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk._logs.export import LogRecordExportResult
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from gateway.errors import InvalidSetting
from gateway.observe.loglines import LogLine
from gateway.observe.otlp_choices import GRPC, Destination
from gateway.observe.tracing import Span

SCOPE = InstrumentationScope("twinspan")
SEVERITIES = {
    logging.DEBUG: SeverityNumber.DEBUG,
    logging.INFO: SeverityNumber.INFO,
    logging.WARNING: SeverityNumber.WARN,
    logging.ERROR: SeverityNumber.ERROR,
    logging.CRITICAL: SeverityNumber.FATAL,
}
MAX_RESOURCES = 2_000
QUIET = ("opentelemetry.exporter", "opentelemetry.sdk")

Parts = tuple[Callable[[Sequence[Any]], bool], Callable[[], None]]
"""export and shutdown"""


def span_exporter(to: Destination, own: Mapping[str, str]) -> Parts:
    """Return how to send spans. Errors: InvalidSetting."""
    _check(to)
    if to.protocol == GRPC:
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    else:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # type: ignore[assignment]
            OTLPSpanExporter,
        )
    exporter: Any = OTLPSpanExporter(**_options(to))
    resources = _Resources(own)

    def export(spans: Sequence[Span]) -> bool:
        found = [_readable(span, resources.of(span.resource)) for span in spans]
        return bool(exporter.export(found) is SpanExportResult.SUCCESS)

    return export, exporter.shutdown


def log_exporter(to: Destination, own: Mapping[str, str]) -> Parts:
    """Return how to send log lines. Errors: InvalidSetting."""
    _check(to)
    if to.protocol == GRPC:
        from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter
    else:
        from opentelemetry.exporter.otlp.proto.http._log_exporter import (  # type: ignore[assignment]
            OTLPLogExporter,
        )
    exporter: Any = OTLPLogExporter(**_options(to))
    resource = Resource(dict(own))

    def export(lines: Sequence[LogLine]) -> bool:
        found = [_record(line, resource) for line in lines]
        return bool(exporter.export(found) is LogRecordExportResult.SUCCESS)

    return export, exporter.shutdown


def _check(to: Destination) -> None:
    for file in filter(None, (to.ca_file, to.cert_file, to.key_file)):
        if not Path(file).is_file():
            raise InvalidSetting(f"OTLP: there is no file {file}")
    if bool(to.cert_file) != bool(to.key_file):
        raise InvalidSetting("OTLP: a client certificate needs cert_file and key_file")
    for name in QUIET:  # they tell each failure; we tell the first
        logging.getLogger(name).setLevel(logging.CRITICAL)


def _options(to: Destination) -> dict[str, Any]:
    common = {"endpoint": to.endpoint, "timeout": to.timeout}
    if to.protocol != GRPC:
        from opentelemetry.exporter.otlp.proto.http import Compression

        return {
            **common,
            "headers": dict(to.headers),
            "compression": Compression(to.compression),
            "certificate_file": to.ca_file or None,
            "client_certificate_file": to.cert_file or None,
            "client_key_file": to.key_file or None,
            "session": _session(to),
        }
    import grpc

    insecure = to.endpoint.startswith("http://")
    return {
        **common,
        "headers": tuple((name.lower(), value) for name, value in to.headers.items()),
        "insecure": insecure,
        "credentials": None if insecure else _credentials(to),
        "compression": grpc.Compression.Gzip
        if to.compression == "gzip"
        else grpc.Compression.NoCompression,
    }


def _session(to: Destination) -> Any:
    """A session whose `ca_file` counts: by itself it would let REQUESTS_CA_BUNDLE win."""
    import requests

    class Session(requests.Session):
        def merge_environment_settings(
            self, url: Any, proxies: Any, stream: Any, verify: Any, cert: Any
        ) -> Any:
            verify = to.ca_file or verify
            return super().merge_environment_settings(url, proxies, stream, verify, cert)

    return Session()


def _credentials(to: Destination) -> Any:
    import grpc

    def read(file: str) -> bytes | None:
        return Path(file).read_bytes() if file else None

    return grpc.ssl_channel_credentials(
        read(to.ca_file) or _system_certificates(), read(to.key_file), read(to.cert_file)
    )


def _system_certificates() -> bytes | None:
    """gRPC brings certificates of its own; the machine's are those that an operator knows."""
    file = ssl.get_default_verify_paths().cafile
    return Path(file).read_bytes() if file and Path(file).is_file() else None


class _Resources:
    """Resources of spans: ours, and those of edges whose spans came through the hub."""

    def __init__(self, own: Mapping[str, str]) -> None:
        self._own = Resource(dict(own))
        self._other = lru_cache(MAX_RESOURCES)(lambda pairs: Resource(dict(pairs)))

    def of(self, named: Mapping[str, Any] | None) -> Resource:
        if named is None:
            return self._own
        return self._other(tuple(sorted(named.items())))


def _readable(span: Span, resource: Resource) -> ReadableSpan:
    """Turn our span into the SDK's."""

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
        instrumentation_scope=SCOPE,
    )


def _record(line: LogLine, resource: Resource) -> ReadableLogRecord:
    return ReadableLogRecord(
        log_record=LogRecord(
            timestamp=line.at,
            observed_timestamp=line.at,
            trace_id=int(line.trace_id or "0", 16),
            span_id=int(line.span_id or "0", 16),
            trace_flags=TraceFlags(1 if line.trace_id else 0),
            severity_text=line.severity,
            severity_number=SEVERITIES.get(line.level, SeverityNumber.TRACE),
            body=line.message,
            attributes=dict(line.facts),
        ),
        resource=resource,
        instrumentation_scope=SCOPE,
    )
