"""The ground of Protocol Buffers: numbers, tags and pieces of known length.

Source: Protocol Buffers, encoding of proto3.
"""

from __future__ import annotations

from collections.abc import Iterator

from gateway.errors import MalformedPacket

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5
_MAX_VARINT = 10
_FIXED = {FIXED64: 8, FIXED32: 4}
_MASK = 2**64 - 1


def varint(number: int) -> bytes:
    """Write a number; negative ones take ten bytes."""
    number &= _MASK
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def tag(number: int, wire_type: int) -> bytes:
    """Write what stands before a field's value."""
    return varint(number << 3 | wire_type)


def piece(number: int, data: bytes) -> bytes:
    """Write a field that carries its length."""
    return tag(number, LENGTH) + varint(len(data)) + data


def read_varint(data: bytes, at: int) -> tuple[int, int]:
    """Return a number below 2**64, and where it ends. Errors: MalformedPacket."""
    number = 0
    for index in range(_MAX_VARINT):
        if at + index >= len(data):
            raise MalformedPacket("protobuf: a number is cut off")
        byte = data[at + index]
        number |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return number & _MASK, at + index + 1
    raise MalformedPacket("protobuf: a number of more than ten bytes")


def signed(number: int) -> int:
    """Return a varint as the 64-bit number with sign that it stands for."""
    return number - 2**64 if number >> 63 else number


def fields(data: bytes) -> Iterator[tuple[int, int, int | bytes]]:
    """Yield number, wire type and value (a number or bytes) of each field.

    Errors: MalformedPacket for anything cut off, field number 0, and groups.
    """
    at = 0
    while at < len(data):
        key, at = read_varint(data, at)
        number, wire_type = key >> 3, key & 7
        if not 0 < number < 2**29:
            raise MalformedPacket(f"protobuf: {number} is no field number")
        value: int | bytes
        if wire_type == VARINT:
            value, at = read_varint(data, at)
        else:
            size, at = _size(data, at, wire_type)
            if at + size > len(data):
                raise MalformedPacket(f"protobuf: field {number} is cut off")
            value, at = data[at : at + size], at + size
        yield number, wire_type, value


def _size(data: bytes, at: int, wire_type: int) -> tuple[int, int]:
    if wire_type == LENGTH:
        return read_varint(data, at)
    if wire_type not in _FIXED:
        raise MalformedPacket(f"protobuf: wire type {wire_type} is not known here")
    return _FIXED[wire_type], at
