"""Who depends on whom; which kinds there are; what a namespace says while it goes."""

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import Gone, Undeliverable
from gateway.kube.client import EventType, KubeClient, ObjectList, WatchEvent
from gateway.kube.control.discovered import discover
from gateway.kube.control.follower import Follower
from gateway.model.json import Json, JsonObject
from gateway.wire.kube.namespaces import Content, conditions
from gateway.wire.kube.owners import (
    FOREGROUND,
    ORPHAN,
    Graph,
    node_of,
    waits_for_dependents,
    without_owners,
)

PLACE = "v1", "configmaps"


def item(uid: str, *owners: str, **meta: Json) -> JsonObject:
    metadata: JsonObject = {"uid": uid, "name": f"n-{uid}", "namespace": "n", **meta}
    if owners:
        metadata["ownerReferences"] = [{"uid": owner, "name": f"n-{owner}"} for owner in owners]
    return {"metadata": metadata}


# --- the graph --------------------------------------------------------------------------------------


def test_what_has_no_part_in_ownership_is_no_node() -> None:
    assert node_of(PLACE, item("a")) is None
    assert node_of(PLACE, item("a", deletionTimestamp="now")) is None
    assert node_of(PLACE, item("a", finalizers=[ORPHAN])) is None


def test_an_object_waits_for_its_orphans_before_its_dependents() -> None:
    both: list[Json] = [FOREGROUND, ORPHAN]
    waiting = item("a", deletionTimestamp="now", finalizers=both)
    found = node_of(PLACE, waiting)
    assert found is not None
    assert found.waits_for == ORPHAN
    assert not waits_for_dependents(waiting)
    assert waits_for_dependents(item("a", deletionTimestamp="now", finalizers=[FOREGROUND]))


def test_only_those_that_say_so_block_their_owner() -> None:
    graph = Graph()
    for uid, blocks in (("a", True), ("b", False)):
        one = item(uid, "o")
        cast(Any, one)["metadata"]["ownerReferences"][0]["blockOwnerDeletion"] = blocks
        node = node_of(PLACE, one)
        assert node is not None
        graph.put(node)
    assert [node.uid for node in graph.blocking("o")] == ["a"]
    assert without_owners(item("a", "o", "p"), frozenset("o")) == [{"uid": "p", "name": "n-p"}]


uids = st.sampled_from("abcdef")


@settings(deadline=None)
@given(st.lists(st.tuples(uids, st.sets(uids, max_size=3), st.booleans()), max_size=40))
def test_the_graph_knows_the_dependents_of_the_newest_states(
    changes: list[tuple[str, set[str], bool]],
) -> None:
    graph, model = Graph(), dict[str, set[str]]()
    for uid, owners, is_gone in changes:
        node = node_of(PLACE, item(uid, *sorted(owners)))
        if is_gone or node is None:
            graph.drop(uid)
            model.pop(uid, None)
        else:
            graph.put(node)
            model[uid] = owners
    assert len(graph) == len(model)
    for owner in "abcdef":
        expected = {uid for uid, owners in model.items() if owner in owners}
        assert {node.uid for node in graph.dependents(owner)} == expected
        assert graph.is_owner(owner) is bool(expected)
    assert {node.uid for node in graph.of(PLACE)} == set(model)


# --- following --------------------------------------------------------------------------------------


class Passing:
    """A collection of two pages; its first watch has forgotten the past."""

    def __init__(self) -> None:
        self.lists = 0
        self.watches = 0

    async def list(self, *_at: object, page: str | None = None, **_how: object) -> ObjectList:
        if page is None:
            self.lists += 1
            return ObjectList([item(f"{self.lists}a")], "", "more")
        return ObjectList([item("b")], "7")

    async def watch(self, *_at: object, **_how: object) -> AsyncIterator[WatchEvent]:
        self.watches += 1
        if self.watches == 1:
            raise Gone("too old")
        yield WatchEvent(EventType.DELETED, item("b"), "8")
        yield WatchEvent(EventType.BOOKMARK, {}, "9")
        await asyncio.Event().wait()


async def test_a_follower_tells_of_all_and_lists_again_when_the_past_is_gone() -> None:
    told: list[str] = []
    listed: list[dict[str, str]] = []
    is_gone = asyncio.Event()

    def gone(uid: str) -> None:
        told.append(f"-{uid}")
        is_gone.set()

    follower = Follower(
        cast(KubeClient, Passing()),
        PLACE,
        seen=lambda one: told.append(str(cast(Any, one)["metadata"]["uid"])),
        gone=gone,
        listed=listed.append,
    )
    async with asyncio.TaskGroup() as group:
        task = group.create_task(follower.run(lambda: None))
        async with asyncio.timeout(10):
            await is_gone.wait()
        task.cancel()
    assert told == ["1a", "b", "2a", "b", "-b"]
    assert listed == [{"1a": "n", "b": "n"}, {"2a": "n", "b": "n"}]


# --- discovery --------------------------------------------------------------------------------------


def a_resource(plural: str, kind: str, scope: str, *verbs: str) -> JsonObject:
    return {
        "resource": plural,
        "responseKind": {"kind": kind},
        "scope": scope,
        "verbs": list[Json](verbs),
    }


async def test_kinds_are_found_in_the_version_that_is_preferred() -> None:
    pods = a_resource("pods", "Pod", "Namespaced", "list", "watch", "delete")
    lamps = a_resource("lamps", "Lamp", "Cluster", "list")
    documents: dict[str, list[Json]] = {
        "/api": [{"metadata": {}, "versions": [{"version": "v1", "resources": [pods]}]}],
        "/apis": [
            {
                "metadata": {"name": "example.org"},
                "versions": [
                    {"version": "v2", "freshness": "Stale", "resources": [lamps]},
                    {"version": "v1", "resources": [lamps, {**lamps, "resource": "old"}]},
                ],
            }
        ],
    }

    async def read(path: str, **_how: object) -> bytes:
        body = {"kind": "APIGroupDiscoveryList", "items": documents[path]}
        return msgspec.json.encode(body)

    found = await discover(cast(KubeClient, SimpleNamespace(read=read)))
    assert [str(kind) for kind in found.kinds] == [
        "/v1, Resource=pods",
        "example.org/v2, Resource=lamps",
        "example.org/v1, Resource=old",
    ]
    assert found.failed == ("example.org/v2",)
    lamp = found.of("example.org/v7", "Lamp")
    assert lamp is not None
    assert lamp.place == ("example.org/v2", "lamps")
    assert lamp.may("list")
    assert not lamp.may("list", "delete")
    assert found.of("v1", "Lamp") is None


@pytest.mark.parametrize("body", [b"<html>", b'{"kind":"APIGroupList"}'])
async def test_a_server_without_aggregated_discovery_is_named(body: bytes) -> None:
    async def read(_path: str, **_how: object) -> bytes:
        return body

    with pytest.raises(Undeliverable, match="discovery"):
        await discover(cast(KubeClient, SimpleNamespace(read=read)))


# --- namespaces -------------------------------------------------------------------------------------


def test_conditions_say_what_remains_and_keep_their_time_while_nothing_changes() -> None:
    content = Content()
    content.kinds.update({"pods.": 2, "lamps.example.org": 1})
    content.finalizers.update({"b/c": 1, "a/b": 3})
    content.failures += ["second", "first"]
    first = conditions({}, content, ("x/v1",), 0.0)
    messages = [cast(Any, row)["message"] for row in first]
    assert messages == [
        "Discovery failed for some groups, 1 failing: x/v1",
        "All legacy kube types successfully parsed",
        "Failed to delete all resource types, 2 remaining: first, second",
        "Some resources are remaining: lamps.example.org has 1 resource instances,"
        " pods. has 2 resource instances",
        "Some content in the namespace has finalizers remaining:"
        " a/b in 3 resource instances, b/c in 1 resource instances",
    ]
    again = conditions({"status": {"conditions": first}}, content, ("x/v1",), 99.0)
    assert again == first
    fine = conditions({"status": {"conditions": first}}, Content(), (), 99.0)
    assert [cast(Any, row)["status"] for row in fine] == ["False"] * 5
    assert cast(Any, fine[0])["lastTransitionTime"] == "1970-01-01T00:01:39Z"
    assert cast(Any, fine[1])["lastTransitionTime"] == "1970-01-01T00:00:00Z"
    assert Content().is_empty
    assert not content.is_empty
