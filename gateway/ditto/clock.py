"""The wall clock as rooms of this floor are handed it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import TypeAlias

from gateway.twin.rql import Comparison, TimeValue, parse
from gateway.twin.rql_predicate import resolved

Clock: TypeAlias = Callable[[], datetime]


def utc_now() -> datetime:
    """This instant in UTC."""
    return datetime.now(UTC)


def text_of(moment: datetime) -> str:
    """ISO 8601 with six digits of a second and `Z`: texts order as instants do."""
    return moment.isoformat(timespec="microseconds")[:-6] + "Z"  # without `+00:00`


def time_text(name: str) -> str | None:
    """What the placeholder `time:<name>` stands for now, e.g. `now-1h[m]`; None for no such name.

    Errors: BadRequest.
    """
    node = parse(f"eq(a,time:{name})")
    value = node.values[0] if isinstance(node, Comparison) else None
    return str(resolved(value, utc_now())) if isinstance(value, TimeValue) else None
