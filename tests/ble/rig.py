"""A family over the lab, in the loop of a test; Devices made of a few words."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bleak.backends.bluezdbus import manager

from edge.clock import now_ms
from edge.mappers.ble.family import BleFamily, make_ble
from edge.mappers.driver import Driver, Reading
from edge.mappers.family import Discovered, Surroundings
from gateway.wire.cloudedge.devices import DeviceView
from gateway.wire.cloudedge.models import ModelView


@dataclass(slots=True)
class Rig:
    """The family, what it told, and a clock that can be moved."""

    family: BleFamily
    found: dict[str, Discovered] = field(default_factory=dict)
    gone: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    ahead_ms: int = 0

    def driver(self, config: Mapping[str, Any], **properties: Mapping[str, Any]) -> Driver:
        """Make a driver; each property is its visitor, with `type` for the model."""
        view, model = device(config, properties)
        return self.family.driver(view, model)


def device(
    config: Mapping[str, Any], properties: Mapping[str, Mapping[str, Any]]
) -> tuple[DeviceView, ModelView]:
    shown: list[Any] = []
    declared: list[Any] = []
    for name, given in properties.items():
        visitor = {key: value for key, value in given.items() if key != "type"}
        shown.append(
            {"name": name, "visitors": {"protocolName": "bluetooth", "configData": visitor}}
        )
        declared.append(
            {"name": name, "type": given.get("type", "STRING"), "accessMode": "ReadWrite"}
        )
    meta: Any = {"name": "d1", "namespace": "default", "uid": "u1"}
    spec: Any = {
        "deviceModelRef": {"name": "m1"},
        "protocol": {"protocolName": "bluetooth", "configData": dict(config)},
        "properties": shown,
    }
    model: Any = {
        "metadata": {"name": "m1", "namespace": "default"},
        "spec": {"properties": declared},
    }
    return DeviceView.read({"metadata": meta, "spec": spec}), ModelView.read(model)


@asynccontextmanager
async def running_family(
    folder: Path, settings: Mapping[str, Any] | None = None
) -> AsyncIterator[Rig]:
    """Run the family for the length of the block; the bus must be in the environment already."""
    rig: Rig

    def tell(found: Discovered) -> None:
        rig.found[found.address] = found

    family = make_ble(
        Surroundings(
            dict(settings or {}),
            folder,
            lambda: now_ms() + rig.ahead_ms,
            tell,
            lambda address: rig.gone.append(address),
            lambda name, by: rig.counts.update({name: by}),
        )
    )
    rig = Rig(family)
    async with asyncio.TaskGroup() as group:
        ready = asyncio.Event()
        task = group.create_task(family.run(ready.set))
        await ready.wait()
        try:
            yield rig
        finally:
            task.cancel()
    await _close_bleak()


async def _close_bleak() -> None:
    """bleak keeps its connection for as long as the loop lives."""
    kept = manager._global_instances.pop(asyncio.get_running_loop(), None)
    if kept is not None and kept._bus is not None:
        kept._bus.disconnect()
        if kept._bus_watcher_task is not None:
            await asyncio.wait({kept._bus_watcher_task})


async def until(claim: Callable[[], object], seconds: float = 10.0) -> None:
    """Wait for a condition."""
    async with asyncio.timeout(seconds):
        while not claim():  # noqa: ASYNC110  what is waited for is anybody's
            await asyncio.sleep(0.01)


async def read_until(
    driver: Driver, name: str, claim: Callable[[Reading], object], seconds: float = 10.0
) -> Reading:
    """Read until a reading is as it should be."""
    async with asyncio.timeout(seconds):
        while True:
            found = (await driver.read([name])).get(name)
            if found is not None and claim(found):
                return found
            await asyncio.sleep(0.02)
