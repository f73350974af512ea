"""Label and field selectors, parsed once into values that match.

Grammar: `a=b`, `a==b`, `a!=b`, `a`, `!a`, `a in (x,y)`, `a notin (x,y)`, `a > 1`, `a < 1`, joined by commas;
field selectors know `=`, `==` and `!=` only. Source: Kubernetes API conventions, "Labels and selectors".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from gateway.errors import BadRequest
from gateway.model.json import Json, JsonObject
from gateway.wire.kube.names import label_value_fault, qualified_fault

MAX_SELECTOR = 16_384

_TOKEN = re.compile(r"\s*(==|!=|[=!(),<>]|[^\s=!(),<>]+)")


@dataclass(frozen=True, slots=True)
class Requirement:
    """One term: `operator` is `=`, `in`, `notin`, `exists`, `absent`, `gt` or `lt`."""

    key: str
    operator: str
    values: frozenset[str] = frozenset()

    def matches(self, labels: Mapping[str, Json]) -> bool:
        value = labels.get(self.key)
        match self.operator:
            case "in" | "=":
                return value in self.values
            case "notin":
                return value not in self.values
            case "exists":
                return self.key in labels
            case "absent":
                return self.key not in labels
        return self._compares(value)

    def _compares(self, value: Json) -> bool:
        (bound,) = self.values
        try:
            number = int(str(value)) if value is not None else None
        except ValueError:
            return False
        if number is None:
            return False
        return number > int(bound) if self.operator == "gt" else number < int(bound)


@dataclass(frozen=True, slots=True)
class LabelSelector:
    """All terms must hold; no terms match everything."""

    terms: tuple[Requirement, ...] = ()

    def matches(self, item: JsonObject) -> bool:
        if not self.terms:
            return True
        metadata = item.get("metadata")
        labels = metadata.get("labels") if isinstance(metadata, dict) else None
        table = labels if isinstance(labels, dict) else {}
        return all(term.matches(table) for term in self.terms)


EVERY_LABEL = LabelSelector()

_WORDS = {"In": "in", "NotIn": "notin", "Exists": "exists", "DoesNotExist": "absent"}


def read_selector(selector: JsonObject) -> LabelSelector:
    """Read a selector as objects have it (`matchLabels`, `matchExpressions`); an empty one takes all.

    A term with an operator that is not known matches nothing: validation has refused it before.
    """
    labels, expressions = selector.get("matchLabels"), selector.get("matchExpressions")
    terms = [
        Requirement(key, "=", frozenset({str(value)}))
        for key, value in (labels if isinstance(labels, dict) else {}).items()
    ]
    for entry in expressions if isinstance(expressions, list) else []:
        term = entry if isinstance(entry, dict) else {}
        values = term.get("values")
        operator = _WORDS.get(str(term.get("operator")), "in")
        held = frozenset(str(value) for value in (values if isinstance(values, list) else []))
        terms.append(Requirement(str(term.get("key")), operator, held))
    return LabelSelector(tuple(terms))


def selector_text(selector: LabelSelector) -> str:
    """Write a selector as lists take it, its terms by key."""
    return ",".join(_term_text(term) for term in sorted(selector.terms, key=lambda term: term.key))


def _term_text(term: Requirement) -> str:
    values = ",".join(sorted(term.values))
    match term.operator:
        case "=":
            return f"{term.key}={values}"
        case "exists":
            return term.key
        case "absent":
            return f"!{term.key}"
    return f"{term.key} {term.operator} ({values})"


def parse_labels(text: str | None) -> LabelSelector:
    """Read a label selector.

    Errors: BadRequest, naming what was expected and what came.
    """
    if not text or not text.strip():
        return EVERY_LABEL
    if len(text) > MAX_SELECTOR:
        raise BadRequest(f"label selector: at most {MAX_SELECTOR} characters, got {len(text)}")
    reader = _Reader(text)
    terms = [reader.term()]
    while reader.peek() == ",":
        reader.next()
        terms.append(reader.term())
    if reader.peek():
        raise BadRequest(f"found '{reader.peek()}', expected: ',' or 'end of string'")
    return LabelSelector(tuple(terms))


_OPERATORS = {"=": "in", "==": "in", "!=": "notin", ">": "gt", "<": "lt"}


_MARKS = ("", "!", "=", "==", "!=", ">", "<", "(", ")", ",")


class _Reader:
    """Walks the tokens of one selector."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens = _TOKEN.findall(text)
        self.at = 0

    def peek(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def next(self) -> str:
        token = self.peek()
        self.at += 1
        return token

    def fault(self, wanted: str) -> BadRequest:
        return BadRequest(f"unable to parse requirement: found '{self.peek()}', expected: {wanted}")

    def term(self) -> Requirement:
        if self.peek() == "!":
            self.next()
            return Requirement(self.key(), "absent")
        key = self.key()
        mark = self.peek()
        if mark in ("", ","):
            return Requirement(key, "exists")
        self.next()
        if mark in _OPERATORS:
            return self.compared(key, _OPERATORS[mark])
        if mark in ("in", "notin"):
            return Requirement(key, mark, self.values())
        self.at -= 1
        raise self.fault("in, notin, =, ==, !=, gt, lt")

    def compared(self, key: str, operator: str) -> Requirement:
        value = "" if self.peek() in ("", ",") else self.value()
        if operator in ("gt", "lt") and not re.fullmatch(r"-?\d+", value):
            raise BadRequest(
                f'unable to parse requirement: values[0]: Invalid value: "{value}":'
                " for 'Gt', 'Lt' operators, the value must be an integer"
            )
        return Requirement(key, operator, frozenset((value,)))

    def key(self) -> str:
        if self.peek() in _MARKS:
            raise self.fault("identifier")
        token = self.next()
        why = qualified_fault(token)
        if why:
            raise BadRequest(f'unable to parse requirement: <nil>: Invalid value: "{token}": {why}')
        return token

    def value(self) -> str:
        token = self.next()
        why = label_value_fault(token)
        if why:
            raise BadRequest(
                f'unable to parse requirement: values[0][]: Invalid value: "{token}": {why}'
            )
        return token

    def values(self) -> frozenset[str]:
        if self.next() != "(":
            self.at -= 1
            raise self.fault("'('")
        found = set()
        while True:
            if not self.peek():
                raise self.fault("',', ')' or identifier")
            found.add("" if self.peek() in (",", ")") else self.value())
            mark = self.next()
            if mark == ")":
                return frozenset(found)
            if mark != ",":
                self.at -= 1
                raise self.fault("',' or ')'")


@dataclass(frozen=True, slots=True)
class FieldTerm:
    path: str
    value: str
    is_equal: bool


@dataclass(frozen=True, slots=True)
class FieldSelector:
    """All terms must hold; a missing field counts as empty text."""

    terms: tuple[FieldTerm, ...] = ()
    paths: Mapping[str, tuple[str, ...]] | None = None

    def matches(self, item: JsonObject) -> bool:
        return all(
            (self._value(item, term.path) == term.value) is term.is_equal for term in self.terms
        )

    def _value(self, item: JsonObject, path: str) -> str:
        steps = (self.paths or {}).get(path) or tuple(path.split("."))
        return field_text(item, steps)

    @property
    def name(self) -> str | None:
        """The one name that can match, when the selector pins it."""
        return next(
            (term.value for term in self.terms if term.path == "metadata.name" and term.is_equal),
            None,
        )


ABSENT_AS = "="


def field_text(item: Json, steps: tuple[str, ...]) -> str:
    """The value at a path as text; booleans as `true` and `false`.

    Shape:  absent is empty, or what a last step `=text` says: `("spec", "unschedulable", "=false")`.
    """
    absent = ""
    for step in steps:
        if step.startswith(ABSENT_AS):
            absent = step[len(ABSENT_AS) :]
            break
        item = item.get(step) if isinstance(item, dict) else None
    if isinstance(item, bool):
        return "true" if item else "false"
    return absent if item is None or isinstance(item, (dict, list)) else str(item)


EVERY_FIELD = FieldSelector()

_COMMON_FIELDS = ("metadata.name", "metadata.namespace")


def parse_fields(
    text: str | None,
    known: Mapping[str, tuple[str, ...]] | None = None,
    *,
    any_field: bool = False,
) -> FieldSelector:
    """Read a field selector.

    Shape:  `known` maps the labels that this kind supports, beside name and namespace, to their paths;
            `any_field` takes others too, for who reads the terms before the kind is known.
    Errors: BadRequest for bad syntax and for a field that cannot be selected.
    """
    if not text or not text.strip():
        return EVERY_FIELD
    if len(text) > MAX_SELECTOR:
        raise BadRequest(f"field selector: at most {MAX_SELECTOR} characters, got {len(text)}")
    terms = [_field_term(part, text) for part in _split_escaped(text) if part]
    for term in () if any_field else terms:
        if term.path not in _COMMON_FIELDS and term.path not in (known or {}):
            raise BadRequest(_unknown_field(term.path, known))
    return FieldSelector(tuple(terms), known)


def _unknown_field(path: str, known: Mapping[str, tuple[str, ...]] | None) -> str:
    if known is not None:
        return f"field label not supported: {path}"
    return f'"{path}" is not a known field selector: only "metadata.name", "metadata.namespace"'


def _field_term(part: str, text: str) -> FieldTerm:
    for mark in ("!=", "==", "="):
        path, found, value = part.partition(mark)
        if found:
            return FieldTerm(path.strip(), _unescaped(value), mark != "!=")
    raise BadRequest(f"invalid selector: '{text}'; can't understand '{part}'")


def _split_escaped(text: str) -> list[str]:
    return [part.strip() for part in re.split(r"(?<!\\),", text)]


def _unescaped(value: str) -> str:
    return re.sub(r"\\([\\,=])", r"\1", value)
