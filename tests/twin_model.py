"""A cloud and edges as processes that are written to while links and processes fail, and what must hold.

The model remembers for each property what was acknowledged last, and every value that may have taken its
place because its writer never heard what became of it.
"""

from __future__ import annotations

import asyncio
import base64
import json
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from paho.mqtt.enums import MQTTProtocolVersion

from cloud.identity import create_join_token
from edge.identity import Identity
from edge.join import JoinRequest, join
from gateway.errors import GatewayError, Undeliverable
from gateway.kube.client import KubeClient, PatchType
from gateway.kube.remote import connect
from gateway.model.json import Json
from tests.edge_walk import API, LINK, NAMESPACE
from tests.integration.test_edge_mqtt import Local
from tests.ports import free_port
from tests.process import Twinspan
from tests.tcp_proxy import TcpProxy, a_proxy

NODES = ("edge-1", "edge-2")
PROPERTIES = ("by_device", "by_thing", "by_both", "said")
"""Wanted by the Device alone, by the thing alone, by both; and reported."""
ANSWER_SECONDS = 10.0
QUIET_SECONDS = 60.0
NOTHING = ""


def device_of(node: str) -> str:
    return f"meter-of-{node}"


def documents() -> list[dict[str, Any]]:
    """Model and one Device for each node."""
    entries = [{"name": p, "type": "INT", "accessMode": "ReadWrite"} for p in PROPERTIES]
    model = {
        "apiVersion": API,
        "kind": "DeviceModel",
        "metadata": {"name": "meter", "namespace": NAMESPACE},
        "spec": {"properties": entries},
    }
    return [model, *(_device(node) for node in NODES)]


def _device(node: str) -> dict[str, Any]:
    return {
        "apiVersion": API,
        "kind": "Device",
        "metadata": {"name": device_of(node), "namespace": NAMESPACE},
        "spec": {
            "deviceModelRef": {"name": "meter"},
            "nodeName": node,
            "protocol": {"protocolName": "mqtt"},
            "properties": [{"name": name} for name in PROPERTIES],
        },
    }


@dataclass(slots=True)
class Promise:
    """What one property may hold."""

    may_be: set[str] = field(default_factory=lambda: {NOTHING})
    kept: list[str] = field(default_factory=list)
    """All values that were acknowledged, oldest first."""

    def acknowledged(self, value: str) -> None:
        self.may_be = {value}
        self.kept.append(value)

    def unheard(self, value: str) -> None:
        self.may_be.add(value)


@dataclass(slots=True)
class EdgeSite:
    """One edge process, its line to the cloud, and a client of its broker."""

    running: Twinspan
    line: TcpProxy
    client: Local | None = None

    async def start(self) -> None:
        await asyncio.to_thread(self.running.start)
        self.client = Local(self.running.port("edge.mqtt"), MQTTProtocolVersion.MQTTv5)
        await self.client.start("$hw/events/device/+/+/twin/get/result")

    async def kill(self) -> None:
        """Kill -9; its client goes with it."""
        await asyncio.to_thread(self.running.kill)
        client, self.client = self.client, None
        if client is not None:
            await client.stop()


@dataclass(slots=True)
class World:
    """The processes, what is done to them, and the model of what they promised."""

    cloud: Twinspan
    edges: dict[str, EdgeSite]
    http: aiohttp.ClientSession
    random: random.Random
    promises: dict[tuple[str, str], Promise] = field(default_factory=dict)
    number: int = 0
    log: list[str] = field(default_factory=list)

    def promise(self, node: str, name: str) -> Promise:
        return self.promises.setdefault((node, name), Promise())

    # --- the writers -------------------------------------------------------------------------------

    async def write(
        self, node: str, name: str, how: Callable[[str, str, str], Awaitable[None]]
    ) -> None:
        """Write the next number and note what is known of it; it may be cut off in the middle."""
        self.number += 1
        value = str(self.number)
        promise = self.promise(node, name)
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                await how(node, name, value)
        except (aiohttp.ClientError, Undeliverable, OSError, TimeoutError):
            promise.unheard(value)
            self.log.append(f"{node} {name}={value} ?")
        else:
            promise.acknowledged(value)
            self.log.append(f"{node} {name}={value}")

    async def by_thing(self, node: str, name: str, value: str) -> None:
        path = f"/features/{name}/desiredProperties"
        status, body = await self.ditto("PUT", node, path, {"value": int(value)})
        if status >= 500 or status in (404, 408):  # 404: the thing has not been made again yet
            raise Undeliverable(str(body))
        assert status in (201, 204), body

    async def by_device(self, node: str, name: str, value: str) -> None:
        at = PROPERTIES.index(name)
        desired: Json = {"value": value}
        patch: Json = [{"op": "add", "path": f"/spec/properties/{at}/desired", "value": desired}]
        async with self.kube() as kube:
            await kube.patch(
                API, "devices", NAMESPACE, device_of(node), patch, patch_type=PatchType.JSON
            )

    async def by_mqtt(self, node: str, name: str, value: str) -> None:
        client = self.edges[node].client
        if client is None:
            raise Undeliverable
        now = int(time.time() * 1000)
        actual = {"value": value, "metadata": {"timestamp": now}}
        body = {"event_id": value, "timestamp": now, "twin": {name: {"actual": actual}}}
        topic = f"$hw/events/device/{NAMESPACE}/{device_of(node)}/twin/update"
        async with asyncio.timeout(3):
            await client.publish(topic, json.dumps(body).encode())

    # --- the readers ------------------------------------------------------------------------------

    @asynccontextmanager
    async def kube(self) -> AsyncIterator[KubeClient]:
        file = self.cloud.data_dir / "kube" / "kubeconfig"
        async with connect(file, manager="model") as client:
            yield client

    async def ditto(self, method: str, node: str, path: str, body: Any = None) -> tuple[int, Any]:
        url = self.cloud.url("ditto.http", f"/api/2/things/{NAMESPACE}:{device_of(node)}{path}")
        async with self.http.request(method, url, json=body) as answer:
            text = await answer.text()
            return answer.status, json.loads(text) if text else None

    async def sides(self, node: str) -> dict[str, dict[str, tuple[str, str]]]:
        """What each side says: side -> property -> (wanted, reported)."""
        return {
            "thing": await self._thing(node),
            "cluster": await self._cluster(node),
            "edge": await self._edge(node),
        }

    async def _thing(self, node: str) -> dict[str, tuple[str, str]]:
        status, thing = await self.ditto("GET", node, "")
        features = thing.get("features", {}) if status == 200 else {}

        def of(name: str, kind: str) -> str:
            return str(features.get(name, {}).get(kind, {}).get("value", NOTHING))

        return {n: (of(n, "desiredProperties"), of(n, "properties")) for n in PROPERTIES}

    async def _cluster(self, node: str) -> dict[str, tuple[str, str]]:
        wanted, said = dict.fromkeys(PROPERTIES, NOTHING), dict.fromkeys(PROPERTIES, NOTHING)
        async with self.kube() as kube:
            device: Any = await kube.get(API, "devices", NAMESPACE, device_of(node))
            for entry in device["spec"]["properties"]:
                wanted[entry["name"]] = str((entry.get("desired") or {}).get("value", NOTHING))
            with suppress(GatewayError):  # nothing was reported yet
                status: Any = await kube.get(API, "devicestatuses", NAMESPACE, device_of(node))
                for entry in status["status"].get("twins", []):
                    value = (entry.get("reported") or {}).get("value", NOTHING)
                    said[entry["propertyName"]] = str(value)
        return {name: (wanted[name], said[name]) for name in PROPERTIES}

    async def _edge(self, node: str) -> dict[str, tuple[str, str]]:
        client = self.edges[node].client
        assert client is not None
        client.got.clear()
        topic = f"$hw/events/device/{NAMESPACE}/{device_of(node)}/twin/get"
        await client.publish(topic, b"{}")
        async with asyncio.timeout(ANSWER_SECONDS):
            while not client.got:  # noqa: ASYNC110  paho's thread fills it
                await asyncio.sleep(0.01)
        twins = client.got[-1][1].get("twin", {})

        def of(name: str, side: str) -> str:
            return str(((twins.get(name) or {}).get(side) or {}).get("value", NOTHING))

        return {name: (of(name, "expected"), of(name, "actual")) for name in PROPERTIES}

    async def history(self, node: str) -> list[str]:
        """Every value that the thing was told the device has reported as `said`, oldest first."""
        path = "?from-historical-revision=1&fields=_revision,features/said/properties/value"
        url = self.cloud.url("ditto.http", f"/api/2/things/{NAMESPACE}:{device_of(node)}{path}")
        headers = {"Accept": "text/event-stream"}
        found = []
        async with self.http.get(url, headers=headers) as answer:
            async for raw in answer.content:
                line = raw.decode().strip()
                if line.startswith("data:") and line != "data:":
                    part = json.loads(line.removeprefix("data:"))
                    said = part.get("features", {}).get("said", {}).get("properties", {})
                    found += [str(said["value"])] if "value" in said else []
        return found


@asynccontextmanager
async def a_world(folder: Path, seed: int) -> AsyncIterator[World]:
    """Start a cloud and its edges, each edge behind a line of its own."""
    hub = f"127.0.0.1:{free_port()}"
    cloud = Twinspan(folder / "cloud", ("cloud", "--demo"), (f"cloud.hub.wss.bind={hub}",))
    login = {"Authorization": f"Basic {base64.b64encode(b'ditto:ditto').decode()}"}
    async with AsyncExitStack() as up:
        http = await up.enter_async_context(aiohttp.ClientSession(headers=login))
        world = World(cloud, {}, http, random.Random(seed))
        up.push_async_callback(stop_all, world)
        await asyncio.to_thread(cloud.start)
        async with world.kube() as kube:
            await kube.create("v1", "namespaces", None, {"metadata": {"name": NAMESPACE}})
            for document in documents():
                plural = f"{document['kind'].lower()}s"
                await kube.create(API, plural, NAMESPACE, document)
            token = await create_join_token(kube, now=time.time(), replace=True)
        for node in NODES:
            line = await up.enter_async_context(a_proxy(hub))
            home = folder / node
            ticket = JoinRequest(cloud=cloud.endpoints["cloudhub.https"], token=token, node=node)
            await asyncio.to_thread(join, ticket, Identity(home))
            sets = (*LINK, f"edge.hub.server={line.address}", "edge.stream.enabled=false")
            world.edges[node] = EdgeSite(Twinspan(home, ("edge", "run"), sets), line)
        await asyncio.gather(*(edge.start() for edge in world.edges.values()))
        yield world


async def stop_all(world: World) -> None:
    """End every process that still runs."""
    for edge in world.edges.values():
        edge.line.flows.set()
        if edge.client is not None:
            await edge.client.stop()
        await asyncio.to_thread(edge.running.stop)
    await asyncio.to_thread(world.cloud.stop)
