"""Searching in SQLite: which index leads, what is checked on the way, in which order hits come.

One thing table `t` with conditions: readable, in the namespaces, filter. What leads is decided by looking how
many candidates each part of the filter has, counted up to a bound: few candidates are gathered and sorted;
with many, the things are walked in the order asked for until the page is full. A walk that goes on after an
earlier page begins where that ended: first what is equal in the first sort key, then what is beyond. No text
comes from a caller.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from typing import Final

import msgspec

from gateway.model.thing import Thing
from gateway.store.search import Ask, Counted, Found, Hit, Place, Scalar
from gateway.store.search_clock import Clock
from gateway.store.search_memory import Memory
from gateway.store.search_order import (
    IN_ORDER,
    Key,
    all_of,
    beyond,
    bindable,
    ids_of,
    in_namespaces,
    in_scope,
    key_for,
    led_by,
    value_of,
    walk_of,
)
from gateway.store.search_presence import Presence, has_arrays
from gateway.store.search_rights import Readable
from gateway.store.search_sql import (
    Driver,
    Sql,
    condition,
    demands,
    drivers,
    path_condition,
    tests_on,
    widened,
)
from gateway.twin.rql import Comparison, Logical, Node

GATHERED: Final = 20_000
MAX_LISTED: Final = 200_000
"""Ids of things to be judged one by one that a search holds in memory."""
"""Candidates that are gathered and sorted when other parts of the filter narrow them, a tenth when not.

More are walked: where many match, the first page of them is near."""
_ANY: Final = 2**31
_PROBED: Final = 8
"""Parts of a filter whose candidates are counted, up to a bound that grows until one has no more."""
_FIRST_BOUND: Final = 250
_LAST_BOUND: Final = 50_000
_LONG: Final = 500
"""Things with one value that are not sorted by their ids but walked in the order of these."""

_ANY_WIDE: Final = "SELECT 1 FROM search_wide LIMIT 1"
_NOT_WIDE: Final = Sql("NOT EXISTS (SELECT 1 FROM search_wide w WHERE w.thing_id = t.thing_id)")
_DOCUMENT: Final = """
SELECT thing_id, revision, document, created, modified FROM things
WHERE thing_id = ? AND document IS NOT NULL
"""

_decode = msgspec.json.Decoder().decode


def find(
    connection: sqlite3.Connection,
    ask: Ask,
    skip: int,
    take: int,
    presence: Presence | None = None,
    memory: Memory | None = None,
) -> Found:
    """See `ThingIndex.find`; one snapshot for all of it."""
    with Clock(connection, ask.seconds):
        search = _Search(connection, ask, presence, memory)
        places = search.places(skip, take)
        hits = [Hit(place, search.thing(place.thing_id)) for place in places]
        others = search.others()
        return Found(hits, others is None or bool(others), others)


def count(connection: sqlite3.Connection, ask: Ask, memory: Memory | None = None) -> Counted:
    """See `ThingIndex.count`."""
    with Clock(connection, ask.seconds):
        search = _Search(connection, ask, memory=memory)
        others = search.others()
        return Counted(search.count(), others is None or bool(others), others)


def unsure(connection: sqlite3.Connection, ask: Ask, after: str, limit: int) -> list[Thing]:
    """See `ThingIndex.unsure`."""
    with Clock(connection, ask.seconds):
        search = _Search(connection, ask)
        return [search.thing(thing_id) for thing_id in search.unsure(after, limit)]


def some(connection: sqlite3.Connection, thing_ids: Sequence[str]) -> list[Thing]:
    """See `ThingIndex.some`."""
    rows = [connection.execute(_DOCUMENT, (thing_id,)).fetchone() for thing_id in thing_ids]
    return [_thing(row) for row in rows if row is not None]


def plan(connection: sqlite3.Connection, ask: Ask, take: int) -> list[str]:
    """How SQLite would find the certain hits, as EXPLAIN QUERY PLAN tells it (tests, diagnosis)."""
    search = _Search(connection, ask)
    return [step for query in search.queries(take) for step in _steps(connection, query)]


def plan_of_count(connection: sqlite3.Connection, ask: Ask) -> list[str]:
    """As `plan`, for counting."""
    return _steps(connection, _Search(connection, ask).counting(ask.node))


def _steps(connection: sqlite3.Connection, query: Sql) -> list[str]:
    rows = connection.execute(f"EXPLAIN QUERY PLAN {query}", query.values)
    return [str(row[3]) for row in rows]


class _Search:
    """One search on one connection."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        ask: Ask,
        presence: Presence | None = None,
        memory: Memory | None = None,
    ) -> None:
        memory = memory or Memory()
        memory.refresh(connection)
        self._connection = connection
        self._presence = presence or Presence()
        self._ask = ask
        self._keys = [key_for(key, number) for number, key in enumerate(ask.sort)]
        self._readable = Readable(connection, ask, memory)
        any_wide = lambda: connection.execute(_ANY_WIDE).fetchone() is not None  # noqa: E731  short-lived
        self._has_wide = memory.once("wide", any_wide)

    # --- certain hits -----------------------------------------------------------------------------

    def count(self) -> int:
        """How many certain hits there are."""
        if not self._readable.judged.good:
            return 0
        query = self.counting(self._ask.node)
        return int(self._connection.execute(query.text, query.values).fetchone()[0])

    def counting(self, node: Node | None) -> Sql:
        """The statement that counts the certain hits of a filter over what the whole query names."""
        ways = [
            *(drivers(node, self._ask.now)[:_PROBED] if node else []),
            *in_namespaces(self._ask),
        ]
        if not ways and isinstance(node, Logical) and node.op == "not":
            all_, some = self.counting(None), self.counting(node.operands[0])
            return Sql(f"SELECT ({all_}) - ({some})", all_.values + some.values)
        driver = self._best(ways, _ANY)
        if driver is None:
            source = self._readable.source()
        elif driver.covers is node and self._sees_whatever_is_there():
            ids = ids_of(driver)
            return Sql(f"SELECT count(*) FROM ({ids})", ids.values)  # noqa: S608
        else:
            source = led_by(driver)
        where = self._where(node, driver.covers if driver else None)
        return Sql(
            f"SELECT count(*) FROM {source} WHERE {where}",  # noqa: S608
            source.values + where.values,
        )

    def _sees_whatever_is_there(self) -> bool:
        """True when every row of the index is of a thing that may be a hit."""
        return self._readable.sees_all and not self._has_wide and not in_scope(self._ask)

    def places(self, skip: int, take: int) -> list[Place]:
        """Where the certain hits stand."""
        if not self._readable.judged.good:
            return []
        found: list[Place] = []
        wanted = skip + take
        for query in self.queries(wanted):
            for row in self._connection.execute(query.text, query.values):
                place = Place(tuple(map(value_of, row[1:])), row[0])
                if not found or found[-1].thing_id != place.thing_id:
                    found.append(place)
                if len(found) >= wanted:
                    return found[skip:]
        return found[skip:]

    def queries(self, take: int) -> Iterator[Sql]:
        """The statements whose rows are the hits, one after the other."""
        node = self._ask.node
        is_narrowed = isinstance(node, Logical) and node.op == "and"
        most = GATHERED if is_narrowed else GATHERED // 10
        driver = self._best([*self._drivers(), *self._by_policy(GATHERED // 20)], most)
        if driver is not None and not self._orders(driver):
            extra = [one for one in (self._after(self._keys),) if one is not None]
            yield self._ordered(led_by(driver), take, extra, met=driver.covers)
        elif not self._keys:
            yield self._walked_by_id(take)
        elif self._keys[0].join is not None:
            yield from self._walked_by_value(take)
        else:
            yield from self._walked_by_column(take)

    def _walked_by_id(self, take: int) -> Sql:
        leader = next((one for one in self._drivers() if one.is_in_order), None)
        after = self._ask.after
        if leader is None:
            beyond_it = [] if after is None else [Sql("t.thing_id > ?", (after.thing_id,))]
            return self._ordered(Sql(IN_ORDER), take, beyond_it)
        led = leader.sql
        if after is not None:
            led = Sql(f"{led} AND r.thing_id > ?", (*led.values, after.thing_id))
        ordered = f"(SELECT thing_id FROM ({led} ORDER BY r.thing_id)) d"  # noqa: S608
        where = self._where(self._ask.node, leader.covers)
        return Sql(
            f"SELECT t.thing_id FROM {ordered} CROSS JOIN things t ON t.thing_id = d.thing_id"  # noqa: S608
            f" WHERE {where}",
            led.values + where.values,
        )

    def _walked_by_column(self, take: int) -> Iterator[Sql]:
        """Along the index of a column, from the place of the last hit on."""
        first, after = self._keys[0], self._ask.after
        source = Sql(walk_of(first.value))
        if after is None or first.value == "NULL":
            beyond_it = [] if after is None else [self._rest(self._keys, after)]
            yield self._ordered(source, take, beyond_it)
            return
        bound = bindable(after.values[0])
        equal = Sql(f"{first.value} = ?", (bound,))
        yield self._ordered(source, take, [equal, self._rest(self._keys[1:], after, 1)])
        sign = "<" if first.key.is_descending else ">"
        yield self._ordered(source, take, [Sql(f"{first.value} {sign} ?", (bound,))])

    def _walked_by_value(self, take: int) -> Iterator[Sql]:
        """Along the index of the first sort key; things without it come first, or last when descending."""
        first = self._keys[0]
        after = self._ask.after
        is_past = after is not None and after.values[0] is not None
        if first.key.is_descending:
            if after is None or is_past:
                yield from self._with_value(first, take)
            if not self._needs_value(first):
                yield self._without_value(first, take)
            return
        if not (
            is_past
            or self._needs_value(first)
            or self._presence.at(self._connection, first.key.pointer)
        ):
            yield self._without_value(first, take)
        yield from self._with_value(first, take)

    def _needs_value(self, first: Key) -> bool:
        """True when no hit is without a value at the first sort key, because the filter asks for one."""
        pointer = first.key.pointer
        return demands(self._ask.node, pointer) and not has_arrays(self._connection, pointer)

    def _orders(self, driver: Driver) -> bool:
        """True when walking in the order asked for goes along the driver's candidates and ends earlier."""
        if not self._keys or self._keys[0].join is None:
            return False
        covered = driver.covers
        return isinstance(covered, Comparison) and (
            covered.property.pointer == self._keys[0].key.pointer
        )

    def _with_value(self, first: Key, take: int) -> Iterator[Sql]:
        after = self._ask.after
        last: Scalar = None if after is None else after.values[0]
        if after is not None and last is not None:
            rest = self._rest(self._keys[1:], after, 1)
            yield self._by_value(first, take, [*_with(first, bindable(last)), rest])
        if first.key.is_descending and len(self._keys) == 1:
            yield from self._long_values(first, take, last)
            return
        yield self._by_value(first, take, _past(first, last))

    def _long_values(self, first: Key, take: int, last: Scalar) -> Iterator[Sql]:
        """Backwards; the things of one value come by their ids, forwards, so a long one goes by itself."""
        while True:
            value = self._long_one(first, _past(first, last))
            if value is None:
                yield self._by_value(first, take, _past(first, last))
                return
            yield self._by_value(first, take, _with(first, bindable(value)))
            last = value

    def _long_one(self, first: Key, bounds: Sequence[Sql]) -> Scalar:
        """The next value, where very many things have it."""
        where = all_of(bounds)
        source = "search_rows s0 INDEXED BY search_rows_by_value"
        row = self._connection.execute(
            f"SELECT value FROM {source} WHERE {where} ORDER BY value DESC LIMIT 1",  # noqa: S608
            where.values,
        ).fetchone()
        if row is None:
            return None
        where = all_of(_with(first, row[0]))
        is_long = self._connection.execute(
            f"SELECT 1 FROM {source} WHERE {where} LIMIT 1 OFFSET {_LONG}",  # noqa: S608
            where.values,
        ).fetchone()
        return value_of(row[0]) if is_long else None

    def _by_value(self, first: Key, take: int, bounds: Sequence[Sql]) -> Sql:
        ask = self._ask
        tests = tests_on(ask.node, first.key.pointer, ask.now, "s0.value")
        source = Sql(
            "search_rows s0 INDEXED BY search_rows_by_value"
            " CROSS JOIN things t ON t.thing_id = s0.thing_id"
        )
        keys = [Key(first.key, "s0.value"), *self._keys[1:]]
        extra = [*bounds, *tests]
        return self._ordered(source, take, extra, keys=keys, by="s0.thing_id")

    def _without_value(self, first: Key, take: int) -> Sql:
        where = path_condition(first.key.pointer, "s.path")
        absent = Sql(
            "NOT EXISTS (SELECT 1 FROM search_rows s WHERE s.thing_id = t.thing_id"  # noqa: S608
            f" AND {where} AND s.position = 0 AND +s.value < x'02')",
            where.values,
        )
        keys = [Key(first.key, "NULL"), *self._keys[1:]]
        after = self._ask.after
        extra = [absent]
        if after is not None and after.values[0] is None:
            extra.append(self._rest(self._keys[1:], after, 1))
        return self._ordered(Sql(IN_ORDER), take, extra, keys=keys)

    def _ordered(
        self,
        source: Sql,
        take: int,
        extra: Sequence[Sql] = (),
        *,
        keys: Sequence[Key] | None = None,
        by: str = "t.thing_id",
        met: Node | None = None,
    ) -> Sql:
        """Hits of a source in the order asked for; `keys` as this source has them."""
        keys = self._keys if keys is None else keys
        joins = [key.join for key in keys if key.join is not None]
        conditions = all_of([*extra, self._where(self._ask.node, met)])
        named = "".join(f", {key.value}" for key in keys)
        order = ", ".join([*(key.order for key in keys if key.value != "NULL"), by])
        text = (
            f"SELECT t.thing_id{named} FROM {source}{''.join(map(str, joins))}"  # noqa: S608
            f" WHERE {conditions} ORDER BY {order} LIMIT ?"
        )
        bound = [source, *joins, conditions]
        return Sql(text, (*(value for one in bound for value in one.values), take))

    def _where(self, node: Node | None, met: Node | None = None) -> Sql:
        """What makes a thing a certain hit; `met` is the part of the filter that is known to hold."""
        ask = self._ask
        parts = [self._readable.certain, *self._not_wide(), *in_scope(ask)]
        if node is not None:
            parts.append(condition(node, ask.now, met))
        return all_of(parts)

    def _not_wide(self) -> list[Sql]:
        return [_NOT_WIDE] if self._has_wide else []

    def _after(self, keys: Sequence[Key]) -> Sql | None:
        """True of what comes after the last hit of the page before."""
        after = self._ask.after
        return None if after is None else self._rest(keys, after)

    def _rest(self, keys: Sequence[Key], after: Place, at: int = 0) -> Sql:
        """True of what comes after a place by some keys, then by id; `at` is where their values begin."""
        found = Sql("t.thing_id > ?", (after.thing_id,))
        for key, value in reversed(list(zip(keys, after.values[at:], strict=True))):
            found = beyond(key, value, found)
        return found

    # --- what leads -------------------------------------------------------------------------------

    def _drivers(self) -> list[Driver]:
        ask = self._ask
        found = [] if ask.node is None else drivers(ask.node, ask.now)[:_PROBED]
        return [*found, *in_namespaces(ask)]

    def _by_policy(self, most: int) -> list[Driver]:
        """The things that the caller may read, where these are few."""
        found = self._readable.certain_things()
        return [found] if found is not None and self._has_few(found, most) else []

    def _has_few(self, driver: Driver, most: int) -> bool:
        """True when a driver has at most that many candidates."""
        row = self._connection.execute(
            f"SELECT 1 FROM ({driver.sql}) LIMIT 1 OFFSET ?",  # noqa: S608
            (*driver.sql.values, most),
        ).fetchone()
        return row is None

    def _best(self, found: Sequence[Driver], most: int) -> Driver | None:
        """The driver with the fewest candidates, roughly; None when even it has more than `most`."""
        bound = _FIRST_BOUND
        while found:
            for driver in found:
                if bound >= _LAST_BOUND or self._has_few(driver, min(bound, most)):
                    return driver
            if bound >= most:
                return None
            bound *= 8
        return None

    # --- the others -------------------------------------------------------------------------------

    def others(self) -> list[str] | None:
        """All ids of `unsure`, None for more than `MAX_LISTED`."""
        found = self.unsure("", MAX_LISTED + 1)
        return None if len(found) > MAX_LISTED else found

    def unsure(self, after: str, limit: int) -> list[str]:
        """Ids of things that may match, in order."""
        found = {*self._partly(after, limit), *self._wide(after, limit)}
        return sorted(found)[:limit]

    def _partly(self, after: str, limit: int) -> list[str]:
        ask = self._ask
        if self._readable.is_certain:
            return []
        parts = [self._readable.uncertain(), *self._not_wide(), *in_scope(ask)]
        if ask.node is not None:
            parts.append(widened(ask.node, ask.now))
        ways = [*self._drivers(), self._readable.uncertain_things()]
        driver = self._best(ways, GATHERED)
        source = Sql(IN_ORDER) if driver is None else led_by(driver)
        return self._ids(source, parts, after, limit)

    def _wide(self, after: str, limit: int) -> list[str]:
        if not self._has_wide:
            return []
        source = Sql("search_wide w CROSS JOIN things t ON t.thing_id = w.thing_id")
        return self._ids(source, [self._readable.anyhow(), *in_scope(self._ask)], after, limit)

    def _ids(self, source: Sql, parts: Sequence[Sql], after: str, limit: int) -> list[str]:
        where = all_of([Sql("t.thing_id > ?", (after,)), *parts])
        text = f"SELECT t.thing_id FROM {source} WHERE {where} ORDER BY t.thing_id LIMIT ?"  # noqa: S608
        values = (*source.values, *where.values, limit)
        return [row[0] for row in self._connection.execute(text, values)]

    def thing(self, thing_id: str) -> Thing:
        """A thing of this snapshot."""
        return _thing(self._connection.execute(_DOCUMENT, (thing_id,)).fetchone())


def _thing(row: tuple[str, int, bytes, str, str]) -> Thing:
    found, revision, document, created, modified = row
    return Thing(found, revision, _decode(document), created, modified)


def _at(first: Key) -> list[Sql]:
    """True of the rows of a sort key."""
    return [path_condition(first.key.pointer, "s0.path"), Sql("s0.position = 0")]


def _with(first: Key, value: object) -> list[Sql]:
    """True of the rows of a sort key with a value."""
    return [*_at(first), Sql("s0.value = ?", (value,))]


def _past(first: Key, last: Scalar) -> list[Sql]:
    """True of the rows of a sort key with values that come after one; all for None."""
    if last is None:
        return [*_at(first), _SORTABLE]
    if first.key.is_descending:
        return [*_at(first), Sql("s0.value < ?", (bindable(last),))]
    return [*_at(first), Sql("s0.value > ?", (bindable(last),)), _SORTABLE]


_SORTABLE: Final = Sql("s0.value < x'02'")
