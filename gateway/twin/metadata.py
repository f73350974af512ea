"""Metadata of a thing: what is said about its values, in a tree that mirrors the thing.

It is kept in the document under `_metadata` and has no path of its own: headers of commands set, remove
and read it. `put-metadata` is an array of `{"key", "value"}`, the others are lists of pointers; all count
from the command's path. `*/<name>` stands for every leaf; other wildcards depend on the resource. Metadata
of a value goes with the value, and may be read by who may read the value. Source: Ditto, metadata.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

import msgspec

from gateway.errors import GatewayError
from gateway.model.json import Json, JsonObject, Pointer, parse_pointer
from gateway.model.thing import Action, Headers, Thing, ThingCommand
from gateway.twin.ditto_errors import ditto_error
from gateway.twin.documents import MISSING, Maybe, check_value, get, put, remove
from gateway.twin.policy import Permissions
from gateway.twin.resources import Part

METADATA: Final = "_metadata"
PUT, GET, DELETE = "put-metadata", "get-metadata", "delete-metadata"
HEADERS: Final = frozenset((PUT, GET, DELETE))
MAX_KEYS: Final = 100

_CHANGES: Final = frozenset(Action) - {Action.RETRIEVE, Action.DELETE}
_NAME, _SET, _ANY = "name", "properties", "*"
_OF_FEATURE: Final = ((_SET, _ANY, _NAME),)
_OF_FEATURES: Final = (
    (_ANY, _SET, _ANY, _NAME),
    (_ANY, _SET, _NAME, _NAME),
    (_NAME, _SET, _ANY, _NAME),
)
_FORMS: Final[dict[Part, tuple[tuple[str, ...], ...]]] = {
    Part.THING: (*(("features", *form) for form in _OF_FEATURES), ("attributes", _ANY, _NAME)),
    Part.FEATURES: _OF_FEATURES,
    Part.FEATURE: _OF_FEATURE,
}
"""The wildcards that each resource knows beside `*/<name>`."""
_NO_WILDCARDS: Final = frozenset((Part.POLICY_ID, Part.DEFINITION, Part.FEATURE_DEFINITION))
_SETS: Final = frozenset(("properties", "desiredProperties"))


def check_headers(command: ThingCommand) -> None:
    """Refuse metadata headers that a command cannot have.

    Errors: BadRequest `things:metadata.headersconflict`, `things:metadata.notmodifiable`.
    """
    given = [name for name in (PUT, GET, DELETE) if name in command.headers]
    if len(given) > 1:
        raise ditto_error("things:metadata.headersconflict")
    if given and given[0] != GET and command.action not in _CHANGES:
        raise ditto_error("things:metadata.notmodifiable", id=command.thing_id)


# --- changing ----------------------------------------------------------------------------------


def changed(
    command: ThingCommand, part: Part, before: Thing | None, after: Thing, value: Maybe
) -> tuple[JsonObject, JsonObject | None]:
    """The document after a change with its metadata, and the metadata where the command speaks of it.

    Shape:  `value` is what the command wrote: its leaves are what `*/<name>` stands for.
    Errors: BadRequest `header.invalid`, `header.notsupported`.
    """
    inline = _inline(command, part) if before is None else None
    old = carried(before, after.document) if inline is None else inline
    if not command.headers or HEADERS.isdisjoint(command.headers):
        return with_metadata(after.document, old), inline
    new = old
    if PUT in command.headers:
        for pointer, said in _put_pairs(command.headers, part, value):
            new = put(new, command.path + pointer, said)
    elif DELETE in command.headers:
        present = get(after.document, command.path)
        for pointer in _pointers(command.headers, DELETE, part, present):
            new = _without(new, command.path + pointer)
    return with_metadata(after.document, new), new


def _inline(command: ThingCommand, part: Part) -> JsonObject | None:
    """The metadata that a new thing brings in its body.

    Errors: BadRequest `json.invalid`; `things:metadata.notmodifiable` where a header speaks of it too.
    """
    given = command.value.get(METADATA) if isinstance(command.value, dict) else None
    if part is not Part.THING or given is None:
        return None
    if not HEADERS.isdisjoint(command.headers):
        raise ditto_error("things:metadata.notmodifiable", id=command.thing_id)
    if not isinstance(given, dict):
        raise ditto_error("json.invalid", reason="'_metadata' is a JSON object")
    check_value(given)
    return given


def carried(before: Thing | None, document: JsonObject) -> JsonObject:
    """The metadata that stays: that of values which are still there."""
    old = before.document.get(METADATA) if before is not None else None
    if before is None or not isinstance(old, dict):
        return {}
    kept = _kept(old, before.document, document)
    return kept if isinstance(kept, dict) else {}


def with_metadata(document: JsonObject, metadata: JsonObject) -> JsonObject:
    """The document with this metadata, or with none."""
    if document.get(METADATA, {}) is metadata:
        return document
    if metadata:
        return {**document, METADATA: metadata}
    return (
        {k: v for k, v in document.items() if k != METADATA} if METADATA in document else document
    )


def _kept(metadata: Json, before: Json, after: Json) -> Maybe:
    """Drop what mirrors a member that was there and is not any more."""
    if not isinstance(metadata, dict) or not isinstance(before, dict) or before is after:
        return metadata
    kept: JsonObject = {}
    for name, below in metadata.items():
        if name not in before:
            kept[name] = below
        elif isinstance(after, dict) and name in after:
            mine = _kept(below, before[name], after[name])
            if mine is not MISSING:
                kept[name] = mine
    return kept or MISSING


def _without(metadata: JsonObject, pointer: Pointer) -> JsonObject:
    """Without a pointer, and without the objects that this empties."""
    shorter = remove(metadata, pointer)
    if shorter is not metadata and len(pointer) > 1 and get(shorter, pointer[:-1]) == {}:
        return _without(shorter, pointer[:-1])
    return shorter


# --- reading -----------------------------------------------------------------------------------


def readable(thing: Thing, permissions: Permissions) -> Maybe:
    """The metadata of what may be read, MISSING for none."""
    metadata = thing.document.get(METADATA)
    return permissions.view((), metadata) if isinstance(metadata, dict) else MISSING


def asked(
    thing: Thing, command: ThingCommand, part: Part, permissions: Permissions
) -> JsonObject | None:
    """What `get-metadata` asks for, from the command's path on; None without that header.

    Errors: as `check_headers`; BadRequest `header.invalid`, `header.notsupported`.
    """
    if HEADERS.isdisjoint(command.headers):
        return None
    check_headers(command)
    seen = readable(thing, permissions)
    found: JsonObject = {}
    present = get(thing.document, command.path)
    for pointer in _pointers(command.headers, GET, part, present):
        said = MISSING if seen is MISSING else get(seen, command.path + pointer)
        if said is not MISSING:
            found = put(found, pointer, said)
    return found


# --- keys --------------------------------------------------------------------------------------


def _put_pairs(headers: Headers, part: Part, value: Maybe) -> Iterator[tuple[Pointer, Json]]:
    for one in _array(headers[PUT]):
        if not isinstance(one, dict) or "key" not in one or "value" not in one:
            raise _invalid(PUT, one, "It is an array of objects with 'key' and 'value'.")
        check_value(one["value"])
        for pointer in _expanded(PUT, str(one["key"]), part, value):
            yield pointer, one["value"]


def _array(given: object) -> list[Json]:
    found = given
    if isinstance(given, str):
        try:
            found = msgspec.json.decode(given)
        except (msgspec.DecodeError, RecursionError) as error:
            raise _invalid(PUT, given, "It is a JSON array.") from error
    if not isinstance(found, list) or len(found) > MAX_KEYS:
        raise _invalid(PUT, given, f"It is a JSON array of at most {MAX_KEYS} entries.")
    return found


def _pointers(headers: Headers, name: str, part: Part, value: Maybe) -> Iterator[Pointer]:
    given = headers[name]
    texts = given if isinstance(given, list) else str(given).split(",")
    if len(texts) > MAX_KEYS:
        raise _invalid(name, given, f"At most {MAX_KEYS} pointers.")
    for text in texts:
        yield from _expanded(name, str(text).strip(), part, value)


def _expanded(header: str, text: str, part: Part, value: Maybe) -> Iterator[Pointer]:
    """The pointers that a key stands for."""
    key = parse_pointer(text)
    if not key:
        raise _invalid(header, text, "A key is not empty.")
    check_value(dict.fromkeys(key))
    if _ANY not in key:
        return iter((key,))
    if part in _NO_WILDCARDS:
        raise ditto_error("header.notsupported", header=header, value=text)
    if len(key) == 2 and key[0] == _ANY and key[1] != _ANY:
        return (leaf + key[1:] for leaf in _leaves(value))
    if not any(_is_of_form(key, form) for form in _FORMS.get(part, ())):
        raise _invalid(header, text, "This resource does not know that wildcard.")
    return (found + key[-1:] for found in _matches(key[:-1], value))


def _is_of_form(key: Pointer, form: tuple[str, ...]) -> bool:
    if len(key) != len(form):
        return False
    return all(_FITS.get(rule, rule.__eq__)(given) for given, rule in zip(key, form, strict=True))


_FITS: Final[dict[str, Callable[[str], bool]]] = {
    _ANY: _ANY.__eq__,
    _NAME: _ANY.__ne__,
    _SET: _SETS.__contains__,
}


def _leaves(value: Maybe, at: Pointer = ()) -> Iterator[Pointer]:
    """The places of all values that are no objects; a removed one (null in a merge) is none."""
    if isinstance(value, dict):
        for name, below in value.items():
            if below is not None and not name.startswith("{{"):
                yield from _leaves(below, (*at, name))
    elif value is not MISSING and at[:1] != (METADATA,):
        yield at


def _matches(pattern: Pointer, value: Maybe, at: Pointer = ()) -> Iterator[Pointer]:
    if not pattern:
        yield at
        return
    if not isinstance(value, dict):
        return
    names = list(value) if pattern[0] == _ANY else [name for name in pattern[:1] if name in value]
    for name in names:
        if value[name] is not None:
            yield from _matches(pattern[1:], value[name], (*at, name))


def _invalid(header: str, value: object, hint: str) -> GatewayError:
    return ditto_error("header.invalid", header=header, value=str(value)[:200], hint=hint)
