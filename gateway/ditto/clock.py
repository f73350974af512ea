"""The wall clock as rooms of this floor are handed it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import TypeAlias

Clock: TypeAlias = Callable[[], datetime]


def utc_now() -> datetime:
    """This instant in UTC."""
    return datetime.now(UTC)


def text_of(moment: datetime) -> str:
    """ISO 8601 with six digits of a second and `Z`: texts order as instants do."""
    return moment.isoformat(timespec="microseconds")[:-6] + "Z"  # without `+00:00`
