"""The port `ThingStore`: one suite, every implementation."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest

from gateway.errors import GatewayError, RevisionConflict, StoreUnavailable
from gateway.model.json import JsonObject
from gateway.model.message import SpoolId
from gateway.model.policy import Policy, PolicyEvent
from gateway.model.thing import EventAction, Thing, ThingEvent
from gateway.model.trace import TraceContext
from gateway.store.database import Database
from gateway.store.things import (
    SNAPSHOT_EVERY,
    Commit,
    Committed,
    Forgotten,
    Keep,
    PolicyWrite,
    StoredPolicy,
    StoredThing,
    ThingStore,
    ThingWrite,
)
from gateway.store.things_memory import MemoryThingStore
from gateway.store.things_sqlite import SqliteThingStore
from gateway.twin.policies import replayed_policy
from gateway.twin.things import replayed

T = TypeVar("T")
TRACE = TraceContext("0" * 31 + "1", "0" * 15 + "2")


@pytest.fixture(params=["memory", "sqlite"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[ThingStore]:
    if request.param == "memory":
        yield MemoryThingStore()
        return
    database = Database(None, "gateway")
    async with database.running():
        yield SqliteThingStore(database)


async def asked(call: Callable[[Callable[[Any], None]], None]) -> Any:
    """Wait for a callback; raise what it was told."""
    future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    call(future.set_result)
    answer = await future
    if isinstance(answer, GatewayError):
        raise answer
    return answer


def at(revision: int) -> str:
    return f"2026-01-01T00:00:00.{revision:06d}Z"


def a_thing(revision: int, thing_id: str = "a:t", **attributes: Any) -> Thing:
    document: JsonObject = {"policyId": "a:p", "attributes": attributes}
    return Thing(thing_id, revision, document, at(1), at(revision))


def a_write(before: Thing | None, after: Thing | None, revision: int) -> ThingWrite:
    """One event: creation, deletion, or the change of attribute `n`."""
    state = after or before
    assert state is not None
    if before is None:
        assert after is not None
        action, path, value = EventAction.CREATED, (), {"thingId": state.thing_id, **after.document}
    elif after is None:
        action, path, value = EventAction.DELETED, (), None
    else:
        action, path = EventAction.MODIFIED, ("attributes", "n")  # type: ignore[assignment]
        value = after.document["attributes"]["n"]  # type: ignore[index, call-overload, assignment]
    event = ThingEvent(
        thing_id=state.thing_id,
        action=action,
        path=path,
        revision=revision,
        timestamp=at(revision),
        after=after,
        before=before,
        value=value,
        headers={"correlation-id": "c"},
        originator="session",
        subjects=("nginx:me",),
        trace=TRACE,
    )
    return ThingWrite(event, msgspec.json.encode(after.document) if after else None)


async def append(store: ThingStore, **parts: Any) -> Committed:
    found: Committed = await asked(lambda done: store.append(Commit(**parts), done))
    return found


async def change(store: ThingStore, before: Thing | None, after: Thing | None) -> Committed:
    revision = after.revision if after else (before.revision + 1 if before else 1)
    return await append(store, thing=a_write(before, after, revision))


async def thing_of(store: ThingStore, thing_id: str = "a:t") -> StoredThing:
    found: StoredThing = await asked(lambda done: store.load_thing(thing_id, done))
    return found


async def test_an_unknown_id_has_no_thing_and_no_revision(store: ThingStore) -> None:
    assert await thing_of(store) == StoredThing(None, 0)
    unknown = await asked(lambda done: store.load_policy("a:p", done))
    assert unknown == StoredPolicy(None, 0)
    assert await asked(lambda done: store.load_spool("edge", "lane", done)) == 0


async def test_what_was_appended_is_loaded(store: ThingStore) -> None:
    first, second = a_thing(1, n=1), a_thing(2, n=2)
    one = await change(store, None, first)
    two = await change(store, first, second)
    assert one.sequence < two.sequence
    assert await thing_of(store) == StoredThing(second, 2)


async def test_only_the_next_revision_is_taken(store: ThingStore) -> None:
    first = a_thing(1, n=1)
    await change(store, None, first)
    for before, after in (
        (None, a_thing(1, n=2)),
        (first, a_thing(3, n=3)),
        (a_thing(4, n=4), a_thing(5, n=5)),
    ):
        with pytest.raises(RevisionConflict):
            await change(store, before, after)
    assert await thing_of(store) == StoredThing(first, 1)
    assert len(await store.events("a:t", 0, 10)) == 1


async def test_a_deleted_thing_keeps_its_revision(store: ThingStore) -> None:
    first = a_thing(1, n=1)
    await change(store, None, first)
    await change(store, first, None)
    assert await thing_of(store) == StoredThing(None, 2)
    with pytest.raises(RevisionConflict):
        await change(store, None, a_thing(1, n=3))
    again = a_thing(3, n=3)
    await change(store, None, again)
    assert await thing_of(store) == StoredThing(again, 3)


def a_policy_write(revision: int = 1) -> PolicyWrite:
    policy = Policy("a:p", revision, {"entries": {}}, at(1), at(revision))
    event = PolicyEvent(
        policy_id="a:p",
        action=EventAction.CREATED,
        path=(),
        revision=revision,
        timestamp=at(revision),
        after=policy,
        value={"policyId": "a:p", "entries": {}},
    )
    return PolicyWrite(event, b'{"entries":{}}')


async def test_thing_policy_and_spool_are_stored_together_or_not_at_all(store: ThingStore) -> None:
    write = a_write(None, a_thing(1, n=1), 1)
    spool = SpoolId("edge", "lane", 5)
    with pytest.raises(RevisionConflict):
        await append(store, thing=write, policy=a_policy_write(2), spool=spool)
    assert await thing_of(store) == StoredThing(None, 0)
    assert await asked(lambda done: store.load_spool("edge", "lane", done)) == 0
    await append(store, thing=write, policy=a_policy_write(), spool=spool)
    stored = await asked(lambda done: store.load_policy("a:p", done))
    assert (stored.revision, stored.policy.document) == (1, {"entries": {}})
    assert await asked(lambda done: store.load_spool("edge", "lane", done)) == 5
    with pytest.raises(RevisionConflict):
        await append(store, thing=a_write(None, a_thing(1, n=1), 1), policy=a_policy_write(2))
    assert (await asked(lambda done: store.load_policy("a:p", done))).revision == 1


# --- policies ----------------------------------------------------------------------------------


async def a_policy_history(store: ThingStore, length: int, **due: str) -> list[Policy]:
    """Revisions of one policy, each with one entry more; `due` is of the last."""
    states: list[Policy] = []
    before: Policy | None = None
    for revision in range(1, length + 1):
        entries: JsonObject = {f"e{n}": {"subjects": {}} for n in range(revision)}
        after = Policy("a:p", revision, {"entries": entries}, at(1), at(revision))
        event = PolicyEvent(
            policy_id="a:p",
            action=EventAction.MODIFIED if before else EventAction.CREATED,
            path=("entries",) if before else (),
            revision=revision,
            timestamp=at(revision),
            after=after,
            before=before,
            value=entries if before else {"policyId": "a:p", "entries": entries},
            subjects=("nginx:me",),
        )
        more = due if revision == length else {}
        document = msgspec.json.encode(after.document)
        await append(store, policy=PolicyWrite(event, document, **more))
        states.append(after)
        before = after
    return states


async def past_policy(store: ThingStore, **where: Any) -> Policy | None:
    replay = await store.replay_policy("a:p", **where)
    return replayed_policy(replay.base, replay.events)


async def test_every_past_state_of_a_policy_can_be_rebuilt(store: ThingStore) -> None:
    states = await a_policy_history(store, SNAPSHOT_EVERY + 3)
    for revision in (1, 2, SNAPSHOT_EVERY, SNAPSHOT_EVERY + 2):
        assert await past_policy(store, revision=revision) == states[revision - 1]
        assert await past_policy(store, timestamp=at(revision)) == states[revision - 1]
    assert await past_policy(store, timestamp="2020-01-01T00:00:00Z") is None
    assert (await store.replay_policy("a:none", revision=1)).base is None


async def test_a_deleted_policy_ends_its_past_states(store: ThingStore) -> None:
    states = await a_policy_history(store, 2, due=at(9))
    gone = PolicyEvent(
        policy_id="a:p",
        action=EventAction.DELETED,
        path=(),
        revision=3,
        timestamp=at(3),
        after=None,
        before=states[-1],
    )
    await append(store, policy=PolicyWrite(gone, None))
    assert await past_policy(store, revision=3) is None
    assert await past_policy(store, revision=2) == states[1]
    assert await store.due_policies(at(100), 10) == []


async def test_forgetting_old_events_of_policies_keeps_what_later_states_need(
    store: ThingStore,
) -> None:
    states = await a_policy_history(store, SNAPSHOT_EVERY + 3)
    assert (await store.forget_policies(Keep(at(SNAPSHOT_EVERY + 2)), 0, 1_000)).dropped > 0
    assert await past_policy(store, revision=SNAPSHOT_EVERY + 3) == states[-1]
    kept = await store.policy_events("a:p", 0, 1_000)
    assert kept[-1].revision == SNAPSHOT_EVERY + 3
    assert kept[0].revision >= SNAPSHOT_EVERY
    assert await store.forget_policies(Keep(at(1)), 0, 1_000) == Forgotten(0)


async def test_policies_are_due_by_their_newest_revision(store: ThingStore) -> None:
    assert await store.due_policies(at(1), 10) == []
    await a_policy_history(store, 2, due=at(5))
    assert await store.due_policies(at(4), 10) == []
    assert await store.due_policies(at(5), 10) == ["a:p"]
    assert await store.due_policies(at(5), 0) == []


async def test_a_load_sees_what_was_appended_before_it(store: ThingStore) -> None:
    order: list[object] = []
    store.append(Commit(thing=a_write(None, a_thing(1, n=1), 1)), order.append)
    order.append(await thing_of(store))
    assert isinstance(order[0], Committed)
    assert order[1] == StoredThing(a_thing(1, n=1), 1)


async def a_history(store: ThingStore, length: int) -> list[Thing]:
    states: list[Thing] = []
    before: Thing | None = None
    for revision in range(1, length + 1):
        after = a_thing(revision, n=revision)
        await change(store, before, after)
        states.append(after)
        before = after
    return states


async def test_events_are_kept_with_all_their_facts(store: ThingStore) -> None:
    await a_history(store, 3)
    first, *rest = await store.events("a:t", 1, 10)
    assert [event.revision for event in rest] == [3]
    assert (first.revision, first.action, first.path, first.value) == (
        2,
        EventAction.MODIFIED,
        ("attributes", "n"),
        2,
    )
    assert first.headers == {"correlation-id": "c"}
    assert (first.originator, first.subjects, first.trace) == ("session", ("nginx:me",), TRACE)
    assert (first.before, first.after) == (None, None)
    assert [event.revision for event in await store.events("a:t", 0, 2)] == [1, 2]


async def test_changes_of_all_things_come_in_one_order(store: ThingStore) -> None:
    await change(store, None, a_thing(1, "a:one", n=1))
    await change(store, None, a_thing(1, "a:two", n=1))
    await change(store, a_thing(1, "a:one", n=1), a_thing(2, "a:one", n=2))
    events = await store.changes(0, 10)
    assert [event.thing_id for event in events] == ["a:one", "a:two", "a:one"]
    again = await store.changes(events[0].sequence, 1)
    assert [event.thing_id for event in again] == ["a:two"]


async def test_every_past_state_can_be_rebuilt(store: ThingStore) -> None:
    states = await a_history(store, 2 * SNAPSHOT_EVERY + 3)
    for state in states:
        found = await store.replay("a:t", revision=state.revision)
        assert replayed(found.base, found.events) == state
    by_time = await store.replay("a:t", timestamp=at(7))
    rebuilt = replayed(by_time.base, by_time.events)
    assert rebuilt is not None
    assert rebuilt == states[6]
    nothing = await store.replay("a:none", revision=1)
    assert replayed(nothing.base, nothing.events) is None


async def test_a_deletion_ends_the_past_states(store: ThingStore) -> None:
    (first,) = await a_history(store, 1)
    await change(store, first, None)
    found = await store.replay("a:t", revision=2)
    assert replayed(found.base, found.events) is None
    found = await store.replay("a:t", revision=1)
    assert replayed(found.base, found.events) == first


async def test_forgetting_keeps_what_the_newest_state_is_made_from(store: ThingStore) -> None:
    states = await a_history(store, SNAPSHOT_EVERY + 5)
    assert await store.forget(Keep("2025-01-01T00:00:00Z"), 0, 1_000) == Forgotten(0)
    assert (await store.forget(Keep("2027-01-01T00:00:00Z"), 0, 1_000)).dropped > 0
    assert await thing_of(store) == StoredThing(states[-1], states[-1].revision)
    found = await store.replay("a:t", revision=states[-1].revision)
    assert replayed(found.base, found.events) == states[-1]
    gone = await store.replay("a:t", revision=1)
    assert replayed(gone.base, gone.events) is None


async def test_so_many_of_the_newest_revisions_are_kept(store: ThingStore) -> None:
    states = await a_history(store, 3 * SNAPSHOT_EVERY)
    await store.forget(Keep("", SNAPSHOT_EVERY + 1), 0, 1_000)
    for state in states[-SNAPSHOT_EVERY - 1 :]:
        found = await store.replay("a:t", revision=state.revision)
        assert replayed(found.base, found.events) == state
    gone = await store.replay("a:t", revision=SNAPSHOT_EVERY - 1)
    assert replayed(gone.base, gone.events) is None


async def test_a_deleted_thing_is_forgotten_and_made_anew(store: ThingStore) -> None:
    (first,) = await a_history(store, 1)
    await change(store, first, None)
    again = a_thing(3, n=3)
    await change(store, None, again)
    await change(store, None, a_thing(1, "a:other", n=1))
    await store.forget(Keep(at(4)), 0, 1_000)
    found = await store.replay("a:t", revision=3)
    assert replayed(found.base, found.events) == again
    gone = await store.replay("a:t", revision=2)
    assert replayed(gone.base, gone.events) is None


async def test_sequences_go_on_after_forgetting_everything(store: ThingStore) -> None:
    (first,) = await a_history(store, 1)
    removed = await change(store, first, None)
    await store.forget(Keep("2027-01-01T00:00:00Z"), 0, 1_000)
    assert (await change(store, None, a_thing(3, n=3))).sequence > removed.sequence


async def test_things_are_listed_by_id_in_pages(store: ThingStore) -> None:
    for name in ("org.b:1", "org.a:2", "org.a:1", "org.c:9"):
        await change(store, None, a_thing(1, name, n=1))
    await change(store, a_thing(1, "org.c:9", n=1), None)
    assert [one.thing_id for one in await store.page("", 2, ())] == ["org.a:1", "org.a:2"]
    assert [one.thing_id for one in await store.page("org.a:2", 9, ())] == ["org.b:1"]
    assert [one.thing_id for one in await store.page("", 9, ("org.b", "org.x"))] == ["org.b:1"]
    asked_for = ("org.b:1", "org.c:9", "org.a:1", "org.d:none")
    assert [one.thing_id for one in await store.some(asked_for)] == ["org.b:1", "org.a:1"]


async def test_erasing_a_namespace_takes_its_past_too_and_nothing_else(store: ThingStore) -> None:
    for name in ("a:t", "a:u", "a.b:t"):
        await change(store, None, a_thing(1, name, n=1))
    assert await store.total() == 3
    while await store.erase("a", 1):
        pass
    assert await store.total() == 1
    assert [one.thing_id for one in await store.page("", 9, ())] == ["a.b:t"]
    assert await store.events("a:t", 0, 9) == []
    assert await asked(lambda done: store.load_thing("a:t", done)) == StoredThing(None, 0)


async def test_sequences_go_on_after_erasing_the_newest_event(store: ThingStore) -> None:
    first = await change(store, None, a_thing(1, "a:t", n=1))
    assert await store.erase("a", 9) == 1
    assert (await change(store, None, a_thing(1, "a:t", n=1))).sequence > first.sequence


async def test_what_a_closed_file_held_is_there_when_it_is_opened_again(tmp_path: Path) -> None:
    path = tmp_path / "gateway.db"
    database = Database(path, "gateway")
    async with database.running():
        await a_history(SqliteThingStore(database), 3)
    again = Database(path, "gateway")
    async with again.running():
        store = SqliteThingStore(again)
        assert await thing_of(store) == StoredThing(a_thing(3, n=3), 3)
        assert len(await store.events("a:t", 0, 10)) == 3


async def test_a_full_disk_refuses_the_write_and_keeps_what_was_there() -> None:
    database = Database(None, "gateway")
    async with database.running():
        store = SqliteThingStore(database)
        (first,) = await a_history(store, 1)

        def shrink(connection: sqlite3.Connection) -> None:
            (pages,) = connection.execute("PRAGMA page_count").fetchone()
            connection.execute(f"PRAGMA max_page_count={pages}")

        await database.write(shrink)
        big = Thing("a:t", 2, {"policyId": "a:p", "attributes": {"n": "x" * 90_000}}, at(1), at(2))
        with pytest.raises(StoreUnavailable):
            await change(store, first, big)
        assert await thing_of(store) == StoredThing(first, 1)
