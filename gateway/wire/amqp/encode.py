"""AMQP 1.0 values to bytes, each in its shortest form.

Errors: BadRequest for a value that has no AMQP type or does not fit the type it has.
Source: OASIS AMQP 1.0, part 1 (types).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final
from uuid import UUID

from gateway.errors import BadRequest
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

_U32 = struct.Struct(">I")
_U32_PAIR = struct.Struct(">II")


def encode(value: object) -> bytes:
    """Write one value in its shortest form.

    Errors: BadRequest for a value that has no AMQP type or does not fit the type it has.
    """
    encoder = _ENCODERS.get(type(value))
    if encoder is None:
        raise BadRequest(f"amqp value: no AMQP type for {type(value).__name__}")
    try:
        return encoder(value)
    except struct.error as error:
        raise BadRequest(f"amqp {type(value).__name__}: {value!r} does not fit") from error


def encode_described(descriptor: int, body: bytes) -> bytes:
    """Write a description by a small ulong in front of an encoded value."""
    return b"\x00\x53" + bytes((descriptor,)) + body


def encode_list(items: list[bytes]) -> bytes:
    """Write a list of values that are encoded already."""
    if not items:
        return b"\x45"
    return _compound(0xC0, 0xD0, len(items), b"".join(items))


def encode_map(items: list[bytes]) -> bytes:
    """Write a map; keys and values, already encoded, take turns."""
    return _compound(0xC1, 0xD1, len(items), b"".join(items))


def symbols(names: tuple[str, ...]) -> Array:
    """Return an array of symbols, as `multiple` symbol fields want it."""
    return Array(0xA3, tuple(Symbol(name) for name in names))


def _compound(narrow: int, wide: int, count: int, body: bytes) -> bytes:
    if len(body) < 255 and count < 256:
        return bytes((narrow, len(body) + 1, count)) + body
    return bytes((wide,)) + _U32_PAIR.pack(len(body) + 4, count) + body


def _sized_bytes(narrow: int, wide: int, raw: bytes) -> bytes:
    if len(raw) < 256:
        return bytes((narrow, len(raw))) + raw
    return bytes((wide,)) + _U32.pack(len(raw)) + raw


def _encode_symbol(value: str) -> bytes:
    try:
        return _sized_bytes(0xA3, 0xB3, value.encode("ascii"))
    except UnicodeEncodeError as error:
        raise BadRequest(f"amqp symbol: not ASCII: {value!r}") from error


def _encode_string(value: str) -> bytes:
    try:
        return _sized_bytes(0xA1, 0xB1, value.encode())
    except UnicodeEncodeError as error:
        raise BadRequest("amqp string: lone surrogates have no UTF-8") from error


def _encode_long(value: int) -> bytes:
    if -128 <= value <= 127:
        return struct.pack(">Bb", 0x55, value)
    return struct.pack(">Bq", 0x81, value)


def _encode_int(value: int) -> bytes:
    if -128 <= value <= 127:
        return struct.pack(">Bb", 0x54, value)
    return struct.pack(">Bi", 0x71, value)


def encode_uint(value: int) -> bytes:
    """Write a uint in one, two or five bytes."""
    if value == 0:
        return b"\x43"
    if 0 < value < 256:
        return bytes((0x52, value))
    return struct.pack(">BI", 0x70, value)


def _encode_ulong(value: int) -> bytes:
    if value == 0:
        return b"\x44"
    if 0 < value < 256:
        return bytes((0x53, value))
    return struct.pack(">BQ", 0x80, value)


def _encode_decimal(value: Decimal) -> bytes:
    code = {4: b"\x74", 8: b"\x84", 16: b"\x94"}.get(len(value.bits))
    if code is None:
        raise BadRequest(f"amqp decimal: 4, 8 or 16 bytes expected, got {len(value.bits)}")
    return code + value.bits


def _encode_list_value(value: list[object]) -> bytes:
    return encode_list([encode(item) for item in value])


def _encode_dict(value: dict[object, object]) -> bytes:
    items: list[bytes] = []
    for key, item in value.items():
        items += (encode(key), encode(item))
    return encode_map(items)


def _encode_described(value: Described) -> bytes:
    return b"\x00" + encode(value.descriptor) + encode(value.value)


def _encode_array(value: Array) -> bytes:
    writer = _ELEMENTS.get(value.code)
    if writer is None:
        raise BadRequest(f"amqp array: unknown element format code 0x{value.code:02x}")
    head = b"" if value.descriptor is None else b"\x00" + encode(value.descriptor)
    body = head + bytes((value.code,)) + b"".join(writer(item) for item in value.items)
    return _compound(0xE0, 0xF0, len(value.items), body)


def _tagged(code: int, layout: str) -> Callable[..., bytes]:
    pack = struct.Struct(layout).pack
    return lambda value: pack(code, value)


_ENCODERS: Final[dict[type, Callable[..., bytes]]] = {
    type(None): lambda _value: b"\x40",
    bool: lambda value: b"\x41" if value else b"\x42",
    UByte: _tagged(0x50, ">BB"),
    Byte: _tagged(0x51, ">Bb"),
    UShort: _tagged(0x60, ">BH"),
    Short: _tagged(0x61, ">Bh"),
    UInt: encode_uint,
    Int: _encode_int,
    ULong: _encode_ulong,
    int: _encode_long,
    Float: _tagged(0x72, ">Bf"),
    float: _tagged(0x82, ">Bd"),
    Timestamp: _tagged(0x83, ">Bq"),
    Char: lambda value: struct.pack(">BI", 0x73, ord(value)),
    Decimal: _encode_decimal,
    UUID: lambda value: b"\x98" + value.bytes,
    bytes: lambda value: _sized_bytes(0xA0, 0xB0, value),
    str: _encode_string,
    Symbol: _encode_symbol,
    list: _encode_list_value,
    dict: _encode_dict,
    Described: _encode_described,
    Array: _encode_array,
}


def _packer(layout: str) -> Callable[..., bytes]:
    pack = struct.Struct(layout).pack
    return lambda value: pack(value)


def _element(code: int) -> Callable[..., bytes]:
    """An element as `encode` writes it, less the format code, which must be the array's own."""

    def write(value: object) -> bytes:
        raw = encode(value)
        if raw[0] != code:
            raise BadRequest(f"amqp array: element does not fit format code 0x{code:02x}")
        return raw[1:]

    return write


def _wide_element(code: int) -> Callable[..., bytes]:
    """An element with four-byte lengths, also where `encode` would write short ones."""

    def write(value: object) -> bytes:
        raw = encode(value)
        if raw[0] == code:
            return raw[1:]
        if raw == b"\x45" and code == 0xD0:
            return _U32_PAIR.pack(4, 0)
        if raw[0] != code - 0x10:
            raise BadRequest(f"amqp array: element does not fit format code 0x{code:02x}")
        if code < 0xC0:
            return _U32.pack(raw[1]) + raw[2:]
        return _U32_PAIR.pack(raw[1] + 3, raw[2]) + raw[3:]  # the size counts the wider count

    return write


def _nothing(_value: object) -> bytes:
    return b""


_LAYOUTS: Final[dict[int, str]] = {
    0x50: ">B",
    0x51: ">b",
    0x52: ">B",
    0x53: ">B",
    0x54: ">b",
    0x55: ">b",
    0x60: ">H",
    0x61: ">h",
    0x70: ">I",
    0x71: ">i",
    0x72: ">f",
    0x80: ">Q",
    0x81: ">q",
    0x82: ">d",
    0x83: ">q",
}

_ELEMENTS: Final[dict[int, Callable[..., bytes]]] = {
    **dict.fromkeys((0x40, 0x41, 0x42, 0x43, 0x44, 0x45), _nothing),
    **{code: _packer(layout) for code, layout in _LAYOUTS.items()},
    0x56: lambda value: b"\x01" if value else b"\x00",
    **{code: _element(code) for code in (0x73, 0x74, 0x84, 0x94, 0x98)},
    **{code: _element(code) for code in (0xA0, 0xA1, 0xA3, 0xC0, 0xC1, 0xE0)},
    **{code: _wide_element(code) for code in (0xB0, 0xB1, 0xB3, 0xD0, 0xD1, 0xF0)},
}
