"""Strategic merge patch: maps merge, keyed lists merge by their key, other lists are replaced.

What merges by which key comes from the type (`x-kubernetes-patch-strategy`, `-merge-key`). Directives in
a patch: `$patch` (`delete`, `replace`, `merge`), `$deleteFromPrimitiveList/<field>`,
`$setElementOrder/<field>`, `$retainKeys`. Source: Kubernetes design proposal "strategic merge patch".
"""

from __future__ import annotations

from collections.abc import Callable

from gateway.errors import BadRequest
from gateway.model.json import Json, JsonObject
from gateway.wire.kube.schema import ANYTHING, Schema

DIRECTIVE = "$patch"
RETAIN = "$retainKeys"
DELETE_FROM = "$deleteFromPrimitiveList/"
ORDER = "$setElementOrder/"


def apply_strategic(schema: Schema, document: JsonObject, patch: Json) -> JsonObject:
    """Apply a strategic merge patch; untouched parts are shared with the original.

    Errors: BadRequest for a directive that is unknown or misplaced, or an element without its merge key.
    """
    if not isinstance(patch, dict):
        raise BadRequest("error decoding patch: expected a JSON object")
    return _merge_map(schema, document, patch)


def _merge_map(schema: Schema, live: JsonObject, patch: JsonObject) -> JsonObject:
    directive = patch.get(DIRECTIVE)
    if directive == "replace":
        return _plain({key: value for key, value in patch.items() if key != DIRECTIVE})
    if directive == "delete":
        return {}
    if directive not in (None, "merge"):
        raise BadRequest(f"unknown patch type: {directive}")
    out = _retained(live, patch)
    for key, value in patch.items():
        if key in (DIRECTIVE, RETAIN) or key.startswith(ORDER):
            continue
        if key.startswith(DELETE_FROM):
            _remove_scalars(out, key.removeprefix(DELETE_FROM), value)
        elif value is None:
            out.pop(key, None)
        else:
            child = schema.child(key) or ANYTHING
            out[key] = _merge_value(child, out.get(key), value, patch.get(ORDER + key))
    for key in patch:
        field = key.removeprefix(ORDER)
        if key.startswith(ORDER) and field not in patch and isinstance(out.get(field), list):
            out[field] = _merge_value(schema.child(field) or ANYTHING, out[field], [], patch[key])
    return out


def _retained(live: JsonObject, patch: JsonObject) -> JsonObject:
    keep = patch.get(RETAIN)
    if not isinstance(keep, list):
        return dict(live)
    return {key: value for key, value in live.items() if key in keep}


def _remove_scalars(out: JsonObject, field: str, values: Json) -> None:
    current = out.get(field)
    if isinstance(current, list) and isinstance(values, list):
        out[field] = [item for item in current if item not in values]


def _merge_value(schema: Schema, live: Json, patch: Json, order: Json) -> Json:
    if isinstance(patch, dict):
        return _merge_map(schema, live if isinstance(live, dict) else {}, patch)
    if not isinstance(patch, list):
        return patch
    if "merge" not in schema.patch_strategy:
        return _plain_list(patch)
    current = live if isinstance(live, list) else []
    if schema.merge_key:
        return _merge_keyed(schema, current, patch, order)
    merged = current + [item for item in patch if item not in current]
    return _ordered(merged, current, order, lambda item: item)


def _merge_keyed(schema: Schema, live: list[Json], patch: list[Json], order: Json) -> list[Json]:
    key = schema.merge_key
    element = schema.items or ANYTHING
    if any(isinstance(item, dict) and item.get(DIRECTIVE) == "replace" for item in patch):
        return _plain_list([item for item in patch if not _is_directive(item)])
    out = list(live)
    for item in patch:
        if not isinstance(item, dict):
            raise BadRequest(f"patch element: expected an object with key {key!r}")
        if key not in item:
            raise BadRequest(f"map: {item} does not contain declared merge key: {key}")
        at = _find(out, key, item[key])
        if item.get(DIRECTIVE) == "delete":
            out = [old for old in out if not (isinstance(old, dict) and old.get(key) == item[key])]
        elif at is None:
            out.append(_merge_map(element, {}, item))
        else:
            current = out[at]
            out[at] = _merge_map(element, current if isinstance(current, dict) else {}, item)
    return _ordered(
        out, live, order, lambda item: item.get(key) if isinstance(item, dict) else item
    )


def _is_directive(item: Json) -> bool:
    return isinstance(item, dict) and DIRECTIVE in item and len(item) == 1


def _find(items: list[Json], key: str, value: Json) -> int | None:
    for at, item in enumerate(items):
        if isinstance(item, dict) and item.get(key) == value:
            return at
    return None


def _ordered(
    items: list[Json], live: list[Json], order: Json, identity: Callable[[Json], Json]
) -> list[Json]:
    """Put `items` into the wanted order; those it does not name stay after their live neighbour."""
    if not isinstance(order, list):
        return items
    wanted = [identity(item) for item in order]
    named = [item for item in items if identity(item) in wanted]
    named.sort(key=lambda item: wanted.index(identity(item)))
    others = [item for item in items if identity(item) not in wanted]
    places = [identity(item) for item in live]
    for item in others:
        named.insert(_place(named, places, identity(item), identity), item)
    return named


def _place(
    named: list[Json], places: list[Json], own: Json, identity: Callable[[Json], Json]
) -> int:
    """Where an unnamed element goes: before the first one that follows it in the live list."""
    if own not in places:
        return len(named)
    later = places[places.index(own) + 1 :]
    for at, item in enumerate(named):
        if identity(item) in later:
            return at
    return len(named)


def _plain(value: JsonObject) -> JsonObject:
    """A new part of the object: directives and nulls mean nothing there."""
    return _merge_map(ANYTHING, {}, value)


def _plain_list(items: list[Json]) -> list[Json]:
    return [_plain(item) if isinstance(item, dict) else item for item in items]
