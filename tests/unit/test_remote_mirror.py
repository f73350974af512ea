"""The mirror of things elsewhere: events in any order, gaps, reads that are overtaken."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud.remotemirror import APPLIED, FOREIGN, GAP, KNOWN, Mirror
from cloud.remotesignals import Frames
from gateway.model.json import Json, JsonObject, Pointer
from gateway.model.thing import LIVE, EventAction, ThingEvent
from gateway.observe.metrics import Metrics
from gateway.twin.documents import same
from gateway.twin.patch import difference

LAMP = "default:lamp"


@dataclass
class World:
    told: list[ThingEvent] = field(default_factory=list)
    reread: list[str] = field(default_factory=list)
    ours: set[str] = field(default_factory=lambda: {LAMP})

    def __post_init__(self) -> None:
        self.mirror = Mirror(self.ours.__contains__, self.told.append, self.reread.append)

    def read(self, document: JsonObject | None, *, tells: bool = True) -> None:
        self.mirror.reading(LAMP)
        self.mirror.found(LAMP, document, tells=tells)


@pytest.fixture
def world() -> World:
    return World()


def lamp(revision: int, **attributes: Json) -> JsonObject:
    return {"thingId": LAMP, "attributes": attributes, "_revision": revision}


def event(
    revision: int,
    value: Json = None,
    path: Pointer = ("attributes", "a"),
    action: EventAction = EventAction.MODIFIED,
    thing_id: str = LAMP,
    channel: str = "twin",
) -> ThingEvent:
    return ThingEvent(
        thing_id=thing_id,
        action=action,
        path=path,
        revision=revision,
        timestamp="2026-11-22T20:05:00Z",
        after=None,
        value=value,
        channel=channel,
    )


def document(world: World) -> JsonObject:
    thing = world.mirror.get(LAMP)
    assert thing is not None
    return thing.document


def test_the_next_event_brings_the_thing_forward_and_tells_before_and_after(world: World) -> None:
    world.read(lamp(3, a=1), tells=False)
    assert world.mirror.event(event(4, 2)) == APPLIED
    (told,) = world.told
    assert told.before is not None
    assert told.before.document["attributes"] == {"a": 1}
    assert told.after is not None
    assert told.after.document["attributes"] == {"a": 2}
    assert told.after.revision == 4


def test_an_event_that_was_in_what_was_read_changes_nothing(world: World) -> None:
    world.read(lamp(3, a=1), tells=False)
    assert world.mirror.event(event(3, 0)) == KNOWN
    assert document(world)["attributes"] == {"a": 1}
    assert not world.told


def test_after_a_gap_the_thing_is_read_again_and_the_difference_told(world: World) -> None:
    world.read(lamp(3, a=1), tells=False)
    assert world.mirror.event(event(5, 9)) == GAP
    assert world.reread == [LAMP]
    assert not world.told
    world.read(lamp(6, a=9, b=1))
    (told,) = world.told
    assert told.before is not None
    assert told.before.revision == 3
    assert told.after is not None
    assert told.after.document["attributes"] == {"a": 9, "b": 1}


def test_what_was_read_before_an_event_came_is_read_again(world: World) -> None:
    world.mirror.reading(LAMP)
    assert world.mirror.event(event(5, 9)) == GAP  # the thing is not known yet
    assert not world.reread  # the read that is under way will decide
    world.mirror.found(LAMP, lamp(4, a=1), tells=False)
    assert world.reread == [LAMP]
    assert world.mirror.get(LAMP) is None


def test_of_two_reads_at_once_the_last_one_decides(world: World) -> None:
    world.mirror.reading(LAMP)
    world.mirror.reading(LAMP)
    world.mirror.event(event(5, 9))
    world.mirror.found(LAMP, lamp(4), tells=False)
    assert not world.reread
    world.mirror.found(LAMP, lamp(5, a=9), tells=True)
    assert not world.reread
    assert document(world)["attributes"] == {"a": 9}


def test_a_remote_that_went_back_to_a_backup_is_believed(world: World) -> None:
    world.read(lamp(9, a=9), tells=False)
    world.read(lamp(3, a=1))
    assert document(world)["attributes"] == {"a": 1}
    assert [told.revision for told in world.told] == [3]
    world.read(lamp(3, a=1))
    assert len(world.told) == 1


def test_a_read_that_fails_leaves_what_is_known(world: World) -> None:
    world.read(lamp(3, a=1), tells=False)
    world.mirror.reading(LAMP)
    world.mirror.failed(LAMP)
    assert world.mirror.event(event(4, 2)) == APPLIED
    assert world.mirror.event(event(7, 2)) == GAP
    assert world.reread == [LAMP]


def test_a_thing_that_is_deleted_and_made_again_is_told_both_times(world: World) -> None:
    world.read(lamp(3, a=1), tells=False)
    world.mirror.event(event(4, path=(), action=EventAction.DELETED))
    assert world.mirror.get(LAMP) is None
    made: JsonObject = {"thingId": LAMP, "attributes": {"a": 7}, "_policy": {}}
    assert world.mirror.event(event(5, made, (), EventAction.CREATED)) == APPLIED
    assert [told.after is None for told in world.told] == [True, False]
    assert "_policy" not in document(world)


def test_a_thing_that_a_read_did_not_find_but_an_event_made_is_read_again(world: World) -> None:
    world.mirror.reading(LAMP)
    world.mirror.event(event(1, {"attributes": {}}, (), EventAction.CREATED))
    world.mirror.found(LAMP, None, tells=True)
    assert world.mirror.get(LAMP) is not None
    assert world.reread == [LAMP]


def test_a_thing_that_vanished_during_a_cut_is_told_gone(world: World) -> None:
    world.read(lamp(3, a=1), tells=False)
    world.read(None)
    (told,) = world.told
    assert told.after is None
    assert told.before is not None
    assert world.mirror.get(LAMP) is None


def test_whoever_reads_for_itself_is_not_told(world: World) -> None:
    world.read(lamp(3), tells=False)
    world.read(None, tells=False)
    assert not world.told


def test_things_of_no_device_and_live_events_are_left_alone(world: World) -> None:
    assert world.mirror.event(event(4, 2, thing_id="default:other")) == FOREIGN
    assert world.mirror.event(event(4, 2, channel=LIVE)) == FOREIGN
    assert not len(world.mirror)
    world.read(lamp(3), tells=False)
    world.mirror.keep(())
    assert not len(world.mirror)


@pytest.mark.parametrize(
    ("action", "path", "value", "after"),
    [
        (EventAction.MERGED, (), {"attributes": {"a": None, "b": 2}}, {"b": 2}),
        (EventAction.MERGED, ("attributes", "a"), None, {}),
        (EventAction.MERGED, ("attributes",), {"a": {"x": 1}}, {"a": {"x": 1}}),
        (EventAction.DELETED, ("attributes", "a"), None, {}),
        (EventAction.CREATED, ("attributes", "c"), [1], {"a": 1, "c": [1]}),
    ],
)
def test_each_kind_of_change_is_applied(
    world: World, action: EventAction, path: Pointer, value: Json, after: Json
) -> None:
    world.read(lamp(3, a=1), tells=False)
    assert world.mirror.event(event(4, value, path, action)) == APPLIED
    assert document(world)["attributes"] == after


def test_an_event_that_cannot_be_applied_counts_as_a_gap(world: World) -> None:
    world.read(lamp(3, a=1), tells=False)
    odd: JsonObject = {"attributes": {"{{ ~(a+)+~ }}": None}}
    assert world.mirror.event(event(4, odd, (), EventAction.MERGED)) == GAP
    assert world.reread == [LAMP]


@pytest.mark.parametrize("seed", range(20))
def test_whatever_is_lost_or_late_the_mirror_ends_as_the_thing_is(seed: int) -> None:
    """A Ditto far away, made up: events get lost in cuts, reads answer late."""
    dice, world = random.Random(seed), World()
    state: JsonObject = {}
    revision, pending = 1, [lamp(1)]
    world.mirror.reading(LAMP)
    for step in range(120):
        if dice.random() < 0.7:
            revision += 1
            key = dice.choice("abc")
            state = {**state, key: step}
            if dice.random() < 0.8:
                world.mirror.event(event(revision, step, ("attributes", key)))
        if pending and dice.random() < 0.5:
            world.mirror.found(LAMP, pending.pop(0), tells=True)
        while world.reread:
            world.reread.pop()
            world.mirror.reading(LAMP)
            pending.append(lamp(revision, **state))
    while pending:
        world.mirror.found(LAMP, pending.pop(0), tells=True)
    world.read(lamp(revision, **state))  # as after each reconnect
    assert same(document(world)["attributes"], state)
    last = None
    for told in world.told:
        assert told.after is not None
        if last is not None:
            assert told.before is last  # a chain without holes
        last = told.after
    assert not difference(document(world), last.document if last else {})


# --- frames ----------------------------------------------------------------------------------------


@dataclass
class Reader:
    """A reader of frames, and what it said."""

    said: list[object] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.world = World()
        self.frames = Frames(
            self.world.mirror,
            Metrics().edge,
            acknowledged=lambda: self.said.append("ack"),
            refused=lambda status, text: self.said.append((status, text)),
            suspicious=lambda: self.said.append("suspicious"),
        )


def a_frame(**changes: Json) -> str:
    frame: JsonObject = {
        "topic": "default/lamp/things/twin/events/modified",
        "path": "/attributes/a",
        "headers": {"ditto-originator": "nginx:ditto"},
        "value": 2,
        "revision": 4,
        "timestamp": "2026-11-22T20:05:00Z",
        **changes,
    }
    return json.dumps(frame)


def test_frames_become_events_answers_and_doubts() -> None:
    reader = Reader()
    reader.world.read(lamp(3, a=1), tells=False)
    reader.frames.take("START-SEND-EVENTS:ACK")
    reader.frames.take(a_frame())
    error: JsonObject = {"status": 429, "error": "too.many.requests", "message": "slow"}
    reader.frames.take(
        a_frame(topic="unknown/unknown/things/twin/errors", path="/", status=429, value=error)
    )
    reader.frames.take("{")
    assert reader.said == ["ack", (429, "too.many.requests: slow"), "suspicious"]
    assert document(reader.world)["attributes"] == {"a": 2}


def test_what_is_nested_too_deep_is_read_again_and_then_not_there() -> None:
    reader = Reader()
    reader.world.read(lamp(3, a=1), tells=False)
    deep: Json = 1
    for _ in range(200):
        deep = {"a": deep}
    reader.frames.take(a_frame(value=deep))
    assert reader.world.reread == [LAMP]
    reader.world.read(lamp(4, a=deep))
    assert reader.world.mirror.get(LAMP) is None


ODD = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.text(max_size=5), below),
    max_leaves=8,
)


@given(st.text() | st.binary().map(lambda data: data.decode("latin-1")))
def test_no_text_of_the_remote_breaks_the_session(text: str) -> None:
    Reader().frames.take(text)


@given(st.dictionaries(st.sampled_from(("topic", "path", "headers", "value", "revision")), ODD))
def test_no_event_of_the_remote_breaks_the_session(changes: Any) -> None:
    reader = Reader()
    reader.world.read(lamp(3, a=1), tells=False)
    reader.frames.take(a_frame(**changes))


@given(
    st.sampled_from(("created", "modified", "merged", "deleted", "migrated")),
    st.lists(st.sampled_from(("attributes", "features", "a", "b")), max_size=3),
    ODD,
)
def test_no_value_of_the_remote_breaks_the_mirror(action: str, path: Any, value: Any) -> None:
    reader = Reader()
    reader.world.read(lamp(3, a=1), tells=False)
    topic = f"default/lamp/things/twin/events/{action}"
    reader.frames.take(a_frame(topic=topic, path="/" + "/".join(path), value=value))
    thing = reader.world.mirror.get(LAMP)
    assert thing is None or isinstance(thing.document, dict)
