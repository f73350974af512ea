"""One Modbus unit as a Device."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from edge.mappers.driver import Clock, Quality, Reading
from edge.mappers.modbus.addresses import UnitAddress
from edge.mappers.modbus.lines import BUSY, Line, Lines, Refused
from edge.mappers.modbus.registers import Block, Place, Table, decode, encode, plan
from edge.mappers.readings import OWN_RULE, bad, wanted_value
from gateway.errors import BadRequest, Rejected
from gateway.wire.cloudedge.values import ValueRule


class ModbusDriver:
    """Reads blocks, takes them apart; a block that the device refuses is asked for property by property."""

    def __init__(
        self,
        address: UnitAddress,
        places: Mapping[str, Place],
        rules: Mapping[str, ValueRule],
        faults: Mapping[str, str],
        lines: Lines,
        clock: Clock,
        *,
        seconds: float,
        gap: int,
    ) -> None:
        self._address = address
        self._places = places
        self._rules = rules
        self._faults = faults
        self._lines = lines
        self._clock = clock
        self._seconds = address.seconds or seconds
        self._gap = gap
        self._line: Line | None = None
        self._alone: set[str] = set()
        """Properties whose shared request was refused once."""

    async def connect(self) -> None:
        self._line = self._line or self._lines.take(self._address)
        first = next(iter(self._places.values()), None)
        if first is not None:  # whether the unit is there is known only when it has answered
            with suppress(Refused):  # then it is there
                await self._read(first.table, first.offset, first.count)

    async def read(self, names: Sequence[str]) -> Mapping[str, Reading]:
        wanted = [(name, self._places[name]) for name in names if name in self._places]
        together = [each for each in wanted if each[0] not in self._alone]
        blocks = plan(together, gap=self._gap)
        readings: dict[str, Reading] = {}
        for block in blocks:
            readings |= await self._block(block)
        for name, place in wanted:
            if name not in readings:
                readings[name] = await self._single(name, place)
        return readings

    async def _block(self, block: Block) -> dict[str, Reading]:
        try:
            raw = await self._read(block.table, block.offset, block.count)
        except Refused as error:
            if len(block.names) == 1 or error.number == BUSY:
                return {name: self._refused(name, error) for name in block.names}
            self._alone.update(block.names)
            return {}
        return {
            name: self._reading(name, raw[at : at + self._places[name].count])
            for name in block.names
            for at in (self._places[name].offset - block.offset,)
        }

    async def _single(self, name: str, place: Place) -> Reading:
        try:
            raw = await self._read(place.table, place.offset, place.count)
        except Refused as error:
            return self._refused(name, error)
        return self._reading(name, raw)

    async def _read(self, table: Table, offset: int, count: int) -> list[int]:
        return await self._open_line.read(self._address.unit, self._seconds, table, offset, count)

    def _reading(self, name: str, raw: Sequence[int]) -> Reading:
        place = self._places[name]
        try:
            text = decode(place, self._rules.get(name, OWN_RULE), raw)
        except BadRequest as error:
            return bad(f"{place}: {error.message}", self._clock())
        return Reading(text, Quality.GOOD, self._clock())

    def _refused(self, name: str, error: Refused) -> Reading:
        return bad(f"{self._places[name]} of unit {self._address.unit}: {error}", self._clock())

    async def write(self, name: str, text: str) -> None:
        place = self._places.get(name)
        if place is None:
            raise Rejected(self._faults.get(name, f"{name} has no register"))
        rule = self._rules.get(name, OWN_RULE)
        what = encode(place, rule, wanted_value(rule, text))
        try:
            await self._open_line.write(self._address.unit, self._seconds, what)
        except Refused as error:
            raise Rejected(f"{place} of unit {self._address.unit}: {error}") from error

    @property
    def _open_line(self) -> Line:
        if self._line is None:
            raise Rejected("not connected")
        return self._line

    def faults(self) -> Mapping[str, str]:
        return self._faults

    def subscribe(self, changed: Callable[[], None]) -> None:
        """A Modbus unit never speaks unasked."""

    async def close(self) -> None:
        if self._line is not None:
            self._lines.give_back(self._line)
            self._line = None
