"""A family that sees made-up devices: one that can be served, a hostile one, a stranger."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence

from edge.mappers.driver import Quality, Reading
from edge.mappers.family import Discovered, DiscoveredProperty, Surroundings
from gateway.errors import BadRequest, NotFound
from gateway.model.json import JsonObject
from gateway.wire.cloudedge.devices import DeviceView
from gateway.wire.cloudedge.models import ModelView

SOURCE_TIME = 1_795_377_600_000
PROPERTIES = (
    DiscoveredProperty("speed", "INT", "ReadWrite", unit="rpm", maximum="3000", visitor={"at": 1}),
    DiscoveredProperty("heat", "FLOAT", unit="°C", visitor={"at": 2}),
    DiscoveredProperty("broken", "FLOAT", visitor={"at": 3}),
)


class SeenDriver:
    """Speed is good, heat is old, the third is not a number."""

    def __init__(self) -> None:
        self.speed = "42"

    async def connect(self) -> None: ...

    async def read(self, names: Sequence[str]) -> Mapping[str, Reading]:
        known = {
            "speed": Reading(self.speed, Quality.GOOD, SOURCE_TIME),
            "heat": Reading("21.5", Quality.UNCERTAIN, SOURCE_TIME, "not heard for an hour"),
            "broken": Reading("", Quality.BAD, SOURCE_TIME, "the device said nan"),
        }
        return {name: known[name] for name in names if name in known}

    async def write(self, name: str, text: str) -> None:
        if name != "speed":
            raise BadRequest(f"{name} cannot be written")
        self.speed = text

    def subscribe(self, changed: Callable[[], None]) -> None: ...

    async def close(self) -> None: ...


class SeenFamily:
    def __init__(self, around: Surroundings) -> None:
        self._around = around

    async def run(self, ready: Callable[[], None]) -> None:
        self._see("unit-7", "Pump 7")
        self._see("evil", "\x1b[2J\u202e" + "x" * 10_000)
        self._around.discovered(Discovered("modbus", "stranger", name="Stranger"))
        ready()
        await asyncio.get_running_loop().create_future()

    def _see(self, address: str, name: str) -> None:
        self._around.discovered(
            Discovered(
                "modbus",
                address,
                name=name,
                model="Pump",
                manufacturer="Acme",
                signal=-60,
                config={"address": address},
                properties=PROPERTIES,
                facts={"firmware": "1.2"},
            )
        )

    def driver(self, view: DeviceView, model: ModelView | None) -> SeenDriver:
        assert view.protocol_config, model
        return SeenDriver()

    def facts(self) -> JsonObject:
        return {"is_up": True}

    def orders(self) -> Sequence[str]:
        return ("permit-join",)

    async def order(self, name: str, arguments: Mapping[str, str]) -> JsonObject:
        if name != "permit-join":
            raise NotFound(name)
        if not arguments.get("seconds", "").isdigit():
            raise BadRequest("seconds: expected a number")
        self._see("unit-8", "Pump 8")
        return {"seconds": int(arguments["seconds"])}


def make_seen(around: Surroundings) -> SeenFamily:
    return SeenFamily(around)
