"""Patterns of definitions: matched in time that is linear in the text, as Go's and RE2's are.

Python's own `re` tries every way to match: one text against `^(a+)+$` would hold up everything else for good.
Source: Go "regexp/syntax", for the forms that are spelled otherwise there.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import jsonschema_rs

MAX_COMPILED: Final = 10_000_000
"""Bytes of a compiled pattern."""
_CLASSES: Final = {
    "alnum": "0-9A-Za-z",
    "alpha": "A-Za-z",
    "digit": "0-9",
    "lower": "a-z",
    "punct": r"!-/:-@\[-`{-~",
    "space": r"\t\n\v\f\r ",
    "upper": "A-Z",
    "word": "0-9A-Za-z_",
    "xdigit": "0-9A-Fa-f",
}
_GO: Final = re.compile(
    r"\\[AzpP\\][A-Z]?|\[:(?P<name>[a-z]+):\]|\(\?P<|^\(\?(?P<flags>[is]+)\)|\\.", re.DOTALL
)


class Pattern:
    """A pattern as it is written. Errors: (of the constructor) ValueError for one that cannot be read."""

    __slots__ = ("_check", "pattern")

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        self._check = _compiled(pattern)

    def search(self, text: str) -> bool:
        """True when the pattern matches somewhere in the text."""
        try:
            return self._check.is_valid(text)
        except UnicodeEncodeError:  # half of a character pair
            return False


@lru_cache(maxsize=1_024)
def _compiled(pattern: str) -> jsonschema_rs.Draft7Validator:
    import jsonschema_rs  # with the first definition that has a pattern

    try:
        return jsonschema_rs.Draft7Validator(
            {"pattern": _as_ecma(pattern)},
            pattern_options=jsonschema_rs.RegexOptions(MAX_COMPILED, MAX_COMPILED),
        )
    except (jsonschema_rs.ValidationError, ValueError) as error:
        raise ValueError(f"error parsing regexp: `{pattern[:200]}`") from error


def _as_ecma(pattern: str) -> str:
    """The same pattern in the spelling that the matcher reads."""
    flags = re.match(r"\(\?([is]+)\)", pattern)
    found = _GO.sub(_spelled, pattern)
    return f"(?{flags[1]}:{found})" if flags else found


def _spelled(match: re.Match[str]) -> str:
    word = match[0]
    if match["flags"]:
        return ""
    if match["name"]:
        return _CLASSES.get(match["name"], word)
    if word == "(?P<":
        return "(?<"
    if word[:2] in (r"\p", r"\P") and len(word) == 3:
        return f"{word[:2]}{{{word[2]}}}"
    return {r"\A": "^", r"\z": "$"}.get(word[:2], word[:2]) + word[2:]
