"""Searching by the index says what looking at everything says, whoever asks; so in old databases."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.ditto.search import Searcher, SearchQuery
from gateway.ditto.service import PoliciesService, ThingsService
from gateway.ditto.upkeep import Upkeep
from gateway.model.json import Json
from gateway.model.policy import Policy, PolicyEvent
from gateway.model.thing import Action, EventAction, Thing, ThingCommand, ThingEvent
from gateway.observe.metrics import Metrics
from gateway.observe.tracing import Tracer
from gateway.runtime.module import running
from gateway.store.database import Database, migrate, migrations
from gateway.store.search import Ask
from gateway.store.things import Commit, PolicyWrite, ThingStore, ThingWrite
from gateway.store.things_memory import MemoryThingStore
from gateway.store.things_sqlite import SqliteThingStore
from gateway.twin.rql import parse
from tests.search_samples import (
    SUBJECTS,
    dense_document,
    dense_node,
    dense_policy,
    documents,
    filter_text,
    nodes,
    policies,
)

NOW = datetime(2026, 3, 31, tzinfo=UTC)
THEN = "2026-01-01T00:00:00.000000Z"


def commits(some: Sequence[Any], rules: Sequence[Any]) -> list[Commit]:
    """Policies `p0` ... and things `t0` ..., each thing under one of the policies in turn."""
    found = []
    for number, rule in enumerate(rules):
        policy = Policy(f"org.acme:p{number}", 1, rule, THEN, THEN)
        policy_event = PolicyEvent(
            policy_id=policy.policy_id,
            action=EventAction.CREATED,
            path=(),
            revision=1,
            timestamp=THEN,
            after=policy,
            value=rule,
        )
        found.append(Commit(policy=PolicyWrite(policy_event, msgspec.json.encode(rule))))
    for number, body in enumerate(some):
        document = {"policyId": f"org.acme:p{number % len(rules)}", **body}
        thing = Thing(f"org.acme:t{number}", 1, document, THEN, THEN)
        event = ThingEvent(
            thing_id=thing.thing_id,
            action=EventAction.CREATED,
            path=(),
            revision=1,
            timestamp=THEN,
            after=thing,
            value=document,
        )
        found.append(Commit(thing=ThingWrite(event, msgspec.json.encode(document))))
    return found


async def stored(store: ThingStore, wanted: Sequence[Commit]) -> None:
    for commit in wanted:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        store.append(commit, future.set_result)
        assert not isinstance(await future, Exception)


async def pages(store: ThingStore, query: SearchQuery) -> tuple[list[Json], int]:
    searcher = Searcher(store, PoliciesService(store))
    page = await searcher.search(query, NOW)
    items = page.items
    while page.cursor is not None:
        following = SearchQuery(
            subjects=query.subjects, options=f"size(2),cursor({page.cursor})", fields=query.fields
        )
        page = await searcher.search(following, NOW)
        items = items + page.items
    return items, await searcher.count(query, NOW)


sorts = st.sampled_from(
    ["", "sort(+attributes/a),", "sort(-attributes/a,+definition),", "sort(-thingId),"]
)
callers = st.sampled_from([SUBJECTS[:1], SUBJECTS[1:2], SUBJECTS[:2], SUBJECTS])


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    some=st.lists(documents, min_size=3, max_size=6),
    rules=st.lists(policies, min_size=1, max_size=3),
    asked=st.lists(st.tuples(callers, st.none() | nodes, sorts), min_size=4, max_size=8),
)
def test_the_index_finds_what_looking_at_all_finds(
    some: list[Any], rules: list[Any], asked: list[Any]
) -> None:
    async def compare() -> None:
        database, memory = Database(None, "gateway"), MemoryThingStore()
        async with database.running():
            indexed = SqliteThingStore(database)
            for store in (indexed, memory):
                await stored(store, commits(some, rules))
            for subjects, node, sort in asked:
                query = SearchQuery(
                    subjects=subjects,
                    filter=None if node is None else filter_text(node),
                    options=f"{sort}size(2)",
                )
                found = await pages(indexed, query)
                assert found == await pages(memory, query), query
                assert len(found[0]) == found[1]

    asyncio.run(compare())


@pytest.mark.parametrize("seed", range(12))
async def test_whoever_asks_gets_what_they_may_read(seed: int) -> None:
    dice = Random(seed)
    rules = [dense_policy(dice) for _ in range(4)]
    some = [dense_document(dice) for _ in range(24)]
    database, memory = Database(None, "gateway"), MemoryThingStore()
    hits = 0
    async with database.running():
        indexed = SqliteThingStore(database)
        for store in (indexed, memory):
            await stored(store, commits(some, rules))
        for _ in range(30):
            sort = dice.choice(["", "sort(+attributes/a),", "sort(-attributes/b,-thingId),"])
            query = SearchQuery(
                subjects=tuple(dice.sample(SUBJECTS, dice.randint(1, 2))),
                filter=filter_text(dense_node(dice)),
                options=f"{sort}size(2)",
            )
            found = await pages(indexed, query)
            assert found == await pages(memory, query), query
            hits += found[1]
    assert hits > 20


SECRET: Any = {
    "entries": {
        "all": {
            "subjects": {"test:me": {"type": "x"}, "test:boss": {"type": "x"}},
            "resources": {"thing:/": {"grant": ["READ"], "revoke": []}},
        },
        "hidden": {
            "subjects": {"test:me": {"type": "x"}},
            "resources": {"thing:/attributes/secret": {"grant": [], "revoke": ["READ"]}},
        },
    }
}


@pytest.mark.parametrize(
    "text",
    [
        "eq(attributes/secret,7)",
        "gt(attributes/secret,1)",
        "exists(attributes/secret)",
        "ne(attributes/secret,1)",
        "not(empty(attributes/secret))",
        "in(attributes/secret,7,8)",
    ],
)
async def test_nothing_is_found_by_what_may_not_be_read(text: str) -> None:
    database = Database(None, "gateway")
    async with database.running():
        store = SqliteThingStore(database)
        await stored(store, commits([{"attributes": {"secret": 7, "n": 1}}], [SECRET]))
        mine = await pages(store, SearchQuery(subjects=("test:me",), filter=text))
        assert mine == ([], 0)
        mixed = await pages(store, SearchQuery(subjects=("test:me", "test:boss"), filter=text))
        assert mixed == ([], 0)
        (found,), number = await pages(store, SearchQuery(subjects=("test:boss",), filter=text))
        assert number == 1
        assert found == {
            "thingId": "org.acme:t0",
            "policyId": "org.acme:p0",
            "attributes": {"secret": 7, "n": 1},
        }


async def test_hidden_values_do_not_order_things() -> None:
    database = Database(None, "gateway")
    async with database.running():
        store = SqliteThingStore(database)
        some = [{"attributes": {"secret": 9 - n}} for n in range(4)]
        await stored(store, commits(some, [SECRET]))
        for sort in ("+", "-"):
            query = SearchQuery(
                subjects=("test:me",), options=f"sort({sort}attributes/secret)", fields="thingId"
            )
            items, _ = await pages(store, query)
            assert items == [{"thingId": f"org.acme:t{n}"} for n in range(4)]


# --- current at once ---------------------------------------------------------------------------


def a_service(store: ThingStore) -> ThingsService:
    return ThingsService(store, PoliciesService(store), metrics=Metrics(), tracer=Tracer())


async def set_n(things: ThingsService, value: Json) -> None:
    await things.execute(
        ThingCommand(
            thing_id="org.acme:x",
            action=Action.MODIFY,
            path=("attributes", "n"),
            value=value,
            subjects=("test:me",),
        )
    )


async def test_a_change_is_found_by_the_next_request() -> None:
    database = Database(None, "gateway")
    async with database.running():
        things = a_service(SqliteThingStore(database))
        create = ThingCommand(
            thing_id="org.acme:x",
            action=Action.MODIFY,
            value={"attributes": {"n": -1}},
            subjects=("test:me",),
        )
        await things.execute(create)
        for n in range(50):
            await set_n(things, n)
            query = SearchQuery(subjects=("test:me",), filter=f"eq(attributes/n,{n})")
            assert await things.count(query) == 1
            older = SearchQuery(subjects=("test:me",), filter=f"lt(attributes/n,{n})")
            assert await things.count(older) == 0


# --- upgrades ----------------------------------------------------------------------------------


def an_old_database(path: Path) -> None:
    """What a version without an index wrote: the schema up to its number 4."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        migrate(connection, [one for one in migrations("gateway") if one[0] <= 4])
        policy = msgspec.json.encode(SECRET)
        connection.execute(
            "INSERT INTO policies VALUES ('org.acme:p0', 1, ?, ?, ?)", (policy, THEN, THEN)
        )
        for n in range(5):
            document = {"policyId": "org.acme:p0", "attributes": {"n": n, "secret": n}}
            kept = None if n == 4 else msgspec.json.encode(document)
            connection.execute(
                "INSERT INTO things VALUES (?, 'org.acme', 'org.acme:p0', 1, ?, ?, ?)",
                (f"org.acme:t{n}", kept, THEN, THEN),
            )


@pytest.mark.parametrize("is_indexed", [False, True])
async def test_things_of_an_old_database_are_found_before_and_after_they_are_indexed(
    tmp_path: Path, is_indexed: bool
) -> None:
    an_old_database(tmp_path / "gateway.db")
    database = Database(tmp_path / "gateway.db", "gateway")
    async with database.running():
        store = SqliteThingStore(database)
        if is_indexed:
            assert await store.catch_up(3) > 0
            while await store.catch_up(3):
                pass
        query = SearchQuery(
            subjects=("test:boss",),
            filter="gt(attributes/n,1)",
            options="sort(-attributes/n)",
            fields="thingId",
        )
        assert await pages(store, query) == (
            [{"thingId": "org.acme:t3"}, {"thingId": "org.acme:t2"}],
            2,
        )
        mine = SearchQuery(subjects=("test:me",), filter="gt(attributes/secret,1)")
        assert await pages(store, mine) == ([], 0)
        left = await database.read(_waiting)
        assert left == (0 if is_indexed else 4)


async def test_the_service_indexes_what_an_old_version_stored(tmp_path: Path) -> None:
    an_old_database(tmp_path / "gateway.db")
    database = Database(tmp_path / "gateway.db", "gateway")
    async with database.running(), running(Upkeep(SqliteThingStore(database))):
        async with asyncio.timeout(10):
            while await database.read(_waiting):  # noqa: ASYNC110  SQLite has no event to wait for
                await asyncio.sleep(0.01)


def _waiting(connection: sqlite3.Connection) -> int:
    return int(connection.execute("SELECT count(*) FROM search_wide").fetchone()[0])


# --- several subjects --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "is_certain"),
    [
        ("exists(attributes/n)", True),
        ("exists(features/*/properties/x)", True),
        (None, True),
        ("exists(attributes/secret)", False),
        ("exists(attributes)", False),
    ],
)
async def test_what_is_revoked_from_one_subject_matters_to_what_names_it(
    text: str | None, is_certain: bool
) -> None:
    database = Database(None, "gateway")
    async with database.running():
        store = SqliteThingStore(database)
        await stored(store, commits([{"attributes": {"n": 1, "secret": 2}}], [SECRET]))
        node = None if text is None else parse(text)
        ask = Ask(subjects=("test:me", "test:boss"), now=NOW, node=node)
        counted = await store.count(ask)
        assert counted.has_unsure is not is_certain


@pytest.mark.parametrize("granted", ["/attributes/a/b", "/features/motor/properties/a/b"])
async def test_what_is_granted_inside_an_array_is_not_found_as_it_is_not_shown(
    granted: str,
) -> None:
    rule = {
        "entries": {
            "e": {
                "subjects": {SUBJECTS[0]: {"type": "x"}},
                "resources": {f"thing:{granted}": {"grant": ["READ"], "revoke": []}},
            }
        }
    }
    some: list[Any] = []
    for value in ({"b": 1}, [{"b": 1}], {"b": [{"c": 1}]}):
        held = {"a": value}
        some.append({"attributes": held, "features": {"motor": {"properties": held}}})
    place = granted.lstrip("/")
    database = Database(None, "gateway")
    async with database.running():
        store = SqliteThingStore(database)
        await stored(store, commits(some, [rule]))
        for text, expected in ((f"eq({place},1)", ["t0"]), (f"eq({place}/c,1)", ["t2"])):
            query = SearchQuery(subjects=SUBJECTS[:1], filter=text, fields="thingId")
            found = [{"thingId": f"org.acme:{name}"} for name in expected]
            assert await pages(store, query) == (found, 1)
