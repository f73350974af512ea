"""Where a property is in a Modbus device, and how registers become values and back. Pure.

Registers are words of 16 bits, the high byte and the high word first, until `isSwap` (bytes of each word) or
`isRegisterSwap` (order of words) say otherwise. Source: MODBUS Application Protocol V1.1b3; the configData of
KubeEdge's Modbus mapper.
"""

from __future__ import annotations

import base64
import enum
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from edge.mappers.configdata import ConfigData
from edge.mappers.readings import text_of
from gateway.errors import BadRequest, Rejected
from gateway.wire.cloudedge.values import PropertyType, Typed, ValueRule

MAX_REGISTERS: Final = 125
MAX_BITS: Final = 2_000
MAX_WRITE_REGISTERS: Final = 123
MAX_WRITE_BITS: Final = 1_968
LAST_ADDRESS: Final = 65_535
_FLOAT32_MAX: Final = 3.4028234663852886e38


class Table(enum.StrEnum):
    """The four tables of a device; the value is what people are told."""

    COIL = "coil"
    DISCRETE = "discrete input"
    INPUT = "input register"
    HOLDING = "holding register"

    @property
    def is_bits(self) -> bool:
        return self in (Table.COIL, Table.DISCRETE)

    @property
    def is_writable(self) -> bool:
        return self in (Table.COIL, Table.HOLDING)

    @property
    def most(self) -> int:
        """Return how many of them one request may read."""
        return MAX_BITS if self.is_bits else MAX_REGISTERS


TABLES: Final = {
    "coilregister": Table.COIL,
    "coil": Table.COIL,
    "co": Table.COIL,
    "discreteinputregister": Table.DISCRETE,
    "discreteinput": Table.DISCRETE,
    "di": Table.DISCRETE,
    "inputregister": Table.INPUT,
    "input": Table.INPUT,
    "ir": Table.INPUT,
    "holdingregister": Table.HOLDING,
    "holding": Table.HOLDING,
    "hr": Table.HOLDING,
}

_FORMATS: Final = {
    "int16": "h",
    "uint16": "H",
    "int32": "i",
    "uint32": "I",
    "int64": "q",
    "uint64": "Q",
    "float32": "f",
    "float64": "d",
}
_ALIASES: Final = {
    "short": "int16",
    "ushort": "uint16",
    "word": "uint16",
    "int": "",
    "float": "float32",
    "double": "float64",
    "boolean": "bits",
    "bool": "bits",
    "bit": "bits",
}
KINDS: Final = {
    **{name: name for name in (*_FORMATS, "string", "bytes", "bits", "bcd")},
    **_ALIASES,
}
_INTEGERS: Final = {1: "int16", 2: "int32", 4: "int64"}
_FLOATS: Final = {1: "int16", 2: "float32", 4: "float64"}


@dataclass(frozen=True, slots=True)
class Place:
    """One property of a device.

    Shape:  `count` registers or bits from `offset`; `kind` a value of `KINDS`; `bit` of the first register,
            -1 for all of it; a raw number times `scale` is the value; `is_alone` keeps it out of shared
            requests.
    """

    table: Table
    offset: int
    count: int
    kind: str
    scale: float = 1.0
    swaps_bytes: bool = False
    swaps_words: bool = False
    bit: int = -1
    minimum: float | None = None
    maximum: float | None = None
    writes_many: bool = False
    is_alone: bool = False

    @property
    def end(self) -> int:
        return self.offset + self.count

    def __str__(self) -> str:
        last = f" to {self.end - 1}" if self.count > 1 else ""
        return f"{self.table} {self.offset}{last}"


def place_of(config: ConfigData, rule: ValueRule) -> Place:
    """Read a visitor's configData. Errors: Rejected, naming the key."""
    table = config.choice(TABLES, "register", "registerType", "table")
    offset = config.integer("offset", "address", high=LAST_ADDRESS)
    said = config.choice(KINDS, "dataType", "type", default="")
    bit = config.integer("bit", default=-1, low=-1, high=15)
    count = config.integer(
        "limit", "count", "quantity", default=_own_count(said, table, rule), low=1, high=table.most
    )
    kind = "bits" if table.is_bits or bit >= 0 else said or _kind_for(rule.type, count)
    place = Place(
        table,
        offset,
        count,
        kind,
        scale=config.number("scale", default=1.0),
        swaps_bytes=config.flag("isSwap", "byteSwap"),
        swaps_words=config.flag("isRegisterSwap", "wordSwap"),
        bit=bit,
        minimum=config.number("min", "minimum") if config.has("min", "minimum") else None,
        maximum=config.number("max", "maximum") if config.has("max", "maximum") else None,
        writes_many=config.flag("writeMultiple"),
        is_alone=config.flag("alone"),
    )
    _check(place, config)
    return place


def _own_count(kind: str, table: Table, rule: ValueRule) -> int:
    if table.is_bits:
        return 1
    if kind in _FORMATS:
        return struct.calcsize(_FORMATS[kind]) // 2
    return 2 if not kind and rule.type in (PropertyType.FLOAT, PropertyType.DOUBLE) else 1


def _kind_for(kind: PropertyType, count: int) -> str:
    if kind is PropertyType.STRING:
        return "string"
    if kind is PropertyType.BYTES:
        return "bytes"
    if kind is PropertyType.BOOLEAN:
        return "uint16"
    table = _INTEGERS if kind is PropertyType.INT else _FLOATS
    return table.get(count, "int16")


def _check(place: Place, config: ConfigData) -> None:
    if place.end > LAST_ADDRESS + 1:
        raise Rejected(f"{config.where}.offset: {place} is beyond {LAST_ADDRESS}")
    if place.scale == 0:
        raise Rejected(f"{config.where}.scale: expected a number that is not 0")
    needed = struct.calcsize(_FORMATS[place.kind]) // 2 if place.kind in _FORMATS else place.count
    if place.count != needed:
        raise Rejected(
            f"{config.where}.limit: {place.kind} has {needed} registers, got {place.count}"
        )
    if place.kind == "bcd" and place.count > 4:
        raise Rejected(f"{config.where}.limit: bcd has at most 4 registers, got {place.count}")


# --- reading ---------------------------------------------------------------------------------------


def decode(place: Place, rule: ValueRule, raw: Sequence[int | bool]) -> str:
    """Return what registers or bits say, in canonical text.

    Errors: BadRequest for what is no value of the model's type or beyond `min` and `max`.
    """
    value = _value(place, raw, rule.type)
    if isinstance(value, int | float) and not isinstance(value, bool):
        _within(place, value)
        if rule.type is PropertyType.BOOLEAN:
            value = value != 0
    return text_of(rule.type, value)


def _value(place: Place, raw: Sequence[int | bool], kind: PropertyType) -> object:
    if place.kind == "bits":
        return _bits(place, raw, kind)
    octets = _octets(place, [int(word) for word in raw])
    if place.kind == "string":
        return _string(octets)
    if place.kind == "bytes":
        return octets
    if place.kind == "bcd":
        return _scaled(place, _bcd(octets))
    return _scaled(place, struct.unpack(">" + _FORMATS[place.kind], octets)[0])


def _bits(place: Place, raw: Sequence[int | bool], kind: PropertyType) -> object:
    if place.table.is_bits:
        flags = [bool(flag) for flag in raw]
    else:
        octets = _octets(place, [int(word) for word in raw])
        whole = int.from_bytes(octets, "big")
        if place.bit >= 0:
            word = int.from_bytes(octets[:2], "big")
            return bool(word >> place.bit & 1)
        flags = [bool(whole >> at & 1) for at in range(16 * len(raw))]
    if len(flags) == 1:
        return flags[0]
    if kind is PropertyType.STRING:
        return "".join("1" if flag else "0" for flag in flags)
    return sum(1 << at for at, flag in enumerate(flags) if flag)


def _octets(place: Place, words: list[int]) -> bytes:
    if place.swaps_words:
        words = words[::-1]
    order = "<" if place.swaps_bytes else ">"
    return struct.pack(f"{order}{len(words)}H", *words)


def _string(octets: bytes) -> str:
    text = octets.split(b"\0", 1)[0]
    try:
        return text.decode().rstrip(" ")
    except UnicodeDecodeError:
        raise BadRequest("expected UTF-8 text in the registers") from None


def _bcd(octets: bytes) -> int:
    digits = octets.hex()
    if not digits.isdigit():
        raise BadRequest(f"expected binary coded decimals, got 0x{digits}")
    return int(digits)


def _scaled(place: Place, number: float) -> float:
    """Return number times scale, without the dust of binary fractions."""
    if not math.isfinite(number):
        raise BadRequest(f"expected a finite number, got {number}")
    if place.scale == 1.0:
        return _shortest(number) if place.kind == "float32" else number
    value = float(f"{number * place.scale:.12g}")
    return int(value) if value.is_integer() and abs(value) < 2**53 else value


def _shortest(number: float) -> float:
    """Return the number of fewest digits that is the same float of 32 bits."""
    same = struct.pack(">f", number)
    for digits in (6, 7, 8):
        rounded = float(f"{number:.{digits}g}")
        if abs(rounded) <= _FLOAT32_MAX and struct.pack(">f", rounded) == same:
            return rounded
    return number


def _within(place: Place, value: float) -> None:
    if place.minimum is not None and value < place.minimum:
        raise BadRequest(f"{value:g} is below the least of {place.minimum:g}")
    if place.maximum is not None and value > place.maximum:
        raise BadRequest(f"{value:g} is above the most of {place.maximum:g}")


# --- writing ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Coils:
    """Bits to write from `offset`."""

    offset: int
    values: tuple[bool, ...]


@dataclass(frozen=True, slots=True)
class Registers:
    """Words to write from `offset`; `is_many` asks for function 16 for a single one, too."""

    offset: int
    values: tuple[int, ...]
    is_many: bool = False


@dataclass(frozen=True, slots=True)
class Mask:
    """Some bits of the register at `offset`: it becomes itself AND `keeps`, OR `sets`."""

    offset: int
    keeps: int
    sets: int


def encode(place: Place, rule: ValueRule, value: Typed) -> Coils | Registers | Mask:
    """Return what to write for a value. Errors: Rejected for a place or value that cannot be written."""
    if not place.table.is_writable:
        raise Rejected(f"{place} cannot be written")
    try:
        if isinstance(value, int | float) and not isinstance(value, bool):
            _within(place, value)
        if place.table is Table.COIL:
            return Coils(place.offset, tuple(_flags(value, place.count)))
        if place.bit >= 0:
            return _mask(place, _flags(value, 1)[0])
        words = _words(place, rule, value)
        return Registers(place.offset, tuple(words), place.writes_many)
    except (struct.error, OverflowError, ValueError) as error:
        raise Rejected(f"{value!r} does not fit {place.kind} at {place}") from error


def _flags(value: Typed, count: int) -> list[bool]:
    if isinstance(value, str):
        if len(value) != count or set(value) - {"0", "1"}:
            raise Rejected(f"expected {count} characters 0 or 1, got {value[:40]!r}")
        return [character == "1" for character in value]
    whole = int(value)
    if not 0 <= whole < 1 << count:
        raise Rejected(f"expected {count} bits, got {whole}")
    return [bool(whole >> at & 1) for at in range(count)]


def _mask(place: Place, is_on: bool) -> Mask:
    at = (place.bit + 8) % 16 if place.swaps_bytes else place.bit
    bit = 1 << at
    return Mask(place.offset, 0xFFFF & ~bit, bit if is_on else 0)


def _words(place: Place, rule: ValueRule, value: Typed) -> list[int]:
    order = "<" if place.swaps_bytes else ">"
    octets = _encoded(place, rule, value)
    words = list(struct.unpack(f"{order}{len(octets) // 2}H", octets))
    return words[::-1] if place.swaps_words else words


def _encoded(place: Place, rule: ValueRule, value: Typed) -> bytes:
    size = 2 * place.count
    if place.kind in ("string", "bytes"):
        octets = _raw(rule, value)
        if len(octets) > size:
            raise Rejected(f"expected at most {size} bytes, got {len(octets)}")
        return octets.ljust(size, b"\0")
    if isinstance(value, str) and place.kind != "bits":
        value = float(value)
    if place.kind == "bits":
        flags = _flags(value, 16 * place.count)
        return sum(1 << at for at, flag in enumerate(flags) if flag).to_bytes(size, "big")
    number = float(value) / place.scale if place.scale != 1.0 else value
    if isinstance(number, str):
        raise Rejected(f"expected a number, got {number[:40]!r}")
    if place.kind in ("float32", "float64"):
        return struct.pack(">" + _FORMATS[place.kind], number)
    whole = round(number)
    if place.kind == "bcd":
        if not 0 <= whole < 100**size:
            raise Rejected(f"expected 0 to {2 * size} decimal digits, got {whole}")
        return bytes.fromhex(f"{whole:0{2 * size}d}")
    return struct.pack(">" + _FORMATS[place.kind], whole)


def _raw(rule: ValueRule, value: Typed) -> bytes:
    if rule.type is PropertyType.BYTES:
        return base64.b64decode(str(value))
    return str(value).encode()


# --- which requests --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Block:
    """One request and the properties that its answer holds."""

    table: Table
    offset: int
    count: int
    names: tuple[str, ...]


def plan(
    places: Sequence[tuple[str, Place]], *, gap: int, most: int = MAX_REGISTERS
) -> list[Block]:
    """Put properties that lie near each other into as few requests as possible.

    Units:  `gap` registers or bits that nobody asked for may lie between two; `most` registers in a request.
    """
    blocks: list[Block] = []
    alone: list[Block] = []
    ordered = sorted(places, key=lambda each: (each[1].table, each[1].offset, each[1].end))
    for name, place in ordered:
        if place.is_alone:
            alone.append(Block(place.table, place.offset, place.count, (name,)))
            continue
        last = blocks[-1] if blocks else None
        limit = place.table.most if place.table.is_bits else min(most, MAX_REGISTERS)
        if last is not None and _joins(last, place, gap, limit):
            end = max(last.offset + last.count, place.end)
            blocks[-1] = Block(last.table, last.offset, end - last.offset, (*last.names, name))
        else:
            blocks.append(Block(place.table, place.offset, place.count, (name,)))
    return blocks + alone


def _joins(last: Block, place: Place, gap: int, limit: int) -> bool:
    end = last.offset + last.count
    return (
        last.table is place.table
        and place.offset - end <= gap
        and max(end, place.end) - last.offset <= limit
    )
