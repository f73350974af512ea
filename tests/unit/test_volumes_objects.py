"""ConfigMaps and Secrets of Pods: when they are asked for, kept and dropped."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.pods.objects import FRESH_SECONDS, PodObjects
from edge.pods.podspec import Pod
from gateway.errors import Forbidden, NotFound, StoreUnavailable
from gateway.model.json import Json, JsonObject
from gateway.wire.cloudedge.names import Operation, Source
from gateway.wire.cloudedge.subjects import Subject
from gateway.wire.cloudedge.to_edge import ObjectChanged
from tests.volume_rig import TableApi, pod_with


class _Node:
    def __init__(self) -> None:
        self.api = TableApi()
        self.now = 0.0
        self.objects = PodObjects(self.api, lambda: self.now)
        self.told: list[frozenset[str]] = []
        self.objects.on_change(self.told.append)

    async def value(self, name: str = "c") -> str:
        item = await self.objects.configmap("default", name)
        data = item["data"]
        assert isinstance(data, dict)
        return str(data["v"])

    def put(self, value: str, version: int = 1, **more: bool) -> JsonObject:
        return self.api.put("configmap", "c", version, data={"v": value}, **more)

    def push(self, item: JsonObject, operation: Operation = Operation.UPDATE) -> None:
        subject = Subject("default", "configmap", "c")
        change = ObjectChanged(subject, operation, item, "", Source.EDGE_CONTROLLER)
        self.objects.object_changed(change, None)


def using(name: str = "c", uid: str = "u1") -> Pod:
    return pod_with({"name": "v", "configMap": {"name": name}}, uid=uid)


@pytest.fixture
def node() -> _Node:
    return _Node()


async def test_an_object_is_asked_for_once(node: _Node) -> None:
    node.put("1")
    node.objects.use(using())
    found = await asyncio.gather(*(node.value() for _ in range(5)))
    assert found == ["1"] * 5
    assert len(node.api.queries) == 1


async def test_a_new_pod_asks_anew(node: _Node) -> None:
    node.put("1")
    node.objects.use(using())
    await node.value()
    node.put("2")
    node.objects.use(using())
    assert await node.value() == "1", "the same Pod again"
    node.objects.use(using(uid="u2"))
    assert await node.value() == "2"


async def test_a_push_takes_the_place_of_a_question(node: _Node) -> None:
    node.objects.use(using())
    node.push(node.put("pushed"))
    node.api.items.clear()
    assert await node.value() == "pushed"
    assert node.told == [frozenset({"u1"})]


async def test_a_push_while_a_question_is_under_way_wins(node: _Node) -> None:
    old, gate = node.put("old", 1), asyncio.Event()

    async def slow(subject: Subject, content: Json = None) -> JsonObject:
        await gate.wait()
        return old

    node.api.query = slow  # type: ignore[method-assign]
    node.objects.use(using())
    asking = asyncio.create_task(node.value())
    await asyncio.sleep(0)
    node.push(node.put("new", 2))
    gate.set()
    assert await asking == "new"


async def test_what_no_pod_uses_is_not_kept(node: _Node) -> None:
    node.push(node.put("1"))
    assert node.objects.kept == frozenset()
    assert node.told == []
    node.objects.use(using())
    node.objects.use(using(uid="u2"))
    node.objects.forget("u1")
    assert len(node.objects.kept) == 1
    node.objects.forget("u2")
    node.objects.forget("u2")
    assert node.objects.kept == frozenset()


async def test_a_pod_that_names_other_objects_drops_the_first(node: _Node) -> None:
    node.objects.use(using("c"))
    node.objects.use(using("d"))
    assert node.objects.kept == {Subject("default", "configmap", "d")}


async def test_what_is_deleted_is_not_there(node: _Node) -> None:
    item = node.put("1")
    node.objects.use(using())
    await node.value()
    node.api.items.clear()
    node.push(item, Operation.DELETE)
    with pytest.raises(NotFound, match=r'^configmap "c" not found$'):
        await node.value()


async def test_what_came_long_ago_is_asked_for_again_but_for_what_cannot_change(
    node: _Node,
) -> None:
    node.put("1")
    node.objects.use(using())
    await node.value()
    node.put("2", immutable=True)
    node.objects.look_again("u1")
    assert await node.value() == "1", "it is fresh"
    node.now += FRESH_SECONDS + 1
    node.objects.look_again("u1")
    assert await node.value() == "2"
    node.put("3")
    node.now += FRESH_SECONDS + 1
    node.objects.look_again("u1")
    assert await node.value() == "2", "it is immutable"


async def test_the_last_is_used_while_the_api_fails_and_not_where_it_refuses(node: _Node) -> None:
    node.put("1")
    node.objects.use(using())
    await node.value()
    node.objects.use(using(uid="u2"))
    node.api.fault = StoreUnavailable("disk")
    assert await node.value() == "1"
    node.api.fault = Forbidden("no")
    with pytest.raises(Forbidden):
        await node.value()


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["use", "forget", "push", "delete", "read"]), st.sampled_from("ab")
        ),
        max_size=30,
    )
)
def test_exactly_what_pods_use_is_kept(steps: list[tuple[str, str]]) -> None:
    async def walk() -> None:
        node = _Node()
        users: set[str] = set()
        item = node.put("1")
        for step, uid in steps:
            if step == "use":
                node.objects.use(using(uid=uid))
                users.add(uid)
            elif step == "forget":
                node.objects.forget(uid)
                users.discard(uid)
            elif step == "read":
                assert await node.value() == "1"
            else:
                node.push(item, Operation.DELETE if step == "delete" else Operation.UPDATE)
                assert not users or node.told[-1] == users
            assert bool(node.objects.kept) == bool(users)

    asyncio.run(walk())
