"""Pods of a node that runs none: kept, deleted when they are to go, also across cuts and restarts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gateway.errors import NotFound
from tests.cloud_rig import CloudCore, a_cloud, eventually
from tests.integration.edge_node import a_node
from tests.integration.edge_support import until
from tests.integration.test_metaserver_cloud import an_edge


async def make_pod(cloud: CloudCore, name: str) -> None:
    pod: Any = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"nodeName": "edge-1", "containers": [{"name": "c", "image": "i"}]},
    }
    await cloud.kube.create("v1", "pods", "default", pod)


async def is_gone(cloud: CloudCore, name: str) -> bool:
    try:
        await cloud.kube.get("v1", "pods", "default", name)
    except NotFound:
        return True
    return False


async def is_ending(cloud: CloudCore, name: str) -> bool:
    pod: Any = await cloud.kube.get("v1", "pods", "default", name)
    return "deletionTimestamp" in pod["metadata"]


async def test_a_pod_that_was_never_run_goes_when_it_is_deleted(tmp_path: Path) -> None:
    async with a_cloud(tmp_path / "cloud") as cloud, an_edge(cloud, tmp_path / "edge") as node:
        await make_pod(cloud, "p1")

        async def is_kept() -> bool:
            return bool(await node.core.meta.list("pod"))

        await eventually(is_kept)
        await cloud.kube.delete("v1", "pods", "default", "p1")
        await eventually(lambda: is_gone(cloud, "p1"))

        async def is_off_the_disk() -> bool:
            return not await node.core.meta.list("pod")

        await eventually(is_off_the_disk)


async def test_a_pod_deleted_while_the_edge_was_down_goes_when_it_is_back(tmp_path: Path) -> None:
    async with a_cloud(tmp_path / "cloud") as cloud:
        async with an_edge(cloud, tmp_path / "edge") as node:
            await make_pod(cloud, "p1")

            async def is_kept() -> bool:
                return bool(await node.core.meta.list("pod"))

            await eventually(is_kept)
        await cloud.kube.delete("v1", "pods", "default", "p1")
        assert await is_ending(cloud, "p1")
        hub = cloud.wss.removeprefix("wss://")
        async with a_node(tmp_path / "edge", server=hub) as node:
            await until(lambda: node.core.hub.is_connected)
            await eventually(lambda: is_gone(cloud, "p1"))
