"""Pods of the embedded API whose node is gone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gateway.errors import NotFound
from gateway.kube.client import EventType, KubeClient
from gateway.kube.lostpods import QUARANTINE_SECONDS, LostPods
from gateway.model.json import JsonObject
from tests.cloud_samples import a_node
from tests.kube_server import kube_server

PODS = ("v1", "pods", "default")


def a_pod(name: str, node: str, **metadata: Any) -> JsonObject:
    return {
        "metadata": {"name": name, **metadata},
        "spec": {"nodeName": node, "containers": [{"name": "c", "image": "reg/app:1"}]},
    }


async def names(client: KubeClient) -> list[str]:
    items = (await client.list(*PODS)).items
    return sorted(str(item["metadata"]["name"]) for item in items)  # type: ignore[index,call-overload]


async def test_pods_go_some_time_after_their_node_also_those_that_were_to_end(
    tmp_path: Path,
) -> None:
    async with kube_server(tmp_path) as server:
        client, lost = server.api.client("tester"), LostPods(server.api.objects)
        for node in ("edge-1", "edge-2"):
            await client.create("v1", "nodes", None, a_node(node))
        for pod in (a_pod("a", "edge-1"), a_pod("b", "edge-1"), a_pod("c", "edge-2")):
            await client.create(*PODS, pod)
        await client.delete(*PODS, "b")
        await lost.sweep(0.0)
        await client.delete("v1", "nodes", None, "edge-1")
        await lost.sweep(100.0)
        await lost.sweep(100.0 + QUARANTINE_SECONDS - 1)
        assert await names(client) == ["a", "b", "c"]
        version = (await client.list(*PODS)).resource_version
        await lost.sweep(100.0 + QUARANTINE_SECONDS)
        assert await names(client) == ["c"]
        seen = []
        async for event in client.watch(*PODS, resource_version=version):
            meta, status = event.object["metadata"], event.object["status"]
            seen.append((event.type, meta["name"], status["phase"]))  # type: ignore[index,call-overload]
            if len(seen) == 4:
                break
        assert (EventType.MODIFIED, "a", "Failed") in seen
        assert (EventType.DELETED, "a", "Failed") in seen
        assert (EventType.DELETED, "b", "Failed") in seen


async def test_a_node_that_comes_back_in_time_finds_its_pods(tmp_path: Path) -> None:
    async with kube_server(tmp_path) as server:
        client, lost = server.api.client("tester"), LostPods(server.api.objects)
        await client.create(*PODS, a_pod("a", "edge-1"))
        await lost.sweep(0.0)
        await client.create("v1", "nodes", None, a_node("edge-1"))
        await lost.sweep(30.0)
        await client.delete("v1", "nodes", None, "edge-1")
        await lost.sweep(60.0)
        assert await names(client) == ["a"]
        await lost.sweep(60.0 + QUARANTINE_SECONDS)
        assert await names(client) == []


async def test_a_finalizer_keeps_a_lost_pod_and_its_last_state_once(tmp_path: Path) -> None:
    async with kube_server(tmp_path) as server:
        client, lost = server.api.client("tester"), LostPods(server.api.objects)
        await client.create(*PODS, a_pod("a", "edge-1", finalizers=["example/hold"]))
        await lost.sweep(0.0)
        await lost.sweep(QUARANTINE_SECONDS)
        held = await client.get(*PODS, "a")
        assert held["status"]["phase"] == "Failed"  # type: ignore[index,call-overload]
        await lost.sweep(QUARANTINE_SECONDS * 2)
        assert await client.get(*PODS, "a") == held
        await client.patch(*PODS, "a", {"metadata": {"finalizers": None}})
        try:
            await client.get(*PODS, "a")
        except NotFound:
            return
        raise AssertionError("the pod stayed")
