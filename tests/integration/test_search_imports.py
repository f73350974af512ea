"""Searching under policies that import, refer to others or have root policies: exact, and by the index."""

from __future__ import annotations

import asyncio
import sqlite3
from random import Random
from typing import Any

import msgspec
import pytest

from gateway.config.ditto import NamespaceRoot, Policies
from gateway.ditto.policies import PoliciesService
from gateway.ditto.search import Searcher, SearchQuery
from gateway.ditto.upkeep import Upkeep
from gateway.model.json import Json
from gateway.model.policy import Policy, PolicyEvent
from gateway.model.thing import EventAction, Thing, ThingEvent
from gateway.runtime.module import running
from gateway.store.database import Database
from gateway.store.search import Ask, Counted, Found
from gateway.store.things import Commit, PolicyWrite, ThingStore, ThingWrite
from gateway.store.things_memory import MemoryThingStore
from gateway.store.things_sqlite import SqliteThingStore
from gateway.twin.rql import parse
from tests.integration.test_search_rights import NOW, THEN, stored
from tests.search_samples import NOT_READ, READ, SUBJECTS, dense_document, dense_node, filter_text

ROOTS = (
    NamespaceRoot(namespace="org.*", policies=("ops:root",)),
    NamespaceRoot(namespace="org.acme", policies=("ops:acme", "ops:none")),
)
NAMES = ("org.acme:p0", "org.acme:p1", "org.acme:p2", "org.far:p3", "ops:root", "ops:acme")
PLACES = ("/", "/attributes", "/attributes/a", "/attributes/b", "/features/motor")


def an_entry(dice: Random, name: str, labels: tuple[str, ...], imports: Any) -> Any:
    resources = {"thing:/": READ} if dice.random() < 0.5 else {}
    for place in dice.sample(PLACES, dice.randint(0, 2)):
        resources[f"thing:{place}"] = dice.choice((READ, READ, NOT_READ))
    entry: Any = {
        "subjects": {one: {"type": "x"} for one in dice.sample(SUBJECTS, dice.randint(0, 2))},
        "resources": resources,
        "importable": dice.choice(("implicit", "implicit", "explicit", "never")),
    }
    if dice.random() < 0.25:
        entry["namespaces"] = dice.choice((["org.acme"], ["org.*"], ["org.far", "ops"]))
    if dice.random() < 0.3:
        entry["references"] = [{"entry": dice.choice(labels)}]
    elif imports and dice.random() < 0.5:
        entry["references"] = [{"import": dice.choice(list(imports)), "entry": "one"}]
    if dice.random() < 0.2:
        entry["allowedAdditions"] = dice.choice(([], ["subjects"], ["resources", "namespaces"]))
    return entry


def a_policy(dice: Random, name: str) -> Any:
    others = [one for one in NAMES if one != name]
    imports: Any = {}
    for one in dice.sample(others, dice.randint(0, 2)):
        imports[one] = {"entries": ["one"] if dice.random() < 0.5 else []}
        if dice.random() < 0.5:
            imports[one]["transitiveImports"] = dice.sample(others, 2)
    entries = {label: an_entry(dice, name, ("one", "two"), imports) for label in ("one", "two")}
    return {"entries": entries, **({"imports": imports} if imports else {})}


class Both:
    """The same commits for two stores."""

    def __init__(self, *stores: ThingStore) -> None:
        self.stores = stores
        self._policies: dict[str, Policy] = {}
        self._revisions: dict[str, int] = {}

    async def policy(self, name: str, document: Any) -> None:
        before = self._policies.get(name)
        revision = self._revisions.get(name, 0) + 1
        after = None if document is None else Policy(name, revision, document, THEN, THEN)
        if before is None and after is None:
            return
        event = PolicyEvent(
            policy_id=name,
            action=EventAction.DELETED if after is None else EventAction.MODIFIED,
            path=(),
            revision=revision,
            timestamp=THEN,
            before=before,
            after=after,
            value=document,
        )
        body = None if document is None else msgspec.json.encode(document)
        for store in self.stores:
            await stored(store, [Commit(policy=PolicyWrite(event, body))])
        self._revisions[name] = revision
        self._policies.pop(name, None)
        if after is not None:
            self._policies[name] = after

    async def thing(self, thing_id: str, document: Any) -> None:
        thing = Thing(thing_id, 1, document, THEN, THEN)
        event = ThingEvent(
            thing_id=thing_id,
            action=EventAction.CREATED,
            path=(),
            revision=1,
            timestamp=THEN,
            after=thing,
            value=document,
        )
        for store in self.stores:
            await stored(store, [Commit(thing=ThingWrite(event, msgspec.json.encode(document)))])


async def found(store: ThingStore, query: SearchQuery) -> tuple[list[Json], int]:
    policies = PoliciesService(store, settings=Policies(namespace_roots=ROOTS))
    searcher = Searcher(store, policies)
    page = await searcher.search(query, NOW)
    return page.items, await searcher.count(query, NOW)


@pytest.mark.parametrize(("at_once", "reads"), [(0, 300), (1, 300), (32, 300), (32, 4), (1, 1)])
@pytest.mark.parametrize("seed", range(6))
async def test_whatever_policies_import_a_search_finds_what_may_be_read(
    seed: int, at_once: int, reads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.store.policy_rights.RESIGNED_AT_ONCE", at_once)
    monkeypatch.setattr("gateway.store.policy_rights._READ_AT_ONCE", reads)
    dice = Random(seed)
    database, memory = Database(None, "gateway"), MemoryThingStore()
    hits = 0
    async with database.running():
        indexed = SqliteThingStore(database, ROOTS)
        await indexed.catch_up(1)
        both = Both(indexed, memory)
        for number in range(12):
            name = f"{dice.choice(('org.acme', 'org.far', 'ops'))}:t{number}"
            document = dense_document(dice)
            document["policyId"] = dice.choice(NAMES[:5])
            await both.thing(name, document)
        for _ in range(25):
            name = dice.choice(NAMES)
            await both.policy(name, None if dice.random() < 0.1 else a_policy(dice, name))
            if dice.random() < 0.5:
                await indexed.catch_up(dice.choice((1, 2, 100)))
            for _ in range(3):
                node = None if dice.random() < 0.2 else dense_node(dice, 1)
                query = SearchQuery(
                    subjects=tuple(dice.sample(SUBJECTS, dice.randint(1, 2))),
                    filter=None if node is None else filter_text(node),
                    options=dice.choice(("", "sort(+attributes/a)", "sort(-attributes/b)")) or None,
                )
                said = await found(indexed, query)
                assert said == await found(memory, query), query
                hits += said[1]
    assert hits > 40


# --- by the index ---------------------------------------------------------------------------------

SHARED: Any = {
    "entries": {"all": {"subjects": {"test:me": {"type": "x"}}, "resources": {"thing:/": READ}}}
}
NOTHING: Any = {"entries": {}}
IMPORTING: Any = {"imports": {"org.acme:shared": {}}, "entries": {}}
ASK = Ask(subjects=("test:me",), now=NOW, node=parse("exists(attributes/n)"))


async def a_fleet(both: Both, things: int) -> None:
    await both.policy("org.acme:shared", SHARED)
    for number in range(things):
        await both.policy(f"org.acme:p{number}", IMPORTING)
        document = {"policyId": f"org.acme:p{number}", "attributes": {"n": number}}
        await both.thing(f"org.acme:t{number}", document)


def stale(connection: sqlite3.Connection) -> int:
    return int(connection.execute("SELECT count(*) FROM policy_stale").fetchone()[0])


async def test_importers_are_certain_and_become_so_again_after_a_change(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("gateway.store.policy_rights.RESIGNED_AT_ONCE", 4)
    database = Database(None, "gateway")
    async with database.running():
        store = SqliteThingStore(database)
        both = Both(store)
        await a_fleet(both, 10)
        before = await store.count(ASK)
        assert (before.number, before.has_unsure) == (10, False)
        await both.policy("org.acme:shared", NOTHING)
        assert store.behind.is_set()
        during = await store.count(ASK)
        assert (during.number, during.has_unsure) == (0, True)
        assert await Searcher(store, PoliciesService(store)).count(
            SearchQuery(subjects=("test:me",)), NOW
        ) == 0  # fmt: skip
        assert await store.catch_up(3) > 0
        assert await database.read(stale) == 1
        while await store.catch_up(3):
            pass
        assert await database.read(stale) == 0
        after = await store.count(ASK)
        assert (after.number, after.has_unsure) == (0, False)


async def test_what_is_signed_in_the_middle_of_a_search_is_still_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("gateway.store.policy_rights.RESIGNED_AT_ONCE", 4)
    database = Database(None, "gateway")
    async with database.running():
        store = SqliteThingStore(database)
        both = Both(store)
        await a_fleet(both, 10)
        await both.policy("org.acme:shared", NOTHING)
        while await store.catch_up(100):
            pass
        await both.policy("org.acme:shared", SHARED)

        async def meanwhile() -> None:
            while await store.catch_up(100):
                pass

        class Racing(SqliteThingStore):
            """Signs all between what the index is certain of and what is judged."""

            async def count(self, ask: Ask) -> Counted:
                found = await super().count(ask)
                await meanwhile()
                return found

            async def find(self, ask: Ask, skip: int, take: int) -> Found:
                found = await super().find(ask, skip, take)
                await meanwhile()
                return found

        racing = Racing(database)
        searcher = Searcher(racing, PoliciesService(store))
        query = SearchQuery(subjects=("test:me",))
        assert (await store.count(ASK)).has_unsure
        assert await searcher.count(query, NOW) == 10
        await both.policy("org.acme:shared", NOTHING)
        await both.policy("org.acme:shared", SHARED)
        assert (await store.count(ASK)).has_unsure
        assert len((await searcher.search(query, NOW)).items) == 10


async def test_a_handful_of_importers_is_signed_with_the_change() -> None:
    database = Database(None, "gateway")
    async with database.running():
        store = SqliteThingStore(database)
        both = Both(store)
        await a_fleet(both, 10)
        await both.policy("org.acme:shared", NOTHING)
        assert not store.behind.is_set()
        assert await store.count(ASK) == await store.count(ASK)
        assert (await store.count(ASK)).number == 0
        assert not (await store.count(ASK)).has_unsure
        await both.policy("org.acme:shared", SHARED)
        assert ((await store.count(ASK)).number, (await store.count(ASK)).has_unsure) == (10, False)


async def test_stale_policies_are_signed_without_anybody_asking(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("gateway.store.policy_rights.RESIGNED_AT_ONCE", 0)
    database = Database(None, "gateway")
    async with database.running():
        store = SqliteThingStore(database)
        async with running(Upkeep(store)):
            both = Both(store)
            await a_fleet(both, 5)
            await both.policy("org.acme:shared", NOTHING)
            async with asyncio.timeout(30):
                while await database.read(stale):  # noqa: ASYNC110  SQLite has no event
                    await asyncio.sleep(0.01)
            assert not (await store.count(ASK)).has_unsure


async def test_other_root_policies_in_the_settings_sign_all_policies_anew() -> None:
    database = Database(None, "gateway")
    async with database.running():
        store = SqliteThingStore(database)
        both = Both(store)
        await both.policy("ops:root", SHARED)
        await both.policy("org.acme:p", NOTHING)
        await both.thing("org.acme:t", {"policyId": "org.acme:p", "attributes": {"n": 1}})
        assert (await store.count(ASK)).number == 0
        rooted = SqliteThingStore(database, ROOTS)
        assert await rooted.catch_up(1) > 0
        assert (await rooted.count(ASK)).has_unsure
        while await rooted.catch_up(100):
            pass
        counted = await rooted.count(ASK)
        assert (counted.number, counted.has_unsure) == (1, False)
        plain = SqliteThingStore(database)
        while await plain.catch_up(100):
            pass
        assert (await plain.count(ASK)).number == 0


async def test_more_signatures_than_are_judged_hide_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("gateway.store.search_rights._MAX_SIGNATURES", 3)
    database = Database(None, "gateway")
    async with database.running():
        store = SqliteThingStore(database)
        both = Both(store)
        for number in range(8):
            subject = {"type": "x", "expiry": f"2099-01-01T00:00:0{number}Z"}
            entry = {"subjects": {"test:me": subject}, "resources": {"thing:/": READ}}
            await both.policy(f"org.acme:p{number}", {"entries": {"one": entry}})
            document = {"policyId": f"org.acme:p{number}", "attributes": {"n": number}}
            await both.thing(f"org.acme:t{number}", document)
        query = SearchQuery(subjects=("test:me",), filter="ge(attributes/n,0)")
        items, number_ = await found(store, query)
        assert len(items) == number_ == 8
