"""The part of JSONPath that printer columns use: fields, indices, `[*]` and `[?(@.type=="Ready")]`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import TypeAlias

from gateway.errors import BadRequest
from gateway.model.json import Json

Step: TypeAlias = Callable[[list[Json]], list[Json]]

MAX_PATH = 1_024

_STEP = re.compile(
    r"""\[(?P<index>-?\d+)\]
      | \[['"](?P<quoted>[^'"]*)['"]\]
      | \[\?\(@\.(?P<key>[\w.\-/]+)\s*==\s*(?P<value>"[^"]*"|'[^']*'|-?\d+|true|false)\)\]
      | (?P<all>\[\*\])""",
    re.VERBOSE,
)
_NAME = re.compile(r"\.((?:\\.|[^.\[\]\\])+)")


def compile_path(text: str) -> Callable[[Json], list[Json]]:
    """Read a path into a function from a document to the values found.

    Errors: BadRequest for a path outside the supported part.
    """
    if len(text) > MAX_PATH:
        raise BadRequest(f"JSONPath: at most {MAX_PATH} characters, got {len(text)}")
    body = text.strip()
    if body.startswith("{") and body.endswith("}"):
        body = body[1:-1]
    body = body.removeprefix("$")
    steps: list[Step] = []
    at = 0
    while at < len(body):
        step, at = _step(body, at, text)
        steps.append(step)

    def find(document: Json) -> list[Json]:
        found = [document]
        for step in steps:
            found = step(found)
        return found

    return find


def _step(body: str, at: int, text: str) -> tuple[Step, int]:
    name = _NAME.match(body, at)
    if name is not None:
        return _field(re.sub(r"\\(.)", r"\1", name.group(1))), name.end()
    match = _STEP.match(body, at)
    if match is None:
        raise BadRequest(f"JSONPath {text!r}: cannot read {body[at:]!r}")
    if match.group("index") is not None:
        return _index(int(match.group("index"))), match.end()
    if match.group("quoted") is not None:
        return _field(match.group("quoted")), match.end()
    if match.group("key") is not None:
        return _filter(match.group("key"), _literal(match.group("value"))), match.end()
    return _all, match.end()


def _literal(text: str) -> Json:
    if text[0] == "'":
        return text[1:-1]
    literal: Json = json.loads(text)
    return literal


def _field(name: str) -> Step:
    return lambda found: [item[name] for item in found if isinstance(item, dict) and name in item]


def _index(at: int) -> Step:
    return lambda found: [
        item[at] for item in found if isinstance(item, list) and -len(item) <= at < len(item)
    ]


def _all(found: list[Json]) -> list[Json]:
    out: list[Json] = []
    for item in found:
        if isinstance(item, (list, dict)):
            out += item.values() if isinstance(item, dict) else item
    return out


def _filter(key: str, wanted: Json) -> Step:
    steps = [_field(part) for part in key.split(".")]

    def holds(item: Json) -> bool:
        found = [item]
        for step in steps:
            found = step(found)
        return found == [wanted]

    return lambda found: [
        item for group in found if isinstance(group, list) for item in group if holds(item)
    ]
