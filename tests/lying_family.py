"""A family whose devices lie, flood, or are honest, as `mode` of their Device says."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence

from edge.mappers.driver import Quality, Reading
from edge.mappers.family import Surroundings
from gateway.errors import BadRequest
from gateway.model.json import JsonObject
from gateway.wire.cloudedge.devices import DeviceView
from gateway.wire.cloudedge.models import ModelView

LIES: Mapping[str, Sequence[str]] = {
    "count": ("7", "three", "1.5", "true", "101", "-1", "9" * 10_000, "nan", "8", "{}"),
    "heat": ("21.5", "nan", "Infinity", "-inf", "1e999", "warm", "99999", "22.5", "\x00", "0x10"),
    "on": ("true", "maybe", "2", "", "TRUE!", "false", "nan", "1.0", "\u202etrue", "null"),
    "label": ("fine", "x" * 10_000, "\x1b[2J\x07\u202e", "<script>", "\x00" * 100, "good"),
}
TIMES: Sequence[int] = (1_000, 4_102_444_800_000, -5, 2**62, 0)
"""1970, 2100, before 1970, nonsense, none."""
FLOOD_STEP = 100
"""Notifications each 10 ms: 10,000 a second."""


class LyingDriver:
    """`mode`: liar has one lie after another, stubborn the same ones, flood news all the time."""

    def __init__(self, around: Surroundings, mode: str) -> None:
        self._around = around
        self._mode = mode
        self._turn: Iterator[int] = itertools.count()
        self._changed: Callable[[], None] = lambda: None
        self._task: asyncio.Task[None] | None = None

    async def connect(self) -> None: ...

    def subscribe(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        if self._mode in ("flood", "liar"):
            self._task = asyncio.get_running_loop().create_task(self._notify())

    async def _notify(self) -> None:
        while True:
            for _ in range(FLOOD_STEP):
                self._changed()
            self._around.count("taken", FLOOD_STEP)
            await asyncio.sleep(0.01)

    async def read(self, names: Sequence[str]) -> Mapping[str, Reading]:
        turn = next(self._turn)
        if self._mode == "garbled":
            return {name: Reading("\ud800", Quality.GOOD, 0) for name in names}
        if self._mode == "stubborn":
            return {name: Reading(LIES[name][1], Quality.GOOD, TIMES[1]) for name in names}
        if self._mode != "liar":
            return {name: Reading(str(turn), Quality.GOOD, self._around.clock()) for name in names}
        at = TIMES[turn % len(TIMES)]
        return {
            name: Reading(LIES[name][turn % len(LIES[name])], Quality.GOOD, at) for name in names
        }

    async def write(self, name: str, text: str) -> None:
        raise BadRequest(f"{name} cannot be {text}")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()


class LyingFamily:
    def __init__(self, around: Surroundings) -> None:
        self._around = around

    async def run(self, ready: Callable[[], None]) -> None:
        ready()
        await asyncio.get_running_loop().create_future()

    def driver(self, view: DeviceView, model: ModelView | None) -> LyingDriver:
        assert model is not None
        return LyingDriver(self._around, str((view.protocol_config or {})["mode"]))

    def facts(self) -> JsonObject:
        return {"is_up": True}


def make_lying(around: Surroundings) -> LyingFamily:
    return LyingFamily(around)
