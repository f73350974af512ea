"""How Zigbee writes values, and how people do: pure conversions, both ways.

A codec's `decode` takes the raw numbers of its attributes and gives a value, or None where there is
none. Its `encode` takes a value and gives the arguments of the command that sets it.
Source: Zigbee Cluster Library.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gateway.errors import BadRequest

Raw = int | float | str | bool
Value = int | float | str | bool

FULL_LEVEL = 254
MAX_XY = 0xFEFF
"""The largest colour coordinate; it stands for 0.9961."""


@dataclass(frozen=True, slots=True)
class Codec:
    """Both ways of one kind of value; `encode` is None for what cannot be set."""

    decode: Callable[[Sequence[Raw]], Value | None]
    encode: Callable[[Value], tuple[int, ...]] | None = None


def no_value(kind: str, raw: Raw) -> bool:
    """Say whether a raw number is its type's sign for "none". Source: ZCL, table 2-10."""
    if isinstance(raw, float):
        return not math.isfinite(raw)
    if isinstance(raw, str | bool):
        return False
    if kind.startswith(("uint", "enum")):
        return raw == (1 << _bits(kind)) - 1
    if kind.startswith("int"):
        return raw in (-(1 << (_bits(kind) - 1)), 1 << (_bits(kind) - 1))
    return kind == "bool" and raw == 0xFF


def _bits(kind: str) -> int:
    return int(kind.lstrip("uintem"))


def number(raw: Raw) -> float:
    """Return a raw value as a number. Errors: BadRequest."""
    if isinstance(raw, str):
        raise BadRequest("expected a number, got a text")
    return raw


def real(value: Value) -> float:
    """Return a wanted value as a number: a Device without a model has it as text. Errors: BadRequest."""
    if not isinstance(value, str):
        return value
    word = value.strip().lower()
    if word in _WORDS:
        return _WORDS[word]
    try:
        found = float(word)
    except ValueError:
        raise BadRequest(f"expected a number, got {value[:40]!r}") from None
    if not math.isfinite(found):
        raise BadRequest("expected a finite number")
    return found


_WORDS = {"true": True, "on": True, "false": False, "off": False}


def linear(scale: float, digits: int = 6) -> Codec:
    """A number times `scale`."""

    def decode(raw: Sequence[Raw]) -> Value | None:
        value = round(number(raw[0]) * scale, digits)
        return int(value) if scale == int(scale) and value == int(value) else value

    return Codec(decode, lambda value: (round(real(value) / scale),))


def plain() -> Codec:
    """The value as it is."""
    return Codec(lambda raw: raw[0], lambda value: (_whole(value),))


def _whole(value: Value) -> int:
    found = real(value)
    if found != int(found):
        raise BadRequest(f"expected a whole number, got {found:g}")
    return int(found)


def bit(mask: int, *, inverted: bool = False) -> Codec:
    """True where a bit is set (or not)."""
    return Codec(lambda raw: bool(int(number(raw[0])) & mask) is not inverted)


def switch() -> Codec:
    """True or false; the command's number is the value."""
    return Codec(lambda raw: bool(raw[0]), lambda value: (int(bool(real(value))),))


def percent_of_level() -> Codec:
    """Brightness: 0 to 100 for 0 to 254; what is not off is at least 1."""

    def decode(raw: Sequence[Raw]) -> Value | None:
        level = number(raw[0])
        return max(round(level * 100 / FULL_LEVEL), 1) if level else 0

    return Codec(decode, lambda value: (round(_within(value, 0, 100) * FULL_LEVEL / 100),))


def mireds() -> Codec:
    return Codec(lambda raw: int(number(raw[0])), lambda value: (round(_within(value, 1, 65_279)),))


def kelvin() -> Codec:
    """Colour temperature in kelvin, which the wire has as mireds."""

    def decode(raw: Sequence[Raw]) -> Value | None:
        found = number(raw[0])
        return round(1_000_000 / found) if found else None

    return Codec(decode, lambda value: (round(1_000_000 / _within(value, 16, 1_000_000)),))


def xy() -> Codec:
    """CIE coordinates as `x,y`, each 0 to 0.9961."""

    def decode(raw: Sequence[Raw]) -> Value | None:
        return ",".join(f"{number(each) / 65_536:.4f}" for each in raw)

    def encode(value: Value) -> tuple[int, ...]:
        return tuple(min(round(each * 65_536), MAX_XY) for each in _pair(value, 1.0, 1.0))

    return Codec(decode, encode)


def hue_saturation() -> Codec:
    """`hue,saturation` in degrees and percent."""

    def decode(raw: Sequence[Raw]) -> Value | None:
        hue, saturation = (number(each) for each in raw)
        return f"{round(hue * 360 / FULL_LEVEL)},{round(saturation * 100 / FULL_LEVEL)}"

    def encode(value: Value) -> tuple[int, ...]:
        hue, saturation = _pair(value, 360.0, 100.0)
        return round(hue * FULL_LEVEL / 360), round(saturation * FULL_LEVEL / 100)

    return Codec(decode, encode)


def lux() -> Codec:
    """Illuminance, which the wire has as 10,000 times its logarithm; 0 is too dark to measure."""

    def decode(raw: Sequence[Raw]) -> Value | None:
        found = number(raw[0])
        return 0.0 if not found else round(10.0 ** ((found - 1) / 10_000), 2)

    return Codec(decode)


def _within(value: Value, low: float, high: float) -> float:
    found = real(value)
    if not low <= found <= high:
        raise BadRequest(f"expected {low:g} to {high:g}, got {found:g}")
    return found


def _pair(value: Value, first: float, second: float) -> tuple[float, float]:
    parts = str(value).split(",")
    try:
        left, right = (float(part) for part in parts)
    except ValueError:
        raise BadRequest(f"expected two numbers with a comma, got {str(value)[:40]!r}") from None
    return _within(left, 0, first), _within(right, 0, second)
