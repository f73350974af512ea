"""JSON Patch and JSON merge patch, as the API server applies them."""

from __future__ import annotations

import copy
from typing import Any, cast

import jsonpatch
import jsonpointer

from gateway.errors import BadRequest, Unprocessable
from gateway.model.json import Json, JsonObject

MAX_OPERATIONS = 10_000

_REJECTED = "the server rejected our request due to an error in our request"


def apply_json_patch(document: JsonObject, operations: Json) -> JsonObject:
    """Apply RFC 6902 operations to a copy.

    Errors: BadRequest for what is no JSON Patch; Unprocessable (422) for a failing test or a missing path.
    """
    if not isinstance(operations, list) or not all(isinstance(item, dict) for item in operations):
        raise BadRequest(
            "error decoding patch: json: cannot unmarshal object into Go value of type jsonpatch.Patch"
        )
    if len(operations) > MAX_OPERATIONS:
        raise _unprocessable(
            f"The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {len(operations)}",
            reason="RequestEntityTooLarge",
            status=413,
        )
    try:
        patch = jsonpatch.JsonPatch(cast("Any", operations))
        result = patch.apply(copy.deepcopy(document))
    except jsonpatch.InvalidJsonPatch as error:
        raise _unprocessable(f"error decoding patch: {error}") from error
    except jsonpatch.JsonPatchTestFailed as error:
        raise _unprocessable(f"{_REJECTED}: a test operation failed") from error
    except (jsonpatch.JsonPatchException, jsonpointer.JsonPointerException) as error:
        raise _unprocessable(f"{_REJECTED}: {error}") from error
    except (TypeError, KeyError, IndexError, AttributeError) as error:
        raise _unprocessable(f"{_REJECTED}: the patch does not fit the object") from error
    return _as_object(result)


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
