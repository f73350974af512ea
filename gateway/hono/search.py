"""Filters, order and pages of the registry's searches, over documents as the API shows them.

Source: Hono device registry API v1, parameters pageSize, pageOffset, filterJson, sortJson.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import translate
from functools import cmp_to_key

import msgspec

from gateway.errors import BadRequest, NotFound
from gateway.model.json import Json, JsonObject, Pointer, parse_pointer
from gateway.model.members import Members, json_name

MAX_PAGE = 200
DEFAULT_PAGE = 30
MAX_CONDITIONS = 20
MAX_OFFSET = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Filter:
    """One condition: the value at `field` equals `value`, or matches `pattern` where that has wildcards."""

    field: Pointer
    value: str | int | float | bool
    pattern: re.Pattern[str] | None = None

    def matches(self, document: JsonObject) -> bool:
        found = value_at(document, self.field)
        if self.pattern is not None:
            return isinstance(found, str) and self.pattern.fullmatch(found) is not None
        return found == self.value and isinstance(found, bool) == isinstance(self.value, bool)


@dataclass(frozen=True, slots=True)
class Order:
    """One key to sort by."""

    field: Pointer
    descending: bool = False


@dataclass(frozen=True, slots=True)
class Search:
    """A whole search; `offset` counts pages."""

    filters: tuple[Filter, ...] = ()
    orders: tuple[Order, ...] = ()
    size: int = DEFAULT_PAGE
    offset: int = 0
    is_gateway: bool | None = None

    def run(self, documents: Iterable[JsonObject]) -> JsonObject:
        """Return `{"total": n, "result": [...]}`.

        Errors: NotFound when nothing matches.
        """
        found = [d for d in documents if all(f.matches(d) for f in self.filters)]
        if not found:
            raise NotFound("no entry matches the search")
        begin, end = self.offset * self.size, (self.offset + 1) * self.size
        key = cmp_to_key(self._compare)
        page = heapq.nsmallest(end, found, key=key) if self.orders else found
        return {"total": len(found), "result": [*page[begin:end]]}

    def _compare(self, one: JsonObject, other: JsonObject) -> int:
        for order in self.orders:
            a, b = _rank(value_at(one, order.field)), _rank(value_at(other, order.field))
            if a != b:
                return (1 if order.descending else -1) * (1 if a < b else -1)
        return 0


def _rank(value: Json) -> tuple[int, float | str]:
    """Make values of any type comparable: absent, numbers, texts, the rest, booleans."""
    if value is None:
        return 0, 0
    if isinstance(value, bool):
        return 4, int(value)
    if isinstance(value, int | float):
        return 1, value
    if isinstance(value, str):
        return 2, value
    return 3, 0


def value_at(document: Json, pointer: Pointer) -> Json:
    """Return the value at a pointer, None where there is none."""
    for name in pointer:
        if not isinstance(document, dict):
            return None
        document = document.get(name)
    return document


# --- reading the query -----------------------------------------------------------------------------


def parse_search(query: Sequence[tuple[str, str]], *, devices: bool) -> Search:
    """Read the query parameters; those that a search does not know are ignored, as HTTP servers do.

    Errors: BadRequest, naming the parameter.
    """
    filters = [_filter(v) for k, v in query if k == "filterJson"]
    orders = [_order(v) for k, v in query if k == "sortJson"]
    if len(filters) + len(orders) > MAX_CONDITIONS:
        raise BadRequest(f"at most {MAX_CONDITIONS} of filterJson and sortJson together")
    last = dict(query)
    return Search(
        tuple(filters),
        tuple(orders),
        _number(last, "pageSize", DEFAULT_PAGE, MAX_PAGE),
        _number(last, "pageOffset", 0, MAX_OFFSET),
        _is_gateway(last.get("isGateway")) if devices else None,
    )


def _number(query: dict[str, str], name: str, default: int, maximum: int) -> int:
    text = query.get(name)
    if text is None:
        return default
    if not text.isascii() or not text.isdigit() or len(text) > 10 or int(text) > maximum:
        raise BadRequest(f"{name}: expected an integer of 0..{maximum}, got {text[:32]!r}")
    return int(text)


def _is_gateway(text: str | None) -> bool | None:
    if text not in (None, "true", "false"):
        raise BadRequest(f"isGateway: expected true or false, got {text[:32]!r}")
    return None if text is None else text == "true"


def _members(name: str, text: str) -> Members:
    try:
        return Members(msgspec.json.decode(text), name)
    except (msgspec.DecodeError, RecursionError):
        raise BadRequest(f"{name}: expected a JSON object, got {text[:64]!r}") from None


def _filter(text: str) -> Filter:
    members = _members("filterJson", text)
    field = parse_pointer(members.required_text("field"))
    if members.text("op") not in (None, "eq"):
        raise members.fail("op", "eq")
    value = members.raw("value")
    if not isinstance(value, str | int | float | bool):
        raise members.fail("value", f"a string, number or boolean, got {json_name(value)}")
    members.end()
    return Filter(field, value, _pattern(value) if isinstance(value, str) else None)


def _pattern(value: str) -> re.Pattern[str] | None:
    """`*` is any run, `?` one character; nothing else is special."""
    if "*" not in value and "?" not in value:
        return None
    return re.compile(translate(re.sub(r"\*+", "*", value.replace("[", "[[]"))))


def _order(text: str) -> Order:
    members = _members("sortJson", text)
    field = parse_pointer(members.required_text("field"))
    direction = members.text("direction") or "asc"
    if direction not in ("asc", "desc"):
        raise members.fail("direction", f"asc or desc, got {direction[:32]!r}")
    members.end()
    return Order(field, direction == "desc")
