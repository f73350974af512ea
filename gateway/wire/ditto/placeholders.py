"""Placeholder expressions: `{{ prefix:name | fn:default('x') }}`.

A template is parsed once, when what it stands in is stored, and resolved for every message against a `Scope`.
A value is a tuple of texts (an array expands to several); the empty tuple says "unresolved". Deleting
(`fn:delete()`) ends the pipeline: nothing after it can bring the value back.
Source: Ditto, placeholders and function library.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from gateway.errors import BadRequest
from gateway.wire.ditto.bounds import bounded, bounded_product
from gateway.wire.ditto.functions import FUNCTIONS, Deleted, Function

Values: TypeAlias = tuple[str, ...]
Lookup: TypeAlias = Callable[[str], "str | Sequence[str] | None"]
Scope: TypeAlias = Mapping[str, Lookup]
"""Prefix -> how to find a name below it."""

MAX_STAGES = 10
MAX_TEMPLATE = 8_192

_PLACEHOLDER = re.compile(r"([a-z][a-z-]*):(.+)", re.DOTALL)
_CALL = re.compile(r"fn:([a-z0-9-]+)\s*\((.*)\)", re.DOTALL)

_ENTITY = re.compile("id|namespace|name")
_ID = re.compile("id")
_ANY = re.compile(".+", re.DOTALL)
NAMES: Mapping[str, re.Pattern[str]] = {
    "thing": _ENTITY,
    "policy": _ENTITY,
    "entity": _ENTITY,
    "thing-json": _ANY,
    "feature": _ID,
    "connection": _ID,
    "header": _ANY,
    "topic": re.compile(
        "full|namespace|entityName|entityId|entityType|group|channel|criterion|action|subject|action-subject"
    ),
    "resource": re.compile("type|path"),
    "request": re.compile("subjectId"),
    "source": re.compile("address"),
    "time": re.compile(r"now(_epoch_millis)?([+-]\d{1,9}(ms|mo|[smhdwy]))?(\[(ms|mo|[smhdwy])\])?"),
    "jwt": _ANY,
    "policy-entry": re.compile("label"),
}
"""Every prefix, and the names that it has."""


@dataclass(frozen=True, slots=True)
class Placeholder:
    """`header:device_id`: a name below a prefix."""

    prefix: str
    name: str

    def resolve(self, scope: Scope) -> Values:
        lookup = scope.get(self.prefix)
        found = None if lookup is None else lookup(self.name)
        if found is None:
            return ()
        return (found,) if isinstance(found, str) else tuple(found)


@dataclass(frozen=True, slots=True)
class Literal:
    """`'text'` as an argument of a function."""

    text: str

    def resolve(self, _scope: Scope) -> Values:
        return (self.text,)


Argument: TypeAlias = Placeholder | Literal


@dataclass(frozen=True, slots=True)
class Call:
    """`fn:name(arguments)`, applied to what the stage before it gave."""

    name: str
    arguments: tuple[Argument, ...]

    def apply(self, values: Values, scope: Scope) -> Values:
        arguments = [argument.resolve(scope) for argument in self.arguments]
        return FUNCTIONS[self.name].apply(values, arguments)


@dataclass(frozen=True, slots=True)
class Expression:
    """What stands between the braces: a placeholder or function, then functions."""

    head: Placeholder | Call
    calls: tuple[Call, ...] = ()

    @classmethod
    def parse(cls, text: str, prefixes: frozenset[str] | None = None) -> Expression:
        """Read a pipeline, without the braces; `prefixes` are those that can be resolved at its place.

        Errors: BadRequest `placeholder:function.unknown`, `...signature.invalid`, `...too.complex` or
                `placeholder:unresolved` for what is no placeholder at all, or has another prefix.
        """
        if len(text) > MAX_TEMPLATE:
            raise too_long()
        first, *rest = [part.strip() for part in split_outside_quotes(text, "|")]
        if len(rest) > MAX_STAGES:
            raise BadRequest(
                f"placeholder {text[:200]!r}: at most {MAX_STAGES} functions, got {len(rest)}",
                code="placeholder:function.too.complex",
            )
        head = _call(first) if first.startswith("fn:") else _placeholder(first)
        return _checked(cls(head, tuple(_call(part) for part in rest)), prefixes, text)

    def resolve(self, scope: Scope) -> Values:
        """Return the values, none when unresolved or deleted.

        Errors: BadRequest `placeholder:function.too.complex` for more than `bounds` allows.
        """
        try:
            head = self.head
            values = head.apply((), scope) if isinstance(head, Call) else head.resolve(scope)
            values = bounded(values)
            for call in self.calls:
                values = bounded(call.apply(values, scope))
        except Deleted:
            return ()
        return values

    @property
    def prefixes(self) -> frozenset[str]:
        """Which prefixes it needs."""
        calls = (self.head, *self.calls) if isinstance(self.head, Call) else self.calls
        found = {a.prefix for c in calls for a in c.arguments if isinstance(a, Placeholder)}
        if isinstance(self.head, Placeholder):
            found.add(self.head.prefix)
        return frozenset(found)


@dataclass(frozen=True, slots=True)
class Template:
    """Text with expressions in it, e.g. `command/{{ thing:id }}`."""

    text: str
    parts: tuple[str | Expression, ...]

    @classmethod
    def parse(cls, text: str, prefixes: frozenset[str] | None = None) -> Template:
        """Read a template; `prefixes` are those that can be resolved at its place.

        Errors: as `Expression.parse`; BadRequest `placeholder:unresolved` for another prefix.
        """
        if len(text) > MAX_TEMPLATE:
            raise too_long()
        parts: list[str | Expression] = []
        at = 0
        while (start := text.find("{{", at)) >= 0 and (end := text.find("}}", start)) >= 0:
            parts += [text[at:start]] if start > at else []
            parts.append(Expression.parse(text[start + 2 : end].strip(), prefixes))
            at = end + 2
        parts += [text[at:]] if at < len(text) else []
        return cls(text, tuple(parts))

    def resolve_all(self, scope: Scope) -> Values:
        """Return every text that the template stands for; none when one of its expressions is unresolved.

        Errors: as `Expression.resolve`.
        """
        return bounded_product(
            [(part,) if isinstance(part, str) else part.resolve(scope) for part in self.parts]
        )

    def resolve(self, scope: Scope) -> str | None:
        """Return the first of `resolve_all`, or None; errors as there."""
        texts: list[str] = []
        for part in self.parts:
            values = (part,) if isinstance(part, str) else part.resolve(scope)
            if not values:
                return None
            texts.append(values[0])
        return bounded(("".join(texts),))[0]


def too_long() -> BadRequest:
    """400 for a template that nobody writes by hand."""
    return BadRequest(
        f"A template with placeholders has at most {MAX_TEMPLATE} characters.",
        code="placeholder:function.too.complex",
    )


def _checked(expression: Expression, prefixes: frozenset[str] | None, text: str) -> Expression:
    unknown = expression.prefixes - prefixes if prefixes is not None else frozenset()
    if unknown:
        raise BadRequest(
            f"The placeholder {sorted(unknown)[0]!r} in {text[:200]!r} could not be resolved.",
            description=f"Prefixes known here: {', '.join(sorted(prefixes or ()))}.",
            code="placeholder:unresolved",
        )
    return expression


def _placeholder(text: str) -> Placeholder:
    match = _PLACEHOLDER.fullmatch(text)
    names = NAMES.get(match[1]) if match else None
    if match is None or names is None or names.fullmatch(match[2].strip()) is None:
        raise BadRequest(
            f"The placeholder {text[:200]!r} could not be resolved.",
            description=f"It is prefix:name, with a prefix of {', '.join(sorted(NAMES))}.",
            code="placeholder:unresolved",
        )
    return Placeholder(match[1], match[2].strip())


def _call(text: str) -> Call:
    match = _CALL.fullmatch(text)
    function = FUNCTIONS.get(match[1]) if match else None
    if match is None or function is None:
        raise BadRequest(
            f"The function {text[:200]!r} is unknown.",
            description=f"Known functions: {', '.join(sorted(FUNCTIONS))}.",
            code="placeholder:function.unknown",
        )
    raw = [part.strip() for part in split_outside_quotes(match[2], ",")] if match[2].strip() else []
    if not function.at_least <= len(raw) <= function.at_most:
        raise _bad_signature(function, text)
    call = Call(match[1], tuple(_argument(part) for part in raw))
    for argument in call.arguments if function.check else ():
        _check_constant(function, argument, text)
    return call


def _check_constant(function: Function, argument: Argument, text: str) -> None:
    if not isinstance(argument, Literal) or function.check is None:
        raise _bad_signature(function, text, "its argument is a constant in quotes")
    try:
        function.check(argument.text)
    except ValueError as error:
        raise _bad_signature(function, text, str(error)) from error


def _bad_signature(function: Function, text: str, reason: str | None = None) -> BadRequest:
    return BadRequest(
        f"The function {text[:200]!r} is not called right: expected {function.signature}.",
        description=reason,
        code="placeholder:function.signature.invalid",
    )


def _argument(text: str) -> Argument:
    if len(text) >= 2 and text[0] in "'\"" and text[-1] == text[0]:
        return Literal(text[1:-1])
    return _placeholder(text)


def split_outside_quotes(text: str, separator: str) -> list[str]:
    """Split at each separator that stands outside of single or double quotes.

    Shape:  a quote after a backslash ends no constant; the backslash stays in it, as in Ditto.
    """
    parts, start, quote = [], 0, ""
    for at, char in enumerate(text):
        if quote:
            quote = "" if char == quote and text[at - 1] != "\\" else quote
        elif char in "'\"":
            quote = char
        elif char == separator:
            parts.append(text[start:at])
            start = at + 1
    parts.append(text[start:])
    return parts
