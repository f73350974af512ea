"""Log lines on their way to a collector: what is kept of a record, and the handler that keeps it.

Lines of the exporter itself, and of the libraries below it, are not exported: each would cause the next.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from gateway.observe.logs import facts_of

OWN = ("gateway.observe.batches", "opentelemetry", "grpc", "urllib3")
MAX_TEXT = 8_192
"""Characters of a message, a fact or a traceback."""
MAX_FACTS = 32
SCALARS = (str, int, float, bool)


@dataclass(frozen=True, slots=True)
class LogLine:
    """Units:  `at` in nanoseconds since the epoch."""

    at: int
    level: int
    severity: str
    message: str
    trace_id: str
    span_id: str
    facts: Mapping[str, str | int | float | bool]


def line_of(record: logging.LogRecord) -> LogLine:
    """Return what is kept of a record."""
    facts: dict[str, str | int | float | bool] = {"logger.name": record.name}
    for key, value in list(facts_of(record).items())[:MAX_FACTS]:
        facts[key] = value if isinstance(value, (int, float)) else str(value)[:MAX_TEXT]
    trace_id, span_id = str(facts.pop("trace_id", "")), str(facts.pop("span_id", ""))
    if record.exc_info and record.exc_info[0] is not None:
        facts["exception.type"] = record.exc_info[0].__name__
        facts["exception.message"] = str(record.exc_info[1])[:MAX_TEXT]
        facts["exception.stacktrace"] = logging.Formatter().formatException(record.exc_info)[
            -MAX_TEXT:
        ]
    return LogLine(
        int(record.created * 1e9),
        record.levelno,
        record.levelname,
        record.getMessage()[:MAX_TEXT],
        trace_id,
        span_id,
        facts,
    )


class LinesHandler(logging.Handler):
    """Hands each record on as a line; from any thread."""

    def __init__(self, put: Callable[[LogLine], None]) -> None:
        super().__init__()
        self._put = put

    def emit(self, record: logging.LogRecord) -> None:
        if not record.name.startswith(OWN):
            self._put(line_of(record))
