"""Merge patches (RFC 7396) with Ditto's two additions: keys that are regular expressions, and conditions.

A member `"{{ ~<regex>~ }}": null` removes all sibling keys that the regular expression matches whole; these
go first. Regular expressions come from the network, so only a harmless subset is taken: no quantified
groups, no back references or look-around, at most two unbounded repeats.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Final

import msgspec

from gateway.model.json import Json, JsonObject, Pointer, parse_pointer
from gateway.twin.ditto_errors import ditto_error
from gateway.twin.documents import MAX_DEPTH, MISSING, Maybe, same

_REGEX_KEY = re.compile(r"\{\{\s*~(.*)~\s*\}\}", re.DOTALL)
_MAX_REGEX = 200
_MAX_REPEATS = 2
_FORBIDDEN = re.compile(r"\)[*+{]|\\[1-9]|\(\?(?!:)|\\[kgK]")
_CHARACTER_CLASS = re.compile(r"\[\^?\]?(?:\\.|[^\]\\])*\]")
_REPEAT = re.compile(r"[*+{]")


def merged(target: Maybe, patch: Json) -> Maybe:
    """The value after a merge; shares what the patch does not touch.

    Shape:  a null patch removes (MISSING); objects merge; arrays and scalars replace.
    Errors: BadRequest `things:merge.invalid` for a regular expression that is not allowed.
    """
    if patch is None:
        return MISSING
    if not isinstance(patch, dict):
        return patch
    result = _without_matches(target if isinstance(target, dict) else {}, patch)
    for key, below in patch.items():
        if regex_of(key) is not None:
            continue
        value = merged(result.get(key, MISSING), below)
        if value is MISSING:
            result.pop(key, None)
        else:
            result[key] = value
    return result


def _without_matches(target: JsonObject, patch: JsonObject) -> JsonObject:
    expressions = [regex for key in patch if (regex := regex_of(key)) is not None]
    if not expressions:
        return dict(target)
    return {
        key: value
        for key, value in target.items()
        if not any(expression.fullmatch(key) for expression in expressions)
    }


def regex_of(key: str) -> re.Pattern[str] | None:
    """The regular expression that a key stands for, None for a plain key.

    Errors: BadRequest `things:merge.invalid`.
    """
    if not key.startswith("{{"):
        return None
    match = _REGEX_KEY.fullmatch(key)
    return _compiled(match.group(1)) if match else None


@lru_cache(maxsize=256)
def _compiled(text: str) -> re.Pattern[str]:
    bare = _CHARACTER_CLASS.sub("x", re.sub(r"\\[^1-9kgK]", "x", text))
    if (
        len(text) > _MAX_REGEX
        or _FORBIDDEN.search(bare)
        or len(_REPEAT.findall(bare)) > _MAX_REPEATS
    ):
        raise ditto_error(
            "things:merge.invalid",
            reason=f"the regular expression '{text[:_MAX_REGEX]}' is too complex",
        )
    try:
        return re.compile(text)
    except re.error as error:
        raise ditto_error("things:merge.invalid", reason=f"'{text}': {error}") from error


def check_patch(patch: Json, depth: int = 0) -> None:
    """Refuse keys that are neither allowed nor a regular expression with null, and deep nesting.

    Errors: BadRequest `things:merge.invalid`.
    """
    if depth > MAX_DEPTH:
        raise ditto_error("things:merge.invalid", reason=f"nested deeper than {MAX_DEPTH} levels")
    if not isinstance(patch, dict):
        return
    for key, below in patch.items():
        if regex_of(key) is not None and below is not None:
            raise ditto_error("things:merge.invalid", reason=f"'{key}' takes null only")
        check_patch(below, depth + 1)


def leaves(patch: Json, at: Pointer = ()) -> Iterator[Pointer]:
    """The paths that a patch writes; a regular expression counts as its parent's path."""
    if not isinstance(patch, dict) or not patch:
        yield at
        return
    for key, below in patch.items():
        if regex_of(key) is not None:
            yield at
        else:
            yield from leaves(below, (*at, key))


def difference(before: Maybe, after: Json) -> Maybe:
    """The merge patch between two values, MISSING where they are equal.

    Shape:  merge patches cannot set null: then the result, merged, differs from `after`; callers that
            allow null check by merging.
    """
    if before is MISSING or not isinstance(before, dict) or not isinstance(after, dict):
        return MISSING if before is not MISSING and same(before, after) else after
    patch: JsonObject = {key: None for key in before if key not in after}
    for key, value in after.items():
        if before.get(key, MISSING) is value:
            continue
        below = difference(before.get(key, MISSING), value)
        if below is not MISSING:
            patch[key] = below
    return patch or MISSING


def minimized(patch: Json, present: Maybe) -> Maybe:
    """A patch without the members that would change nothing; MISSING when none is left."""
    if patch is None:
        return MISSING if present is MISSING else None
    if not isinstance(patch, dict) or not isinstance(present, dict):
        return MISSING if present is not MISSING and same(patch, present) else patch
    kept: JsonObject = {}
    for key, below in patch.items():
        regex = regex_of(key)
        if regex is not None:
            if any(regex.fullmatch(name) for name in present):
                kept[key] = None
            continue
        value = minimized(below, present.get(key, MISSING))
        if value is not MISSING:
            kept[key] = value
    return kept or MISSING


Holds = Callable[[str], bool]


def patch_conditions(given: object) -> Mapping[Pointer, str]:
    """The header `merge-thing-patch-conditions`: which part of a patch counts under which condition.

    Errors: BadRequest `header.invalid`.
    """
    conditions = given
    if isinstance(given, str):
        try:
            conditions = msgspec.json.decode(given)
        except (msgspec.DecodeError, RecursionError):
            conditions = None
    if not isinstance(conditions, dict) or not all(isinstance(v, str) for v in conditions.values()):
        raise ditto_error(
            "header.invalid",
            header="merge-thing-patch-conditions",
            value=str(given)[:200],
            hint="It is a JSON object from JSON pointer to RQL.",
        )
    return {
        parse_pointer(key.removeprefix("thing:")): condition
        for key, condition in conditions.items()
    }


def filtered(patch: Json, at: Pointer, conditions: Mapping[Pointer, str], holds: Holds) -> Json:
    """Drop the parts of a patch under pointers whose condition is false.

    Shape:  `at` is where the patch applies, the pointers count from the thing's root; an emptied object
            stays `{}`.
    """
    dropped = {pointer for pointer, condition in conditions.items() if not holds(condition)}
    for pointer in dropped:
        if pointer[: len(at)] == at:
            patch = _dropped(patch, pointer[len(at) :])
        elif at[: len(pointer)] == pointer:
            return {}
    return patch


def _dropped(patch: Json, pointer: Pointer) -> Json:
    if not pointer:
        return {}
    if not isinstance(patch, dict) or pointer[0] not in patch:
        return patch
    if len(pointer) == 1:
        return {key: value for key, value in patch.items() if key != pointer[0]}
    return {**patch, pointer[0]: _dropped(patch[pointer[0]], pointer[1:])}


REGEX_KEY_FORM: Final = "{{ ~<regex>~ }}"
"""How such a key looks, for texts."""
