"""JSON Patch for a Ditto that has none: one merge, or one write of the smallest part that holds the change.

Ditto merges (RFC 7396) and writes single paths. A merge cannot set null, and takes a null for a removal; a
key in the form of a regular expression means something else there. Where a change needs one of those, the
smallest part of the thing around it is written whole. Either way it is one command, so it is done whole or
not at all, and it says which revision it was made for. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from gateway.errors import GatewayError
from gateway.model.json import Json, JsonObject, Pointer
from gateway.model.thing import Action, ThingCommand
from gateway.twin import patch as json_patch
from gateway.twin.conditions import revision_tag
from gateway.twin.documents import MISSING, Maybe, get, same
from gateway.twin.merge import difference, merged

_READ_ONLY: Final = "_"
"""What names beginning with it say of a thing is the service's."""
_PARTS: Final = ("properties", "desiredProperties")


def as_commands(patch: Sequence[Json], before: JsonObject, of: ThingCommand) -> list[ThingCommand]:
    """Turn a JSON Patch on a thing into commands that any Ditto takes; none where nothing changes.

    Shape:  `before` is the whole thing as it was read, with `_revision`; `of` is the command with the
            patch, whose path is the place that the patch starts from.
    Errors: BadRequest `things:patch.invalid`; PreconditionFailed where a `test` fails.
    """
    json_patch.paths_of([*patch])
    document = {name: value for name, value in before.items() if not name.startswith(_READ_ONLY)}
    target = json_patch.apply(get_or_root(document, of.path), [*patch])
    whole = json_patch.apply(document, [_whole(of.path, target)]) if of.path else target
    if not isinstance(whole, dict):
        return [replace(of, action=Action.MODIFY, path=(), value=whole)]
    headers = {**of.headers, **_guard(before)}
    plain = replace(of, headers=headers)
    merge = difference(document, whole)
    if merge is MISSING:
        return []
    if _is_mergeable(document, merge, whole):
        return [replace(plain, action=Action.MERGE, path=(), value=merge)]
    return [_written(plain, document, whole, before)]


def get_or_root(document: JsonObject, path: Pointer) -> Json:
    """Return what stands at a path, an empty object where nothing does."""
    found = get(document, path)
    return {} if found is MISSING else found


def _whole(path: Pointer, value: Json) -> JsonObject:
    return json_patch.Operation("add", path, value).as_json()


def _guard(before: JsonObject) -> dict[str, str]:
    revision = before.get("_revision")
    return {"if-match": revision_tag(revision) if isinstance(revision, int) else "*"}


def _is_mergeable(document: JsonObject, merge: Json, target: Json) -> bool:
    """False where the target has a null, or a key that a merge would take for a regular expression."""
    try:
        result = merged(document, merge)
    except GatewayError:
        return False
    return result is not MISSING and same(result, target)


def _written(
    of: ThingCommand, document: JsonObject, target: JsonObject, before: JsonObject
) -> ThingCommand:
    path = _smallest(document, target)
    headers = dict(of.headers)
    if (
        path
    ):  # a part has an entity tag of its own; the thing's revision is asked for as a condition
        headers = {n: v for n, v in headers.items() if n != "if-match"}
        headers["condition"] = f"eq(_revision,{before.get('_revision', 0)})"
    value = get(target, path)
    if value is MISSING:
        return replace(of, action=Action.DELETE, path=path, value=None, headers=headers)
    return replace(of, action=Action.MODIFY, path=path, value=value, headers=headers)


def _smallest(before: JsonObject, after: JsonObject) -> Pointer:
    """Return the deepest path that Ditto can write and that holds all changes."""
    path: Pointer = ()
    one: Maybe = before
    other: Maybe = after
    while isinstance(one, dict) and isinstance(other, dict):
        changed = [
            key
            for key in dict.fromkeys([*one, *other])
            if key not in one or key not in other or not same(one[key], other[key])
        ]
        if len(changed) != 1 or not _can_write((*path, changed[0])):
            break
        path = (*path, changed[0])
        one, other = one.get(changed[0], MISSING), other.get(changed[0], MISSING)
    return path


def _can_write(path: Pointer) -> bool:
    match path:
        case ("attributes" | "definition" | "features",) | ("attributes", *_) | ("features", _):
            return True
        case ("features", _, part, *below):
            return part in _PARTS or (part == "definition" and not below)
    return False
