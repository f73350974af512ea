"""Who manages which field: the entries of `managedFields`, and what writes and applies do to them.

Source: Kubernetes "Server-Side Apply"; structured-merge-diff 6.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from gateway.model.json import Json, JsonObject
from gateway.wire.kube.fieldsets import (
    NOTHING,
    Comparison,
    Path,
    Paths,
    compare,
    fields_v1,
    outside,
    paths_of,
    read_fields_v1,
    tree_has,
    tree_with,
    tree_without,
    with_named,
    without_paths,
)
from gateway.wire.kube.merging import merge
from gateway.wire.kube.schema import Schema
from gateway.wire.kube.tracked import over_blank

MAX_UPDATERS = 10
"""Entries of writers; the oldest beyond them are put together."""
ANCIENT = "ancient-changes"
BEFORE_APPLY = "before-first-apply"
OPERATIONS = ("Apply", "Update")

_METADATA: Paths = frozenset({("f:metadata",)})
_UNMANAGED_META = (
    "name",
    "namespace",
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "selfLink",
    "managedFields",
)


def managed_part(item: JsonObject) -> JsonObject:
    """The part of an object whose fields have managers: without type and server-kept metadata."""
    out = {key: value for key, value in item.items() if key not in ("apiVersion", "kind")}
    metadata = out.get("metadata")
    if isinstance(metadata, dict):
        out["metadata"] = {
            key: value for key, value in metadata.items() if key not in _UNMANAGED_META
        }
    return out


# --- entries ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Manager:
    """Who wrote how: the identity of one `managedFields` entry."""

    name: str
    operation: str
    api_version: str
    subresource: str = ""

    def is_same(self, other: Manager) -> bool:
        """True for one entry: those who apply are the same in every version."""
        mine = (self.name, self.operation, self.subresource)
        return mine == (other.name, other.operation, other.subresource) and (
            self.operation == "Apply" or self.api_version == other.api_version
        )


@dataclass(frozen=True, slots=True)
class Claim:
    """The fields of one manager and when they last changed (empty: never told).

    Shape:  `tree` is the set as `FieldsV1` writes it; most writes touch few of its fields.
    """

    manager: Manager
    time: str
    tree: JsonObject

    @classmethod
    def of(cls, manager: Manager, time: str, paths: Iterable[Path]) -> Claim:
        return cls(manager, time, fields_v1(paths))

    @property
    def paths(self) -> Paths:
        return read_fields_v1(self.tree)

    def less(self, paths: Iterable[Path]) -> Claim:
        left = tree_without(self.tree, paths)
        return self if left is self.tree else replace(self, tree=left)

    def holds(self, paths: Iterable[Path]) -> list[Path]:
        """Those of the paths that are this manager's."""
        return [path for path in paths if tree_has(self.tree, path)]


def is_reset(managed: Json) -> bool:
    """True for the two ways to say that nobody manages anything any more."""
    return managed == [] or managed == [{}]


def is_sound(managed: Json) -> bool:
    """True when a client's entries can be read; others are as good as none."""
    return isinstance(managed, list) and all(
        isinstance(entry, dict)
        and entry.get("operation") in OPERATIONS
        and bool(entry.get("apiVersion"))
        and entry.get("fieldsType") == "FieldsV1"
        for entry in managed
    )


def read_claims(managed: Json) -> tuple[Claim, ...]:
    """Read `metadata.managedFields`; entries that cannot be read make all of them void."""
    if not isinstance(managed, list) or not is_sound(managed):
        return ()
    return tuple(_claim(entry) for entry in managed if isinstance(entry, dict))


def _claim(entry: JsonObject) -> Claim:
    def text(key: str) -> str:
        return str(entry.get(key) or "")

    manager = Manager(text("manager"), text("operation"), text("apiVersion"), text("subresource"))
    tree = entry.get("fieldsV1")
    return Claim(manager, text("time"), tree if isinstance(tree, dict) else {})


def write_claims(claims: Iterable[Claim]) -> list[Json]:
    """Write `metadata.managedFields`, in order; managers without fields vanish."""
    return [_entry(claim) for claim in sorted(claims, key=_order) if claim.tree]


def _order(claim: Claim) -> tuple[str, ...]:
    who = claim.manager
    return (who.operation, claim.time, who.name, who.api_version, who.subresource)


def _entry(claim: Claim) -> JsonObject:
    manager = claim.manager
    entry: JsonObject = {
        "manager": manager.name,
        "operation": manager.operation,
        "apiVersion": manager.api_version,
    }
    if claim.time:
        entry["time"] = claim.time
    entry |= {"fieldsType": "FieldsV1", "fieldsV1": claim.tree}
    if manager.subresource:
        entry["subresource"] = manager.subresource
    return entry


# --- ordinary writes ----------------------------------------------------------------------------


def after_update(
    schema: Schema,
    old: JsonObject,
    new: JsonObject,
    claims: tuple[Claim, ...],
    who: Manager,
    now: str,
    *,
    reset: Paths = NOTHING,
    blank: JsonObject | None = None,
) -> tuple[Claim, ...]:
    """Hand what an ordinary write changed to its manager; fields that vanished belong to nobody.

    Shape:  `reset` names the parts that this door cannot change: they count for nobody; `blank` is what
            every object of the kind has.
    """
    found = _compared(schema, old, new, reset, blank)
    if not found:
        return claims
    touched = found.written | found.removed
    out = [claim.less(touched) for claim in claims]
    if found.written:
        out = _joined(out, who, now, found.written)
    return _few(tuple(claim for claim in out if claim.tree))


def _compared(
    schema: Schema, old: JsonObject, new: JsonObject, reset: Paths, blank: JsonObject | None
) -> Comparison:
    blank = blank or {}
    found = compare(schema, over_blank(blank, old), over_blank(blank, new)).without(reset)
    for paths in (found.added, found.modified, found.removed):
        paths -= _METADATA
    return found


def _joined(claims: list[Claim], who: Manager, now: str, paths: set[Path]) -> list[Claim]:
    """Add fields to a manager's entry, or an entry with them."""
    held = [claim for claim in claims if claim.manager.is_same(who)]
    others = [claim for claim in claims if not claim.manager.is_same(who)]
    tree = held[0].tree if held else {}
    return [*others, Claim(who, now, tree_with(tree, paths))]


def _few(claims: tuple[Claim, ...]) -> tuple[Claim, ...]:
    """Put the oldest writers beyond the bound into one entry a version."""
    writers = sorted((claim for claim in claims if claim.manager.operation == "Update"), key=_age)
    surplus = len(writers) - MAX_UPDATERS
    if surplus <= 0:
        return claims
    kept = [claim for claim in claims if claim.manager.operation != "Update"]
    first: dict[str, Claim] = {}
    for claim in writers:
        version = claim.manager.api_version
        if surplus <= 0 or version not in first:
            first.setdefault(version, claim)
            kept.append(claim)
            continue
        held = first[version]
        kept.remove(held)
        bucket = Manager(ANCIENT, "Update", version)
        first[version] = Claim.of(bucket, claim.time, held.paths | claim.paths)
        kept.append(first[version])
        surplus -= 1
    return tuple(kept)


def _age(claim: Claim) -> tuple[str, ...]:
    who = claim.manager
    return (claim.time, who.name, who.api_version, who.subresource)


# --- server-side apply --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FieldConflict:
    """A field that another manager holds with another value."""

    manager: Manager
    path: Path
    time: str = ""


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
    reset: Paths = NOTHING,
    blank: JsonObject | None = None,
) -> Applied:
    """Merge an applied configuration into the live document.

    Shape:  fields that `who` applied before and leaves out now go, unless another manager holds them too;
            `live` and `config` are managed parts (`managed_part`); `reset` and `blank` as in
            `after_update`.

    Errors: BadRequest for a configuration whose lists cannot be merged.
    """
    merged = merge(schema, live, config)
    wanted = outside(paths_of(schema, config), reset) - _METADATA
    held = next((claim for claim in claims if claim.manager.is_same(who)), None)
    others = tuple(claim for claim in claims if claim is not held)
    if held is not None and held.tree:
        owned = wanted.union(*(claim.paths for claim in others))
        merged = _pruned(schema, merged, held.paths, owned)
    found = _compared(schema, live, merged, reset, blank)
    conflicts = _conflicts(others, found)
    if conflicts and not force:
        return Applied(live, claims, conflicts)
    time = now if live != merged else (held.time if held is not None else "")
    mine = Claim.of(who, time, wanted)
    left = [claim.less(found.written | found.removed) for claim in others]
    return Applied(merged, tuple(claim for claim in (*left, mine) if claim.tree), ())


def _conflicts(claims: tuple[Claim, ...], found: Comparison) -> tuple[FieldConflict, ...]:
    written = found.written
    return tuple(
        FieldConflict(claim.manager, path, claim.time)
        for claim in claims
        for path in sorted(claim.holds(written))
    )


def _pruned(schema: Schema, merged: JsonObject, last: Paths, owned: Paths) -> JsonObject:
    """Take away what was applied last time; what anybody holds comes back, as does what was not ours."""
    had = with_named(schema, last)
    everything = with_named(schema, paths_of(schema, merged))
    left = with_named(schema, paths_of(schema, without_paths(schema, merged, had)))
    gone = everything - left - with_named(schema, owned)
    kept = with_named(schema, paths_of(schema, without_paths(schema, merged, gone)))
    return without_paths(schema, merged, (everything - kept) & had)
