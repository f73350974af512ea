"""`JsonPath`: a device's own JSON into a twin, by a table of pointers and paths. Twinspan's own mapper.

`{"fields": {"/features/temperature/properties/value": "$.temp"}}` takes `temp` of the payload and merges it
at the pointer. All that a message has is one merge command, so it is one revision. What the payload does not
have is left alone; a payload with none of it is not for this mapper. The thing has to exist.
"""

from __future__ import annotations

from collections.abc import Sequence

from gateway.connectivity.errors import mapper_invalid
from gateway.connectivity.mappers.base import (
    External,
    Incoming,
    Outgoing,
    parse_json,
    required,
    topic_of,
)
from gateway.errors import BadRequest, GatewayError
from gateway.model.json import Json, JsonObject, Pointer, format_pointer, parse_pointer
from gateway.model.jsonpath import Absent, Path, find
from gateway.model.jsonpath import parse_path as read_path
from gateway.wire.ditto.placeholders import Scope, Template

NAME = "JsonPath"
MAX_FIELDS = 500


def parse_path(text: str) -> Path:
    """Read a path of `gateway.model.jsonpath`.

    Errors: BadRequest `connectivity:message.mapper.config.invalid`.
    """
    try:
        return read_path(text)
    except BadRequest as error:
        raise mapper_invalid(NAME, error.message) from error


class JsonPathMapper:
    """Options: `fields` (required: pointer to path), `thingId` (default the device's id). Inbound only."""

    def __init__(self, options: JsonObject) -> None:
        fields = options.get("fields")
        if not isinstance(fields, dict) or not fields or len(fields) > MAX_FIELDS:
            raise mapper_invalid(NAME, f"'fields' has to be an object of 1 to {MAX_FIELDS} members")
        try:
            self._fields = [(_target(p), parse_path(str(text))) for p, text in fields.items()]
            self._thing_id = Template.parse(str(options.get("thingId", "{{ header:device_id }}")))
        except GatewayError as error:
            raise mapper_invalid(NAME, error.message) from error

    def incoming(self, message: External, scope: Scope) -> Sequence[Incoming]:
        if not message.payload:
            return ()
        value = parse_json(NAME, message.payload)
        found = [
            (p, v) for p, path in self._fields if not isinstance(v := find(value, path), Absent)
        ]
        if not found:
            return ()
        thing_id = required(self._thing_id.resolve(scope), NAME, "the Thing ID")
        at = common([pointer for pointer, _ in found])
        made = Incoming.made(
            topic_of(thing_id, "twin/commands/merge"),
            format_pointer(at),
            {"response-required": False} if at else {"response-required": False, "if-match": "*"},
            nested(found, at),
        )
        return (made,)

    def outgoing(self, _signal: Outgoing) -> External | None:
        return None


def _target(text: str) -> Pointer:
    pointer = parse_pointer(text)
    if not pointer or pointer[0] not in ("features", "attributes", "definition"):
        raise mapper_invalid(NAME, f"'{text[:100]}' is no pointer to attributes or features")
    return pointer


def common(pointers: Sequence[Pointer]) -> Pointer:
    """The longest pointer that is the beginning of all of them."""
    first, last = min(pointers), max(pointers)
    length = next(
        (at for at, (a, b) in enumerate(zip(first, last, strict=False)) if a != b),
        min(len(first), len(last)),
    )
    return first[:length]


def nested(found: Sequence[tuple[Pointer, Json]], at: Pointer) -> Json:
    """One document below `at` with all values; a later one wins where they overlap."""
    document: Json = {}
    for pointer, value in found:
        document = _put(document, pointer[len(at) :], value)
    return document


def _put(document: Json, pointer: Pointer, value: Json) -> Json:
    if not pointer:
        return value
    place = dict(document) if isinstance(document, dict) else {}
    place[pointer[0]] = _put(place.get(pointer[0]), pointer[1:], value)
    return place
