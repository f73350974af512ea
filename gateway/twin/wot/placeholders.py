"""Placeholders of Thing Models: `{{NAME}}` in any text, resolved when a description is made.

Source: W3C WoT Thing Description 1.1, 10.3.3; Ditto, WoT integration (model placeholders).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, cast

from gateway.model.json import Json, JsonObject
from gateway.twin.ditto_errors import ditto_error

_PLACEHOLDER: Final = re.compile(r"\{\{([ -z|~]{1,200}?)\}\}")
"""Printable ASCII without braces."""
_MAX_TEXT: Final = 65_536


def resolved(document: JsonObject, values: Mapping[str, Json]) -> JsonObject:
    """The document with every placeholder replaced.

    Shape:  a text that is one placeholder becomes the value, whatever its type; within a longer text the
            value is written into it (texts as they are, other values as JSON has them).
    Errors: BadRequest `wot:tm.placeholder.unresolved` naming the first that has no value.
    """
    return cast(JsonObject, _resolved(document, values))


def _resolved(value: Json, values: Mapping[str, Json]) -> Json:
    if isinstance(value, str):
        return _text(value, values) if "{{" in value else value
    if isinstance(value, dict):
        return {key: _resolved(below, values) for key, below in value.items()}
    if isinstance(value, list):
        return [_resolved(below, values) for below in value]
    return value


def _text(text: str, values: Mapping[str, Json]) -> Json:
    whole = _PLACEHOLDER.fullmatch(text)
    if whole is not None:
        return _value(whole, values)
    made = _PLACEHOLDER.sub(lambda match: _written(_value(match, values)), text)
    return made[:_MAX_TEXT]


def _value(match: re.Match[str], values: Mapping[str, Json]) -> Json:
    name = match[1].strip()
    if name not in values:
        raise ditto_error("wot:tm.placeholder.unresolved", placeholder=name)
    return values[name]


def _written(value: Json) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    return "null" if value is None else str(value)
