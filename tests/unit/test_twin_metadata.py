"""Metadata: keys and wildcards, what stays when values go, who may read it, replays."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from gateway.errors import GatewayError
from gateway.model.json import JsonObject, parse_pointer
from gateway.model.thing import Action, Thing, ThingCommand
from gateway.twin import metadata
from gateway.twin.fields import FieldSelector
from gateway.twin.limits import DEFAULT_LIMITS
from gateway.twin.policy import Permissions, build_enforcer
from gateway.twin.resources import part_of
from gateway.twin.showing import Context, readable_json
from gateway.twin.things import Decision, judge, replayed

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ME = ("nginx:me",)


def permissions(*granted: str) -> Permissions:
    resources: JsonObject = {
        key: {"grant": ["READ", "WRITE"], "revoke": []} for key in granted or ("thing:/",)
    }
    entry: JsonObject = {"subjects": {"nginx:me": {"type": "user"}}, "resources": resources}
    return build_enforcer({"entries": {"me": entry}}, {}).permissions(ME, "a", "2026")


def context(thing: Thing | None) -> Context:
    revision = thing.revision if thing else 0
    return Context("2026-01-01T00:00:00Z", NOW, revision, permissions(), DEFAULT_LIMITS)


def a_pump(said: JsonObject | None = None) -> Thing:
    document: JsonObject = {
        "policyId": "a:p",
        "attributes": {"maker": "acme", "place": {"lat": 1, "lon": 2}},
        "features": {
            "motor": {"properties": {"rpm": 1, "load": {"now": 2}}},
            "light": {"properties": {"on": True}, "desiredProperties": {"on": False}},
        },
    }
    if said is not None:
        document["_metadata"] = said
    return Thing("a:b", 3, document, "2026", "2026")


def run(thing: Thing | None, action: Action, path: str, value: Any, **headers: Any) -> Decision:
    command = ThingCommand(
        thing_id="a:b",
        action=action,
        subjects=ME,
        path=parse_pointer(path),
        value=value,
        headers={name.replace("_", "-"): text for name, text in headers.items()},
    )
    return judge(thing, command, context(thing))


def said_after(decision: Decision) -> Any:
    assert decision.event is not None
    assert decision.event.after is not None
    return decision.event.after.document.get("_metadata")


def pairs(*keys: str) -> str:
    return json.dumps([{"key": key, "value": 7} for key in keys])


@pytest.mark.parametrize(
    ("path", "value", "key", "expected"),
    [
        ("/attributes/maker", "x", "unit", {"attributes": {"maker": {"unit": 7}}}),
        ("/attributes/maker", "x", "/deep/er", {"attributes": {"maker": {"deep": {"er": 7}}}}),
        ("/attributes/maker", "x", "*/unit", {"attributes": {"maker": {"unit": 7}}}),
        (
            "/attributes",
            {"a": 1, "b": {"c": [2], "d": 3}},
            "*/unit",
            {"attributes": {"a": {"unit": 7}, "b": {"c": {"unit": 7}, "d": {"unit": 7}}}},
        ),
        (
            "/features/motor",
            {"properties": {"x": 1, "y": {"z": 2}}},
            "properties/*/unit",
            {"features": {"motor": {"properties": {"x": {"unit": 7}, "y": {"unit": 7}}}}},
        ),
        (
            "/features",
            {"m": {"properties": {"x": 1}}, "n": {"desiredProperties": {"x": 1}}},
            "*/properties/x/unit",
            {"features": {"m": {"properties": {"x": {"unit": 7}}}}},
        ),
        (
            "/",
            {"attributes": {"a": 1, "b": {"c": 2}}, "features": {"m": {"properties": {"x": 1}}}},
            "attributes/*/unit",
            {"attributes": {"a": {"unit": 7}, "b": {"unit": 7}}},
        ),
        (
            "/",
            {"attributes": {"a": 1}, "features": {"m": {"properties": {"x": 1}}}},
            "features/m/properties/*/unit",
            {"features": {"m": {"properties": {"x": {"unit": 7}}}}},
        ),
        (
            "/",
            {"thingId": "a:b", "policyId": "a:p", "attributes": {"a": 1}},
            "*/unit",
            {"attributes": {"a": {"unit": 7}}, "thingId": {"unit": 7}, "policyId": {"unit": 7}},
        ),
    ],
)
def test_metadata_is_put_where_its_key_says(path: str, value: Any, key: str, expected: Any) -> None:
    decision = run(a_pump(), Action.MODIFY, path, value, put_metadata=pairs(key))
    assert said_after(decision) == expected
    assert decision.event is not None
    assert decision.event.metadata == expected


def test_a_new_thing_may_have_metadata_from_the_start() -> None:
    value = {"policyId": "a:p", "attributes": {"a": 1}}
    decision = run(None, Action.MODIFY, "/", value, put_metadata=pairs("*/unit"))
    unit = {"unit": 7}
    assert said_after(decision) == {"attributes": {"a": unit}, "thingId": unit, "policyId": unit}


def test_a_merge_speaks_of_what_it_writes_and_not_of_what_it_removes() -> None:
    value = {"maker": None, "new": 1}
    decision = run(a_pump(), Action.MERGE, "/attributes", value, put_metadata=pairs("*/unit"))
    assert said_after(decision) == {"attributes": {"new": {"unit": 7}}}


SAID: JsonObject = {
    "attributes": {"maker": {"by": 1}, "place": {"by": 2, "lat": {"unit": "deg"}}},
    "features": {"motor": {"properties": {"rpm": {"unit": "1/min"}}}},
}


@pytest.mark.parametrize(
    ("action", "path", "value", "expected"),
    [
        (Action.MODIFY, "/attributes/maker", "other", SAID),
        (
            Action.DELETE,
            "/attributes/maker",
            None,
            {
                "attributes": {"place": {"by": 2, "lat": {"unit": "deg"}}},
                "features": SAID["features"],
            },
        ),
        (Action.DELETE, "/features/motor", None, {"attributes": SAID["attributes"]}),
        (Action.DELETE, "/features", None, {"attributes": SAID["attributes"]}),
        (
            Action.MERGE,
            "/",
            {"attributes": {"place": {"lat": None}, "maker": None}},
            {"attributes": {"place": {"by": 2}}, "features": SAID["features"]},
        ),
        (Action.MODIFY, "/", {"attributes": {"maker": 1}}, {"attributes": {"maker": {"by": 1}}}),
        (Action.MODIFY, "/", {}, None),
    ],
)
def test_metadata_goes_with_its_value(
    action: Action, path: str, value: Any, expected: JsonObject | None
) -> None:
    decision = run(a_pump(SAID), action, path, value)
    assert said_after(decision) == expected
    assert decision.event is not None
    assert decision.event.metadata is None


@pytest.mark.parametrize(
    ("path", "value", "pointers", "expected"),
    [
        ("/attributes/maker", "x", "by", {"place": {"by": 2, "lat": {"unit": "deg"}}}),
        (
            "/attributes",
            {"maker": 1, "place": {"lat": 1}},
            "place/by,maker/by",
            {"place": {"lat": {"unit": "deg"}}},
        ),
        (
            "/attributes",
            {"maker": 1, "place": {"lat": 1}},
            "*/unit",
            {"maker": {"by": 1}, "place": {"by": 2}},
        ),
        ("/attributes/maker", "x", "none", SAID["attributes"]),
    ],
)
def test_metadata_is_deleted_by_pointers(
    path: str, value: Any, pointers: str, expected: Any
) -> None:
    decision = run(a_pump(SAID), Action.MODIFY, path, value, delete_metadata=pointers)
    assert said_after(decision)["attributes"] == expected


@pytest.mark.parametrize(
    ("action", "path", "value", "headers", "code"),
    [
        (
            Action.MODIFY,
            "/attributes",
            {},
            {"put_metadata": "[]", "delete_metadata": "a"},
            "things:metadata.headersconflict",
        ),
        (
            Action.DELETE,
            "/attributes",
            None,
            {"put_metadata": "[]"},
            "things:metadata.notmodifiable",
        ),
        (Action.MODIFY, "/attributes", {}, {"put_metadata": "{"}, "header.invalid"),
        (Action.MODIFY, "/attributes", {}, {"put_metadata": '["a"]'}, "header.invalid"),
        (Action.MODIFY, "/attributes", {}, {"put_metadata": pairs("")}, "header.invalid"),
        (Action.MODIFY, "/attributes", {}, {"put_metadata": pairs("a/*")}, "header.invalid"),
        (Action.MODIFY, "/attributes", {}, {"put_metadata": pairs("*/*/x")}, "header.invalid"),
        (Action.MODIFY, "/", {}, {"put_metadata": pairs("features/*/x/*/u")}, "header.invalid"),
        (
            Action.MODIFY,
            "/definition",
            "a:b:1",
            {"put_metadata": pairs("*/u")},
            "header.notsupported",
        ),
        (
            Action.MODIFY,
            "/attributes",
            {},
            {"put_metadata": pairs("a\u0001/u")},
            "json.key.invalid",
        ),
        (Action.MODIFY, "/attributes", {}, {"delete_metadata": "a//b"}, "json.pointer.invalid"),
    ],
)
def test_bad_metadata_headers_are_refused(
    action: Action, path: str, value: Any, headers: dict[str, str], code: str
) -> None:
    with pytest.raises(GatewayError) as caught:
        run(a_pump(), action, path, value, **headers)
    assert caught.value.code == code


def query(path: str, pointers: str, **more: Any) -> ThingCommand:
    headers = {"get-metadata": pointers, **more}
    path_ = parse_pointer(path)
    return ThingCommand(
        thing_id="a:b", action=Action.RETRIEVE, subjects=ME, path=path_, headers=headers
    )


@pytest.mark.parametrize(
    ("path", "pointers", "expected"),
    [
        ("/", "attributes/maker/by,none", {"attributes": {"maker": {"by": 1}}}),
        (
            "/",
            "features/*/properties/*/unit",
            {"features": {"motor": {"properties": {"rpm": {"unit": "1/min"}}}}},
        ),
        ("/attributes", "*/unit", {"place": {"lat": {"unit": "deg"}}}),
        ("/features/motor/properties/rpm", "unit", {"unit": "1/min"}),
        ("/features/light", "properties/*/unit", {}),
    ],
)
def test_metadata_is_read_from_the_commands_path_on(
    path: str, pointers: str, expected: Any
) -> None:
    command = query(path, pointers)
    found = metadata.asked(a_pump(SAID), command, part_of(command.path), permissions())
    assert found == expected


def test_metadata_may_be_read_by_who_may_read_its_value() -> None:
    some = permissions("thing:/features")
    command = query("/", "attributes/maker/by,features/motor/properties/rpm/unit")
    found = metadata.asked(a_pump(SAID), command, part_of(()), some)
    assert found == {"features": SAID["features"]}
    fields = FieldSelector.parse("thingId,_metadata")
    shown = readable_json(a_pump(SAID), some, fields)
    assert shown == {"thingId": "a:b", "_metadata": {"features": SAID["features"]}}
    assert "_metadata" not in (readable_json(a_pump(SAID), some) or {})


def test_a_replay_has_the_metadata_of_its_time() -> None:
    first = run(None, Action.MODIFY, "/", {"policyId": "a:p"}, put_metadata="[]")
    steps: list[tuple[Action, str, Any, dict[str, str]]] = [
        (Action.MODIFY, "/attributes", {"a": 1, "b": 2}, {"put_metadata": pairs("*/unit")}),
        (Action.MERGE, "/attributes", {"a": None, "c": 1}, {}),
        (Action.MODIFY, "/attributes/b", 5, {"delete_metadata": "unit"}),
        (Action.MODIFY, "/attributes/b", 6, {"put_metadata": pairs("x")}),
        (Action.MODIFY, "/", {"attributes": {"b": 1}}, {}),
    ]
    assert first.event is not None
    events, thing = [first.event], first.event.after
    for action, path, value, headers in steps:
        event = run(thing, action, path, value, **headers).event
        assert event is not None
        events.append(event)
        thing = event.after
        stored = [replace(one, before=None, after=None) for one in events]
        assert replayed(None, stored) == thing
