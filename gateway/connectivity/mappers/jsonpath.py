"""`JsonPath`: a device's own JSON into a twin, by a table of pointers and paths. Twinspan's own mapper.

`{"fields": {"/features/temperature/properties/value": "$.temp"}}` takes `temp` of the payload and merges it
at the pointer. All that a message has is one merge command, so it is one revision. What the payload does not
have is left alone; a payload with none of it is not for this mapper. The thing has to exist.
"""

from __future__ import annotations

import re
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
from gateway.errors import GatewayError
from gateway.model.json import Json, JsonObject, Pointer, format_pointer, parse_pointer
from gateway.wire.ditto.placeholders import Scope, Template

NAME = "JsonPath"
MAX_FIELDS = 500
_STEP = re.compile(r"\.([A-Za-z_][\w\-]*)|\['([^']+)'\]|\[\"([^\"]+)\"\]|\[(-?\d{1,6})\]")

Path = tuple[str | int, ...]


def parse_path(text: str) -> Path:
    """Read `$.a.b`, `$['a b']`, `$.list[0]` or `$` alone.

    Errors: BadRequest `connectivity:message.mapper.config.invalid`.
    """
    if not text.startswith("$"):
        raise mapper_invalid(NAME, f"a path begins with '$', got '{text[:100]}'")
    steps: list[str | int] = []
    at = 1
    while at < len(text):
        match = _STEP.match(text, at)
        if match is None:
            raise mapper_invalid(NAME, f"'{text[:100]}' is not understood at position {at}")
        name = match[1] or match[2] or match[3]
        steps.append(name if name is not None else int(match[4]))
        at = match.end()
    return tuple(steps)


class _Absent:
    """There is nothing at this path."""


ABSENT = _Absent()


def find(value: Json, path: Path) -> Json | _Absent:
    """What is at a path, ABSENT for nothing."""
    found: Json | _Absent = value
    for step in path:
        found = _member(found, step) if isinstance(step, str) else _element(found, step)
    return found


def _member(value: Json | _Absent, name: str) -> Json | _Absent:
    return value.get(name, ABSENT) if isinstance(value, dict) else ABSENT


def _element(value: Json | _Absent, at: int) -> Json | _Absent:
    if isinstance(value, list) and -len(value) <= at < len(value):
        return value[at]
    return ABSENT


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
            (p, v) for p, path in self._fields if not isinstance(v := find(value, path), _Absent)
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
