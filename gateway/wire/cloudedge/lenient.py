"""Reading documents of others without judging them: what does not fit counts as absent."""

from __future__ import annotations

from gateway.model.json import Json, JsonObject


def mapping(value: Json) -> JsonObject:
    """Return `value` if it is an object, else an empty one."""
    return value if isinstance(value, dict) else {}


def text(value: Json) -> str:
    """Return `value` if it is text, else the empty text."""
    return value if isinstance(value, str) else ""


def texts(value: Json) -> dict[str, str]:
    """Return those members of an object that are texts."""
    return {k: v for k, v in mapping(value).items() if isinstance(v, str)}


def number(value: Json) -> int:
    """Return `value` if it is a positive whole number, else 0."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def objects(value: Json, most: int) -> list[JsonObject]:
    """Return the objects among the first `most` entries of a list, none for anything else."""
    entries = value if isinstance(value, list) else []
    return [entry for entry in entries[:most] if isinstance(entry, dict)]
