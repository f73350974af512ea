"""Sets of fields: paths into a document, how they are written in `managedFields`, how documents differ.

A path is a tuple of steps as `FieldsV1` writes them: `f:name` for a field, `k:{"name":"a"}` for an element of
a keyed list, `v:"x"` for a member of a set list. Everything is plain arithmetic over sets of paths.
Source: Kubernetes "Server-Side Apply"; structured-merge-diff 6.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeAlias, cast

import msgspec

from gateway.errors import BadRequest
from gateway.model.json import Json, JsonObject
from gateway.wire.kube.schema import ANYTHING, Schema

Path: TypeAlias = tuple[str, ...]
Paths: TypeAlias = frozenset[Path]

NOTHING: Paths = frozenset()


class _Absent:
    """Stands for a value that is not there, which null is not."""


ABSENT: Json = _Absent()  # type: ignore[assignment]  # only ever compared by identity


# --- what a value is ------------------------------------------------------------------------------


def is_map(schema: Schema, value: Json) -> bool:
    """True for a value whose fields have owners of their own, when it is not atomic."""
    if schema.type:
        return schema.type == "object" and (value is None or value is ABSENT or _is(value, dict))
    return _is(value, dict) or (bool(schema.properties) and not _is(value, list))


def is_list(schema: Schema, value: Json) -> bool:
    if schema.type:
        return schema.type == "array" and (value is None or value is ABSENT or _is(value, list))
    return _is(value, list)


def _is(value: Json, kind: type) -> bool:
    return isinstance(value, kind)


def child_of(schema: Schema, name: str) -> Schema:
    """The type of a field or of a map's value; anything goes where it is unknown."""
    return schema.child(name) or ANYTHING


def element_step(schema: Schema, item: Json) -> str:
    """The step that names one element of a set or keyed list.

    Errors: BadRequest for an element that cannot be named.
    """
    if schema.list_type != "map":
        if item is None or isinstance(item, (dict, list)):
            raise BadRequest("associative list without keys has an element that is no plain value")
        return "v:" + compact(item)
    if not isinstance(item, dict):
        raise BadRequest("associative list with keys may not have non-map elements")
    keys: JsonObject = {}
    for key in schema.list_keys:
        if key in item:
            keys[key] = item[key]
        elif schema.items is not None and schema.items.default_of(key) is not None:
            keys[key] = schema.items.default_of(key)
    if not keys:
        names = " ".join(f'"{key}"' for key in schema.list_keys)
        raise BadRequest(
            f"associative list with keys has an element that omits all key fields [{names}]"
            " (and doesn't have default values for any key fields)"
        )
    return "k:" + compact(keys)


def compact(value: Json) -> str:
    return msgspec.json.encode(value, order="sorted").decode()


def by_step(schema: Schema, items: Json) -> dict[str, list[Json]]:
    """The elements of a list under their steps; more than one where a live object repeats a key."""
    found: dict[str, list[Json]] = {}
    for item in items if isinstance(items, list) else ():
        found.setdefault(element_step(schema, item), []).append(item)
    return found


# --- the fields of a document ---------------------------------------------------------------------


def paths_of(schema: Schema, value: Json) -> Paths:
    """The leaves of a document, the elements of its keyed lists and the entries of its maps."""
    found: set[Path] = set()
    _collect(schema, value, (), found)
    return frozenset(found)


def _collect(schema: Schema, value: Json, path: Path, found: set[Path]) -> None:
    if is_map(schema, value):
        if schema.map_type == "atomic":
            found.add(path)
        elif isinstance(value, dict):
            _collect_map(schema, value, path, found)
    elif is_list(schema, value):
        if schema.list_type == "atomic":
            found.add(path)
        elif isinstance(value, list):
            _collect_list(schema, value, path, found)
    else:
        found.add(path)


def _collect_map(schema: Schema, value: JsonObject, path: Path, found: set[Path]) -> None:
    for name, item in value.items():
        step = (*path, "f:" + name)
        _collect(child_of(schema, name), item, step, found)
        if item is None or item == {} or name not in schema.properties:
            found.add(step)


def _collect_list(schema: Schema, value: list[Json], path: Path, found: set[Path]) -> None:
    for step, items in by_step(schema, value).items():
        here = (*path, step)
        found.add(here)
        if len(items) == 1:
            _collect(schema.items or ANYTHING, items[0], here, found)


# --- how two documents differ ---------------------------------------------------------------------


@dataclass(slots=True)
class Comparison:
    """Paths that came, that have another value, that went."""

    added: set[Path] = field(default_factory=set)
    modified: set[Path] = field(default_factory=set)
    removed: set[Path] = field(default_factory=set)

    def __bool__(self) -> bool:
        return bool(self.added or self.modified or self.removed)

    @property
    def written(self) -> set[Path]:
        """What the new document has otherwise than the old one."""
        return self.added | self.modified

    def without(self, roots: Paths) -> Comparison:
        """Leave out what lies below any of `roots`."""
        if not roots:
            return self
        return Comparison(
            *(set(outside(paths, roots)) for paths in (self.added, self.modified, self.removed))
        )


def outside(paths: Iterable[Path], roots: Paths) -> Paths:
    """The paths that neither are in `roots` nor lie below one."""
    if not roots:
        return frozenset(paths)
    lengths = sorted({len(root) for root in roots})
    return frozenset(
        path for path in paths if not any(path[:length] in roots for length in lengths)
    )


def compare(schema: Schema, old: Json, new: Json) -> Comparison:
    """Say what `new` has otherwise than `old`. Errors: BadRequest for list elements without a name."""
    found = Comparison()
    _compare(schema, old, new, (), found)
    return found


def _compare(schema: Schema, old: Json, new: Json, path: Path, found: Comparison) -> None:
    if old is new:
        return
    if type(old) not in _CONTAINERS and type(new) not in _CONTAINERS:
        _compare_leaves(old, new, path, found)
        return
    is_leaf = False
    shapes = [new] if old is ABSENT or old is None else [old]
    if new is not ABSENT and new is not None and _shape(schema, new) != _shape(schema, shapes[0]):
        shapes.append(new)
    for shape in shapes:
        is_leaf = _compare_as(schema, shape, old, new, path, found)
    if is_leaf:
        return
    if old is ABSENT:
        found.added.add(path)
    elif new is ABSENT:
        found.removed.add(path)


_CONTAINERS = (dict, list)


def _shape(schema: Schema, value: Json) -> int:
    return 1 if is_map(schema, value) else 2 if is_list(schema, value) else 0


def _compare_as(
    schema: Schema, shape: Json, old: Json, new: Json, path: Path, found: Comparison
) -> bool:
    """Compare as what `shape` is; True when the value has been judged as a whole."""
    if is_map(schema, shape):
        before, after = old if isinstance(old, dict) else {}, new if isinstance(new, dict) else {}
        if schema.map_type != "atomic" and (before or after):
            _compare_maps(schema, before, after, path, found)
            return False
    elif is_list(schema, shape):
        items, others = old if isinstance(old, list) else [], new if isinstance(new, list) else []
        if schema.list_type != "atomic" and (items or others):
            _compare_lists(schema, items, others, path, found)
            return False
    _compare_leaves(old, new, path, found)
    return True


def _compare_leaves(old: Json, new: Json, path: Path, found: Comparison) -> None:
    if old is ABSENT:
        found.added.add(path)
    elif new is ABSENT:
        found.removed.add(path)
    elif not same(old, new):
        found.modified.add(path)


def same(left: Json, right: Json) -> bool:
    """Equality of JSON: true is not 1."""
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    return left == right


def _compare_maps(
    schema: Schema, old: JsonObject, new: JsonObject, path: Path, found: Comparison
) -> None:
    for name, item in new.items():
        before = old.get(name, ABSENT)
        if before is not item:
            _compare(child_of(schema, name), before, item, (*path, "f:" + name), found)
    for name, item in old.items():
        if name not in new:
            _compare(child_of(schema, name), item, ABSENT, (*path, "f:" + name), found)


def _compare_lists(
    schema: Schema, old: list[Json], new: list[Json], path: Path, found: Comparison
) -> None:
    if old == new:
        return
    before, after = by_step(schema, old), by_step(schema, new)
    for step in dict.fromkeys((*before, *after)):
        _compare_element(
            schema.items or ANYTHING,
            before.get(step, []),
            after.get(step, []),
            (*path, step),
            found,
        )


def _compare_element(
    schema: Schema, old: list[Json], new: list[Json], path: Path, found: Comparison
) -> None:
    """Elements under one step; a repeated key counts as one value of its own."""
    if len(old) <= 1 and len(new) <= 1:
        _compare(schema, _only(old), _only(new), path, found)
    elif len(old) > 1 and len(new) > 1:
        if old != new:
            found.modified.add(path)
    elif len(old) > 1:
        if new:
            _compare(schema, ABSENT, new[0], path, found)
        found.removed.add(path)
    else:
        if old:
            _compare(schema, old[0], ABSENT, path, found)
        found.added.add(path)


def _only(items: list[Json]) -> Json:
    return items[0] if items else ABSENT


def with_named(schema: Schema, paths: Iterable[Path]) -> set[Path]:
    """The set and the declared fields on the way to its members (entries of maps are not declared)."""
    out: set[Path] = set()
    types: dict[Path, Schema | None] = {(): schema}
    for path in paths:
        out.add(path)
        for length in range(len(path) - 1, 0, -1):
            head = path[:length]
            if head in out:
                break
            parent = _type_at(types, path[: length - 1])
            step = head[-1]
            if parent is not None and step.startswith("f:") and step[2:] in parent.properties:
                out.add(head)
    return out


def _type_at(types: dict[Path, Schema | None], path: Path) -> Schema | None:
    if path not in types:
        parent, step = _type_at(types, path[:-1]), path[-1]
        if parent is None:
            types[path] = None
        else:
            types[path] = parent.child(step[2:]) if step.startswith("f:") else parent.items
    return types[path]


def without_paths(schema: Schema, value: JsonObject, paths: Iterable[Path]) -> JsonObject:
    """The document without those fields and elements; what is emptied by that becomes null."""
    tree = _marked(paths)
    if not tree:
        return value
    out = _cut(schema, value, tree)
    return out if isinstance(out, dict) else {}


def _marked(paths: Iterable[Path]) -> JsonObject:
    """Nest steps; `.` marks that the path itself is a member."""
    root: JsonObject = {}
    for path in paths:
        node = root
        for step in path:
            child = node.get(step)
            if child is None:
                child = node[step] = {}
            node = cast("JsonObject", child)
        node["."] = {}
    return root


def _cut(schema: Schema, value: Json, tree: JsonObject) -> Json:
    if isinstance(value, dict):
        if schema.map_type == "atomic":
            return None
        kept = {
            name: item if branch is None else _cut(child_of(schema, name), item, branch)
            for name, item in value.items()
            if (branch := _branch(tree, "f:" + name)) is None or "." not in branch
        }
        return kept or None
    if isinstance(value, list):
        return None if schema.list_type == "atomic" else _cut_list(schema, value, tree)
    return value


def _branch(tree: JsonObject, step: str) -> JsonObject | None:
    found = tree.get(step)
    return found if isinstance(found, dict) else None


def _cut_list(schema: Schema, value: list[Json], tree: JsonObject) -> Json:
    kept: list[Json] = []
    for item in value:
        branch = _branch(tree, element_step(schema, item))
        if branch is None:
            kept.append(item)
        elif "." not in branch:
            kept.append(_cut(schema.items or ANYTHING, item, branch))
    return kept or None


# --- FieldsV1 -----------------------------------------------------------------------------------


def fields_v1(paths: Iterable[Path]) -> JsonObject:
    """Write a set as the tree that `managedFields` carries: `.` marks a member that has members below."""
    root: JsonObject = {}
    stack = [root]
    last: Path = ()
    for path in sorted(paths):
        shared = _shared(last, path)
        del stack[shared + 1 :]
        if shared and shared == len(last):
            stack[-1]["."] = {}
        for step in path[shared:]:
            child: JsonObject = {}
            stack[-1][step] = child
            stack.append(child)
        last = path
    return root


def _shared(one: Path, other: Path) -> int:
    """How many steps two paths begin with together."""
    for at, (left, right) in enumerate(zip(one, other, strict=False)):
        if left != right:
            return at
    return min(len(one), len(other))


def tree_with(tree: JsonObject, paths: Iterable[Path]) -> JsonObject:
    """The tree with more members; shares nothing that changes."""
    if not tree:
        return fields_v1(paths)
    root = dict(tree)
    own: set[int] = {id(root)}
    for path in paths:
        _plant(root, path, own)
    return root


def _plant(root: JsonObject, path: Path, own: set[int]) -> None:
    """Put one member in; `own` are the nodes that nobody else holds."""
    node, is_new = root, False
    for step in path:
        child = node.get(step)
        if not node and not is_new and node is not root:
            node["."] = {}  # it was a member without members below
        is_new = child is None
        if child is None or id(child) not in own:
            child = {} if child is None else dict(cast("JsonObject", child))
            own.add(id(child))
            node[step] = child
        node = cast("JsonObject", child)
    if node and not is_new:
        node["."] = {}


def tree_without(tree: JsonObject, paths: Iterable[Path]) -> JsonObject:
    """The tree without those members; the same one when none is in it."""
    for path in paths:
        tree = _pull(tree, path, 0)
    return tree


def _pull(node: JsonObject, path: Path, at: int) -> JsonObject:
    if at == len(path):
        if not node or "." not in node:
            return node
        return {step: child for step, child in node.items() if step != "."}
    step = path[at]
    child = node.get(step)
    if not isinstance(child, dict):
        return node
    if at + 1 == len(path) and child.keys() <= {"."}:
        left = {other: below for other, below in node.items() if other != step}
    else:
        below = _pull(child, path, at + 1)
        if below is child:
            return node
        left = {**node, step: below}
        if not below and "." not in child:
            del left[step]
    return {} if left.keys() == {"."} else left


def tree_has(tree: JsonObject, path: Path) -> bool:
    """True when the path is a member."""
    node: Json = tree
    for step in path:
        node = node.get(step) if isinstance(node, dict) else None
        if node is None:
            return False
    return isinstance(node, dict) and (not node or "." in node)


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
    return "[" + ",".join(f"{key}={compact(value)}" for key, value in keys.items()) + "]"
