"""Paths to one value of a JSON document: `$.a.b`, `$['a b']`, `$.list[0]`, `$` alone."""

from __future__ import annotations

import re

from gateway.errors import BadRequest
from gateway.model.json import Json

_STEP = re.compile(r"\.([A-Za-z_][\w\-]*)|\['([^']+)'\]|\[\"([^\"]+)\"\]|\[(-?\d{1,6})\]")

Path = tuple[str | int, ...]


def parse_path(text: str) -> Path:
    """Read a path. Errors: BadRequest, saying where it is not understood."""
    if not text.startswith("$"):
        raise BadRequest(f"a path begins with '$', got '{text[:100]}'")
    steps: list[str | int] = []
    at = 1
    while at < len(text):
        match = _STEP.match(text, at)
        if match is None:
            raise BadRequest(f"'{text[:100]}' is not understood at position {at}")
        name = match[1] or match[2] or match[3]
        steps.append(name if name is not None else int(match[4]))
        at = match.end()
    return tuple(steps)


class Absent:
    """There is nothing at this path."""


ABSENT = Absent()


def find(value: Json, path: Path) -> Json | Absent:
    """What is at a path, ABSENT for nothing."""
    found: Json | Absent = value
    for step in path:
        found = _member(found, step) if isinstance(step, str) else _element(found, step)
    return found


def _member(value: Json | Absent, name: str) -> Json | Absent:
    return value.get(name, ABSENT) if isinstance(value, dict) else ABSENT


def _element(value: Json | Absent, at: int) -> Json | Absent:
    if isinstance(value, list) and -len(value) <= at < len(value):
        return value[at]
    return ABSENT
