"""Spans and log lines reach OTLP receivers over both transports; one that is away holds nothing up."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from gateway.config.observe import Logs, Observe, Otlp, Traces
from gateway.errors import InvalidSetting
from gateway.observe.metrics import Metrics
from gateway.observe.otlp import build_exports
from gateway.observe.tracing import Tracer
from gateway.runtime.module import Readiness, running
from tests.otlp_receiver import Collector, a_collector, a_grpc_collector, attributes_of

DEAD = "http://127.0.0.1:9"


@pytest.fixture(params=["http/protobuf", "grpc"])
def receiver(request: pytest.FixtureRequest) -> Iterator[tuple[str, Collector]]:
    make = a_collector if request.param == "http/protobuf" else a_grpc_collector
    with make() as collector:
        yield request.param, collector


def settings_for(collector: Collector, protocol: str, **more: Any) -> Observe:
    otlp = Otlp(enabled=True, endpoint=collector.endpoint, protocol=protocol, timeout=3, **more)
    return Observe(
        traces=Traces(otlp=otlp), logs=Logs(otlp=otlp), resource={"deployment.environment": "test"}
    )


@asynccontextmanager
async def exporting(settings: Observe, tracer: Tracer, metrics: Metrics) -> AsyncIterator[None]:
    spans, *logs = build_exports(settings, tracer, metrics, {"service.version": "1"})
    async with running(spans, Readiness(())):
        if not logs:
            yield
            return
        async with running(logs[0], Readiness(())):
            yield


def counted(metrics: Metrics, what: str, outcome: str) -> float:
    return (
        metrics.registry.get_sample_value(f"twinspan_otlp_{what}_total", {"outcome": outcome}) or 0
    )


async def test_spans_and_logs_arrive_with_their_resource_headers_and_trace(
    receiver: tuple[str, Collector],
) -> None:
    protocol, collector = receiver
    tracer, metrics = Tracer(), Metrics()
    settings = settings_for(collector, protocol, headers={"Authorization": "Bearer x"})
    async with exporting(settings, tracer, metrics):
        with tracer.start("outer", None, "server", {"tenant_id": "t"}) as outer:
            logging.getLogger("room").warning("it is odd", extra={"count": 3})
            tracer.start("inner", outer.context, "client").end(ValueError("no"))
    (outer_span,), (inner_span,) = collector.named("outer"), collector.named("inner")
    assert inner_span.parent_span_id == outer_span.span_id
    assert inner_span.trace_id == outer_span.trace_id
    assert inner_span.status.message == "no"
    assert attributes_of(outer_span) == {"tenant_id": "t"}
    about = collector.resources[outer_span.span_id]
    assert about["service.name"] == "twinspan"
    assert about["deployment.environment"] == "test"
    assert collector.headers[0]["authorization"] == "Bearer x"
    (line,) = [record for record in collector.logs if record.body.string_value == "it is odd"]
    assert line.trace_id == outer_span.trace_id
    assert line.span_id == outer_span.span_id
    assert attributes_of(line)["count"] == 3
    assert counted(metrics, "spans", "sent") == 2


async def test_gzip_is_sent_where_it_is_asked_for() -> None:
    with a_collector() as collector:
        tracer = Tracer()
        settings = settings_for(collector, "http/protobuf", compression="gzip")
        async with exporting(settings, tracer, Metrics()):
            tracer.start("small").end()
        assert collector.headers[0]["content-encoding"] == "gzip"
        assert len(collector.named("small")) == 1


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
async def test_a_collector_that_is_away_costs_spans_and_no_more(protocol: str) -> None:
    tracer, metrics = Tracer(), Metrics()
    otlp = Otlp(enabled=True, endpoint=DEAD, protocol=protocol, timeout=0.5, max_queue=100)
    async with exporting(Observe(traces=Traces(otlp=otlp)), tracer, metrics):
        for _ in range(150):
            tracer.start("lost").end()
        assert counted(metrics, "spans", "dropped") == 50
        ending = time.monotonic()
    assert time.monotonic() - ending < 5  # the time-out is half a second
    assert counted(metrics, "spans", "failed") == 100


async def test_a_collector_that_does_not_answer_holds_nobody_up_at_the_end() -> None:
    async def silent(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await held.wait()
        writer.close()

    held = asyncio.Event()
    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()[:2]
    tracer, metrics = Tracer(), Metrics()
    otlp = Otlp(enabled=True, endpoint=f"http://{host}:{port}", timeout=0.5)
    async with exporting(Observe(traces=Traces(otlp=otlp)), tracer, metrics):
        tracer.start("lost").end()
    held.set()
    server.close()
    await server.wait_closed()


def test_lines_of_the_exporter_are_not_exported() -> None:
    from gateway.observe.loglines import LinesHandler, LogLine

    lines: list[LogLine] = []
    handler = LinesHandler(lines.append)
    for name in ("urllib3.connectionpool", "gateway.observe.batches", "gateway.hono"):
        handler.handle(logging.LogRecord(name, 30, "", 1, "text", (), None))
    assert [line.facts["logger.name"] for line in lines] == ["gateway.hono"]


@pytest.mark.parametrize(
    ("more", "named"),
    [
        ({"protocol": "udp"}, "protocol"),
        ({"compression": "zip"}, "compression"),
        ({"endpoint": "collector:4317"}, "endpoint"),
    ],
    ids=["protocol", "compression", "endpoint"],
)
def test_a_wrong_setting_is_named(more: Mapping[str, str], named: str) -> None:
    otlp = Otlp(enabled=True, **more)  # type: ignore[arg-type]
    with pytest.raises(InvalidSetting, match=named):
        build_exports(Observe(traces=Traces(otlp=otlp)), Tracer(), Metrics(), {})


async def test_a_client_certificate_needs_its_key(tmp_path: Path) -> None:
    file = tmp_path / "a.pem"
    file.write_text("x")
    otlp = Otlp(enabled=True, endpoint="https://127.0.0.1:9", cert_file=str(file))
    (spans,) = build_exports(Observe(traces=Traces(otlp=otlp)), Tracer(), Metrics(), {})
    with pytest.raises(InvalidSetting, match="key_file"):
        await spans.run(lambda: None)
