"""Field ownership and server-side apply."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import BadRequest
from gateway.model.json import Json, JsonObject
from gateway.wire.kube import fields
from gateway.wire.kube.fields import Claim, Manager, Path
from gateway.wire.kube.schema import ANYTHING, read_schema

TYPE = read_schema(
    {
        "type": "object",
        "properties": {
            "data": {"type": "object", "additionalProperties": {"type": "string"}},
            "ports": {
                "type": "array",
                "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["port", "protocol"],
                "items": {
                    "type": "object",
                    "properties": {
                        "port": {"type": "integer"},
                        "protocol": {"type": "string", "default": "TCP"},
                        "name": {"type": "string"},
                    },
                },
            },
            "tags": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
            "plain": {"type": "array", "items": {"type": "string"}},
            "selector": {
                "type": "object",
                "x-kubernetes-map-type": "atomic",
                "additionalProperties": {"type": "string"},
            },
        },
    }
)
ANN, BOB = Manager("ann", "Apply", "v1"), Manager("bob", "Apply", "v1")


def applied(
    live: JsonObject,
    config: JsonObject,
    claims: tuple[Claim, ...],
    who: Manager,
    *,
    force: bool = False,
) -> fields.Applied:
    return fields.apply(TYPE, live, config, claims, who, "now", force=force)


def test_paths_name_fields_elements_and_members() -> None:
    value: JsonObject = {
        "data": {"a": "1"},
        "ports": [{"port": 80, "name": "web"}],
        "tags": ["x"],
        "plain": ["y"],
        "selector": {"k": "v"},
    }
    key = 'k:{"port":80,"protocol":"TCP"}'
    assert fields.paths_of(TYPE, value) == {
        ("f:data", "f:a"),
        ("f:ports", key),
        ("f:ports", key, "f:port"),
        ("f:ports", key, "f:name"),
        ("f:tags", 'v:"x"'),
        ("f:plain",),
        ("f:selector",),
    }


def test_an_element_without_its_key_is_refused() -> None:
    with pytest.raises(BadRequest, match="port"):
        fields.paths_of(TYPE, {"ports": [{"name": "web"}]})
    with pytest.raises(BadRequest, match="expected an object"):
        fields.paths_of(TYPE, {"ports": ["web"]})


STEPS = st.sampled_from(["f:a", "f:b", 'k:{"n":"1"}', 'v:"x"'])
PATHS = st.frozensets(st.lists(STEPS, min_size=1, max_size=4).map(tuple))


@given(PATHS)
def test_a_set_survives_its_written_form(paths: frozenset[Path]) -> None:
    assert fields.read_fields_v1(fields.fields_v1(paths)) == paths


def test_the_written_form_is_that_of_kubernetes() -> None:
    paths = frozenset({("f:data",), ("f:data", "f:a"), ("f:spec", "f:b")})
    assert fields.fields_v1(paths) == {"f:data": {".": {}, "f:a": {}}, "f:spec": {"f:b": {}}}


JSONS = st.recursive(
    st.none() | st.booleans() | st.integers(0, 3) | st.sampled_from(["x", "y"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3)
    ),
    max_leaves=8,
)
DOCUMENTS = st.dictionaries(st.sampled_from("abc"), JSONS, max_size=3)


@given(DOCUMENTS, DOCUMENTS)
def test_documents_differ_exactly_where_paths_changed(old: JsonObject, new: JsonObject) -> None:
    changed = fields.changed_paths(ANYTHING, old, new)
    assert fields.changed_paths(ANYTHING, new, new) == frozenset()
    if not changed:
        assert set(new) <= set(old)


@given(DOCUMENTS, DOCUMENTS)
def test_an_applied_document_is_in_the_result(live: JsonObject, config: JsonObject) -> None:
    result = fields.apply(ANYTHING, live, config, (), ANN, "now", force=False)
    assert fields.merge(ANYTHING, result.document, config) == result.document


def test_an_update_takes_what_it_changes() -> None:
    old: JsonObject = {"data": {"a": "1", "b": "2"}}
    new: JsonObject = {"data": {"a": "9", "c": "3"}}
    owned = frozenset({("f:data", "f:a"), ("f:data", "f:b")})
    writer = Manager("eve", "Update", "v1")
    claims = fields.after_update(TYPE, old, new, (Claim(ANN, "before", owned),), writer, "now")
    assert claims == (
        Claim(ANN, "before", frozenset()),
        Claim(writer, "now", frozenset({("f:data", "f:a"), ("f:data", "f:c")})),
    )
    assert fields.write_claims(claims) == fields.write_claims(claims[1:])


def test_an_update_without_change_leaves_claims_alone() -> None:
    claims = (Claim(ANN, "before", frozenset({("f:data", "f:a")})),)
    same: JsonObject = {"data": {"a": "1"}}
    assert fields.after_update(TYPE, same, dict(same), claims, BOB, "now") is claims


def test_what_an_applier_leaves_out_goes() -> None:
    first = applied({}, {"data": {"a": "1", "b": "2"}, "tags": ["x", "y"]}, (), ANN)
    second = applied(first.document, {"data": {"a": "1"}, "tags": ["y"]}, first.claims, ANN)
    assert second.document == {"data": {"a": "1"}, "tags": ["y"]}


def test_what_another_holds_too_stays() -> None:
    first = applied({}, {"data": {"a": "1", "b": "2"}}, (), ANN)
    shared = applied(first.document, {"data": {"b": "2"}}, first.claims, BOB)
    assert shared.conflicts == ()
    left = applied(shared.document, {"data": {"a": "1"}}, shared.claims, ANN)
    assert left.document == {"data": {"a": "1", "b": "2"}}


def test_another_value_for_a_held_field_is_a_conflict() -> None:
    first = applied({}, {"data": {"a": "1"}}, (), ANN)
    clash = applied(first.document, {"data": {"a": "2"}}, first.claims, BOB)
    assert clash.document == first.document
    (conflict,) = clash.conflicts
    assert conflict.manager == ANN
    assert fields.describe_path(conflict.path) == ".data.a"
    forced = applied(first.document, {"data": {"a": "2"}}, first.claims, BOB, force=True)
    assert forced.document == {"data": {"a": "2"}}
    assert {claim.manager: claim.paths for claim in forced.claims}[ANN] == frozenset()


def test_keyed_elements_merge_and_go_one_by_one() -> None:
    first = applied({}, {"ports": [{"port": 80, "name": "web"}, {"port": 90}]}, (), ANN)
    added = applied(first.document, {"ports": [{"port": 443}]}, first.claims, BOB)
    assert [item["port"] for item in objects(added.document["ports"])] == [80, 90, 443]
    gone = applied(added.document, {"ports": [{"port": 80, "name": "web"}]}, added.claims, ANN)
    assert [item["port"] for item in objects(gone.document["ports"])] == [80, 443]


def objects(value: Json) -> list[JsonObject]:
    assert isinstance(value, list)
    return [item for item in value if isinstance(item, dict)]


def test_a_path_is_shown_as_conflicts_show_it() -> None:
    path = ("f:spec", "f:ports", 'k:{"port":80,"protocol":"TCP"}', "f:name")
    assert fields.describe_path(path) == '.spec.ports[port=80,protocol="TCP"].name'
    assert fields.describe_path(("f:tags", 'v:"x"')) == '.tags[="x"]'


def test_server_kept_metadata_has_no_manager() -> None:
    item: JsonObject = {
        "kind": "K",
        "metadata": {"name": "n", "uid": "u", "labels": {"a": "1"}},
        "spec": {},
    }
    assert fields.managed_part(item) == {"metadata": {"labels": {"a": "1"}}, "spec": {}}
    assert fields.managed_part({"metadata": {"name": "n"}}) == {}


def test_broken_claims_are_left_out() -> None:
    assert fields.read_claims("x") == ()
    assert fields.read_claims([{}, 5]) == ()
