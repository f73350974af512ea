"""The functions of placeholder pipelines, as one table: `fn:lower()`, `fn:default('x')`, `fn:filter(...)`.

Each takes the values of the stage before it and its resolved arguments (an argument without value is the
empty tuple) and returns new values. Source: Ditto, function library.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias
from urllib.parse import quote_plus, unquote_plus

from gateway.model.glob import glob_matches
from gateway.wire.ditto.bounds import check_pattern, check_size
from gateway.wire.ditto.formatting import formatted, parse_format

Values: TypeAlias = tuple[str, ...]
Arguments: TypeAlias = Sequence[Values]


class Deleted(Exception):
    """The pipeline gave the value up on purpose; later stages do not run."""


@dataclass(frozen=True, slots=True)
class Function:
    """One function: what it does, and how many arguments it takes.

    Shape:  with `check` the arguments are constants, and it raises ValueError for one with no meaning.
    """

    apply: Callable[[Values, Arguments], Values]
    at_least: int
    at_most: int
    signature: str
    check: Callable[[str], object] | None = None


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
    if not old:
        return values
    growth = (len(new) - len(old)) * sum(value.count(old) for value in values)
    check_size(len(values), sum(map(len, values)) + growth)
    return tuple(value.replace(old, new) for value in values)


def _split(values: Values, arguments: Arguments) -> Values:
    """Empty parts at the end are dropped, as in Java."""
    mark = _text(arguments[0])
    return tuple(part for value in values for part in _parts(value, mark))


def _parts(value: str, mark: str) -> list[str]:
    if not mark or mark not in value:
        return [value]
    parts = value.split(mark)
    while parts and not parts[-1]:
        parts.pop()
    return parts


def _join(values: Values, arguments: Arguments) -> Values:
    mark = _text(arguments[0])
    check_size(1, sum(map(len, values)) + len(mark) * len(values))
    return (mark.join(values),) if values else ()


def _format(values: Values, arguments: Arguments) -> Values:
    """What is no JSON object is left out; if nothing is left, the text is empty."""
    return formatted(values, _text(arguments[0])) or (("",) if values else ())


def _delete(_values: Values, _arguments: Arguments) -> Values:
    raise Deleted


def _base64_decode(text: str) -> str | None:
    try:
        return base64.b64decode(text, validate=True).decode()
    except ValueError:  # no base64, no ASCII, or no UTF-8 in it
        return None


def _like(value: str, wanted: str) -> bool:
    """`*` any run, `?` one character, `|` between alternatives, whole text."""
    check_pattern(value, wanted)
    return any(glob_matches(pattern, value) for pattern in wanted.split("|"))


def _exists(value: str, wanted: str) -> bool:
    return bool(value) is (wanted.lower() == "true")


_COMPARISONS: dict[str, Callable[[str, str], bool]] = {
    "eq": lambda value, wanted: value == wanted,
    "ne": lambda value, wanted: value != wanted,
    "like": _like,
    "exists": _exists,
}
_ABSENT: Values = ("",)
"""What has no value is compared as the empty text."""


def _holds(values: Values, operator: str, wanted: Values) -> bool:
    """One value that fits one of the wanted ones is enough."""
    compare = _COMPARISONS.get(operator)
    if compare is None:
        return False
    return any(compare(one, other) for one in values or _ABSENT for other in wanted or _ABSENT)


def _filter(values: Values, arguments: Arguments) -> Values:
    """Keep what was piped in when the condition holds.

    Shape:  `('op','wanted')` judges each piped value itself; `(value,'exists')` and `(value,'op','wanted')`
            judge another one. With nothing piped in, a condition that holds gives that value, or `true`;
            one that does not hold gives nothing, so that `fn:default` may follow.
    """
    first, second = arguments[0], arguments[1]
    if len(arguments) == 2 and _text(second) != "exists":
        return tuple(v for v in values if _holds((v,), _text(first), second))
    wanted = arguments[2] if len(arguments) == 3 else ("true",)
    return (values or first or ("true",)) if _holds(first, _text(second), wanted) else ()


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
    "split": Function(_split, 1, 1, "fn:split('separator')", str),
    "join": Function(_join, 1, 1, "fn:join('separator')", str),
    "format": Function(_format, 1, 1, "fn:format('{field}')", parse_format),
    "delete": Function(_delete, 0, 0, "fn:delete()"),
}
