"""What the process's log says, and how."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest
from aiohttp.http_exceptions import LineTooLong

from gateway.observe import logs
from gateway.observe.tracing import Tracer


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    root, server = logging.getLogger(), logging.getLogger("aiohttp.server")
    before = root.handlers[:], root.level, server.filters[:]
    stream = io.StringIO()
    logs.set_up(form="json", stream=stream)
    yield stream
    root.handlers[:], server.filters[:] = before[0], before[2]
    root.setLevel(before[1])


def report(error: Exception) -> None:
    server = logging.getLogger("aiohttp.server")
    server.error("Error handling request", exc_info=(type(error), error, None))


def test_bytes_that_are_no_http_request_are_one_line_and_no_error(stream: io.StringIO) -> None:
    report(LineTooLong(b"secret", 100))
    line = json.loads(stream.getvalue())
    assert (line["level"], line["message"], line["cause"]) == (
        "INFO",
        "not an HTTP request",
        "LineTooLong",
    )
    assert "secret" not in stream.getvalue()


def test_a_bug_in_a_handler_stays_an_error_with_its_traceback(stream: io.StringIO) -> None:
    report(ValueError("a bug"))
    line = json.loads(stream.getvalue())
    assert line["level"] == "ERROR"
    assert "ValueError: a bug" in line["exception"]


def test_a_line_inside_a_span_tells_its_trace_and_correlation_id(stream: io.StringIO) -> None:
    logs.set_up("INFO", "json", stream)
    with Tracer().start("request") as span:
        span.set(logs.CORRELATION, "c-1")
        logging.getLogger("room").info("inside")
    logging.getLogger("room").info("by hand", extra={"trace": "f" * 32})
    logging.getLogger("room").info("outside")
    inside, by_hand, outside = (json.loads(line) for line in stream.getvalue().splitlines())
    assert inside["trace_id"] == span.context.trace_id
    assert inside["span_id"] == span.context.span_id
    assert inside["correlation-id"] == "c-1"
    assert by_hand["trace_id"] == "f" * 32
    assert "trace_id" not in outside
