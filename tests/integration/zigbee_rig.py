"""The Zigbee family in the test's own loop: real zigpy, the stick of `tests.zigbee` behind a pty."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edge.clock import now_ms
from edge.mappers.driver import Driver
from edge.mappers.family import Discovered, Surroundings
from edge.mappers.zigbee.family import make_zigbee
from edge.mappers.zigbee.network import ZigbeeFamily
from gateway.wire.cloudedge.devices import DeviceView
from gateway.wire.cloudedge.models import ModelView, with_defaults
from tests.zigbee import kinds
from tests.zigbee.device import Device
from tests.zigbee.lab import Lab

SECONDS = 15.0
_TYPES = {"on": "BOOLEAN", "contact": "BOOLEAN", "occupancy": "BOOLEAN", "tamper": "BOOLEAN"}
_TYPES |= {"brightness": "INT", "colourTemperature": "INT", "permitJoin": "INT", "channel": "INT"}
_TYPES |= {"devices": "INT", "colourXy": "STRING", "colourHs": "STRING", "state": "STRING"}
_TYPES |= {"panId": "STRING", "why": "STRING"}


@dataclass
class Rig:
    """A running family, and what it told."""

    lab: Lab
    folder: Path
    settings: dict[str, Any] = field(default_factory=dict)
    found: dict[str, Discovered] = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)
    skew: int = 0
    family: ZigbeeFamily | None = None
    task: asyncio.Task[None] | None = None

    def clock(self) -> int:
        return now_ms() + self.skew

    def surroundings(self, **settings: Any) -> Surroundings:
        """Return what the family is given."""
        chosen = {"device": str(self.lab.path), "transition": 0, **self.settings, **settings}
        self.folder.mkdir(exist_ok=True)

        def found(each: Discovered) -> None:
            self.found[each.address] = each

        return Surroundings(chosen, self.folder, self.clock, found, self.lost.append)

    @contextlib.asynccontextmanager
    async def running(self, **settings: Any) -> AsyncIterator[ZigbeeFamily]:
        """Run the family for the length of the block."""
        family = make_zigbee(self.surroundings(**settings))
        assert isinstance(family, ZigbeeFamily)
        self.family = family
        started = asyncio.Event()
        task = self.task = asyncio.create_task(family.run(started.set))
        try:
            await started.wait()
            yield family
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        if not task.cancelled():
            task.result()

    async def up(self) -> None:
        assert self.family is not None
        assert self.task is not None
        family, task = self.family, self.task
        await until(lambda: family.fact("state") == "up" or task.done())
        if task.done():
            task.result()

    async def joined(self, name: str) -> Device:
        """Let a virtual device join, and wait until it is offered."""
        device = self.lab.join(name)
        await until(lambda: kinds.ieee_text(device.ieee) in self.found)
        return device

    async def connected(self, device: Device, *names: str, **visitors: dict[str, Any]) -> Driver:
        """Return a connected driver of a device."""
        config = {"ieee": kinds.ieee_text(device.ieee)}
        return await self.opened(config, *names, **visitors)

    async def opened(
        self, config: dict[str, Any], *names: str, **visitors: dict[str, Any]
    ) -> Driver:
        assert self.family is not None
        driver = self.family.driver(*device_of(config, *names, **visitors))
        driver.subscribe(lambda: None)
        await driver.connect()
        return driver


def device_of(
    config: dict[str, Any], *names: str, **visitors: dict[str, Any]
) -> tuple[DeviceView, ModelView]:
    """Return a Device and its model, as the mapper gets them."""
    properties: list[Any] = [{"name": name} for name in names]
    properties += [
        {"name": name, "visitors": {"protocolName": "zigbee", "configData": visitor}}
        for name, visitor in visitors.items()
    ]
    view = DeviceView.read(
        {
            "metadata": {"namespace": "default", "name": "d", "uid": "1"},
            "spec": {
                "protocol": {"protocolName": "zigbee", "configData": config},
                "properties": properties,
            },
        }
    )
    model = ModelView.read(
        {
            "metadata": {"namespace": "default", "name": "m"},
            "spec": {
                "properties": [
                    {"name": each["name"], "type": _TYPES.get(each["name"], "DOUBLE")}
                    | {"accessMode": "ReadWrite"}
                    for each in properties
                ]
            },
        }
    )
    return with_defaults(view, model), model


async def until(is_so: Callable[[], object], seconds: float = SECONDS) -> None:
    """Wait for a condition."""
    async with asyncio.timeout(seconds):
        while not is_so():  # noqa: ASYNC110  many conditions, no event
            await asyncio.sleep(0.01)


async def value_of(driver: Driver, name: str) -> str | None:
    """Return what the driver reads now."""
    reading = (await driver.read([name])).get(name)
    return None if reading is None else reading.text


async def until_value(driver: Driver, name: str, text: str) -> None:
    """Wait until a property reads as wanted."""
    async with asyncio.timeout(SECONDS):
        while await value_of(driver, name) != text:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
