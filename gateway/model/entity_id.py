"""Ids of things and policies: `<namespace>:<name>`. Both the rules and the codecs read them."""

from __future__ import annotations

import re

from gateway.errors import BadRequest

MAX_ID_CHARACTERS = 256

NAMESPACE = re.compile(r"(?:|(?:[a-zA-Z][A-Za-z0-9_]*)(?:[.-][a-zA-Z][A-Za-z0-9_]*)*)")
NAME = re.compile(r"[^\x00-\x1F\x7F-\xFF/]+")


def is_namespace(text: str) -> bool:
    """True for what Ditto takes as a namespace; the empty one is allowed."""
    return NAMESPACE.fullmatch(text) is not None


def is_entity_id(text: str) -> bool:
    """True for a valid thing or policy id."""
    namespace, colon, name = text.partition(":")
    return (
        len(text) <= MAX_ID_CHARACTERS
        and bool(colon)
        and is_namespace(namespace)
        and NAME.fullmatch(name) is not None
    )


def is_key(text: str) -> bool:
    """True for a valid feature id, attribute or property key, or policy label."""
    return NAME.fullmatch(text) is not None


def check_entity_id(text: str, code: str) -> str:
    """Return a valid id.

    Errors: BadRequest with `code`, naming the part at fault.
    Source: Ditto's entity ids: namespace and name split at the first `:`.
    """
    if is_entity_id(text):
        return text
    raise BadRequest(
        f"'{text[:MAX_ID_CHARACTERS]}' is not a valid ID: {_fault(text)}.",
        code=code,
        description="It is '<namespace>:<name>', at most 256 characters; the namespace has segments that"
        " begin with a letter, joined by '.' or '-'; the name has no '/' and no control characters.",
    )


def _fault(text: str) -> str:
    namespace, colon, name = text.partition(":")
    if len(text) > MAX_ID_CHARACTERS:
        return f"it has {len(text)} characters"
    if not colon:
        return "there is no ':' between namespace and name"
    if not is_namespace(namespace):
        return f"the namespace is '{namespace}'"
    return f"the name is '{name}'"


def namespace_of(entity_id: str) -> str:
    """The part before the first `:`."""
    return entity_id.partition(":")[0]


def name_of(entity_id: str) -> str:
    """The part after the first `:`."""
    return entity_id.partition(":")[2]
