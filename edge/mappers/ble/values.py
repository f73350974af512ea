"""A decoded value as a reading of the model's type."""

from __future__ import annotations

import math

from edge.mappers.ble.codecs import Codec, Value
from edge.mappers.driver import Reading
from edge.mappers.readings import bad, reading_of
from gateway.errors import BadRequest
from gateway.wire.cloudedge.values import PropertyType, ValueRule


def reading(rule: ValueRule, value: Value, at: int) -> Reading:
    """Return a value as the model's type; a fraction becomes the nearest INT, bytes a STRING of digits."""
    if rule.type is PropertyType.INT and isinstance(value, float) and math.isfinite(value):
        value = round(value)
    if rule.type is PropertyType.STRING and isinstance(value, bytes):
        value = value.hex()
    return reading_of(rule, value, at)


def decoded(rule: ValueRule, codec: Codec, data: bytes, at: int) -> Reading:
    """Return what bytes say; bad, with the reason, where they say nothing of the kind."""
    try:
        value = codec.decode(data)
    except BadRequest as error:
        return bad(error.message, at)
    except (ArithmeticError, ValueError):
        return bad("a value out of all bounds", at)
    return reading(rule, value, at)
