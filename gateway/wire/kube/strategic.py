"""Strategic merge patch: maps merge, keyed lists merge by their key, other lists are replaced.

What merges by which key comes from the type (`x-kubernetes-patch-strategy`, `-merge-key`). Directives in
a patch: `$patch` (`delete`, `replace`), `$deleteFromPrimitiveList/<field>`, `$setElementOrder/<field>`,
`$retainKeys`. Source: Kubernetes design proposal "strategic merge patch"; apimachinery 0.36.
"""

from __future__ import annotations

from collections.abc import Iterable

from gateway.errors import BadRequest
from gateway.model.json import Json, JsonObject
from gateway.wire.kube.patches import no_object
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
        raise BadRequest(no_object(patch).removeprefix("error decoding patch: "))
    return _merge_map(schema, document, patch)


# --- maps -----------------------------------------------------------------------------------------


def _merge_map(schema: Schema, live: JsonObject, patch: JsonObject) -> JsonObject:
    if DIRECTIVE in patch:
        return _directed(patch)
    out = _retained(live, patch)
    ordered = _order_lists(schema, out, patch)
    for key, value in patch.items():
        if key == RETAIN or key.startswith(ORDER) or key in ordered:
            continue
        if key.startswith(DELETE_FROM):
            _remove_scalars(out, key.removeprefix(DELETE_FROM), value)
        elif value is None:
            out.pop(key, None)
        else:
            _merge_field(schema.child(key) or ANYTHING, out, key, value)
    return out


def _directed(patch: JsonObject) -> JsonObject:
    directive = patch[DIRECTIVE]
    if directive == "replace":
        return {key: value for key, value in patch.items() if key != DIRECTIVE}
    if directive == "delete":
        return {}
    raise BadRequest(f"unknown patch type: {directive}")


def _merge_field(schema: Schema, out: JsonObject, key: str, value: Json) -> None:
    held = out.get(key)
    if isinstance(value, dict) and isinstance(held, dict):
        out[key] = _merge_map(schema, held, value)
    elif isinstance(value, list) and isinstance(held, list):
        out[key] = _merge_list(schema, held, value)
    else:
        fresh = _fresh(value)
        if fresh is None:
            out.pop(key, None)
        else:
            out[key] = fresh


def _fresh(value: Json) -> Json:
    """A new part of the object: elements with directives and nulls are not in it; None when nothing is."""
    if isinstance(value, dict):
        if DIRECTIVE in value:
            return None
        parts = {key: _fresh(item) for key, item in value.items()}
        return {key: item for key, item in parts.items() if item is not None}
    if isinstance(value, list):
        return [kept for item in value if (kept := _fresh(item)) is not None or item is None]
    return value


def _retained(live: JsonObject, patch: JsonObject) -> JsonObject:
    if RETAIN not in patch:
        return dict(live)
    keep = patch[RETAIN]
    named = [
        key
        for key, value in patch.items()
        if value is not None and key != RETAIN and not key.startswith((DELETE_FROM, ORDER))
    ]
    if not isinstance(keep, list) or any(key not in keep for key in named):
        raise BadRequest("invalid patch format of retainKeys")
    return {key: value for key, value in live.items() if key in keep}


def _remove_scalars(out: JsonObject, field: str, values: Json) -> None:
    current = out.get(field)
    if isinstance(current, list) and isinstance(values, list):
        out[field] = [item for item in current if item not in values]


def _order_lists(schema: Schema, out: JsonObject, patch: JsonObject) -> set[str]:
    """Merge the lists whose order the patch gives; returns the fields that are done with."""
    done: set[str] = set()
    for name in [key for key in patch if key.startswith(ORDER)]:
        field, order = name.removeprefix(ORDER), patch[name]
        live, wanted = out.get(field), patch.get(field)
        if not isinstance(order, list) or not isinstance(wanted, (list, type(None))):
            raise BadRequest("invalid patch format of setElementOrder list")
        child = schema.child(field) or ANYTHING
        _check_order(child, wanted or [], order)
        if isinstance(live, list):
            merged = live if wanted is None else _merge_list(child, live, wanted)
        elif wanted is not None:
            live, merged = [], _items(_fresh(wanted))
        else:
            continue
        out[field] = _in_order(child.merge_key, merged, order, live)
        done.add(field)
    return done


def _items(value: Json) -> list[Json]:
    return value if isinstance(value, list) else []


def _check_order(schema: Schema, wanted: list[Json], order: list[Json]) -> None:
    """Elements of a patch stand in the order that it gives. Errors: BadRequest."""
    if not order:
        return
    places = [_identity(schema.merge_key, item) for item in order]
    at = 0
    for item in wanted:
        if isinstance(item, dict) and DIRECTIVE in item:
            continue
        own = _identity(schema.merge_key, item)
        if own not in places[at:]:
            raise BadRequest(
                f"The order in patch list:\n{wanted}\n doesn't match $setElementOrder list:\n{order}\n"
            )
        at = places.index(own, at) + 1


# --- lists ----------------------------------------------------------------------------------------


def _merge_list(schema: Schema, live: list[Json], patch: list[Json]) -> list[Json]:
    if "merge" not in schema.patch_strategy or not (live or patch):
        return patch
    if not any(isinstance(item, dict) for item in (*live[:1], *patch[:1])):
        return _in_order("", list(_once((*live, *patch))), patch, live)
    if not schema.merge_key:
        raise BadRequest("cannot merge lists without merge key")
    live, patch = _with_special(schema.merge_key, live, patch)
    merged = _merge_elements(schema, live, patch)
    return _in_order(schema.merge_key, merged, patch, live)


def _once(items: Iterable[Json]) -> Iterable[Json]:
    seen: list[Json] = []
    for item in items:
        if item not in seen:
            seen.append(item)
    return seen


def _with_special(key: str, live: list[Json], patch: list[Json]) -> tuple[list[Json], list[Json]]:
    """What elements with directives do to both lists."""
    plain: list[Json] = []
    replaces = False
    for item in patch:
        directive = item.get(DIRECTIVE) if isinstance(item, dict) else None
        if directive is None:
            plain.append(item)
        elif directive == "delete":
            own = _identity(key, item)
            live = [old for old in live if _identity(key, old) != own]
        elif directive == "replace":
            replaces = True
        else:
            raise BadRequest(f"unknown patch type: {directive}")
    return (plain, []) if replaces else (live, plain)


def _merge_elements(schema: Schema, live: list[Json], patch: list[Json]) -> list[Json]:
    key = schema.merge_key
    out = list(live)
    places = {_hashable(_identity(key, item)): at for at, item in reversed([*enumerate(out)])}
    for item in patch:
        if not isinstance(item, dict):
            raise BadRequest(f"patch element: expected an object with key {key!r}")
        own = _hashable(_identity(key, item))
        at = places.get(own)
        held = out[at] if at is not None else None
        if at is None:
            places[own] = len(out)
            out.append(_fresh(item))
        elif isinstance(held, dict):
            out[at] = _merge_map(schema.items or ANYTHING, held, item)
    return out


def _hashable(value: Json) -> object:
    return value if not isinstance(value, (dict, list)) else repr(value)


def _identity(key: str, item: Json) -> Json:
    """What an element is found by. Errors: BadRequest for one without it."""
    if not key:
        return item
    if not isinstance(item, dict) or key not in item:
        raise BadRequest(f"map: {item} does not contain declared merge key: {key}")
    return item[key]


def _in_order(key: str, merged: list[Json], order: list[Json], live: list[Json]) -> list[Json]:
    """Elements that `order` names, in its order, and the others beside their neighbours of before."""
    wanted = {_hashable(_identity(key, item)): at for at, item in reversed([*enumerate(order)])}
    before = {_hashable(_identity(key, item)): at for at, item in reversed([*enumerate(live)])}
    rows = [(_hashable(_identity(key, item)), item) for item in merged]
    named = sorted((row for row in rows if row[0] in wanted), key=lambda row: wanted[row[0]])
    others = sorted(
        (row for row in rows if row[0] not in wanted), key=lambda row: before.get(row[0], len(live))
    )
    out: list[Json] = []
    while named and others:
        here, there = before.get(others[0][0]), before.get(named[0][0])
        is_first = here is not None and there is not None and here < there
        out.append((others if is_first else named).pop(0)[1])
    return out + [item for _, item in (*others, *named)]
