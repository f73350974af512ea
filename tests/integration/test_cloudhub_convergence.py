"""Writes, reports, moves, removals and restarts in random order: both sides end equal, and rest.

With things elsewhere the line to them breaks now and then, too.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from cloud.statuses import belongs_to
from gateway.errors import GatewayError, NotFound
from gateway.kube.client import PatchType
from gateway.model.json import Json, JsonObject
from gateway.model.thing import Action
from gateway.wire.cloudedge.to_edge import ObjectChanged, read_to_edge
from tests.cloud_rig import (
    Certificate,
    CloudCore,
    Edge,
    a_cloud,
    an_edge,
    apply_device,
    apply_model,
    content_of,
    eventually,
    join,
)
from tests.cloud_samples import DEVICES, a_device
from tests.ditto_rig import a_ditto
from tests.remote_north import RemoteNorth, remote_settings
from tests.tcp_proxy import TcpProxy, a_proxy

Start = Callable[[], AbstractAsyncContextManager[CloudCore]]

STEPS = 60
DEVICE = (DEVICES, "devices", "default", "lamp")
NODES = ("edge-1", "edge-2")
TEXTS: dict[str, Callable[[Any], str]] = {"on": lambda v: "true" if v else "false", "level": str}


class World:
    """CloudCore, up to two edges, and what is done to them."""

    def __init__(self, start: Start, seed: int, line: TcpProxy | None = None) -> None:
        self.start_cloud = start
        self.line = line
        self.random = random.Random(seed)  # the same walk for the same seed
        self.up = AsyncExitStack()
        self.lines: dict[str, AsyncExitStack] = {}
        self.edges: dict[str, Edge] = {}
        self.certificates: dict[str, Certificate] = {}
        self.version = 0
        self.cloud: CloudCore

    async def start(self) -> None:
        self.up = AsyncExitStack()
        self.cloud = await self.up.enter_async_context(self.start_cloud())

    async def stop(self) -> None:
        for node in list(self.edges):
            await self.disconnect(node)
        await self.up.aclose()

    async def connect(self, node: str) -> None:
        self.lines[node] = AsyncExitStack()
        line = an_edge(self.cloud, node, self.certificates[node], store=node)
        self.edges[node] = await self.lines[node].enter_async_context(line)

    async def disconnect(self, node: str) -> None:
        del self.edges[node]
        await self.lines.pop(node).aclose()

    # --- steps ------------------------------------------------------------------------------------

    def wish(self) -> tuple[str, bool | int]:
        if self.random.random() < 0.5:
            return "on", self.random.random() < 0.5
        return "level", self.random.randrange(100)

    async def write_device(self) -> None:
        name, value = self.wish()
        index = ("on", "level").index(name)
        desired: JsonObject = {"value": TEXTS[name](value)}
        patch: Json = [{"op": "add", "path": f"/spec/properties/{index}/desired", "value": desired}]
        await self.cloud.kube.patch(*DEVICE, patch, patch_type=PatchType.JSON)

    async def unwrite_device(self) -> None:
        patch: Json = [{"op": "remove", "path": "/spec/properties/1/desired"}]
        await self.cloud.kube.patch(*DEVICE, patch, patch_type=PatchType.JSON)

    async def write_thing(self) -> None:
        await self.cloud.want("default:lamp", *self.wish())

    async def unwrite_thing(self) -> None:
        path = ("features", "level", "desiredProperties", "value")
        await self.cloud.command("default:lamp", Action.DELETE, path)

    async def delete_thing(self) -> None:
        await self.cloud.command("default:lamp", Action.DELETE, ())

    async def make_again(self) -> None:
        await self.cloud.kube.delete(*DEVICE)
        await apply_device(self.cloud, a_device(level="7"))

    async def move(self) -> None:
        node: JsonObject = {"spec": {"nodeName": self.random.choice(NODES)}}
        await self.cloud.kube.patch(*DEVICE, node)

    async def report(self) -> None:
        for edge in self.edges.values():
            name, value = self.wish()
            self.version += 1
            await edge.report("lamp", self.version, **{name: TEXTS[name](value)})

    async def plug(self) -> None:
        node = self.random.choice(NODES)
        await (self.disconnect(node) if node in self.edges else self.connect(node))

    async def restart(self) -> None:
        nodes = list(self.edges)
        await self.stop()
        await self.start()
        for node in nodes:
            await self.connect(node)

    async def cut(self) -> None:
        """The line to the things breaks, or is mended."""
        if self.line is not None:
            self.line.refuses = not self.line.refuses
            self.line.cut()

    async def step(self) -> None:
        steps: list[tuple[Callable[[], Awaitable[None]], int]] = [
            (self.write_device, 20),
            (self.write_thing, 20),
            (self.unwrite_device, 3),
            (self.unwrite_thing, 3),
            (self.delete_thing, 2),
            (self.make_again, 3),
            (self.move, 5),
            (self.report, 10),
            (self.plug, 6),
            (self.restart, 2),
            (self.cut, 8 if self.line else 0),
        ]
        (act,) = self.random.choices([s for s, _ in steps], [w for _, w in steps])
        try:
            await act()
        except GatewayError:
            return  # nothing to remove, or the thing is just being made: as a user would see it
        if self.random.random() < 0.5:
            await asyncio.sleep(self.random.random() * 0.05)

    # --- what must hold in the end ------------------------------------------------------------------

    async def wanted_by_device(self) -> dict[str, str]:
        device = await self.cloud.object(*DEVICE)
        return {
            entry["name"]: entry["desired"]["value"]
            for entry in device["spec"]["properties"]
            if entry.get("desired", {}).get("value")
        }

    async def wanted_by_thing(self) -> dict[str, str]:
        thing = await self.cloud.thing("default:lamp") or {}
        return {
            name: TEXTS[name](feature["desiredProperties"]["value"])
            for name, feature in thing.get("features", {}).items()
            if "value" in feature.get("desiredProperties", {})
        }

    async def reported_by_status(self) -> dict[str, str]:
        try:
            status = await self.cloud.object(DEVICES, "devicestatuses", "default", "lamp")
        except NotFound:
            return {}
        device = await self.cloud.object(*DEVICE)
        if not belongs_to(status, device["metadata"]["uid"]):
            return {}
        return {
            entry["propertyName"]: entry["reported"]["value"]
            for entry in status["status"].get("twins", [])
            if "reported" in entry
        }

    async def reported_by_thing(self) -> dict[str, str]:
        thing = await self.cloud.thing("default:lamp") or {}
        return {
            name: TEXTS[name](feature["properties"]["value"])
            for name, feature in thing.get("features", {}).items()
            if "value" in feature.get("properties", {})
        }

    async def is_settled(self) -> bool:
        device = await self.cloud.object(*DEVICE)
        holder = self.edges.get(device["spec"]["nodeName"])
        return (
            await self.cloud.thing("default:lamp") is not None
            and await self.wanted_by_device() == await self.wanted_by_thing()
            and await self.reported_by_status() == await self.reported_by_thing()
            and (holder is None or held(holder) == device["metadata"]["resourceVersion"])
            and all(held(e) is None for e in self.edges.values() if e is not holder)
        )

    async def marks(self) -> tuple[object, ...]:
        device = (await self.cloud.object(*DEVICE))["metadata"]
        thing = await self.cloud.north.load("default:lamp")
        return device["resourceVersion"], device["generation"], thing and thing.revision

    async def rests(self) -> bool:
        """True when nothing is written for a while."""
        before = await self.marks()
        for _ in range(8):
            await asyncio.sleep(0.1)
            if await self.marks() != before:
                return False
        return True


def held(edge: Edge) -> str | None:
    """The version of the Device that an edge has after all it was sent on this connection, and before."""
    version = STORES.get(edge.node)
    for envelope in edge.received:
        message = read_to_edge(envelope)
        if isinstance(message, ObjectChanged) and message.subject.type == "device":
            gone = message.operation.value == "delete"
            version = None if gone else content_of(envelope)["metadata"]["resourceVersion"]
    return version


STORES: dict[str, str | None] = {}
"""What edges kept from earlier connections."""


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_both_sides_end_equal_and_rest(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    await walk(World(partial(a_cloud, tmp_path), seed), monkeypatch)


@pytest.mark.parametrize("seed", [1, 2, 3, 4, 5])
async def test_both_sides_end_equal_and_rest_with_things_elsewhere(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cloud.thingsource.RECONNECT_CAP", 0.3)
    async with a_ditto() as ditto, a_proxy(ditto.address) as line:
        settings = remote_settings(tmp_path, f"http://{line.address}")
        start = partial(a_cloud, tmp_path, ditto=settings, north=RemoteNorth(ditto.url))
        await walk(World(start, seed, line), monkeypatch)


async def walk(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Take all steps, mend everything, and see both sides agree and rest."""
    STORES.clear()
    leave = World.disconnect

    async def keep(self: World, node: str) -> None:
        STORES[node] = held(self.edges[node])
        await leave(self, node)

    monkeypatch.setattr(World, "disconnect", keep)
    await world.start()
    try:
        await apply_model(world.cloud)
        await apply_device(world.cloud, a_device(level="7"))
        for node in NODES:
            world.certificates[node] = await join(world.cloud, node)
            await world.connect(node)
            # What is known of a node goes at the next start when there is no Node of that name.
            await world.edges[node].register()
        for _ in range(STEPS):
            await world.step()
        if world.line is not None:
            world.line.refuses = False
        for node in NODES:
            if node not in world.edges:
                await world.connect(node)
        await eventually(world.is_settled)
        await eventually(world.rests, "two sides answer each other without end")
        assert await world.is_settled()
    finally:
        await world.stop()
