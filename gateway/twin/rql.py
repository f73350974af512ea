"""RQL: Ditto's query language, read once into a tree of values. Back ends are elsewhere.

`and or not`, `eq ne gt ge lt le`, `like ilike`, `in`, `exists`, `empty`, and `time:` placeholders as values.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, TypeAlias

from gateway.errors import GatewayError
from gateway.model.json import Json, Pointer, parse_pointer
from gateway.twin.ditto_errors import ditto_error

MAX_CHARACTERS = 65_536
MAX_DEPTH = 40
MAX_COMPARISONS = 1_000
MAX_VALUES = 10_000
"""Values that all comparisons of a filter have together."""
MAX_PATTERN = 4_096
MAX_DIGITS = 400

LOGICAL: Final = frozenset(("and", "or", "not"))
COMPARISONS: Final = frozenset(("eq", "ne", "gt", "ge", "lt", "le"))
PATTERNS: Final = frozenset(("like", "ilike"))
TESTS: Final = frozenset(("exists", "empty"))

PLACEHOLDERS: Final = (
    "topic:",
    "resource:",
    "header:",
    "entity:",
    "thing:",
    "feature:",
    "policy:",
    "connection:",
    "time:",
)
"""Prefixes of properties that are not read from the document."""

SEARCH_ROOTS: Final = frozenset(
    (
        "thingId",
        "namespace",
        "policyId",
        "definition",
        "_namespace",
        "_revision",
        "_created",
        "_modified",
        "_metadata",
        "attributes",
        "features",
    )
)


@dataclass(frozen=True, slots=True)
class Property:
    """What is compared: a pointer into the document, or a placeholder (then `pointer` is empty)."""

    text: str
    pointer: Pointer

    @property
    def is_placeholder(self) -> bool:
        return not self.pointer


@dataclass(frozen=True, slots=True)
class TimeValue:
    """`time:now` and its arithmetic: shifted by `amount` of `unit`, then cut to `truncate`."""

    is_millis: bool = False
    amount: int = 0
    unit: str = "s"
    truncate: str | None = None


Literal: TypeAlias = "str | int | float | bool | TimeValue | None"


@dataclass(frozen=True, slots=True)
class Logical:
    """`and`, `or` (one or more operands), `not` (one)."""

    op: str
    operands: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """`eq ne gt ge lt le like ilike in` (`in` has several values) and `exists empty` (none)."""

    op: str
    property: Property
    values: tuple[Literal, ...] = ()


Node: TypeAlias = Logical | Comparison

_NAME = re.compile(r"\s*([a-z]+)\s*\(")
_PROPERTY = re.compile(r"[^,)\"\\]+")
_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?")
_TIME = re.compile(
    r"time:(now_epoch_millis|now)(?:([+-])([0-9]{1,9})(ms|mo|[smhdwy]))?(?:\[(ms|mo|[smhdwy])\])?"
)
_WORDS: Final[dict[str, Json]] = {"true": True, "false": False, "null": None}
_ESCAPES: Final = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f"}


def parse(text: str) -> Node:
    """Read a filter.

    Errors: BadRequest `rql.expression.invalid`, saying what was expected at which position.
    """
    if len(text) > MAX_CHARACTERS:
        raise too_large(f"longer than {MAX_CHARACTERS} characters")
    if not _is_unicode(text):
        raise ditto_error("rql.expression.invalid", reason="not encoded as UTF-8")
    return _Parser(text).whole()


def too_large(reason: str) -> GatewayError:
    """The refusal of a filter that would take too much time or memory."""
    return ditto_error("rql.expression.invalid", reason=reason)


def _is_unicode(text: str) -> bool:
    """Half a pair of surrogates can only be escaped."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def comparisons(node: Node) -> Iterator[Comparison]:
    """All comparisons of a tree."""
    if isinstance(node, Comparison):
        yield node
        return
    for operand in node.operands:
        yield from comparisons(operand)


def properties(node: Node) -> tuple[Property, ...]:
    """All properties that a tree names."""
    return tuple(comparison.property for comparison in comparisons(node))


def require_roots(node: Node, roots: frozenset[str]) -> None:
    """Refuse properties with other roots.

    Errors: BadRequest `rql.expression.invalid`.
    """
    for found in properties(node):
        if found.is_placeholder or found.pointer[0] not in roots:
            raise ditto_error(
                "rql.expression.invalid", reason=f"the property '{found.text}' is unknown"
            )


def joined(filters: list[str]) -> str | None:
    """Several filters as one, None for none."""
    if not filters:
        return None
    return filters[0] if len(filters) == 1 else f"and({','.join(filters)})"


class _Parser:
    """Recursive descent; `_at` is where the next character is read."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._comparisons = 0
        self._values = 0

    def whole(self) -> Node:
        node = self._query(0)
        self._blanks()
        if self._at != len(self._text):
            raise self._fault("the end")
        return node

    def _query(self, depth: int) -> Node:
        match = _NAME.match(self._text, self._at)
        if match is None:
            raise self._fault("an operator such as eq(")
        if depth > MAX_DEPTH:
            raise too_large(f"nested deeper than {MAX_DEPTH}")
        name = match.group(1)
        if name in LOGICAL:
            self._at = match.end()
            return self._logical(name, depth)
        if name in COMPARISONS or name in PATTERNS or name in TESTS or name == "in":
            self._at = match.end()
            return self._comparison(name)
        raise self._fault("an operator such as eq(")

    def _logical(self, name: str, depth: int) -> Logical:
        operands = [self._query(depth + 1)]
        while self._took(","):
            operands.append(self._query(depth + 1))
        if name == "not" and len(operands) != 1:
            raise self._fault("one operand of 'not'")
        self._expect(")")
        return Logical(name, tuple(operands))

    def _comparison(self, name: str) -> Comparison:
        self._comparisons += 1
        if self._comparisons > MAX_COMPARISONS:
            raise too_large(f"more than {MAX_COMPARISONS} comparisons")
        found = self._property()
        values: list[Literal] = []
        while name not in TESTS and self._took(","):
            values.append(self._value())
        self._values += len(values)
        if self._values > MAX_VALUES:
            raise too_large(f"more than {MAX_VALUES} values")
        self._check_values(name, values)
        self._expect(")")
        return Comparison(name, found, tuple(values))

    def _check_values(self, name: str, values: list[Literal]) -> None:
        if name not in TESTS and not values:
            raise self._fault("',' and a value")
        if name != "in" and len(values) > 1:
            raise self._fault(f"one value of '{name}'")
        if name in PATTERNS and not isinstance(values[0], str):
            raise self._fault(f"a string as the value of '{name}'")
        if name in PATTERNS and len(str(values[0])) > MAX_PATTERN:
            raise too_large(f"a pattern of more than {MAX_PATTERN} characters")

    def _property(self) -> Property:
        match = _PROPERTY.match(self._text, self._at)
        if match is None or not match.group().strip():
            raise self._fault("a property")
        self._at = match.end()
        text = match.group().strip()
        if text.startswith(PLACEHOLDERS):
            return Property(text, ())
        pointer = parse_pointer(text)
        if not pointer:
            raise self._fault("a property")
        return Property(text, pointer)

    def _value(self) -> Literal:
        self._blanks()
        quote = self._text[self._at : self._at + 1]
        if quote and quote in "\"'":
            return self._string(quote)
        for pattern, read in _LITERALS:
            match = pattern.match(self._text, self._at)
            if match is not None:
                self._at = match.end()
                return read(match)
        raise self._fault("a value")

    def _string(self, quote: str) -> str:
        start = self._at
        self._at += 1
        out: list[str] = []
        while self._at < len(self._text):
            character = self._text[self._at]
            self._at += 1
            if character == quote:
                return "".join(out)
            if character == "\\" and self._at < len(self._text):
                character = self._escaped()
            out.append(character)
        self._at = start
        raise self._fault(f"a closing {quote}")

    def _escaped(self) -> str:
        character = self._text[self._at]
        self._at += 1
        if character == "u" and re.fullmatch("[0-9a-fA-F]{4}", self._text[self._at : self._at + 4]):
            self._at += 4
            return chr(int(self._text[self._at - 4 : self._at], 16))
        return _ESCAPES.get(character, character)

    def _blanks(self) -> None:
        while self._text[self._at : self._at + 1].isspace():
            self._at += 1

    def _took(self, character: str) -> bool:
        self._blanks()
        if self._text[self._at : self._at + 1] != character:
            return False
        self._at += 1
        return True

    def _expect(self, character: str) -> None:
        if not self._took(character):
            raise self._fault(f"'{character}'")

    def _fault(self, expected: str) -> GatewayError:
        found = self._text[self._at : self._at + 20] or "the end"
        return ditto_error(
            "rql.expression.invalid",
            reason=f"expected {expected} at position {self._at}, got '{found}'",
        )


def _number(match: re.Match[str]) -> Literal:
    if len(match.group()) > MAX_DIGITS:
        raise too_large(f"a number of more than {MAX_DIGITS} digits")
    return float(match.group()) if match.group(1) else int(match.group())


def _time(match: re.Match[str]) -> Literal:
    which, sign, amount, unit, truncate = match.groups()
    shift = int(amount or 0) * (-1 if sign == "-" else 1)
    return TimeValue(which != "now", shift, unit or "s", truncate)


def _word(match: re.Match[str]) -> Literal:
    return _WORDS[match.group()]  # type: ignore[return-value]


_LITERALS: Final = (
    (_NUMBER, _number),
    (re.compile(r"true|false|null"), _word),
    (_TIME, _time),
)
