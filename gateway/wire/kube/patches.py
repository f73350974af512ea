"""JSON Patch and JSON merge patch, as the API server applies them."""

from __future__ import annotations

import re
from typing import Any, cast

import msgspec

from gateway.errors import BadRequest, Unprocessable
from gateway.model.json import Json, JsonObject

MAX_OPERATIONS = 10_000
MAX_COPIED = 3_145_728
"""Bytes that the `copy` operations of one patch may add up to: each can double an object."""
MAX_DEPTH = 128
"""Levels of a document; a patch of flat operations could pile up any number."""

_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]{0,9})")

_REJECTED = "the server rejected our request due to an error in our request"


def apply_json_patch(document: JsonObject, operations: Json) -> JsonObject:
    """Apply RFC 6902 operations to a copy; neither document nor operations are changed.

    As the API server does, a `replace` of a field that is not there adds it, and a negative index counts from
    the end of a list.

    Errors: BadRequest for what is no JSON Patch or nests too deeply; Unprocessable (422) for a failing test
            or a missing path, (413) for too many operations or bytes copied.
    """
    if not isinstance(operations, list) or not all(isinstance(item, dict) for item in operations):
        raise BadRequest(
            "error decoding patch: json: cannot unmarshal object into Go value of type []handlers.jsonPatchOp"
        )
    if len(operations) > MAX_OPERATIONS:
        raise _too_large(
            "Request entity too large: The allowed maximum operations in a JSON patch is"
            f" {MAX_OPERATIONS}, got {len(operations)}"
        )
    holder: JsonObject = {"": _clone(document)}
    copied = 0
    for operation in _clone(operations):
        copied += _do(holder, operation)
        if copied > MAX_COPIED:
            raise _too_large(f"The copies of a JSON patch may add {MAX_COPIED} bytes at most")
    return _as_object(shallow(holder[""]))


def _do(holder: JsonObject, operation: JsonObject) -> int:
    """Do one operation on the document in `holder`; returns the bytes that were copied."""
    kind, path = operation.get("op"), _pointer(operation.get("path"))
    if kind in ("add", "replace", "test") and "value" not in operation:
        operation["value"] = None
    if kind == "test":
        if not _are_equal(_get(holder, path, missing_is_null=True), operation["value"]):
            raise _unfit()
    elif kind == "remove":
        _take(holder, path)
    elif kind == "add":
        _add(holder, path, operation["value"])
    elif kind == "replace":
        _replace(holder, path, operation["value"])
    elif kind == "move":
        _add(holder, path, _take(holder, _pointer(operation.get("from"))))
    elif kind == "copy":
        value = _clone(_get(holder, _pointer(operation.get("from")), missing_is_null=True))
        _add(holder, path, value)
        return _size(value)
    else:
        raise _unfit()
    return 0


def _pointer(text: Json) -> list[str]:
    """The steps of a JSON pointer, below the holder."""
    if not isinstance(text, str) or (text and not text.startswith("/")):
        raise _unfit()
    return [step.replace("~1", "/").replace("~0", "~") for step in text.split("/")]


def _parent(holder: JsonObject, path: list[str]) -> Json:
    node: Json = holder
    for step in path[:-1]:
        if isinstance(node, dict):
            node = node.get(step)
        elif isinstance(node, list):
            node = node[_index(step, len(node) - 1)]
        else:
            raise _unfit()
    return node


def _index(step: str, most: int) -> int:
    """The place that a step names in a list; negative ones count from behind. Errors: Unprocessable."""
    if not _NUMBER.fullmatch(step):
        raise _unfit()
    at = int(step)
    if at < 0:
        at += most + 1
    if not 0 <= at <= most:
        raise _unfit()
    return at


def _get(holder: JsonObject, path: list[str], *, missing_is_null: bool = False) -> Json:
    parent, key = _parent(holder, path), path[-1]
    if isinstance(parent, list):
        return parent[_index(key, len(parent) - 1)]
    if isinstance(parent, dict) and (missing_is_null or key in parent):
        return parent.get(key)
    raise _unfit()


def _take(holder: JsonObject, path: list[str]) -> Json:
    parent, key = _parent(holder, path), path[-1]
    if isinstance(parent, list):
        return parent.pop(_index(key, len(parent) - 1))
    if isinstance(parent, dict) and key in parent and parent is not holder:
        return parent.pop(key)
    raise _unfit()


def _add(holder: JsonObject, path: list[str], value: Json) -> None:
    parent, key = _parent(holder, path), path[-1]
    if isinstance(parent, dict):
        parent[key] = value
    elif isinstance(parent, list):
        parent.insert(len(parent) if key == "-" else _index(key, len(parent)), value)
    else:
        raise _unfit()


def _replace(holder: JsonObject, path: list[str], value: Json) -> None:
    parent, key = _parent(holder, path), path[-1]
    if isinstance(parent, dict):
        parent[key] = value
    elif isinstance(parent, list):
        parent[_index(key, len(parent) - 1)] = value
    else:
        raise _unfit()


def _are_equal(left: Json, right: Json) -> bool:
    """Equality of JSON, in which true is not 1."""
    return left == right and _text(left) == _text(right)


def _text(value: Json) -> bytes:
    return msgspec.json.encode(value, order="deterministic")


def _unfit() -> Unprocessable:
    return _unprocessable(_REJECTED)


def _clone(value: Any) -> Any:
    """Operations hold values that later ones may change: a patch that is tried again needs its own."""
    return msgspec.json.decode(msgspec.json.encode(value))


def _size(value: Any) -> int:
    return len(msgspec.json.encode(value))


def shallow(value: Json, limit: int = MAX_DEPTH) -> Json:
    """Return a document that is not nested deeper than any object needs to be. Errors: BadRequest."""
    level: list[Json] = [value]
    for _ in range(limit):
        level = [
            child
            for item in level
            if isinstance(item, (dict, list))
            for child in (item.values() if isinstance(item, dict) else item)
        ]
        if not level:
            return value
    raise BadRequest(f"the document is nested deeper than {limit} levels")


def _too_large(message: str) -> Unprocessable:
    return _unprocessable(message, reason="RequestEntityTooLarge", status=413)


def _unprocessable(message: str, *, reason: str = "Invalid", status: int = 422) -> Unprocessable:
    return Unprocessable(message, status=status, details={"reason": reason})


def _as_object(result: object) -> JsonObject:
    if not isinstance(result, dict):
        raise _unprocessable("the patch leaves no object")
    return cast("JsonObject", result)


def apply_merge_patch(document: JsonObject, patch: Json) -> JsonObject:
    """Apply an RFC 7386 merge patch; untouched parts are shared with the original.

    Errors: BadRequest when the patch is no object.
    """
    if not isinstance(patch, dict):
        raise BadRequest(no_object(patch))
    return cast("JsonObject", _merged(document, patch))


def no_object(patch: Json) -> str:
    """Why a patch that is no object is refused."""
    if patch is None:
        return "Invalid JSON Patch"
    kind = {list: "array", str: "string", bool: "bool"}.get(type(patch), "number")
    return (
        f"error decoding patch: json: cannot unmarshal {kind} into Go value of type"
        " map[string]interface {}"
    )


def _merged(target: Json, patch: Json) -> Json:
    if not isinstance(patch, dict):
        return patch
    out = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            out.pop(key, None)
        else:
            out[key] = _merged(out.get(key), value)
    return out
