"""An OpenTelemetry collector for tests: takes OTLP over HTTP or gRPC and keeps spans and log records."""

from __future__ import annotations

import gzip
import ssl
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsServiceRequest,
    ExportLogsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
from opentelemetry.proto.trace.v1.trace_pb2 import Span


@dataclass(slots=True)
class Collector:
    """What came, in order of arrival."""

    endpoint: str = ""
    spans: list[Span] = field(default_factory=list)
    resources: dict[bytes, dict[str, str]] = field(default_factory=dict)
    """Span id -> attributes of its resource."""
    logs: list[LogRecord] = field(default_factory=list)
    headers: list[Mapping[str, str]] = field(default_factory=list)

    def trace(self, trace_id: str) -> list[Span]:
        """The spans of one trace."""
        return [span for span in list(self.spans) if span.trace_id.hex() == trace_id]

    def named(self, name: str) -> list[Span]:
        """The spans of one name."""
        return [span for span in list(self.spans) if span.name == name]

    def take_spans(self, request: ExportTraceServiceRequest) -> None:
        for item in request.resource_spans:
            about = {a.key: a.value.string_value for a in item.resource.attributes}
            for scope in item.scope_spans:
                self.spans += scope.spans
                self.resources.update((span.span_id, about) for span in scope.spans)

    def take_logs(self, request: ExportLogsServiceRequest) -> None:
        self.logs += [
            record
            for item in request.resource_logs
            for scope in item.scope_logs
            for record in scope.log_records
        ]


def attributes_of(span: Span | LogRecord) -> dict[str, Any]:
    """The attributes of a span or log record as plain values."""
    return {a.key: getattr(a.value, str(a.value.WhichOneof("value"))) for a in span.attributes}


@contextmanager
def a_collector(tls: ssl.SSLContext | None = None) -> Iterator[Collector]:
    """Listen over HTTP, or HTTPS, for the length of the block."""
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            collector.headers.append({k.lower(): v for k, v in self.headers.items()})
            if self.path == "/v1/logs":
                collector.take_logs(ExportLogsServiceRequest.FromString(body))
                answer = ExportLogsServiceResponse().SerializeToString()
            else:
                collector.take_spans(ExportTraceServiceRequest.FromString(body))
                answer = ExportTraceServiceResponse().SerializeToString()
            self.send_response(200)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, request: Any, client_address: Any) -> None:
            """Who does not like our certificate goes away; nothing to tell."""

    server = Server(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    if tls is not None:
        server.socket = tls.wrap_socket(
            server.socket, server_side=True, do_handshake_on_connect=False
        )
    scheme = "http" if tls is None else "https"
    collector.endpoint = f"{scheme}://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield collector
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


@contextmanager
def a_grpc_collector(credentials: Any = None) -> Iterator[Collector]:
    """Listen over gRPC for the length of the block."""
    import grpc
    from opentelemetry.proto.collector.logs.v1 import logs_service_pb2_grpc
    from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc

    collector = Collector()

    class Traces(trace_service_pb2_grpc.TraceServiceServicer):
        def Export(self, request: Any, context: Any) -> Any:  # noqa: N802  gRPC's name
            collector.headers.append(dict(context.invocation_metadata()))
            collector.take_spans(request)
            return ExportTraceServiceResponse()

    class Logs(logs_service_pb2_grpc.LogsServiceServicer):
        def Export(self, request: Any, _context: Any) -> Any:  # noqa: N802  gRPC's name
            collector.take_logs(request)
            return ExportLogsServiceResponse()

    server = grpc.server(ThreadPoolExecutor(2))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(Traces(), server)  # type: ignore[no-untyped-call]  # generated
    logs_service_pb2_grpc.add_LogsServiceServicer_to_server(Logs(), server)  # type: ignore[no-untyped-call]  # generated
    if credentials is None:
        collector.endpoint = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    else:
        port = server.add_secure_port("127.0.0.1:0", credentials)
        collector.endpoint = f"https://127.0.0.1:{port}"
    server.start()
    try:
        yield collector
    finally:
        server.stop(0).wait(10)
