"""How a composite type's fields stand on the wire: one table entry per field, one codec for all.

A composite is a described list. Here it is a frozen dataclass whose attributes are plain Python values
(int, str, bytes, dict, tuple of str); the table says which AMQP type each has. What equals its default is
written as null, trailing nulls are left away.
Source: OASIS AMQP 1.0, part 1, section 1.4.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from gateway.errors import MalformedPacket
from gateway.wire.amqp.encode import encode, encode_described, encode_list, symbols
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


@dataclass(frozen=True, slots=True)
class FieldKind:
    """One wire type: which decoded Python types are it, and how to get from and to them."""

    name: str
    accepts: tuple[type, ...]
    read: Callable[..., object]
    write: Callable[..., bytes]


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


STRING: Final = FieldKind("string", (str,), str, encode)
SYMBOL: Final = FieldKind("symbol", (Symbol,), str, _writer(Symbol))
BINARY: Final = FieldKind("binary", (bytes,), _same, encode)
BOOLEAN: Final = FieldKind("boolean", (bool,), _same, encode)
UBYTE: Final = FieldKind("ubyte", (UByte,), int, _writer(UByte))
USHORT: Final = FieldKind("ushort", (UShort,), int, _writer(UShort))
UINT: Final = FieldKind("uint", (UInt,), int, _writer(UInt))
ULONG: Final = FieldKind("ulong", (ULong,), int, _writer(ULong))
TIMESTAMP: Final = FieldKind("timestamp", (Timestamp,), int, _writer(Timestamp))
MAP: Final = FieldKind("map", (dict,), _same, encode)
SYMBOLS: Final = FieldKind(
    "symbol or array of symbols", (Symbol, Array), _read_symbols, _writer(symbols)
)
MESSAGE_ID: Final = FieldKind(
    "string, ulong, uuid or binary",
    (str, ULong, UUID, bytes),
    _same,
    lambda value: encode(ULong(value) if type(value) is int else value),
)
ANY: Final = FieldKind("any", (object,), _same, encode)


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


class Catalogue:
    """A set of composite types that can be read and written."""

    def __init__(self) -> None:
        self._by_descriptor: dict[object, Composite] = {}
        self._by_class: dict[
            type, tuple[Composite, tuple[tuple[str, object, Callable[..., bytes]], ...]]
        ] = {}

    def add(self, code: int, symbol: str, make: type, *fields: Field) -> None:
        composite = Composite(code, symbol, make, fields)
        self._by_descriptor[ULong(code)] = composite
        self._by_descriptor[Symbol(symbol)] = composite
        defaults = _defaults(make)
        plan = tuple(
            (_attribute(field.name), defaults.get(_attribute(field.name)), field.kind.write)
            for field in fields
        )
        self._by_class[make] = (composite, plan)

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
        fields = composite.fields
        if len(items) > len(fields):
            raise MalformedPacket(f"{composite.symbol}: {len(items)} fields, at most {len(fields)}")
        given: dict[str, object] = {}
        for field, item in zip(fields, items, strict=False):
            if item is not None:
                given[_attribute(field.name)] = self._field(composite, field, item)
        for field in fields:
            if field.mandatory and _attribute(field.name) not in given:
                raise MalformedPacket(
                    f"{composite.symbol}: mandatory field {field.name} is missing"
                )
        return composite.make(**given)

    def _field(self, composite: Composite, field: Field, item: object) -> object:
        kind = field.kind
        if kind is ANY:
            return self.read(item) if type(item) is Described else item
        if type(item) not in kind.accepts:
            raise MalformedPacket(
                f"{composite.symbol}: field {field.name}: expected {kind.name}, got {type(item).__name__}"
            )
        return kind.read(item)

    def write(self, value: object) -> bytes:
        """Write one composite; a `Described` goes out as it is."""
        known = self._by_class.get(type(value))
        if known is None:
            return encode(value)
        composite, plan = known
        items: list[bytes] = []
        for name, default, writer in plan:
            item = getattr(value, name)
            if item is None or item == default:
                items.append(b"\x40")
            elif type(item) in self._by_class:
                items.append(self.write(item))
            else:
                items.append(writer(item))
        while items and items[-1] == b"\x40":
            items.pop()
        return encode_described(composite.code, encode_list(items))


def _attribute(name: str) -> str:
    return name.replace("-", "_")


def _defaults(make: type) -> dict[str, object]:
    fields = make.__dataclass_fields__  # type: ignore[attr-defined]
    return {name: field.default for name, field in fields.items()}
