"""Resolving Thing Models, and the skeletons made of them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import GatewayError
from gateway.model.json import JsonObject
from gateway.twin.wot.documents import read_document
from gateway.twin.wot.model import Submodel, ThingModel, url_of
from gateway.twin.wot.resolving import MAX_DOCUMENTS, NeedsDocuments, resolve
from gateway.twin.wot.skeleton import (
    feature_skeleton,
    initial_value,
    thing_skeleton,
    with_feature_skeleton,
    with_thing_skeleton,
)
from tests.wot_samples import (
    BREWER,
    CONTEXT,
    DEVICE,
    DOCUMENTS,
    LAMP,
    MACHINE,
    SHARED,
    SWITCH,
    machine_skeleton,
)

BASE = "https://models.acme.org"


def documents(more: dict[str, Any] | None = None) -> dict[str, JsonObject]:
    return {
        BASE + path: read_document(BASE + path, document)
        for path, document in {**DOCUMENTS, **(more or {})}.items()
    }


def model(path: str, more: dict[str, Any] | None = None) -> ThingModel:
    return resolve(BASE + path, documents(more))


class Everything:
    """All sample models."""

    def get(self, url: str) -> ThingModel | None:
        return resolve(url, documents())


def refused(path: str, more: dict[str, Any]) -> GatewayError:
    with pytest.raises(GatewayError) as caught:
        model(path, more)
    return caught.value


# --- extending ---------------------------------------------------------------------------------


def test_a_model_has_what_it_extends_with_its_own_words_winning() -> None:
    lamp = model(LAMP)
    assert lamp.document["title"] == "Dimmable lamp"
    assert [*lamp.properties] == ["on", "level"]
    assert [*lamp.actions] == ["toggle"]
    assert [*lamp.events] == ["toggled"]
    assert lamp.extends == (BASE + SWITCH,)


def test_the_chain_of_what_is_extended_is_named_nearest_first() -> None:
    more = {"/spot": {"links": [{"rel": "tm:extends", "href": BASE + LAMP}]}}
    assert model("/spot", more).extends == (BASE + LAMP, BASE + SWITCH)


def test_optional_names_of_both_models_count() -> None:
    machine = model(MACHINE)
    assert machine.optional == {"/properties/nickname", "/properties/note", "/events/grumble"}
    assert machine.is_optional("properties", "note")
    assert not machine.is_optional("properties", "cups")


def test_null_takes_away_what_lies_beneath() -> None:
    more = {
        "/x": {
            "links": [{"rel": "tm:extends", "href": BASE + SWITCH}],
            "properties": {"on": {"title": None, "enum": [True]}},
        }
    }
    assert model("/x", more).properties["on"] == {"type": "boolean", "enum": [True]}


def test_contexts_of_both_are_joined_so_that_categories_stay_known() -> None:
    more = {
        "/x": {
            "@context": [CONTEXT[0], {"om2": "http://om"}],
            "links": [{"rel": "tm:extends", "href": BASE + MACHINE}],
        }
    }
    found = model("/x", more)
    assert found.document["@context"] == [CONTEXT[0], {"om2": "http://om", **CONTEXT[1]}]  # type: ignore[dict-item]
    assert found.categories == {"cups": "counters"}


def test_submodels_are_inherited_and_one_of_the_same_name_replaces_them() -> None:
    own = {"rel": "tm:submodel", "href": BASE + SWITCH, "instanceName": "brewer"}
    more = {"/x": {"links": [{"rel": "tm:extends", "href": BASE + MACHINE}, own]}}
    assert model("/x", more).submodels == (
        Submodel("front lamp", BASE + LAMP),
        Submodel("brewer", BASE + SWITCH),
    )


def test_a_model_that_extends_itself_is_refused() -> None:
    more = {
        "/a": {"links": [{"rel": "tm:extends", "href": "/b"}]},
        "/b": {"links": [{"rel": "tm:extends", "href": "/a"}]},
    }
    error = refused("/a", more)
    assert (error.status, error.code) == (400, "wot:tm.invalid")
    assert "extends itself" in error.message


def test_a_tower_of_models_is_refused() -> None:
    tower = {f"/{n}": {"links": [{"rel": "tm:extends", "href": f"/{n + 1}"}]} for n in range(30)}
    assert "levels" in refused("/0", tower).message


def test_a_model_of_very_many_documents_is_refused() -> None:
    names = [f"/p{n}" for n in range(MAX_DOCUMENTS + 1)]
    more: dict[str, Any] = {name: {"title": "x"} for name in names}
    more["/x"] = {"links": [{"rel": "tm:extends", "href": name} for name in names]}
    assert "documents" in refused("/x", more).message


def test_diamonds_that_would_be_walked_forever_cost_one_walk_each() -> None:
    more: dict[str, Any] = {
        f"/d{n}": {"links": [{"rel": "tm:extends", "href": f"/d{n + 1}"}] * 100} for n in range(9)
    }
    more["/d9"] = {"title": "bottom", "links": []}
    assert model("/d0", more).document["title"] == "bottom"


def test_what_is_missing_is_asked_for_level_by_level() -> None:
    known: dict[str, JsonObject] = {}
    asked = []
    while True:
        try:
            resolve(BASE + MACHINE, known)
            break
        except NeedsDocuments as needs:
            asked.append(needs.urls)
            known.update({url: documents()[url] for url in needs.urls})
    assert asked == [{BASE + MACHINE}, {BASE + DEVICE}]


# --- referring ---------------------------------------------------------------------------------


def test_a_ref_brings_what_it_names_with_the_members_beside_it_on_top() -> None:
    assert model(BREWER).properties["temperature"] == {
        "type": "number",
        "readOnly": True,
        "unit": "Cel",
        "minimum": 5,
        "maximum": 99,
        "ditto:category": "status",
    }


def test_refs_ask_for_their_documents() -> None:
    with pytest.raises(NeedsDocuments) as caught:
        resolve(BASE + BREWER, {BASE + BREWER: documents()[BASE + BREWER]})
    assert caught.value.urls == {BASE + SHARED}


@pytest.mark.parametrize(
    "ref", [f"{BASE}{SHARED}#/properties/nothing", f"{BASE}{SHARED}#/title/x", f"{BASE}{SHARED}"]
)
def test_a_ref_to_no_object_is_refused(ref: str) -> None:
    error = refused("/x", {"/x": {"properties": {"a": {"tm:ref": ref}}}})
    assert (error.status, error.code) == (400, "wot:tm.ref.invalid")


def test_refs_in_a_circle_are_refused() -> None:
    more = {"/x": {"properties": {"a": {"tm:ref": "#/properties/a"}}}}
    assert refused("/x", more).code == "wot:tm.invalid"


def test_refs_that_grow_without_bound_are_refused() -> None:
    doubling: dict[str, Any] = {
        f"p{n}": {"properties": {k: {"tm:ref": f"#/properties/p{n + 1}"} for k in "abcdefghij"}}
        for n in range(9)
    }
    doubling["p9"] = {"type": "string"}
    assert "values" in refused("/x", {"/x": {"properties": doubling}}).message


# --- form --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "document",
    [
        [],
        "text",
        {"properties": []},
        {"properties": {"a": 1}},
        {"actions": {"a": None}},
        {"tm:optional": [1]},
        {"links": {}},
        {"links": ["x"]},
        {"links": [{"rel": "tm:extends"}]},
        {"links": [{"rel": "tm:extends", "href": "ftp://acme.org/x"}]},
        {"links": [{"rel": "tm:extends", "href": "http://[::1"}]},
        {"links": [{"rel": "tm:submodel", "href": "/x"}]},
        {"links": [{"rel": "tm:submodel", "href": "/x", "instanceName": "a/b"}]},
        {"links": [{"rel": "tm:submodel", "href": "/x", "instanceName": "a"}] * 2},
    ],
)
def test_a_document_that_is_no_model_is_refused(document: Any) -> None:
    assert refused("/x", {"/x": document}).code == "wot:tm.invalid"


def test_a_document_that_nests_very_deep_is_refused() -> None:
    deep: Any = {}
    for _ in range(100):
        deep = {"a": deep}
    assert "nests" in refused("/x", {"/x": deep}).message


def test_only_http_urls_are_definitions_that_name_models() -> None:
    assert url_of("https://a/b") == "https://a/b"
    assert url_of(["http://a/b", "x:y:z"]) == "http://a/b"
    assert url_of(["x:y:z", "http://a/b"]) is None
    assert url_of("x:y:z") is url_of(None) is url_of([]) is None


# --- skeletons ---------------------------------------------------------------------------------


def test_a_new_thing_holds_what_its_model_says() -> None:
    made = thing_skeleton(model(MACHINE), Everything())
    assert made == machine_skeleton(BASE)
    assert [*made["attributes"]] == ["manufacturer", "serial", "counters", "pressure"]  # type: ignore[misc]


def test_optional_properties_are_filled_in_where_the_settings_say_so() -> None:
    made = thing_skeleton(model(MACHINE), Everything(), optional=True)
    assert made["attributes"] == {
        **machine_skeleton(BASE)["attributes"],
        "nickname": "",
        "note": "",
    }


def test_what_the_request_gives_wins_over_the_skeleton() -> None:
    given: JsonObject = {
        "attributes": {"manufacturer": None, "counters": {"cups": 7}, "own": [1]},
        "features": {"brewer": {"properties": {"status": {"temperature": 90}}}, "extra": {}},
        "definition": None,
    }
    made: Any = with_thing_skeleton(given, machine_skeleton(BASE))
    assert made["attributes"] == {
        "manufacturer": None,
        "serial": "S-{{SERIES}}",
        "counters": {"cups": 7},
        "pressure": 9.5,
        "own": [1],
    }
    assert made["features"]["brewer"]["properties"]["status"] == {"temperature": 90}
    assert made["features"]["brewer"]["definition"] == [BASE + BREWER]
    assert made["features"]["extra"] == {}
    assert "definition" not in made


def test_a_new_feature_names_its_model_what_that_extends_and_what_was_asked() -> None:
    given: JsonObject = {"definition": [BASE + LAMP, "acme:spot:1"], "properties": {"on": True}}
    made = with_feature_skeleton(given, feature_skeleton(model(LAMP)))
    assert made == {
        "definition": [BASE + LAMP, BASE + SWITCH, "acme:spot:1"],
        "properties": {"on": True, "level": 0.0},
    }


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"const": 3, "default": 4, "type": "integer"}, 3),
        ({"default": None, "type": "string"}, None),
        ({"type": "boolean"}, False),
        ({"type": "integer"}, 0),
        ({"type": "integer", "minimum": 4}, 4),
        ({"type": "integer", "exclusiveMinimum": 4}, 5),
        ({"type": "integer", "maximum": -2}, -2),
        ({"type": "integer", "exclusiveMaximum": 0}, -1),
        ({"type": "number", "minimum": 0.5}, 0.5),
        ({"type": "number", "minimum": True}, 0.0),
        ({"type": "string"}, ""),
        ({"type": "null"}, None),
        ({"type": "object"}, {}),
        ({"type": "object", "required": ["a"], "properties": {"a": {}, "b": {}}}, {"a": None}),
        ({"type": "array"}, []),
        ({"type": "array", "items": {"type": "string"}}, [""]),
        ({"type": "array", "items": {"type": "string"}, "minItems": 0}, []),
        ({"type": "array", "items": {"type": "object"}, "minItems": 2}, [{}, {}]),
        ({"type": "array", "items": {"type": "object"}, "minItems": 1e9}, []),
    ],
)
def test_a_property_begins_with_its_constant_its_default_or_nothing(
    schema: dict[str, Any], value: Any
) -> None:
    found = initial_value(schema)
    assert found == value
    assert type(found) is type(value)


@given(
    low=st.integers(-100, 100), span=st.integers(0, 50), kind=st.sampled_from(["integer", "number"])
)
def test_a_first_value_lies_within_its_bounds(low: int, span: int, kind: str) -> None:
    value = initial_value({"type": kind, "minimum": low, "maximum": low + span})
    assert isinstance(value, (int, float))
    assert low <= value <= low + span
