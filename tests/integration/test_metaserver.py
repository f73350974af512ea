"""MetaServer over HTTP: what the Kubernetes API says at an edge, with and without its cloud."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.integration.edge_cloud import FakeCloud, a_cloud
from tests.integration.edge_node import MODEL, Node, a_device, a_node, join_edge, linked
from tests.process import tool

DEVICES = "/apis/devices.kubeedge.io/v1beta1"


@pytest.fixture
async def cloud(tmp_path: Path) -> AsyncIterator[FakeCloud]:
    folder = tmp_path / "cloud"
    folder.mkdir()
    async with a_cloud(folder) as running:
        yield running


@pytest.fixture
async def data_dir(cloud: FakeCloud, tmp_path: Path) -> Path:
    await join_edge(cloud, tmp_path / "edge")
    return tmp_path / "edge"


async def kubectl(node: Node, *args: str, home: Path, check: bool = True) -> str:
    server = f"http://{node.endpoints.get('edge.metaserver')}"
    process = await asyncio.create_subprocess_exec(
        tool("kubectl"),
        f"--server={server}",
        f"--cache-dir={home}/cache",
        *args,
        env={**os.environ, "HOME": str(home), "KUBECONFIG": "/dev/null"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    if check:
        assert process.returncode == 0, err.decode()
    return (out if process.returncode == 0 else err).decode()


async def test_kubectl_reads_devices_from_disk_while_the_cloud_is_away(
    cloud: FakeCloud, data_dir: Path, tmp_path: Path
) -> None:
    async with a_node(data_dir) as node:
        await linked(node, cloud)
        await cloud.push("devicemodel", "m1", MODEL)
        await cloud.push("device", "d1", a_device(temp="25"))
        await cloud.push("configmap", "settings", {"data": {"a": "1", "b": "2"}})
        await cloud.cut()
    async with a_node(data_dir, server="127.0.0.1:1") as node:
        table = await kubectl(node, "get", "devices", home=tmp_path)
        assert table.split()[:3] == ["NAME", "AGE", "d1"]
        text = await kubectl(node, "get", "devices", "-A", "-o", "json", home=tmp_path)
        (device,) = json.loads(text)["items"]
        assert device["kind"] == "Device"
        assert device["spec"]["nodeName"] == "edge-1"
        text = await kubectl(node, "get", "cm", "settings", "-o", "json", home=tmp_path)
        assert json.loads(text)["data"] == {"a": "1", "b": "2"}
        table = await kubectl(node, "get", "cm", home=tmp_path)
        assert table.split()[:5] == ["NAME", "DATA", "AGE", "settings", "2"]
