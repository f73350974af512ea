"""Among 100,000 things no query that has an index walks over all of them; judged by SQLite's own steps."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from gateway.store.database import migrate, migrations
from gateway.store.policy_rights import Signer
from gateway.store.search import Ask, Place, SortKey
from gateway.store.search_presence import Presence
from gateway.store.search_sql import add_functions
from gateway.store.search_sqlite import count, find, plan, plan_of_count
from gateway.store.search_writes import pattern_of
from gateway.twin.namespaces import Scope
from gateway.twin.rql import parse

THINGS = 100_000
NOW = datetime(2026, 3, 31, tzinfo=UTC)
ME = ("nginx:ditto",)
READ = {"thing:/": {"grant": ["READ"], "revoke": []}}
BASE: Any = {
    "entries": {
        "readers": {"subjects": {ME[0]: {"type": "x"}}, "resources": READ, "importable": "implicit"}
    }
}
FLEET: Any = {
    "imports": {"org.acme:base": {}},
    "entries": {"owner": {"subjects": {"nginx:boss": {"type": "x"}}, "resources": READ}},
}
FEW_STEPS = 100
"""Thousands of SQLite's instructions; walking over all things takes more than 500."""
PATHS = (
    "/policyId",
    "/definition",
    "/attributes",
    "/attributes/n",
    "/attributes/serial",
    "/attributes/maker",
    "/features/motor/properties/rpm",
    "/features/motor/desiredProperties/rpm",
    "/features/pump/properties/rpm",
)


def instant(number: int) -> str:
    return f"2026-01-{number % 28 + 1:02}T00:00:{number % 60:02}.{number:06}Z"


def thing_rows() -> Iterator[tuple[Any, ...]]:
    for n in range(THINGS):
        namespace = "org.acme" if n % 4 else "org.acme.far"
        then = instant(n)
        yield f"{namespace}:t{n:06}", namespace, "org.acme:fleet", n + 1, b"{}", then, then


def value_rows() -> Iterator[tuple[Any, ...]]:
    for n in range(THINGS):
        thing_id = f"{'org.acme' if n % 4 else 'org.acme.far'}:t{n:06}"
        feature = 7 if n % 2 else 9
        values: dict[int, Any] = {
            1: "org.acme:fleet",
            2: f"org.acme:model:{n % 500}",
            3: b"\x02",
            4: n % 1_000,
            5: f"s-{n:06}",
            6: ("ACME", "Umbrella", "Initech")[n % 3],
            feature: n % 5_000,
            8: n % 5_000,
        }
        for path, value in sorted(values.items()):
            yield thing_id, path, 0, value


@pytest.fixture(name="index", scope="module")
def an_index() -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        migrate(connection, migrations("gateway"))
        add_functions(connection)
        connection.execute("BEGIN")
        for name, document in (("org.acme:base", BASE), ("org.acme:fleet", FLEET)):
            body = msgspec.json.encode(document)
            connection.execute(
                "INSERT INTO policies (policy_id, revision, document, created, modified)"
                " VALUES (?, 1, ?, '', '')",
                (name, body),
            )
            Signer(connection, ()).stored(name, document)
        connection.executemany(
            "INSERT INTO search_paths (path, pattern) VALUES (?, ?)",
            [(path, pattern_of(path)) for path in PATHS],
        )
        connection.executemany("INSERT INTO things VALUES (?, ?, ?, ?, ?, ?, ?)", thing_rows())
        connection.executemany("INSERT INTO search_rows VALUES (?, ?, ?, ?)", value_rows())
        connection.execute("COMMIT")
        yield connection


def thousands(connection: sqlite3.Connection, run: Callable[[Any], object]) -> int:
    """Thousands of instructions that a search takes."""
    steps = [0]

    def step() -> int:
        steps[0] += 1
        return 0

    class Watched:
        """A connection whose clock counts instead of stopping."""

        def __getattr__(self, name: str) -> Any:
            return getattr(connection, name)

        def set_progress_handler(self, handler: object, _every: int) -> None:
            connection.set_progress_handler(step if handler else None, 1_000)

    run(Watched())
    return steps[0]


def ask(text: str | None, *sort: str, **more: Any) -> Ask:
    keys = tuple(SortKey(tuple(one[1:].split("/")), one[0] == "-") for one in sort)
    node = None if text is None else parse(text)
    return Ask(subjects=ME, now=NOW, node=node, sort=keys, **more)


SHAPES = [
    ("eq(attributes/serial,'s-000777')", 1),
    ("ne(attributes/serial,'s-000777')", 200),
    ("gt(attributes/serial,'s-099900')", 99),
    ("ge(attributes/n,999)", 100),
    ("lt(attributes/n,1)", 100),
    ("le(attributes/serial,'s-000004')", 5),
    ("in(attributes/serial,'s-000001','s-000002','none')", 2),
    ("like(attributes/serial,'s-0007*')", 100),
    ("exists(attributes/n)", 200),
    ("exists(attributes/absent)", 0),
    ("and(eq(attributes/maker,'ACME'),eq(attributes/n,7))", 33),
    ("or(eq(attributes/serial,'s-000001'),eq(attributes/serial,'s-000002'))", 2),
    ("not(not(eq(attributes/serial,'s-000001')))", 1),
    ("not(or(not(eq(attributes/serial,'s-000001')),not(exists(attributes/n))))", 1),
    ("and(eq(attributes/n,7),not(eq(attributes/maker,'ACME')))", 67),
    ("eq(features/*/properties/rpm,4999)", 20),
    ("eq(features/motor/properties/rpm,4999)", 20),
    ("eq(features/*/desiredProperties/rpm,4999)", 20),
    ("gt(features/*/properties/rpm,4998)", 20),
    ("exists(features/pump/properties/rpm)", 200),
    ("eq(definition,'org.acme:model:7')", 200),
    ("like(definition,'org.acme:model:7')", 200),
    ("eq(_revision,777)", 1),
    ("gt(_revision,99990)", 10),
    ("gt(_modified,'2026-01-28T00:00:59')", 50),
    ("eq(_created,'2026-01-01T00:00:00.000000Z')", 1),
    ("eq(policyId,'org.acme:fleet')", 200),
    ("eq(policyId,'org.acme:none')", 0),
    ("eq(thingId,'org.acme:t000001')", 1),
    ("in(thingId,'org.acme:t000001','org.acme:t000002')", 2),
    ("like(thingId,'org.acme:t00000*')", 7),
    ("eq(namespace,'org.acme.far')", 200),
    ("eq(namespace,'org.none')", 0),
    ("like(_namespace,'org.acme.*')", 200),
    ("ilike(attributes/maker,'ACME')", 200),
    (None, 200),
]


@pytest.mark.parametrize(("text", "expected"), SHAPES)
def test_a_page_is_found_without_walking_over_all_things(
    index: sqlite3.Connection, text: str | None, expected: int
) -> None:
    hits: list[int] = []
    taken = thousands(index, lambda one: hits.append(len(find(one, ask(text), 0, 200).hits)))
    assert hits[0] == expected or (text is not None and "_modified" in text and hits[0] > 20)
    assert taken < FEW_STEPS, plan(index, ask(text), 200)
    steps = plan(index, ask(text), 200)
    assert not [step for step in steps if step in ("SCAN t", "SCAN r", "SCAN s0")], steps


@pytest.mark.parametrize(("text", "expected"), [one for one in SHAPES if one[1] < 200])
def test_few_things_are_counted_without_walking_over_all(
    index: sqlite3.Connection, text: str, expected: int
) -> None:
    numbers: list[int] = []
    taken = thousands(index, lambda one: numbers.append(count(one, ask(text)).number))
    assert numbers[0] == expected or "_modified" in text
    assert taken < FEW_STEPS, plan_of_count(index, ask(text))


@pytest.mark.parametrize(
    ("text", "expected", "most"),
    [
        (None, THINGS, 2_000),
        ("eq(attributes/maker,'ACME')", 33_334, 1_500),
        ("gt(attributes/n,499)", 50_000, 2_500),
        ("eq(namespace,'org.acme.far')", 25_000, 1_500),
        ("not(eq(attributes/maker,'ACME'))", 66_666, 4_000),
    ],
)
def test_many_things_are_counted_in_a_step_or_two_each(
    index: sqlite3.Connection, text: str | None, expected: int, most: int
) -> None:
    numbers: list[int] = []
    taken = thousands(index, lambda one: numbers.append(count(one, ask(text)).number))
    assert numbers == [expected]
    assert taken < most, plan_of_count(index, ask(text))


SORTS = [
    ("+attributes/n",),
    ("-attributes/n",),
    ("+attributes/serial",),
    ("-attributes/serial",),
    ("+attributes/maker",),
    ("-attributes/maker",),
    ("-features/motor/properties/rpm",),
    ("+_modified",),
    ("-_modified",),
    ("-_created",),
    ("-_revision",),
    ("-thingId",),
    ("+namespace",),
    (),
]


@pytest.mark.parametrize("sort", SORTS)
def test_a_page_deep_in_an_order_costs_what_the_first_one_costs(
    index: sqlite3.Connection, sort: tuple[str, ...]
) -> None:
    query, presence = ask(None, *sort), Presence()
    find(index, query, 0, 1, presence)
    first = thousands(index, lambda one: find(one, query, 0, 200, presence))
    (deep,) = find(index, query, 60_000, 1).hits
    later = ask(None, *sort, after=deep.place)
    pages: list[list[Place]] = []
    taken = thousands(
        index, lambda one: pages.append([hit.place for hit in find(one, later, 0, 200).hits])
    )
    whole = [hit.place for hit in find(index, query, 60_001, 200).hits]
    assert pages[0] == whole
    assert first < FEW_STEPS, (first, plan(index, query, 200))
    assert taken < FEW_STEPS, (taken, plan(index, later, 200))


def test_namespaces_and_their_scope_narrow_a_search(index: sqlite3.Connection) -> None:
    one = ask("exists(attributes/n)", namespaces=("org.acme.far",))
    assert thousands(index, lambda connection: find(connection, one, 0, 200)) < FEW_STEPS
    assert count(index, one).number == THINGS // 4
    scoped = ask(None, scope=Scope(("org.acme.*",)))
    assert count(index, scoped).number == THINGS // 4
    blocked = ask(None, scope=Scope(None, ("*.far",)))
    assert count(index, blocked).number == THINGS - THINGS // 4
    assert count(index, ask(None, scope=Scope(()))).number == 0


def test_whoever_may_read_nothing_is_answered_at_once(index: sqlite3.Connection) -> None:
    stranger = Ask(subjects=("nginx:stranger",), now=NOW, node=parse("exists(attributes/n)"))
    assert thousands(index, lambda one: find(one, stranger, 0, 200)) < FEW_STEPS
    assert thousands(index, lambda one: count(one, stranger)) < FEW_STEPS
    assert count(index, stranger).number == 0
