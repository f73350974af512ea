"""Searching things: a filter evaluated over all stored things, page by page.

There is no index yet: a search reads every thing of the namespaces asked for, so it costs in proportion to
their number. What it answers is exact and current, unlike Ditto's eventually consistent index.
"""

from __future__ import annotations

import asyncio
import base64
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import msgspec

from gateway.ditto.clock import text_of
from gateway.ditto.lane import Wait
from gateway.ditto.policies import PoliciesService
from gateway.errors import GatewayError
from gateway.model.entity_id import is_namespace, namespace_of
from gateway.model.json import Json, JsonObject, Pointer, format_pointer, parse_pointer
from gateway.model.thing import Thing
from gateway.store.things import ThingStore
from gateway.twin.ditto_errors import ditto_error
from gateway.twin.documents import MISSING, get
from gateway.twin.fields import FieldSelector
from gateway.twin.policy import Permissions
from gateway.twin.rql import SEARCH_ROOTS, Node, parse, require_roots
from gateway.twin.rql_predicate import Predicate, Semantics, document_lookup, predicate
from gateway.twin.showing import extended_json, readable_json

DEFAULT_SIZE: Final = 25
MAX_SIZE: Final = 200
_PAGE: Final = 200
_MAX_CURSOR: Final = 65_536


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchQuery:
    """A search as `/search/things` and the protocol's `search/subscribe` ask it.

    Shape:  `filter` RQL (several filters are joined by `gateway.twin.rql.joined`); `options` Ditto's text,
            e.g. `sort(+attributes/a,-thingId),size(50)`; `namespaces` empty for all.
    """

    subjects: tuple[str, ...]
    filter: str | None = None
    fields: str | None = None
    options: str | None = None
    namespaces: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchPage:
    """One page: `cursor` and `next_page_offset` are None where Ditto leaves them out."""

    items: list[Json]
    cursor: str | None = None
    next_page_offset: int | None = None


@dataclass(frozen=True, slots=True)
class SortKey:
    """One item of `sort(...)`."""

    pointer: Pointer
    is_descending: bool = False

    @property
    def text(self) -> str:
        return ("-" if self.is_descending else "+") + format_pointer(self.pointer)[1:]


@dataclass(frozen=True, slots=True)
class Options:
    """What `option` says; None where it says nothing."""

    sort: tuple[SortKey, ...] = ()
    size: int | None = None
    cursor: str | None = None
    limit: tuple[int, int] | None = None

    @property
    def page_size(self) -> int:
        return self.limit[1] if self.limit else self.size or DEFAULT_SIZE


class _Cursor(msgspec.Struct):
    """Where a listing goes on: the sort values of the last item, and what was asked."""

    filter: str | None
    namespaces: tuple[str, ...]
    sort: str
    values: list[Any]
    thing_id: str


_OPTION = re.compile(r"\s*(sort|size|cursor|limit)\(([^)]*)\)\s*(?:,|$)")


def parse_options(text: str | None) -> Options:
    """Read Ditto's `option`.

    Errors: BadRequest `thing-search:search.option.invalid`.
    """
    found: dict[str, str] = {}
    at = 0
    while text and at < len(text):
        match = _OPTION.match(text, at)
        if match is None:
            raise _invalid(f"'{text[at : at + 100]}' is not sort(), size(), cursor() or limit()")
        found[match.group(1)] = match.group(2).strip()
        at = match.end()
    return Options(
        _sort(found["sort"]) if "sort" in found else (),
        _number(found["size"], "size", 1) if "size" in found else None,
        found.get("cursor"),
        _limit(found["limit"]) if "limit" in found else None,
    )


def _invalid(reason: str) -> GatewayError:
    return ditto_error("thing-search:search.option.invalid", reason=reason)


def _sort(text: str) -> tuple[SortKey, ...]:
    keys = []
    for item in text.split(","):
        sign, name = item.strip()[:1], item.strip()[1:]
        if sign == " ":
            sign = "+"
        if sign not in ("+", "-") or not name:
            raise _invalid(f"sort: '{item}' begins with neither '+' nor '-'")
        pointer = parse_pointer(name)
        if pointer[0] not in SEARCH_ROOTS:
            raise _invalid(f"sort: the property '{name}' is unknown")
        keys.append(SortKey(pointer, sign == "-"))
    return tuple(keys)


def _number(text: str, name: str, least: int, most: int = MAX_SIZE) -> int:
    if not text.isdigit() or not least <= int(text[:9]) <= most:
        raise _invalid(f"{name} is between {least} and {most}, got '{text[:20]}'")
    return int(text)


def _limit(text: str) -> tuple[int, int]:
    offset, comma, count = text.partition(",")
    if not comma:
        raise _invalid("limit has an offset and a count")
    return _number(offset.strip(), "limit", 0, 10**8), _number(count.strip(), "limit", 1)


@dataclass(frozen=True, slots=True)
class _Hit:
    """A thing that matched: its sort values, and the thing as the caller may read it."""

    key: tuple[Any, ...]
    values: tuple[Json, ...]
    thing_id: str
    shown: JsonObject


class Searcher:
    """Evaluates searches over the store."""

    def __init__(self, store: ThingStore, policies: PoliciesService) -> None:
        self._store = store
        self._policies = policies

    async def count(self, query: SearchQuery, now: datetime) -> int:
        """How many things match and may be read.

        Errors: BadRequest as for `search`.
        """
        plan = _Plan(query, Options())
        total = 0
        async for _ in self._matches(plan, now, ""):
            total += 1
        return total

    async def search(self, query: SearchQuery, now: datetime) -> SearchPage:
        """One page of things that match and may be read.

        Errors: `rql.expression.invalid`, `thing-search:search.option.invalid`,
                `thing-search:search.namespaces.invalid`, `json.fieldselector.invalid`.
        """
        options = parse_options(query.options)
        cursor = _read_cursor(options, query) if options.cursor else None
        if cursor is not None:
            query = _resumed(query, cursor)
            options = Options(_sort(cursor.sort) if cursor.sort else (), options.size)
        plan = _Plan(query, options)
        offset = options.limit[0] if options.limit else 0
        hits = await self._hits(plan, now, cursor, offset + options.page_size + 1)
        page = hits[offset : offset + options.page_size]
        has_more = len(hits) > offset + options.page_size
        return SearchPage(
            items=[hit.shown for hit in page],
            cursor=_next_cursor(query, options, page) if has_more else None,
            next_page_offset=_next_offset(options, cursor, offset, has_more),
        )

    async def _hits(
        self, plan: _Plan, now: datetime, cursor: _Cursor | None, wanted: int
    ) -> list[_Hit]:
        """The first `wanted` hits in order, after the cursor."""
        after = cursor.thing_id if cursor and not plan.sort else ""
        start = plan.key(cursor.values, cursor.thing_id) if cursor else None
        hits: list[_Hit] = []
        async for hit in self._matches(plan, now, after):
            if start is not None and not hit.key > start:
                continue
            hits.append(hit)
            if not plan.sort and len(hits) >= wanted:
                return hits
            if len(hits) > 4 * wanted + 1_000:
                hits = sorted(hits, key=lambda one: one.key)[:wanted]
        return sorted(hits, key=lambda one: one.key)[:wanted]

    async def _matches(self, plan: _Plan, now: datetime, after: str) -> AsyncIterator[_Hit]:
        while True:
            things = await self._store.page(after, _PAGE, plan.query.namespaces)
            for thing in things:
                permissions = await self._permissions(thing, plan.query.subjects, now)
                hit = plan.hit(thing, permissions, now) if permissions else None
                if hit is not None:
                    yield hit
            if len(things) < _PAGE:
                return
            after = things[-1].thing_id
            await asyncio.sleep(0)

    async def _permissions(
        self, thing: Thing, subjects: tuple[str, ...], now: datetime
    ) -> Permissions | None:
        while True:
            try:
                enforcer = self._policies.enforcer(thing.policy_id)
            except Wait as wait:
                await _waited(wait)
                continue
            if enforcer is None:
                return None
            return enforcer.permissions(subjects, namespace_of(thing.thing_id), text_of(now))


async def _waited(wait: Wait) -> None:
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def resume(error: GatewayError | None) -> None:
        if future.done():
            return
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)

    wait.begin(resume)
    await future


class _Plan:
    """A query made ready: predicate, order and selector."""

    def __init__(self, query: SearchQuery, options: Options) -> None:
        for namespace in query.namespaces:
            if not is_namespace(namespace):
                raise ditto_error("thing-search:search.namespaces.invalid", namespace=namespace)
        self.query = query
        self.sort = tuple(key for key in options.sort if key.pointer != ("thingId",))
        last = [key for key in options.sort if key.pointer == ("thingId",)]
        self._id_descends = bool(last and last[0].is_descending)
        if self._id_descends and not self.sort:
            self.sort = (SortKey(("thingId",), is_descending=True),)
        self._fields = FieldSelector.parse(query.fields) if query.fields else None
        self._holds = _predicate_of(query.filter)

    def hit(self, thing: Thing, permissions: Permissions, now: datetime) -> _Hit | None:
        """The thing if it matches on what the caller may read."""
        readable = readable_json(thing, permissions)
        if readable is None:
            return None
        seen = {
            **extended_json(thing),
            "namespace": namespace_of(thing.thing_id),
            "attributes": None,
            "features": None,
        }
        for member in ("policyId", "definition", "attributes", "features"):
            seen.pop(member, None)
        seen.update(readable)
        if self._holds is not None and not self._holds(document_lookup(seen), now):
            return None
        values = tuple(_sortable(get(seen, key.pointer)) for key in self.sort)
        shown = readable if self._fields is None else self._fields.select(seen)
        return _Hit(self.key(values, thing.thing_id), values, thing.thing_id, shown)

    def key(self, values: Any, thing_id: str) -> tuple[Any, ...]:
        """What orders hits: the sort values, then the id."""
        keys: list[Any] = [
            _Descending(_rank(value)) if key.is_descending else _rank(value)
            for key, value in zip(self.sort, values, strict=True)
        ]
        return (*keys, thing_id)


def _predicate_of(text: str | None) -> Predicate | None:
    if not text:
        return None
    node: Node = parse(text)
    require_roots(node, SEARCH_ROOTS)
    return predicate(node, Semantics.SEARCH)


def _sortable(value: Any) -> Json:
    return None if value is MISSING or isinstance(value, (dict, list)) else value


_RANKS: Final[dict[type, int]] = {type(None): 0, int: 1, float: 1, str: 2, bool: 3}


def _rank(value: Json) -> tuple[int, Any]:
    """Values of different types have an order too: absent, numbers, texts, booleans."""
    return _RANKS[type(value)], (0 if value is None else value)


class _Descending:
    """Turns an order around."""

    __slots__ = ("value",)

    def __init__(self, value: tuple[int, Any]) -> None:
        self.value = value

    def __lt__(self, other: _Descending) -> bool:
        return other.value < self.value

    def __gt__(self, other: _Descending) -> bool:
        return other.value > self.value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Descending) and self.value == other.value

    def __hash__(self) -> int:
        return hash(self.value)


# --- cursors -----------------------------------------------------------------------------------


def _next_cursor(query: SearchQuery, options: Options, page: list[_Hit]) -> str | None:
    if options.limit or not page:
        return None
    last = page[-1]
    plan_sort = ",".join(key.text for key in options.sort)
    cursor = _Cursor(query.filter, query.namespaces, plan_sort, list(last.values), last.thing_id)
    return base64.urlsafe_b64encode(msgspec.json.encode(cursor)).decode().rstrip("=")


def _next_offset(
    options: Options, cursor: _Cursor | None, offset: int, has_more: bool
) -> int | None:
    if cursor is not None or options.size is not None:
        return None
    return offset + options.page_size if has_more else -1


def _read_cursor(options: Options, query: SearchQuery) -> _Cursor:
    if options.limit or options.sort:
        raise _invalid("a cursor fixes sort and limit")
    text = (options.cursor or "")[:_MAX_CURSOR]
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        cursor = msgspec.json.decode(raw, type=_Cursor)
        keys = _sort(cursor.sort) if cursor.sort else ()
    except (ValueError, msgspec.DecodeError, GatewayError) as error:
        raise _invalid("the cursor is not one of ours") from error
    if len(_Plan(SearchQuery(subjects=()), Options(keys)).sort) != len(cursor.values):
        raise _invalid("the cursor is not one of ours")
    if query.filter is not None and query.filter != cursor.filter:
        raise _invalid("the cursor belongs to another filter")
    return cursor


def _resumed(query: SearchQuery, cursor: _Cursor) -> SearchQuery:
    return SearchQuery(
        subjects=query.subjects,
        filter=cursor.filter,
        fields=query.fields,
        options=query.options,
        namespaces=cursor.namespaces,
    )
