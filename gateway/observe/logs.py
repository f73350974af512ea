"""Structured logs: constant text, facts as fields; one line per record on standard error."""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import TextIO

from gateway.observe.tracing import current_span

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
CORRELATION = "correlation-id"
"""The key that Ditto's log lines have for it."""
NOISY = ("aiohttp.access", "asyncio", "aiohttp.server")


def facts_of(record: logging.LogRecord) -> dict[str, object]:
    """Return what a caller gave in `extra=`."""
    return {k: v for k, v in vars(record).items() if k not in _STANDARD}


class Traced(logging.Filter):
    """Adds `trace_id`, `span_id` and the request's `correlation-id` where they are known.

    They are those of the span whose `with` block the line was logged in; callbacks of the fast paths,
    which have
    none, name theirs as the fact `trace`. Asked only for lines that are really logged.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        facts = record.__dict__
        if "trace_id" in facts:
            return True
        span = current_span()
        named = facts.pop("trace", None)
        if named is not None:
            facts["trace_id"] = named
        elif span is not None:
            facts["trace_id"], facts["span_id"] = span.context.trace_id, span.context.span_id
            if CORRELATION in span.attributes:
                facts.setdefault(CORRELATION, span.attributes[CORRELATION])
        return True


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, and the facts beside them."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": _instant(record.created),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **facts_of(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str, ensure_ascii=False)


class TextFormatter(logging.Formatter):
    """For a person: time, level, logger, message, `key=value` facts."""

    def format(self, record: logging.LogRecord) -> str:
        facts = "".join(f" {k}={_quoted(v)}" for k, v in facts_of(record).items())
        where = record.name.removeprefix("gateway.")
        line = f"{_instant(record.created)} {record.levelname:<7} {where}: {record.getMessage()}{facts}"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


class Strangers(logging.Filter):
    """Tells of bytes that are no HTTP request in one line; aiohttp reports them as errors with tracebacks."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if type(error).__module__ == "aiohttp.http_exceptions":
            record.levelno, record.levelname = logging.INFO, "INFO"
            record.msg, record.args, record.exc_info = "not an HTTP request", (), None
            record.cause = type(error).__name__
        return True


def set_up(level: str = "INFO", form: str = "text", stream: TextIO | None = None) -> None:
    """Send all logs to one stream.

    Shape:  `level` DEBUG, INFO, WARNING or ERROR; `form` text or json.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.addFilter(Traced())
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level if level in _LEVELS else "INFO")
    for name in NOISY:
        logging.getLogger(name).setLevel(logging.WARNING)
    server = logging.getLogger("aiohttp.server")
    server.filters[:] = [Strangers()]


def _instant(seconds: float) -> str:
    millis = int(seconds * 1_000) % 1_000
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{millis:03d}Z"


def _quoted(value: object) -> str:
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if " " in text or '"' in text or not text else text
