"""JSON Patch as Ditto's commands, and decisions as conditions."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud.preconditions import unchanged
from cloud.remotepatch import as_commands
from gateway.errors import BadRequest, PreconditionFailed
from gateway.model.json import Json, JsonObject
from gateway.model.thing import Action, ThingCommand
from gateway.twin import patch as json_patch
from gateway.twin.documents import get, put, remove, same
from gateway.twin.merge import merged
from gateway.twin.rql import parse

LAMP: JsonObject = {
    "thingId": "default:lamp",
    "policyId": "default:p",
    "attributes": {"rooms": ["a", "b"], "note": "x"},
    "features": {"level": {"properties": {"value": 1}, "desiredProperties": {"value": 2}}},
    "_revision": 7,
}


def a_command(path: tuple[str, ...] = ()) -> ThingCommand:
    return ThingCommand(
        thing_id="default:lamp", action=Action.PATCH, subjects=("x:y",), path=path, originator="o"
    )


def run(patch: list[Any], before: JsonObject = LAMP, path: tuple[str, ...] = ()) -> JsonObject:
    """What a Ditto makes of the commands."""
    document = {k: v for k, v in before.items() if k != "_revision"}
    for command in as_commands(patch, before, a_command(path)):
        assert is_guarded(command)
        if command.action is Action.MERGE:
            found = merged(document, command.value)
            assert isinstance(found, dict)
            document = found
        elif command.action is Action.DELETE:
            document = remove(document, command.path)
        elif command.path:
            document = put(document, command.path, command.value)
        else:
            assert isinstance(command.value, dict)
            document = command.value
    return document


def is_guarded(command: ThingCommand) -> bool:
    headers = dict(command.headers)
    if command.path:
        return headers == {"condition": "eq(_revision,7)"}
    return headers == {"if-match": '"rev:7"'}


def test_a_replaced_value_becomes_a_merge_for_the_revision_that_was_read() -> None:
    path = "/features/level/desiredProperties/value"
    (command,) = as_commands([{"op": "replace", "path": path, "value": 3}], LAMP, a_command())
    assert command.action is Action.MERGE
    assert command.value == {"features": {"level": {"desiredProperties": {"value": 3}}}}
    assert command.headers == {"if-match": '"rev:7"'}
    assert command.originator == "o"


def test_a_patch_that_changes_nothing_asks_for_nothing() -> None:
    assert (
        as_commands([{"op": "test", "path": "/policyId", "value": "default:p"}], LAMP, a_command())
        == []
    )


def test_a_removed_value_is_a_null_in_the_merge() -> None:
    (command,) = as_commands([{"op": "remove", "path": "/attributes/note"}], LAMP, a_command())
    assert command.value == {"attributes": {"note": None}}


def test_an_array_is_replaced_whole_because_its_elements_have_no_paths() -> None:
    patch: list[Json] = [{"op": "add", "path": "/attributes/rooms/1", "value": "c"}]
    (command,) = as_commands(patch, LAMP, a_command())
    assert command.value == {"attributes": {"rooms": ["a", "c", "b"]}}


def test_a_null_is_written_at_its_own_path() -> None:
    patch: list[Json] = [
        {"op": "replace", "path": "/features/level/properties/value", "value": None}
    ]
    (command,) = as_commands(patch, LAMP, a_command())
    assert command.action is Action.MODIFY
    assert command.path == ("features", "level", "properties", "value")
    assert command.headers == {"condition": "eq(_revision,7)"}
    assert get(run(patch), command.path) is None


def test_a_null_and_another_change_are_one_write_of_what_holds_both() -> None:
    patch: list[Json] = [
        {"op": "replace", "path": "/attributes/note", "value": None},
        {"op": "remove", "path": "/attributes/rooms"},
    ]
    (command,) = as_commands(patch, LAMP, a_command())
    assert (command.path, command.value) == (("attributes",), {"note": None})


def test_a_key_that_a_merge_would_read_as_an_expression_is_written_by_its_path() -> None:
    patch: list[Json] = [{"op": "add", "path": "/attributes/{{ ~0n.*~0 }}", "value": 1}]
    found = run(patch)
    assert found["attributes"] == {"rooms": ["a", "b"], "note": "x", "{{ ~n.*~ }}": 1}


def test_a_patch_of_a_part_starts_there() -> None:
    patch: list[Json] = [{"op": "replace", "path": "/note", "value": "y"}]
    (command,) = as_commands(patch, LAMP, a_command(("attributes",)))
    assert command.value == {"attributes": {"note": "y"}}


def test_a_test_that_fails_is_412_before_anything_is_asked() -> None:
    with pytest.raises(PreconditionFailed):
        as_commands([{"op": "test", "path": "/policyId", "value": "z"}], LAMP, a_command())
    with pytest.raises(BadRequest):
        as_commands([{"op": "remove", "path": "/attributes/none"}], LAMP, a_command())


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text("ab", max_size=2),
    lambda below: st.lists(below, max_size=2) | st.dictionaries(st.sampled_from("xyz"), below),
    max_leaves=6,
)
THINGS = st.fixed_dictionaries(
    {},
    optional={
        "attributes": st.dictionaries(st.sampled_from("xyz"), VALUES, max_size=3),
        "features": st.dictionaries(
            st.sampled_from("fg"),
            st.fixed_dictionaries(
                {},
                optional={
                    "properties": st.dictionaries(st.sampled_from("xyz"), VALUES, max_size=2),
                    "desiredProperties": st.dictionaries(
                        st.sampled_from("xyz"), VALUES, max_size=2
                    ),
                },
            ),
            max_size=2,
        ),
    },
)


@given(THINGS, THINGS)
def test_every_way_from_one_thing_to_another_ends_there(before: Any, after: Any) -> None:
    patch = json_patch.as_json(json_patch.difference(before, after))
    commands = as_commands(patch, {**before, "_revision": 7}, a_command())
    assert len(commands) <= 1
    assert same(run(patch, {**before, "_revision": 7}), after)


# --- conditions ----------------------------------------------------------------------------------

VALUE = ("features", "level", "desiredProperties", "value")


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (40, "eq(features/level/desiredProperties/value,40)"),
        (-1.5, "eq(features/level/desiredProperties/value,-1.5)"),
        (True, "eq(features/level/desiredProperties/value,true)"),
        (None, "eq(features/level/desiredProperties/value,null)"),
        ('a "b" \\', 'eq(features/level/desiredProperties/value,"a \\"b\\" \\\\")'),
    ],
)
def test_a_decision_names_the_wishes_it_was_made_on(value: Any, said: str) -> None:
    headers = unchanged(put({}, VALUE, value), 3, [VALUE])
    assert headers == {"if-match": "*", "condition": said}
    parse(said)


def test_a_wish_that_was_not_there_must_still_not_be_there() -> None:
    headers = unchanged({}, 3, [VALUE, ("features", "on", "desiredProperties", "value")])
    assert headers["condition"] == (
        "and(not(exists(features/level/desiredProperties/value)),"
        "not(exists(features/on/desiredProperties/value)))"
    )


@pytest.mark.parametrize("value", [1e300, {"a": 1}, [1], "line\nend"])
def test_what_rql_cannot_say_is_asked_by_revision(value: Any) -> None:
    assert unchanged(put({}, VALUE, value), 3, [VALUE]) == {"if-match": '"rev:3"'}


def test_odd_names_and_long_conditions_are_asked_by_revision() -> None:
    odd = ("features", "a,b)", "desiredProperties", "value")
    assert unchanged({}, 3, [odd]) == {"if-match": '"rev:3"'}
    many = [("features", f"feature-{n}", "desiredProperties", "value") for n in range(60)]
    assert unchanged({}, 3, many) == {"if-match": '"rev:3"'}
    assert unchanged({}, 3, []) == {"if-match": "*"}
