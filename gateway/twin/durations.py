"""Durations as policies write them (`90s`, `5m`, `1h`), and instants rounded up to a grain."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Final

from gateway.model.json import Json

_DURATION = re.compile(r"([1-9]\d{0,8})(ms|s|m|h)")
_SECONDS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3_600.0}
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def seconds_of(value: Json) -> float:
    """The seconds of a duration.

    Errors: ValueError for what is none.
    """
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"'{str(value)[:50]}' is no positive number followed by h, m, s or ms")
    return int(match[1]) * _SECONDS[match[2]]


def duration_text(seconds: float) -> str:
    """A duration in the largest unit that says it without a fraction."""
    for unit in ("h", "m", "s"):
        if seconds % _SECONDS[unit] == 0:
            return f"{int(seconds / _SECONDS[unit])}{unit}"
    return f"{round(seconds * 1_000)}ms"


def rounded_up(seconds: float, grain: float) -> float:
    """The next multiple of a grain; a grain of 0 keeps the value."""
    return seconds if grain <= 0 else -(-seconds // grain) * grain


def instant_of(text: str) -> datetime:
    """An ISO 8601 instant; without an offset it is UTC.

    Errors: ValueError, OverflowError.
    """
    moment = datetime.fromisoformat(text)
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def instant_text(moment: datetime) -> str:
    """ISO 8601 in UTC with `Z`."""
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def instant_rounded_up(moment: datetime, grain: float) -> datetime:
    """The next instant that is a multiple of a grain since 1970.

    Errors: OverflowError.
    """
    if grain <= 0:
        return moment
    step = timedelta(seconds=grain)
    return _EPOCH + -(-(moment - _EPOCH) // step) * step
