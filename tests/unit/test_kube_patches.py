"""JSON Patch, merge patch and strategic merge patch."""

from __future__ import annotations

import copy
from typing import Any, cast

import jsonpatch
import jsonpointer
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from gateway.errors import BadRequest, Unprocessable
from gateway.model.json import Json, JsonObject
from gateway.wire.kube.patches import apply_json_patch, apply_merge_patch
from gateway.wire.kube.schema import read_schema
from gateway.wire.kube.strategic import apply_strategic


def test_a_json_patch_leaves_its_input_alone() -> None:
    before: JsonObject = {"spec": {"list": [1, 2]}}
    kept = copy.deepcopy(before)
    after = apply_json_patch(before, [{"op": "add", "path": "/spec/list/-", "value": 3}])
    assert after == {"spec": {"list": [1, 2, 3]}}
    assert before == kept


@pytest.mark.parametrize(
    "operation",
    [
        {"op": "test", "path": "/spec/a", "value": 2},
        {"op": "remove", "path": "/spec/none"},
        {"op": "replace", "path": "/spec/none/deeper", "value": 1},
        {"op": "add", "path": "/spec/list/9", "value": 1},
        {"op": "add", "path": "/spec/list/x", "value": 1},
        {"op": "dance", "path": "/spec"},
        {"op": "add", "path": "spec", "value": 1},
        {"op": "add", "path": "/spec/a/b", "value": 1},
        {"path": "/spec"},
        {"op": "replace", "path": "", "value": 5},
        {"op": "move", "path": "/spec", "from": "/none"},
    ],
)
def test_a_json_patch_that_does_not_fit_is_unprocessable(operation: JsonObject) -> None:
    with pytest.raises(Unprocessable):
        apply_json_patch({"spec": {"a": 1, "list": []}}, [operation])


@pytest.mark.parametrize("patch", [{}, "x", [1], None])
def test_what_is_no_json_patch_is_a_bad_request(patch: Json) -> None:
    with pytest.raises(BadRequest):
        apply_json_patch({}, patch)


def test_a_json_patch_has_a_bounded_length() -> None:
    with pytest.raises(Unprocessable) as caught:
        apply_json_patch({}, [{"op": "test", "path": "", "value": {}}] * 10_001)
    assert caught.value.status == 413


@pytest.mark.parametrize(
    ("target", "patch", "expected"),
    [
        # RFC 7386, appendix A, the cases with an object as target
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_a_merge_patch_follows_the_standard(
    target: JsonObject, patch: JsonObject, expected: JsonObject
) -> None:
    assert apply_merge_patch(target, patch) == expected


def test_a_merge_patch_is_an_object() -> None:
    with pytest.raises(BadRequest):
        apply_merge_patch({}, [])


POD = read_schema(
    {
        "type": "object",
        "properties": {
            "containers": {
                "type": "array",
                "x-kubernetes-patch-strategy": "merge",
                "x-kubernetes-patch-merge-key": "name",
                "items": {
                    "type": "object",
                    "properties": {
                        "name": {"type": "string"},
                        "image": {"type": "string"},
                        "args": {"type": "array", "items": {"type": "string"}},
                    },
                },
            },
            "finalizers": {
                "type": "array",
                "x-kubernetes-patch-strategy": "merge",
                "items": {"type": "string"},
            },
            "strategy": {
                "type": "object",
                "x-kubernetes-patch-strategy": "retainKeys",
                "properties": {"type": {"type": "string"}, "rolling": {"type": "string"}},
            },
            "labels": {"type": "object", "additionalProperties": {"type": "string"}},
        },
    }
)
LIVE: JsonObject = {
    "containers": [{"name": "a", "image": "1", "args": ["x"]}, {"name": "b", "image": "2"}],
    "finalizers": ["one", "two"],
    "labels": {"k": "v"},
    "strategy": {"type": "Rolling", "rolling": "25%"},
}


@pytest.mark.parametrize(
    ("patch", "expected"),
    [
        ({"labels": {"n": "w", "k": None}}, {"labels": {"n": "w"}}),
        (
            {"containers": [{"name": "b", "image": "3"}]},
            {
                "containers": [
                    {"name": "a", "image": "1", "args": ["x"]},
                    {"name": "b", "image": "3"},
                ]
            },
        ),
        (
            {"containers": [{"name": "a", "args": ["y"]}]},
            {
                "containers": [
                    {"name": "a", "image": "1", "args": ["y"]},
                    {"name": "b", "image": "2"},
                ]
            },
        ),
        (
            {"containers": [{"name": "a", "$patch": "delete"}]},
            {"containers": [{"name": "b", "image": "2"}]},
        ),
        (
            {"containers": [{"$patch": "replace"}, {"name": "c", "image": None}]},
            {"containers": [{"name": "c", "image": None}]},
        ),
        (
            {
                "$setElementOrder/containers": [{"name": "b"}, {"name": "a"}],
                "containers": [{"name": "a", "image": "9"}],
            },
            {
                "containers": [
                    {"name": "b", "image": "2"},
                    {"name": "a", "image": "9", "args": ["x"]},
                ]
            },
        ),
        (
            {"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}]},
            {
                "containers": [
                    {"name": "b", "image": "2"},
                    {"name": "a", "image": "1", "args": ["x"]},
                ]
            },
        ),
        ({"finalizers": ["two", "three"]}, {"finalizers": ["one", "two", "three"]}),
        ({"$deleteFromPrimitiveList/finalizers": ["one"]}, {"finalizers": ["two"]}),
        ({"labels": {"$patch": "replace", "z": "1"}}, {"labels": {"z": "1"}}),
        ({"labels": {"$patch": "delete"}}, {"labels": {}}),
        (
            {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}},
            {"strategy": {"type": "Recreate"}},
        ),
        ({"finalizers": None}, {"finalizers": None}),
        ({}, {}),
    ],
)
def test_a_strategic_patch_merges_by_type(patch: JsonObject, expected: JsonObject) -> None:
    kept = copy.deepcopy(LIVE)
    wanted = {key: value for key, value in (LIVE | expected).items() if value is not None}
    assert apply_strategic(POD, LIVE, patch) == wanted
    assert kept == LIVE


def test_elements_the_order_does_not_name_keep_their_place() -> None:
    live: JsonObject = {"containers": [{"name": name} for name in ("x", "a", "y", "b")]}
    patch: JsonObject = {
        "$setElementOrder/containers": [{"name": "b"}, {"name": "a"}],
        "containers": [],
    }
    merged = apply_strategic(POD, live, patch)["containers"]
    assert isinstance(merged, list)
    names = [str(item["name"]) for item in merged if isinstance(item, dict)]
    assert sorted(names) == ["a", "b", "x", "y"]
    assert names.index("b") < names.index("a")
    assert names.index("x") < names.index("a")


@pytest.mark.parametrize(
    "patch",
    [
        {"labels": {"$patch": "explode"}},
        {"containers": [{"image": "1"}]},
        {"containers": ["a"]},
        [],
        "x",
    ],
)
def test_a_broken_strategic_patch_is_refused(patch: Json) -> None:
    with pytest.raises(BadRequest):
        apply_strategic(POD, LIVE, patch)


# --- beside a reference implementation ------------------------------------------------------------

# No number is 0 or 1: to the library False is 0 and True is 1, to the API server they are not.
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(2, 4) | st.sampled_from(["x", ""]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "b~", "c/"]), inner)
    ),
    max_leaves=6,
)
OBJECTS = st.dictionaries(st.sampled_from(["a", "b~", "c/"]), VALUES, max_size=3)
STEPS = st.sampled_from(["a", "b~0", "c~1", "0", "1", "-", "x"])
POINTERS = st.lists(STEPS, min_size=1, max_size=3).map(lambda steps: "/" + "/".join(steps))
OPERATIONS = st.one_of(
    st.fixed_dictionaries(
        {"op": st.sampled_from(["add", "replace", "test"]), "path": POINTERS, "value": VALUES}
    ),
    st.fixed_dictionaries({"op": st.just("remove"), "path": POINTERS}),
    st.fixed_dictionaries(
        {"op": st.sampled_from(["move", "copy"]), "path": POINTERS, "from": POINTERS}
    ),
)


@given(OBJECTS, st.lists(OPERATIONS, max_size=4))
def test_a_json_patch_that_the_standard_takes_gives_the_same_here(
    document: JsonObject, operations: list[JsonObject]
) -> None:
    try:
        expected = jsonpatch.JsonPatch(cast(Any, copy.deepcopy(operations))).apply(
            copy.deepcopy(document)
        )
    except (jsonpatch.JsonPatchException, jsonpointer.JsonPointerException, TypeError, KeyError):
        return  # the API server takes a little more
    assert apply_json_patch(document, list(operations)) == expected


@given(OBJECTS, OBJECTS)
def test_a_patch_made_of_a_difference_leads_there(old: JsonObject, new: JsonObject) -> None:
    made = jsonpatch.make_patch(old, new)
    assume(made.apply(old) == new)  # the library moves what an earlier step has shifted already
    assert apply_json_patch(old, made.patch) == new


def reference_merge(target: Json, patch: Json) -> Json:
    """RFC 7396, section 2, as it is written there."""
    if not isinstance(patch, dict):
        return patch
    if not isinstance(target, dict):
        target = {}
    target = dict(target)
    for name, value in patch.items():
        if value is None:
            if name in target:
                del target[name]
        else:
            target[name] = reference_merge(target.get(name), value)
    return target


@given(OBJECTS, OBJECTS)
def test_a_merge_patch_gives_what_the_standard_says(target: JsonObject, patch: JsonObject) -> None:
    assert apply_merge_patch(target, patch) == reference_merge(target, patch)


def test_a_replace_of_an_absent_field_adds_it_as_the_api_server_does() -> None:
    operations: Json = [{"op": "replace", "path": "/metadata/managedFields", "value": [{}]}]
    assert apply_json_patch({"metadata": {}}, operations) == {"metadata": {"managedFields": [{}]}}


def test_a_negative_index_counts_from_the_end() -> None:
    operations: Json = [
        {"op": "remove", "path": "/l/-1"},
        {"op": "add", "path": "/l/-1", "value": 9},
    ]
    assert apply_json_patch({"l": [1, 2, 3]}, operations) == {"l": [1, 2, 9]}


def test_a_test_of_an_absent_field_holds_for_null_alone() -> None:
    assert apply_json_patch({}, [{"op": "test", "path": "/a", "value": None}]) == {}
    with pytest.raises(Unprocessable):
        apply_json_patch({}, [{"op": "test", "path": "/a", "value": 0}])
    with pytest.raises(Unprocessable):
        apply_json_patch({"a": 1}, [{"op": "test", "path": "/a", "value": True}])
