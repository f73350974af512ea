"""Types as data: validation, pruning, defaults."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.errors import BadRequest
from gateway.model.json import Json, JsonObject
from gateway.wire.kube.schema import Catalogue, Schema, read_schema
from gateway.wire.kube.validate import defaulted, faults, pruned, taken, type_fault, without_empty


def schema_of(**properties: Any) -> Schema:
    return read_schema({"type": "object", "properties": properties})


def said(schema: Schema, value: Json) -> list[str]:
    return [cause.text for cause in faults(schema, value)]


TEXT: JsonObject = {"type": "string"}


@pytest.mark.parametrize(
    ("rule", "value", "expected"),
    [
        (
            {"type": "string"},
            7,
            'a: Invalid value: "integer": a in body must be of type string: "integer"',
        ),
        (
            {"type": "integer"},
            True,
            'a: Invalid value: "boolean": a in body must be of type integer: "boolean"',
        ),
        (
            {"type": "integer"},
            1.5,
            'a: Invalid value: "number": a in body must be of type integer: "number"',
        ),
        (
            {"type": "boolean"},
            "x",
            'a: Invalid value: "string": a in body must be of type boolean: "string"',
        ),
        (
            {"type": "object"},
            [],
            'a: Invalid value: "array": a in body must be of type object: "array"',
        ),
        (
            {"type": "string"},
            None,
            'a: Invalid value: "null": a in body must be of type string: "null"',
        ),
        (
            {"type": "string", "enum": ["x", "y"]},
            "z",
            'a: Unsupported value: "z": supported values: "x", "y"',
        ),
        (
            {"type": "string", "pattern": "^[a-z]+$"},
            "A",
            "a: Invalid value: \"A\": a in body should match '^[a-z]+$'",
        ),
        ({"type": "string", "maxLength": 2}, "abc", "a: Too long: may not be more than 2 bytes"),
        (
            {"type": "string", "minLength": 2},
            "a",
            'a: Invalid value: "a": a in body should be at least 2 chars long',
        ),
        (
            {"type": "integer", "minimum": 0},
            -1,
            "a: Invalid value: -1: a in body should be greater than or equal to 0",
        ),
        (
            {"type": "number", "maximum": 1, "exclusiveMaximum": True},
            1,
            "a: Invalid value: 1: a in body should be less than 1",
        ),
        (
            {"type": "integer", "multipleOf": 5},
            7,
            "a: Invalid value: 7: a in body should be a multiple of 5",
        ),
        (
            {"type": "array", "maxItems": 1, "items": TEXT},
            ["a", "b"],
            "a: Too many: 2: must have at most 1 item",
        ),
        (
            {"type": "array", "minItems": 1, "items": TEXT},
            [],
            "a: Invalid value: []: a in body should have at least 1 items",
        ),
        (
            {"type": "string", "format": "date-time"},
            "noon",
            'a: Invalid value: "noon": a in body must be of type',
        ),
        (
            {"type": "integer", "format": "int32"},
            2**31,
            "a: Invalid value: 2147483648: a in body must be of type int32",
        ),
    ],
)
def test_a_fault_is_said_as_the_api_server_says_it(
    rule: JsonObject, value: Json, expected: str
) -> None:
    found = said(schema_of(a=rule), {"a": value})
    assert len(found) == 1
    assert found[0].startswith(expected)


@pytest.mark.parametrize(
    ("rule", "value"),
    [
        ({"type": "integer"}, 3.0),
        ({"type": "number"}, 3),
        ({"type": "string", "nullable": True}, None),
        ({"x-kubernetes-int-or-string": True}, "50%"),
        ({"x-kubernetes-int-or-string": True}, 5),
        ({"x-kubernetes-preserve-unknown-fields": True}, [1, "a"]),
        ({"type": "string", "format": "date-time"}, "2026-11-22T20:05:00Z"),
        ({"type": "integer", "enum": [1]}, 1),
    ],
)
def test_what_is_allowed_passes(rule: JsonObject, value: Json) -> None:
    assert said(schema_of(a=rule), {"a": value}) == []


def test_true_is_not_one() -> None:
    assert said(schema_of(a={"enum": [1]}), {"a": True}) != []


def test_required_fields_are_named_with_their_path() -> None:
    schema = schema_of(
        a={
            "type": "array",
            "items": {"type": "object", "required": ["n"], "properties": {"n": TEXT}},
        }
    )
    assert said(schema, {"a": [{"n": "1"}, {}]}) == ["a[1].n: Required value"]


def test_keyed_lists_and_sets_have_no_doubles() -> None:
    keyed = schema_of(
        a={
            "type": "array",
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["n"],
            "items": {"type": "object", "properties": {"n": TEXT}},
        }
    )
    assert said(keyed, {"a": [{"n": "1"}, {"n": "1"}]}) == ['a[1]: Duplicate value: {"n":"1"}']
    members = schema_of(a={"type": "array", "x-kubernetes-list-type": "set", "items": TEXT})
    assert said(members, {"a": ["x", "x"]}) == ['a[1]: Duplicate value: "x"']


def test_a_value_must_fit_one_of_several_forms() -> None:
    schema = schema_of(
        a={"anyOf": [{"type": "integer"}, {"type": "string"}], "x-kubernetes-int-or-string": True}
    )
    assert said(schema, {"a": 1}) == []


def test_the_number_of_faults_is_bounded() -> None:
    schema = schema_of(a={"type": "array", "items": TEXT})
    assert len(said(schema, {"a": list(range(1_000))})) == 100


def test_unknown_fields_go_and_are_named() -> None:
    schema = schema_of(spec={"type": "object", "properties": {"a": TEXT, "free": {"type": "object",
        "x-kubernetes-preserve-unknown-fields": True}}}, list={"type": "array", "items": {"type": "object",
        "properties": {"n": TEXT}}})  # fmt: skip
    value: JsonObject = {
        "spec": {"a": "1", "zork": 2, "free": {"any": {"thing": 1}}},
        "list": [{"n": "1", "m": 2}],
        "other": 1,
    }
    kept, unknown = pruned(schema, value)
    assert kept == {"spec": {"a": "1", "free": {"any": {"thing": 1}}}, "list": [{"n": "1"}]}
    assert unknown == ["spec.zork", "list[0].m", "other"]
    assert "zork" in value["spec"]  # type: ignore[operator]  # the input stays as it was


def test_maps_keep_their_keys() -> None:
    schema = schema_of(labels={"type": "object", "additionalProperties": TEXT})
    assert pruned(schema, {"labels": {"x": "1"}}) == ({"labels": {"x": "1"}}, [])


def test_an_embedded_object_keeps_its_type_and_metadata() -> None:
    schema = schema_of(
        item={
            "type": "object",
            "x-kubernetes-embedded-resource": True,
            "properties": {"spec": TEXT},
        }
    )
    value: JsonObject = {
        "item": {"kind": "K", "apiVersion": "v", "metadata": {}, "spec": "s", "x": 1}
    }
    kept, unknown = pruned(schema, value)
    assert unknown == ["item.x"]
    assert kept == {"item": {"kind": "K", "apiVersion": "v", "metadata": {}, "spec": "s"}}


def test_defaults_fill_what_is_absent_or_null() -> None:
    schema = schema_of(
        a={"type": "string", "default": "x"},
        b={"type": "object", "default": {}, "properties": {"c": {"type": "integer", "default": 3}}},
        d={"type": "string", "nullable": True, "default": "y"},
    )
    assert defaulted(schema, {}) == {"a": "x", "b": {"c": 3}, "d": "y"}
    assert defaulted(schema, {"a": None, "d": None, "b": {"c": 4}}) == {
        "a": "x",
        "b": {"c": 4},
        "d": None,
    }


def test_a_default_is_never_shared() -> None:
    schema = schema_of(
        b={"type": "object", "default": {"n": []}, "x-kubernetes-preserve-unknown-fields": True}
    )
    first = defaulted(schema, {})
    assert isinstance(first, dict)
    first["b"]["n"].append(1)  # type: ignore[index,call-overload,union-attr]  # the shape is the default's
    assert defaulted(schema, {}) == {"b": {"n": []}}


def test_the_decoder_names_the_first_wrong_type() -> None:
    schema = schema_of(spec={"type": "object", "properties": {"on": {"type": "boolean"}}})
    assert type_fault(schema, {"spec": {"on": "yes"}}, "Node") == (
        "json: cannot unmarshal string into Go struct field Node.spec.on of type bool"
    )
    assert type_fault(schema, {"spec": {"on": None}}, "Node") is None
    when = schema_of(at={"type": "string", "format": "date-time"})
    assert "parsing time" in str(type_fault(when, {"at": "noon"}))


@pytest.mark.parametrize(
    ("bits", "value", "shown"),
    [
        ("int32", 2**31, "2147483648"),
        ("int32", -(2**31) - 1, "-2147483649"),
        ("int32", 1.5, "1.5"),
        ("int64", 2**63, "9223372036854775808"),
        ("int64", 1e300, "1e+300"),
    ],
)
def test_a_number_without_room_in_its_bits_is_refused(bits: str, value: Json, shown: str) -> None:
    schema = schema_of(n={"type": "integer", "format": bits})
    assert type_fault(schema, {"n": value}, "Job") == (
        f"json: cannot unmarshal number {shown} into Go struct field Job.n of type {bits}"
    )
    assert taken(schema, {"n": value}) is None


@pytest.mark.parametrize(("bits", "most"), [("int32", 2**31 - 1), ("int64", 2**63 - 1)])
def test_the_largest_and_the_least_number_are_taken(bits: str, most: int) -> None:
    schema = schema_of(n={"type": "integer", "format": bits})
    for value in (most, -most - 1):
        assert type_fault(schema, {"n": value}, "Job") is None
        assert taken(schema, {"n": value}) == {"n": value}


def test_nulls_of_known_fields_are_absent() -> None:
    schema = schema_of(
        a=TEXT, l={"type": "array", "items": {"type": "object", "properties": {"n": TEXT}}}
    )
    assert without_empty(schema, {"a": None, "l": [{"n": None}]}) == {"l": [{}]}


def test_a_catalogue_may_refer_to_itself() -> None:
    catalogue = Catalogue(
        {
            "Tree": {
                "type": "object",
                "properties": {"child": {"$ref": "Tree"}, "n": {"type": "integer"}},
            }
        }
    )
    tree = catalogue.get("Tree")
    assert type_fault(tree, {"child": {"child": {"n": "x"}}}) is not None
    assert tree.child("child") is tree


def test_a_reference_may_say_how_it_merges() -> None:
    catalogue = Catalogue(
        {
            "A": {"type": "object", "properties": {"n": TEXT}},
            "B": {
                "type": "object",
                "properties": {"a": {"$ref": "A", "x-kubernetes-patch-strategy": "retainKeys"}},
            },
        }
    )
    child = catalogue.get("B").child("a")
    assert child is not None
    assert child.patch_strategy == {"retainKeys"}
    assert child.child("n") is not None


def test_a_schema_that_cannot_be_read_is_refused() -> None:
    with pytest.raises(BadRequest, match="pattern"):
        read_schema({"type": "string", "pattern": "("})
    deep: JsonObject = {"type": "string"}
    for _ in range(100):
        deep = {"type": "array", "items": deep}
    with pytest.raises(BadRequest, match="levels"):
        read_schema(deep)
