"""RQL as a predicate over values in memory: conditions, event filters, and searching without an index.

Two worlds differ: in memory an absent field is different (`ne`) from any value, in a search it is not there
to be compared; in memory values of two types are ordered as texts, in a search they are not ordered.
"""

from __future__ import annotations

import calendar
import enum
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeAlias

from gateway.model.glob import glob_matches
from gateway.model.json import Json, Pointer
from gateway.twin.rql import Comparison, Literal, Logical, Node, Property, TimeValue

Lookup: TypeAlias = Callable[[Property], Sequence[Json]]
"""All values that a property has: none when absent, several for a wildcard."""

Predicate: TypeAlias = Callable[[Lookup, datetime], bool]


class Semantics(enum.Enum):
    """Which of Ditto's two meanings a filter has."""

    MEMORY = "memory"
    SEARCH = "search"


def predicate(node: Node, semantics: Semantics = Semantics.MEMORY) -> Predicate:
    """Turn a tree into a function of (lookup, now)."""
    if isinstance(node, Logical):
        return _LOGICAL[node.op]([predicate(operand, semantics) for operand in node.operands])
    return _comparison(node, semantics)


def document_lookup(document: Json, placeholders: Mapping[str, Json] | None = None) -> Lookup:
    """Look properties up in a document; `*` stands for any member; placeholders by their text."""
    known = placeholders or {}

    def lookup(wanted: Property) -> Sequence[Json]:
        if wanted.is_placeholder:
            return [known[wanted.text]] if wanted.text in known else []
        return list(_values(document, wanted.pointer))

    return lookup


def _values(value: Json, pointer: Pointer) -> Iterator[Json]:
    if not pointer:
        yield value
        return
    if isinstance(value, list):
        for element in value:
            if isinstance(element, dict):
                yield from _values(element, pointer)
    elif isinstance(value, dict):
        if pointer[0] == "*":
            for below in value.values():
                yield from _values(below, pointer[1:])
        elif pointer[0] in value:
            yield from _values(value[pointer[0]], pointer[1:])


def _all(operands: list[Predicate]) -> Predicate:
    return lambda lookup, now: all(operand(lookup, now) for operand in operands)


def _any(operands: list[Predicate]) -> Predicate:
    return lambda lookup, now: any(operand(lookup, now) for operand in operands)


def _not(operands: list[Predicate]) -> Predicate:
    (operand,) = operands
    return lambda lookup, now: not operand(lookup, now)


_LOGICAL: Final = {"and": _all, "or": _any, "not": _not}


def _comparison(node: Comparison, semantics: Semantics) -> Predicate:
    wanted, values = node.property, node.values
    if node.op == "exists":
        return lambda lookup, _: len(lookup(wanted)) > 0
    if node.op == "empty":
        return lambda lookup, _: all(_is_empty(value) for value in lookup(wanted))
    if node.op == "ne":
        return _unequal(node, semantics)
    if node.op == "in":
        return _among(node)
    test = (_TESTS if semantics is Semantics.MEMORY else _SEARCH_TESTS)[node.op]

    def holds(lookup: Lookup, now: datetime) -> bool:
        candidates = _spread(lookup(wanted))
        return any(
            test(candidate, resolved(value, now)) for candidate in candidates for value in values
        )

    return holds


def _among(node: Comparison) -> Predicate:
    """One look for each value found, however many are listed."""
    wanted = node.property
    listed = frozenset(_kind_and(v) for v in node.values if not isinstance(v, TimeValue))
    times = [value for value in node.values if isinstance(value, TimeValue)]

    def holds(lookup: Lookup, now: datetime) -> bool:
        known = listed | {_kind_and(resolved(value, now)) for value in times} if times else listed
        return any(
            _kind_and(candidate) in known
            for candidate in _spread(lookup(wanted))
            if not isinstance(candidate, (dict, list))
        )

    return holds


def _kind_and(value: Json) -> tuple[str, Json]:
    """Equal for values that are equal: numbers of both types are, a boolean is no number."""
    return ("number" if _is_number(value) else type(value).__name__), value


def _unequal(node: Comparison, semantics: Semantics) -> Predicate:
    wanted, (value,) = node.property, node.values

    def holds(lookup: Lookup, now: datetime) -> bool:
        found = lookup(wanted)
        if not found:
            return semantics is Semantics.MEMORY
        expected = resolved(value, now)
        return not any(_equal(candidate, expected) for candidate in _spread(found))

    return holds


def _spread(values: Sequence[Json]) -> list[Json]:
    """Values, and the elements of those that are arrays."""
    spread: list[Json] = []
    for value in values:
        if isinstance(value, list):
            spread += value
        else:
            spread.append(value)
    return spread


def _is_empty(value: Json) -> bool:
    return value is None or value in ("", [], {})


def _is_number(value: Json) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _equal(one: Json, other: Json) -> bool:
    if _is_number(one) and _is_number(other):
        return one == other
    return type(one) is type(other) and one == other


def _ordered(judge: Callable[[Any, Any], bool]) -> Callable[[Json, Json], bool]:
    """Numbers by value; otherwise both as text, as Ditto does. Nothing is less than null."""

    def test(one: Json, other: Json) -> bool:
        if one is None or other is None or isinstance(one, (dict, list)):
            return False
        if _is_number(one) and _is_number(other):
            return judge(one, other)
        return judge(_text(one), _text(other))

    return test


def _text(value: Json) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _like(value: Json, pattern: Json) -> bool:
    return isinstance(value, str) and glob_matches(str(pattern), value)


def _ilike(value: Json, pattern: Json) -> bool:
    return isinstance(value, str) and glob_matches(str(pattern).lower(), value.lower())


_TESTS: Final[dict[str, Callable[[Json, Json], bool]]] = {
    "eq": _equal,
    "gt": _ordered(lambda one, other: one > other),
    "ge": _ordered(lambda one, other: one >= other),
    "lt": _ordered(lambda one, other: one < other),
    "le": _ordered(lambda one, other: one <= other),
    "like": _like,
    "ilike": _ilike,
}


def _same_type(judge: Callable[[Any, Any], bool]) -> Callable[[Json, Json], bool]:
    """Numbers with numbers, texts with texts, booleans with booleans; nothing else has an order."""

    def test(one: Json, other: Json) -> bool:
        if _is_number(one):
            return _is_number(other) and judge(one, other)
        return isinstance(one, (str, bool)) and type(one) is type(other) and judge(one, other)

    return test


_SEARCH_TESTS: Final[dict[str, Callable[[Json, Json], bool]]] = {
    **_TESTS,
    "gt": _same_type(lambda one, other: one > other),
    "ge": _same_type(lambda one, other: one >= other),
    "lt": _same_type(lambda one, other: one < other),
    "le": _same_type(lambda one, other: one <= other),
}


# --- time --------------------------------------------------------------------------------------

_SECONDS: Final = {"ms": 0.001, "s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
_MONTHS: Final = {"mo": 1, "y": 12}
_CUT: Final[dict[str, dict[str, int]]] = {
    "s": {"microsecond": 0},
    "m": {"second": 0, "microsecond": 0},
    "h": {"minute": 0, "second": 0, "microsecond": 0},
    "d": {"hour": 0, "minute": 0, "second": 0, "microsecond": 0},
    "mo": {"day": 1, "hour": 0, "minute": 0, "second": 0, "microsecond": 0},
    "y": {"month": 1, "day": 1, "hour": 0, "minute": 0, "second": 0, "microsecond": 0},
}


def resolved(value: Literal, now: datetime) -> Json:
    """A literal as JSON; a time value at this instant."""
    if not isinstance(value, TimeValue):
        return value
    try:
        moment = _cut(_shifted(now.astimezone(UTC), value), value.truncate)
    except (OverflowError, ValueError):
        moment = (
            datetime.max.replace(tzinfo=UTC)
            if value.amount > 0
            else datetime.min.replace(tzinfo=UTC)
        )
    if value.is_millis:
        return int(moment.timestamp() * 1_000)
    return instant(moment)


def instant(moment: datetime) -> str:
    """ISO 8601 in UTC with `Z`, as things carry it."""
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _shifted(now: datetime, value: TimeValue) -> datetime:
    if value.unit in _SECONDS:
        return now + timedelta(seconds=value.amount * _SECONDS[value.unit])
    months = now.month - 1 + value.amount * _MONTHS[value.unit]
    year, month = now.year + months // 12, months % 12 + 1
    day = min(now.day, calendar.monthrange(year, month)[1])
    return now.replace(year=year, month=month, day=day)


def _cut(moment: datetime, unit: str | None) -> datetime:
    if unit is None:
        return moment
    if unit == "ms":
        return moment.replace(microsecond=moment.microsecond // 1_000 * 1_000)
    if unit == "w":
        return _cut(moment, "d") - timedelta(days=moment.weekday())
    fields: dict[str, Any] = dict(_CUT[unit])
    return moment.replace(**fields)
