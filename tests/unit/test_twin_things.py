"""The rules of things: a thing and a command in, an answer and an event out."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import GatewayError
from gateway.model.json import Json, JsonObject, parse_pointer
from gateway.model.thing import Action, EventAction, Thing, ThingCommand
from gateway.twin.conditions import parse_tags, revision_tag, value_tag
from gateway.twin.ditto_errors import codes, ditto_error
from gateway.twin.documents import MISSING, get, same
from gateway.twin.limits import Limits
from gateway.twin.policy import NO_PERMISSIONS, Enforcer, Entry, Permissions, build_enforcer
from gateway.twin.policy_form import default_policy
from gateway.twin.showing import Context, reduced_event, retrieve
from gateway.twin.things import Decision, apply, judge

MOMENT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
NOW = "2026-01-02T03:04:05.000000Z"
ME = ("nginx:me",)
ALL = build_enforcer(default_policy("nginx:me"), {}).permissions(ME, "", NOW)

DOCUMENT: JsonObject = {
    "policyId": "a:policy",
    "definition": "a:model:1.0",
    "attributes": {"n": 1, "place": {"lat": 1.5}, "nothing": None},
    "features": {
        "motor": {
            "definition": ["a:motor:1"],
            "properties": {"rpm": 5},
            "desiredProperties": {"rpm": 6},
        },
        "empty": {},
    },
}


def a_thing(document: JsonObject | None = None, revision: int = 7) -> Thing:
    created = "2026-01-01T00:00:00.000000Z"
    return Thing("a:thing", revision, DOCUMENT if document is None else document, created, created)


def a_command(action: Action, path: str = "/", value: Json = None, **headers: Any) -> ThingCommand:
    return ThingCommand(
        thing_id="a:thing",
        action=action,
        subjects=ME,
        path=parse_pointer(path),
        value=value,
        headers={name.replace("_", "-"): text for name, text in headers.items()},
    )


def a_context(permissions: Permissions = ALL, limits: Limits | None = None) -> Context:
    return Context(NOW, MOMENT, 7, permissions, limits or Limits())


def decided(
    action: Action,
    path: str = "/",
    value: Json = None,
    permissions: Permissions | None = None,
    **headers: Any,
) -> Decision:
    command = a_command(action, path, value, **headers)
    return judge(a_thing(), command, a_context(permissions or ALL))


def refused(*args: Any, **more: Any) -> tuple[int, str]:
    with pytest.raises(GatewayError) as caught:
        decided(*args, **more)
    return caught.value.status, caught.value.code


M, D, P, G = Action.MODIFY, Action.DELETE, Action.MERGE, Action.PATCH
CREATED, MODIFIED, MERGED, DELETED, _MIGRATED = EventAction
WITHOUT_N: JsonObject = {"place": {"lat": 1.5}, "nothing": None}


@pytest.mark.parametrize(
    ("action", "path", "value", "status", "event", "after"),
    [
        (M, "/attributes", {"x": 1}, 204, MODIFIED, {"x": 1}),
        (M, "/attributes", None, 204, MODIFIED, {}),
        (M, "/attributes/n", 2, 204, MODIFIED, 2),
        (M, "/attributes/nothing", 2, 204, MODIFIED, 2),
        (M, "/attributes/new", None, 201, CREATED, None),
        (M, "/attributes/place/lon", 9, 201, CREATED, 9),
        (M, "/attributes/n/deep", 9, 201, CREATED, 9),
        (M, "/definition", "a:model:2.0", 204, MODIFIED, "a:model:2.0"),
        (M, "/definition", "https://models.example/x.jsonld", 204, MODIFIED, ...),
        (M, "/policyId", "a:other", 204, MODIFIED, "a:other"),
        (M, "/features", {"f": None}, 204, MODIFIED, {"f": {}}),
        (M, "/features/new", {"properties": {"a": 1}, "color": 2}, 201, CREATED, {"properties": {"a": 1}}),
        (M, "/features/motor", {}, 204, MODIFIED, {}),
        (M, "/features/motor/definition", ["a:b:c"], 204, MODIFIED, ["a:b:c"]),
        (M, "/features/empty/definition", ["a:b:c"], 201, CREATED, ["a:b:c"]),
        (M, "/features/empty/properties", {"a": 1}, 201, CREATED, {"a": 1}),
        (M, "/features/empty/properties/a/b", 1, 201, CREATED, 1),
        (M, "/features/motor/desiredProperties/rpm", 7, 204, MODIFIED, 7),
        (D, "/attributes/n", None, 204, DELETED, MISSING),
        (D, "/attributes", None, 204, DELETED, MISSING),
        (D, "/definition", None, 204, DELETED, MISSING),
        (D, "/features/motor/properties/rpm", None, 204, DELETED, MISSING),
        (P, "/attributes/place", {"lat": None, "x": 1}, 204, MERGED, {"x": 1}),
        (P, "/attributes/n", None, 204, MERGED, MISSING),
        (P, "/features/new/properties/a", 1, 204, MERGED, 1),
        (P, "/features", {"{{ ~e.*~ }}": None}, 204, MERGED, {"motor": DOCUMENT["features"]["motor"]}),  # type: ignore[index, call-overload]
        (G, "/attributes/n", [{"op": "replace", "path": "", "value": 3}], 204, MODIFIED, 3),
        (G, "/attributes", [{"op": "remove", "path": "/n"}], 204, MERGED, WITHOUT_N),
        (G, "/attributes", [{"op": "add", "path": "/z", "value": None}], 204, MODIFIED, ...),
    ],
)  # fmt: skip
def test_a_change_of_a_part_gives_its_event(
    action: Action, path: str, value: Json, status: int, event: EventAction, after: Any
) -> None:
    decision = decided(action, path, value)
    assert decision.status == status
    made = decision.event
    assert made is not None
    assert (made.action, made.path, made.revision) == (event, parse_pointer(path), 8)
    assert made.after is not None
    assert made.after.created == "2026-01-01T00:00:00.000000Z"
    found = get(made.after.document, made.path)
    if after is MISSING:
        assert found is MISSING
    elif after is not ...:
        assert found is not MISSING
        assert same(found, after)
    if status == 201:
        assert decision.value is not MISSING


def test_a_put_of_the_whole_thing_replaces_all_but_its_policy() -> None:
    decision = decided(M, "/", {"thingId": "a:thing", "attributes": {"x": 1}, "_policy": {"y": 2}})
    assert decision.event is not None
    assert decision.event.value == {
        "thingId": "a:thing",
        "policyId": "a:policy",
        "attributes": {"x": 1},
    }
    assert decision.etag == '"rev:8"'


def test_a_merge_of_the_whole_thing_carries_the_patch() -> None:
    decision = decided(P, "/", {"attributes": {"n": 2}, "definition": None, "_policy": {}})
    assert decision.event is not None
    assert decision.event.value == {"attributes": {"n": 2}, "definition": None}
    assert decision.event.after is not None
    assert "definition" not in decision.event.after.document


def test_a_json_patch_that_changes_nothing_makes_no_revision() -> None:
    for operations in ([], [{"op": "test", "path": "/attributes/n", "value": 1}]):
        decision = decided(G, "/", operations)  # type: ignore[arg-type]
        assert (decision.status, decision.event) == (204, None)


@pytest.mark.parametrize(
    ("action", "path", "value", "expected"),
    [
        (Action.CREATE, "/", {}, (409, "things:thing.conflict")),
        (M, "/", [], (400, "json.invalid")),
        (M, "/", {"thingId": "a:other"}, (400, "things:id.notsettable")),
        (M, "/", {"policyId": "bad"}, (400, "policies:id.invalid")),
        (M, "/attributes", 5, (400, "json.invalid")),
        (M, "/attributes/a", {"x/y": 1}, (400, "json.key.invalid")),
        (M, "/features/a~1b", {}, (400, "json.key.invalid")),
        (M, "/definition", "nonsense", (400, "things:definition.identifier.invalid")),
        (M, "/features/none/properties/a", 1, (404, "things:feature.notfound")),
        (M, "/features/motor/definition", [], (400, "things:feature.definition.empty")),
        (M, "/features/motor/color", 1, (400, "protocoladapter:unknown.path")),
        (M, "/color", 1, (400, "protocoladapter:unknown.path")),
        (D, "/policyId", None, (400, "things:policyId.notdeletable")),
        (D, "/attributes/none", None, (404, "things:attribute.notfound")),
        (D, "/features/none", None, (404, "things:feature.notfound")),
        (D, "/features/none/properties", None, (404, "things:feature.notfound")),
        (D, "/features/empty/properties", None, (404, "things:feature.properties.notfound")),
        (D, "/features/motor/desiredProperties/a", None, (404, "things:feature.desiredProperty.notfound")),
        (P, "/", None, (400, "things:merge.invalid")),
        (P, "/", {}, (400, "things:merge.invalid")),
        (P, "/", {"policyId": None}, (400, "things:policyId.notdeletable")),
        (P, "/", {"thingId": None}, (400, "things:id.notdeletable")),
        (P, "/policyId", None, (400, "things:policyId.notdeletable")),
        (P, "/", {"attributes": 5}, (400, "json.invalid")),
        (P, "/", {"features": {"a/b": {}}}, (400, "json.key.invalid")),
        (G, "/", {"op": "add"}, (400, "things:patch.invalid")),
        (G, "/", [{"op": "remove", "path": "/policyId"}], (400, "things:policyId.notdeletable")),
        (G, "/", [{"op": "replace", "path": "/thingId", "value": "x:y"}], (400, "things:id.notsettable")),
        (G, "/attributes/none", [], (404, "things:attribute.notfound")),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(
    action: Action, path: str, value: Json, expected: tuple[int, str]
) -> None:
    assert refused(action, path, value) == expected


@pytest.mark.parametrize(
    ("action", "path", "expected"),
    [
        (M, "/attributes/a", (404, "things:thing.notfound")),
        (D, "/", (404, "things:thing.notfound")),
        (P, "/features/f", (404, "things:thing.notfound")),
        (G, "/", (404, "things:thing.notfound")),
    ],
)
def test_nothing_but_a_whole_thing_can_be_made_where_none_is(
    action: Action, path: str, expected: tuple[int, str]
) -> None:
    with pytest.raises(GatewayError) as caught:
        judge(None, a_command(action, path, {}), a_context())
    assert (caught.value.status, caught.value.code) == expected


@pytest.mark.parametrize("action", [Action.CREATE, M, P])
def test_a_thing_is_made_by_create_put_and_merge(action: Action) -> None:
    value: Json = {"policyId": "a:policy", "attributes": {"a": 1}, "features": None}
    decision = judge(None, a_command(action, "/", value), a_context())
    assert decision.status == 201
    assert decision.value == {
        "thingId": "a:thing",
        "policyId": "a:policy",
        "attributes": {"a": 1},
    }
    assert decision.event is not None
    assert (decision.event.action, decision.event.revision) == (CREATED, 8)
    assert decision.event.before is None


@pytest.mark.parametrize(
    ("path", "headers", "expected"),
    [
        ("/", {"if_match": '"rev:7"'}, None),
        ("/", {"if_match": '"rev:6"'}, (412, "things:precondition.failed")),
        ("/", {"if_match": '"rev:6", "rev:7"'}, None),
        ("/", {"if_match": "*"}, None),
        ("/", {"if_match": 'W/"rev:7"'}, (412, "things:precondition.failed")),
        ("/", {"if_match": "rev:7"}, (400, "header.invalid")),
        ("/", {"if_none_match": "*"}, (412, "things:precondition.failed")),
        ("/", {"if_none_match": '"rev:6"'}, None),
        ("/attributes/n", {"if_match": value_tag(1)}, None),
        ("/attributes/n", {"if_match": value_tag(2)}, (412, "things:precondition.failed")),
        ("/attributes/new", {"if_match": "*"}, (412, "things:precondition.failed")),
        ("/attributes/new", {"if_none_match": "*"}, None),
        ("/attributes/n", {"condition": "eq(attributes/n,1)"}, None),
        ("/attributes/n", {"condition": "eq(attributes/n,2)"}, (412, "things:condition.failed")),
        ("/attributes/n", {"condition": "eq(attributes/n"}, (400, "things:condition.invalid")),
        ("/attributes/n", {"condition": "eq(_revision,7)"}, None),
        ("/attributes/n", {"if_equal": "skip"}, None),
        ("/attributes/place", {"if_equal": "skip"}, (412, "things:precondition.failed")),
        ("/attributes/n", {"if_equal": "perhaps"}, (400, "header.invalid")),
    ],
)
def test_conditions_are_judged_against_what_is_there(
    path: str, headers: dict[str, str], expected: tuple[int, str] | None
) -> None:
    value: Json = {"lat": 1.5} if path in ("/attributes/place", "/") else 9
    if path == "/":
        value = {"attributes": {}}
    if expected is None:
        assert decided(M, path, value, None, **headers).event is not None
    else:
        assert refused(M, path, value, None, **headers) == expected


def test_a_failed_precondition_tells_the_actual_tag() -> None:
    with pytest.raises(GatewayError) as caught:
        decided(M, "/", {}, if_match='"rev:1"')
    assert caught.value.details["etag"] == '"rev:7"'
    assert '"rev:7"' in caught.value.message


def test_an_equal_merge_is_skipped_or_made_smaller() -> None:
    same_patch: Json = {"attributes": {"n": 1}}
    for how in ("skip", "skip-minimizing-merge"):
        assert refused(P, "/", same_patch, if_equal=how) == (412, "things:precondition.failed")
    partly: Json = {"attributes": {"n": 1, "x": 2}}
    decision = decided(P, "/", partly, if_equal="skip-minimizing-merge")
    assert decision.event is not None
    assert decision.event.value == {"attributes": {"x": 2}}


def test_merge_patch_conditions_drop_what_does_not_hold() -> None:
    conditions = '{"attributes/n": "gt(attributes/n,5)", "attributes/x": "eq(attributes/n,1)"}'
    decision = decided(
        P, "/", {"attributes": {"n": 0, "x": 0}}, merge_thing_patch_conditions=conditions
    )
    assert decision.event is not None
    assert decision.event.value == {"attributes": {"x": 0}}
    assert refused(P, "/", {}, merge_thing_patch_conditions="[]") == (400, "header.invalid")


WRITER = build_enforcer(
    {
        "entries": {
            "x": {
                "subjects": {"nginx:me": {"type": "x"}},
                "resources": {
                    "thing:/": {"grant": ["READ", "WRITE"], "revoke": []},
                    "thing:/attributes/place": {"grant": [], "revoke": ["READ"]},
                },
            }
        }
    },
    {},
).permissions(ME, "", NOW)
"""May write all, and not read where the thing is."""


@pytest.mark.parametrize("condition", ["eq(attributes/place/lat,1.5)", "eq(*/place/lat,1.5)"])
@pytest.mark.parametrize("lat", ["1.5", "2"])
def test_conditions_tell_nothing_of_what_is_hidden(condition: str, lat: str) -> None:
    text = condition.replace("1.5", lat)
    failed = (412, "things:condition.failed")
    assert refused(M, "/attributes/n", 9, WRITER, condition=text) == failed
    patch_conditions = msgspec.json.encode({"attributes/n": text, "attributes/x": "exists(*/n)"})
    decision = decided(
        P,
        "/attributes",
        {"n": 9, "x": 1},
        WRITER,
        merge_thing_patch_conditions=patch_conditions.decode(),
    )
    assert decision.event is not None
    assert decision.event.value == {"x": 1}


def test_a_thing_over_its_limit_is_refused() -> None:
    with pytest.raises(GatewayError) as caught:
        judge(
            a_thing(),
            a_command(M, "/attributes/big", "x" * 2_000),
            a_context(limits=Limits(thing_bytes=1_000)),
        )
    assert (caught.value.status, caught.value.code) == (413, "things:thing.toolarge")


# --- permissions -------------------------------------------------------------------------------

PARTLY = Enforcer(
    [
        Entry(
            "e",
            {"nginx:me": None},
            (
                ("thing", ("attributes",), 3, 0),
                ("thing", ("attributes", "secret"), 0, 3),
                ("thing", ("features", "motor", "properties"), 1, 0),
            ),
        )
    ]
).permissions(ME, "", NOW)


@pytest.mark.parametrize(
    ("action", "path", "value", "expected"),
    [
        (M, "/attributes/a", 1, None),
        (M, "/attributes", {}, (403, "things:attributes.notmodifiable")),
        (M, "/", {}, (403, "things:thing.notmodifiable")),
        (D, "/", None, (403, "things:thing.notdeletable")),
        (D, "/attributes/n", None, None),
        (P, "/", {"attributes": {"a": 1}}, None),
        (P, "/", {"attributes": {"a": 1, "secret": 2}}, (403, "things:thing.notmodifiable")),
        (P, "/attributes", {"{{ ~s.*~ }}": None}, (403, "things:thing.notmodifiable")),
        (P, "/features/motor", {"properties": {"rpm": 1}}, (403, "things:thing.notmodifiable")),
        (G, "/", [{"op": "add", "path": "/attributes/a", "value": 1}], None),
        (
            G,
            "/",
            [{"op": "remove", "path": "/features/motor"}],
            (403, "things:thing.notmodifiable"),
        ),
        (
            G,
            "/",
            [{"op": "copy", "from": "/attributes/secret", "path": "/attributes/a"}],
            (403, "things:thing.notmodifiable"),
        ),
        (
            G,
            "/",
            [{"op": "test", "path": "/definition", "value": "x"}],
            (403, "things:thing.notmodifiable"),
        ),
    ],
)
def test_a_change_needs_write_on_what_it_writes(
    action: Action, path: str, value: Json, expected: tuple[int, str] | None
) -> None:
    if expected is None:
        assert decided(action, path, value, permissions=PARTLY).event is not None
    else:
        assert refused(action, path, value, permissions=PARTLY) == expected


def test_a_condition_may_not_ask_for_what_one_cannot_read() -> None:
    hidden = refused(M, "/attributes/a", 1, permissions=PARTLY, condition="eq(definition,'x')")
    assert hidden == (412, "things:condition.failed")
    wild = "exists(features/*/properties)"
    assert refused(M, "/attributes/a", 1, permissions=PARTLY, condition=wild)[0] == 412


def shown(
    path: str, permissions: Permissions = ALL, fields: str | None = None, **headers: Any
) -> Any:
    wanted = a_command(Action.RETRIEVE, path, None, **headers)
    wanted = ThingCommand(
        thing_id="a:thing",
        action=Action.RETRIEVE,
        subjects=ME,
        path=wanted.path,
        headers=wanted.headers,
        fields=fields,
    )
    return retrieve(a_thing(), wanted, a_context(permissions))[0]


SEEN: JsonObject = {
    "thingId": "a:thing",
    "attributes": DOCUMENT["attributes"],
    "features": {"motor": {"properties": {"rpm": 5}}},
}


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/", SEEN),
        ("/attributes/n", 1),
        ("/attributes/nothing", None),
        ("/features", {"motor": {"properties": {"rpm": 5}}}),
        ("/features/motor/properties/rpm", 5),
        ("/features/empty", (404, "things:feature.notfound")),
        ("/definition", (404, "things:definition.notfound")),
        ("/policyId", (404, "things:policyId.notfound")),
        ("/attributes/secret", (404, "things:attribute.notfound")),
        ("/attributes/none", (404, "things:attribute.notfound")),
        ("/features/motor/desiredProperties", (404, "things:feature.desiredProperties.notfound")),
    ],
)  # fmt: skip
def test_a_reader_sees_what_may_be_read(path: str, expected: Any) -> None:
    if isinstance(expected, tuple):
        with pytest.raises(GatewayError) as caught:
            shown(path, PARTLY)
        assert (caught.value.status, caught.value.code) == expected
    else:
        assert shown(path, PARTLY) == expected


def test_without_any_permission_a_thing_does_not_exist() -> None:
    with pytest.raises(GatewayError) as caught:
        shown("/", NO_PERMISSIONS)
    assert caught.value.code == "things:thing.notfound"


def test_fields_and_tags_apply_to_reads() -> None:
    assert shown("/", fields="thingId,attributes/n,_revision") == {
        "thingId": "a:thing",
        "attributes": {"n": 1},
        "_revision": 7,
    }
    assert shown("/features", fields="*/properties/rpm") == {"motor": {"properties": {"rpm": 5}}}
    with pytest.raises(GatewayError) as caught:
        shown("/", if_none_match='"rev:7"')
    assert (caught.value.status, caught.value.code) == (304, "things:precondition.notmodified")


def test_events_are_reduced() -> None:
    whole = decided(M, "/", {"attributes": {"a": 1, "secret": 2}}).event
    assert whole is not None
    seen = reduced_event(whole, PARTLY)
    assert seen is not None
    assert seen.value == {"thingId": "a:thing", "attributes": {"a": 1}}
    hidden = decided(M, "/definition", "a:b:c").event
    assert hidden is not None
    assert reduced_event(hidden, PARTLY) is None
    gone = decided(D, "/").event
    assert gone is not None
    assert reduced_event(gone, PARTLY) == gone
    assert reduced_event(gone, NO_PERMISSIONS) is None


def test_an_event_carries_custom_headers_and_not_those_that_steer() -> None:
    decision = decided(M, "/attributes/n", 1, correlation_id="c", my_header="x", if_match="*")
    assert decision.event is not None
    assert decision.event.headers == {"correlation-id": "c", "my-header": "x"}


# --- applying ----------------------------------------------------------------------------------

NAMES = st.sampled_from(["a", "b"])
SMALL = st.recursive(
    st.one_of(st.none(), st.integers(0, 2)),
    lambda below: st.dictionaries(NAMES, below, max_size=2),
    max_leaves=4,
)
PATHS = st.sampled_from(
    ["/", "/attributes", "/attributes/a", "/attributes/a/b", "/features", "/features/a",
     "/features/a/properties", "/features/a/properties/b", "/features/b/desiredProperties/a"]
)  # fmt: skip
THINGS = st.fixed_dictionaries(
    {},
    optional={
        "attributes": st.dictionaries(NAMES, SMALL, max_size=2),
        "features": st.dictionaries(
            NAMES,
            st.fixed_dictionaries({}, optional={"properties": st.dictionaries(NAMES, SMALL)}),
            max_size=2,
        ),
    },
)
STEPS = st.lists(
    st.tuples(st.sampled_from([M, D, P]), PATHS, st.one_of(SMALL, THINGS)), min_size=1, max_size=6
)


@given(STEPS)
def test_replaying_events_gives_the_same_states(steps: list[Any]) -> None:
    thing: Thing | None = Thing("a:thing", 1, {"policyId": "a:p"}, NOW, NOW)
    revision = 1
    for action, path, value in steps:
        context = Context(NOW, MOMENT, revision, ALL, Limits())
        try:
            event = judge(thing, a_command(action, path, value), context).event
        except GatewayError:
            continue
        assert event is not None
        again = apply(thing, event)
        assert (again is None) == (event.after is None)
        if again is not None and event.after is not None:
            assert same(again.document, event.after.document)
            assert again.revision == event.revision == revision + 1
        thing, revision = event.after, event.revision


# --- small things ------------------------------------------------------------------------------


def test_entity_tags_are_read() -> None:
    assert parse_tags("if-match", '"a", W/"b"') == ('"a"', 'W/"b"')
    assert parse_tags("if-match", " * ") == ("*",)
    assert revision_tag(3) == '"rev:3"'
    assert value_tag({"a": 1, "b": 2}) == value_tag({"b": 2, "a": 1})
    assert value_tag(1) != value_tag(1.0)


def test_every_error_of_the_table_can_be_built_and_says_something() -> None:
    for code in codes():
        error = ditto_error(code, id="a:b", path=("x",))
        assert error.code == code
        assert error.message
        assert 300 <= error.status < 600
