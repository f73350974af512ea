"""Exceptions to the switches of validation: sections that hold where their patterns fit.

A section has patterns of headers, of thing definitions and of feature definitions; each kind that it has must
fit. Of one kind one pattern is enough; of a mapping of headers all must match. Patterns match whole texts. Of
sections that fit, later ones win. Source: Ditto, WoT validation config.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from gateway.model.json import Json, JsonObject
from gateway.twin.wot.validation import Definitions
from gateway.twin.wot.validation_rules import (
    Rules,
    checked_switches,
    invalid_config,
    merged_switches,
    with_switches,
)
from gateway.twin.wot.validation_schema import Matcher, matcher

MAX_SECTIONS: Final = 100
MAX_PATTERNS: Final = 100
MAX_SCOPE: Final = 200
_CONTEXT: Final = ("validation-context", "validationContext")
_OVERRIDES: Final = ("config-overrides", "configOverrides")
_SCOPE: Final = ("scope-id", "scopeId")
_HEADERS: Final = "ditto-headers-patterns"
_THINGS: Final = "thing-definition-patterns"
_FEATURES: Final = "feature-definition-patterns"
_KINDS: Final = (_HEADERS, _THINGS, _FEATURES)

HeaderOf: TypeAlias = Callable[[str], "str | None"]
"""The value of a header as text, None where it is not there."""


@dataclass(frozen=True, slots=True)
class Section:
    """One exception.

    Shape:  `document` is its JSON as it is shown.
    """

    scope_id: str
    document: JsonObject
    overrides: JsonObject
    headers: tuple[Mapping[str, Matcher], ...] = ()
    things: tuple[Matcher, ...] = ()
    features: tuple[Matcher, ...] = ()

    def fits(self, header_of: HeaderOf, definitions: Definitions) -> bool:
        """True where the section holds."""
        return (
            _one(self.things, definitions.thing)
            and _one(self.features, definitions.feature)
            and (not self.headers or any(_all(one, header_of) for one in self.headers))
        )


def _one(patterns: Sequence[Matcher], text: str | None) -> bool:
    return not patterns or (text is not None and any(matches(text) for matches in patterns))


def _all(patterns: Mapping[str, Matcher], header_of: HeaderOf) -> bool:
    for name, matches in patterns.items():
        value = header_of(name)
        if value is None or not matches(value):
            return False
    return True


@dataclass(frozen=True, slots=True)
class RuleBook:
    """The switches, and the sections that change them for some."""

    rules: Rules
    sections: tuple[Section, ...] = ()
    _known: dict[tuple[int, ...], Rules] = field(default_factory=dict)

    def rules_for(self, header_of: HeaderOf, definitions: Definitions) -> Rules:
        """The switches as they hold for one command or message."""
        if not self.sections:
            return self.rules
        fitting = tuple(
            at for at, section in enumerate(self.sections) if section.fits(header_of, definitions)
        )
        return self._with(fitting) if fitting else self.rules

    def _with(self, fitting: tuple[int, ...]) -> Rules:
        known = self._known.get(fitting)
        if known is None:
            if len(self._known) >= MAX_SECTIONS:
                self._known.clear()
            switches: JsonObject = {}
            for at in fitting:
                switches = merged_switches(switches, self.sections[at].overrides)
            known = self._known[fitting] = with_switches(self.rules, switches)
        return known


def read_sections(value: Json) -> tuple[Section, ...]:
    """Several sections.

    Errors: BadRequest `wot.validation.config:invalid`.
    """
    if not isinstance(value, list) or len(value) > MAX_SECTIONS:
        raise invalid_config(f"sections are an array of at most {MAX_SECTIONS}")
    sections = tuple(read_section(one) for one in value)
    scopes = [section.scope_id for section in sections]
    if len(set(scopes)) < len(scopes):
        raise invalid_config("each section has a 'scope-id' of its own")
    return sections


def read_section(value: Json, scope_id: str | None = None) -> Section:
    """A section from its JSON; where `scope_id` is given, the JSON names the same or none.

    Errors: BadRequest `wot.validation.config:invalid`.
    """
    given = _object(value, "a section")
    scope = _member(given, _SCOPE) or scope_id
    if not isinstance(scope, str) or not 0 < len(scope) <= MAX_SCOPE or not scope.isprintable():
        raise invalid_config(f"'scope-id' is a text of 1 to {MAX_SCOPE} characters")
    if scope_id is not None and scope != scope_id:
        raise invalid_config(f"'scope-id' is '{scope_id}', as in the path")
    context = _object(_member(given, _CONTEXT) or {}, "'validation-context'")
    overrides = checked_switches(_member(given, _OVERRIDES) or {})
    return _section(scope, context, overrides)


def _section(scope: str, context: JsonObject, overrides: JsonObject) -> Section:
    mappings = [_object(one, f"an entry of '{_HEADERS}'") for one in _list(context, _HEADERS)]
    things, features = _list(context, _THINGS), _list(context, _FEATURES)
    shown: JsonObject = {name: _list(context, name) for name in _KINDS if _list(context, name)}
    if _member(context, _SCOPE) is not None:
        shown["scope-id"] = scope
    return Section(
        scope,
        {"scope-id": scope, "validation-context": shown, "config-overrides": overrides},
        overrides,
        tuple(
            {name.lower(): _matcher(pattern) for name, pattern in one.items()} for one in mappings
        ),
        tuple(_matcher(pattern) for pattern in things),
        tuple(_matcher(pattern) for pattern in features),
    )


def _member(given: JsonObject, names: Iterable[str]) -> Json:
    return next((given[name] for name in names if name in given), None)


def _object(value: Json, what: str) -> JsonObject:
    if not isinstance(value, dict) or len(value) > MAX_PATTERNS:
        raise invalid_config(f"{what} is a JSON object with at most {MAX_PATTERNS} members")
    return value


def _list(context: JsonObject, name: str) -> list[Json]:
    head, *tail = name.split("-")
    camel = head + "".join(part.title() for part in tail)
    value = _member(context, (name, camel))
    if value is None:
        return []
    if not isinstance(value, list) or len(value) > MAX_PATTERNS:
        raise invalid_config(f"'{name}' is an array of at most {MAX_PATTERNS}")
    return value


def _matcher(pattern: Json) -> Matcher:
    if not isinstance(pattern, str):
        raise invalid_config("a pattern is a text")
    try:
        return matcher(pattern)
    except ValueError as error:
        raise invalid_config(str(error)) from error
