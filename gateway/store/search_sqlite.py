"""Searching in SQLite: which index leads, what is checked on the way, in which order hits come.

One thing table `t` with conditions: readable, in the namespaces, filter. What leads is decided by looking how
many candidates each part of the filter has, counted up to a bound: few candidates are gathered and sorted;
with many, the things are walked in the order asked for until the page is full. No text comes from a caller.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Sequence
from datetime import UTC
from typing import Any, Final

import msgspec

from gateway.errors import CommandTimeout
from gateway.model.json import Pointer
from gateway.model.thing import Thing
from gateway.store.readers import ANYBODY, Judgement, judge
from gateway.store.search import Ask, Counted, Found, Hit, Place
from gateway.store.search_order import (
    IN_ORDER,
    Key,
    all_of,
    beyond,
    bindable,
    key_for,
    led_by,
    marks,
    policy_says,
    value_of,
    walk_of,
)
from gateway.store.search_sql import (
    COLUMNS,
    Driver,
    Sql,
    condition,
    drivers,
    path_condition,
    tests_on,
    widened,
)
from gateway.twin.rql import Logical, properties

GATHERED: Final = 20_000
"""Candidates that are gathered and sorted when other parts of the filter narrow them, a tenth when not.

More are walked: where many match, the first page of them is near."""
_ANY: Final = 2**31
_PROBED: Final = 8
"""Parts of a filter whose candidates are counted."""
_MAX_SIGNATURES: Final = 500
_STEPS: Final = 20_000
"""Instructions of SQLite's machine between two looks at the clock."""

_NOT_WIDE: Final = "NOT EXISTS (SELECT 1 FROM search_wide w WHERE w.thing_id = t.thing_id)"
_DOCUMENT: Final = """
SELECT thing_id, revision, document, created, modified FROM things WHERE thing_id = ?
"""

_decode = msgspec.json.Decoder().decode


class _Clock:
    """Stops a connection's statement once the time is over."""

    def __init__(self, connection: sqlite3.Connection, seconds: float) -> None:
        self._connection = connection
        self._until = time.monotonic() + seconds

    def __enter__(self) -> None:
        self._connection.execute("BEGIN")
        self._connection.set_progress_handler(self._is_over, _STEPS)

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._connection.set_progress_handler(None, 0)
        if self._connection.in_transaction:
            self._connection.execute("COMMIT")
        if isinstance(error, sqlite3.OperationalError) and str(error) == "interrupted":
            raise CommandTimeout(
                "The query ran out of its time limit.",
                code="thing-search:query.time.exceeded",
                description="Narrow the filter, or raise the timeout.",
            ) from error

    def _is_over(self) -> bool:
        return time.monotonic() > self._until


def find(connection: sqlite3.Connection, ask: Ask, skip: int, take: int) -> Found:
    """See `ThingIndex.find`; one snapshot for all of it."""
    with _Clock(connection, ask.seconds):
        search = _Search(connection, ask)
        places = search.places(skip, take)
        hits = [Hit(place, search.thing(place.thing_id)) for place in places]
        return Found(hits, search.has_unsure())


def count(connection: sqlite3.Connection, ask: Ask) -> Counted:
    """See `ThingIndex.count`."""
    with _Clock(connection, ask.seconds):
        search = _Search(connection, ask)
        return Counted(search.count(), search.has_unsure())


def unsure(connection: sqlite3.Connection, ask: Ask, after: str, limit: int) -> list[Thing]:
    """See `ThingIndex.unsure`."""
    with _Clock(connection, ask.seconds):
        search = _Search(connection, ask)
        return [search.thing(thing_id) for thing_id in search.unsure(after, limit)]


def plan(connection: sqlite3.Connection, ask: Ask, take: int) -> list[str]:
    """How SQLite would find the certain hits, as EXPLAIN QUERY PLAN tells it (tests, diagnosis)."""
    search = _Search(connection, ask)
    found = []
    for query in search.queries(take):
        rows = connection.execute(f"EXPLAIN QUERY PLAN {query}", query.values)
        found += [str(row[3]) for row in rows]
    return found


class _Search:
    """One search on one connection."""

    def __init__(self, connection: sqlite3.Connection, ask: Ask) -> None:
        self._connection = connection
        self._ask = ask
        self._keys = [key_for(key, number) for number, key in enumerate(ask.sort)]
        self._judged = self._judge()

    # --- who may read ---------------------------------------------------------------------------

    def _judge(self) -> Judgement:
        bodies = self._bodies()
        pointers: list[Pointer] = [key.pointer for key in self._ask.sort]
        if self._ask.node is not None:
            pointers += [found.pointer for found in properties(self._ask.node)]
        asked = [pointer for pointer in pointers if pointer[0] not in COLUMNS]
        now = self._ask.now.astimezone(UTC).isoformat(timespec="microseconds")[:-6] + "Z"
        return judge(bodies, self._ask.subjects, asked, now)

    def _bodies(self) -> dict[int, str]:
        """The signatures of the caller's subjects, each found by one step into the index."""
        found: dict[int, str] = {}
        for subject in {*self._ask.subjects, ANYBODY}:
            last = 0
            while len(found) < _MAX_SIGNATURES:
                row = self._connection.execute(_NEXT_SIGNATURE, (subject, last)).fetchone()
                if row is None:
                    break
                last, body = row
                found[last] = body
        return found

    def _certain(self) -> Sql:
        """True of things whose policy lets the caller read all that the query names."""
        judged, subjects = self._judged, self._ask.subjects
        if not judged.good or not subjects:
            return Sql("0")
        may = policy_says(subjects, judged.good)
        if not judged.bad:
            return may
        odd = policy_says((*subjects, ANYBODY), judged.bad)
        return Sql(f"({may} AND NOT {odd})", may.values + odd.values)

    def _uncertain(self) -> Sql:
        """True of things whose policy may let the caller read some of it."""
        judged = self._judged
        signatures = judged.unsure + judged.bad
        if not signatures:
            return Sql("0")
        may = policy_says((*self._ask.subjects, ANYBODY), signatures)
        certain = self._certain()
        return Sql(f"({may} AND NOT {certain})", may.values + certain.values)

    def _anyhow(self) -> Sql:
        judged = self._judged
        signatures = judged.good + judged.unsure + judged.bad
        if not signatures:
            return Sql("0")
        return policy_says((*self._ask.subjects, ANYBODY), signatures)

    # --- certain hits -----------------------------------------------------------------------------

    def count(self) -> int:
        """How many certain hits there are."""
        where = self._where()
        driver = self._best(_ANY, _ANY)
        source = IN_ORDER
        values: tuple[Any, ...] = ()
        if driver is not None:
            source, values = led_by(driver.sql), driver.sql.values
        text = f"SELECT count(*) FROM {source} WHERE {where}"  # noqa: S608
        row = self._connection.execute(text, values + where.values).fetchone()
        return int(row[0])

    def places(self, skip: int, take: int) -> list[Place]:
        """Where the certain hits stand."""
        if not self._judged.good:
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
        driver = self._best(most, GATHERED // 20)
        if driver is not None:
            yield self._ordered(Sql(led_by(driver.sql), driver.sql.values), take)
        elif not self._keys:
            yield self._walked_by_id(take)
        elif self._keys[0].join is not None:
            yield from self._walked_by_value(take)
        else:
            yield self._ordered(Sql(walk_of(self._keys[0].value)), take)

    def _walked_by_id(self, take: int) -> Sql:
        leader = next((one for one in self._drivers() if one.is_in_order), None)
        if leader is None:
            return self._ordered(Sql(IN_ORDER), take)
        after = self._ask.after
        led = leader.sql
        if after is not None:
            led = Sql(f"{led} AND r.thing_id > ?", (*led.values, after.thing_id))
        ordered = f"(SELECT thing_id FROM ({led} ORDER BY r.thing_id)) d"  # noqa: S608
        where = self._where()
        return Sql(
            f"SELECT t.thing_id FROM {ordered} CROSS JOIN things t ON t.thing_id = d.thing_id"  # noqa: S608
            f" WHERE {where}",
            led.values + where.values,
        )

    def _walked_by_value(self, take: int) -> Iterator[Sql]:
        """Along the index of the first sort key; things without it come first, or last when descending."""
        first = self._keys[0]
        after = self._ask.after
        there = self._with_value(first, take)
        absent = self._without_value(first, take)
        if first.key.is_descending:
            if after is None or after.values[0] is not None:
                yield there
            yield absent
            return
        if (after is None or after.values[0] is None) and not self._all_have(first):
            yield absent
        yield there

    def _with_value(self, first: Key, take: int) -> Sql:
        where = path_condition(first.key.pointer, "s0.path")
        bound = Sql(f"{where} AND s0.position = 0 AND s0.value < x'02'", where.values)
        after = self._ask.after
        if after is not None and after.values[0] is not None:
            sign = "<=" if first.key.is_descending else ">="
            bound = Sql(
                f"{bound} AND s0.value {sign} ?", (*bound.values, bindable(after.values[0]))
            )
        ask = self._ask
        bound = all_of([bound, *tests_on(ask.node, first.key.pointer, ask.now, "s0.value")])
        source = (
            "search_rows s0 INDEXED BY search_rows_by_value"
            " CROSS JOIN things t ON t.thing_id = s0.thing_id"
        )
        keys = [Key(first.key, "s0.value"), *self._keys[1:]]
        return self._ordered(Sql(source), take, bound, keys=keys, by="s0.thing_id")

    def _without_value(self, first: Key, take: int) -> Sql:
        where = path_condition(first.key.pointer, "s.path")
        absent = Sql(
            "NOT EXISTS (SELECT 1 FROM search_rows s WHERE s.thing_id = t.thing_id"  # noqa: S608
            f" AND {where} AND s.position = 0 AND +s.value < x'02')",
            where.values,
        )
        keys = [Key(first.key, "NULL"), *self._keys[1:]]
        return self._ordered(Sql(IN_ORDER), take, absent, keys=keys)

    def _all_have(self, first: Key) -> bool:
        where = path_condition(first.key.pointer, "s.path")
        row = self._connection.execute(
            "SELECT (SELECT count(*) FROM search_rows s INDEXED BY search_rows_by_value"  # noqa: S608
            f" WHERE {where} AND s.position = 0 AND s.value < x'02')"
            " >= (SELECT count(*) FROM things WHERE policy_id IS NOT NULL)",
            where.values,
        ).fetchone()
        return bool(row[0])

    def _ordered(
        self,
        source: Sql,
        take: int,
        extra: Sql | None = None,
        *,
        keys: Sequence[Key] | None = None,
        by: str = "t.thing_id",
    ) -> Sql:
        """Hits of a source in the order asked for; `keys` as this source has them."""
        keys = self._keys if keys is None else keys
        joins = [key.join for key in keys if key.join is not None]
        conditions = [one for one in (extra, self._where(), self._after(keys)) if one is not None]
        named = "".join(f", {key.value}" for key in keys)
        order = ", ".join([*(key.order for key in keys if key.value != "NULL"), by])
        text = (
            f"SELECT t.thing_id{named} FROM {source}{''.join(map(str, joins))}"  # noqa: S608
            f" WHERE {' AND '.join(map(str, conditions))} ORDER BY {order} LIMIT ?"
        )
        bound = [source, *joins, *conditions]
        return Sql(text, (*(value for one in bound for value in one.values), take))

    def _where(self) -> Sql:
        ask = self._ask
        parts = [self._certain(), Sql(_NOT_WIDE), *self._in_namespaces()]
        if ask.node is not None:
            parts.append(condition(ask.node, ask.now))
        return all_of(parts)

    def _in_namespaces(self) -> list[Sql]:
        names = self._ask.namespaces
        if not names:
            return []
        listed = Sql(f"t.namespace IN ({marks(names)})", names)
        if len(names) > 1:
            return [listed]
        return [Sql("t.thing_id >= ? AND t.thing_id < ?", (f"{names[0]}:", f"{names[0]};")), listed]

    def _after(self, keys: Sequence[Key]) -> Sql | None:
        """True of what comes after the last hit of the page before."""
        after = self._ask.after
        if after is None:
            return None
        found = Sql("t.thing_id > ?", (after.thing_id,))
        for key, value in reversed(list(zip(keys, after.values, strict=True))):
            found = beyond(key, value, found)
        return found

    # --- what leads -------------------------------------------------------------------------------

    def _drivers(self) -> list[Driver]:
        return [] if self._ask.node is None else drivers(self._ask.node, self._ask.now)[:_PROBED]

    def _best(self, most: int, of_policies: int) -> Driver | None:
        """The driver with the fewest candidates; None when even it has more than `most`."""
        best, least = self._fewest(self._drivers(), most + 1)
        policies = self._by_policy(self._judged.good)
        few, _ = self._fewest(policies, min(least, of_policies + 1))
        return few or best

    def _fewest(self, found: Sequence[Driver], least: int) -> tuple[Driver | None, int]:
        """The driver with the fewest candidates, and how many, if fewer than `least`."""
        best = None
        for driver in found:
            row = self._connection.execute(
                f"SELECT count(*) FROM (SELECT 1 FROM ({driver.sql}) LIMIT ?)",  # noqa: S608
                (*driver.sql.values, least),
            ).fetchone()
            if row[0] < least:
                best, least = driver, row[0]
        return best, least

    def _by_policy(self, signatures: tuple[int, ...]) -> list[Driver]:
        """The things under the policies with these signatures."""
        subjects = (*self._ask.subjects, ANYBODY)
        if not signatures:
            return []
        text = (
            "SELECT t.thing_id FROM policy_readers g INDEXED BY policy_readers_by_subject"  # noqa: S608
            " CROSS JOIN things t INDEXED BY things_by_policy ON t.policy_id = g.policy_id"
            f" WHERE g.subject IN ({marks(subjects)}) AND g.signature IN ({marks(signatures)})"
        )
        return [Driver(Sql(text, (*subjects, *signatures)))]

    # --- the others -------------------------------------------------------------------------------

    def has_unsure(self) -> bool:
        """True when some things have to be judged one by one."""
        return bool(self.unsure("", 1))

    def unsure(self, after: str, limit: int) -> list[str]:
        """Ids of things that may match, in order."""
        found = {*self._partly(after, limit), *self._wide(after, limit)}
        return sorted(found)[:limit]

    def _partly(self, after: str, limit: int) -> list[str]:
        ask = self._ask
        if self._judged.is_certain:
            return []
        parts = [self._uncertain(), Sql(_NOT_WIDE), *self._in_namespaces()]
        if ask.node is not None:
            parts.append(widened(ask.node, ask.now))
        judged = self._judged
        signatures = judged.unsure + judged.bad
        ways = [*self._drivers(), *self._by_policy(signatures)]
        driver, _ = self._fewest(ways, GATHERED + 1)
        source = Sql(IN_ORDER)
        if driver is not None:
            source = Sql(led_by(driver.sql), driver.sql.values)
        return self._ids(source, parts, after, limit)

    def _wide(self, after: str, limit: int) -> list[str]:
        source = Sql("search_wide w CROSS JOIN things t ON t.thing_id = w.thing_id")
        return self._ids(source, [self._anyhow(), *self._in_namespaces()], after, limit)

    def _ids(self, source: Sql, parts: Sequence[Sql], after: str, limit: int) -> list[str]:
        where = all_of([Sql("t.thing_id > ?", (after,)), *parts])
        text = f"SELECT t.thing_id FROM {source} WHERE {where} ORDER BY t.thing_id LIMIT ?"  # noqa: S608
        values = (*source.values, *where.values, limit)
        return [row[0] for row in self._connection.execute(text, values)]

    def thing(self, thing_id: str) -> Thing:
        """A thing of this snapshot."""
        found, revision, document, created, modified = self._connection.execute(
            _DOCUMENT, (thing_id,)
        ).fetchone()
        return Thing(found, revision, _decode(document), created, modified)


_NEXT_SIGNATURE: Final = """
SELECT g.signature, s.body
FROM policy_readers g INDEXED BY policy_readers_by_subject
CROSS JOIN policy_signatures s ON s.signature = g.signature
WHERE g.subject = ? AND g.signature > ? ORDER BY g.signature LIMIT 1
"""
