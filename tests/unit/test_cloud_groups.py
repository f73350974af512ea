"""Who belongs to which NodeGroup, and what follows: cases by hand, and what holds for all of them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud.groupmembers import (
    BELONGING,
    FINALIZER,
    ZONE,
    ZONE_BEFORE,
    Group,
    NodeView,
    assigned,
    newly_failed,
    node_patch,
    node_statuses,
)
from gateway.model.json import JsonObject


def a_group(name: str = "west", *nodes: str, created: int = 0, **more: Any) -> Group:
    return Group(
        name=name,
        created=f"2026-01-01T00:00:{created:02}Z",
        nodes=frozenset(nodes),
        labels=more.get("labels", {}),
        is_zone=more.get("is_zone", False),
        is_deleting=more.get("is_deleting", False),
        is_held=more.get("is_held", True),
    )


def a_node(name: str = "edge-1", note: str | None = None, **labels: str) -> JsonObject:
    notes: JsonObject = {} if note is None else {ZONE_BEFORE: note}
    named = {key.replace("__", "/"): value for key, value in labels.items()}
    return {"metadata": {"name": name, "uid": "u-1", "labels": {**named}, "annotations": notes}}


def of(group: str) -> dict[str, str]:
    return {BELONGING: group}


@pytest.mark.parametrize(
    ("groups", "labels", "expected"),
    [
        ((a_group("west", "edge-1"),), {}, "west"),
        ((a_group("west", labels={"site": "w"}),), {"site": "w"}, "west"),
        ((a_group("west", labels={"site": "w", "x": "1"}),), {"site": "w"}, ""),
        ((a_group("west", "edge-2"),), of("west"), ""),
        ((a_group("west"),), {}, ""),
        ((a_group("b", "edge-1", created=1), a_group("a", "edge-1", created=2)), {}, "b"),
        ((a_group("b", "edge-1"), a_group("a", "edge-1")), {}, "a"),
        ((a_group("b", "edge-1"), a_group("a", "edge-1")), of("b"), "b"),
        ((a_group("a"), a_group("b", "edge-1")), of("a"), "b"),
        ((a_group("west", "edge-1", is_deleting=True),), of("west"), ""),
        ((a_group("west", "edge-1", is_held=False),), {}, ""),
        ((), of("of-nobody"), "of-nobody"),
        ((a_group("west", "edge-1"),), of("of-nobody"), "west"),
    ],
)
def test_a_node_belongs_to_one_group(
    groups: tuple[Group, ...], labels: dict[str, str], expected: str
) -> None:
    assert assigned(groups, {"edge-1": NodeView(labels, "")}) == {"edge-1": expected}


def test_a_group_is_read_as_it_is_written() -> None:
    document: JsonObject = {
        "metadata": {
            "name": "west",
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "finalizers": [FINALIZER],
            "deletionTimestamp": "2026-01-02T00:00:00Z",
        },
        "spec": {"nodes": ["edge-1"], "matchLabels": {"site": "w"}, "topologyEnabled": True},
    }
    group = Group.read(document)
    assert group.nodes == frozenset({"edge-1"})
    assert group.labels == {"site": "w"}
    assert group.is_zone
    assert group.is_deleting
    assert group.is_held
    assert not group.chooses("edge-1", {})
    assert Group.read({}) == Group("", "", frozenset(), {}, False, False, False)


@pytest.mark.parametrize(
    ("node", "group", "name", "labels", "notes"),
    [
        (a_node(), a_group(), "west", {BELONGING: "west"}, None),
        (a_node(**of("west")), None, "", {BELONGING: None}, None),
        (a_node(), a_group(is_zone=True), "west", {BELONGING: "west", ZONE: "west"}, ""),
        (a_node(**{ZONE: "r7"}), a_group(is_zone=True), "west",
         {BELONGING: "west", ZONE: "west"}, "r7"),
        (a_node(note="r7", **of("west"), **{ZONE: "west"}), None, "",
         {BELONGING: None, ZONE: "r7"}, None),
        (a_node(note="", **of("west"), **{ZONE: "west"}), None, "",
         {BELONGING: None, ZONE: None}, None),
        (a_node(note="r7", **of("west"), **{ZONE: "west"}), a_group("east", is_zone=True), "east",
         {BELONGING: "east", ZONE: "east"}, "r7"),
        (a_node(**of("west"), **{ZONE: "west"}), a_group(is_zone=True), "west", None, ""),
    ],
)  # fmt: skip
def test_a_node_says_its_group_and_gets_its_zone_back(
    node: JsonObject,
    group: Group | None,
    name: str,
    labels: JsonObject | None,
    notes: str | None,
) -> None:
    patch: Any = node_patch(node, group, name)
    assert patch["metadata"].get("labels") == labels
    before: Any = node["metadata"]
    noted = patch["metadata"].get("annotations", before["annotations"])
    assert noted.get(ZONE_BEFORE) == notes


@pytest.mark.parametrize(
    ("node", "group", "name"),
    [
        (a_node(), None, ""),
        (a_node(**of("west")), a_group(), "west"),
        (a_node(**{ZONE: "r7"}, **of("west")), a_group(), "west"),
        (a_node(note="r7", **{ZONE: "west"}, **of("west")), a_group(is_zone=True), "west"),
    ],
)
def test_a_node_that_says_it_already_is_left_alone(
    node: JsonObject, group: Group | None, name: str
) -> None:
    assert node_patch(node, group, name) is None


def test_a_group_says_who_is_a_member_who_is_not_and_why() -> None:
    ready: JsonObject = {"conditions": [{"type": "Ready", "status": "True"}]}
    documents = (
        {**a_node("edge-1"), "status": ready},
        a_node("edge-2"),
        a_node("edge-3"),
    )
    nodes = {f"edge-{at}": NodeView.read(item) for at, item in enumerate(documents, 1)}
    group = a_group("west", "edge-3", "edge-9", "edge-2", "edge-1", "")
    holders = {"edge-1": "west", "edge-2": "east", "edge-3": "west"}
    statuses = node_statuses(group, holders, nodes, {"edge-3": "the API says no"})
    assert statuses == [
        {"nodeName": "edge-1", "readyStatus": "Ready", "selectionStatus": "Succeeded"},
        {
            "nodeName": "edge-2",
            "readyStatus": "Unknown",
            "selectionStatus": "Failed",
            "selectionStatusReason": "node edge-2 belongs to NodeGroup east",
        },
        {
            "nodeName": "edge-3",
            "readyStatus": "Unknown",
            "selectionStatus": "Failed",
            "selectionStatusReason": "the API says no",
        },
        {
            "nodeName": "edge-9",
            "readyStatus": "Unknown",
            "selectionStatus": "Failed",
            "selectionStatusReason": "node does not exist",
        },
    ]
    assert len(newly_failed(None, statuses)) == 3
    assert newly_failed(statuses[:2], statuses) == [
        "edge-3: the API says no",
        "edge-9: node does not exist",
    ]
    assert newly_failed(statuses, statuses) == []


names = st.sampled_from(["a", "b", "c"])
some_nodes = st.dictionaries(
    st.sampled_from(["edge-1", "edge-2", "edge-3"]),
    st.tuples(st.sampled_from(["", "a", "b", "x"]), st.sampled_from(["", "a", "r7"])),
)
some_groups = st.lists(
    st.builds(
        a_group,
        names,
        st.sampled_from(["edge-1", "edge-2"]),
        created=st.integers(0, 3),
        is_zone=st.booleans(),
        is_deleting=st.booleans(),
        is_held=st.booleans(),
    ),
    unique_by=lambda group: group.name,
)


def views(nodes: dict[str, JsonObject]) -> dict[str, NodeView]:
    return {name: NodeView.read(node) for name, node in nodes.items()}


def apply(node: Any, patch: Any) -> JsonObject:
    """What a merge patch makes of a Node."""
    meta = dict(node["metadata"])
    for field in ("labels", "annotations"):
        merged = {**meta[field], **patch["metadata"].get(field, {})}
        meta[field] = {key: value for key, value in merged.items() if value is not None}
    return {"metadata": meta}


@given(some_groups, some_nodes)
def test_one_round_is_enough_and_who_belongs_stays(
    groups: list[Group], given_nodes: dict[str, tuple[str, str]]
) -> None:
    nodes: dict[str, JsonObject] = {}
    for name, (holder, zone) in given_nodes.items():
        labels = {key: value for key, value in ((BELONGING, holder), (ZONE, zone)) if value}
        nodes[name] = a_node(name, **labels)
    known = {group.name: group for group in groups}
    wanted = assigned(groups, views(nodes))
    assert set(wanted) == set(nodes)
    for name, group in wanted.items():
        patch = node_patch(nodes[name], known.get(group), group)
        if patch is not None:
            nodes[name] = apply(nodes[name], patch)
    assert assigned(groups, views(nodes)) == wanted
    for name, group in wanted.items():
        assert node_patch(nodes[name], known.get(group), group) is None
        if group in known:
            assert known[group].chooses(name, {})


@given(st.sampled_from(["", "r7", "rack-9"]), st.sampled_from(["west", "east"]))
def test_a_node_that_came_and_went_is_as_it_was(zone: str, name: str) -> None:
    node = a_node(**({ZONE: zone} if zone else {}))
    came = node_patch(node, a_group(name, "edge-1", is_zone=True), name)
    assert came is not None
    inside = apply(node, came)
    went = node_patch(inside, None, "")
    assert went is not None
    assert apply(inside, went) == node
