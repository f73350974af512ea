"""How a composite type's fields stand on the wire: one table entry per field, one codec for all.

A composite is a described list. Here it is a frozen dataclass or struct whose attributes are plain Python
values (int, str, bytes, dict, tuple of str); the table says which AMQP type each has. What equals its
default is written as null, trailing nulls are left away.
Source: OASIS AMQP 1.0, part 1, section 1.4.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, dataclass, field, fields, replace
from operator import attrgetter
from typing import Final, TypeAlias
from uuid import UUID

import msgspec

from gateway.errors import MalformedPacket
from gateway.wire.amqp import direct
from gateway.wire.amqp.decode import decode
from gateway.wire.amqp.direct import Plan, Readers, read_composite
from gateway.wire.amqp.encode import encode, encode_described, encode_list, encode_uint, symbols
from gateway.wire.amqp.values import (
    Array,
    Described,
    Symbol,
    Timestamp,
    UByte,
    UInt,
    ULong,
    UShort,
)

_MAX_UINT: Final = 0xFFFF_FFFF


@dataclass(frozen=True, slots=True)
class FieldKind:
    """One wire type: which decoded Python types are it, and how to get from and to them.

    Shape:  `readers` take its usual forms straight from the bytes.
    """

    name: str
    accepts: tuple[type, ...]
    read: Callable[..., object]
    write: Callable[..., bytes]
    readers: Readers = field(default_factory=dict)


def _same(value: object) -> object:
    return value


def _read_symbols(value: object) -> tuple[str, ...]:
    if isinstance(value, Array):
        if value.items and not all(type(item) is Symbol for item in value.items):
            raise MalformedPacket("amqp field: expected an array of symbols")
        return tuple(str(item) for item in value.items)
    return (str(value),)


def _writer(make: Callable[..., object]) -> Callable[..., bytes]:
    return lambda value: encode(make(value))


def _write_uint(value: int) -> bytes:
    return (
        encode_uint(value) if 0 <= value <= _MAX_UINT else encode(UInt(value))
    )  # the latter refuses


def _write_boolean(value: bool) -> bytes:
    return b"\x41" if value else b"\x42"


STRING: Final = FieldKind("string", (str,), str, encode, direct.STRINGS)
SYMBOL: Final = FieldKind("symbol", (Symbol,), str, _writer(Symbol), direct.SYMBOLS)
BINARY: Final = FieldKind("binary", (bytes,), _same, encode, direct.BINARIES)
BOOLEAN: Final = FieldKind("boolean", (bool,), _same, _write_boolean, direct.BOOLEANS)
UBYTE: Final = FieldKind("ubyte", (UByte,), int, _writer(UByte), direct.UBYTES)
USHORT: Final = FieldKind("ushort", (UShort,), int, _writer(UShort), direct.USHORTS)
UINT: Final = FieldKind("uint", (UInt,), int, _write_uint, direct.UINTS)
ULONG: Final = FieldKind("ulong", (ULong,), int, _writer(ULong))
TIMESTAMP: Final = FieldKind("timestamp", (Timestamp,), int, _writer(Timestamp), direct.TIMESTAMPS)
MAP: Final = FieldKind("map", (dict,), _same, encode)
SYMBOLS: Final = FieldKind(
    "symbol or array of symbols", (Symbol, Array), _read_symbols, _writer(symbols)
)
MESSAGE_ID: Final = FieldKind(
    "string, ulong, uuid or binary",
    (str, ULong, UUID, bytes),
    _same,
    lambda value: encode(ULong(value) if type(value) is int else value),
    direct.STRINGS,
)
ANY: Final = FieldKind("any", (object,), _same, encode, direct.STRINGS)


def any_of(fieldless: dict[int, object]) -> FieldKind:
    """`ANY` where mostly one of some composites without fields stands, by the number of their descriptor."""
    return replace(ANY, readers=direct.fieldless(fieldless))


@dataclass(frozen=True, slots=True)
class Field:
    """One position in a composite's list."""

    name: str
    kind: FieldKind
    mandatory: bool = False


@dataclass(frozen=True, slots=True)
class Composite:
    """One composite type: its descriptor (number and symbol), its class, its fields in order."""

    code: int
    symbol: str
    make: type
    fields: tuple[Field, ...]


_Written: TypeAlias = tuple[Callable[[object], object], object, Callable[..., bytes]]
"""How to get a field, what is written as null, how to write all else."""


class Catalogue:
    """A set of composite types that can be read and written."""

    def __init__(self) -> None:
        self._by_descriptor: dict[object, Composite] = {}
        self._plans: dict[int, Plan] = {}
        self._by_class: dict[type, tuple[int, tuple[_Written, ...]]] = {}

    def add(self, code: int, symbol: str, make: type, *positions: Field) -> None:
        composite = Composite(code, symbol, make, positions)
        self._by_descriptor[ULong(code)] = composite
        self._by_descriptor[Symbol(symbol)] = composite
        defaults = _defaults(make)
        self._by_class[make] = (
            code,
            tuple(
                (
                    attrgetter(_attribute(one.name)),
                    defaults[_attribute(one.name)],
                    self._writer(one),
                )
                for one in positions
            ),
        )
        self._plans[code] = _plan(composite, defaults)

    def decode(self, data: bytes, at: int = 0) -> tuple[object, int]:
        """Read the composite at `at` from its bytes; return it and the position after it.

        Errors: MalformedPacket, as `decode` and `read` say.
        """
        found = read_composite(self._plans, data, at)
        if found is not None:
            return found
        value, end = decode(data, at)
        return self.read(value), end

    def decode_usual(self, data: bytes, at: int) -> tuple[object, int] | None:
        """`decode` of a composite in its usual form; None for everything else."""
        return read_composite(self._plans, data, at)

    def read(self, value: object) -> object:
        """Turn a described list into its class; other descriptions stay `Described`.

        Errors: MalformedPacket for a field of the wrong type, a mandatory one missing, one too many.
        """
        if not isinstance(value, Described):
            raise MalformedPacket(f"amqp: expected a described list, got {type(value).__name__}")
        composite = self._by_descriptor.get(value.descriptor)
        if composite is None:
            return value
        if type(value.value) is not list:
            raise MalformedPacket(f"{composite.symbol}: expected a list")
        return self._build(composite, value.value)

    def _build(self, composite: Composite, items: list[object]) -> object:
        expected = composite.fields
        if len(items) > len(expected):
            raise MalformedPacket(
                f"{composite.symbol}: {len(items)} fields, at most {len(expected)}"
            )
        given: dict[str, object] = {}
        for one, item in zip(expected, items, strict=False):
            if item is not None:
                given[_attribute(one.name)] = self._field(composite, one, item)
        for one in expected:
            if one.mandatory and _attribute(one.name) not in given:
                raise MalformedPacket(f"{composite.symbol}: mandatory field {one.name} is missing")
        return composite.make(**given)

    def _field(self, composite: Composite, one: Field, item: object) -> object:
        kind = one.kind
        if kind.accepts is ANY.accepts:
            return self.read(item) if type(item) is Described else item
        if type(item) not in kind.accepts:
            raise MalformedPacket(
                f"{composite.symbol}: field {one.name}: expected {kind.name}, got {type(item).__name__}"
            )
        return kind.read(item)

    def write(self, value: object) -> bytes:
        """Write one composite; a `Described` goes out as it is."""
        known = self._by_class.get(type(value))
        if known is None:
            return encode(value)
        code, places = known
        items: list[bytes] = []
        wanted = 0
        for get, default, write in places:
            item = get(value)
            if item is None or item == default:
                items.append(b"\x40")
            else:
                items.append(write(item))
                wanted = len(items)
        return encode_described(code, encode_list(items[:wanted]))

    def _writer(self, one: Field) -> Callable[..., bytes]:
        return self.write if one.kind.accepts is ANY.accepts else one.kind.write


def _attribute(name: str) -> str:
    return name.replace("-", "_")


def _defaults(make: type) -> dict[str, object]:
    """What attributes are where nothing is said, in the order of arguments; `MISSING` for mandatory ones."""
    if issubclass(make, msgspec.Struct):
        names, values = make.__struct_fields__, make.__struct_defaults__
        missing = [MISSING] * (len(names) - len(values))
        return dict(zip(names, (*missing, *values), strict=True))
    return {one.name: one.default for one in fields(make)}  # type: ignore[arg-type]


def _plan(composite: Composite, defaults: dict[str, object]) -> Plan:
    order = list(defaults)
    readers = []
    for one in composite.fields:
        null = {direct.NULL: direct.constant(defaults[_attribute(one.name)])}
        readers.append({**one.kind.readers, **({} if one.mandatory else null)})
    needed = [at for at, one in enumerate(composite.fields, 1) if one.mandatory]
    return Plan(
        composite.make,
        tuple(readers),
        tuple(order.index(_attribute(one.name)) for one in composite.fields),
        tuple(defaults.values()),
        max(needed, default=0),
    )
