"""Measurements of the Bluetooth SIG that are records: flags say which parts follow, and in which unit.

Source: GATT Specification Supplement; the services' own documents.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from edge.mappers.ble.codecs import PLAIN, Codec, Scaled, Value, exact
from gateway.errors import BadRequest


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a record, there when `flags & mask == when`.

    Shape:  `name` "" for what nobody reads here; `codec` reads its `width` bytes; `times` what that is to be
            multiplied with for the unit that we tell.
    """

    name: str
    width: int
    codec: Codec | None = None
    mask: int = 0
    when: int = 0
    times: float = 1.0


@dataclass(frozen=True, slots=True)
class Record:
    """A measurement: `flags` bytes of flags, then the parts."""

    flags: int
    parts: tuple[Part, ...]

    def fields(self) -> tuple[tuple[str, Codec], ...]:
        """Return the codec of each part that has a name, the first one first."""
        names = dict.fromkeys(part.name for part in self.parts if part.name)
        return tuple((name, self._codec(name)) for name in names)

    def _codec(self, name: str) -> Codec:
        kinds = {part.codec.type for part in self.parts if part.name == name and part.codec}
        return Codec(lambda data: self.value(data, name), None, kinds.pop())

    def value(self, data: bytes, name: str) -> Value:
        """Read one part. Errors: BadRequest for bytes that end early, and for a part that is not there."""
        flags, at = int.from_bytes(data[: self.flags], "little"), self.flags
        for part in self.parts:
            if flags & part.mask != part.when:
                continue
            if len(data) < at + part.width:
                raise BadRequest(f"expected at least {at + part.width} bytes, got {len(data)}")
            if part.name == name and part.codec is not None:
                found = part.codec.decode(data[at : at + part.width])
                return found if part.times == 1.0 else exact(float(found) * part.times)
            at += part.width
        raise BadRequest(f"the measurement does not have its {name}")


_FLOAT: Final = PLAIN["sfloat"]
_KPA_IN_MMHG: Final = 7.50061683
_LB_IN_KG: Final = 0.45359237
_KG_PER_L_IN_MMOL: Final = 5_550.7
"""Of glucose: 180.16 g are a mole."""
_TIME: Final = 7


def _u(size: int, down: float = 1, unknown: tuple[int, ...] = ()) -> Codec:
    return Scaled(size, down=down, unknown=unknown).codec()


def _pressure(name: str) -> tuple[Part, Part]:
    return Part(name, 2, _FLOAT, 1, 0), Part(name, 2, _FLOAT, 1, 1, _KPA_IN_MMHG)


RECORDS: Final[dict[str, Record]] = {
    "bloodPressure": Record(
        1,
        (
            *_pressure("systolic"),
            *_pressure("diastolic"),
            *_pressure("mean"),
            Part("", _TIME, mask=2, when=2),
            Part("pulse", 2, _FLOAT, 4, 4),
        ),
    ),
    "glucose": Record(
        1,
        (
            Part("", 2 + _TIME),
            Part("", 2, mask=1, when=1),
            Part("glucose", 2, _FLOAT, 6, 2, _KG_PER_L_IN_MMOL),
            Part("glucose", 2, _FLOAT, 6, 6, 1_000.0),
        ),
    ),
    "weight": Record(
        1,
        (
            Part("weight", 2, _u(2, 200, (0xFFFF,)), 1, 0),
            Part("weight", 2, _u(2, 100, (0xFFFF,)), 1, 1, _LB_IN_KG),
            Part("", _TIME, mask=2, when=2),
            Part("user", 1, _u(1, unknown=(0xFF,)), 4, 4),
            Part("bmi", 2, _u(2, 10), 8, 8),
        ),
    ),
    "running": Record(
        1,
        (
            Part("speed", 2, _u(2, 256)),
            Part("cadence", 1, _u(1)),
            Part("stride", 2, _u(2, 100), 1, 1),
            Part("distance", 4, _u(4, 10), 2, 2),
        ),
    ),
    "cycling": Record(
        1,
        (
            Part("wheelRevolutions", 4, _u(4), 1, 1),
            Part("", 2, mask=1, when=1),
            Part("crankRevolutions", 2, _u(2), 2, 2),
        ),
    ),
    "cyclingPower": Record(
        2,
        (
            Part("power", 2, Scaled(2, signed=True).codec()),
            Part("", 1, mask=1, when=1),
            Part("", 2, mask=4, when=4),
            Part("wheelRevolutions", 4, _u(4), 16, 16),
            Part("", 2, mask=16, when=16),
            Part("crankRevolutions", 2, _u(2), 32, 32),
        ),
    ),
    "oximeter": Record(1, (Part("saturation", 2, _FLOAT), Part("pulse", 2, _FLOAT))),
}
"""Units: mmHg, 1/min, mmol/l, kg, m/s, m, W, %."""
