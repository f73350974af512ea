"""The search index: SQL and predicate agree on every document; a change writes what writing anew would."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.model.json import Json
from gateway.model.thing import EventAction, Thing, ThingEvent
from gateway.store.database import migrate, migrations
from gateway.store.policy_rights import write_readers
from gateway.store.search import Ask, Place, SortKey
from gateway.store.search_sql import add_functions, condition, drivers, widened
from gateway.store.search_sqlite import count, find, plan, unsure
from gateway.store.search_writes import ThingIndexing
from gateway.twin.documents import put
from gateway.twin.rql import Node, parse
from gateway.twin.rql_predicate import Semantics, predicate
from gateway.twin.showing import lookup_of
from tests.search_samples import documents, nodes, objects, values

NOW = datetime(2026, 3, 31, tzinfo=UTC)
ME = ("nginx:ditto",)
POLICY = "org.acme:all"
READS_ALL = {"nginx:ditto": '[[null,[["/",true,false]]]]'}


@pytest.fixture(name="index", scope="module")
def an_index() -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        migrate(connection, migrations("gateway"))
        add_functions(connection)
        write_readers(connection, POLICY, READS_ALL)
        yield connection


def a_thing(number: int, document: Any, revision: int = 1) -> Thing:
    instant = f"2026-01-0{revision}T00:00:00.000000Z"
    return Thing(f"org.acme:t{number}", revision, document, "2026-01-01T00:00:00.000000Z", instant)


def store(
    connection: sqlite3.Connection,
    before: Thing | None,
    after: Thing | None,
    path: tuple[str, ...] = (),
) -> None:
    """Write a thing as the store does."""
    state = after or before
    assert state is not None
    event = ThingEvent(
        thing_id=state.thing_id,
        action=EventAction.MODIFIED,
        path=path,
        revision=state.revision,
        timestamp=state.modified,
        after=after,
        before=before,
    )
    document = None if after is None else msgspec.json.encode(after.document)
    policy = None if after is None else POLICY
    connection.execute(
        "INSERT OR REPLACE INTO things VALUES (?, 'org.acme', ?, ?, ?, ?, ?)",
        (state.thing_id, policy, state.revision, document, state.created, state.modified),
    )
    ThingIndexing(event, {}).run(connection)


def empty(connection: sqlite3.Connection) -> None:
    for table in ("things", "search_rows", "search_paths", "search_wide"):
        connection.execute(f"DELETE FROM {table}")


def filled(connection: sqlite3.Connection, some: list[Any]) -> list[Thing]:
    empty(connection)
    things = [a_thing(number, document) for number, document in enumerate(some)]
    for thing in things:
        store(connection, None, thing)
    return things


def holds(node: Node, thing: Thing) -> bool:
    return predicate(node, Semantics.SEARCH)(lookup_of(thing), NOW)


def wide(connection: sqlite3.Connection) -> set[str]:
    return {row[0] for row in connection.execute("SELECT thing_id FROM search_wide")}


def ids(connection: sqlite3.Connection, text: str, values: tuple[Any, ...]) -> set[str]:
    return {row[0] for row in connection.execute(text, values)}


more = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@more
@given(some=st.lists(documents, min_size=1, max_size=4), node=nodes)
def test_sql_and_predicate_agree(index: sqlite3.Connection, some: list[Any], node: Node) -> None:
    things = filled(index, some)
    expected = {thing.thing_id for thing in things if holds(node, thing)} - wide(index)
    where = condition(node, NOW)
    found = ids(index, f"SELECT thing_id FROM things t WHERE {where}", where.values)
    assert found - wide(index) == expected
    over = widened(node, NOW)
    assert ids(index, f"SELECT thing_id FROM things t WHERE {over}", over.values) >= expected
    for driver in drivers(node, NOW):
        assert ids(index, str(driver.sql), driver.sql.values) >= expected
    ask = Ask(subjects=ME, now=NOW, node=node)
    hits = find(index, ask, 0, 10)
    assert [hit.place.thing_id for hit in hits.hits] == sorted(expected)
    assert count(index, ask).number == len(expected)
    assert hits.has_unsure is bool(wide(index))
    assert {thing.thing_id for thing in unsure(index, ask, "", 10)} == wide(index)


TABLE: Any = {
    "attributes": {
        "n": 5,
        "f": 1.5,
        "t": "pump",
        "u": "Ärger",
        "on": True,
        "none": None,
        "no": "",
        "o": {},
        "l": [],
        "some": [1, "x", True, None],
        "things": [{"k": 1}, {"k": [2, "y"]}, [{"k": 3}]],
        "deep": {"x": {"y": "z"}},
    },
    "features": {"m": {"properties": {"v": 7}}, "m/2": {"properties": {"v": 9}}},
    "definition": "a:b:1",
    "_metadata": {"attributes": {"n": {"by": "me"}}},
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("eq(attributes/n,5.0)", True),
        ("gt(attributes/n,4)", True),
        ("gt(attributes/n,true)", False),
        ("lt(attributes/n,'6')", False),
        ("gt(attributes/t,4)", False),
        ("lt(attributes/t,'q')", True),
        ("ge(attributes/on,false)", True),
        ("le(attributes/on,false)", False),
        ("lt(attributes/f,170141183460469231731687303715884105728)", True),
        ("eq(attributes/none,null)", True),
        ("eq(attributes/absent,null)", False),
        ("ne(attributes/absent,1)", False),
        ("ne(attributes/o,1)", True),
        ("ne(attributes/some,1)", False),
        ("eq(attributes/some,'x')", True),
        ("in(attributes/some,7,true)", True),
        ("eq(attributes/things/k,2)", True),
        ("eq(attributes/things/k,3)", False),
        ("exists(attributes/deep/x)", True),
        ("exists(attributes/deep/q)", False),
        ("empty(attributes/o)", True),
        ("empty(attributes/l)", True),
        ("empty(attributes/no)", True),
        ("empty(attributes/none)", True),
        ("empty(attributes/absent)", True),
        ("empty(attributes/some)", False),
        ("empty(attributes/deep)", False),
        ("like(attributes/t,'p*p')", True),
        ("like(attributes/t,'P*')", False),
        ("like(attributes/n,'*')", False),
        ("ilike(attributes/u,'äR*')", True),
        ("gt(features/*/properties/v,8)", True),
        ("gt(features/m/properties/v,8)", False),
        ("eq(features/m~12/properties/v,9)", True),
        ("eq(features/*/*/v,9)", True),
        ("exists(features/*/definition)", False),
        ("eq(_metadata/attributes/n/by,'me')", True),
        ("exists(_metadata/attributes/*/by)", True),
        ("exists(_metadata/features)", False),
        ("like(thingId,'org.acme:t?')", True),
        ("eq(_revision,1)", True),
        ("eq(_revision,'1')", False),
        ("eq(thingId,5)", False),
        ("eq(namespace,'org.acme')", True),
        ("exists(thingId/x)", False),
        ("eq(definition,'a:b:1')", True),
        ("and(eq(attributes/n,5),not(eq(attributes/on,false)))", True),
        ("or(eq(attributes/n,6),eq(attributes/n,7))", False),
    ],
)
def test_each_operator_finds_what_it_means(
    index: sqlite3.Connection, text: str, expected: bool
) -> None:
    (thing,) = filled(index, [TABLE])
    node = parse(text)
    assert holds(node, thing) is expected
    assert bool(find(index, Ask(subjects=ME, now=NOW, node=node), 0, 10).hits) is expected


def test_the_longest_filters_fit_into_a_statement(index: sqlite3.Connection) -> None:
    filled(index, [TABLE])
    many = ",".join(map(str, range(9_990)))
    longest = [
        f"and({','.join(['eq(attributes/n,5)'] * 1_000)})",
        f"or({','.join(['ne(features/*/properties/v,5)'] * 1_000)})",
        f"in(attributes/n,{many})",
        f"not(in(features/*/*/v,{many},'x'))",
        f"and(or(in(attributes/n,{many}),eq(attributes/n,1)),exists(attributes/n))",
        "not(not(" * 20 + "eq(attributes/n,5)" + "))" * 20,
    ]
    for text in longest:
        node = parse(text)
        expected = int(holds(node, a_thing(0, TABLE)))
        ask = Ask(subjects=ME, now=NOW, node=node)
        assert len(find(index, ask, 0, 10).hits) == expected
        assert count(index, ask).number == expected
        assert unsure(index, ask, "", 10) == []


@pytest.mark.parametrize("op", ["like", "ilike"])
@pytest.mark.parametrize(
    "pattern", ["*p" * 2_000, "*p?" * 1_300 + "*b", "*" + "p" * 2_000 + "b*", "*" + "?p" * 2_000]
)
def test_no_pattern_takes_long_in_sql(index: sqlite3.Connection, op: str, pattern: str) -> None:
    filled(index, [{"attributes": {"t": "p" * 4_096}}, {"attributes": {"t": "p" * 4_095 + "ä"}}])
    node = parse(f"{op}(attributes/t,'{pattern}')")
    ask = Ask(subjects=ME, now=NOW, node=node)
    places = {hit.place.thing_id for hit in find(index, ask, 0, 10).hits}
    texts = ("p" * 4_096, "p" * 4_095 + "ä")
    assert places == {
        thing.thing_id
        for number, text in enumerate(texts)
        if holds(node, thing := a_thing(number, {"attributes": {"t": text}}))
    }


@pytest.mark.parametrize(
    ("text", "sort", "index_used"),
    [
        ("eq(attributes/n,5)", (), "search_rows_by_value (path=? AND value=?)"),
        ("gt(attributes/n,5)", (), "search_rows_by_value (path=? AND value>? AND value<?)"),
        ("like(attributes/t,'pu*')", (), "search_rows_by_value (path=? AND value>? AND value<?)"),
        ("gt(features/*/properties/v,8)", (), "search_rows_by_value (path=? AND value>?"),
        ("eq(thingId,'org.acme:t1')", (), "things"),
        ("gt(_modified,'2026')", (), "things_by_modified (modified>?"),
        (None, (SortKey(("attributes", "n")),), "search_rows_by_value (path=? AND value<?)"),
        (None, (SortKey(("attributes", "n"), True),), "search_rows_by_value (path=? AND value<?)"),
        (None, (SortKey(("_modified",), True),), "things_by_modified"),
        (None, (), "things_in_order"),
    ],
)
def test_what_has_an_index_is_found_by_it(
    index: sqlite3.Connection, text: str | None, sort: tuple[SortKey, ...], index_used: str
) -> None:
    filled(index, [TABLE, TABLE])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gateway.store.search_sqlite.GATHERED", 1_000 if text else 0)
        node = None if text is None else parse(text)
        steps = plan(index, Ask(subjects=ME, now=NOW, node=node, sort=sort), 25)
    assert any(index_used in step for step in steps), steps
    scans = [step for step in steps if step.startswith("SCAN") and " USING " not in step]
    assert all(step.startswith("SCAN d") for step in scans), steps


@more
@given(steps=st.lists(st.none() | documents, min_size=2, max_size=5))
def test_changes_write_what_writing_anew_would(index: sqlite3.Connection, steps: list[Any]) -> None:
    empty(index)
    before: Thing | None = None
    for step, document in enumerate(steps):
        after = None if document is None else a_thing(1, document, step + 1)
        if before is not None or after is not None:
            store(index, before, after)
        before = after
    kept, was_wide = rows(index), wide(index)
    filled(index, [])
    if before is not None:
        store(index, None, before)
    assert kept == rows(index)
    assert was_wide == wide(index)


@more
@given(
    document=documents,
    at=st.lists(st.sampled_from(["a", "b", "x/y~"]), min_size=1, max_size=3),
    value=values,
)
def test_a_change_at_a_path_writes_what_writing_anew_would(
    index: sqlite3.Connection, document: Any, at: list[str], value: Any
) -> None:
    empty(index)
    path = ("attributes", *at)
    before = a_thing(1, document)
    after = a_thing(1, put(document, path, value), 2)
    store(index, None, before)
    store(index, before, after, path)
    kept, was_wide = rows(index), wide(index)
    empty(index)
    store(index, None, after)
    assert (kept, was_wide) == (rows(index), wide(index))


def test_metadata_written_beside_a_value_are_indexed(index: sqlite3.Connection) -> None:
    empty(index)
    before = a_thing(1, {"attributes": {"n": 1}})
    said = {"attributes": {"n": {"by": "me"}}}
    after = a_thing(1, {"attributes": {"n": 2}, "_metadata": said}, 2)
    store(index, None, before)
    store(index, before, after, ("attributes", "n"))
    for text in ("eq(attributes/n,2)", "eq(_metadata/attributes/n/by,'me')"):
        assert count(index, Ask(subjects=ME, now=NOW, node=parse(text))).number == 1


def rows(connection: sqlite3.Connection) -> set[str]:
    """What is in the index; positions in arrays do not matter."""
    found = connection.execute(
        "SELECT thing_id, search_paths.path, position > 0, value, typeof(value)"
        " FROM search_rows JOIN search_paths ON search_paths.id = search_rows.path"
    )
    return {repr(row) for row in found}


PATHS = (("attributes", "a"), ("attributes", "b"), ("_revision",), ("thingId",), ("definition",))
sorts = st.lists(st.builds(SortKey, st.sampled_from(PATHS), st.booleans()), max_size=3).map(tuple)


@more
@given(
    some=st.lists(objects, min_size=1, max_size=8),
    sort=sorts,
    size=st.integers(1, 3),
    node=st.none() | nodes,
    gathered=st.sampled_from((0, 20_000)),
)
def test_pages_follow_each_other_in_order(
    index: sqlite3.Connection,
    some: list[Any],
    sort: tuple[SortKey, ...],
    size: int,
    node: Node | None,
    gathered: int,
) -> None:
    filled(index, [{"attributes": one} for one in some])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gateway.store.search_sqlite.GATHERED", gathered)
        whole = places(index, sort, node, None, 100)
        expected = (
            whole if node is None else [p for p in whole if p.thing_id in _found(index, node)]
        )
        assert whole == expected
        paged: list[Place] = []
        while page := places(index, sort, node, paged[-1] if paged else None, size):
            paged += page
        assert paged == whole
        assert places(index, sort, node, None, 100, skip=2) == whole[2:]
    assert [place.thing_id for place in whole] == _ordered(whole, sort)


def places(
    index: sqlite3.Connection,
    sort: tuple[SortKey, ...],
    node: Node | None,
    after: Place | None,
    take: int,
    skip: int = 0,
) -> list[Place]:
    ask = Ask(subjects=ME, now=NOW, node=node, sort=sort, after=after)
    return [hit.place for hit in find(index, ask, skip, take).hits]


def _found(index: sqlite3.Connection, node: Node) -> set[str]:
    where = condition(node, NOW)
    return ids(index, f"SELECT thing_id FROM things t WHERE {where}", where.values)


def _ordered(found: list[Place], sort: tuple[SortKey, ...]) -> list[str]:
    """The ids by a plain sort, from the last key to the first."""
    places = sorted(found, key=lambda one: one.thing_id)
    for number, key in reversed(list(enumerate(sort))):
        places.sort(key=lambda one: _rank(one.values[number]), reverse=key.is_descending)
        if key.is_descending:  # `reverse` keeps equal ones in order
            continue
    return [place.thing_id for place in places]


def _rank(value: Json) -> tuple[int, Any]:
    ranks = {type(None): 0, int: 1, float: 1, str: 2, bool: 3}
    return ranks[type(value)], 0 if value is None else value


def test_a_value_written_again_writes_nothing(index: sqlite3.Connection) -> None:
    empty(index)
    before = a_thing(1, {"attributes": {"n": 1}})
    store(index, None, before)
    written = index.total_changes
    store(index, before, a_thing(1, {"attributes": {"n": 1}}, 2), ("attributes", "n"))
    assert index.total_changes - written == 1  # the thing's own row
    store(index, before, a_thing(1, {"attributes": {"n": True}}, 3), ("attributes", "n"))
    assert count(index, Ask(subjects=ME, now=NOW, node=parse("eq(attributes/n,true)"))).number == 1
