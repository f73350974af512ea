"""One EdgeCore in the test's own loop, joined to a fake cloud."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edge.core import EdgeCore, build_edge
from edge.enrolment import Ticket
from edge.identity import Identity
from edge.join import JoinRequest, join
from edge.mappers.driver import DriverFactory
from gateway.config.edge import Edge, EdgeHub, EdgeMqtt, Spool
from gateway.config.edge_services import Dmi, EdgeStream, EdgeTasks, MetaServer, Plugins, ServiceBus
from gateway.config.tree import Settings
from gateway.errors import GatewayError
from gateway.observe.metrics import Metrics
from gateway.observe.tracing import Tracer
from gateway.runtime.listener import Endpoints
from gateway.runtime.module import running
from gateway.wire.mqtt.packets import Publish
from gateway.wire.mqtt.properties import NONE, Properties
from tests.integration.edge_cloud import FakeCloud
from tests.integration.edge_support import until

MODEL: dict[str, Any] = {
    "spec": {
        "properties": [
            {"name": "temp", "type": "INT", "accessMode": "ReadWrite"},
            {"name": "label", "type": "STRING", "accessMode": "ReadWrite"},
        ]
    }
}
LAMP_MODEL: dict[str, Any] = {
    "spec": {
        "properties": [
            {"name": "on", "type": "BOOLEAN", "accessMode": "ReadWrite"},
            {"name": "brightness", "type": "INT", "accessMode": "ReadWrite"},
        ]
    }
}


def a_device(*, protocol: str = "mqtt", model: str = "m1", **desired: str | None) -> dict[str, Any]:
    """A Device of namespace `default` with these properties and desired values."""
    properties = [
        {"name": name, "reportToCloud": True, "collectCycle": 100}
        | ({} if text is None else {"desired": {"value": text}})
        for name, text in desired.items()
    ]
    return {
        "spec": {
            "deviceModelRef": {"name": model},
            "nodeName": "edge-1",
            "protocol": {"protocolName": protocol, "configData": {"kind": "lamp"}},
            "properties": properties,
        }
    }


@dataclass
class Process:
    """What a process gives to its cores."""

    settings: Settings
    endpoints: Endpoints = field(default_factory=Endpoints)
    metrics: Metrics = field(default_factory=Metrics)
    tracer: Tracer = field(default_factory=Tracer)


@dataclass
class Node:
    """A running EdgeCore, and what it published to local subscribers."""

    core: EdgeCore
    endpoints: Endpoints
    metrics: Metrics
    tracer: Tracer
    told: list[tuple[str, Any]] = field(default_factory=list)

    async def publish(
        self, topic: str, payload: bytes | dict[str, Any] = b"", *, properties: Properties = NONE
    ) -> GatewayError | None:
        """Publish as a local client does; returns what its acknowledgement would say."""
        future: asyncio.Future[GatewayError | None] = asyncio.get_running_loop().create_future()
        data = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        message = Publish(topic=topic, payload=data, qos=1, packet_id=1, properties=properties)
        self.core.bus.take(message, future.set_result)
        return await future

    async def report(self, device: str, **values: str) -> GatewayError | None:
        twin = {name: {"actual": {"value": text}} for name, text in values.items()}
        return await self.publish(
            f"$hw/events/device/default/{device}/twin/update", {"event_id": "e", "twin": twin}
        )

    def heard(self, ending: str) -> list[Any]:
        """What was published to topics with this ending, oldest first."""
        return [body for topic, body in self.told if topic.endswith(ending)]


async def join_edge(cloud: FakeCloud, data_dir: Path, node: str = "edge-1") -> None:
    request = JoinRequest(
        cloud=f"https://{cloud.https}", token=cloud.authority.token(), node=node, hub=cloud.hub
    )
    await asyncio.to_thread(join, request, Identity(data_dir))


@asynccontextmanager
async def a_node(
    data_dir: Path,
    *,
    server: str = "",
    spool: Spool | None = None,
    drivers: dict[str, DriverFactory] | None = None,
    ticket: Ticket | None = None,
    mqtt: EdgeMqtt | None = None,
    metaserver: MetaServer | None = None,
    dmi: Dmi | None = None,
    servicebus: ServiceBus | None = None,
    stream: EdgeStream | None = None,
    tasks: EdgeTasks | None = None,
    plugins: Plugins | None = None,
) -> AsyncIterator[Node]:
    """Run EdgeCore on a joined data directory, or one that joins with a ticket."""
    edge = Edge(
        node_name="edge-1",
        mqtt=mqtt or EdgeMqtt(bind="127.0.0.1:0"),
        hub=EdgeHub(server=server, reconnect_cap=0.1),
        spool=spool or Spool(),
        metaserver=metaserver or MetaServer(bind="127.0.0.1:0"),
        dmi=dmi or Dmi(),
        servicebus=servicebus or ServiceBus(),
        stream=stream or EdgeStream(enabled=False),
        tasks=tasks or EdgeTasks(),
        plugins=plugins or Plugins(),
    )
    process = Process(Settings(data_dir=data_dir, edge=edge))
    core = build_edge(process, drivers=drivers, ticket=ticket)
    node = Node(core, process.endpoints, process.metrics, process.tracer)
    if core.broker is not None:
        publish = core.broker.publish

        def tell(topic: str, payload: bytes, **rest: Any) -> None:
            node.told.append((topic, json.loads(payload) if payload[:1] in b"{[" else payload))
            publish(topic, payload, **rest)

        core.broker.publish = tell  # type: ignore[method-assign]  # the recorder stands in front
    async with AsyncExitStack() as up:
        for module in core.modules:
            await up.enter_async_context(running(module))
        yield node


async def linked(node: Node, cloud: FakeCloud) -> None:
    """Wait until the edge is at its cloud and its Node is registered."""
    await until(lambda: node.core.hub.is_connected and node.core.node.is_registered)
    assert cloud.socket is not None
