"""What must still hold of a thing for a decision about it to be right, as Ditto's `condition`. Pure.

A reconcile decides on what a thing wants. The write that follows names the wishes it was decided on, so
that a wish which came in between is met by 412 and decided about, instead of being overwritten unseen.
Reports do not disturb it, as an entity tag of the whole thing would.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Final

from gateway.model.json import Json, JsonObject, Pointer, format_pointer
from gateway.twin.conditions import revision_tag
from gateway.twin.documents import MISSING, Maybe, get

MAX_CONDITION: Final = 2_000
"""Characters; all headers of a signal together may have 5,000 in Ditto."""
_PLAIN_PATH = re.compile(r"[\w/.:~-]+", re.ASCII)
_PLAIN_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


def unchanged(document: JsonObject, revision: int, pointers: Iterable[Pointer]) -> dict[str, str]:
    """Return the headers that let a command through only while these places hold what they hold here.

    Shape:  `condition` over the places where RQL can say it; else `if-match` with the thing's revision.
    """
    terms = [_term(pointer, get(document, pointer)) for pointer in pointers]
    said = [term for term in terms if term is not None]
    if not terms:
        return {"if-match": "*"}
    condition = said[0] if len(said) == 1 else f"and({','.join(said)})"
    if len(said) < len(terms) or len(condition) > MAX_CONDITION:
        return {"if-match": revision_tag(revision)}
    return {"if-match": "*", "condition": condition}


def _term(pointer: Pointer, value: Maybe) -> str | None:
    path = format_pointer(pointer).removeprefix("/")
    if not _PLAIN_PATH.fullmatch(path):
        return None
    if value is MISSING:
        return f"not(exists({path}))"
    text = _literal(value)
    return None if text is None else f"eq({path},{text})"


def _literal(value: Json) -> str | None:
    """RQL has no exponents, objects or arrays."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        text = repr(value)
        return text if math.isfinite(value) and _PLAIN_NUMBER.fullmatch(text) else None
    if isinstance(value, str) and value.isprintable():
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'
    return None
