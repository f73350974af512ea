"""JSON values and RFC 6901 pointers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeAlias

from gateway.errors import BadRequest

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"
JsonObject: TypeAlias = "dict[str, Json]"

Pointer: TypeAlias = tuple[str, ...]
"""Unescaped segments; the empty tuple is the root."""

MAX_POINTER_BYTES = 16_384
MAX_POINTER_SEGMENTS = 64
"""Writing below a pointer makes the objects on its way: as deep as values may be, and no deeper."""


def nests_within(value: Json, limit: int) -> bool:
    """True when no value lies deeper than `limit` objects and arrays."""
    level: list[Json] = [value]
    for _ in range(limit + 1):
        level = [below for each in level for below in _below(each)]
        if not level:
            return True
    return False


def _below(value: Json) -> Iterable[Json]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def parse_pointer(text: str) -> Pointer:
    """Read a JSON pointer, with or without the leading slash.

    Shape:  `/features/a~1b` -> `("features", "a/b")`; `""` and `/` are the root.
    Errors: BadRequest for an empty segment or a bad escape, naming the pointer.
    Source: RFC 6901; Ditto's pointers (a leading slash may be missing, `/` alone is the root).
    """
    if len(text) > MAX_POINTER_BYTES:
        raise _invalid(f"at most {MAX_POINTER_BYTES} bytes, got {len(text)}")
    body = text[1:] if text.startswith("/") else text
    if body.count("/") >= MAX_POINTER_SEGMENTS:
        raise _invalid(f"at most {MAX_POINTER_SEGMENTS} segments, got {body.count('/') + 1}")
    if not body:
        return ()
    return tuple(_unescape(segment, text) for segment in body.split("/"))


def _invalid(reason: str) -> BadRequest:
    return BadRequest(f"JSON pointer: {reason}", code="json.pointer.invalid")


def _unescape(segment: str, text: str) -> str:
    if not segment:
        raise BadRequest(f"JSON pointer: empty segment in {text!r}", code="json.pointer.invalid")
    if "~" not in segment:
        return segment
    head, *tails = segment.split("~")
    out = head
    for tail in tails:
        if tail[:1] == "0":
            out += "~" + tail[1:]
        elif tail[:1] == "1":
            out += "/" + tail[1:]
        else:
            raise BadRequest(
                f"JSON pointer: '~' must be followed by 0 or 1 in {text!r}",
                code="json.pointer.invalid",
            )
    return out


def format_pointer(pointer: Sequence[str]) -> str:
    """Write a pointer; the root is `/` as Ditto writes it."""
    if not pointer:
        return "/"
    return "".join("/" + segment.replace("~", "~0").replace("/", "~1") for segment in pointer)
