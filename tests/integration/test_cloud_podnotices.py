"""Pods at edges that run nothing: told once, by an Event."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cloud.runtimetaint import KEY
from gateway.model.json import JsonObject
from gateway.wire.cloudedge.names import Operation
from gateway.wire.cloudedge.subjects import Subject
from tests.cloud_rig import CloudCore, a_cloud, a_node, an_edge, eventually, join
from tests.integration.test_cloud_nodegroups import a_pod

REASON = "WorkloadsNotBuilt"


async def make_node(cloud: CloudCore, name: str, runtime: str, *, is_edge: bool = True) -> None:
    node: Any = a_node(name)
    labels = node["metadata"].setdefault("labels", {})
    labels.pop("node-role.kubernetes.io/edge", None)
    if is_edge:
        labels["node-role.kubernetes.io/edge"] = ""
    await cloud.kube.create("v1", "nodes", None, node)
    info: JsonObject = {
        **(node["status"].get("nodeInfo") or {}),
        "containerRuntimeVersion": runtime,
    }
    patch: JsonObject = {"status": {"nodeInfo": info}}
    await cloud.kube.patch("v1", "nodes", None, name, patch, subresource="status")


async def told(cloud: CloudCore) -> dict[str, list[Any]]:
    """The Events by Pod."""
    found: dict[str, list[Any]] = {}
    events: list[Any] = (await cloud.kube.list("v1", "events", "default")).items
    for event in events:
        if event["reason"] == REASON:
            found.setdefault(event["involvedObject"]["name"], []).append(event)
    return found


async def test_a_pod_at_an_edge_that_runs_nothing_is_told_of_once(tmp_path: Path) -> None:
    async def is_told(cloud: CloudCore, *names: str) -> dict[str, list[Any]]:
        async def done() -> dict[str, list[Any]]:
            found = await told(cloud)
            return found if sorted(found) == sorted(names) else {}

        return await eventually(done)

    async with a_cloud(tmp_path) as cloud:
        await cloud.kube.create("v1", "pods", "default", a_pod("early", "edge-1"))
        await make_node(cloud, "edge-1", "none://")
        await make_node(cloud, "edge-2", "containerd://1.7.2")
        await make_node(cloud, "server", "none://", is_edge=False)
        for name, node in (("there", "edge-2"), ("other", "server"), ("late", "edge-1")):
            await cloud.kube.create("v1", "pods", "default", a_pod(name, node))
        (event,) = (await is_told(cloud, "early", "late"))["late"]
        assert event["type"] == "Warning"
        assert "workloads at the edge are not built" in event["message"]
        assert "edge-1" in event["message"]
    async with a_cloud(tmp_path) as cloud:
        await cloud.kube.create("v1", "pods", "default", a_pod("after", "edge-1"))
        found = await is_told(cloud, "early", "late", "after")
        assert {name: [event["count"] for event in events] for name, events in found.items()} == {
            "early": [1],
            "late": [1],
            "after": [1],
        }
        ready: JsonObject = {"status": {"phase": "Running"}}
        await cloud.kube.patch("v1", "pods", "default", "late", ready, subresource="status")
        for name in ("early", "late"):
            await cloud.kube.delete("v1", "pods", "default", name, grace_seconds=0)
        assert sorted(await told(cloud)) == ["after", "early", "late"]


async def test_an_edge_that_runs_nothing_takes_no_pods_until_it_does(tmp_path: Path) -> None:
    async with a_cloud(tmp_path) as cloud:
        certificate = await join(cloud, "edge-1")

        async def registered(runtime: str) -> list[Any]:
            node: Any = a_node("edge-1")
            node["status"]["nodeInfo"] = {"containerRuntimeVersion": runtime}
            async with an_edge(cloud, "edge-1", certificate) as edge:
                await edge.ask_object(Subject(None, "node", "edge-1"), Operation.INSERT, node)
            stored: Any = await cloud.kube.get("v1", "nodes", None, "edge-1")
            return [taint["key"] for taint in stored["spec"].get("taints") or []]

        assert await registered("none://") == [KEY]
        assert await registered("none://") == [KEY]
        mine: JsonObject = {"spec": {"taints": [{"key": "mine", "effect": "NoSchedule"}]}}
        await cloud.kube.patch("v1", "nodes", None, "edge-1", mine)
        assert await registered("none://") == ["mine", KEY]
        assert await registered("containerd://2.1.0") == ["mine"]
