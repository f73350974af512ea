"""Reading closed JSON objects: every member is asked for by name and type, what is left over is an error.

Errors name the place: `adapters[0].enabled: expected boolean, got string`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TypeVar

from gateway.errors import BadRequest
from gateway.model.json import Json, JsonObject

_T = TypeVar("_T")
_JSON_NAMES: dict[type, str] = {
    bool: "boolean",
    int: "number",
    float: "number",
    str: "string",
    list: "array",
    dict: "object",
    type(None): "null",
}


def json_name(value: Json) -> str:
    """Return what JSON calls the type of `value`."""
    return _JSON_NAMES.get(type(value), type(value).__name__)


def parse_instant(text: str, path: str) -> int:
    """Read an ISO 8601 date-time with offset.

    Shape:  `2026-04-01T14:00:00+02:00` -> seconds since the epoch, fractions cut.
    Errors: BadRequest naming `path`.
    """
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        instant = None
    if instant is None or instant.tzinfo is None or "T" not in text.upper():
        raise BadRequest(
            f"{path}: expected an ISO 8601 date-time with offset, e.g. 2026-04-01T12:00:00Z,"
            f" got {text[:64]!r}"
        )
    return int(instant.timestamp())


def format_instant(seconds: float) -> str:
    """Write seconds since the epoch as `2026-04-01T12:00:00Z`."""
    return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Members:
    """One JSON object that is being read.

    Shape:  `path` names the object in errors, empty for the root.
    Errors: BadRequest from the constructor (not an object), each reader (wrong type) and `end` (unknown
            members).
    """

    __slots__ = ("_left", "_path")

    def __init__(self, value: Json, path: str = "") -> None:
        if not isinstance(value, dict):
            raise BadRequest(f"{path or 'body'}: expected object, got {json_name(value)}")
        self._left: JsonObject = dict(value)
        self._path = path

    def path(self, name: str) -> str:
        return f"{self._path}.{name}" if self._path else name

    def has(self, name: str) -> bool:
        return name in self._left

    def fail(self, name: str, expected: str) -> BadRequest:
        return BadRequest(f"{self.path(name)}: expected {expected}")

    def raw(self, name: str) -> Json:
        """Take a member as it is; None where it is absent or null."""
        return self._left.pop(name, None)

    def text(self, name: str, pattern: re.Pattern[str] | None = None) -> str | None:
        value = self._typed(name, str, "string")
        if value is not None and pattern is not None and not pattern.fullmatch(value):
            raise self.fail(name, f"a string matching {pattern.pattern}, got {value[:64]!r}")
        return value

    def required_text(self, name: str, pattern: re.Pattern[str] | None = None) -> str:
        value = self.text(name, pattern)
        if not value:
            raise self.fail(name, "a non-empty string, it is mandatory")
        return value

    def flag(self, name: str, default: bool) -> bool:
        value = self._typed(name, bool, "boolean")
        return default if value is None else value

    def integer(self, name: str, default: int, minimum: int = -1) -> int:
        value = self._left.pop(name, None)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.fail(name, f"integer, got {json_name(value)}")
        if not minimum <= value < 2**63:
            raise self.fail(name, f"an integer of at least {minimum}, got {value}")
        return value

    def object(self, name: str) -> JsonObject | None:
        return self._typed(name, dict, "object")

    def array(self, name: str) -> list[Json] | None:
        return self._typed(name, list, "array")

    def array_is_empty(self, name: str) -> bool:
        """True when the member is an array without items; it stays to be read."""
        return self._left.get(name) == []

    def members(self, name: str) -> Members | None:
        """Read a member that is a closed object itself."""
        value = self.object(name)
        return None if value is None else Members(value, self.path(name))

    def each(self, name: str) -> Iterator[Members]:
        """Read a member that is an array of closed objects."""
        for at, item in enumerate(self.array(name) or ()):
            yield Members(item, f"{self.path(name)}[{at}]")

    def texts(self, name: str) -> tuple[str, ...]:
        """Read an array of non-empty strings; one string alone counts as an array of one."""
        value = self._left.pop(name, None)
        if isinstance(value, str):
            value = [value]
        if value is None:
            return ()
        if not isinstance(value, list):
            raise self.fail(name, f"array, got {json_name(value)}")
        return tuple(self._item(name, at, item) for at, item in enumerate(value))

    def _item(self, name: str, at: int, item: Json) -> str:
        if isinstance(item, str) and item:
            return item
        raise self.fail(f"{name}[{at}]", f"a non-empty string, got {json_name(item)}")

    def instant(self, name: str) -> int | None:
        """Read a date-time as seconds since the epoch."""
        value = self.text(name)
        return None if value is None else parse_instant(value, self.path(name))

    def end(self) -> None:
        """Refuse members that nobody asked for."""
        if self._left:
            unknown = ", ".join(sorted(self.path(name)[:128] for name in self._left)[:10])
            raise BadRequest(f"unknown member: {unknown}")

    def _typed(self, name: str, kind: type[_T], expected: str) -> _T | None:
        value = self._left.pop(name, None)
        if value is None or isinstance(value, kind):
            return value
        raise self.fail(name, f"{expected}, got {json_name(value)}")
