"""Changes of things against Thing Models: each switch, each kind of write."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import GatewayError
from gateway.model.json import Json, parse_pointer
from gateway.model.thing import Action, EventAction, Thing, ThingCommand, ThingEvent
from gateway.twin.documents import MISSING, get, put, remove
from gateway.twin.wot.model import Submodel, ThingModel
from gateway.twin.wot.validation import check_change, definitions_of_change
from gateway.twin.wot.validation_rules import (
    DEFAULT_RULES,
    Rules,
    as_json,
    checked_switches,
    merged_switches,
    with_switches,
)
from gateway.twin.wot.validation_schema import Schemas

LAMP = "https://models.acme.org/lamp-1.0.0.tm.jsonld"
LIGHT = "https://models.acme.org/light-1.0.0.tm.jsonld"
COLOR: dict[str, Any] = {
    "type": "object",
    "properties": {
        "r": {"type": "integer", "minimum": 0, "maximum": 255},
        "g": {"type": "integer", "minimum": 0, "maximum": 255},
        "note": {"type": "string"},
    },
    "required": ["r", "g"],
    "additionalProperties": False,
}
LAMP_MODEL = ThingModel(
    url=LAMP,
    document={},
    properties={
        "serial": {"type": "string", "pattern": "^[A-Z]+-[0-9]+$"},
        "room": {"type": "string"},
        "color": COLOR,
    },
    optional=frozenset(("/properties/room",)),
    submodels=(Submodel("light", LIGHT),),
)
LIGHT_MODEL = ThingModel(
    url=LIGHT,
    document={},
    properties={
        "on": {"type": "boolean"},
        "level": {"type": "number", "minimum": 0, "maximum": 1},
        "hours": {"type": "integer"},
    },
    optional=frozenset(("/properties/hours",)),
    categories={"on": "status", "hours": "status", "level": "configuration"},
)
MODELS = {LAMP: LAMP_MODEL, LIGHT: LIGHT_MODEL}


class Known:
    def get(self, url: str) -> ThingModel | None:
        return MODELS.get(url)


def good_thing() -> dict[str, Any]:
    return {
        "policyId": "org.acme:lamp",
        "definition": LAMP,
        "attributes": {"serial": "A-1", "room": "hall", "color": {"r": 1, "g": 2}},
        "features": {
            "light": {
                "definition": [LIGHT],
                "properties": {
                    "status": {"on": True, "hours": 3},
                    "configuration": {"level": 0.5},
                },
                "desiredProperties": {"configuration": {"level": 0.7}},
            }
        },
    }


def a_thing(document: dict[str, Any]) -> Thing:
    return Thing("org.acme:lamp", 3, document, "t", "t")


def change(
    action: Action,
    path: str,
    value: Json = None,
    *,
    before: dict[str, Any] | None = None,
    rules: Rules = DEFAULT_RULES,
) -> GatewayError | None:
    """What a change of a lamp is answered with, None where it is allowed."""
    document = good_thing() if before is None else before
    pointer = parse_pointer(path)
    if action is Action.DELETE:
        after, kind = remove(document, pointer), EventAction.DELETED
    elif not pointer:
        assert isinstance(value, dict)
        after, kind = value, EventAction.MODIFIED
    else:
        after, kind = put(document, pointer, value), EventAction.MODIFIED
    if action is Action.MERGE:
        kind = EventAction.MERGED
    command = ThingCommand(thing_id="org.acme:lamp", action=action, subjects=(), path=pointer)
    event = ThingEvent(
        thing_id="org.acme:lamp",
        action=kind,
        path=pointer,
        revision=4,
        timestamp="t",
        after=a_thing(after),
        before=a_thing(document),
        value=value,
    )
    try:
        check_change(command, event, Known(), rules, Schemas())
    except GatewayError as error:
        return error
    return None


def without(*path: str) -> dict[str, Any]:
    return remove(good_thing(), path)


def having(value: Json, *path: str) -> dict[str, Any]:
    return put(good_thing(), path, value)


def switched_off(*path: str) -> Rules:
    tree: Any = False
    for name in reversed(path):
        tree = {name: tree}
    return with_switches(DEFAULT_RULES, checked_switches(tree))


T_ATTRIBUTES = ("thing", "enforce", "attributes")
T_CLOSED = ("thing", "forbid", "non-modeled-attributes")
T_MODIFICATION = ("thing", "enforce", "thing-description-modification")
T_DELETION = ("thing", "forbid", "thing-description-deletion")
F_PRESENCE = ("feature", "enforce", "presence-of-modeled-features")
F_CLOSED = ("feature", "forbid", "non-modeled-features")
F_PROPERTIES = ("feature", "enforce", "properties")
F_CLOSED_PROPERTIES = ("feature", "forbid", "non-modeled-properties")
F_DESIRED = ("feature", "enforce", "desired-properties")
F_CLOSED_DESIRED = ("feature", "forbid", "non-modeled-desired-properties")
F_MODIFICATION = ("feature", "enforce", "feature-description-modification")
F_DELETION = ("feature", "forbid", "feature-description-deletion")

M, D, P = Action.MODIFY, Action.DELETE, Action.MERGE
P_LIGHT = "/features/light/properties"
D_LIGHT = "/features/light/desiredProperties"

FITTING = good_thing()["features"]["light"]["properties"]

REFUSED: list[tuple[Action, str, Json, dict[str, Any] | None, str | None, tuple[str, ...]]] = [
    # action, path, value, before, path in the details, switch that allows it
    (M, "/attributes", {"serial": "A-1", "color": {"r": 1, "g": 1}, "x": 1}, None, "/attributes/x", T_CLOSED),
    (M, "/attributes", {"room": "x"}, None, "/attributes/serial", T_ATTRIBUTES),
    (M, "/attributes/room", 5, None, "/attributes/room", T_ATTRIBUTES),
    (M, "/attributes/serial", "nope", None, "/attributes/serial", T_ATTRIBUTES),
    (M, "/attributes/other", 5, None, "/attributes/other", T_CLOSED),
    (M, "/attributes/other/deep", 5, None, "/attributes/other/deep", T_CLOSED),
    (M, "/attributes/color", {"r": 1}, None, "/attributes/color", T_ATTRIBUTES),
    (M, "/attributes/color/r", 256, None, "/attributes/color", T_ATTRIBUTES),
    (M, "/attributes/color/blue", 1, None, "/attributes/color", T_ATTRIBUTES),
    (P, "/attributes/room", 5, None, "/attributes/room", T_ATTRIBUTES),
    (P, "/attributes/other", 5, None, "/attributes/other", T_CLOSED),
    (D, "/attributes", None, None, None, T_ATTRIBUTES),
    (D, "/attributes/serial", None, None, None, T_ATTRIBUTES),
    (D, "/attributes/color/r", None, None, None, T_ATTRIBUTES),
    (D, "/definition", None, None, None, T_DELETION),
    (M, "", without("definition"), None, None, T_DELETION),
    (P, "", without("definition"), None, None, T_DELETION),
    (M, "", without("features"), None, "/features/light", F_PRESENCE),
    (M, "/definition", LAMP, having(4, "attributes", "room"), "/attributes/room", T_MODIFICATION),
    (M, "/features", {}, None, "/features/light", F_PRESENCE),
    (M, "/features", {**good_thing()["features"], "b": {}}, None, "/features/b", F_CLOSED),
    (M, "/features/b", {}, None, "/features/b", F_CLOSED),
    (P, "/features/b", {}, None, "/features/b", F_CLOSED),
    (D, "/features", None, None, None, F_PRESENCE),
    (D, "/features/light", None, None, None, F_PRESENCE),
    (M, "/features/light", {"definition": [LIGHT]}, None, f"{P_LIGHT}/status/on", F_PROPERTIES),
    (D, "/features/light/definition", None, None, None, F_DELETION),
    (M, "/features/light", {"properties": FITTING}, None, None, F_DELETION),
    (M, "/features/light/definition", [LIGHT], having("x", "features", "light", "properties", "status", "on"),
     f"{P_LIGHT}/status/on", F_MODIFICATION),
    (M, P_LIGHT, {"status": {"on": True}}, None, f"{P_LIGHT}/configuration/level", F_PROPERTIES),
    (M, P_LIGHT, {"status": {"on": True}, "configuration": {"level": 2}}, None,
     f"{P_LIGHT}/configuration/level", F_PROPERTIES),
    (M, P_LIGHT, {"status": {"on": True, "x": 1}, "configuration": {"level": 1}}, None,
     f"{P_LIGHT}/status/x", F_CLOSED_PROPERTIES),
    (M, f"{P_LIGHT}/on", True, None, f"{P_LIGHT}/on", F_CLOSED_PROPERTIES),
    (M, f"{P_LIGHT}/status", 1, None, f"{P_LIGHT}/status", F_PROPERTIES),
    (M, f"{P_LIGHT}/status", {"hours": 1}, None, f"{P_LIGHT}/status/on", F_PROPERTIES),
    (M, f"{P_LIGHT}/status", {"on": True, "x": 1}, None, f"{P_LIGHT}/status/x", F_CLOSED_PROPERTIES),
    (M, f"{P_LIGHT}/status/on", "yes", None, f"{P_LIGHT}/status/on", F_PROPERTIES),
    (M, f"{P_LIGHT}/status/x", 1, None, f"{P_LIGHT}/status/x", F_CLOSED_PROPERTIES),
    (P, f"{P_LIGHT}/status/on", "yes", None, f"{P_LIGHT}/status/on", F_PROPERTIES),
    (D, P_LIGHT, None, None, None, F_PROPERTIES),
    (D, f"{P_LIGHT}/status", None, None, None, F_PROPERTIES),
    (D, f"{P_LIGHT}/status/on", None, None, None, F_PROPERTIES),
    (M, D_LIGHT, {"configuration": {"level": -1}}, None, f"{D_LIGHT}/configuration/level", F_DESIRED),
    (M, D_LIGHT, {"x": 1}, None, f"{D_LIGHT}/x", F_CLOSED_DESIRED),
    (M, f"{D_LIGHT}/configuration/level", 3, None, f"{D_LIGHT}/configuration/level", F_DESIRED),
    (M, f"{D_LIGHT}/status/y", 3, None, f"{D_LIGHT}/status/y", F_CLOSED_DESIRED),
    (P, f"{D_LIGHT}/configuration/level", 3, None, f"{D_LIGHT}/configuration/level", F_DESIRED),
]  # fmt: skip


@pytest.mark.parametrize(("action", "path", "value", "before", "detail", "switch"), REFUSED)
def test_what_does_not_fit_is_refused_and_one_switch_allows_it(
    action: Action,
    path: str,
    value: Json,
    before: dict[str, Any] | None,
    detail: str | None,
    switch: tuple[str, ...],
) -> None:
    refused = change(action, path, value, before=before)
    assert refused is not None
    assert (refused.status, refused.code) == (400, "wot:payload.validation.error")
    assert refused.description
    details = refused.details.get("validationDetails")
    if detail is None:
        assert details is None
    else:
        assert isinstance(details, dict)
        assert all(isinstance(text, str) for texts in details.values() for text in texts)
        assert detail in details
    assert change(action, path, value, before=before, rules=switched_off(*switch)) is None


ALLOWED: list[tuple[Action, str, Json]] = [
    (M, "", good_thing()),
    (M, "", without("attributes")),
    (P, "", good_thing()),
    (M, "/attributes", {"serial": "B-2", "color": {"r": 0, "g": 0}}),
    (M, "/attributes/room", "kitchen"),
    (M, "/attributes/color/r", 7),
    (M, "/attributes/color/note", "warm"),
    (D, "/attributes/room", None),
    (D, "/attributes/color/note", None),
    (M, "/definition", "org.acme:lamp:1.0.0"),
    (M, "/policyId", "org.acme:other"),
    (P, "/policyId", "org.acme:other"),
    (M, P_LIGHT, {"status": {"on": True}, "configuration": {"level": 1}}),
    (M, f"{P_LIGHT}/status", {"on": False}),
    (D, f"{P_LIGHT}/status/hours", None),
    (M, D_LIGHT, {}),
    (M, D_LIGHT, {"configuration": {"level": 0}}),
    (M, f"{D_LIGHT}/configuration", {}),
    (D, D_LIGHT, None),
    (D, f"{D_LIGHT}/configuration", None),
]


@pytest.mark.parametrize(("action", "path", "value"), ALLOWED)
def test_what_fits_is_allowed(action: Action, path: str, value: Json) -> None:
    assert change(action, path, value) is None


def test_a_part_of_a_property_is_judged_without_what_is_wrong_beside_it() -> None:
    before = having({"r": "red", "g": 1}, "attributes", "color")
    assert change(M, "/attributes/color/g", 2, before=before) is None
    assert change(M, "/attributes/color/g", "green", before=before) is not None
    assert change(M, "/attributes/color/g", 3, before=without("attributes", "color")) is None


def test_a_merge_is_judged_by_the_whole_thing() -> None:
    before = having(5, "attributes", "room")
    assert change(M, "/attributes/serial", "C-3", before=before) is None
    refused = change(P, "/attributes/serial", "C-3", before=before)
    assert refused is not None
    assert refused.details["validationDetails"] == {
        "/attributes/room": [': {type=the value is not of type "string"}']
    }


def test_all_faults_are_told_in_one_error() -> None:
    refused = change(M, "/attributes", {"room": 5, "extra": 1})
    assert refused is not None
    details = refused.details["validationDetails"]
    assert isinstance(details, dict)
    assert [*details] == [
        "/attributes/serial",
        "/attributes/color",
        "/attributes/extra",
        "/attributes/room",
    ]
    assert "missing" in str(refused.description)


def test_without_a_model_of_the_thing_features_are_judged_by_their_own() -> None:
    before = without("definition")
    assert change(M, "/attributes/anything", 1, before=before) is None
    assert change(M, "/features/other", {}, before=before) is None
    assert change(M, f"{P_LIGHT}/status/on", 1, before=before) is not None
    assert change(P, f"{P_LIGHT}/status/on", 1, before=before) is not None
    assert change(D, "/features/light", before=before) is None
    bad = put(before, ("features", "light", "properties", "status", "on"), 1)
    assert change(M, "", bad, before=before) is not None
    assert change(P, "/attributes/x", 1, before=bad) is None


def test_a_feature_without_definition_is_judged_by_the_submodel() -> None:
    before = without("features", "light", "definition")
    assert change(M, f"{P_LIGHT}/status/on", 1, before=before) is not None
    assert change(M, f"{P_LIGHT}/status/on", False, before=before) is None


def test_a_model_without_properties_asks_for_nothing() -> None:
    bare = "https://models.acme.org/bare.tm.jsonld"
    MODELS[bare] = ThingModel(url=bare, document={})
    before = {"policyId": "a:b", "definition": bare}
    try:
        assert change(M, "/attributes/x", 1, before=before) is None
        assert change(D, "/attributes", before={**before, "attributes": {}}) is None
        assert change(M, "/features/x", {}, before=before) is not None
    finally:
        del MODELS[bare]


def test_a_model_that_is_not_there_asks_for_nothing() -> None:
    before = {
        "definition": "https://models.acme.org/gone",
        "features": {"a": {"definition": ["http://x/y"]}},
    }
    assert change(M, "/attributes/x", 1, before=before) is None
    assert change(M, "/features/a/properties/x", 1, before=before) is None


def test_the_definitions_of_a_change_are_those_after_it_else_those_before() -> None:
    def seen(path: str, after: dict[str, Any]) -> tuple[str | None, str | None]:
        event = ThingEvent(
            thing_id="a:b",
            action=EventAction.MODIFIED,
            path=parse_pointer(path),
            revision=2,
            timestamp="t",
            after=a_thing(after),
            before=a_thing(good_thing()),
        )
        found = definitions_of_change(event)
        return found.thing, found.feature

    assert seen("/features/light/properties", good_thing()) == (LAMP, LIGHT)
    assert seen("/features", good_thing()) == (LAMP, None)
    assert seen("/definition", without("definition")) == (LAMP, None)
    assert seen("/definition", having("http://new", "definition")) == ("http://new", None)


# --- switches ----------------------------------------------------------------------------------


def test_switches_read_both_forms_of_names() -> None:
    both = checked_switches(
        {
            "logWarningInsteadOfFailingApiCalls": True,
            "thing": {"enforce": {"enforce-thing-description-modification": False}},
            "feature": {"forbid": {"nonModeledFeatures": False, "non-modeled-properties": False}},
        }
    )
    assert both == {
        "log-warning-instead-of-failing-api-calls": True,
        "thing": {"enforce": {"thing-description-modification": False}},
        "feature": {"forbid": {"non-modeled-features": False, "non-modeled-properties": False}},
    }
    rules = with_switches(DEFAULT_RULES, both)
    assert rules.log_warning_instead_of_failing_api_calls
    assert not rules.thing.enforce.thing_description_modification
    assert rules.thing.enforce.attributes
    assert not rules.feature.forbid.non_modeled_properties


@pytest.mark.parametrize(
    "value",
    [
        5,
        {"enabled": "yes"},
        {"thing": True},
        {"thing": {"enforce": {"atributes": True}}},
        {"thing": {"allow": {}}},
        {"feature": {"forbid": {"non-modeled-attributes": True}}},
    ],
)
def test_bad_switches_are_refused_by_name(value: Json) -> None:
    with pytest.raises(GatewayError) as refused:
        checked_switches(value)
    assert refused.value.code == "wot.validation.config:invalid"


def _paths_of(tree: Any, at: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    if isinstance(tree, bool):
        return [at] if len(at) == 3 else []
    return [path for name, below in tree.items() for path in _paths_of(below, (*at, name))]


_switch_paths = _paths_of(as_json(DEFAULT_RULES))
_switches = st.dictionaries(st.sampled_from(_switch_paths), st.booleans())


@settings(deadline=None)
@given(_switches, _switches)
def test_later_switches_win_and_others_stay(
    first: dict[tuple[str, ...], bool], then: dict[tuple[str, ...], bool]
) -> None:
    def tree(switches: dict[tuple[str, ...], bool]) -> dict[str, Any]:
        made: dict[str, Any] = {}
        for path, value in switches.items():
            made = put(made, path, value)
        return made

    rules = with_switches(DEFAULT_RULES, merged_switches(tree(first), tree(then)))
    assert rules == with_switches(with_switches(DEFAULT_RULES, tree(first)), tree(then))
    for path in _switch_paths:
        expected = {**first, **then}.get(path, True)
        assert get(as_json(rules), path) is expected


def test_there_is_a_test_for_each_switch_of_changes() -> None:
    tested = {row[-1] for row in REFUSED}
    of_messages = {path for path in _switch_paths if "messages" in path[2]}
    assert tested == set(_switch_paths) - of_messages


# --- all together ------------------------------------------------------------------------------


_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=100, deadline=None)
@given(
    st.dictionaries(st.sampled_from(["serial", "room", "color", "x"]), _json, max_size=4),
    st.sampled_from([M, P]),
)
def test_put_and_merge_of_all_attributes_agree(attributes: dict[str, Any], action: Action) -> None:
    whole = change(action, "/attributes", attributes)
    each_fits = all(
        change(M, f"/attributes/{name}", value) is None for name, value in attributes.items()
    )
    complete = {"serial", "color"} <= attributes.keys()
    assert (whole is None) is (each_fits and complete)


def test_nothing_is_missing_from_a_good_thing() -> None:
    assert get(good_thing(), ("attributes", "serial")) is not MISSING
