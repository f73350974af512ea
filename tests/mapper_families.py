"""Families of mappers for tests of the processes that they run in; child processes import them by name."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Mapping, Sequence

from edge.mappers.driver import DeviceUnreachable, Quality, Reading, TakenLater
from edge.mappers.family import Discovered, Surroundings
from gateway.errors import BadRequest, InvalidSetting, NotFound
from gateway.model.json import JsonObject
from gateway.wire.cloudedge.devices import DeviceView
from gateway.wire.cloudedge.models import ModelView


class MadeUpDriver:
    """Does as its Device says: `mode` ok, crash, block, hang, bug, refuse, away, flood, long."""

    def __init__(self, around: Surroundings, mode: str) -> None:
        self._around = around
        self._mode = mode
        self._changed: Callable[[], None] = lambda: None
        self._flood: asyncio.Task[None] | None = None
        self.held = "1"

    async def connect(self) -> None:
        if self._mode == "away":
            raise DeviceUnreachable("no such device in the air")

    def subscribe(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        if self._mode == "flood":
            self._flood = asyncio.get_running_loop().create_task(self._notify())

    async def _notify(self) -> None:
        while True:
            for _ in range(1_000):
                self._changed()
                self._around.count("taken", 1)
            await asyncio.sleep(0.01)

    async def read(self, names: Sequence[str]) -> Mapping[str, Reading]:
        if self._mode == "crash":
            os._exit(3)
        if self._mode == "block":
            time.sleep(3_600)  # noqa: ASYNC251  a driver that holds up its loop is what is tested
        if self._mode == "hang":
            await asyncio.get_running_loop().create_future()
        if self._mode == "bug":
            raise ZeroDivisionError("a bug of the driver")
        if self._mode == "long":
            return {name: Reading(300_000 * "x", Quality.GOOD, 1) for name in names}
        return {name: Reading(self.held, Quality.GOOD, self._around.clock()) for name in names}

    async def write(self, name: str, text: str) -> None:
        if self._mode == "refuse":
            raise BadRequest(f"{name} cannot be {text}")
        if self._mode == "sleep":
            raise TakenLater(f"{text} waits")
        self.held = text

    async def withdraw(self, name: str) -> None:
        self.held = f"{name} withdrawn"

    def faults(self) -> Mapping[str, str]:
        return {"ghost": "this device has no ghost"} if self._mode == "ok" else {}

    async def close(self) -> None:
        if self._flood is not None:
            self._flood.cancel()
        (self._around.folder / "closed").touch()


class MadeUpFamily:
    """Sees one device from the start."""

    def __init__(self, around: Surroundings) -> None:
        self._around = around

    async def run(self, ready: Callable[[], None]) -> None:
        self._around.discovered(Discovered("modbus", "unit 7", name="pump", config={"unit": 7}))
        ready()
        await asyncio.get_running_loop().create_future()

    def driver(self, view: DeviceView, model: ModelView | None) -> MadeUpDriver:
        mode = (view.protocol_config or {}).get("mode", "ok")
        if mode == "wrong":
            raise BadRequest("mode: expected another one")
        return MadeUpDriver(self._around, str(mode))

    def facts(self) -> JsonObject:
        return {"is_up": True, "adapter": "made up"}

    def orders(self) -> Sequence[str]:
        return ("echo",)

    async def order(self, name: str, arguments: Mapping[str, str]) -> JsonObject:
        if arguments.get("seconds") == "x":
            raise BadRequest("seconds: expected a number")
        if name != "echo":
            raise NotFound(name)
        return {**arguments}


def make_family(around: Surroundings) -> MadeUpFamily:
    return MadeUpFamily(around)


def make_missing(_around: Surroundings) -> MadeUpFamily:
    raise InvalidSetting("this mapper needs a library: pip install 'twinspan[made-up]'")
