"""AMQP 1.0 values from bytes.

Errors: MalformedPacket, naming what was wrong and where. Every length is checked against the bytes at hand
        before it is used; nesting deeper than `MAX_DEPTH` and arrays longer than `MAX_ARRAY` are refused.
Source: OASIS AMQP 1.0, part 1 (types).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final, TypeAlias
from uuid import UUID

from gateway.errors import MalformedPacket
from gateway.wire.amqp.values import (
    Array,
    Byte,
    Char,
    Decimal,
    Described,
    Float,
    Int,
    Short,
    Symbol,
    Timestamp,
    UByte,
    UInt,
    ULong,
    UShort,
)

MAX_DEPTH: Final = 24
"""Levels of list, map, array and description inside one value."""
MAX_ARRAY: Final = 65_536
"""Elements of one array; elements of width zero cost no bytes, so bytes alone do not bound them."""

Decoder: TypeAlias = Callable[[bytes, int, int], tuple[object, int]]
"""(data, position after the format code, depth) -> (value, position after it)."""


def decode(data: bytes, at: int = 0) -> tuple[object, int]:
    """Read one value at `at`; return it and the position after it."""
    try:
        return decode_value(data, at, 0)
    except (struct.error, IndexError) as error:
        raise MalformedPacket(f"amqp value: {len(data)} bytes end inside a value") from error


def decode_value(data: bytes, at: int, depth: int) -> tuple[object, int]:
    """`decode` without the net: IndexError and struct.error say that bytes are missing."""
    decoder = _DECODERS[data[at]]
    if decoder is None:
        raise MalformedPacket(f"amqp value: unknown format code 0x{data[at]:02x} at byte {at}")
    return decoder(data, at + 1, depth)


def _constant(value: object) -> Decoder:
    def read(data: bytes, at: int, depth: int) -> tuple[object, int]:  # noqa: ARG001 (one signature for all)
        return value, at

    return read


def _fixed(layout: str, make: Callable[..., object] | None = None) -> Decoder:
    unpack, size = struct.Struct(layout).unpack_from, struct.calcsize(layout)

    def read(data: bytes, at: int, depth: int) -> tuple[object, int]:  # noqa: ARG001
        value = unpack(data, at)[0]
        return (value if make is None else make(value)), at + size

    return read


def _read_boolean(data: bytes, at: int, depth: int) -> tuple[object, int]:  # noqa: ARG001
    if data[at] > 1:
        raise MalformedPacket(f"amqp boolean: expected 0x00 or 0x01, got 0x{data[at]:02x}")
    return data[at] == 1, at + 1


def _read_char(data: bytes, at: int, depth: int) -> tuple[object, int]:  # noqa: ARG001
    (point,) = _U32.unpack_from(data, at)
    if point > 0x10FFFF or 0xD800 <= point <= 0xDFFF:
        raise MalformedPacket(f"amqp char: 0x{point:x} is no Unicode code point")
    return Char(chr(point)), at + 4


def _raw(width: int, make: Callable[[bytes], object]) -> Decoder:
    """A value of fixed width that is kept as bytes."""

    def read(data: bytes, at: int, depth: int) -> tuple[object, int]:  # noqa: ARG001
        _need(data, at, width)
        return make(data[at : at + width]), at + width

    return read


def _sized(wide: bool, make: Callable[[bytes], object]) -> Decoder:
    """A value behind a length of one or four bytes."""

    def read8(data: bytes, at: int, depth: int) -> tuple[object, int]:  # noqa: ARG001
        end = at + 1 + data[at]
        if end > len(data):
            _need(data, at + 1, data[at])
        return make(data[at + 1 : end]), end

    def read32(data: bytes, at: int, depth: int) -> tuple[object, int]:  # noqa: ARG001
        (size,) = _U32.unpack_from(data, at)
        _need(data, at + 4, size)
        return make(data[at + 4 : at + 4 + size]), at + 4 + size

    return read32 if wide else read8


def _text(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise MalformedPacket(f"amqp string: not UTF-8 at byte {error.start}") from error


def _symbol(raw: bytes) -> Symbol:
    try:
        return Symbol(raw.decode("ascii"))
    except UnicodeDecodeError as error:
        raise MalformedPacket(f"amqp symbol: not ASCII at byte {error.start}") from error


def _need(data: bytes, at: int, size: int) -> None:
    if at + size > len(data):
        raise MalformedPacket(f"amqp value: {size} bytes announced, {max(0, len(data) - at)} there")


def _compound_head(data: bytes, at: int, depth: int, wide: bool) -> tuple[int, int, int]:
    """Return (count, first byte after the count, end)."""
    if depth >= MAX_DEPTH:
        raise MalformedPacket(f"amqp value: nested deeper than {MAX_DEPTH}")
    if wide:
        size, count = _U32_PAIR.unpack_from(data, at)
        body, end = at + 8, at + 4 + size
    else:
        size, count = data[at], data[at + 1]
        body, end = at + 2, at + 1 + size
    _need(data, at + (4 if wide else 1), size)
    if end < body:
        raise MalformedPacket("amqp value: size does not even cover the count")
    return count, body, end


def _read_items(data: bytes, at: int, end: int, count: int, depth: int) -> list[object]:
    if count > end - at:
        raise MalformedPacket(f"amqp list: {count} elements announced in {end - at} bytes")
    items: list[object] = []
    append, decoders = items.append, _DECODERS
    for _ in range(count):
        decoder = decoders[data[at]]
        if decoder is None:
            raise MalformedPacket(f"amqp value: unknown format code 0x{data[at]:02x} at byte {at}")
        value, at = decoder(data, at + 1, depth)
        append(value)
    if at != end:
        raise MalformedPacket(f"amqp value: elements end at byte {at}, size says {end}")
    return items


def _list(wide: bool) -> Decoder:
    def read(data: bytes, at: int, depth: int) -> tuple[object, int]:
        count, body, end = _compound_head(data, at, depth, wide)
        return _read_items(data, body, end, count, depth + 1), end

    return read


def _map(wide: bool) -> Decoder:
    def read(data: bytes, at: int, depth: int) -> tuple[object, int]:
        count, body, end = _compound_head(data, at, depth, wide)
        if count % 2:
            raise MalformedPacket(f"amqp map: {count} elements make no pairs")
        items = _read_items(data, body, end, count, depth + 1)
        try:
            return dict(zip(items[::2], items[1::2], strict=True)), end
        except TypeError as error:
            raise MalformedPacket("amqp map: a list, map or array cannot be a key") from error

    return read


def _array(wide: bool) -> Decoder:
    def read(data: bytes, at: int, depth: int) -> tuple[object, int]:
        count, body, end = _compound_head(data, at, depth, wide)
        if count > MAX_ARRAY:
            raise MalformedPacket(f"amqp array: at most {MAX_ARRAY} elements, got {count}")
        descriptor, at = (None, body)
        if data[at] == 0:
            descriptor, at = _read_descriptor(data, at + 1, depth)
        code = data[at]
        items, at = _read_array_items(data, at + 1, code, count, depth + 1)
        if at != end:
            raise MalformedPacket(f"amqp array: elements end at byte {at}, size says {end}")
        return Array(code, items, descriptor), end

    return read


def _read_array_items(
    data: bytes, at: int, code: int, count: int, depth: int
) -> tuple[tuple[object, ...], int]:
    decoder = _DECODERS[code]
    if decoder is None or code == 0:
        raise MalformedPacket(f"amqp array: unknown element format code 0x{code:02x}")
    items: list[object] = []
    for _ in range(count):
        value, at = decoder(data, at, depth)
        items.append(value)
    return tuple(items), at


def _read_described(data: bytes, at: int, depth: int) -> tuple[object, int]:
    if depth >= MAX_DEPTH:
        raise MalformedPacket(f"amqp value: nested deeper than {MAX_DEPTH}")
    descriptor, at = _read_descriptor(data, at, depth)
    value, at = decode_value(data, at, depth + 1)
    return Described(descriptor, value), at


def _read_descriptor(data: bytes, at: int, depth: int) -> tuple[object, int]:
    """A name of a type: what is compound cannot be looked up and names nothing."""
    descriptor, at = decode_value(data, at, depth + 1)
    if isinstance(descriptor, list | dict | tuple | Described | Array):
        kind = type(descriptor).__name__.lower()
        raise MalformedPacket(f"amqp value: expected a symbol or number as descriptor, got {kind}")
    return descriptor, at


_U32 = struct.Struct(">I")
_U32_PAIR = struct.Struct(">II")

_TABLE: Final[dict[int, Decoder]] = {
    0x00: _read_described,
    0x40: _constant(None),
    0x41: _constant(True),
    0x42: _constant(False),
    0x43: _constant(UInt(0)),
    0x44: _constant(ULong(0)),
    0x45: lambda _data, at, _depth: ([], at),
    0x50: _fixed(">B", UByte),
    0x51: _fixed(">b", Byte),
    0x52: _fixed(">B", UInt),
    0x53: _fixed(">B", ULong),
    0x54: _fixed(">b", Int),
    0x55: _fixed(">b"),
    0x56: _read_boolean,
    0x60: _fixed(">H", UShort),
    0x61: _fixed(">h", Short),
    0x70: _fixed(">I", UInt),
    0x71: _fixed(">i", Int),
    0x72: _fixed(">f", Float),
    0x73: _read_char,
    0x74: _raw(4, Decimal),
    0x80: _fixed(">Q", ULong),
    0x81: _fixed(">q"),
    0x82: _fixed(">d"),
    0x83: _fixed(">q", Timestamp),
    0x84: _raw(8, Decimal),
    0x94: _raw(16, Decimal),
    0x98: _raw(16, lambda raw: UUID(bytes=raw)),
    0xA0: _sized(False, bytes),
    0xA1: _sized(False, _text),
    0xA3: _sized(False, _symbol),
    0xB0: _sized(True, bytes),
    0xB1: _sized(True, _text),
    0xB3: _sized(True, _symbol),
    0xC0: _list(False),
    0xC1: _map(False),
    0xD0: _list(True),
    0xD1: _map(True),
    0xE0: _array(False),
    0xF0: _array(True),
}
_DECODERS: Final[list[Decoder | None]] = [_TABLE.get(code) for code in range(256)]
