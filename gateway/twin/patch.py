"""RFC 6902 patches: made from the path that was written or by an identity-aware walk, and applied.

Foreign patches go through the `jsonpatch` library; our own come from knowing what was written. Documents
share what did not change, so the walk stops wherever old and new are the same object.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import jsonpatch
import jsonpointer
import msgspec

from gateway.model.json import Json, JsonObject, Pointer, format_pointer, parse_pointer
from gateway.model.thing import ThingEvent
from gateway.twin.ditto_errors import ditto_error
from gateway.twin.documents import MISSING, Maybe, check_value, encoded, get, same

MAX_OPERATIONS = 1_000
MAX_RESULT_BYTES = 262_144
"""Copying inside a patch may not blow a document up beyond this."""

_OPERATIONS: Final = frozenset(("add", "remove", "replace", "move", "copy", "test"))


@dataclass(frozen=True, slots=True)
class Operation:
    """One of our own operations: `add`, `remove` or `replace` at a path without array elements."""

    op: str
    path: Pointer
    value: Json = None

    def as_json(self) -> JsonObject:
        """The RFC 6902 form."""
        body: JsonObject = {"op": self.op, "path": _rfc(self.path)}
        if self.op != "remove":
            body["value"] = self.value
        return body


def _rfc(path: Pointer) -> str:
    """RFC 6901 writes the root as an empty text, where Ditto writes `/`."""
    return format_pointer(path) if path else ""


# --- making ------------------------------------------------------------------------------------


def written(path: Pointer, before: Json, value: Maybe) -> list[Operation]:
    """The patch of one written path; `value` MISSING removes it.

    Shape:  one operation, preceded by `add` of an empty object for each missing parent; none where
            nothing is to be removed.
    """
    present = get(before, path)
    if value is MISSING:
        return [] if present is MISSING else [Operation("remove", path)]
    if present is not MISSING:
        return [Operation("replace", path, value)]
    parents = [path[:depth] for depth in range(1, len(path))]
    missing = [parent for parent in parents if not isinstance(get(before, parent), dict)]
    made = [
        Operation("add" if get(before, parent) is MISSING else "replace", parent, {})
        for parent in missing
    ]
    return [*made, Operation("add", path, value)]


def difference(before: Json, after: Json) -> list[Operation]:
    """The patch that leads from one document to the other, by an identity-aware walk.

    Shape:  objects are compared member by member; arrays and scalars are replaced whole.
    """
    return list(_walk(before, after, ()))


def _walk(before: Json, after: Json, at: Pointer) -> Iterator[Operation]:
    if before is after:
        return
    if not isinstance(before, dict) or not isinstance(after, dict):
        if not same(before, after):
            yield Operation("replace", at, after)
        return
    for key in before:
        if key not in after:
            yield Operation("remove", (*at, key))
    for key, value in after.items():
        if key not in before:
            yield Operation("add", (*at, key), value)
        else:
            yield from _walk(before[key], value, (*at, key))


def of_event(event: ThingEvent) -> list[Operation]:
    """The patch that an event stands for, on the thing's document."""
    before = event.before.document if event.before else {}
    after = event.after.document if event.after else {}
    if event.action.is_merge or not event.path:
        return difference(before, after)
    return written(event.path, before, get(after, event.path))


def as_json(operations: Sequence[Operation]) -> list[Json]:
    """The RFC 6902 document."""
    return [operation.as_json() for operation in operations]


# --- applying foreign patches -------------------------------------------------------------------


def paths_of(patch: Json) -> list[Pointer]:
    """Check a patch's form and return the paths that it writes.

    Errors: BadRequest `things:patch.invalid`, naming the operation at fault.
    """
    if not isinstance(patch, list):
        raise ditto_error("things:patch.invalid", reason="it is an array of operations")
    if len(patch) > MAX_OPERATIONS:
        raise ditto_error("things:patch.invalid", reason=f"more than {MAX_OPERATIONS} operations")
    paths: list[Pointer] = []
    for at, operation in enumerate(patch):
        paths += _paths_of_one(operation, at)
    return paths


def _paths_of_one(operation: Json, at: int) -> list[Pointer]:
    if not isinstance(operation, dict) or operation.get("op") not in _OPERATIONS:
        raise ditto_error("things:patch.invalid", reason=f"operation {at} has no known 'op'")
    op = operation["op"]
    if op in ("add", "replace", "test") and "value" not in operation:
        raise ditto_error("things:patch.invalid", reason=f"operation {at} has no 'value'")
    if "value" in operation:
        check_value(operation["value"])
    path = _path_member(operation, "path", at)
    if op == "test":
        return []
    if op in ("move", "copy"):
        source = _path_member(operation, "from", at)
        return [path, source] if op == "move" else [path]
    return [path]


def read_paths_of(patch: list[Json]) -> list[Pointer]:
    """The paths that a checked patch reads: those of `test`, and where `copy` and `move` take from."""
    paths = []
    for operation in patch:
        assert isinstance(operation, dict)  # noqa: S101  paths_of was called before
        member = {"test": "path", "copy": "from", "move": "from"}.get(str(operation["op"]))
        if member:
            paths.append(parse_pointer(str(operation[member])))
    return paths


def _path_member(operation: JsonObject, member: str, at: int) -> Pointer:
    text = operation.get(member)
    if not isinstance(text, str) or (text and not text.startswith("/")):
        raise ditto_error(
            "things:patch.invalid", reason=f"operation {at} has no JSON pointer '{member}'"
        )
    return parse_pointer(text)


def apply(document: Json, patch: list[Json]) -> Json:
    """Apply a foreign patch, whole or not at all; the document stays as it is.

    Errors: `things:patch.invalid` 400 where a path does not exist, 412 `things:condition.failed` where a
            `test` fails, 413 where copying makes it too large.
    """
    result: Any = msgspec.json.decode(
        encoded(document)
    )  # ours to change, and cheaper than deepcopy
    for piece in _pieces(patch):
        try:
            result = _applied(result, piece)
        except jsonpatch.JsonPatchTestFailed as error:
            raise ditto_error(
                "things:condition.failed", condition="test", reason=f": {str(error)[:300]}"
            ) from error
        except (
            jsonpatch.JsonPatchException,
            jsonpointer.JsonPointerException,
            TypeError,
            RecursionError,
        ) as error:
            raise ditto_error("things:patch.invalid", reason=str(error)[:300]) from error
    checked: Json = result
    return checked


def _applied(document: Any, piece: Any) -> Any:
    result = jsonpatch.apply_patch(document, piece, in_place=True)
    if len(encoded(result)) > MAX_RESULT_BYTES:
        raise ditto_error("things:patch.invalid", reason="the result is too large", status=413)
    return result


def _pieces(patch: list[Json]) -> Iterator[list[Json]]:
    """Cut after each `copy`: only copying can make a small patch into a large document."""
    piece: list[Json] = []
    for operation in patch:
        piece.append(operation)
        if isinstance(operation, dict) and operation.get("op") == "copy":
            yield piece
            piece = []
    if piece:
        yield piece
