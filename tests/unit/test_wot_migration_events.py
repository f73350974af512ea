"""The event of a migration: on the wire, applied again, in connections' own forms; without models."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from gateway.connectivity.mappers.base import Outgoing
from gateway.connectivity.mappers.normalized import NormalizedMapper
from gateway.ditto.migration import settled_migration
from gateway.ditto.subscriptions import Seen
from gateway.errors import GatewayError
from gateway.model.thing import Action, EventAction, Thing, ThingCommand, ThingEvent
from gateway.twin.limits import DEFAULT_LIMITS
from gateway.twin.patch import as_json, of_event
from gateway.twin.policy import NO_PERMISSIONS, build_enforcer
from gateway.twin.showing import Context
from gateway.twin.things import apply, judge
from gateway.wire.ditto.envelope import decode
from gateway.wire.ditto.read import Sender, signal_of
from gateway.wire.ditto.write import event_frame

URL = "https://models.acme.org/lamp-2.0.0.tm.jsonld"
THING = Thing(
    "org.acme:lamp",
    3,
    {"policyId": "org.acme:lamp", "attributes": {"old": 1, "kept": 2}},
    "2026-01-01T00:00:00Z",
    "2026-01-01T00:00:00Z",
)
PATCH: dict[str, Any] = {"definition": URL, "attributes": {"old": None, "new": 3}}
POLICY: dict[str, Any] = {
    "entries": {
        "all": {
            "subjects": {"me": {"type": "t"}},
            "resources": {"thing:/": {"grant": ["READ", "WRITE"], "revoke": []}},
        }
    }
}


def a_context() -> Context:
    enforcer = build_enforcer(POLICY, {})
    mine = enforcer.permissions(("me",), "org.acme", "2026-01-02T00:00:00Z")
    moment = datetime(2026, 1, 2, tzinfo=UTC)
    return Context("2026-01-02T00:00:00Z", moment, 3, mine, DEFAULT_LIMITS)


def a_command(value: Any) -> ThingCommand:
    return ThingCommand(
        thing_id="org.acme:lamp", action=Action.MIGRATE, subjects=("me",), value=value
    )


def migrated() -> ThingEvent:
    event = judge(THING, a_command(PATCH), a_context()).event
    assert event is not None
    return event


def test_a_migration_is_a_merge_by_another_name() -> None:
    decision = judge(THING, a_command(PATCH), a_context())
    event = migrated()
    assert (event.action, event.path) == (EventAction.MIGRATED, ())
    assert event.value == {"thingId": "org.acme:lamp", **PATCH}
    assert event.after is not None
    assert event.after.document["attributes"] == {"kept": 2, "new": 3}
    assert (decision.status, decision.value) == (
        200,
        {"thingId": "org.acme:lamp", "patch": PATCH, "mergeStatus": "APPLIED"},
    )


def test_applying_its_event_leads_to_the_same_state() -> None:
    event = migrated()
    assert apply(THING, event) == event.after


def test_its_event_survives_the_wire() -> None:
    event = migrated()
    found = signal_of(decode(event_frame(event)), Sender(("me",)))
    assert isinstance(found, ThingEvent)
    assert (found.action, found.value, found.revision) == (event.action, event.value, 4)
    headers = json.loads(event_frame(event))["headers"]
    assert headers["content-type"] == "application/merge-patch+json"


def test_its_event_as_a_json_patch_is_what_changed() -> None:
    assert as_json(of_event(migrated())) == [
        {"op": "add", "path": "/definition", "value": URL},
        {"op": "remove", "path": "/attributes/old"},
        {"op": "add", "path": "/attributes/new", "value": 3},
    ]


def test_the_normalized_form_shows_values_and_what_went() -> None:
    mapper = NormalizedMapper({"includeDeletedFields": True})
    external = mapper.outgoing(Outgoing("t", "/", {}, b"f", seen=Seen(migrated(), None, None)))
    assert external is not None
    shown = json.loads(external.payload)
    assert shown["definition"] == URL
    assert shown["attributes"] == {"new": 3}
    assert shown["_deletedFields"] == {"attributes": {"old": "2026-01-02T00:00:00Z"}}


def test_without_the_web_of_things_nothing_can_be_migrated() -> None:
    with pytest.raises(GatewayError) as refused:
        settled_migration(THING, a_command({"thingDefinitionUrl": URL}), a_context(), None)
    assert refused.value.code == "wot:skeleton.generation.failed"


def test_permission_comes_before_the_model() -> None:
    nothing = a_context()
    nothing = Context(nothing.now, nothing.moment, 3, NO_PERMISSIONS, DEFAULT_LIMITS)
    with pytest.raises(GatewayError) as refused:
        settled_migration(THING, a_command({"thingDefinitionUrl": URL}), nothing, None)
    assert (refused.value.status, refused.value.code) == (403, "things:thing.notmodifiable")
