"""Values of free configuration as `google.protobuf.Any`.

EdgeCore of KubeEdge makes a 32-bit float of every JSON number; a mapper for it counts on that. `EXACT` keeps
what a number is, for mappers that look at the type. A list or an object, which KubeEdge refuses, is its JSON
text; null is left out.
Source: KubeEdge reference, section 17.3; Protocol Buffers, well-known types.
"""

from __future__ import annotations

import enum
import math
import struct
from collections.abc import Callable, Mapping

import msgspec

from gateway.errors import MalformedPacket
from gateway.model.json import Json
from gateway.wire.dmi.wire import (
    FIXED32,
    FIXED64,
    LENGTH,
    VARINT,
    fields,
    piece,
    signed,
    tag,
    varint,
)

PREFIX = "type.googleapis.com/google.protobuf."
MAX_FLOAT = 3.4028234663852886e38


class Numbers(enum.StrEnum):
    """How JSON numbers are wrapped."""

    FLOAT = "float"
    EXACT = "exact"


def wrap(value: Json, numbers: Numbers) -> bytes | None:
    """Write an Any; None for null, which has none."""
    if value is None:
        return None
    kind, data = _wrapped(value, numbers)
    return piece(1, (PREFIX + kind).encode()) + piece(2, data)


def _wrapped(value: Json, numbers: Numbers) -> tuple[str, bytes]:
    if isinstance(value, bool):
        return "BoolValue", tag(1, VARINT) + b"\x01" if value else b""
    if isinstance(value, int | float):
        return _number(value, numbers)
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return "StringValue", piece(1, text.encode()) if text else b""


def _number(value: float, numbers: Numbers) -> tuple[str, bytes]:
    if numbers is Numbers.FLOAT:
        return "FloatValue", tag(1, FIXED32) + struct.pack("<f", _single(value)) if value else b""
    if isinstance(value, int) and -(2**63) <= value < 2**63:
        return "Int64Value", tag(1, VARINT) + varint(value) if value else b""
    return "DoubleValue", tag(1, FIXED64) + struct.pack("<d", _double(value))


def _double(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.copysign(math.inf, value > 0 or -1)


def _single(value: float) -> float:
    """Return what 32 bits can hold: infinity beyond their range."""
    return math.copysign(math.inf, value > 0 or -1) if abs(value) > MAX_FLOAT else float(value)


_READERS: Mapping[str, tuple[int, Json, Callable[[int | bytes], Json]]] = {
    "StringValue": (LENGTH, "", lambda v: _text(v)),
    "BytesValue": (LENGTH, "", lambda v: _text(v)),
    "BoolValue": (VARINT, False, bool),
    "Int32Value": (VARINT, 0, lambda v: signed(int(v))),
    "Int64Value": (VARINT, 0, lambda v: signed(int(v))),
    "UInt32Value": (VARINT, 0, int),
    "UInt64Value": (VARINT, 0, int),
    "FloatValue": (FIXED32, 0.0, lambda v: _unpack("<f", v)),
    "DoubleValue": (FIXED64, 0.0, lambda v: _unpack("<d", v)),
}


def unwrap(data: bytes) -> Json:
    """Read an Any; None for a type that is not known. Errors: MalformedPacket."""
    url, inner = "", b""
    for number, wire_type, value in fields(data):
        if number == 1 and wire_type == LENGTH:
            url = str(_text(value))
        elif number == 2 and wire_type == LENGTH and isinstance(value, bytes):
            inner = value
    reader = _READERS.get(url.removeprefix(PREFIX))
    if reader is None:
        return None
    expected, found, read = reader
    for number, wire_type, value in fields(inner):
        if number == 1 and wire_type == expected:
            found = read(value)
    return found


def _text(value: int | bytes) -> Json:
    if not isinstance(value, bytes):
        raise MalformedPacket("protobuf: a text was expected")
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise MalformedPacket("protobuf: a text is not UTF-8") from error


def _unpack(form: str, value: int | bytes) -> Json:
    if not isinstance(value, bytes):
        raise MalformedPacket("protobuf: a number of fixed length was expected")
    number: float = struct.unpack(form, value)[0]
    return number
