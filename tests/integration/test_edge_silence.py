"""A cloud whose machine is there but which says nothing: the edge must let go of the link."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from edge.core import build_edge
from gateway.config.edge import Edge, EdgeHub, EdgeMqtt
from gateway.config.edge_services import MetaServer
from gateway.config.tree import Settings
from gateway.runtime.module import running
from tests.integration.edge_cloud import a_cloud
from tests.integration.edge_node import Process, join_edge
from tests.integration.edge_support import until


async def test_a_silent_cloud_is_left_though_its_kernel_takes_every_keep_alive(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "cloud"
    folder.mkdir()
    async with a_cloud(folder) as cloud:
        await join_edge(cloud, tmp_path / "edge")
        edge = Edge(
            mqtt=EdgeMqtt(bind="127.0.0.1:0"),
            metaserver=MetaServer(bind="127.0.0.1:0"),
            hub=EdgeHub(keepalive=0.1, reconnect_cap=0.1),
        )
        core = build_edge(Process(Settings(data_dir=tmp_path / "edge", edge=edge)))
        async with AsyncExitStack() as up:
            for module in core.modules:
                await up.enter_async_context(running(module))
            await until(lambda: core.hub.is_connected and cloud.socket)
            socket: Any = cloud.socket
            transport = socket._req.transport
            transport.pause_reading()  # from now on the server is stuck
            await until(lambda: cloud.connections > 1)
            transport.abort()
