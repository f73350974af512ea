"""`twinspan edge devices`: from the node's disk, while EdgeCore runs and when it does not."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from click.testing import CliRunner

from gateway.cli.edge import edge as edge_command
from gateway.wire.cloudedge.twins import MemberDevice
from tests.integration.edge_cloud import a_cloud
from tests.integration.edge_node import MODEL, a_device, a_node, join_edge, linked


async def shown(data_dir: Path, *options: str) -> str:
    arguments = ["devices", "--data-dir", str(data_dir), *options]
    done = await asyncio.to_thread(CliRunner().invoke, edge_command, arguments)
    assert done.exit_code == 0, done.output
    return done.output


async def test_devices_are_listed_with_their_values(tmp_path: Path) -> None:
    folder = tmp_path / "cloud"
    folder.mkdir()
    async with a_cloud(folder) as cloud:
        cloud.members = [MemberDevice(id="default/d1", name="d1")]
        await join_edge(cloud, tmp_path / "edge")
        assert "No devices." in await shown(tmp_path / "edge")
        async with a_node(tmp_path / "edge") as node:
            await linked(node, cloud)
            await cloud.push("devicemodel", "m1", MODEL)
            await cloud.push("device", "d1", a_device(temp="20"))
            await node.report("d1", temp="18")
            async with asyncio.timeout(10):
                while "temp=18->20" not in await shown(  # noqa: ASYNC110  the disk is looked at
                    tmp_path / "edge", "-o", "wide"
                ):
                    await asyncio.sleep(0.05)
        [device] = json.loads(await shown(tmp_path / "edge", "-o", "json"))
        assert (device["namespace"], device["name"]) == ("default", "d1")
        assert device["twins"]["temp"] == {"reported": "18", "desired": "20"}
        assert device["protocol"] == "mqtt"
