"""The patch that gives a thing another model."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import GatewayError
from gateway.model.json import Json
from gateway.twin.documents import MISSING, get, same
from gateway.twin.merge import merged
from gateway.twin.wot.migration import migration_patch, read_migration

URL = "https://models.acme.org/lamp-2.0.0.tm.jsonld"
LIGHT = "https://models.acme.org/light-2.0.0.tm.jsonld"
SKELETON: dict[str, Any] = {
    "attributes": {"maker": "ACME", "counters": {"hours": 0, "starts": 0}},
    "features": {
        "light": {"definition": [LIGHT], "properties": {"on": False, "settings": {"hue": 40}}},
        "fan": {"definition": [LIGHT], "properties": {"on": False}},
    },
}
PRESENT: dict[str, Any] = {
    "policyId": "a:b",
    "definition": "https://models.acme.org/lamp-1.0.0.tm.jsonld",
    "attributes": {"maker": "Other", "counters": {"hours": 7}, "old": 1},
    "features": {"light": {"definition": ["x:y:1"], "properties": {"on": True}}},
}


def patch(
    body: dict[str, Any],
    present: dict[str, Any] | None = None,
    true: tuple[str, ...] = (),
    values: dict[str, Json] | None = None,
) -> dict[str, Any]:
    known = values or {}
    migration = read_migration("a:b", {"thingDefinitionUrl": URL, **body})
    return migration_patch(
        migration,
        PRESENT if present is None else present,
        SKELETON,
        lambda condition: condition in true,
        lambda text: known[text],
    )


def test_without_defaults_only_definitions_are_new() -> None:
    assert patch({}) == {
        "definition": URL,
        "features": {"light": {"definition": [LIGHT]}, "fan": {"definition": [LIGHT]}},
    }


def test_defaults_fill_in_what_is_not_there() -> None:
    assert patch({"initializeMissingPropertiesFromDefaults": True}) == {
        "definition": URL,
        "attributes": {"counters": {"starts": 0}},
        "features": {
            "light": {"definition": [LIGHT], "properties": {"settings": {"hue": 40}}},
            "fan": {"definition": [LIGHT], "properties": {"on": False}},
        },
    }


def test_the_payload_wins_and_its_nulls_stay() -> None:
    payload = {
        "attributes": {"old": None, "counters": {"starts": 3}},
        "features": {"light": {"properties": {"settings": {"hue": 1}}}, "fan": None},
    }
    found = patch({"migrationPayload": payload, "initializeMissingPropertiesFromDefaults": True})
    assert found["attributes"] == {"counters": {"starts": 3}, "old": None}
    assert found["features"]["fan"] is None
    assert found["features"]["light"]["properties"] == {"settings": {"hue": 1}}
    after = merged(PRESENT, found)
    assert get(after, ("attributes",)) == {"maker": "Other", "counters": {"hours": 7, "starts": 3}}  # type: ignore[arg-type]
    assert get(after, ("features", "fan")) is MISSING  # type: ignore[arg-type]


def test_parts_whose_condition_does_not_hold_are_left_out() -> None:
    payload = {
        "attributes": {"a": 1, "b": {"c": 2}},
        "features": {"light": {"properties": {"on": False}}},
    }
    conditions = {
        "thing:/attributes/a": "yes",
        "thing:/attributes/b/c": "no",
        "thing:/attributes/absent": "never asked",
        "/features/light": "no",
    }
    found = patch({"migrationPayload": payload, "patchConditions": conditions}, true=("yes",))
    assert found["attributes"] == {"a": 1}
    assert "properties" not in found["features"]["light"]


def test_a_condition_of_a_part_that_another_dropped_is_no_error() -> None:
    payload = {"attributes": {"b": {"c": 2}}}
    conditions = {"thing:/attributes/b": "no", "thing:/attributes/b/c": "no"}
    assert "attributes" not in patch({"migrationPayload": payload, "patchConditions": conditions})


def test_nulls_of_the_payload_outlive_conditions() -> None:
    body = {
        "migrationPayload": {"attributes": {"old": None, "a": 1}},
        "patchConditions": {"thing:/attributes/a": "no"},
    }
    assert patch(body)["attributes"] == {"old": None}


def test_only_texts_with_placeholders_of_the_thing_are_filled() -> None:
    payload = {
        "attributes": {
            "a": "{{ thing-json:attributes/x }}",
            "b": ["${thing-json:attributes/y}", "{{ other }}", "plain"],
        }
    }
    values: dict[str, Json] = {
        "{{ thing-json:attributes/x }}": 5,
        "${thing-json:attributes/y}": {"z": 1},
    }
    found = patch({"migrationPayload": payload}, values=values)
    assert found["attributes"] == {"a": 5, "b": [{"z": 1}, "{{ other }}", "plain"]}


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ([], "json.invalid"),
        ({}, "json.field.missing"),
        ({"thingDefinitionUrl": None}, "json.field.missing"),
        ({"thingDefinitionUrl": 5}, "json.invalid"),
        ({"thingDefinitionUrl": "no good"}, "things:definition.identifier.invalid"),
        ({"thingDefinitionUrl": "a:b:1"}, "wot:skeleton.generation.failed"),
        ({"thingDefinitionUrl": URL, "thingId": "a:c"}, "things:id.notsettable"),
        ({"thingDefinitionUrl": URL, "migrationPayload": []}, "json.invalid"),
        ({"thingDefinitionUrl": URL, "migrationPayload": {"policyId": "a:c"}}, "json.invalid"),
        ({"thingDefinitionUrl": URL, "migrationPayload": {"attributes": 5}}, "json.invalid"),
        ({"thingDefinitionUrl": URL, "patchConditions": []}, "json.invalid"),
        ({"thingDefinitionUrl": URL, "patchConditions": {"thing:/a": 5}}, "json.invalid"),
        ({"thingDefinitionUrl": URL, "patchConditions": {"policy:/a": "x"}}, "json.invalid"),
        (
            {"thingDefinitionUrl": URL, "patchConditions": {f"/a{n}": "x" for n in range(101)}},
            "json.invalid",
        ),
        (
            {"thingDefinitionUrl": URL, "initializeMissingPropertiesFromDefaults": "yes"},
            "json.invalid",
        ),
    ],
)
def test_bad_bodies_are_refused(body: Json, code: str) -> None:
    with pytest.raises(GatewayError) as refused:
        read_migration("a:b", body)
    assert (refused.value.status, refused.value.code) == (400, code)


_names = st.sampled_from(["a", "b", "c"])
_values = st.recursive(
    st.integers(0, 3), lambda inner: st.dictionaries(_names, inner, max_size=3), max_leaves=8
)
_members = st.dictionaries(_names, _values, max_size=3)


@settings(deadline=None)
@given(_members, _members, _members)
def test_what_was_there_stays_and_what_is_missing_comes_from_the_model(
    present: dict[str, Any], modelled: dict[str, Any], given_: dict[str, Any]
) -> None:
    migration = read_migration(
        "a:b",
        {
            "thingDefinitionUrl": URL,
            "migrationPayload": {"attributes": given_},
            "initializeMissingPropertiesFromDefaults": True,
        },
    )
    document: dict[str, Any] = {"policyId": "a:b", "attributes": present}
    found = migration_patch(
        migration, document, {"attributes": modelled}, lambda _: True, lambda text: text
    )
    after = merged(document, found)
    expected = merged(merged(modelled, present) or {}, given_)
    assert isinstance(after, dict)
    assert after["definition"] == URL
    assert same(_bare(after["attributes"]), _bare(expected))  # type: ignore[arg-type]


def _bare(value: Json) -> Json:
    """Without empty objects: a skeleton does not bring them."""
    if not isinstance(value, dict):
        return value
    kept = {key: _bare(below) for key, below in value.items()}
    return {key: below for key, below in kept.items() if below != {}}
