"""Reading parts of objects whose shape was judged when they were stored: what is absent reads as empty."""

from __future__ import annotations

from gateway.model.json import Json, JsonObject


def part(item: Json, *path: str) -> JsonObject:
    """Return the table at a path, an empty one where there is none. Read it, do not change it."""
    for step in path:
        item = item.get(step) if isinstance(item, dict) else None
    return item if isinstance(item, dict) else {}


def rows(value: Json) -> list[JsonObject]:
    """Return the tables of a list."""
    return [row for row in value if isinstance(row, dict)] if isinstance(value, list) else []


def whole(value: Json, default: int = 0) -> int:
    """Return a whole number, `default` where there is none."""
    return value if isinstance(value, int) and not isinstance(value, bool) else default


def text(value: Json) -> str:
    """Return a text, an empty one where there is none."""
    return value if isinstance(value, str) else ""


def labels_of(item: JsonObject) -> dict[str, str]:
    """Return an object's labels."""
    return {key: text(value) for key, value in part(item, "metadata", "labels").items()}


def annotations_of(item: JsonObject) -> dict[str, str]:
    """Return an object's annotations."""
    return {key: text(value) for key, value in part(item, "metadata", "annotations").items()}
