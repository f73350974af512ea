"""The functions of placeholder pipelines, as one table: `fn:lower()`, `fn:default('x')`, `fn:filter(...)`.

Each takes the values of the stage before it and its resolved arguments (an argument without value is the
empty tuple) and returns new values. Source: Ditto, function library.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias
from urllib.parse import quote_plus, unquote_plus

Values: TypeAlias = tuple[str, ...]
Arguments: TypeAlias = Sequence[Values]


class Deleted(Exception):
    """The pipeline gave the value up on purpose; later stages do not run."""


@dataclass(frozen=True, slots=True)
class Function:
    """One function: what it does, and how many arguments it takes."""

    apply: Callable[[Values, Arguments], Values]
    at_least: int
    at_most: int
    signature: str


def _each(change: Callable[[str], str | None]) -> Callable[[Values, Arguments], Values]:
    def apply(values: Values, _arguments: Arguments) -> Values:
        return tuple(new for new in map(change, values) if new is not None)

    return apply


def _text(argument: Values) -> str:
    return argument[0] if argument else ""


def _default(values: Values, arguments: Arguments) -> Values:
    return values or arguments[0]


def _before(values: Values, arguments: Arguments) -> Values:
    mark = _text(arguments[0])
    return tuple(v.partition(mark)[0] for v in values if mark and mark in v)


def _after(values: Values, arguments: Arguments) -> Values:
    mark = _text(arguments[0])
    return tuple(v.partition(mark)[2] for v in values if mark and mark in v)


def _replace(values: Values, arguments: Arguments) -> Values:
    old, new = _text(arguments[0]), _text(arguments[1])
    return tuple(v.replace(old, new) if old else v for v in values)


def _split(values: Values, arguments: Arguments) -> Values:
    mark = _text(arguments[0])
    return tuple(part for v in values for part in (v.split(mark) if mark else [v]))


def _join(values: Values, arguments: Arguments) -> Values:
    return (_text(arguments[0]).join(values),) if values else ()


def _delete(_values: Values, _arguments: Arguments) -> Values:
    raise Deleted


def _base64_decode(text: str) -> str | None:
    try:
        return base64.b64decode(text, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return None


@lru_cache(maxsize=256)
def _like(pattern: str) -> re.Pattern[str]:
    """`*` any run, `?` one character, `|` between alternatives, whole text."""
    alternatives = (
        "".join({"*": ".*", "?": "."}.get(char, re.escape(char)) for char in part)
        for part in pattern.split("|")
    )
    return re.compile("|".join(alternatives), re.DOTALL)


_COMPARISONS: dict[str, Callable[[str, str], bool]] = {
    "eq": lambda value, wanted: value == wanted,
    "ne": lambda value, wanted: value != wanted,
    "like": lambda value, wanted: _like(wanted).fullmatch(value) is not None,
}


def _compare(value: Values, operator: str, wanted: str) -> bool:
    """`exists` asks for presence; an absent value is unlike everything."""
    if operator == "exists":
        return bool(value) is (wanted != "false")
    if not value:
        return operator == "ne"
    return any(_COMPARISONS[operator](one, wanted) for one in value)


def _filter(values: Values, arguments: Arguments) -> Values:
    """Keep what was piped in when the condition holds.

    Shape:  `('op','wanted')` judges each piped value itself; `(value,'op')` and `(value,'op','wanted')`
            judge another one. With nothing piped in, a condition that holds gives that value, or `true`;
            one that does not hold gives nothing, so that `fn:default` may follow.
    """
    operator = _text(arguments[0])
    if len(arguments) == 2 and operator in _COMPARISONS:
        return tuple(v for v in values if _compare((v,), operator, _text(arguments[1])))
    operator = _text(arguments[1])
    wanted = _text(arguments[2]) if len(arguments) == 3 else "true"
    if operator not in _COMPARISONS and operator != "exists":
        return ()
    holds = _compare(arguments[0], operator, wanted)
    return (values or arguments[0] or ("true",)) if holds else ()


FUNCTIONS: dict[str, Function] = {
    "filter": Function(_filter, 2, 3, "fn:filter(value, 'operator', 'compared')"),
    "default": Function(_default, 1, 1, "fn:default('text')"),
    "substring-before": Function(_before, 1, 1, "fn:substring-before('text')"),
    "substring-after": Function(_after, 1, 1, "fn:substring-after('text')"),
    "lower": Function(_each(str.lower), 0, 0, "fn:lower()"),
    "upper": Function(_each(str.upper), 0, 0, "fn:upper()"),
    "trim": Function(_each(str.strip), 0, 0, "fn:trim()"),
    "url-encode": Function(_each(quote_plus), 0, 0, "fn:url-encode()"),
    "url-decode": Function(_each(unquote_plus), 0, 0, "fn:url-decode()"),
    "base64-encode": Function(
        _each(lambda text: base64.b64encode(text.encode()).decode()), 0, 0, "fn:base64-encode()"
    ),
    "base64-decode": Function(_each(_base64_decode), 0, 0, "fn:base64-decode()"),
    "replace": Function(_replace, 2, 2, "fn:replace('from','to')"),
    "split": Function(_split, 1, 1, "fn:split('separator')"),
    "join": Function(_join, 1, 1, "fn:join('separator')"),
    "delete": Function(_delete, 0, 0, "fn:delete()"),
}
