"""Giving a thing another model: the patch that follows from the new model and what the caller gives.

The new model's skeleton gives the definitions, and values for what the thing does not have where that is
asked for; the caller's payload lies over it, its nulls delete. Conditions and placeholders see the thing as
the caller may read it. Pure: the skeleton is made before. Source: Ditto 3.9, migrateDefinition.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

from gateway.errors import GatewayError
from gateway.model.json import Json, JsonObject, Pointer, parse_pointer
from gateway.twin import merge
from gateway.twin.ditto_errors import ditto_error
from gateway.twin.documents import MISSING, get
from gateway.twin.resources import Part, checked_value
from gateway.twin.wot.model import url_of

URL: Final = "thingDefinitionUrl"
PAYLOAD: Final = "migrationPayload"
CONDITIONS: Final = "patchConditions"
FILL: Final = "initializeMissingPropertiesFromDefaults"
MAX_CONDITIONS: Final = 100
APPLIED: Final = "APPLIED"
DRY_RUN: Final = "DRY_RUN"
_MEMBERS: Final = frozenset(("attributes", "features"))
_KEPT: Final = "definition"
_MENTION: Final = re.compile(r"[{$]\{?\s*thing-json:")

Holds: TypeAlias = Callable[[str], bool]
"""Whether an RQL expression holds for the thing."""

Fill: TypeAlias = Callable[[str], Json]
"""What a text with placeholders stands for."""


@dataclass(frozen=True, slots=True)
class Migration:
    """What a caller asks for.

    Shape:  `conditions` are RQL by the pointer of the part of the payload that they are for; with
            `from_defaults` what the thing does not have gets the values of the model.
    """

    url: str
    payload: JsonObject
    conditions: Mapping[Pointer, str]
    from_defaults: bool


def read_migration(thing_id: str, value: Json) -> Migration:
    """Read the body of a migration.

    Errors: BadRequest `json.invalid`, `json.field.missing`, `things:id.notsettable`,
            `things:definition.identifier.invalid`; `wot:skeleton.generation.failed` for a definition that is
            no http(s) URL.
    """
    if not isinstance(value, dict):
        raise _invalid("a migration is a JSON object")
    found = value.get("thingId")
    if found is not None and found != thing_id:
        raise ditto_error("things:id.notsettable", found=found, expected=f": it is '{thing_id}'")
    if value.get(URL) is None:
        raise ditto_error("json.field.missing", field=URL)
    url = checked_value(Part.DEFINITION, value[URL])
    if url_of(url) is None:
        raise no_skeleton(str(url), "It is no http(s) URL of a WoT ThingModel.")
    from_defaults = value.get(FILL) or False
    if not isinstance(from_defaults, bool):
        raise _invalid(f"'{FILL}' is true or false")
    payload = _payload(value.get(PAYLOAD))
    return Migration(str(url), payload, _conditions(value.get(CONDITIONS)), from_defaults)


def no_skeleton(definition: str, reason: str) -> GatewayError:
    """400: nothing can be made from a definition."""
    return ditto_error("wot:skeleton.generation.failed", definition=definition[:300], reason=reason)


def _payload(value: Json) -> JsonObject:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise _invalid(f"'{PAYLOAD}' is a JSON object")
    for name, below in value.items():
        if name not in _MEMBERS or not isinstance(below, dict | None):
            raise _invalid(f"'{PAYLOAD}' has 'attributes' and 'features', which are JSON objects")
    merge.check_patch(value)
    return value


def _conditions(value: Json) -> Mapping[Pointer, str]:
    if value is None:
        return {}
    if not isinstance(value, dict) or len(value) > MAX_CONDITIONS:
        raise _invalid(f"'{CONDITIONS}' is a JSON object with at most {MAX_CONDITIONS} members")
    conditions: dict[Pointer, str] = {}
    for key, condition in value.items():
        kind, colon, path = key.partition(":")
        pointer = path if colon and kind == "thing" else key
        if not isinstance(condition, str) or not pointer.startswith("/"):
            raise _invalid(f"'{CONDITIONS}' has RQL by resource, as 'thing:/attributes/a'")
        conditions[parse_pointer(pointer)] = condition
    return conditions


def _invalid(reason: str) -> GatewayError:
    return ditto_error("json.invalid", reason=reason)


# --- the patch ---------------------------------------------------------------------------------


def migration_patch(
    migration: Migration, present: JsonObject, skeleton: JsonObject, holds: Holds, fill: Fill
) -> JsonObject:
    """The merge patch that migrates a thing.

    Shape:  `present` is the thing's document, `skeleton` what a new thing of the model would hold.
    Errors: what `holds` and `fill` raise.
    """
    base: JsonObject = {_KEPT: migration.url}
    if migration.from_defaults:
        base.update(_without_present(skeleton, present))
    else:
        base.update(_definitions(skeleton))
    payload = _filled(_conditioned(migration, holds), fill)
    patch = _over(base, payload)
    assert isinstance(patch, dict)  # noqa: S101  an object over an object is one
    return patch


def _definitions(skeleton: JsonObject) -> JsonObject:
    """The features of the model, with nothing but their definitions."""
    features = skeleton.get("features")
    if not isinstance(features, dict) or not features:
        return {}
    return {
        "features": {
            name: {_KEPT: feature[_KEPT]} if isinstance(feature, dict) and _KEPT in feature else {}
            for name, feature in features.items()
        }
    }


def _without_present(skeleton: JsonObject, present: JsonObject) -> JsonObject:
    """What of the skeleton the thing does not have; definitions stay."""
    kept: JsonObject = {}
    for key, value in skeleton.items():
        if key == _KEPT or key not in present:
            below: Json = value
        else:
            there = present[key]
            if not isinstance(value, dict) or not isinstance(there, dict):
                continue
            below = _without_present(value, there)
        if below != {}:
            kept[key] = below
    return kept


def _conditioned(migration: Migration, holds: Holds) -> JsonObject:
    """The payload without the parts whose condition does not hold, nor objects that this empties."""
    payload = migration.payload
    for pointer, condition in migration.conditions.items():
        if get(payload, pointer) is not MISSING and not holds(condition):
            payload = _dropped(payload, pointer)
    return payload


def _dropped(payload: JsonObject, pointer: Pointer) -> JsonObject:
    if not pointer:
        return {}
    head, below = pointer[0], payload.get(pointer[0])
    if head not in payload:
        return payload  # a condition of what holds it dropped it
    rest = _dropped(below, pointer[1:]) if len(pointer) > 1 and isinstance(below, dict) else {}
    if rest:
        return {**payload, head: rest}
    return {key: value for key, value in payload.items() if key != head}


def _filled(value: JsonObject, fill: Fill) -> JsonObject:
    return {key: _filled_value(below, fill) for key, below in value.items()}


def _filled_value(value: Json, fill: Fill) -> Json:
    if isinstance(value, dict):
        return _filled(value, fill)
    if isinstance(value, list):
        return [_filled_value(below, fill) for below in value]
    return fill(value) if isinstance(value, str) and _MENTION.search(value) else value


def _over(base: Json, payload: Json) -> Json:
    if not isinstance(base, dict) or not isinstance(payload, dict):
        return payload
    merged = dict(base)
    for key, value in payload.items():
        merged[key] = _over(base[key], value) if key in base else value
    return merged


def told(thing_id: str, patch: Json, *, is_dry_run: bool) -> JsonObject:
    """The answer to a migration."""
    status = DRY_RUN if is_dry_run else APPLIED
    return {"thingId": thing_id, "patch": patch, "mergeStatus": status}
