"""The things service on both stores: what callers see, in order, durable, under policies."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from gateway.config.ditto import History
from gateway.ditto.service import PoliciesService, SearchQuery, ThingsService
from gateway.ditto.upkeep import Upkeep
from gateway.errors import Conflict, Forbidden, GatewayError, NotFound, StoreUnavailable
from gateway.model.json import Json, parse_pointer
from gateway.model.message import SpoolId
from gateway.model.policy import PolicyCommand, parse_policy_path
from gateway.model.thing import (
    Action,
    Direction,
    EventAction,
    ThingCommand,
    ThingEvent,
    ThingMessage,
    ThingMessageResponse,
    ThingResult,
)
from gateway.observe.metrics import Metrics
from gateway.observe.tracing import Tracer, new_context
from gateway.store.database import Database
from gateway.store.things import ThingStore
from gateway.store.things_memory import MemoryThingStore
from gateway.store.things_sqlite import SqliteThingStore
from gateway.twin.fields import FieldSelector

ME = ("nginx:ditto",)
STRANGER = ("nginx:stranger",)
PUMP = "org.acme:pump-1"


class Ears:
    """A listener that keeps what it hears."""

    def __init__(self) -> None:
        self.events: list[ThingEvent] = []
        self.messages: list[ThingMessage] = []

    def on_event(self, event: ThingEvent) -> None:
        self.events.append(event)

    def on_message(self, message: ThingMessage) -> None:
        self.messages.append(message)


def a_service(store: ThingStore, **settings: Any) -> ThingsService:
    return ThingsService(
        store, PoliciesService(store), metrics=Metrics(), tracer=Tracer(), **settings
    )


@asynccontextmanager
async def sqlite_store(path: Path | None = None) -> AsyncIterator[SqliteThingStore]:
    database = Database(path, "gateway")
    async with database.running():
        yield SqliteThingStore(database)


@pytest.fixture(params=["memory", "sqlite"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[ThingStore]:
    if request.param == "memory":
        yield MemoryThingStore()
        return
    async with sqlite_store() as made:
        yield made


@pytest.fixture
def things(store: ThingStore) -> ThingsService:
    return a_service(store)


def command(
    action: Action, path: str = "/", value: Json = None, /, thing: str = PUMP, **more: Any
) -> ThingCommand:
    more.setdefault("subjects", ME)
    return ThingCommand(
        thing_id=thing, action=action, path=parse_pointer(path), value=value, **more
    )


async def put(things: ThingsService, path: str, value: Json, **more: Any) -> ThingResult:
    return await things.execute(command(Action.MODIFY, path, value, **more))


async def get(things: ThingsService, path: str = "/", **more: Any) -> Json:
    return (await things.execute(command(Action.RETRIEVE, path, **more))).value


async def refusal(things: ThingsService, wanted: ThingCommand) -> tuple[int, str]:
    with pytest.raises(GatewayError) as caught:
        await things.execute(wanted)
    return caught.value.status, caught.value.code


async def test_a_put_creates_with_a_default_policy_and_a_second_one_modifies(
    things: ThingsService,
) -> None:
    ears = Ears()
    things.listen(ears)
    made = await put(things, "/", {"attributes": {"a": 1}})
    assert (made.status, made.etag, made.revision) == (201, '"rev:1"', 1)
    assert made.value == {"thingId": PUMP, "policyId": PUMP, "attributes": {"a": 1}}
    again = await put(things, "/", {"attributes": {"a": 2}})
    assert (again.status, again.has_value, again.etag) == (204, False, '"rev:2"')
    assert await get(things) == {"thingId": PUMP, "policyId": PUMP, "attributes": {"a": 2}}
    assert [(e.action, e.revision, e.path) for e in ears.events] == [
        (EventAction.CREATED, 1, ()),
        (EventAction.MODIFIED, 2, ()),
    ]
    assert [event.sequence for event in ears.events] == sorted(e.sequence for e in ears.events)


async def test_the_default_policy_belongs_to_the_creator(things: ThingsService) -> None:
    await put(things, "/", {})
    shown = await things.policies.execute(
        PolicyCommand(policy_id=PUMP, action=Action.RETRIEVE, subjects=ME)
    )
    assert isinstance(shown.value, dict)
    assert shown.value["policyId"] == PUMP
    assert list(shown.value["entries"]) == ["DEFAULT"]  # type: ignore[arg-type]
    assert await refusal(things, command(Action.RETRIEVE, subjects=STRANGER)) == (
        404,
        "things:thing.notfound",
    )
    assert await refusal(things, command(Action.MODIFY, "/attributes/a", 1, subjects=STRANGER)) == (
        403,
        "things:attribute.notmodifiable",
    )
    assert await refusal(things, command(Action.DELETE, subjects=STRANGER)) == (
        403,
        "things:thing.notdeletable",
    )


async def test_revisions_have_no_gap_across_deletion_and_creation_anew(
    things: ThingsService,
) -> None:
    await put(things, "/", {})
    await things.execute(command(Action.DELETE))
    assert await refusal(things, command(Action.RETRIEVE)) == (404, "things:thing.notfound")
    assert await refusal(things, command(Action.MODIFY, "/", {})) == (
        400,
        "things:thing.notcreatable",
    )
    again = await put(things, "/", {"policyId": PUMP})
    assert (again.status, again.revision) == (201, 3)


async def test_an_inline_policy_is_made_with_the_thing(things: ThingsService) -> None:
    policy: Json = {
        "entries": {
            "owner": {
                "subjects": {"{{ request:subjectId }}": {"type": "me"}},
                "resources": {
                    "thing:/": {"grant": ["READ", "WRITE"], "revoke": []},
                    "policy:/": {"grant": ["READ", "WRITE"], "revoke": []},
                },
            },
            "guest": {
                "subjects": {"nginx:stranger": {"type": "guest"}},
                "resources": {"thing:/attributes/open": {"grant": ["READ"], "revoke": []}},
            },
        }
    }
    made = await things.execute(
        command(Action.CREATE, "/", {"attributes": {"open": 1, "secret": 2}, "_policy": policy})
    )
    assert made.status == 201
    assert "_policy" not in made.value  # type: ignore[operator]
    assert await get(things, subjects=STRANGER) == {"thingId": PUMP, "attributes": {"open": 1}}
    assert await refusal(things, command(Action.CREATE, "/", {})) == (409, "things:thing.conflict")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"_policy": {"entries": {}}}, (403, "things:thing.notcreatable")),
        ({"_policy": {}}, (400, "things:policy.invalid")),
        ({"_policy": {}, "_copyPolicyFrom": "a:b"}, (400, "things:policy.conflicting")),
        ({"policyId": "org.acme:none"}, (404, "policies:policy.notfound")),
        ({"_copyPolicyFrom": "org.acme:none"}, (404, "policies:policy.notfound")),
        (
            {"_copyPolicyFrom": "{{ ref:things/org.acme:none/policyId }}"},
            (404, "things:thing.notfound"),
        ),
        (
            {"_copyPolicyFrom": "{{ ref:policies/x }}"},
            (400, "placeholder:placeholder.reference.notsupported"),
        ),
        ({"thingId": "org.acme:other"}, (400, "things:id.notsettable")),
    ],
)
async def test_a_new_thing_without_a_usable_policy_is_refused(
    things: ThingsService, value: Json, expected: tuple[int, str]
) -> None:
    assert await refusal(things, command(Action.MODIFY, "/", value)) == expected
    assert await things.load(PUMP) is None
    assert await things.policies.load(PUMP) is None


async def test_a_policy_is_copied_from_another_thing(things: ThingsService) -> None:
    await put(things, "/", {})
    made = await put(
        things,
        "/",
        {"_copyPolicyFrom": "{{ ref:things/org.acme:pump-1/policyId }}"},
        thing="org.acme:pump-2",
    )
    assert made.status == 201
    copied = await things.policies.load("org.acme:pump-2")
    assert copied is not None
    assert "DEFAULT" in copied.document["entries"]  # type: ignore[operator]


async def test_a_thing_can_only_be_given_a_policy_that_its_writer_may_read(
    things: ThingsService,
) -> None:
    await put(things, "/", {})
    await put(things, "/", {}, thing="org.acme:theirs", subjects=STRANGER)
    assert await refusal(things, command(Action.MODIFY, "/policyId", "org.acme:theirs")) == (
        404,
        "policies:policy.notfound",
    )
    await put(things, "/", {}, thing="org.acme:mine")
    assert (await put(things, "/policyId", "org.acme:mine")).status == 204


async def test_without_its_policy_a_thing_cannot_be_seen_or_changed_until_it_is_made_anew(
    things: ThingsService,
) -> None:
    await put(things, "/", {})
    policy = (await things.policies.load(PUMP)).document  # type: ignore[union-attr]
    gone = PolicyCommand(policy_id=PUMP, action=Action.DELETE, subjects=ME)
    assert (await things.policies.execute(gone)).status == 204
    assert await refusal(things, command(Action.RETRIEVE)) == (404, "things:thing.notfound")
    assert await refusal(things, command(Action.MODIFY, "/attributes/a", 1)) == (
        403,
        "things:thing.notmodifiable",
    )
    anew = PolicyCommand(policy_id=PUMP, action=Action.MODIFY, subjects=ME, value=policy)
    assert (await things.policies.execute(anew)).revision == 3
    assert (await put(things, "/attributes/a", 1)).status == 201


async def test_many_writers_get_revisions_in_the_order_submitted(things: ThingsService) -> None:
    await put(things, "/", {"features": {"motor": {}}})
    ears = Ears()
    things.listen(ears)
    answers: list[Any] = []
    for rpm in range(300):
        things.submit(command(Action.MODIFY, "/features/motor/properties/rpm", rpm), answers.append)
    assert await get(things, "/features/motor/properties/rpm") == 299
    assert [answer.revision for answer in answers] == list(range(2, 302))
    assert [event.value for event in ears.events] == list(range(300))
    assert answers[0].status == 201
    assert {answer.status for answer in answers[1:]} == {204}


async def test_a_reader_sees_only_what_is_durable(things: ThingsService) -> None:
    await put(things, "/", {})
    order: list[str] = []
    things.submit(command(Action.MODIFY, "/attributes/a", 1), lambda _: order.append("write"))
    things.submit(command(Action.RETRIEVE), lambda _: order.append("read"))
    await get(things)
    assert order == ["write", "read"]


class FailingStore(MemoryThingStore):
    """Holds answers back, and fails what it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.held: list[Any] | None = None

    def append(self, commit: Any, done: Any) -> None:
        if self.held is None:
            super().append(commit, done)
        else:
            self.held.append((commit, done))

    def release(self, *, failing: int) -> None:
        held, self.held = self.held or [], None
        for at, (commit, done) in enumerate(held):
            self.refuse = StoreUnavailable("disk full") if at == failing else None
            super().append(commit, done)
        self.refuse = None


async def test_a_failed_write_takes_back_all_that_was_decided_on_it() -> None:
    store = FailingStore()
    things = a_service(store)
    await put(things, "/", {"attributes": {"a": 0}})
    ears = Ears()
    things.listen(ears)
    answers: list[Any] = []
    store.held = []
    for value in (1, 2, 3):
        things.submit(command(Action.MODIFY, "/attributes/a", value), answers.append)
    things.submit(command(Action.RETRIEVE, "/attributes/a"), answers.append)
    store.release(failing=1)
    assert answers[0].status == 204
    assert isinstance(answers[1], StoreUnavailable)
    assert isinstance(answers[2], GatewayError)
    assert isinstance(answers[3], StoreUnavailable)
    assert [event.value for event in ears.events] == [1]
    assert await get(things, "/attributes/a") == 1
    assert (await put(things, "/attributes/a", 9)).revision == 3


async def test_a_failed_creation_leaves_neither_thing_nor_policy() -> None:
    store = FailingStore()
    things = a_service(store)
    store.refuse = StoreUnavailable("disk full")
    assert (await refusal(things, command(Action.MODIFY, "/", {})))[0] == 503
    store.refuse = None
    assert await things.policies.load(PUMP) is None
    assert (await put(things, "/", {})).revision == 1


async def test_a_spooled_command_sent_twice_changes_the_twin_once(things: ThingsService) -> None:
    await put(things, "/", {"attributes": {"n": 0}})
    spool = SpoolId("edge-1", "lane", 7)
    first = await put(things, "/attributes/n", 1, spool=spool)
    assert "duplicate" not in first.headers
    second = await put(things, "/attributes/n", 5, spool=spool)
    assert second.headers["duplicate"] is True
    earlier = await put(things, "/attributes/n", 5, spool=SpoolId("edge-1", "lane", 6))
    assert earlier.headers["duplicate"] is True
    other = await put(things, "/attributes/n", 2, spool=SpoolId("edge-1", "other", 1))
    assert "duplicate" not in other.headers
    assert await get(things, "/attributes/n") == 2


async def test_a_later_spooled_command_waits_while_an_earlier_one_can_still_fail() -> None:
    store = FailingStore()
    things = a_service(store)
    await put(things, "/", {})
    await put(things, "/", {}, thing="org.acme:pump-2")
    answers: list[Any] = []
    store.held = []
    first = command(Action.MODIFY, "/attributes/a", 1, spool=SpoolId("edge", "lane", 1))
    later = command(
        Action.MODIFY, "/attributes/a", 2, thing="org.acme:pump-2", spool=SpoolId("edge", "lane", 2)
    )
    things.submit(first, answers.append)
    things.submit(later, answers.append)
    assert len(store.held) == 1
    store.release(failing=0)
    assert isinstance(answers[0], StoreUnavailable)
    again = await things.execute(first)
    assert "duplicate" in again.headers or await get(things, "/attributes/a") == 1


async def test_things_policies_and_spools_survive_reopening(tmp_path: Path) -> None:
    path = tmp_path / "gateway.db"
    spool = SpoolId("edge-1", "lane", 3)
    async with sqlite_store(path) as first:
        things = a_service(first)
        await put(things, "/", {"attributes": {"a": 1}})
        await put(things, "/attributes/a", 2, spool=spool)
    async with sqlite_store(path) as second:
        things = a_service(second)
        assert await get(things, "/attributes") == {"a": 2}
        assert (await put(things, "/attributes/a", 9, spool=spool)).headers["duplicate"] is True
        assert (await put(things, "/attributes/a", 3)).revision == 3
        events = await things.history(PUMP, 0)
        assert [event.revision for event in events] == [1, 2, 3]
        assert events[1].subjects == ME


async def test_past_states_are_rebuilt_from_what_was_kept(things: ThingsService) -> None:
    await put(things, "/", {"attributes": {"n": 0}})
    for n in range(1, 80):
        await put(things, "/attributes/n", n)
    for revision in (1, 2, 31, 32, 33, 64, 65, 80):
        past = await things.at_revision(PUMP, revision)
        assert past is not None
        assert past.document["attributes"] == {"n": revision - 1}
        assert past.revision == revision
    shown = await get(things, "/attributes/n", headers={"at-historical-revision": "40"})
    assert shown == 39
    assert await refusal(
        things, command(Action.RETRIEVE, headers={"at-historical-revision": "81"})
    ) == (404, "things:thing.history.notfound")


async def test_old_events_go_and_newer_past_states_stay(store: ThingStore) -> None:
    things = a_service(store)
    await put(things, "/", {"attributes": {"n": 0}})
    for n in range(1, 70):
        await put(things, "/attributes/n", n)
    assert await Upkeep(store, History(retention=0.0)).forget_things() > 0
    assert await things.at_revision(PUMP, 3) is None
    past = await things.at_revision(PUMP, 70)
    assert past is not None
    assert past.document["attributes"] == {"n": 69}


async def test_events_are_reduced_to_what_a_listener_may_read(things: ThingsService) -> None:
    policy: Json = {
        "entries": {
            "owner": {
                "subjects": {"nginx:ditto": {"type": "me"}},
                "resources": {
                    "thing:/": {"grant": ["READ", "WRITE"], "revoke": []},
                    "policy:/": {"grant": ["READ", "WRITE"], "revoke": []},
                },
            },
            "guest": {
                "subjects": {"nginx:stranger": {"type": "guest"}},
                "resources": {
                    "thing:/features/motor": {"grant": ["READ"], "revoke": []},
                    "thing:/features/motor/properties/key": {"grant": [], "revoke": ["READ"]},
                },
            },
        }
    }
    ears = Ears()
    things.listen(ears)
    await put(things, "/", {"attributes": {"x": 1}, "_policy": policy})
    await put(things, "/features/motor", {"properties": {"rpm": 1, "key": "s"}})
    await put(things, "/features/motor/properties/key", "t")
    await put(things, "/attributes/x", 2)
    seen = [things.view(event, STRANGER) for event in ears.events]
    assert seen[0] is None
    assert seen[1] is not None
    assert seen[1].value == {"properties": {"rpm": 1}}
    assert seen[2:] == [None, None]
    assert [things.view(event, ME) for event in ears.events] == ears.events


async def test_guards_refuse_before_anything_is_stored(things: ThingsService) -> None:
    await put(things, "/", {"attributes": {"a": 1}})

    def guard(wanted: ThingCommand, _thing: Any) -> None:
        if wanted.path == ("attributes", "a"):
            raise Conflict("the device decides")

    changes: list[ThingEvent] = []
    end = things.add_guard(guard)
    end_too = things.add_change_guard(changes.append)
    assert (await refusal(things, command(Action.MODIFY, "/attributes/a", 2)))[0] == 409
    assert await get(things, "/attributes/a") == 1
    await put(things, "/attributes/b", 2)
    assert changes[0].after is not None
    assert changes[0].after.document["attributes"] == {"a": 1, "b": 2}
    end()
    end_too()
    await put(things, "/attributes/a", 2)
    assert len(changes) == 1


# --- messages ----------------------------------------------------------------------------------


def a_message(**more: Any) -> ThingMessage:
    facts = {
        "thing_id": PUMP,
        "subject": "reset",
        "direction": Direction.TO,
        "correlation_id": "c1",
        "subjects": ME,
        **more,
    }
    return ThingMessage(**facts)


def an_answer(correlation_id: str, status: int = 200) -> ThingMessageResponse:
    return ThingMessageResponse(thing_id=PUMP, correlation_id=correlation_id, status=status)


async def test_the_first_answer_to_a_message_counts(things: ThingsService) -> None:
    await put(things, "/", {})
    ears = Ears()
    things.listen(ears)
    answers: list[Any] = []
    things.send(a_message(), answers.append)
    things.send(a_message(), answers.append)
    await things.load(PUMP)
    one, two = ears.messages
    assert one.correlation_id != two.correlation_id
    assert things.respond(an_answer(two.correlation_id, 207))
    assert not things.respond(an_answer(two.correlation_id, 200))
    assert things.respond(an_answer(one.correlation_id, 200))
    assert [(a.status, a.correlation_id) for a in answers] == [(207, "c1"), (200, "c1")]
    assert things.can_receive(one, ME)
    assert not things.can_receive(one, STRANGER)


async def test_an_unanswered_message_times_out(things: ThingsService) -> None:
    await put(things, "/", {})
    answered: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    things.send(a_message(timeout=0.01), answered.set_result)
    error = await answered
    assert (error.status, error.code) == (408, "command.timeout")
    assert "10ms" in error.message


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (a_message(subjects=STRANGER), (403, "messages:send.notallowed")),
        (a_message(thing_id="org.acme:none"), (404, "things:thing.notfound")),
        (a_message(payload=b"x" * 256_001), (413, "messages:payload.toolarge")),
        (
            a_message(headers={"condition": "eq(attributes/a,2)"}),
            (412, "things:condition.failed"),
        ),
    ],
)
async def test_messages_that_may_not_be_sent_are_refused(
    things: ThingsService, message: ThingMessage, expected: tuple[int, str]
) -> None:
    await put(things, "/", {"attributes": {"a": 1}})
    answered: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    things.send(message, answered.set_result)
    error = await answered
    assert (error.status, error.code) == expected


async def test_fire_and_forget_is_answered_at_once(things: ThingsService) -> None:
    await put(things, "/", {})
    answered: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    things.send(a_message(timeout=0.0), answered.set_result)
    assert (await answered).status == 202


async def test_whoever_waits_is_told_when_the_service_stops(things: ThingsService) -> None:
    await put(things, "/", {})
    answers: list[Any] = []
    ready = asyncio.Event()
    running = asyncio.create_task(things.run(ready.set))
    await ready.wait()
    things.send(a_message(), answers.append)
    await things.load(PUMP)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert answers[0].status == 503


# --- reading -----------------------------------------------------------------------------------


async def test_hidden_fields_and_the_policy_come_when_selected(things: ThingsService) -> None:
    await put(things, "/", {"attributes": {"a": 1, "b": 2}})
    shown = await get(things, fields="_revision,_namespace,attributes/a,_policy/policyId")
    assert shown == {
        "_revision": 1,
        "_namespace": "org.acme",
        "attributes": {"a": 1},
        "_policy": {"policyId": PUMP},
    }


async def test_many_things_come_in_the_order_asked_without_those_one_may_not_read(
    things: ThingsService,
) -> None:
    await put(things, "/", {}, thing="org.acme:a")
    await put(things, "/", {}, thing="org.acme:b", subjects=STRANGER)
    await put(things, "/", {}, thing="org.acme:c")
    wanted = ["org.acme:c", "org.acme:none", "org.acme:b", "org.acme:a"]
    found = await things.retrieve_many(wanted, ME, FieldSelector.parse("thingId"))
    assert found == [{"thingId": "org.acme:c"}, {"thingId": "org.acme:a"}]


async def a_fleet(things: ThingsService) -> None:
    for n in range(7):
        await put(things, "/", {"attributes": {"n": n, "odd": n % 2}}, thing=f"org.acme:t{n}")
    await put(things, "/", {"attributes": {"n": 99}}, thing="org.other:x")
    await put(things, "/", {"attributes": {"n": 3}}, thing="org.acme:hidden", subjects=STRANGER)


def ids(items: list[Json]) -> list[str]:
    return [str(item["thingId"]).partition(":")[2] for item in items]  # type: ignore[index, call-overload]


@pytest.mark.parametrize(
    ("filter_", "options", "namespaces", "expected"),
    [
        (None, None, (), ["t0", "t1", "t2", "t3", "t4", "t5", "t6", "x"]),
        ("gt(attributes/n,4)", None, (), ["t5", "t6", "x"]),
        ("gt(attributes/n,4)", None, ("org.acme",), ["t5", "t6"]),
        ("eq(attributes/odd,1)", "sort(-attributes/n)", (), ["t5", "t3", "t1"]),
        ("ne(attributes/odd,1)", None, (), ["t0", "t2", "t4", "t6"]),
        ('like(thingId,"org.acme:t?")', "sort(-thingId),size(2)", (), ["t6", "t5"]),
        (None, "limit(2,3)", (), ["t2", "t3", "t4"]),
    ],
)
async def test_a_search_finds_what_matches_and_may_be_read(
    things: ThingsService,
    filter_: str | None,
    options: str | None,
    namespaces: tuple[str, ...],
    expected: list[str],
) -> None:
    await a_fleet(things)
    query = SearchQuery(subjects=ME, filter=filter_, options=options, namespaces=namespaces)
    assert ids((await things.search(query)).items) == expected


@pytest.mark.parametrize("sort", ["", "sort(-attributes/odd,+attributes/n),", "sort(-thingId),"])
async def test_a_cursor_walks_through_all_hits_once(things: ThingsService, sort: str) -> None:
    await a_fleet(things)
    query = SearchQuery(subjects=ME, options=f"{sort}size(3)", filter="lt(attributes/n,50)")
    whole = await things.search(
        SearchQuery(subjects=ME, options=f"{sort}size(200)", filter=query.filter)
    )
    assert whole.cursor is None
    found: list[str] = []
    page = await things.search(query)
    while page.cursor:
        found += ids(page.items)
        page = await things.search(
            SearchQuery(subjects=ME, options=f"cursor({page.cursor}),size(2)")
        )
    found += ids(page.items)
    assert found == ids(whole.items)
    assert await things.count(query) == 7


@pytest.mark.parametrize(
    "options",
    [
        "size(0)",
        "size(201)",
        "size(\u00b2)",
        "limit(0,\u0663)",
        "cursor(nonsense)",
        "sort(attributes/a)",
        f"sort({','.join(['+attributes/a'] * 33)})",
        "page(2)",
        "limit(1)",
    ],
)
async def test_bad_search_options_are_refused(things: ThingsService, options: str) -> None:
    with pytest.raises(GatewayError) as caught:
        await things.search(SearchQuery(subjects=ME, options=options))
    assert caught.value.code == "thing-search:search.option.invalid"


async def test_a_damaged_cursor_is_refused_and_one_of_another_query_too(
    things: ThingsService,
) -> None:
    await a_fleet(things)
    page = await things.search(SearchQuery(subjects=ME, options="size(2)"))
    cursor = page.cursor
    assert cursor is not None
    for at in range(0, len(cursor), 7):
        damaged = f"{cursor[:at]}{'A' if cursor[at] != 'A' else 'B'}{cursor[at + 1 :]}"
        with pytest.raises(GatewayError) as caught:
            await things.search(SearchQuery(subjects=ME, options=f"cursor({damaged})"))
        assert caught.value.code == "thing-search:search.option.invalid"
    with pytest.raises(GatewayError):
        await things.search(
            SearchQuery(subjects=ME, options=f"cursor({cursor})", filter="exists(attributes)")
        )


async def test_pages_stay_in_order_while_things_come_and_go(things: ThingsService) -> None:
    await a_fleet(things)
    query = SearchQuery(subjects=ME, options="sort(+attributes/n),size(3)")
    first = await things.search(query)
    assert ids(first.items) == ["t0", "t1", "t2"]
    await things.execute(ThingCommand(thing_id="org.acme:t2", action=Action.DELETE, subjects=ME))
    await put(things, "/", {"attributes": {"n": 1}}, thing="org.acme:late")
    await put(things, "/", {"attributes": {"n": 3.5}}, thing="org.acme:new")
    second = await things.search(
        SearchQuery(subjects=ME, options=f"cursor({first.cursor}),size(3)")
    )
    assert ids(second.items) == ["t3", "new", "t4"]


async def test_page_offsets_follow_what_was_asked(things: ThingsService) -> None:
    await a_fleet(things)
    plain = await things.search(SearchQuery(subjects=ME))
    assert (plain.cursor, plain.next_page_offset) == (None, -1)
    limited = await things.search(SearchQuery(subjects=ME, options="limit(0,3)"))
    assert (limited.cursor, limited.next_page_offset) == (None, 3)
    sized = await things.search(SearchQuery(subjects=ME, options="size(3)"))
    assert sized.cursor is not None
    assert sized.next_page_offset is None


# --- policies ----------------------------------------------------------------------------------


def policy_command(
    action: Action, path: str = "/", value: Json = None, **more: Any
) -> PolicyCommand:
    more.setdefault("subjects", ME)
    return PolicyCommand(
        policy_id="org.acme:fleet", action=action, path=parse_policy_path(path), value=value, **more
    )


OWNER: Json = {
    "subjects": {"nginx:ditto": {"type": "me"}},
    "resources": {
        "thing:/": {"grant": ["READ", "WRITE"], "revoke": []},
        "policy:/": {"grant": ["READ", "WRITE"], "revoke": []},
        "message:/": {"grant": ["READ", "WRITE"], "revoke": []},
    },
}


async def test_a_policy_change_holds_for_things_at_once(things: ThingsService) -> None:
    policies = things.policies
    made = await policies.execute(policy_command(Action.MODIFY, "/", {"entries": {"owner": OWNER}}))
    assert (made.status, made.etag) == (201, '"rev:1"')
    await put(things, "/", {"policyId": "org.acme:fleet", "attributes": {"a": 1}})
    guest: Json = {
        "subjects": {"nginx:stranger": {}},
        "resources": {"thing:/attributes": {"grant": ["READ"], "revoke": []}},
    }
    added = await policies.execute(policy_command(Action.MODIFY, "/entries/guest", guest))
    assert added.status == 201
    assert await get(things, "/attributes", subjects=STRANGER) == {"a": 1}
    gone = await policies.execute(
        policy_command(Action.DELETE, "/entries/guest/resources/thing:/attributes")
    )
    assert (gone.status, gone.revision) == (204, 3)
    assert (await refusal(things, command(Action.RETRIEVE, subjects=STRANGER)))[0] == 404


async def test_imported_entries_count_and_change_with_their_policy(things: ThingsService) -> None:
    policies = things.policies
    base = PolicyCommand(
        policy_id="org.acme:base",
        action=Action.MODIFY,
        subjects=ME,
        value={
            "entries": {
                "owner": OWNER,
                "guest": {
                    "subjects": {"nginx:stranger": {}},
                    "resources": {"thing:/attributes": {"grant": ["READ"], "revoke": []}},
                    "importable": "explicit",
                },
            }
        },
    )
    await policies.execute(base)
    await policies.execute(
        policy_command(
            Action.MODIFY, "/", {"entries": {"owner": OWNER}, "imports": {"org.acme:base": {}}}
        )
    )
    await put(things, "/", {"policyId": "org.acme:fleet", "attributes": {"a": 1}})
    assert (await refusal(things, command(Action.RETRIEVE, subjects=STRANGER)))[0] == 404
    listed = await policies.execute(
        policy_command(Action.MODIFY, "/imports/org.acme:base", {"entries": ["guest"]})
    )
    assert listed.status == 204
    assert await get(things, "/attributes/a", subjects=STRANGER) == 1
    resolved = await policies.execute(
        policy_command(Action.RETRIEVE, "/", headers={"policy-view": "resolved"})
    )
    assert isinstance(resolved.value, dict)
    entries = resolved.value["entries"]
    assert isinstance(entries, dict)
    assert list(entries) == [
        "owner",
        "imported-org.acme:base-owner",
        "imported-org.acme:base-guest",
    ]
    removed = PolicyCommand(
        policy_id="org.acme:base",
        action=Action.DELETE,
        subjects=ME,
        path=parse_policy_path("/entries/guest"),
    )
    await policies.execute(removed)
    assert (await refusal(things, command(Action.RETRIEVE, subjects=STRANGER)))[0] == 404


async def test_locking_oneself_out_is_refused(things: ThingsService) -> None:
    policies = things.policies
    nobody: Json = {"entries": {"none": {"subjects": {}, "resources": {}}}}
    with pytest.raises(Forbidden) as caught:
        await policies.execute(policy_command(Action.MODIFY, "/", nobody))
    assert caught.value.code == "policies:policy.notcreatable"
    await policies.execute(policy_command(Action.MODIFY, "/", {"entries": {"owner": OWNER}}))
    with pytest.raises(Forbidden) as caught:
        await policies.execute(policy_command(Action.DELETE, "/entries/owner"))
    assert caught.value.code == "policies:entry.modificationinvalid"
    with pytest.raises(Forbidden) as caught:
        await policies.execute(policy_command(Action.DELETE, "/entries/owner/subjects/nginx:ditto"))
    assert caught.value.code == "policies:entry.modificationinvalid"
    with pytest.raises(NotFound):
        await policies.execute(policy_command(Action.RETRIEVE, subjects=STRANGER))
    with pytest.raises(Forbidden):
        await policies.execute(policy_command(Action.DELETE, subjects=STRANGER))


async def test_each_part_of_a_policy_can_be_read_and_written(things: ThingsService) -> None:
    policies = things.policies
    await policies.execute(policy_command(Action.MODIFY, "/", {"entries": {"owner": OWNER}}))
    steps: list[tuple[Action, str, Json, int]] = [
        (Action.RETRIEVE, "/entries/owner/subjects/nginx:ditto", None, 200),
        (Action.MODIFY, "/entries/owner/subjects/nginx:other", {"type": "x"}, 201),
        (Action.MODIFY, "/entries/owner/subjects/nginx:other", {"type": "y"}, 204),
        (Action.DELETE, "/entries/owner/subjects/nginx:other", None, 204),
        (Action.MODIFY, "/entries/owner/resources/thing:/a/b", {"grant": [], "revoke": []}, 201),
        (Action.RETRIEVE, "/entries/owner/resources/thing:/a/b", None, 200),
        (Action.MODIFY, "/entries/owner/importable", "never", 204),
        (Action.RETRIEVE, "/entries/owner/resources", None, 200),
        (Action.RETRIEVE, "/entries", None, 200),
        (Action.MODIFY, "/entries", {"owner": OWNER}, 204),
    ]
    for action, path, value, status in steps:
        result = await policies.execute(policy_command(action, path, value))
        assert result.status == status, (action, path)
    with pytest.raises(NotFound) as caught:
        await policies.execute(policy_command(Action.RETRIEVE, "/entries/none"))
    assert caught.value.code == "policies:entry.notfound"


async def test_each_change_is_a_span_of_its_callers_trace(store: ThingStore) -> None:
    tracer = Tracer()
    things = ThingsService(store, PoliciesService(store), metrics=Metrics(), tracer=tracer)
    trace = new_context()
    ears = Ears()
    things.listen(ears)
    await put(things, "/", {}, trace=trace)
    (span,) = tracer.recent(trace.trace_id)
    assert span.parent_id == trace.span_id
    assert ears.events[0].trace == span.context


async def test_commands_are_counted_by_action_and_outcome(store: ThingStore) -> None:
    metrics = Metrics()
    things = ThingsService(store, PoliciesService(store), metrics=metrics, tracer=Tracer())
    await put(things, "/", {})
    await refusal(things, command(Action.DELETE, "/attributes/none"))
    text = metrics.text().decode()
    assert 'twinspan_thing_commands_total{action="modify",outcome="ok"} 1.0' in text
    assert 'twinspan_thing_commands_total{action="delete",outcome="refused"} 1.0' in text
