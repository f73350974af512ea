"""Both cores in one loop, as `twinspan up` builds them, with a link that a script can cut."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from cloud.core import build_cloud
from cloud.identity import create_join_token
from edge.core import EdgeCore, build_edge
from edge.join import JoinRequest
from edge.twinrules import deltas
from gateway.cli.serving import NOBODY, Process
from gateway.config import load
from gateway.core import build_controllers, build_gateway, build_kube
from gateway.errors import GatewayError
from gateway.kube.client import KubeClient
from gateway.runtime import users
from gateway.runtime.module import Module, running
from gateway.wire.cloudedge.subjects import DeviceKey
from gateway.wire.mqtt.packets import Publish
from tests.process import ANY_PORT

API = "devices.kubeedge.io/v1beta1"
NAMESPACE = "default"
NODE = "edge-1"
NOWHERE = "127.0.0.1:1"
USER = base64.b64encode(b"ditto:ditto").decode()


@dataclass(slots=True)
class Stack:
    """A running cloud, its edge, and what a script may do with them."""

    cloud: Process
    kube: KubeClient
    edge_dir: Path
    session: aiohttp.ClientSession
    edge: EdgeCore | None = None
    is_linked: bool = True
    _up: AsyncExitStack = field(default_factory=AsyncExitStack)

    # --- the edge

    async def start_edge(self) -> None:
        settings = load(sets=[*ANY_PORT, *FAST, f"data_dir={self.edge_dir}"], environ={})
        core = build_edge(Process(settings, NOBODY), ticket=self._ticket, server=self._server)
        for module in core.modules:
            await self._up.enter_async_context(running(module))
        self.edge = core
        if self.is_linked:
            await until(lambda: core.hub.is_connected)

    async def stop_edge(self) -> None:
        self.edge = None
        await self._up.aclose()

    async def set_link(self, *, up: bool) -> None:
        """Cut the link, or let it come back; returns when the edge has noticed."""
        self.is_linked = up
        core = self.core
        if not up:
            core.hub.reconnect()
        await until(lambda: core.hub.is_connected is up)

    def _server(self) -> str:
        return self.cloud.endpoints.get("cloudhub.wss") if self.is_linked else NOWHERE

    async def _ticket(self) -> JoinRequest:
        return JoinRequest(
            cloud=self.cloud.endpoints.get("cloudhub.https"),
            token=await create_join_token(self.kube, now=time.time(), replace=True),
            hub=self.cloud.endpoints.get("cloudhub.wss"),
        )

    @property
    def core(self) -> EdgeCore:
        assert self.edge is not None, "the edge is stopped"
        return self.edge

    def knows(self, device: str) -> bool:
        """True when the Device has reached the edge."""
        return bool(self._twins(device))

    def expected(self, device: str, name: str) -> str | None:
        """What the edge's twin wants; None for nothing."""
        twin = self._twins(device).get(name)
        return twin.expected.value if twin is not None and twin.expected is not None else None

    def _twins(self, device: str) -> Any:
        try:
            return self.core.twin.twins(DeviceKey(NAMESPACE, device))
        except GatewayError:
            return {}

    def deltas(self, device: str) -> dict[str, str]:
        return deltas(self._twins(device))

    async def publish(self, topic: str, body: Any) -> GatewayError | None:
        """Publish as a local MQTT client does; returns what its acknowledgement would say."""
        future: asyncio.Future[GatewayError | None] = asyncio.get_running_loop().create_future()
        data = json.dumps(body).encode()
        self.core.bus.take(
            Publish(topic=topic, payload=data, qos=1, packet_id=1), future.set_result
        )
        return await future

    async def report(self, device: str, name: str, value: str) -> None:
        twin = {name: {"actual": {"value": value}}}
        topic = f"$hw/events/device/{NAMESPACE}/{device}/twin/update"
        assert await self.publish(topic, {"event_id": "e", "twin": twin}) is None

    # --- Kubernetes and Ditto

    async def http(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Ask the Ditto API; returns status and JSON (None for none)."""
        url = f"http://{self.cloud.endpoints.get('ditto.http')}/api/2{path}"
        headers = {"Authorization": f"Basic {USER}"}
        async with self.session.request(method, url, json=body, headers=headers) as answer:
            text = await answer.text()
            return answer.status, json.loads(text) if text else None

    async def device(self, name: str) -> Any:
        return await self.kube.get(API, "devices", NAMESPACE, name)


FAST = ("edge.hub.reconnect_cap=0.1", f"edge.node_name={NODE}", "demo=true")


async def until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    """Wait for a condition of this loop."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110  the condition has no event of its own
            await asyncio.sleep(0.005)


@asynccontextmanager
async def a_stack(folder: Path) -> AsyncIterator[Stack]:
    """Run gateway, Kubernetes API, CloudCore and one edge for the length of the block."""
    cloud_dir = folder / "cloud"
    cloud_dir.mkdir()
    settings = load(sets=[*ANY_PORT, *FAST, f"data_dir={cloud_dir}"], environ={})
    known, _ = users.load_or_create(cloud_dir, demo=True)
    cloud = Process(settings, known)
    gateway, kube = build_gateway(cloud), build_kube(cloud)
    modules: list[Module] = [*gateway.modules, kube, *build_controllers(cloud, kube)]
    modules += build_cloud(cloud, gateway, kube)
    async with AsyncExitStack() as up, aiohttp.ClientSession() as session:
        for module in modules:
            await up.enter_async_context(running(module))
        stack = Stack(cloud, kube.client("scenario"), folder / "edge", session)
        await stack.start_edge()
        try:
            yield stack
        finally:
            await stack.stop_edge()
