"""JSON Patch and JSON merge patch, as the API server applies them."""

from __future__ import annotations

from typing import Any, cast

import jsonpatch
import jsonpointer
import msgspec

from gateway.errors import BadRequest, Unprocessable
from gateway.model.json import Json, JsonObject

MAX_OPERATIONS = 10_000
MAX_COPIED = 3_145_728
"""Bytes that the `copy` operations of one patch may add up to: each can double an object."""
MAX_DEPTH = 128
"""Levels of a document; a patch of flat operations could pile up any number."""

_REJECTED = "the server rejected our request due to an error in our request"


def apply_json_patch(document: JsonObject, operations: Json) -> JsonObject:
    """Apply RFC 6902 operations to a copy; neither document nor operations are changed.

    Errors: BadRequest for what is no JSON Patch or nests too deeply; Unprocessable (422) for a failing test
            or a missing path, (413) for too many operations or bytes copied.
    """
    if not isinstance(operations, list) or not all(isinstance(item, dict) for item in operations):
        raise BadRequest(
            "error decoding patch: json: cannot unmarshal object into Go value of type jsonpatch.Patch"
        )
    if len(operations) > MAX_OPERATIONS:
        raise _too_large(
            f"The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {len(operations)}"
        )
    try:
        result = _patched(_clone(document), _clone(operations))
    except jsonpatch.InvalidJsonPatch as error:
        raise _unprocessable(f"error decoding patch: {error}") from error
    except (
        jsonpatch.JsonPatchException,
        jsonpointer.JsonPointerException,
        RecursionError,
        TypeError,
        KeyError,
        IndexError,
        AttributeError,
    ) as error:
        raise _unprocessable(_REJECTED) from error
    return _as_object(shallow(result))


def _patched(document: Any, operations: Any) -> Json:
    copied = 0
    for operation in operations:
        patch = jsonpatch.JsonPatch([operation])
        if operation.get("op") == "copy":
            copied += _size(jsonpointer.resolve_pointer(document, operation.get("from", "")))
            if copied > MAX_COPIED:
                raise _too_large(f"The copies of a JSON patch may add {MAX_COPIED} bytes at most")
        document = patch.apply(document, in_place=True)
    return cast("Json", document)


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
        raise BadRequest("error decoding patch: expected a JSON object")
    return cast("JsonObject", _merged(document, patch))


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
