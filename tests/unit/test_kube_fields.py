"""Field ownership and server-side apply."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import BadRequest
from gateway.model.json import Json, JsonObject
from gateway.wire.kube import fields, fieldsets
from gateway.wire.kube.fields import Claim, Manager
from gateway.wire.kube.fieldsets import Path
from gateway.wire.kube.merging import merge
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
    assert fieldsets.paths_of(TYPE, value) == {
        ("f:data", "f:a"),
        ("f:ports", key),
        ("f:ports", key, "f:port"),
        ("f:ports", key, "f:name"),
        ("f:tags", 'v:"x"'),
        ("f:plain",),
        ("f:selector",),
    }


def test_an_element_without_its_key_is_refused() -> None:
    keyed: JsonObject = {
        "type": "array",
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["a", "b"],
    }
    with pytest.raises(BadRequest, match=r'omits all key fields \["a" "b"\]'):
        fieldsets.paths_of(read_schema(keyed), [{"name": "web"}])
    with pytest.raises(BadRequest, match="non-map"):
        fieldsets.paths_of(TYPE, {"ports": ["web"]})
    with pytest.raises(BadRequest, match="no plain value"):
        fieldsets.paths_of(TYPE, {"tags": [{}]})


def test_an_element_is_named_by_the_keys_that_it_has() -> None:
    step = fieldsets.element_step(TYPE.properties["ports"], {"name": "web"})
    assert step == 'k:{"protocol":"TCP"}'


STEPS = st.sampled_from(["f:a", "f:b", 'k:{"n":"1"}', 'v:"x"'])
PATHS = st.frozensets(st.lists(STEPS, min_size=1, max_size=4).map(tuple))


@given(PATHS)
def test_a_set_survives_its_written_form(paths: frozenset[Path]) -> None:
    assert fieldsets.read_fields_v1(fieldsets.fields_v1(paths)) == paths


@given(PATHS, PATHS)
def test_trees_take_and_lose_members_as_sets_do(
    left: frozenset[Path], right: frozenset[Path]
) -> None:
    tree = fieldsets.fields_v1(left)
    read = fieldsets.read_fields_v1
    assert read(fieldsets.tree_with(tree, right)) == left | right
    assert read(fieldsets.tree_without(tree, right)) == left - right
    assert {path for path in right if fieldsets.tree_has(tree, path)} == left & right
    assert read(tree) == left, "a tree is never changed"


def test_the_written_form_is_that_of_kubernetes() -> None:
    paths = frozenset({("f:data",), ("f:data", "f:a"), ("f:spec", "f:b")})
    assert fieldsets.fields_v1(paths) == {"f:data": {".": {}, "f:a": {}}, "f:spec": {"f:b": {}}}


JSONS = st.recursive(
    st.none() | st.booleans() | st.integers(0, 3) | st.sampled_from(["x", "y"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3)
    ),
    max_leaves=8,
)
DOCUMENTS = st.dictionaries(st.sampled_from("abc"), JSONS, max_size=3)


@given(DOCUMENTS, DOCUMENTS)
def test_documents_differ_where_paths_came_went_or_changed(
    old: JsonObject, new: JsonObject
) -> None:
    found, back = fieldsets.compare(ANYTHING, old, new), fieldsets.compare(ANYTHING, new, old)
    assert not fieldsets.compare(ANYTHING, new, new)
    assert (found.added, found.modified, found.removed) == (back.removed, back.modified, back.added)
    if not found:
        assert old == new


@given(DOCUMENTS, DOCUMENTS)
def test_what_came_is_in_the_new_document_and_what_went_in_the_old(
    old: JsonObject, new: JsonObject
) -> None:
    found = fieldsets.compare(ANYTHING, old, new)
    everything = fieldsets.paths_of(ANYTHING, new) | {
        path[:length] for path in fieldsets.paths_of(ANYTHING, new) for length in range(len(path))
    }
    assert found.added | found.modified <= everything


@given(DOCUMENTS, DOCUMENTS)
def test_an_applied_document_is_in_the_result(live: JsonObject, config: JsonObject) -> None:
    result = fields.apply(ANYTHING, live, config, (), ANN, "now", force=False)
    assert merge(ANYTHING, result.document, config) == result.document


def test_an_update_takes_what_it_changes() -> None:
    old: JsonObject = {"data": {"a": "1", "b": "2"}}
    new: JsonObject = {"data": {"a": "9", "c": "3"}}
    owned = frozenset({("f:data", "f:a"), ("f:data", "f:b")})
    writer = Manager("eve", "Update", "v1")
    claims = fields.after_update(TYPE, old, new, (Claim.of(ANN, "before", owned),), writer, "now")
    assert claims == (Claim.of(writer, "now", frozenset({("f:data", "f:a"), ("f:data", "f:c")})),)


def test_an_update_without_change_leaves_claims_alone() -> None:
    claims = (Claim.of(ANN, "before", frozenset({("f:data", "f:a")})),)
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
    assert fieldsets.describe_path(conflict.path) == ".data.a"
    forced = applied(first.document, {"data": {"a": "2"}}, first.claims, BOB, force=True)
    assert forced.document == {"data": {"a": "2"}}
    assert [claim.manager for claim in forced.claims] == [BOB]


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
    assert fieldsets.describe_path(path) == '.spec.ports[port=80,protocol="TCP"].name'
    assert fieldsets.describe_path(("f:tags", 'v:"x"')) == '.tags[="x"]'


def test_server_kept_metadata_has_no_manager() -> None:
    item: JsonObject = {
        "kind": "K",
        "metadata": {"name": "n", "uid": "u", "labels": {"a": "1"}},
        "spec": {},
    }
    assert fields.managed_part(item) == {"metadata": {"labels": {"a": "1"}}, "spec": {}}
    assert fields.managed_part({"metadata": {"name": "n"}}) == {"metadata": {}}


def test_broken_claims_are_as_good_as_none() -> None:
    assert fields.read_claims("x") == ()
    assert fields.read_claims([{}, 5]) == ()


def test_entries_stand_in_the_order_of_operation_time_and_name() -> None:
    path = frozenset({("f:a",)})
    claims = [
        Claim.of(Manager("b", "Update", "v1"), "2026-01-01T00:00:00Z", path),
        Claim.of(Manager("c", "Apply", "v1"), "2026-01-02T00:00:00Z", path),
        Claim.of(Manager("a", "Update", "v1"), "2026-01-01T00:00:00Z", path),
    ]
    entries = objects(fields.write_claims(claims))
    assert [entry["manager"] for entry in entries] == ["c", "a", "b"]


def test_more_than_ten_writers_are_put_together() -> None:
    claims: tuple[Claim, ...] = ()
    old: JsonObject = {}
    for number in range(13):
        new: JsonObject = {**old, f"k{number}": 1}
        who = Manager(f"m{number:02}", "Update", "v1")
        claims = fields.after_update(ANYTHING, old, new, claims, who, f"t{number:02}")
        old = new
    assert len(claims) == 10
    (ancient,) = [claim for claim in claims if claim.manager.name == "ancient-changes"]
    assert ancient.paths == {(f"f:k{number}",) for number in range(4)}


def test_an_applied_list_keeps_its_order_and_foreign_neighbours() -> None:
    schema = TYPE.properties["tags"]
    live: JsonObject = {"l": ["a", "x", "b", "c"]}
    parent = read_schema({"type": "object", "properties": {"l": dict(schema.source)}})
    assert merge(parent, live, {"l": ["c", "b", "n"]}) == {"l": ["a", "x", "c", "b", "n"]}
    with pytest.raises(BadRequest, match="duplicate entries for key"):
        merge(parent, live, {"l": ["a", "a"]})


def test_the_same_applier_in_another_version_is_one_entry() -> None:
    one, other = Manager("ann", "Apply", "v1"), Manager("ann", "Apply", "v2")
    assert one.is_same(other)
    assert not Manager("ann", "Update", "v1").is_same(Manager("ann", "Update", "v2"))


@pytest.mark.parametrize("managed", [[], [{}]])
def test_two_ways_reset_ownership(managed: Json) -> None:
    assert fields.is_reset(managed)
    assert not fields.is_reset(None)
