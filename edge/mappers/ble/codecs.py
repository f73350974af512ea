"""Values of characteristics and advertisements as numbers and texts, and back.

A codec raises BadRequest for bytes that cannot be one of its values; what is a special value of the
Bluetooth SIG ("value is not known") is such an error, too, so that it never becomes a reading.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from gateway.errors import BadRequest, Rejected

Value = bool | int | float | str | bytes
Decode = Callable[[bytes], Value]
Encode = Callable[[Value], bytes]

MAX_VALUE: Final = 512
"""Bytes of an attribute's value (Bluetooth Core, Vol 3, Part F, 3.2.9)."""
_INTEGER: Final = re.compile(r"(u|s|)int(8|16|24|32|48|64)(le|be|)")
_FLOAT: Final = re.compile(r"float(16|32|64)(le|be|)")
_FLOAT_CODES: Final = {"16": "e", "32": "f", "64": "d"}


@dataclass(frozen=True, slots=True)
class Codec:
    """Both directions of one kind of value; `encode` is None for what is only read.

    Shape:  `type` is the DeviceModel's type that fits best.
    """

    decode: Decode
    encode: Encode | None = None
    type: str = "STRING"


def exact(value: float) -> float:
    """Take the noise of binary fractions off a scaled number."""
    return float(f"{value:.12g}") if math.isfinite(value) else value


@dataclass(frozen=True, slots=True)
class Scaled:
    """A whole number of some bytes that stands for `raw * up / down + offset`.

    Shape:  `unknown` are raw values that say "not known"; `low` and `high` bound the raw value.
    """

    size: int
    signed: bool = False
    up: float = 1
    down: float = 1
    offset: float = 0
    order: str = "little"
    unknown: tuple[int, ...] = ()
    low: int | None = None
    high: int | None = None
    is_exact_length: bool = True

    @property
    def is_plain(self) -> bool:
        return self.up == self.down == 1 and self.offset == 0

    def decode(self, data: bytes) -> Value:
        if len(data) < self.size or (self.is_exact_length and len(data) != self.size):
            raise BadRequest(f"expected {self.size} bytes, got {len(data)}")
        raw = int.from_bytes(data[: self.size], self._order, signed=self.signed)
        if raw in self.unknown:
            raise BadRequest("the device does not know the value")
        if (self.low is not None and raw < self.low) or (self.high is not None and raw > self.high):
            raise BadRequest(f"expected {self.low} to {self.high}, got {raw}")
        return raw if self.is_plain else exact(raw * self.up / self.down + self.offset)

    @property
    def _order(self) -> Literal["little", "big"]:
        return "big" if self.order == "big" else "little"

    def encode(self, value: Value) -> bytes:
        """Return the bytes. Errors: BadRequest for what does not fit, or would say "not known"."""
        try:
            raw = self._raw(_number(value))
            data = raw.to_bytes(self.size, self._order, signed=self.signed)
        except OverflowError:
            bits, sign = self.size * 8, "signed" if self.signed else "unsigned"
            raise BadRequest(f"{value!r} does not fit into {bits} {sign} bits") from None
        if raw in self.unknown:
            raise BadRequest(f"{value!r} would say that the value is not known")
        self.decode(data)  # its bounds
        return data

    def _raw(self, number: float) -> int:
        """A whole number stays what it is: beyond 2**53 a fraction could not hold it."""
        if self.is_plain:
            return round(number)
        return round((number - self.offset) * self.down / self.up)

    def codec(self) -> Codec:
        return Codec(self.decode, self.encode, "INT" if self.is_plain else "DOUBLE")


def _number(value: Value) -> float:
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, str | bytes):
        try:
            value = float(value)
        except ValueError:
            raise BadRequest(f"expected a number, got {str(value)[:40]!r}") from None
    if not math.isfinite(value):
        raise BadRequest("expected a finite number")
    return value


def named_codec(word: str, scale: float = 1, offset: float = 0) -> Codec:
    """Return the codec of a name: `uint16le`, `sint32be`, `float32`, `bool`, `utf8`, `bytes`, `hex`.

    Shape:  without `le` or `be` little endian, as GATT has it. Errors: Rejected.
    """
    name = word.strip().lower()
    whole = _INTEGER.fullmatch(name)
    if whole is not None:
        scaled = Scaled(
            int(whole[2]) // 8,
            signed=whole[1] != "u",
            up=scale,
            offset=offset,
            order="big" if whole[3] == "be" else "little",
        )
        return scaled.codec()
    real = _FLOAT.fullmatch(name)
    if real is not None:
        order = ">" if real[2] == "be" else "<"
        return _float(struct.Struct(order + _FLOAT_CODES[real[1]]), scale, offset)
    if name not in PLAIN:
        raise Rejected(f"decoder: expected {_KNOWN}, got {word[:40]!r}")
    return PLAIN[name]


_KNOWN: Final = (
    "uint8 to uint64, sint8 to sint64 (le, be), float16, float32, float64, bool, utf8, bytes, hex, "
    "sfloat, float, or the name of a standard one"
)


def _float(form: struct.Struct, scale: float, offset: float) -> Codec:
    def decode(data: bytes) -> Value:
        if len(data) != form.size:
            raise BadRequest(f"expected {form.size} bytes, got {len(data)}")
        (raw,) = form.unpack(data)
        if not math.isfinite(raw):
            raise BadRequest(f"expected a finite number, got {raw}")
        plain = scale == 1 and offset == 0
        short = exact(raw) if form.size == 8 else float(f"{raw:.7g}")
        return short if plain else exact(short * scale + offset)

    def encode(value: Value) -> bytes:
        try:
            number = (_number(value) - offset) / scale
            if math.isfinite(number):
                return form.pack(number)
        except (OverflowError, struct.error):
            pass
        raise BadRequest(f"{value!r} does not fit into {form.size * 8} bits")

    return Codec(decode, encode, "DOUBLE")


def text(data: bytes) -> str:
    """Read UTF-8; what pads it at the end is not of it. Errors: BadRequest."""
    try:
        return data.rstrip(b"\x00").decode()
    except UnicodeDecodeError:
        raise BadRequest("expected UTF-8 text") from None


def _text_bytes(value: Value) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


def _flag(data: bytes) -> Value:
    if len(data) != 1 or data[0] > 1:
        raise BadRequest(f"expected one byte, 0 or 1, got {data[:8].hex()}")
    return data[0] == 1


def _flag_bytes(value: Value) -> bytes:
    if value in (True, 1, "true", "1", "on"):
        return b"\x01"
    if value in (False, 0, "false", "0", "off"):
        return b"\x00"
    raise BadRequest(f"expected true or false, got {value!r}")


def _hex_bytes(value: Value) -> bytes:
    if isinstance(value, bytes):
        return value
    try:
        return bytes.fromhex(str(value))
    except ValueError:
        raise BadRequest("expected hexadecimal digits") from None


def _short_float(data: bytes) -> Value:
    """IEEE 11073's SFLOAT: 4 bits of exponent, 12 of mantissa."""
    if len(data) != 2:
        raise BadRequest(f"expected 2 bytes, got {len(data)}")
    raw = int.from_bytes(data, "little")
    if raw in (0x07FF, 0x07FE, 0x0800, 0x0801, 0x0802):
        raise BadRequest("the device does not know the value")
    mantissa = (raw & 0x0FFF) - (0x1000 if raw & 0x0800 else 0)
    exponent = (raw >> 12) - (16 if raw & 0x8000 else 0)
    return exact(mantissa * 10.0**exponent)


def medical_float(data: bytes) -> float:
    """IEEE 11073's FLOAT: 8 bits of exponent, 24 of mantissa. Errors: BadRequest."""
    if len(data) != 4:
        raise BadRequest(f"expected 4 bytes, got {len(data)}")
    mantissa = int.from_bytes(data[:3], "little", signed=True)
    if mantissa in (0x7FFFFF, 0x7FFFFE, -0x800000, -0x7FFFFF, -0x7FFFFE):
        raise BadRequest("the device does not know the value")
    exponent = int.from_bytes(data[3:], "little", signed=True)
    value = mantissa * 10.0**exponent
    return exact(value)


PLAIN: Final[dict[str, Codec]] = {
    "bool": Codec(_flag, _flag_bytes, "BOOLEAN"),
    "utf8": Codec(text, _text_bytes),
    "string": Codec(text, _text_bytes),
    "bytes": Codec(lambda data: data, _text_bytes, "BYTES"),
    "hex": Codec(lambda data: data.hex(), _hex_bytes),
    "sfloat": Codec(_short_float, None, "DOUBLE"),
    "float": Codec(medical_float, None, "DOUBLE"),
}
