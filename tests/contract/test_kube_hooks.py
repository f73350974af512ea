"""Rules of other rooms on what is written: asked for every way of writing, in process and over HTTPS."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.errors import BadRequest, NotFound
from gateway.kube.client import EventType, KubeClient, PatchType
from gateway.kube.hooks import Opinion, Review
from gateway.model.json import JsonObject
from tests.contract.test_kube_client import DEVICES, a_device, client, server
from tests.kube_server import KubeServer

__all__ = ["client", "server"]

KIND = "devices.devices.kubeedge.io"
OLD = ("devices.kubeedge.io/v1alpha2", "devices")


class Judge:
    """Refuses devices of node `bad`; remembers what it was asked about."""

    def __init__(self, server: KubeServer) -> None:
        self.asked: list[Review] = []
        server.api.hooks.judge(KIND, "judge.example.org", self)

    async def __call__(self, review: Review) -> Opinion:
        self.asked.append(review)
        spec: Any = review.item["spec"]
        return Opinion("bad node" if spec.get("nodeName") == "bad" else "")


REFUSED = 'admission webhook "judge.example.org" denied the request: bad node'


async def test_every_way_of_writing_is_judged(server: KubeServer, client: KubeClient) -> None:
    judge = Judge(server)
    with pytest.raises(BadRequest) as caught:
        await client.create(*DEVICES, "default", a_device(node="bad"))
    assert caught.value.message == REFUSED
    assert caught.value.details.get("reason") == ""
    with pytest.raises(NotFound):
        await client.get(*DEVICES, "default", "lamp")
    made: Any = await client.create(*DEVICES, "default", a_device())
    to_bad: JsonObject = {"spec": {"nodeName": "bad"}}
    with pytest.raises(BadRequest, match="bad node"):
        await client.update(
            *DEVICES, "default", {**made, "spec": {**made["spec"], "nodeName": "bad"}}
        )
    with pytest.raises(BadRequest, match="bad node"):
        await client.patch(*DEVICES, "default", "lamp", to_bad)
    applied: JsonObject = {
        "apiVersion": DEVICES[0],
        "kind": "Device",
        "metadata": {"name": "lamp"},
        **to_bad,
    }
    with pytest.raises(BadRequest, match="bad node"):
        await client.patch(
            *DEVICES, "default", "lamp", applied, patch_type=PatchType.APPLY, force=True
        )
    with pytest.raises(BadRequest, match="bad node"):
        await client.create(
            *OLD, "default", {**a_device("other", node="bad"), "apiVersion": OLD[0]}
        )
    now: Any = await client.get(*DEVICES, "default", "lamp")
    assert now["spec"]["nodeName"] == "edge-1"
    assert [review.old is None for review in judge.asked] == [True, True, False, False, False, True]


async def test_what_was_stored_before_a_rule_came_does_not_get_stuck(
    server: KubeServer, client: KubeClient
) -> None:
    await client.create(*DEVICES, "default", a_device(node="bad"))
    judge = Judge(server)
    await client.patch(*DEVICES, "default", "lamp", {"metadata": {"labels": {"a": "b"}}})
    await client.delete(*DEVICES, "default", "lamp")
    assert not judge.asked


async def test_objects_are_completed_before_they_are_judged_and_stored(
    server: KubeServer, client: KubeClient
) -> None:
    def moved(item: JsonObject) -> JsonObject:
        spec: Any = item["spec"]
        return {**item, "spec": {**spec, "nodeName": "good"}} if spec["nodeName"] == "bad" else item

    server.api.hooks.change(KIND, "mover", moved)
    judge = Judge(server)
    made: Any = await client.create(*DEVICES, "default", a_device(node="bad"))
    assert made["spec"]["nodeName"] == "good"
    await client.patch(*DEVICES, "default", "lamp", {"spec": {"nodeName": "edge-2"}})
    back: Any = await client.patch(*DEVICES, "default", "lamp", {"spec": {"nodeName": "bad"}})
    assert back["spec"]["nodeName"] == "good"
    names = [item.item["spec"]["nodeName"] for item in judge.asked]  # type: ignore[index,call-overload]
    assert names == ["good", "edge-2", "good"]


async def test_warnings_are_worked_out_for_those_who_read_them(
    server: KubeServer, client: KubeClient, request: pytest.FixtureRequest
) -> None:
    judge = Judge(server)
    await client.create(*DEVICES, "default", a_device())
    is_remote = request.node.callspec.params["client"] == "remote"
    assert [review.wants_warnings for review in judge.asked] == [is_remote]


async def test_a_rule_of_the_same_name_takes_the_place(
    server: KubeServer, client: KubeClient
) -> None:
    first, second = Judge(server), Judge(server)
    await client.create(*DEVICES, "default", a_device())
    assert (len(first.asked), len(second.asked)) == (0, 1)


async def test_a_watch_shows_the_version_that_it_asked_for(client: KubeClient) -> None:
    watch = client.watch(*DEVICES, "default")
    try:
        assert (await anext(watch)).type is EventType.BOOKMARK
        await client.create(*OLD, "default", {**a_device(), "apiVersion": OLD[0]})
        event = await anext(watch)
        assert event.object["apiVersion"] == DEVICES[0]
    finally:
        await watch.aclose()  # type: ignore[attr-defined]
    found: Any = (await client.list(*OLD, "default")).items
    assert [item["spec"]["nodeName"] for item in found] == ["edge-1"]
