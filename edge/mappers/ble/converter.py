"""KubeEdge's own form of conversion for Bluetooth: `dataConverter` and `dataWrite` of a visitor.

`dataConverter`: bytes `startIndex` to `endIndex`, in that order (downwards when the end is smaller), are one
unsigned number, the first byte its highest; then `shiftLeft` or `shiftRight`, then `orderOfOperations`.
`dataWrite`: a wanted text -> the bytes that are sent, as a list of numbers or base64.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass

from edge.mappers.ble.codecs import MAX_VALUE, Codec, Value, exact
from edge.mappers.configdata import ConfigData
from gateway.errors import BadRequest, Rejected
from gateway.model.json import Json

MAX_OPERATIONS = 20
MAX_WORDS = 100
_OPERATIONS = {
    "add": lambda left, right: left + right,
    "subtract": lambda left, right: left - right,
    "multiply": lambda left, right: left * right,
    "divide": lambda left, right: left / right,
}


@dataclass(frozen=True, slots=True)
class Converter:
    """What a visitor's `dataConverter` says."""

    start: int
    end: int
    shift_left: int
    shift_right: int
    operations: tuple[tuple[str, float], ...]

    @classmethod
    def read(cls, config: ConfigData) -> Converter:
        """Errors: Rejected."""
        start = config.integer("startIndex", default=0, high=MAX_VALUE)
        return cls(
            start,
            config.integer("endIndex", default=start, high=MAX_VALUE),
            config.integer("shiftLeft", default=0, high=63),
            config.integer("shiftRight", default=0, high=63),
            tuple(_operations(config)),
        )

    def decode(self, data: bytes) -> Value:
        """Errors: BadRequest for bytes that are too few."""
        low, high = min(self.start, self.end), max(self.start, self.end)
        if high >= len(data):
            raise BadRequest(f"expected at least {high + 1} bytes, got {len(data)}")
        part = data[low : high + 1]
        number = int.from_bytes(part if self.start <= self.end else part[::-1], "big")
        shifted = number << self.shift_left if self.shift_left else number >> self.shift_right
        if not self.operations:
            return shifted
        value = float(shifted)
        for name, operand in self.operations:
            value = _OPERATIONS[name](value, operand)
        return exact(value)

    def codec(self) -> Codec:
        return Codec(self.decode, None, "DOUBLE" if self.operations else "INT")


def _operations(config: ConfigData) -> list[tuple[str, float]]:
    found = config.values.get("orderOfOperations") or []
    if not isinstance(found, list) or len(found) > MAX_OPERATIONS:
        raise config.wrong("orderOfOperations", f"a list of at most {MAX_OPERATIONS}", found)
    made = []
    for each in found:
        one = ConfigData(
            f"{config.where}.orderOfOperations", each if isinstance(each, dict) else {}
        )
        name = one.choice({word: word for word in _OPERATIONS}, "operationType")
        operand = one.number("operationValue")
        if name == "divide" and operand == 0:
            raise Rejected(f"{one.where}: divided by 0")
        made.append((name, operand))
    return made


def words_of(config: ConfigData, key: str = "dataWrite") -> Mapping[str, bytes]:
    """Return the bytes of each word of `dataWrite`. Errors: Rejected."""
    below = config.below(key)
    if len(below.values) > MAX_WORDS:
        raise Rejected(f"{below.where}: at most {MAX_WORDS} words")
    return {word: _octets(below, word, value) for word, value in below.values.items()}


def _octets(config: ConfigData, word: str, value: Json) -> bytes:
    try:
        if isinstance(value, list):
            made = bytes(int(each) for each in value if isinstance(each, int | float))
            if len(made) == len(value):
                return _capped(config, word, made)
        elif isinstance(value, str):
            return _capped(config, word, base64.b64decode(value, validate=True))
    except (ValueError, OverflowError, binascii.Error):
        pass
    raise config.wrong(word, "a list of bytes, or base64", value)


def _capped(config: ConfigData, word: str, data: bytes) -> bytes:
    if len(data) > MAX_VALUE:
        raise Rejected(f"{config.where}.{word}: at most {MAX_VALUE} bytes")
    return data
