"""Definitions of custom resources: what is refused, in kube-apiserver's words; what updates keep."""

from __future__ import annotations

import copy

import pytest

from gateway.kube.crds import rules_are_not_evaluated
from gateway.kube.hooks import Review
from gateway.model.json import Json, JsonObject
from gateway.wire.kube.definitions import definition_faults
from gateway.wire.kube.schema import read_schema
from gateway.wire.kube.structural import structural_faults
from gateway.wire.kube.validate import faults

ROOT = "spec.validation.openAPIV3Schema"


def an_object(**properties: Json) -> JsonObject:
    return {"type": "object", "properties": properties}


def a_definition(schema: JsonObject | None = None, /, **spec: Json) -> JsonObject:
    version: JsonObject = {
        "name": "v1",
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": schema or an_object()},
    }
    return {
        "metadata": {"name": "probes.f.example.com"},
        "spec": {
            "group": "f.example.com",
            "names": {"plural": "probes", "kind": "Probe"},
            "scope": "Namespaced",
            "versions": [version],
            **spec,
        },
    }


@pytest.mark.parametrize(
    ("schema", "field", "message"),
    [
        (
            an_object(spec={"properties": {"a": {"type": "string"}}}),
            "properties[spec].type",
            "Required value: must not be empty for specified object fields",
        ),
        (
            {"type": "string"},
            "type",
            'Invalid value: "string": must be object at the root',
        ),
        (
            an_object(x={"type": "array"}),
            "properties[x].items",
            "Required value: must be specified",
        ),
        (
            an_object(x={"$ref": "#/x"}),
            "properties[x].$ref",
            "Forbidden: $ref is not supported",
        ),
        (
            an_object(
                m={
                    "type": "object",
                    "properties": {"a": {"type": "string"}},
                    "additionalProperties": {"type": "string"},
                }
            ),
            "properties[m].additionalProperties",
            "Forbidden: additionalProperties and properties are mutual exclusive",
        ),
        (
            an_object(x={"type": "array", "uniqueItems": True, "items": {"type": "string"}}),
            "properties[x].uniqueItems",
            "Forbidden: uniqueItems cannot be set to true since the runtime complexity becomes quadratic",
        ),
        (
            an_object(x={"type": "strange"}),
            "properties[x].type",
            'Unsupported value: "strange": supported values: "array", "boolean", "integer", "number",'
            ' "object", "string"',
        ),
        (
            an_object(x={"type": "array", "x-kubernetes-list-type": "map", "items": an_object()}),
            "properties[x].x-kubernetes-list-map-keys",
            "Required value: must not be empty if x-kubernetes-list-type is map",
        ),
        (
            an_object(
                x={
                    "type": "array",
                    "x-kubernetes-list-type": "map",
                    "x-kubernetes-list-map-keys": ["a"],
                    "items": an_object(a={"type": "string"}),
                }
            ),
            "properties[x].items.properties[a].default",
            "Required value: this property is in x-kubernetes-list-map-keys, so it must have a default or"
            " be a required property",
        ),
        (
            an_object(a={"type": "string", "default": 5}),
            "properties[a].default",
            'Invalid value: "integer":  in body must be of type string: "integer"',
        ),
        (
            an_object(metadata=an_object(labels={"type": "object"})),
            "properties[metadata]",
            "Forbidden: must not specify anything other than name and generateName, but metadata is"
            " implicitly specified",
        ),
        (
            an_object(a={"type": "object", "x-kubernetes-preserve-unknown-fields": False}),
            "properties[a].x-kubernetes-preserve-unknown-fields",
            "Invalid value: false: must be true or undefined",
        ),
        (
            an_object(a={"type": "object", "x-kubernetes-embedded-resource": True}),
            "properties[a].properties",
            "Required value: must not be empty if x-kubernetes-embedded-resource is true without"
            " x-kubernetes-preserve-unknown-fields",
        ),
        (
            an_object(a={"type": "string", "anyOf": [{"type": "string"}]}),
            "properties[a].anyOf[0].type",
            "Forbidden: must be empty to be structural",
        ),
    ],
)
def test_a_schema_that_is_not_structural_is_refused(
    schema: JsonObject, field: str, message: str
) -> None:
    (cause,) = definition_faults(a_definition(schema), None)
    assert (cause.field, cause.message) == (f"{ROOT}.{field}", message)


def test_a_structural_schema_is_taken() -> None:
    schema = an_object(
        port={
            "x-kubernetes-int-or-string": True,
            "anyOf": [{"type": "integer"}, {"type": "string"}],
        },
        free={"x-kubernetes-preserve-unknown-fields": True},
        map={"type": "object", "additionalProperties": {"type": "string"}},
        metadata=an_object(name={"type": "string"}),
    )
    assert structural_faults(schema, ROOT) == []
    assert definition_faults(a_definition(schema), None) == []


@pytest.mark.parametrize(
    ("spec", "field", "word"),
    [
        ({"scope": "Galaxy"}, "spec.scope", 'supported values: "Cluster", "Namespaced"'),
        ({"conversion": {"strategy": "Webhook"}}, "spec.conversion.strategy", '"None"'),
        (
            {"names": {"plural": "probes", "kind": "Probe", "shortNames": ["A_b"]}},
            "spec.names.shortNames[0]",
            "a DNS-1035 label",
        ),
    ],
)
def test_what_cannot_be_served_is_refused(spec: dict[str, Json], field: str, word: str) -> None:
    (cause,) = definition_faults(a_definition(**spec), None)
    assert cause.field == field
    assert word in cause.message


def versions(*names: str, storage: int = 0) -> list[Json]:
    schema: JsonObject = {"openAPIV3Schema": an_object()}
    return [
        {"name": name, "served": True, "storage": at == storage, "schema": schema}
        for at, name in enumerate(names)
    ]


@pytest.mark.parametrize(
    ("rows", "word"),
    [
        (versions("v1", "v1"), "must contain unique version names"),
        (versions("v1", storage=1), "must have exactly one version marked as storage version"),
    ],
)
def test_versions_are_named_once_and_one_is_stored(rows: list[Json], word: str) -> None:
    (cause,) = definition_faults(a_definition(versions=rows), None)
    assert word in cause.message


def test_a_version_that_objects_are_stored_in_cannot_go_and_names_stay() -> None:
    old = a_definition()
    old["status"] = {"storedVersions": ["v1"]}
    new = a_definition(versions=versions("v2"))
    (cause,) = definition_faults(new, old)
    assert cause.field == "status.storedVersions[0]"
    assert cause.message.startswith('Invalid value: "v1": missing from spec.versions; v1 was')
    renamed = a_definition(names={"plural": "probes", "kind": "Other"})
    assert [cause.field for cause in definition_faults(renamed, old)] == ["spec.names.kind"]


KEYED = read_schema(
    {
        "type": "object",
        "properties": {
            "size": {"type": "integer", "minimum": 10},
            "name": {"type": "string"},
            "rows": {
                "type": "array",
                "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["key"],
                "items": {
                    "type": "object",
                    "properties": {
                        "key": {"type": "string"},
                        "size": {"type": "integer", "minimum": 10},
                        "name": {"type": "string"},
                    },
                },
            },
        },
    }
)


def test_what_an_update_leaves_as_it_was_is_not_judged_again() -> None:
    old: JsonObject = {"size": 1, "name": "a", "rows": [{"key": "k", "size": 2}]}
    assert len(faults(KEYED, old)) == 2
    new = copy.deepcopy(old) | {"name": "b"}
    assert faults(KEYED, new, old=old) == []
    row: JsonObject = {"key": "k", "size": 2, "name": "touched"}
    assert faults(KEYED, old | {"rows": [row]}, old=old) == []
    assert [cause.field for cause in faults(KEYED, old | {"size": 3}, old=old)] == ["size"]
    other: JsonObject = {"key": "new", "size": 2}
    assert [cause.field for cause in faults(KEYED, old | {"rows": [other]}, old=old)] == [
        "rows[0].size"
    ]


async def test_rules_that_nobody_evaluates_are_warned_of() -> None:
    ruled = an_object(a={"type": "string", "x-kubernetes-validations": [{"rule": "self != ''"}]})
    opinion = await rules_are_not_evaluated(Review(a_definition(ruled)))
    assert opinion.warnings == ("x-kubernetes-validations are stored, but not evaluated",)
    assert not (await rules_are_not_evaluated(Review(a_definition()))).warnings
