"""The parts of a thing that a path can name, and what each takes as a value."""

from __future__ import annotations

import enum
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Final

from gateway.errors import GatewayError
from gateway.model.entity_id import check_entity_id, is_key
from gateway.model.json import Json, JsonObject, Pointer
from gateway.twin.ditto_errors import ditto_error
from gateway.twin.documents import check_value

_DEFINITION = re.compile(r"[_a-zA-Z0-9\-.]+:[_a-zA-Z0-9\-.]+:[_a-zA-Z0-9\-.]+|https?://\S+")
_MAX_DEFINITION = 2_048


class Part(enum.StrEnum):
    """Kinds of resources; the values are the first half of their error codes."""

    THING = "thing"
    POLICY_ID = "policyId"
    DEFINITION = "definition"
    ATTRIBUTES = "attributes"
    ATTRIBUTE = "attribute"
    FEATURES = "features"
    FEATURE = "feature"
    FEATURE_DEFINITION = "feature.definition"
    FEATURE_PROPERTIES = "feature.properties"
    FEATURE_PROPERTY = "feature.property"
    FEATURE_DESIRED_PROPERTIES = "feature.desiredProperties"
    FEATURE_DESIRED_PROPERTY = "feature.desiredProperty"


_ROOTS: Final[dict[str, Part]] = {
    "policyId": Part.POLICY_ID,
    "definition": Part.DEFINITION,
    "attributes": Part.ATTRIBUTES,
    "features": Part.FEATURES,
}
_OF_FEATURE: Final[dict[str, tuple[Part, Part | None]]] = {
    "definition": (Part.FEATURE_DEFINITION, None),
    "properties": (Part.FEATURE_PROPERTIES, Part.FEATURE_PROPERTY),
    "desiredProperties": (Part.FEATURE_DESIRED_PROPERTIES, Part.FEATURE_DESIRED_PROPERTY),
}
_KEY_OF_LEAF: Final = {
    Part.ATTRIBUTE: 1,
    Part.FEATURE_PROPERTY: 3,
    Part.FEATURE_DESIRED_PROPERTY: 3,
}


def part_of(path: Pointer) -> Part:
    """Which part a path from the thing's root names.

    Errors: BadRequest `protocoladapter:unknown.path`.
    """
    part = _lookup(path)
    if part is None:
        raise ditto_error("protocoladapter:unknown.path", path=path)
    return part


def _lookup(path: Pointer) -> Part | None:
    if not path:
        return Part.THING
    if len(path) == 1:
        return _ROOTS.get(path[0])
    if path[0] == "attributes":
        return Part.ATTRIBUTE
    if path[0] != "features":
        return None
    if len(path) == 2:
        return Part.FEATURE
    own, below = _OF_FEATURE.get(path[2], (None, None))
    return own if len(path) == 3 else below


def facts_of(thing_id: str, part: Part, path: Pointer) -> dict[str, object]:
    """What error texts say about a resource."""
    facts: dict[str, object] = {"id": thing_id, "path": path[_KEY_OF_LEAF.get(part, 0) :]}
    if len(path) > 1 and path[0] == "features":
        facts["feature"] = path[1]
    return facts


def not_found(thing_id: str, part: Part, path: Pointer) -> GatewayError:
    """404 of this resource: absent, or not readable."""
    return ditto_error(f"things:{part}.notfound", facts_of(thing_id, part, path))


def not_modifiable(thing_id: str, part: Part, path: Pointer) -> GatewayError:
    """403 of this resource: not writable."""
    return ditto_error(f"things:{part}.notmodifiable", facts_of(thing_id, part, path))


# --- values ------------------------------------------------------------------------------------


def checked_value(part: Part, value: Json) -> Json:
    """The value as it is stored at a part other than the thing itself.

    Errors: BadRequest naming what is wrong.
    """
    return _CHECKS[part](value)


_LEVELS_ABOVE: Final = {"attributes": 1, "features": 3}
"""Segments of a path that do not count as depth: up to `attributes` or `properties`."""


def checked_at(part: Part, path: Pointer, value: Json) -> Json:
    """As `checked_value`, for a path: objects on the way count, so that no thing gets too deep to be read.

    Errors: as `checked_value`; BadRequest `json.invalid`.
    """
    found = checked_value(part, value)
    if isinstance(found, dict | list) and len(path) > _LEVELS_ABOVE.get(path[0], len(path)):
        check_value(found, len(path) - _LEVELS_ABOVE[path[0]])
    return found


@lru_cache(maxsize=4_096)
def checked_path(path: Pointer) -> Part:
    """Which part a path names, when all its segments can be keys. Paths repeat, so answers are kept.

    Errors: BadRequest `protocoladapter:unknown.path`, `json.key.invalid`.
    """
    part = part_of(path)
    for segment in path:
        if not is_key(segment):
            raise ditto_error("json.key.invalid", key=segment[:200])
    return part


def thing_document(
    thing_id: str, value: Json, *, code: str = "things:id.notsettable"
) -> JsonObject:
    """A thing's JSON as it is stored: known members only, null ones left out.

    Shape:  `thingId` may be there and must then be this one; `_policy` and `_copyPolicyFrom` are left out.
    Errors: BadRequest; `code` for a foreign `thingId`.
    """
    given = _object(value, "a Thing")
    found = given.get("thingId")
    if found is not None and found != thing_id:
        raise ditto_error(code, found=found, expected=f": it should be '{thing_id}'")
    document: JsonObject = {}
    for member, part in _ROOTS.items():
        below = given.get(member)
        if below is not None:
            document[member] = checked_value(part, below)
    return document


def _object(value: Json, what: str) -> JsonObject:
    if not isinstance(value, dict):
        raise ditto_error("json.invalid", reason=f"{what} is a JSON object, got {_kind(value)}")
    return value


def _kind(value: Json) -> str:
    names = {
        str: "a string",
        bool: "a boolean",
        int: "a number",
        float: "a number",
        list: "an array",
    }
    return names.get(type(value), "null")


def _policy_id(value: Json) -> Json:
    if not isinstance(value, str):
        raise ditto_error("json.invalid", reason=f"a policy ID is a string, got {_kind(value)}")
    return check_entity_id(value, "policies:id.invalid")


def _definition(value: Json) -> Json:
    if not isinstance(value, str):
        raise ditto_error("json.invalid", reason=f"a definition is a string, got {_kind(value)}")
    if len(value) > _MAX_DEFINITION or _DEFINITION.fullmatch(value) is None:
        raise ditto_error("things:definition.identifier.invalid", value=value[:200])
    return value


def _members(value: Json) -> Json:
    """An object of attributes or properties; null is an empty one."""
    if value is None:
        return {}
    check_value(_object(value, "this value"))
    return value


def _any(value: Json) -> Json:
    check_value(value)
    return value


def _features(value: Json) -> Json:
    if value is None:
        return {}
    features: JsonObject = {}
    for feature_id, feature in _object(value, "'features'").items():
        if not is_key(feature_id):
            raise ditto_error("json.key.invalid", key=feature_id[:200])
        features[feature_id] = _feature(feature)
    return features


def _feature(value: Json) -> Json:
    if value is None:
        return {}
    given = _object(value, "a feature")
    feature: JsonObject = {}
    for member, (part, _) in _OF_FEATURE.items():
        below = given.get(member)
        if below is not None:
            feature[member] = checked_value(part, below)
    return feature


def _feature_definition(value: Json) -> Json:
    if not isinstance(value, list):
        raise ditto_error(
            "json.invalid", reason=f"a feature definition is an array, got {_kind(value)}"
        )
    if not value:
        raise ditto_error("things:feature.definition.empty")
    return [_definition(identifier) for identifier in value]


_CHECKS: Final[dict[Part, Callable[[Json], Json]]] = {
    Part.POLICY_ID: _policy_id,
    Part.DEFINITION: _definition,
    Part.ATTRIBUTES: _members,
    Part.ATTRIBUTE: _any,
    Part.FEATURES: _features,
    Part.FEATURE: _feature,
    Part.FEATURE_DEFINITION: _feature_definition,
    Part.FEATURE_PROPERTIES: _members,
    Part.FEATURE_PROPERTY: _any,
    Part.FEATURE_DESIRED_PROPERTIES: _members,
    Part.FEATURE_DESIRED_PROPERTY: _any,
}
