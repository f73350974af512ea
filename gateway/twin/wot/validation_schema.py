"""Values against data schemas: compiled once per affordance, checked in bounded time.

A data schema is JSON Schema draft 7 with members of WoT's own. Only its assertions are compiled: there are
no references, so nothing is ever fetched; an assertion whose value has a placeholder (`{{MAX}}`) asserts
nothing. Patterns run on an engine that is linear, or gives up: then the value does not match. The library is
loaded with the first schema. Source: W3C WoT Thing Description 1.1, 5.3.2 (data schema).
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Final, TypeAlias

from gateway.errors import GatewayError
from gateway.model.json import Json, JsonObject, Pointer
from gateway.twin.ditto_errors import ditto_error

if TYPE_CHECKING:
    import jsonschema_rs

Schema: TypeAlias = Mapping[str, Json]
_Key: TypeAlias = tuple[str, str, bool]

MAX_COMPILED: Final = 4_096
MAX_FINDINGS: Final = 20
MAX_TEXT: Final = 300
MAX_PATTERN: Final = 1_000
MAX_EFFORT: Final = 8_000_000
"""Pairs of a schema's and a value's parts in one decision, some 0.1 microseconds each at worst."""
MAX_LISTED: Final = 5_000
"""Such pairs of one value, above which only its first fault is told: listing costs far more than judging."""
_PER_CHARACTER: Final = 60
"""What a pattern costs for each character, at worst."""
_PER_NODE: Final = 100
"""What compiling costs for each part of a schema."""
_PER_PATTERN: Final = 25_000
_BACKTRACKS: Final = 10_000
_PATTERN_BYTES: Final = 1_048_576
_MASK: Final = "the value"

_PLACEHOLDER = re.compile(r"\{\{[^{}]*\}\}")
_PLAIN: Final = frozenset(
    (
        "type",
        "enum",
        "const",
        "multipleOf",
        "minimum",
        "maximum",
        "exclusiveMinimum",
        "exclusiveMaximum",
        "minLength",
        "maxLength",
        "pattern",
        "format",
        "minItems",
        "maxItems",
        "uniqueItems",
        "minProperties",
        "maxProperties",
        "required",
    )
)
"""Assertions whose value holds no schema."""
_ONE: Final = frozenset(
    (
        "not",
        "if",
        "then",
        "else",
        "contains",
        "propertyNames",
        "additionalItems",
        "additionalProperties",
        "items",
    )
)
_MANY: Final = frozenset(("oneOf", "anyOf", "allOf", "items"))
_NAMED: Final = frozenset(("properties", "patternProperties", "dependencies"))
_PATTERNS: Final = frozenset(("pattern", "patternProperties", "format"))
_BELOW_DATA: Final = frozenset(("properties", "items"))
"""Where `required` may be left out: a part of a value is checked, not the whole."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What is wrong with a value, and where in it."""

    at: Pointer
    keyword: str
    text: str


@dataclass(frozen=True, slots=True)
class _Compiled:
    source: Schema
    check: jsonschema_rs.Draft7Validator
    nodes: int
    patterns: int


class Schemas:
    """Compiled schemas of affordances; the least recently used one goes when there are too many."""

    def __init__(self, size: int = MAX_COMPILED) -> None:
        self._size = size
        self._compiled: OrderedDict[_Key, _Compiled] = OrderedDict()

    def __len__(self) -> int:
        return len(self._compiled)

    def checker(self) -> Checker:
        """For the values of one decision."""
        return Checker(self)

    def compiled(self, key: _Key, schema: Schema, spend: Callable[[int], None]) -> _Compiled:
        """The schema of an affordance, ready for use; `spend` is told what compiling costs.

        Errors: BadRequest `wot:tm.invalid` for what is no schema; what `spend` raises.
        """
        known = self._compiled.get(key)
        if known is None or known.source is not schema:
            known = self._compiled[key] = _made(key, schema, spend)
        self._compiled.move_to_end(key)
        if len(self._compiled) > self._size:
            self._compiled.popitem(last=False)
        return known


class Checker:
    """Checks the values of one decision: all of them together within a bound of effort.

    Schemas come from anywhere, and a small schema and a small value can make much work of each other.
    """

    def __init__(self, schemas: Schemas) -> None:
        self._schemas = schemas
        self._left = MAX_EFFORT

    def findings(
        self, where: tuple[str, str], schema: Schema, value: Json, *, whole: bool = True
    ) -> list[Finding]:
        """What is wrong with a value, nothing where it is valid.

        Shape:  `where` is the model's URL and the path of the affordance; not `whole`: members that are
                missing are no fault. Of a large value only the first fault.
        Errors: BadRequest `wot:tm.invalid` for what is no schema, `wot:validation.error` where it would take
                too long.
        """
        compiled = self._schemas.compiled((*where, whole), schema, self._spend)
        nodes, characters = _size_of(value)
        pairs = compiled.nodes * nodes
        self._spend(pairs + compiled.patterns * characters * _PER_CHARACTER)
        try:
            if compiled.check.is_valid(value):
                return []
        except UnicodeEncodeError:
            return [Finding((), "type", f"{_MASK} holds what is no Unicode text")]
        if pairs > MAX_LISTED:
            return [_first(compiled.check, value)]
        errors = islice(compiled.check.iter_errors(value), MAX_FINDINGS)
        return [_finding(error) for error in errors]

    def _spend(self, effort: int) -> None:
        self._left -= effort
        if self._left < 0:
            raise ditto_error("wot:validation.error", reason="it would take too long")


def _made(key: _Key, schema: Schema, spend: Callable[[int], None]) -> _Compiled:
    url, affordance, whole = key
    kept = assertions(schema, whole=whole)
    nodes, patterns = _cost_of(kept)
    spend(nodes * _PER_NODE + patterns * _PER_PATTERN)
    return _Compiled(schema, _compile(url, affordance, kept), nodes, patterns)


def _cost_of(schema: Json) -> tuple[int, int]:
    """How many JSON values a schema has, and how many patterns."""
    if not isinstance(schema, dict):
        below = [_cost_of(one) for one in schema] if isinstance(schema, list) else []
        return 1 + sum(one[0] for one in below), sum(one[1] for one in below)
    nodes, patterns = 1, 0
    for name, value in schema.items():
        more = _cost_of(value)
        nodes, patterns = nodes + more[0], patterns + more[1]
        if name in _PATTERNS:
            patterns += len(value) if isinstance(value, dict) else 1
    return nodes, patterns


def _size_of(value: Json) -> tuple[int, int]:
    """How many JSON values a value has, and how many characters are in its texts and keys."""
    if isinstance(value, str):
        return 1, len(value) + 1
    if isinstance(value, dict):
        below = [_size_of(one) for one in value.values()]
        keys = sum(len(key) + 1 for key in value)
        return 1 + sum(one[0] for one in below), keys + sum(one[1] for one in below)
    if isinstance(value, list):
        below = [_size_of(one) for one in value]
        return 1 + sum(one[0] for one in below), sum(one[1] for one in below)
    return 1, 0


def _first(check: jsonschema_rs.Draft7Validator, value: Json) -> Finding:
    import jsonschema_rs

    try:
        check.validate(value)
    except jsonschema_rs.ValidationError as error:
        return _finding(error)
    return Finding((), "schema", f"{_MASK} does not fit")


def _finding(error: jsonschema_rs.ValidationError) -> Finding:
    keyword = str(error.schema_path[-1]) if error.schema_path else "schema"
    path = tuple(str(part) for part in error.instance_path)
    return Finding(path, keyword, error.message[:MAX_TEXT])


def assertions(schema: Schema, *, whole: bool = True) -> JsonObject:
    """A data schema reduced to what it asserts; not `whole`: without `required` down to each member."""
    kept: JsonObject = {}
    for name, value in schema.items():
        if name == "required" and not whole:
            continue
        if name in _PLAIN:
            if not _is_open(value):
                kept[name] = value
            continue
        below = _below(name, value, whole or name not in _BELOW_DATA)
        if below is not None:
            kept[name] = below
    return kept


def _below(name: str, value: Json, whole: bool) -> Json:
    if isinstance(value, bool) and name in _ONE:
        return value
    if name in _ONE and isinstance(value, dict):
        return assertions(value, whole=whole)
    if name in _MANY and isinstance(value, list):
        return [_reduced(one, whole) for one in value]
    if name in _NAMED and isinstance(value, dict):
        return {key: _reduced(one, whole) for key, one in value.items()}
    return None


def _reduced(value: Json, whole: bool) -> Json:
    return assertions(value, whole=whole) if isinstance(value, dict) else value


def _is_open(value: Json) -> bool:
    """True for a text, or one of several, that has a placeholder in it."""
    texts = value if isinstance(value, list) else [value]
    return any(isinstance(text, str) and _PLACEHOLDER.search(text) for text in texts)


def _compile(url: str, affordance: str, schema: JsonObject) -> jsonschema_rs.Draft7Validator:
    import jsonschema_rs

    try:
        return jsonschema_rs.Draft7Validator(
            schema,
            validate_formats=True,
            retriever=_nothing,
            mask=_MASK,
            pattern_options=jsonschema_rs.FancyRegexOptions(_BACKTRACKS, _PATTERN_BYTES),
        )
    except (jsonschema_rs.ValidationError, ValueError) as error:
        raise _no_schema(url, affordance, error) from error


def _nothing(uri: str) -> Json:
    raise LookupError(f"no schema is fetched: {uri[:100]}")


def _no_schema(url: str, affordance: str, error: Exception) -> GatewayError:
    text = str(error).partition("\n")[0][:MAX_TEXT]
    return ditto_error(
        "wot:tm.invalid", url=url[:300], reason=f"'{affordance}' is no data schema: {text}"
    )


def texts_of(findings: Sequence[Finding]) -> list[str]:
    """Findings as Ditto shows them: `/r: {maximum=...}`, one text for each place in the value."""
    places: dict[Pointer, list[str]] = {}
    for finding in findings:
        places.setdefault(finding.at, []).append(f"{finding.keyword}={finding.text}")
    return [
        f"{''.join('/' + part for part in at)}: {{{', '.join(errors)}}}"
        for at, errors in places.items()
    ]


def subschema(schema: Schema, path: Pointer) -> Schema | None:
    """The schema of a member of an object, None where the schema says nothing of it."""
    for name in path:
        properties = schema.get("properties")
        below = properties.get(name) if isinstance(properties, dict) else None
        if not isinstance(below, dict):
            return None
        schema = below
    return schema


# --- patterns of operators ---------------------------------------------------------------------

Matcher: TypeAlias = Callable[[str], bool]


def matcher(pattern: str) -> Matcher:
    """Whether a text matches a regular expression as a whole; in bounded time.

    Errors: ValueError, with a text.
    """
    import jsonschema_rs

    if len(pattern) > MAX_PATTERN:
        raise ValueError(f"a pattern has at most {MAX_PATTERN} characters")
    try:
        check = jsonschema_rs.Draft7Validator(
            {"pattern": f"^(?:{pattern})$"},
            pattern_options=jsonschema_rs.FancyRegexOptions(_BACKTRACKS, _PATTERN_BYTES),
        )
    except (jsonschema_rs.ValidationError, ValueError) as error:
        raise ValueError(f"'{pattern[:100]}' is no regular expression") from error

    def matches(text: str) -> bool:
        try:
            return check.is_valid(text)
        except UnicodeEncodeError:  # a header of bytes that are no text
            return False

    return matches
