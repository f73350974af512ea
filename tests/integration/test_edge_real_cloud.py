"""A real EdgeCore at a real CloudCore, over TLS, in one loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from edge.identity import Identity, NodeSettings
from edge.join import JoinRequest, join
from gateway.model.json import JsonObject
from tests.cloud_rig import CloudCore, a_cloud, apply_device, apply_model, eventually
from tests.cloud_samples import DEVICES, a_device
from tests.integration.edge_node import Node, a_node
from tests.integration.edge_support import until

TWIN = "default:lamp"


async def join_cloud(
    cloud: CloudCore, data_dir: Path, node: str = "edge-1", *, replace: bool = False
) -> NodeSettings:
    """Join without saying where the hub is."""
    request = JoinRequest(cloud=cloud.https, token=await cloud.token(replace=replace), node=node)
    return await asyncio.to_thread(join, request, Identity(data_dir))


@asynccontextmanager
async def a_joined_node(
    cloud: CloudCore, data_dir: Path, node: str = "edge-1", *, replace: bool = False
) -> AsyncIterator[Node]:
    await join_cloud(cloud, data_dir, node, replace=replace)
    async with a_node(data_dir, drivers={}) as running:
        await until(lambda: running.core.hub.is_connected and running.core.node.is_registered)
        yield running


async def level_is(cloud: CloudCore, value: int) -> None:
    async def shown() -> bool:
        thing = await cloud.thing(TWIN)
        level = (thing or {}).get("features", {}).get("level", {})
        return bool(level.get("properties", {}).get("value") == value)

    await eventually(shown, f"level {value}")


async def has_lamp(node: Node) -> None:
    await until(lambda: [m.id for m in node.core.twin.members()] == ["default/lamp"])


async def test_the_cloud_says_where_its_hub_is(tmp_path: Path) -> None:
    async with a_cloud(tmp_path / "cloud") as cloud:
        joined = await join_cloud(cloud, tmp_path / "edge")
        port = cloud.process.endpoints.port("cloudhub.wss")
        assert joined.server == f"localhost:{port}"


async def test_an_edge_that_joined_anew_with_an_empty_disk_is_heard_at_once(tmp_path: Path) -> None:
    async with a_cloud(tmp_path / "cloud") as cloud:
        await apply_model(cloud)
        await apply_device(cloud, a_device())
        async with a_joined_node(cloud, tmp_path / "first") as node:
            await has_lamp(node)
            for level in ("1", "2", "3"):
                await node.report("lamp", level=level)
            await level_is(cloud, 3)
        async with a_joined_node(cloud, tmp_path / "second", replace=True) as node:
            await has_lamp(node)
            await node.report("lamp", level="9")
            await level_is(cloud, 9)


async def test_an_edge_that_lost_its_database_alone_is_heard_at_once(tmp_path: Path) -> None:
    async with a_cloud(tmp_path / "cloud") as cloud:
        await apply_model(cloud)
        await apply_device(cloud, a_device())
        async with a_joined_node(cloud, tmp_path / "edge") as node:
            await has_lamp(node)
            for level in ("1", "2", "3"):
                await node.report("lamp", level=level)
            await level_is(cloud, 3)
        for file in (tmp_path / "edge" / "edge").glob("edge.db*"):
            file.unlink()
        async with a_node(tmp_path / "edge", drivers={}) as node:
            await has_lamp(node)
            await node.report("lamp", level="9")
            await level_is(cloud, 9)


async def test_a_device_that_moved_to_another_node_is_heard_from_there(tmp_path: Path) -> None:
    async with a_cloud(tmp_path / "cloud") as cloud:
        await apply_model(cloud)
        await apply_device(cloud, a_device())
        async with (
            a_joined_node(cloud, tmp_path / "one", "edge-1") as one,
            a_joined_node(cloud, tmp_path / "two", "edge-2") as two,
        ):
            await has_lamp(one)
            for level in ("1", "2", "3"):
                await one.report("lamp", level=level)
            await level_is(cloud, 3)
            move: JsonObject = {"spec": {"nodeName": "edge-2"}}
            await cloud.kube.patch(DEVICES, "devices", "default", "lamp", move)
            await has_lamp(two)
            await two.report("lamp", level="9")
            await level_is(cloud, 9)
