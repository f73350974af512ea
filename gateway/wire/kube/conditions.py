"""Conditions of a status: a list with one entry for each type."""

from __future__ import annotations

from gateway.model.json import Json, JsonObject
from gateway.wire.kube.parts import part, rows


def condition_of(item: JsonObject, type_: str) -> JsonObject | None:
    """Return an object's condition of this type."""
    return find(rows(part(item, "status").get("conditions")), type_)


def find(conditions: list[JsonObject], type_: str) -> JsonObject | None:
    """Return the condition of this type."""
    return next((entry for entry in conditions if entry.get("type") == type_), None)


def is_true(item: JsonObject, type_: str) -> bool:
    """True when an object says so."""
    found = condition_of(item, type_)
    return found is not None and found.get("status") == "True"


def without(conditions: list[JsonObject], type_: str) -> list[JsonObject]:
    """Return the conditions but this one."""
    return [entry for entry in conditions if entry.get("type") != type_]


def as_json(conditions: list[JsonObject]) -> list[Json]:
    """Return conditions as a status carries them."""
    return list(conditions)
