"""ZCL values on the wire. Source: Zigbee Cluster Library, 2.6.2."""

from __future__ import annotations

import struct
from dataclasses import dataclass

BOOL, MAP8, MAP16, MAP32 = 0x10, 0x18, 0x19, 0x1B
UINT8, UINT16, UINT24, UINT32, UINT48 = 0x20, 0x21, 0x22, 0x23, 0x25
INT8, INT16, INT24, INT32 = 0x28, 0x29, 0x2A, 0x2B
ENUM8, ENUM16, SINGLE, STRING, EUI64 = 0x30, 0x31, 0x39, 0x42, 0xF0

_SIZES = {
    BOOL: 1, MAP8: 1, MAP16: 2, MAP32: 4, UINT8: 1, UINT16: 2, UINT24: 3, UINT32: 4, UINT48: 6,
    INT8: 1, INT16: 2, INT24: 3, INT32: 4, ENUM8: 1, ENUM16: 2, EUI64: 8,
}  # fmt: skip
_SIGNED = {INT8, INT16, INT24, INT32}
_DISCRETE = {BOOL, MAP8, MAP16, MAP32, ENUM8, ENUM16, STRING, EUI64}


@dataclass(slots=True)
class Attribute:
    """One attribute of a virtual device."""

    type: int
    value: int | float | str
    is_writable: bool = False

    def encoded(self) -> bytes:
        """Type and value."""
        return bytes((self.type,)) + encode(self.type, self.value)


def encode(kind: int, value: int | float | str) -> bytes:
    if kind == STRING:
        data = str(value).encode()
        return bytes((len(data),)) + data
    if kind == SINGLE:
        return struct.pack("<f", float(value))
    return int(value).to_bytes(_SIZES[kind], "little", signed=kind in _SIGNED and int(value) < 0)


def decode(kind: int, data: bytes) -> tuple[int | float | str, bytes]:
    """Return a value and what follows it."""
    if kind == STRING:
        return data[1 : 1 + data[0]].decode(), data[1 + data[0] :]
    if kind == SINGLE:
        return float(struct.unpack("<f", data[:4])[0]), data[4:]
    size = _SIZES[kind]
    return int.from_bytes(data[:size], "little", signed=kind in _SIGNED), data[size:]


def change_size(kind: int) -> int:
    """Bytes of the reportable change in a configuration: none for discrete types."""
    if kind in _DISCRETE:
        return 0
    return 4 if kind == SINGLE else _SIZES[kind]
