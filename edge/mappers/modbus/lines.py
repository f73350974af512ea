"""Lines that several units share: one request at a time, in order of arrival, and no unit eats the line.

A unit that does not answer is left alone for a while that doubles, at least five times what waiting for it
costs. Its devices hear so at once.

RTU frames have no transaction numbers: an answer that comes too late looks like the answer to the next
request of the same unit. So after a request without an answer, also one that was broken off, the unit is
asked nothing until such an answer must have come and gone.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from edge.mappers.driver import DeviceUnreachable
from edge.mappers.modbus.addresses import LineAddress, TcpLine, UnitAddress
from edge.mappers.modbus.registers import Coils, Mask, Registers, Table
from gateway.errors import GatewayError, Rejected
from gateway.model.json import JsonObject
from gateway.runtime.backoff import Backoff

T = TypeVar("T")
Write = Coils | Registers | Mask

REST_FACTOR, REST_FACTOR_RTU = 20, 30
"""A silent unit's first rest in multiples of its time limit; jitter may halve it."""
LONGEST_REST = 60.0
SILENT_BEFORE_REOPEN = 4
"""Requests in a row without an answer after which a TCP connection is made anew: it may be half open."""
REOPEN_FIRST, REOPEN_CAP = 0.5, 10.0
LATE_FACTOR = 3
"""How late an answer without a transaction number may come, in multiples of the time limit."""
CODES = {
    1: "illegal function",
    2: "illegal data address",
    3: "illegal data value",
    4: "device failure",
    5: "acknowledged, not done yet",
    6: "device is busy",
    7: "negative acknowledgement",
    8: "memory parity error",
    10: "gateway path unavailable",
    11: "gateway target did not answer",
}
BUSY = 6
GATEWAY = frozenset({10, 11})


class Refused(Rejected):
    """A device's exception answer; `number` is its code."""

    code = "edge.modbus.refused"

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__(f"{CODES.get(number, 'unknown exception')} (code {number})")


class Client(Protocol):
    """A line's connection. Every call may wait for ever: whoever calls limits it."""

    @property
    def is_open(self) -> bool: ...
    async def open(self) -> None: ...
    async def read(self, unit: int, table: Table, offset: int, count: int) -> list[int]: ...
    async def write(self, unit: int, what: Write) -> None: ...
    async def identity(self, unit: int) -> dict[str, str]: ...
    def close(self) -> None: ...


ClientFactory = Callable[[LineAddress], Client]


@dataclass(slots=True)
class _Unit:
    """How a unit did lately; times are of the loop's clock."""

    rest: Backoff
    silent_until: float = 0.0
    why: str = ""


@dataclass(slots=True)
class Line:
    """One connection and those who use it."""

    address: LineAddress
    client: Client
    users: int = 0
    reads: int = 0
    writes: int = 0
    failures: int = 0
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    _units: dict[int, _Unit] = field(default_factory=dict)
    _doubts: dict[int, float] = field(default_factory=dict)
    """Until when an answer of a unit may be one to an earlier request."""
    _silent: int = 0
    _reopen: Backoff = field(default_factory=lambda: Backoff(REOPEN_FIRST, REOPEN_CAP))
    _closed_until: float = 0.0
    _why_closed: str = ""

    async def read(
        self, unit: int, seconds: float, table: Table, offset: int, count: int
    ) -> list[int]:
        """Read registers or bits; one silence or broken answer is forgiven.

        Errors: DeviceUnreachable; Refused with the device's exception code.
        """
        async with self._turn(unit):
            self.reads += 1
            return await self._ask(
                unit, seconds, lambda: self.client.read(unit, table, offset, count), tries=2
            )

    async def write(self, unit: int, seconds: float, what: Write) -> None:
        """Write once. Errors: as `read`."""
        async with self._turn(unit):
            self.writes += 1
            await self._write(unit, seconds, what)

    async def _write(self, unit: int, seconds: float, what: Write) -> None:
        try:
            await self._ask(unit, seconds, lambda: self.client.write(unit, what))
        except Refused as error:
            if error.number != 1 or not isinstance(what, Mask):
                raise
            await self._change(unit, seconds, what)

    async def _change(self, unit: int, seconds: float, mask: Mask) -> None:
        """Do what function 22 does for a device that has it not; the line is ours meanwhile."""
        old = await self._ask(
            unit, seconds, lambda: self.client.read(unit, Table.HOLDING, mask.offset, 1)
        )
        word = old[0] & mask.keeps | mask.sets
        new = Registers(mask.offset, (word,))
        await self._ask(unit, seconds, lambda: self.client.write(unit, new))

    async def probe(self, unit: int, seconds: float) -> dict[str, str] | None:
        """Return what a unit says of itself, None for a unit that is not there."""
        async with self._lock:
            await self._open()
            self._doubt_from_now(unit, seconds)
            try:
                async with asyncio.timeout(seconds):
                    await self.client.read(unit, Table.HOLDING, 0, 1)
            except Refused as error:
                if error.number in GATEWAY:
                    return None
            except (DeviceUnreachable, TimeoutError):
                return None
            self._doubt_from_now(unit, seconds)
            try:
                async with asyncio.timeout(seconds):
                    return await self.client.identity(unit)
            except (GatewayError, TimeoutError):
                return {}

    @asynccontextmanager
    async def _turn(self, unit: int) -> AsyncIterator[None]:
        """Have the line for the length of the block; a unit that rests does not wait for it."""
        while True:
            self._check_rest(unit)
            await asyncio.sleep(self._doubt(unit))
            async with self._lock:
                self._check_rest(unit)
                if self._doubt(unit):  # another request failed meanwhile
                    continue
                await self._open()
                yield
                return

    @property
    def _has_numbers(self) -> bool:
        return isinstance(self.address, TcpLine) and not self.address.is_rtu

    def _doubt(self, unit: int) -> float:
        """Return for how many seconds an answer of a unit may still be one to an earlier request."""
        left = self._doubts.get(unit, 0.0) - _now()
        if left > 0:
            return left
        self._doubts.pop(unit, None)
        return 0.0

    def _doubt_from_now(self, unit: int, seconds: float) -> None:
        if not self._has_numbers:
            self._doubts[unit] = _now() + LATE_FACTOR * seconds

    def _check_rest(self, unit: int) -> None:
        known = self._units.get(unit)
        if known is not None and known.silent_until > _now():
            raise DeviceUnreachable(f"unit {unit} at {self.address}: {known.why}")

    async def _open(self) -> None:
        if self.client.is_open:
            return
        if self._closed_until > _now():
            raise DeviceUnreachable(self._why_closed)
        try:
            await self.client.open()
        except DeviceUnreachable as error:
            self._why_closed = error.message
            self._closed_until = _now() + self._reopen.next()
            raise
        self._reopen.reset()
        self._silent = 0

    async def _ask(
        self, unit: int, seconds: float, request: Callable[[], Awaitable[T]], tries: int = 1
    ) -> T:
        why = ""
        for turn in range(tries):
            if turn and not self.client.is_open:
                break
            if turn and not self._has_numbers:
                await asyncio.sleep(seconds)  # a late answer to the first is not one to the second
            self._doubt_from_now(unit, seconds)  # until it is answered, or whatever breaks it off
            try:
                async with asyncio.timeout(seconds):
                    answer = await request()
            except TimeoutError:
                why = f"no answer in {seconds:g} s"
            except DeviceUnreachable as error:
                why = error.message
            except Refused as error:
                if error.number not in GATEWAY:
                    self._answered(unit, seconds, is_sure=not turn)
                    raise
                why = str(error)
            else:
                self._answered(unit, seconds, is_sure=not turn)
                return answer
        raise self._failed(unit, seconds, why)

    def _answered(self, unit: int, seconds: float, *, is_sure: bool) -> None:
        """A unit has spoken; whether to the last request is not sure where the one before was lost."""
        self._silent = 0
        self._units.pop(unit, None)
        self._doubts.pop(unit, None)
        if not is_sure:
            self._doubt_from_now(unit, seconds)

    def _failed(self, unit: int, seconds: float, why: str) -> DeviceUnreachable:
        self.failures += 1
        self._silent += 1
        if not self.client.is_open:  # the line's fault
            return DeviceUnreachable(f"{self.address}: {why}")
        if self._silent >= SILENT_BEFORE_REOPEN and isinstance(self.address, TcpLine):
            self.client.close()
        self._doubt_from_now(unit, seconds)
        factor = REST_FACTOR if self._has_numbers else REST_FACTOR_RTU
        first = min(factor * seconds, LONGEST_REST)
        known = self._units.setdefault(unit, _Unit(Backoff(first, LONGEST_REST)))
        known.silent_until, known.why = _now() + known.rest.next(), why
        return DeviceUnreachable(f"unit {unit} at {self.address}: {why}")

    @property
    def silent_units(self) -> list[int]:
        """Return the units that are left alone for now."""
        now = _now()
        return sorted(unit for unit, known in self._units.items() if known.silent_until > now)


class Lines:
    """The lines in use, one connection each."""

    def __init__(self, make: ClientFactory) -> None:
        self._make = make
        self._lines: dict[LineAddress, Line] = {}

    def take(self, address: UnitAddress) -> Line:
        """Return the line of a unit; give it back with `give_back`.

        Errors: Rejected for a serial port that another Device uses at another speed or parity.
        """
        line = self._lines.get(address.line)
        if line is None:
            self._check_alone(address.line)
            line = self._lines[address.line] = Line(address.line, self._make(address.line))
        line.users += 1
        return line

    def _check_alone(self, address: LineAddress) -> None:
        for other in self._lines:
            if str(other) == str(address):
                raise Rejected(f"{address} is in use with other settings: {other!r}")

    def give_back(self, line: Line) -> None:
        """Say that somebody is done with a line; the last one closes it."""
        line.users -= 1
        if line.users <= 0:
            self._lines.pop(line.address, None)
            line.client.close()

    def close(self) -> None:
        for line in self._lines.values():
            line.client.close()
        self._lines.clear()

    def facts(self) -> JsonObject:
        """Return each line's state and counts."""
        return {
            str(address): {
                "open": line.client.is_open,
                "devices": line.users,
                "reads": line.reads,
                "writes": line.writes,
                "failures": line.failures,
                "silent": ", ".join(map(str, line.silent_units)),
            }
            for address, line in self._lines.items()
        }


def _now() -> float:
    return asyncio.get_running_loop().time()
