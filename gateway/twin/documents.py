"""JSON documents that nobody mutates: an update copies the objects on its path and shares the rest."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Final, TypeAlias

import msgspec

from gateway.model.entity_id import is_key
from gateway.model.json import Json, JsonObject, Pointer
from gateway.twin.ditto_errors import ditto_error

MAX_DEPTH = 64
"""Objects and arrays inside each other; deeper values are refused."""


class Missing(enum.Enum):
    """The type of `MISSING`."""

    MISSING = "missing"


MISSING: Final = Missing.MISSING
"""Says that there is no value; None is JSON's null, which is one."""

Maybe: TypeAlias = "Json | Missing"

_encoder = msgspec.json.Encoder()
_stable = msgspec.json.Encoder(order="deterministic")


def get(document: Json, pointer: Sequence[str]) -> Maybe:
    """The value at a pointer. Array elements are not addressed, as in Ditto."""
    value = document
    for segment in pointer:
        if not isinstance(value, dict) or segment not in value:
            return MISSING
        value = value[segment]
    return value


def put(document: JsonObject, pointer: Pointer, value: Json) -> JsonObject:
    """A document with `value` at a non-empty pointer; missing parents become objects."""
    copy = dict(document)
    if len(pointer) == 1:
        copy[pointer[0]] = value
        return copy
    below = copy.get(pointer[0])
    copy[pointer[0]] = put(below if isinstance(below, dict) else {}, pointer[1:], value)
    return copy


def remove(document: JsonObject, pointer: Pointer) -> JsonObject:
    """A document without the value at a non-empty pointer; the same one when there is none."""
    head, *rest = pointer
    if head not in document:
        return document
    if not rest:
        copy = dict(document)
        del copy[head]
        return copy
    below = document[head]
    if not isinstance(below, dict):
        return document
    changed = remove(below, tuple(rest))
    return document if changed is below else {**document, head: changed}


def same(one: Json, other: Json) -> bool:
    """Equal as JSON: objects in any order of members; `1`, `1.0` and `true` are three values."""
    if one is other:
        return True
    if type(one) is not type(other):
        return False
    if isinstance(one, dict) and isinstance(other, dict):
        return len(one) == len(other) and all(
            key in other and same(value, other[key]) for key, value in one.items()
        )
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def encoded(value: Json) -> bytes:
    """Compact JSON."""
    return _encoder.encode(value)


def stable(value: Json) -> bytes:
    """Compact JSON with members in order: equal values give equal bytes."""
    return _stable.encode(value)


def check_value(value: Json, depth: int = 0) -> None:
    """Refuse keys that Ditto does not allow, and values nested too deep.

    Errors: BadRequest `json.key.invalid` naming the key; `json.invalid` for the depth.
    """
    if isinstance(value, dict):
        _check_depth(depth)
        for key, below in value.items():
            if not is_key(key):
                raise ditto_error("json.key.invalid", key=key[:200])
            if isinstance(below, (dict, list)):
                check_value(below, depth + 1)
    elif isinstance(value, list):
        _check_depth(depth)
        for below in value:
            if isinstance(below, (dict, list)):
                check_value(below, depth + 1)


def _check_depth(depth: int) -> None:
    if depth >= MAX_DEPTH:
        raise ditto_error("json.invalid", reason=f"nested deeper than {MAX_DEPTH} levels")
