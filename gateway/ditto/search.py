"""Searching things: what the index of the store is certain of, and the rest judged one by one.

Certain are things whose policy lets the caller read all that the query names, and whose values the index
holds exactly: this is the rule. Others are judged by the predicate on what the caller may read. So an answer
is exact and current, unlike that of Ditto's eventually consistent index, and says nothing of what is hidden.
"""

from __future__ import annotations

import asyncio
import bisect
from collections.abc import AsyncIterator, Sequence
from copy import copy
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final

from gateway.ditto.clock import text_of
from gateway.ditto.lane import Wait
from gateway.ditto.policies import PoliciesService
from gateway.ditto.search_options import (
    Options,
    SearchPage,
    SearchQuery,
    following,
    invalid_option,
    next_cursor,
    next_offset,
    parse_options,
    read_cursor,
    read_sort,
    resumed,
    sort_keys,
)
from gateway.errors import GatewayError
from gateway.model.entity_id import is_namespace, namespace_of
from gateway.model.json import JsonObject
from gateway.model.thing import Thing
from gateway.store.search import Ask, Found, Hit, Place, Scalar, SortKey, sortable
from gateway.store.things import StoredThing, ThingStore
from gateway.twin.ditto_errors import ditto_error
from gateway.twin.documents import MISSING, get
from gateway.twin.fields import FieldSelector
from gateway.twin.metadata import METADATA
from gateway.twin.metadata import readable as readable_metadata
from gateway.twin.policy import Permissions
from gateway.twin.rql import SEARCH_ROOTS, Node, parse, require_roots
from gateway.twin.rql_predicate import Semantics, document_lookup, predicate
from gateway.twin.showing import readable_json

__all__ = ["SearchPage", "SearchQuery", "Searcher", "following"]

_PAGE: Final = 200
_MAX_MIXED: Final = 10_000
"""Hits that are sorted here when the index is not certain of all."""


@dataclass(frozen=True, slots=True)
class _Hit:
    """A thing that matched: where it stands, and the thing as the caller may read it."""

    key: tuple[Any, ...]
    place: Place
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
        plan = _Plan(query, Options(), now)
        counted = await self._store.count(plan.ask)
        total = counted.number
        if counted.has_unsure:
            async for _ in self._judged(plan, "", counted.others):
                total += 1
        return total

    async def search(self, query: SearchQuery, now: datetime) -> SearchPage:
        """One page of things that match and may be read.

        Errors: `rql.expression.invalid`, `thing-search:search.option.invalid`,
                `thing-search:search.namespaces.invalid`, `json.fieldselector.invalid`;
                `things:thing.notfound` where `after` names none and the order is not by id.
        """
        options = parse_options(query.options)
        cursor = read_cursor(options, query) if options.cursor else None
        after = None
        if cursor is not None:
            query = resumed(query, cursor)
            options = Options(read_sort(cursor.sort) if cursor.sort else (), options.size)
            after = Place(tuple(cursor.values), cursor.thing_id)
        plan = _Plan(query, options, now, after)
        if query.after is not None:
            plan = plan.beginning(await self._place_of(plan, query.after))
        offset = options.limit[0] if options.limit else 0
        hits = await self._hits(plan, offset, options.page_size + 1)
        page = hits[: options.page_size]
        has_more = len(hits) > options.page_size
        return SearchPage(
            items=[hit.shown for hit in page],
            ids=tuple(hit.place.thing_id for hit in page),
            cursor=next_cursor(query, options, page[-1].place) if has_more else None,
            next_page_offset=next_offset(options, cursor, offset, has_more),
        )

    async def _hits(self, plan: _Plan, offset: int, wanted: int) -> list[_Hit]:
        """The hits from `offset` on, in order."""
        found = await self._store.find(plan.ask, offset, wanted)
        if not found.has_unsure:
            return await self._shown(plan, found)
        if offset + wanted > _MAX_MIXED:
            raise invalid_option(f"limit: offsets over {_MAX_MIXED - wanted} need a cursor here")
        if offset:
            found = await self._store.find(plan.ask, 0, offset + wanted)
        hits = await self._shown(plan, found)
        others = await self._first(plan, offset + wanted, found.others)
        return sorted([*hits, *others], key=_key_of)[offset : offset + wanted]

    async def _shown(self, plan: _Plan, found: Found) -> list[_Hit]:
        """Certain hits as the caller may read them; one whose policy has changed meanwhile may vanish."""
        hits: list[_Hit] = []
        for one in found.hits:
            permissions = await self._permissions(one.thing, plan)
            hit = plan.shown(one, permissions) if permissions else None
            if hit is not None:
                hits.append(hit)
        return hits

    async def _first(self, plan: _Plan, wanted: int, others: Sequence[str] | None) -> list[_Hit]:
        """The first hits among those that have to be judged."""
        after = plan.ask.after
        begin = after.thing_id if after is not None and not plan.sort else ""
        hits: list[_Hit] = []
        async for hit in self._judged(plan, begin, others):
            if after is not None and not hit.key > plan.key(after):
                continue
            hits.append(hit)
            if not plan.sort and len(hits) >= wanted:
                break
            if len(hits) > 4 * wanted + 1_000:
                hits = sorted(hits, key=_key_of)[:wanted]
        return sorted(hits, key=_key_of)[:wanted]

    async def _judged(
        self, plan: _Plan, after: str, others: Sequence[str] | None
    ) -> AsyncIterator[_Hit]:
        """Hits among the things that the index is not certain of, in order of id."""
        async for things in self._unsure(plan, after, others):
            for thing in things:
                permissions = await self._permissions(thing, plan)
                hit = plan.hit(thing, permissions) if permissions else None
                if hit is not None:
                    yield hit
            await asyncio.sleep(0)

    async def _unsure(
        self, plan: _Plan, after: str, others: Sequence[str] | None
    ) -> AsyncIterator[Sequence[Thing]]:
        """Pages of things that may be hits: those that `find` named, or as the store has them now."""
        if others is not None:
            for begin in range(bisect.bisect_right(others, after), len(others), _PAGE):
                yield await self._store.some(others[begin : begin + _PAGE])
            return
        while things := await self._store.unsure(plan.ask, after, _PAGE):
            yield things
            after = things[-1].thing_id

    async def _place_of(self, plan: _Plan, thing_id: str) -> Place:
        """Where a thing stands in the order as the caller sees it now."""
        if not plan.sort:
            return Place((), thing_id)
        stored = await self._load(thing_id)
        permissions = await self._permissions(stored.thing, plan) if stored.thing else None
        place = plan.place(stored.thing, permissions) if stored.thing and permissions else None
        if place is None:
            raise ditto_error("things:thing.notfound", id=thing_id)
        return place

    async def _load(self, thing_id: str) -> StoredThing:
        future: asyncio.Future[StoredThing] = asyncio.get_running_loop().create_future()

        def loaded(answer: StoredThing | GatewayError) -> None:
            if future.done():
                return
            if isinstance(answer, GatewayError):
                future.set_exception(answer)
            else:
                future.set_result(answer)

        self._store.load_thing(thing_id, loaded)
        return await future

    async def _permissions(self, thing: Thing, plan: _Plan) -> Permissions | None:
        while True:
            try:
                enforcer = self._policies.enforcer(thing.policy_id)
            except Wait as wait:
                await _waited(wait)
                continue
            if enforcer is None:
                return None
            namespace = namespace_of(thing.thing_id)
            return enforcer.permissions(plan.query.subjects, namespace, plan.now_text)


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
    """A query made ready: what the store is asked, and predicate, order and selector for the rest."""

    def __init__(
        self, query: SearchQuery, options: Options, now: datetime, after: Place | None = None
    ) -> None:
        for namespace in query.namespaces:
            if not is_namespace(namespace):
                raise ditto_error("thing-search:search.namespaces.invalid", namespace=namespace)
        node = _node_of(query.filter)
        self.query = query
        self.now = now
        self.now_text = text_of(now)
        self.sort = sort_keys(options)
        self.ask = Ask(
            subjects=query.subjects,
            now=now,
            node=node,
            namespaces=query.namespaces or None,
            scope=query.scope,
            sort=self.sort,
            after=after,
        )
        self._fields = FieldSelector.parse(query.fields) if query.fields else None
        self._holds = None if node is None else predicate(node, Semantics.SEARCH)

    def beginning(self, after: Place) -> _Plan:
        """The same plan, from another place on."""
        plan = copy(self)
        plan.ask = replace(self.ask, after=after)
        return plan

    def hit(self, thing: Thing, permissions: Permissions) -> _Hit | None:
        """The thing if it matches on what the caller may read."""
        seen = _seen(thing, permissions)
        if seen is None or (
            self._holds is not None and not self._holds(document_lookup(seen), self.now)
        ):
            return None
        place = self._place(seen, thing)
        if self._fields is not None:
            return _Hit(self.key(place), place, self._fields.select(seen))
        readable = readable_json(thing, permissions)
        return None if readable is None else _Hit(self.key(place), place, readable)

    def shown(self, hit: Hit, permissions: Permissions) -> _Hit | None:
        """A certain hit as the caller may read it."""
        if self._fields is None:
            shown = readable_json(hit.thing, permissions)
        else:
            seen = _seen(hit.thing, permissions)
            shown = None if seen is None else self._fields.select(seen)
        return None if shown is None else _Hit(self.key(hit.place), hit.place, shown)

    def place(self, thing: Thing, permissions: Permissions) -> Place | None:
        """Where a thing stands, None where the caller may not read it."""
        seen = _seen(thing, permissions)
        return None if seen is None else self._place(seen, thing)

    def _place(self, seen: JsonObject, thing: Thing) -> Place:
        return Place(tuple(_sort_value(seen, key) for key in self.sort), thing.thing_id)

    def key(self, place: Place) -> tuple[Any, ...]:
        """What orders hits: the sort values, then the id."""
        keys: list[Any] = [
            _Descending(_rank(value)) if key.is_descending else _rank(value)
            for key, value in zip(self.sort, place.values, strict=True)
        ]
        return (*keys, place.thing_id)


def _seen(thing: Thing, permissions: Permissions) -> JsonObject | None:
    """What a filter looks at: the thing as the caller may read it, with its hidden fields."""
    readable = readable_json(thing, permissions)
    if readable is None:
        return None
    namespace = namespace_of(thing.thing_id)
    seen: JsonObject = {
        "thingId": thing.thing_id,
        "_revision": thing.revision,
        "_created": thing.created,
        "_modified": thing.modified,
        "_namespace": namespace,
        "namespace": namespace,
    }
    metadata = readable_metadata(thing, permissions)
    if metadata is not MISSING:
        seen[METADATA] = metadata
    seen.update(readable)
    return seen


def _node_of(text: str | None) -> Node | None:
    if not text:
        return None
    node = parse(text)
    require_roots(node, SEARCH_ROOTS)
    return node


def _sort_value(seen: JsonObject, key: SortKey) -> Scalar:
    value = MISSING if "*" in key.pointer else get(seen, key.pointer)
    return None if value is MISSING else sortable(value)


def _key_of(hit: _Hit) -> tuple[Any, ...]:
    return hit.key


_RANKS: Final[dict[type, int]] = {type(None): 0, int: 1, float: 1, str: 2, bool: 3}


def _rank(value: Scalar) -> tuple[int, Any]:
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
