"""`fn:format('{a}#{b}')`: texts from a JSON object, in the small template language of that function.

`{name}` and `{/json/pointer}` take a field, an array gives several texts; `{#name}...{/name}` is written
once for each element of an array, in which `{.}` is the element itself; `\\{` and `\\}` are braces. What is
missing or null is the empty text. Source: Ditto, function library.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

import msgspec

from gateway.model.json import Json, parse_pointer
from gateway.wire.ditto.bounds import bounded_chain, bounded_product

MAX_DEPTH = 8
"""Sections in sections."""

_TOKEN = re.compile(r"\\([{}])|\{([^{}]+)\}")
ITSELF = "."


@dataclass(frozen=True, slots=True)
class Field:
    """`{name}`: a member, a pointer into the object, or the element itself."""

    name: str


@dataclass(frozen=True, slots=True)
class Section:
    """`{#name}...{/name}`: what is inside, for each element of an array."""

    name: str
    parts: tuple[Part, ...]


Part: TypeAlias = "str | Field | Section"


@lru_cache(maxsize=256)
def parse_format(template: str) -> tuple[Part, ...]:
    """Read a template.

    Errors: ValueError for a section that is not closed, or sections nested too deep.
    """
    parts: list[Part] = []
    outer: list[tuple[str, list[Part]]] = []
    end = 0
    for token in _TOKEN.finditer(template):
        if token.start() > end:
            parts.append(template[end : token.start()])
        end = token.end()
        name = token[2]
        if name is None:
            parts.append(token[1])
        elif name.startswith("#"):
            outer.append((name[1:], parts))
            parts = []
            if len(outer) > MAX_DEPTH:
                raise ValueError(f"sections are nested deeper than {MAX_DEPTH}")
        elif outer and name == f"/{outer[-1][0]}":
            section, parts = Section(outer[-1][0], tuple(parts)), outer[-1][1]
            parts.append(section)
            outer.pop()
        else:
            parts.append(_field(name, token[0]))
    if outer:
        raise ValueError(f"the section {{#{outer[-1][0]}}} is not closed")
    if end < len(template):
        parts.append(template[end:])
    return tuple(parts)


def _field(name: str, text: str) -> Part:
    """A pointer has two segments or more: `{/name}` closes a section, and is text where none is open."""
    return text if name.startswith("/") and "/" not in name[1:] else Field(name)


def formatted(texts: Sequence[str], template: str) -> tuple[str, ...]:
    """Every text that the template stands for, for each JSON object among `texts`; others are left out.

    Errors: BadRequest `placeholder:function.too.complex` for more than may be.
    """
    parts = parse_format(template)
    objects = (value for text in texts if (value := _object(text)) is not None)
    return bounded_chain(_texts(parts, value) for value in objects)


def _object(text: str) -> dict[str, Json] | None:
    try:
        value = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError, UnicodeError):
        return None
    return value if isinstance(value, dict) else None


def _texts(parts: Sequence[Part], value: Json) -> tuple[str, ...]:
    return bounded_product([_of_part(part, value) for part in parts])


def _of_part(part: Part, value: Json) -> tuple[str, ...]:
    if isinstance(part, str):
        return (part,)
    found = _member(value, part.name)
    if isinstance(part, Field):
        return tuple(map(_text, found)) or ("",) if isinstance(found, list) else (_text(found),)
    if found is None or found == []:
        return ("",)
    elements = found if isinstance(found, list) else [found]
    return bounded_chain(_texts(part.parts, element) for element in elements)


def _member(value: Json, name: str) -> Json:
    if name == ITSELF:
        return None if isinstance(value, dict) else value
    for segment in parse_pointer(name) if name.startswith("/") else (name,):
        value = value.get(segment) if isinstance(value, dict) else None
    return value


def _text(value: Json) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
