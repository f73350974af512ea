"""`configData` of Devices and visitors, read key by key: aliases, defaults, and what was wrong where.

Numbers and flags may be written as text, as many Devices of KubeEdge's mappers have them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from gateway.errors import Rejected
from gateway.model.json import Json, JsonObject

T = TypeVar("T")

MAX_TEXT = 4_096
_TRUE = frozenset({"true", "1", "yes", "on"})
_FALSE = frozenset({"false", "0", "no", "off"})


@dataclass(frozen=True, slots=True)
class ConfigData:
    """One object of configuration.

    Shape:  `where` begins what is said of a bad value: `configData`, `temperature`. A method's `keys` are the
            name and its aliases, the first that is there counts.
    """

    where: str
    values: JsonObject = field(default_factory=dict)

    def has(self, *keys: str) -> bool:
        """Say whether one of the keys has a value."""
        return self._found(keys)[1] not in (None, "")

    def text(self, *keys: str, default: str | None = "") -> str:
        """Return a text. Errors: Rejected where it is none, or missing without a default."""
        key, value = self._found(keys)
        if value is None or value == "":
            return self._default(key, default)
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise self.wrong(key, "a text", value)
        text = str(value)
        if len(text) > MAX_TEXT:
            raise Rejected(f"{self.where}.{key}: at most {MAX_TEXT} characters, got {len(text)}")
        return text

    def integer(
        self, *keys: str, default: int | None = None, low: int = 0, high: int = 2**31
    ) -> int:
        """Return a whole number from `low` to `high`. Errors: Rejected."""
        key, value = self._found(keys)
        if value is None or value == "":
            return self._default(key, default)
        number = _integer(value)
        if number is None or not low <= number <= high:
            raise self.wrong(key, f"a whole number from {low} to {high}", value)
        return number

    def number(self, *keys: str, default: float | None = None) -> float:
        """Return a finite number. Errors: Rejected."""
        key, value = self._found(keys)
        if value is None or value == "":
            return self._default(key, default)
        number = _number(value)
        if number is None:
            raise self.wrong(key, "a number", value)
        return number

    def flag(self, *keys: str, default: bool = False) -> bool:
        """Return true or false. Errors: Rejected."""
        key, value = self._found(keys)
        if value is None or value == "":
            return default
        word = str(value).strip().lower()
        if isinstance(value, list | dict) or word not in _TRUE | _FALSE:
            raise self.wrong(key, "true or false", value)
        return word in _TRUE

    def choice(self, table: Mapping[str, T], *keys: str, default: T | None = None) -> T:
        """Return what a word of `table` (lower case) stands for. Errors: Rejected, naming the words."""
        key, value = self._found(keys)
        if value is None or value == "":
            return self._default(key, default)
        word = value.strip().lower() if isinstance(value, str) else str(value).lower()
        if word not in table:
            raise self.wrong(key, f"one of {', '.join(table)}", value)
        return table[word]

    def texts(self, *keys: str) -> dict[str, str]:
        """Return an object of texts, empty where there is none. Errors: Rejected."""
        key, value = self._found(keys)
        if value is None:
            return {}
        if not isinstance(value, dict) or not all(isinstance(v, str) for v in value.values()):
            raise self.wrong(key, "an object of texts", value)
        return {name: str(text) for name, text in value.items()}

    def below(self, *keys: str) -> ConfigData:
        """Return an object inside this one, empty where there is none. Errors: Rejected."""
        key, value = self._found(keys)
        if value is None:
            return ConfigData(f"{self.where}.{key}")
        if not isinstance(value, dict):
            raise self.wrong(key, "an object", value)
        return ConfigData(f"{self.where}.{key}", value)

    def wrong(self, key: str, expected: str, value: Json) -> Rejected:
        """Return the error that says what was expected and what came."""
        return Rejected(f"{self.where}.{key}: expected {expected}, got {str(value)[:60]!r}")

    def _found(self, keys: tuple[str, ...]) -> tuple[str, Json]:
        for key in keys:
            if self.values.get(key) is not None:
                return key, self.values[key]
        return keys[0], None

    def _default(self, key: str, default: T | None) -> T:
        if default is None:
            raise Rejected(f"{self.where}.{key} is missing")
        return default


def _integer(value: Json) -> int | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, float):
        return int(value) if value.is_integer() else None
    if isinstance(value, str):
        text = value.strip()
        try:
            return int(text, 0 if text[:2].lower() == "0x" else 10) if len(text) < 30 else None
        except ValueError:
            return None
    return value if isinstance(value, int) else None


def _number(value: Json) -> float | None:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None
