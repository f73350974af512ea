"""Who manages which field: the sets behind `managedFields` and server-side apply.

A field set is a set of paths; a path is a tuple of steps as `FieldsV1` writes them: `f:name` for a field,
`k:{"name":"a"}` for an element of a keyed list, `v:"x"` for a member of a set list. Everything here is plain
set arithmetic over those paths. Source: Kubernetes "Server-Side Apply"; structured-merge-diff.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeAlias, cast

from gateway.errors import BadRequest
from gateway.model.json import Json, JsonObject
from gateway.wire.kube.schema import ANYTHING, Schema

Path: TypeAlias = tuple[str, ...]
Paths: TypeAlias = frozenset[Path]

NOTHING: Paths = frozenset()

_UNMANAGED_META = (
    "name",
    "namespace",
    "generateName",
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "selfLink",
    "managedFields",
)


def managed_part(item: JsonObject) -> JsonObject:
    """The part of an object whose fields have managers: without type and server-kept metadata."""
    out = {key: value for key, value in item.items() if key not in ("apiVersion", "kind")}
    metadata = out.get("metadata")
    if isinstance(metadata, dict):
        kept = {key: value for key, value in metadata.items() if key not in _UNMANAGED_META}
        if kept:
            out["metadata"] = kept
        else:
            del out["metadata"]
    return out


# --- sets of paths ----------------------------------------------------------------------------


def paths_of(schema: Schema, value: Json) -> Paths:
    """The leaves of a document, plus the elements of its keyed lists."""
    return frozenset(_walk(schema, value, ()))


def _walk(schema: Schema, value: Json, path: Path) -> Iterator[Path]:
    if isinstance(value, dict):
        if path and (schema.map_type == "atomic" or not value):
            yield path
            return
        for name, item in value.items():
            yield from _walk(schema.child(name) or ANYTHING, item, (*path, f"f:{name}"))
    elif isinstance(value, list) and schema.list_type != "atomic":
        if not value:
            yield path
        for item in value:
            step = (*path, element_step(schema, item))
            yield step
            if isinstance(item, dict):
                yield from _walk(schema.items or ANYTHING, item, step)
    else:
        yield path


def element_step(schema: Schema, item: Json) -> str:
    """The step that names one element of a set or keyed list.

    Errors: BadRequest for an element without its keys.
    """
    if schema.list_type != "map":
        return "v:" + _compact(item)
    if not isinstance(item, dict):
        raise BadRequest(f"element of a keyed list: expected an object, got {item!r}")
    keys: JsonObject = {}
    for key in schema.list_keys:
        value = item.get(key)
        if value is None and schema.items is not None:
            value = schema.items.default_of(key)
        if value is None:
            raise BadRequest(f"element of a keyed list: expected key {key!r}, got {sorted(item)}")
        keys[key] = value
    return "k:" + _compact(keys)


def _compact(value: Json) -> str:
    return json.dumps(value, separators=(",", ":"), sort_keys=True, ensure_ascii=False)


def changed_paths(schema: Schema, old: Json, new: Json) -> Paths:
    """Paths that `new` has and whose value differs in `old`, containers that came into being among them."""
    return frozenset(_compare(schema, old, new, ()))


def _compare(schema: Schema, old: Json, new: Json, path: Path) -> Iterator[Path]:
    if old == new and type(old) is type(new):
        return
    if isinstance(new, dict) and schema.map_type != "atomic" and (new or not path):
        yield from _compare_maps(schema, old, new, path)
    elif isinstance(new, list) and schema.list_type != "atomic" and new:
        yield from _compare_lists(schema, old, new, path)
    else:
        yield path


def _compare_maps(schema: Schema, old: Json, new: JsonObject, path: Path) -> Iterator[Path]:
    before = old if isinstance(old, dict) else {}
    if path and not isinstance(old, dict):
        yield path
    for name, item in new.items():
        child = schema.child(name) or ANYTHING
        step = (*path, f"f:{name}")
        if name in before:
            yield from _compare(child, before[name], item, step)
        else:
            yield from _compare(child, _Absent, item, step)


class _AbsentType:
    """Equal to no JSON value, so that a new null counts as a change."""


_Absent: Json = _AbsentType()  # type: ignore[assignment]  # only ever compared


def _compare_lists(schema: Schema, old: Json, new: list[Json], path: Path) -> Iterator[Path]:
    before = _elements(schema, old)
    if not isinstance(old, list):
        yield path
    for item in new:
        step = element_step(schema, item)
        here = (*path, step)
        if step not in before:
            yield here
        if isinstance(item, dict):
            yield from _compare(schema.items or ANYTHING, before.get(step, _Absent), item, here)


def _elements(schema: Schema, value: Json) -> dict[str, Json]:
    if not isinstance(value, list):
        return {}
    return {element_step(schema, item): item for item in value}


# --- FieldsV1 -----------------------------------------------------------------------------------


def fields_v1(paths: Iterable[Path]) -> JsonObject:
    """Write a set as the tree that `managedFields` carries."""
    return _without_lone_dots(_tree(sorted(paths)))


def _tree(paths: Iterable[Path]) -> JsonObject:
    """Nest steps; `.` marks that the path itself is a member."""
    root: JsonObject = {}
    for path in paths:
        node = root
        for step in path:
            node = _branch(node, step)
        node["."] = {}
    return root


def _branch(node: JsonObject, step: str) -> JsonObject:
    child = node.get(step)
    if not isinstance(child, dict):
        child = node[step] = {}
    return child


def _without_lone_dots(node: JsonObject) -> JsonObject:
    out: JsonObject = {}
    for key, child in node.items():
        if key == ".":
            if len(node) > 1:
                out[key] = {}
        elif isinstance(child, dict):
            out[key] = _without_lone_dots(child)
    return out


def read_fields_v1(tree: Json) -> Paths:
    """Read the tree of `managedFields`; what is no tree is empty."""
    return frozenset(_read(tree, ()))


def _read(tree: Json, path: Path) -> Iterator[Path]:
    if not isinstance(tree, dict):
        return
    if path and (not tree or "." in tree):
        yield path
    for step, child in tree.items():
        if step != ".":
            yield from _read(child, (*path, step))


# --- managers -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Manager:
    """Who wrote how: the identity of one `managedFields` entry."""

    name: str
    operation: str
    api_version: str
    subresource: str = ""


@dataclass(frozen=True, slots=True)
class Claim:
    """The fields of one manager and when they last changed."""

    manager: Manager
    time: str
    paths: Paths


def read_claims(managed: Json) -> tuple[Claim, ...]:
    """Read `metadata.managedFields`; broken entries are left out."""
    entries = managed if isinstance(managed, list) else []
    return tuple(
        _claim(entry) for entry in entries if isinstance(entry, dict) and entry.get("manager")
    )


def _claim(entry: JsonObject) -> Claim:
    def text(key: str) -> str:
        return str(entry.get(key) or "")

    manager = Manager(text("manager"), text("operation"), text("apiVersion"), text("subresource"))
    return Claim(manager, text("time"), read_fields_v1(entry.get("fieldsV1")))


def write_claims(claims: Iterable[Claim]) -> list[Json]:
    """Write `metadata.managedFields`; managers without fields vanish."""
    return [_entry(claim) for claim in claims if claim.paths]


def _entry(claim: Claim) -> JsonObject:
    manager = claim.manager
    entry: JsonObject = {
        "manager": manager.name,
        "operation": manager.operation,
        "apiVersion": manager.api_version,
        "time": claim.time,
        "fieldsType": "FieldsV1",
        "fieldsV1": fields_v1(claim.paths),
    }
    if manager.subresource:
        entry["subresource"] = manager.subresource
    return entry


def after_update(
    schema: Schema,
    old: JsonObject,
    new: JsonObject,
    claims: tuple[Claim, ...],
    who: Manager,
    now: str,
) -> tuple[Claim, ...]:
    """Hand what an ordinary write changed to its manager; fields that vanished belong to nobody."""
    changed = changed_paths(schema, old, new)
    gone = _present(schema, old) - _present(schema, new)
    if not changed and not gone:
        return claims
    out: list[Claim] = []
    found = False
    for claim in claims:
        mine = claim.manager == who
        found = found or mine
        paths = (claim.paths | changed if mine else claim.paths - changed) - gone
        touched = mine and paths != claim.paths
        out.append(Claim(claim.manager, now if touched else claim.time, paths))
    if not found and changed:
        out.append(Claim(who, now, changed))
    return tuple(out)


def _present(schema: Schema, value: Json) -> set[Path]:
    """Every path of a document, containers included."""
    leaves = paths_of(schema, value)
    return {path[:length] for path in leaves for length in range(1, len(path) + 1)}


# --- server-side apply --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FieldConflict:
    """A field that another manager holds with another value."""

    manager: Manager
    path: Path


@dataclass(frozen=True, slots=True)
class Applied:
    """What an apply leads to: the document, the claims, and the conflicts it met."""

    document: JsonObject
    claims: tuple[Claim, ...]
    conflicts: tuple[FieldConflict, ...]


def apply(
    schema: Schema,
    live: JsonObject,
    config: JsonObject,
    claims: tuple[Claim, ...],
    who: Manager,
    now: str,
    *,
    force: bool,
) -> Applied:
    """Merge an applied configuration into the live document.

    Shape:  fields that `who` applied before and leaves out now go, unless another manager holds them too;
            `live` and `config` are managed parts (`managed_part`).
    """
    wanted = paths_of(schema, config)
    before = next((claim.paths for claim in claims if claim.manager == who), NOTHING)
    others = [claim for claim in claims if claim.manager != who]
    held = frozenset().union(*(claim.paths for claim in others)) if others else NOTHING
    dropped = before - wanted - held
    document = without_paths(schema, live, dropped)
    merged = cast("JsonObject", merge(schema, document, config))
    touched = changed_paths(schema, live, merged) & wanted
    conflicts = tuple(
        FieldConflict(claim.manager, path)
        for claim in others
        for path in sorted(claim.paths & touched)
    )
    if conflicts and not force:
        return Applied(live, claims, conflicts)
    return Applied(merged, _after_apply(claims, who, now, wanted, touched), ())


def _after_apply(
    claims: tuple[Claim, ...], who: Manager, now: str, wanted: Paths, touched: Paths
) -> tuple[Claim, ...]:
    out: list[Claim] = []
    found = False
    for claim in claims:
        if claim.manager == who:
            found = True
            out.append(Claim(who, claim.time if claim.paths == wanted else now, wanted))
        else:
            out.append(Claim(claim.manager, claim.time, claim.paths - touched))
    if not found:
        out.append(Claim(who, now, wanted))
    return tuple(out)


def merge(schema: Schema, live: Json, config: Json) -> Json:
    """Lay a configuration over a document; keyed lists and sets merge, atomic parts are replaced."""
    if isinstance(config, dict) and isinstance(live, dict) and schema.map_type != "atomic":
        out = dict(live)
        for name, item in config.items():
            child = schema.child(name) or ANYTHING
            out[name] = merge(child, live.get(name), item)
        return out
    if isinstance(config, list) and isinstance(live, list) and schema.list_type != "atomic":
        return _merge_lists(schema, live, config)
    return config


def _merge_lists(schema: Schema, live: list[Json], config: list[Json]) -> list[Json]:
    merged = _elements(schema, live)
    for item in config:
        step = element_step(schema, item)
        merged[step] = merge(schema.items or ANYTHING, merged.get(step), item)
    return list(merged.values())


def without_paths(schema: Schema, value: JsonObject, paths: Paths) -> JsonObject:
    """Return the document without those fields and elements; containers left empty by that go too."""
    if not paths:
        return value
    out = _cut(schema, value, _tree(paths))
    return out if isinstance(out, dict) else {}


_CUT: Json = _AbsentType()  # type: ignore[assignment]  # marks what goes


def _cut(schema: Schema, value: Json, tree: JsonObject) -> Json:
    if "." in tree and len(tree) == 1:
        return _CUT
    if isinstance(value, dict):
        kept: JsonObject = {}
        for name, item in value.items():
            branch = tree.get(f"f:{name}")
            left = (
                _cut(schema.child(name) or ANYTHING, item, branch)
                if isinstance(branch, dict)
                else item
            )
            if left is not _CUT:
                kept[name] = left
        return kept if kept or not value else _CUT
    if isinstance(value, list) and schema.list_type != "atomic":
        return _cut_list(schema, value, tree)
    return value


def _cut_list(schema: Schema, value: list[Json], tree: JsonObject) -> Json:
    kept: list[Json] = []
    for item in value:
        branch = tree.get(element_step(schema, item))
        if isinstance(branch, dict):
            whole = "." in branch
            left = _CUT if whole else _cut(schema.items or ANYTHING, item, branch)
        else:
            left = item
        if left is not _CUT:
            kept.append(left)
    return kept if kept or not value else _CUT


def describe_path(path: Path) -> str:
    """A path as conflict messages show it: `.spec.properties[name="temp"].value`."""
    return "".join(_describe_step(step) for step in path)


def _describe_step(step: str) -> str:
    mark, _, rest = step.partition(":")
    if mark == "f":
        return f".{rest}"
    if mark == "v":
        return f"[={rest}]"
    keys = json.loads(rest)
    return "[" + ",".join(f"{key}={_compact(value)}" for key, value in keys.items()) + "]"
