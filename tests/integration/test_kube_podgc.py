"""Pods that nobody ends any more, on the embedded API."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from gateway.errors import NotFound
from gateway.kube.client import EventType, KubeClient
from gateway.kube.control.podgc import QUARANTINE_SECONDS, PodCollector
from gateway.model.json import JsonObject
from tests.cloud_samples import a_node
from tests.control_rig import ControlRig
from tests.kube_server import kube_server

PODS = ("v1", "pods", "default")


def a_pod(name: str, node: str = "", **metadata: Any) -> JsonObject:
    spec: JsonObject = {"containers": [{"name": "c", "image": "reg/app:1"}]}
    return {
        "metadata": {"name": name, **metadata},
        "spec": spec | ({"nodeName": node} if node else {}),
    }


async def names(client: KubeClient) -> list[str]:
    items = (await client.list(*PODS)).items
    return sorted(str(item["metadata"]["name"]) for item in items)  # type: ignore[index,call-overload]


class Collecting:
    def __init__(self, client: KubeClient, max_ended: int) -> None:
        self.client = client
        self.rig = ControlRig(client)
        self.collector = PodCollector(self.rig.context, clock=self.rig.clock, max_ended=max_ended)

    async def look(self, seconds: float) -> None:
        """Look at everything once the mirrors show what is there."""
        mirrors = self.rig.context.mirrors
        for plural in ("pods", "nodes"):
            there = (await self.client.list("v1", plural)).items
            wanted = {(plural, str(item["metadata"]["resourceVersion"])) for item in there}  # type: ignore[index,call-overload]

            def shown(plural: str = plural) -> set[tuple[str, str]]:
                objects = mirrors.of("v1", plural).objects.values()
                return {(plural, str(item["metadata"]["resourceVersion"])) for item in objects}  # type: ignore[index,call-overload]

            await self.rig.seen(lambda: shown() == wanted)  # noqa: B023  awaited here
        self.rig.clock.seconds = seconds
        await self.collector.look()


@asynccontextmanager
async def collecting(folder: Path, max_ended: int = 100) -> AsyncIterator[Collecting]:
    async with kube_server(folder) as server:
        found = Collecting(server.api.client("tester"), max_ended)
        async with found.rig.running():
            yield found


async def test_pods_go_some_time_after_their_node_also_those_that_were_to_end(
    tmp_path: Path,
) -> None:
    async with collecting(tmp_path) as at:
        client = at.client
        for node in ("edge-1", "edge-2"):
            await client.create("v1", "nodes", None, a_node(node))
        for pod in (a_pod("a", "edge-1"), a_pod("b", "edge-1"), a_pod("c", "edge-2")):
            await client.create(*PODS, pod)
        await client.delete(*PODS, "b")
        await at.look(0.0)
        await client.delete("v1", "nodes", None, "edge-1")
        await at.look(100.0)
        await at.look(100.0 + QUARANTINE_SECONDS - 1)
        assert await names(client) == ["a", "b", "c"]
        version = (await client.list(*PODS)).resource_version
        await at.look(100.0 + QUARANTINE_SECONDS)
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
    async with collecting(tmp_path) as at:
        client = at.client
        await client.create(*PODS, a_pod("a", "edge-1"))
        await at.look(0.0)
        await client.create("v1", "nodes", None, a_node("edge-1"))
        await at.look(30.0)
        await client.delete("v1", "nodes", None, "edge-1")
        await at.look(60.0)
        assert await names(client) == ["a"]
        await at.look(60.0 + QUARANTINE_SECONDS)
        assert await names(client) == []


async def test_a_finalizer_keeps_a_lost_pod_and_its_last_state_once(tmp_path: Path) -> None:
    async with collecting(tmp_path) as at:
        client = at.client
        await client.create(*PODS, a_pod("a", "edge-1", finalizers=["example/hold"]))
        await at.look(0.0)
        await at.look(QUARANTINE_SECONDS)
        held = await client.get(*PODS, "a")
        assert held["status"]["phase"] == "Failed"  # type: ignore[index,call-overload]
        await at.look(QUARANTINE_SECONDS * 2)
        assert await client.get(*PODS, "a") == held
        await client.patch(*PODS, "a", {"metadata": {"finalizers": None}})
        try:
            await client.get(*PODS, "a")
        except NotFound:
            return
        raise AssertionError("the pod stayed")


async def test_of_too_many_ended_pods_evicted_ones_and_then_the_oldest_go(tmp_path: Path) -> None:
    async with collecting(tmp_path, max_ended=2) as at:
        client = at.client
        await client.create("v1", "nodes", None, a_node("edge-1"))
        for name, phase, reason in (
            ("a", "Succeeded", None),
            ("b", "Failed", None),
            ("c", "Failed", "Evicted"),
            ("d", "Succeeded", None),
            ("e", "Running", None),
        ):
            await client.create(*PODS, a_pod(name, "edge-1"))
            status: JsonObject = {"status": {"phase": phase, "reason": reason}}
            await client.patch(*PODS, name, status, subresource="status")
        await at.look(0.0)
        assert await names(client) == ["b", "d", "e"]


async def test_pods_of_a_node_out_of_service_that_are_to_end_are_ended(tmp_path: Path) -> None:
    async with collecting(tmp_path) as at:
        client = at.client
        node = a_node("edge-1")
        taint: JsonObject = {"key": "node.kubernetes.io/out-of-service", "effect": "NoExecute"}
        node["spec"] = {"taints": [taint]}
        unknown: JsonObject = {"type": "Ready", "status": "Unknown"}
        node["status"] = {"conditions": [unknown]}
        await client.create("v1", "nodes", None, node)
        await client.create(*PODS, a_pod("a", "edge-1"))
        await client.create(*PODS, a_pod("b", "edge-1"))
        await client.delete(*PODS, "a")
        await at.look(0.0)
        assert await names(client) == ["b"]
