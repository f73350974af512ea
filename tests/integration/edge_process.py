"""An EdgeCore in a process of its own, for tests that kill it: run as a module with a data directory."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from edge.core import build_edge
from gateway.config.edge import Edge, EdgeHub, EdgeMqtt
from gateway.config.edge_services import MetaServer
from gateway.config.tree import Settings
from gateway.runtime.module import serve
from tests.integration.edge_node import Process


async def main(data_dir: Path) -> None:
    """Run until killed; the first line of output is the broker's port."""
    edge = Edge(
        mqtt=EdgeMqtt(bind="127.0.0.1:0"),
        metaserver=MetaServer(bind="127.0.0.1:0"),
        hub=EdgeHub(reconnect_cap=0.1),
    )
    process = Process(Settings(data_dir=data_dir, edge=edge))
    core = build_edge(process)

    def on_ready() -> None:
        sys.stdout.write(f"{process.endpoints.port('edge.mqtt')}\n")
        sys.stdout.flush()

    await serve(core.modules, asyncio.Event(), on_ready=on_ready)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
