"""Documents, field selectors, merge patches, JSON patches."""

from __future__ import annotations

from typing import Any

import jsonpatch
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import BadRequest, GatewayError
from gateway.model.json import Json, JsonObject, parse_pointer
from gateway.twin import merge, patch
from gateway.twin.documents import MAX_DEPTH, MISSING, check_value, get, put, remove, same, stable
from gateway.twin.fields import THING_ROOTS, FieldSelector

KEYS = st.text("ab~ *.-é€", min_size=1, max_size=3).filter(lambda key: "/" not in key)
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-5, 5), st.floats(-2, 2), st.text("xy", max_size=2)
)
VALUES = st.recursive(
    SCALARS,
    lambda below: st.one_of(st.lists(below, max_size=3), st.dictionaries(KEYS, below, max_size=3)),
    max_leaves=12,
)
OBJECTS = st.dictionaries(KEYS, VALUES, max_size=4)
PATHS = st.lists(KEYS.filter(lambda key: key != "-"), min_size=1, max_size=4).map(tuple)


# --- documents ---------------------------------------------------------------------------------


@given(OBJECTS, PATHS, VALUES)
def test_what_was_put_is_there_and_the_old_document_is_as_it_was(
    document: JsonObject, path: tuple[str, ...], value: Json
) -> None:
    before = stable(document)
    after = put(document, path, value)
    found = get(after, path)
    assert found is not MISSING
    assert same(found, value)
    assert stable(document) == before
    for key, below in document.items():
        if key != path[0]:
            assert after[key] is below


@given(OBJECTS, PATHS)
def test_what_was_removed_is_gone_and_removing_nothing_copies_nothing(
    document: JsonObject, path: tuple[str, ...]
) -> None:
    before = stable(document)
    after = remove(document, path)
    assert get(after, path) is MISSING
    assert (after is document) == (get(document, path) is MISSING)
    assert stable(document) == before


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (1, 1.0, False),
        (1, True, False),
        (0, False, False),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, True),
        ([1, 2], [2, 1], False),
        ({"a": [1, {"b": None}]}, {"a": [1, {"b": None}]}, True),
        ({"a": None}, {}, False),
        ("1", 1, False),
    ],
)
def test_equality_is_that_of_json(one: Json, other: Json, expected: bool) -> None:
    assert same(one, other) is expected
    assert same(other, one) is expected


@pytest.mark.parametrize("key", ["", "a/b", "a\x00", "tab\t", "\x7f"])
def test_keys_that_ditto_does_not_allow_are_refused(key: str) -> None:
    with pytest.raises(BadRequest) as caught:
        check_value({"fine": [{key: 1}]})
    assert caught.value.code == "json.key.invalid"


def test_values_nested_too_deep_are_refused() -> None:
    value: Json = 1
    for _ in range(MAX_DEPTH):
        value = [value]
    check_value(value)
    with pytest.raises(BadRequest) as caught:
        check_value({"a": value})
    assert caught.value.code == "json.invalid"


# --- field selectors ---------------------------------------------------------------------------

THING: JsonObject = {
    "thingId": "a:b",
    "attributes": {"model": "x", "location": {"lat": 1, "lon": 2}},
    "features": {
        "m": {"properties": {"rpm": 1, "on": True}},
        "n": {"properties": {"rpm": 2}, "definition": ["a:b:c"]},
    },
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("thingId", {"thingId": "a:b"}),
        ("/thingId,none", {"thingId": "a:b"}),
        (
            "attributes(model,location/lat)",
            {"attributes": {"model": "x", "location": {"lat": 1}}},
        ),
        (
            "features/*/properties/rpm",
            {"features": {"m": {"properties": {"rpm": 1}}, "n": {"properties": {"rpm": 2}}}},
        ),
        (
            "features(m/properties(on),*/definition)",
            {"features": {"m": {"properties": {"on": True}}, "n": {"definition": ["a:b:c"]}}},
        ),
        ("attributes,attributes/model", {"attributes": THING["attributes"]}),
        ("attributes/model,attributes", {"attributes": THING["attributes"]}),
        ("attributes/none", {}),
    ],
)
def test_a_selector_takes_what_it_names(text: str, expected: JsonObject) -> None:
    assert FieldSelector.parse(text).select(THING) == expected


@pytest.mark.parametrize("text", ["", " ", "a(", "a)", "a(b", "a,,b", "a()", "/", "a(b))", "a//b"])
def test_a_selector_with_bad_form_is_refused(text: str) -> None:
    with pytest.raises(BadRequest):
        FieldSelector.parse(text)


def test_streams_select_known_roots_only() -> None:
    FieldSelector.parse("attributes/a,_revision").require_roots(THING_ROOTS)
    with pytest.raises(BadRequest) as caught:
        FieldSelector.parse("attributes/a,color").require_roots(THING_ROOTS)
    assert caught.value.code == "things:field.selection.invalid"


# --- merge patches -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "wanted", "expected"),
    [
        # RFC 7396, appendix A
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        (["a", "b"], ["c", "d"], ["c", "d"]),
        ({"a": "b"}, ["c"], ["c"]),
        ({"a": "foo"}, "bar", "bar"),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
        # Ditto: keys that are regular expressions
        ({"t1": 1, "t22": 2, "x": 3}, {"{{ ~t[0-9]+~ }}": None}, {"x": 3}),
        ({"t1": 1, "x": 3}, {"{{ ~.*~ }}": None, "y": 4}, {"y": 4}),
        ({"t1": 1}, {"{{ ~t~ }}": None}, {"t1": 1}),
        ({"a": {"t1": 1}}, {"a": {"{{~t1~}}": None}}, {"a": {}}),
    ],
)
def test_a_merge_gives_what_the_standard_says(target: Json, wanted: Json, expected: Json) -> None:
    found = merge.merged(target, wanted)
    assert found is not MISSING
    assert same(found, expected)


@pytest.mark.parametrize(
    "key", ["{{ ~(a+)+~ }}", "{{ ~a*b*c*d~ }}", r"{{ ~(a)\1~ }}", "{{ ~(?=a)b~ }}", "{{ ~[~ }}"]
)
def test_expensive_or_broken_regular_expressions_are_refused(key: str) -> None:
    with pytest.raises(BadRequest) as caught:
        merge.check_patch({key: None})
    assert caught.value.code == "things:merge.invalid"


def test_a_regular_expression_takes_null_only() -> None:
    with pytest.raises(BadRequest):
        merge.check_patch({"{{ ~a~ }}": 1})


def without_nulls(value: Json) -> Json:
    if isinstance(value, dict):
        return {key: without_nulls(below) for key, below in value.items() if below is not None}
    return value


@given(OBJECTS, OBJECTS)
def test_the_merge_patch_between_two_documents_leads_from_one_to_the_other(
    before: JsonObject, after: JsonObject
) -> None:
    wanted = without_nulls(after)
    start = without_nulls(before)
    found = merge.difference(start, wanted)
    if found is MISSING:
        assert same(start, wanted)
        return
    again = merge.merged(start, found)
    assert again is not MISSING
    assert same(again, wanted)


@given(OBJECTS, OBJECTS)
def test_a_minimized_patch_has_the_same_effect(before: JsonObject, wanted: JsonObject) -> None:
    whole = merge.merged(before, wanted)
    smaller = merge.minimized(wanted, before)
    again = before if smaller is MISSING else merge.merged(before, smaller)
    assert whole is not MISSING
    assert again is not MISSING
    assert same(again, whole)


def test_parts_of_a_patch_under_a_false_condition_are_dropped() -> None:
    wanted: Json = {"features": {"a": {"properties": {"x": 1, "y": 2}}}, "attributes": {"z": 3}}
    conditions = {
        parse_pointer("features/a/properties/x"): "no",
        parse_pointer("attributes"): "yes",
    }
    found = merge.filtered(wanted, (), conditions, lambda text: text == "yes")
    assert found == {"features": {"a": {"properties": {"y": 2}}}, "attributes": {"z": 3}}
    at = ("features", "a")
    part = merge.filtered({"properties": {"x": 1}}, at, conditions, lambda text: text == "yes")
    assert part == {"properties": {}}
    assert (
        merge.filtered({"w": 1}, ("attributes", "q"), {("attributes",): "no"}, lambda _: False)
        == {}
    )


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({"a": {"b": 1, "c": {}}, "d": None}, {("x", "a", "b"), ("x", "a", "c"), ("x", "d")}),
        (5, {("x",)}),
        ({}, {("x",)}),
        ({"a": {"{{ ~b.*~ }}": None}}, {("x", "a")}),
    ],
)
def test_a_patch_names_the_leaves_it_writes(wanted: Json, expected: set[Any]) -> None:
    assert set(merge.leaves(wanted, ("x",))) == expected


# --- JSON patches ------------------------------------------------------------------------------


# The library cannot replace a member that is called "-": it takes it for the end of an array.
SAYABLE = st.dictionaries(
    KEYS.filter(lambda key: key != "-"), st.one_of(SCALARS, st.lists(SCALARS))
)
NESTED = st.dictionaries(KEYS.filter(lambda key: key != "-"), st.one_of(SCALARS, SAYABLE))


def library(document: Json, operations: list[Json]) -> Json:
    """The oracle."""
    found: Json = jsonpatch.apply_patch(document, operations)  # type: ignore[arg-type]
    return found


@given(NESTED, NESTED)
def test_the_library_agrees_with_the_difference_of_two_documents(
    before: JsonObject, after: JsonObject
) -> None:
    operations = patch.difference(before, after)
    assert same(library(before, patch.as_json(operations)), after)
    assert bool(operations) != same(before, after)


@given(NESTED, PATHS, VALUES)
def test_the_library_agrees_with_the_patch_of_one_written_path(
    before: JsonObject, path: tuple[str, ...], value: Json
) -> None:
    operations = patch.written(path, before, value)
    assert same(library(before, patch.as_json(operations)), put(before, path, value))


@given(NESTED, PATHS)
def test_the_library_agrees_with_the_patch_of_one_removed_path(
    before: JsonObject, path: tuple[str, ...]
) -> None:
    operations = patch.written(path, before, MISSING)
    assert same(library(before, patch.as_json(operations)), remove(before, path))


@given(OBJECTS, PATHS, VALUES)
def test_the_walk_stops_where_documents_share_their_parts(
    before: JsonObject, path: tuple[str, ...], value: Json
) -> None:
    after = put(before, path, value)
    touched = {operation.path[: len(path)] for operation in patch.difference(before, after)}
    assert all(path[: len(found)] == found for found in touched)


def checked_and_applied(document: Json, operations: Json) -> Json:
    patch.paths_of(operations)
    assert isinstance(operations, list)
    return patch.apply(document, operations)


@pytest.mark.parametrize(
    ("operations", "status", "text"),
    [
        ("no array", 400, "array"),
        ([{"op": "paint"}], 400, "operation 0"),
        ([{"op": "add", "path": "/a"}], 400, "operation 0 has no 'value'"),
        ([{"op": "remove", "path": "a"}], 400, "pointer"),
        ([{"op": "move", "path": "/a"}], 400, "'from'"),
        ([{"op": "remove", "path": "/none"}], 400, "none"),
        ([{"op": "test", "path": "/a", "value": 2}], 412, "test"),
        ([{"op": "add", "path": "/a/b/c", "value": 1}], 400, ""),
        ([{"op": "add", "path": "/l/9", "value": 1}], 400, ""),
        ([{"op": "remove", "path": "/l/0"}] * 1_001, 400, "1000"),
        ([{"op": "add", "path": "/a", "value": {"x/y": 1}}], 400, "x/y"),
        ([{"op": "copy", "from": "/l", "path": f"/l/{n % 2}"} for n in range(64)], 413, "large"),
    ],
)
def test_bad_patches_are_refused_and_say_why(operations: Json, status: int, text: str) -> None:
    document: JsonObject = {"a": 1, "l": [1, 2]}
    with pytest.raises(GatewayError) as caught:
        checked_and_applied(document, operations)
    assert caught.value.status == status
    assert text in caught.value.message
    assert document == {"a": 1, "l": [1, 2]}


def test_a_patch_names_what_it_writes_and_what_it_reads() -> None:
    operations: list[Json] = [
        {"op": "test", "path": "/t", "value": 1},
        {"op": "copy", "from": "/c", "path": "/d"},
        {"op": "move", "from": "/m", "path": "/n"},
        {"op": "replace", "path": "/r", "value": 1},
    ]
    assert patch.paths_of(operations) == [("d",), ("n",), ("m",), ("r",)]
    assert patch.read_paths_of(operations) == [("t",), ("c",), ("m",)]
