"""Property types of a DeviceModel, and the two forms of a value: text at the edge, typed JSON in a thing.

Canonical text: INT decimal, FLOAT and DOUBLE the shortest text that reads back to the same number, BOOLEAN
`true`/`false`, STRING itself, BYTES standard base64. Values are compared typed, never as text.
Source: KubeEdge DeviceModel v1beta1; what a twin value may be: its DeviceTwin.
"""

from __future__ import annotations

import base64
import binascii
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

from gateway.errors import BadRequest
from gateway.model.json import Json

Typed: TypeAlias = "bool | int | float | str"

MAX_TEXT = 512
"""Characters of a value on a device twin."""

_INTEGER = re.compile(r"[+-]?[0-9]{1,19}")
_INT64 = (-(2**63), 2**63 - 1)
_FLOAT32_MAX = 3.4028234663852886e38


class PropertyType(StrEnum):
    """Types of DeviceModel v1beta1; STREAM is not twinned."""

    INT = "INT"
    FLOAT = "FLOAT"
    DOUBLE = "DOUBLE"
    STRING = "STRING"
    BOOLEAN = "BOOLEAN"
    BYTES = "BYTES"
    STREAM = "STREAM"


TWIN_TYPE = {
    PropertyType.INT: "int",
    PropertyType.FLOAT: "float",
    PropertyType.DOUBLE: "float",
    PropertyType.BOOLEAN: "boolean",
    PropertyType.STRING: "string",
    PropertyType.BYTES: "string",
}
"""What `metadata.type` of a twin says for each type."""


@dataclass(frozen=True, slots=True)
class ValueRule:
    """What a property may hold.

    Shape:  `minimum` and `maximum` as numbers, None where the model sets none; `unit` is text for people.
    """

    type: PropertyType = PropertyType.STRING
    writable: bool = True
    minimum: float | None = None
    maximum: float | None = None
    unit: str = ""


def parse_text(kind: PropertyType, text: str) -> Typed:
    """Read a value as devices write it. Errors: BadRequest, saying what was expected."""
    if len(text) > MAX_TEXT:
        raise BadRequest(f"value: at most {MAX_TEXT} characters, got {len(text)}")
    return _PARSERS[kind](text)


def canonical(kind: PropertyType, value: Typed) -> str:
    """Write a typed value as devices read it; `parse_text` gives it back."""
    if kind is PropertyType.BOOLEAN:
        return "true" if value else "false"
    if kind in (PropertyType.FLOAT, PropertyType.DOUBLE):
        return repr(float(value)).removesuffix(".0")
    return str(value)


def check_typed(rule: ValueRule, value: Json) -> Typed:
    """Judge a JSON value that somebody wants the property to have.

    Errors: BadRequest for the wrong type, range or length.
    """
    typed = _CHECKS[rule.type](value)
    if isinstance(typed, str):
        if not 1 <= len(typed) <= MAX_TEXT:
            raise BadRequest(f"expected 1 to {MAX_TEXT} characters, got {len(typed)}")
        return typed
    if isinstance(typed, bool):
        return typed
    if rule.minimum is not None and typed < rule.minimum:
        raise BadRequest(f"expected at least {rule.minimum:g}, got {typed:g}")
    if rule.maximum is not None and typed > rule.maximum:
        raise BadRequest(f"expected at most {rule.maximum:g}, got {typed:g}")
    return typed


def equal(left: Json, right: Json) -> bool:
    """True when two typed values are the same; `true` is not 1, 20 is 20.0."""
    if isinstance(left, bool) != isinstance(right, bool):
        return False
    return left == right


def _int_of(text: str) -> Typed:
    if not _INTEGER.fullmatch(text):
        raise BadRequest(f"expected a decimal integer, got {text[:40]!r}")
    return _int64(int(text))


def _int64(value: int) -> int:
    if not _INT64[0] <= value <= _INT64[1]:
        raise BadRequest(f"expected a 64-bit integer, got {value}")
    return value


def _float_of(text: str) -> float:
    if "_" in text:
        raise BadRequest(f"expected a number, got {text[:40]!r}")
    try:
        value = float(text)
    except ValueError:
        raise BadRequest(f"expected a number, got {text[:40]!r}") from None
    if not math.isfinite(value):
        raise BadRequest(f"expected a finite number, got {text[:40]!r}")
    return value


def _single(value: float) -> float:
    if abs(value) > _FLOAT32_MAX:
        raise BadRequest(f"expected a 32-bit float, got {value:g}")
    return value


def _bool_of(text: str) -> Typed:
    if text not in ("true", "false"):
        raise BadRequest(f"expected true or false, got {text[:40]!r}")
    return text == "true"


def _bytes_of(text: str) -> Typed:
    try:
        return base64.b64encode(base64.b64decode(text, validate=True)).decode("ascii")
    except (binascii.Error, ValueError):
        raise BadRequest("expected base64") from None


def _no_stream(_: object) -> Typed:
    raise BadRequest("a STREAM property has no value")


_PARSERS: dict[PropertyType, Callable[[str], Typed]] = {
    PropertyType.INT: _int_of,
    PropertyType.FLOAT: lambda text: _single(_float_of(text)),
    PropertyType.DOUBLE: _float_of,
    PropertyType.STRING: lambda text: text,
    PropertyType.BOOLEAN: _bool_of,
    PropertyType.BYTES: _bytes_of,
    PropertyType.STREAM: _no_stream,
}


def _wrong(expected: str, value: Json) -> BadRequest:
    return BadRequest(f"expected {expected}, got {_json_type(value)}")


def _json_type(value: Json) -> str:
    if value is None:
        return "null"
    names = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array"}
    return names.get(type(value), "object")


def _check_int(value: Json) -> Typed:
    if isinstance(value, bool) or not isinstance(value, int):
        raise _wrong("an integer", value)
    return _int64(value)


def _check_number(value: Json) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _wrong("a number", value)
    try:
        number = float(value)
    except OverflowError:
        raise BadRequest("expected a 64-bit float") from None
    if not math.isfinite(number):
        raise _wrong("a finite number", value)
    return number


def _check_bool(value: Json) -> Typed:
    if not isinstance(value, bool):
        raise _wrong("a boolean", value)
    return value


def _check_text(value: Json) -> Typed:
    if not isinstance(value, str):
        raise _wrong("a string", value)
    return value


def _check_bytes(value: Json) -> Typed:
    if not isinstance(value, str):
        raise _wrong("a base64 string", value)
    return _bytes_of(value)


_CHECKS: dict[PropertyType, Callable[[Json], Typed]] = {
    PropertyType.INT: _check_int,
    PropertyType.FLOAT: lambda value: _single(_check_number(value)),
    PropertyType.DOUBLE: _check_number,
    PropertyType.STRING: _check_text,
    PropertyType.BOOLEAN: _check_bool,
    PropertyType.BYTES: _check_bytes,
    PropertyType.STREAM: _no_stream,
}
