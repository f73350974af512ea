"""Modbus devices: lines that units share, and a scan of a line by order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence

from edge.mappers.configdata import ConfigData
from edge.mappers.driver import Driver
from edge.mappers.family import Discovered, Family, Surroundings
from edge.mappers.modbus.addresses import LineAddress, SerialLine, UnitAddress, unit_of
from edge.mappers.modbus.driver import ModbusDriver
from edge.mappers.modbus.lines import ClientFactory, Lines
from edge.mappers.modbus.registers import place_of
from edge.mappers.readings import rules_of
from edge.mappers.visitors import places_of
from gateway.errors import BadRequest, InvalidSetting, NotFound
from gateway.model.json import JsonObject
from gateway.wire.cloudedge.devices import DeviceView
from gateway.wire.cloudedge.models import ModelView

PROTOCOL = "modbus"
MAX_UNITS = 247


class ModbusFamily:
    """All Modbus devices of this edge."""

    def __init__(self, around: Surroundings, make: ClientFactory) -> None:
        settings = ConfigData("edge.mappers.modbus", around.settings)
        self._around = around
        self._seconds = settings.number("timeout", default=1.0)
        self._gap = settings.integer("gap", default=8, high=100)
        self._lines = Lines(make)

    async def run(self, ready: Callable[[], None]) -> None:
        ready()
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            self._lines.close()

    def driver(self, view: DeviceView, model: ModelView | None) -> Driver:
        rules = rules_of(view, model)
        address = unit_of(ConfigData("configData", view.protocol_config or {}))
        places, faults = places_of(view, lambda name, said: place_of(said, rules[name]))
        return ModbusDriver(
            address,
            places,
            rules,
            faults,
            self._lines,
            self._around.clock,
            seconds=self._seconds,
            gap=self._gap,
        )

    def facts(self) -> JsonObject:
        return self._lines.facts()

    # --- orders -------------------------------------------------------------------------------------

    def orders(self) -> Sequence[str]:
        return ("scan",)

    async def order(self, name: str, arguments: Mapping[str, str]) -> JsonObject:
        """`scan` asks `units` (`1-10,20`; all 247 without) of a line, whose keys are those of configData."""
        if name != "scan":
            raise NotFound(f"modbus knows no order {name[:40]!r}, only scan")
        address = unit_of(ConfigData("scan", {**arguments}))
        units = units_of(arguments.get("units", f"1-{MAX_UNITS}"))
        line = self._lines.take(address)
        found: list[str] = []
        try:
            for unit in units:
                told = await line.probe(unit, address.seconds or self._seconds)
                if told is not None:
                    here = UnitAddress(address.line, unit)
                    self._around.discovered(_discovered(here, told))
                    found.append(str(here))
        finally:
            self._lines.give_back(line)
        return {"asked": len(units), "found": list(found)}


def units_of(text: str) -> list[int]:
    """Read `1-10,20` into unit numbers, each once. Errors: BadRequest."""
    units: set[int] = set()
    for part in text.split(",")[:MAX_UNITS]:
        first, dash, last = part.strip().partition("-")
        try:
            low, high = int(first), int(last if dash else first)
        except ValueError:
            raise BadRequest(
                f"units: expected numbers such as 1-10,20, got {text[:40]!r}"
            ) from None
        if not 0 <= low <= high <= 255:
            raise BadRequest(f"units: expected numbers from 0 to 255, got {part[:40]!r}")
        units.update(range(low, high + 1))
    return sorted(units)


def _discovered(address: UnitAddress, told: Mapping[str, str]) -> Discovered:
    vendor, product = told.get("vendor", ""), told.get("product", "")
    return Discovered(
        PROTOCOL,
        str(address),
        name=f"modbus unit {address.unit}",
        model=product,
        manufacturer=vendor,
        config={**_line_config(address.line), "slaveID": address.unit},
        facts=dict(told),
    )


def _line_config(line: LineAddress) -> JsonObject:
    if isinstance(line, SerialLine):
        return {
            "communicateMode": "RTU",
            "serialPort": line.path,
            "baudRate": line.baud,
            "dataBits": line.data_bits,
            "parity": line.parity,
            "stopBits": line.stop_bits,
        }
    mode = "RTUoverTCP" if line.is_rtu else "TCP"
    return {"communicateMode": mode, "ip": line.host, "port": line.port}


def make_modbus(around: Surroundings) -> Family:
    """Make the family. Errors: InvalidSetting where pymodbus is not installed."""
    try:
        from edge.mappers.modbus.client import PymodbusClient
    except ImportError as error:
        raise InvalidSetting(
            "Modbus devices need pymodbus: pip install 'twinspan[modbus]'"
        ) from error
    return ModbusFamily(around, PymodbusClient)
