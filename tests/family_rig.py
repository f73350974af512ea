"""A family of devices in the test's own loop: Devices as the cloud writes them, and what the family says."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from edge.mappers.driver import Driver, Reading
from edge.mappers.family import Discovered, Family, FamilyFactory, Surroundings
from gateway.wire.cloudedge.devices import DeviceView
from gateway.wire.cloudedge.models import ModelView, with_defaults


class World:
    """What a family is given, and what it did with it."""

    def __init__(self, folder: Path, settings: Mapping[str, Any] | None = None) -> None:
        self.seen: dict[str, Discovered] = {}
        self.counts: Counter[str] = Counter()
        self.now = 1_000
        self.around = Surroundings(
            dict(settings or {}),
            folder,
            lambda: self.now,
            self._discovered,
            self._lost,
            self._count,
        )

    def _discovered(self, device: Discovered) -> None:
        self.seen[device.address] = device

    def _lost(self, address: str) -> None:
        self.seen.pop(address, None)

    def _count(self, name: str, by: int) -> None:
        self.counts[name] += by


def prop(name: str, kind: str = "INT", access: str = "ReadWrite", **visitor: Any) -> dict[str, Any]:
    """A property: type and access of the model, configData of its visitor."""
    bounds = {str(key): visitor.pop(key) for key in ("minimum", "maximum") if key in visitor}
    return {"name": name, "type": kind, "accessMode": access, "visitor": visitor} | bounds


def bound(
    protocol: str, config: Mapping[str, Any], *props: dict[str, Any], name: str = "d1"
) -> tuple[DeviceView, ModelView]:
    """Return a Device and its model, as a family gets them."""
    model = ModelView.read(
        {
            "metadata": {"name": "m", "namespace": "default"},
            "spec": {
                "protocol": protocol,
                "properties": [{k: v for k, v in p.items() if k != "visitor"} for p in props],
            },
        }
    )
    view = DeviceView.read(
        {
            "metadata": {"name": name, "namespace": "default", "uid": name},
            "spec": {
                "deviceModelRef": {"name": "m"},
                "nodeName": "edge-1",
                "protocol": {"protocolName": protocol, "configData": dict(config)},
                "properties": [
                    {
                        "name": p["name"],
                        "visitors": {"protocolName": protocol, "configData": p["visitor"]},
                    }
                    for p in props
                ],
            },
        }
    )
    return with_defaults(view, model), model


@asynccontextmanager
async def a_family(make: FamilyFactory, world: World) -> AsyncIterator[Family]:
    """Run a family for the length of the block."""
    family = make(world.around)
    ready = asyncio.Event()
    task = asyncio.create_task(family.run(ready.set))
    waiting = asyncio.create_task(ready.wait())
    try:
        await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            await task
        yield family
    finally:
        waiting.cancel()
        task.cancel()
        await asyncio.gather(task, waiting, return_exceptions=True)


async def eventually(
    condition: Callable[[], bool], seconds: float = 10.0, what: str = "it"
) -> None:
    """Wait until something is so."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"{what} did not happen"
        await asyncio.sleep(0.01)


async def read_until(
    driver: Driver, name: str, fits: Callable[[Reading], bool], seconds: float = 10.0
) -> Reading:
    """Read a property until it fits."""
    end = time.monotonic() + seconds
    while True:
        found = (await driver.read([name])).get(name)
        if found is not None and fits(found):
            return found
        assert time.monotonic() < end, f"{name} is {found}"
        await asyncio.sleep(0.02)
