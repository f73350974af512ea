"""What the search index holds of a document: one row per value, by path.

A row is (path, position) -> key. `path` is a JSON pointer without array indices; `position` is 0 for the
value itself and counts from 1 for what arrays hold. A key orders as searches order values: null, numbers,
texts, booleans; objects and arrays are marks above all of them, so that they exist and equal nothing:

    null NULL · number INTEGER or REAL · text TEXT · false x'00' · true x'01'
    object x'02' · array x'03' · {} x'04' · [] x'05'

What cannot be held exactly (a text over 4,096 characters or with NUL, an integer over 64 bits) or is too much
to write at once raises `TooWide`; such a thing is not indexed but looked at one by one.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final, TypeAlias, cast

from gateway.model.json import Json, JsonObject, Pointer
from gateway.twin.metadata import METADATA

Key: TypeAlias = "int | float | str | bytes | None"
Rows: TypeAlias = dict[tuple[str, int], Key]

MAX_ROWS: Final = 1_000
"""Rows that one change of a thing may write."""
MAX_TEXT: Final = 4_096
"""Characters."""
LARGEST: Final = 2**63 - 1

FALSE, TRUE, OBJECT, ARRAY, NO_MEMBERS, NO_ELEMENTS = (bytes((n,)) for n in range(6))
MEMBERS: Final = ("policyId", "definition", "attributes", "features", METADATA)
"""The parts of a document that can be searched."""


class TooWide(Exception):
    """The index cannot hold this exactly, or not in one write."""


@dataclass(frozen=True, slots=True)
class Changes:
    """What a change does to a thing's rows: `dropped` go; `kept` get a new key; `added` are new.

    Shape:  `is_same_shape` when scalars became other scalars and nothing else happened.
    """

    dropped: list[tuple[str, int]]
    kept: list[tuple[Key, str, int]]
    added: list[tuple[str, int, Key]]
    is_same_shape: bool = False


def rows_of(document: JsonObject) -> Rows:
    """All rows of a document.

    Errors: TooWide.
    """
    rows: Rows = {}
    for member in MEMBERS:
        if member in document:
            _add(rows, "/" + member, document[member])
    return rows


def changes(before: JsonObject, after: JsonObject, at: Pointer = ()) -> Changes:
    """The difference of two documents; what they share is not looked at.

    Shape:  `at` is where the change was written: only metadata may differ beside it.
    Errors: TooWide.
    """
    old: Rows = {}
    new: Rows = {}
    one, other = _below(before, at), _below(after, at)
    beside = before.get(METADATA, _ABSENT) is not after.get(METADATA, _ABSENT)
    if not beside and one is not _ABSENT and other is not _ABSENT and at and at[0] in MEMBERS:
        if _is_scalar(one) and _is_scalar(other):
            return _of_scalars(at, cast("Json", one), cast("Json", other))
        _compare(path_of(at), one, other, old, new)
        return _difference(old, new)
    for member in MEMBERS:
        one, other = before.get(member, _ABSENT), after.get(member, _ABSENT)
        if one is not other:
            _compare("/" + member, one, other, old, new)
    return _difference(old, new)


def _of_scalars(at: Pointer, one: Json, other: Json) -> Changes:
    key = key_of(other)
    if not _differ(key, key_of(one)):
        return Changes([], [], [], is_same_shape=True)  # devices repeat themselves
    return Changes([], [(key, path_of(at), 0)], [], one is not None and other is not None)


def _difference(old: Rows, new: Rows) -> Changes:
    return Changes(
        [place for place in old if place not in new],
        [(key, *place) for place, key in new.items() if place in old and _differ(key, old[place])],
        [(*place, key) for place, key in new.items() if place not in old],
    )


def key_of(value: Json) -> Key:
    """How a value is written, in rows and in queries.

    Errors: TooWide for what a row cannot hold.
    """
    if value is None or isinstance(value, float):
        return value
    if isinstance(value, bool):
        return TRUE if value else FALSE
    if isinstance(value, str):
        if len(value) > MAX_TEXT or "\0" in value:
            raise TooWide
        return value
    if isinstance(value, int):
        if not -LARGEST <= value <= LARGEST:
            raise TooWide
        return value
    if isinstance(value, dict):
        return OBJECT if value else NO_MEMBERS
    return ARRAY if value else NO_ELEMENTS


def path_text(pointer: Pointer) -> str:
    """How rows write a pointer."""
    return "".join(map(segment, pointer))


path_of = lru_cache(maxsize=4_096)(path_text)
"""The same for pointers into things: they repeat."""


def segment(name: str) -> str:
    """A member's name as part of a path."""
    if "~" in name or "/" in name:
        name = name.replace("~", "~0").replace("/", "~1")
    return "/" + name


_ABSENT: Final = object()
"""Stands for a member that is not there; it is no JSON, so no document holds it."""


def _below(document: JsonObject, at: Pointer) -> object:
    value: object = document
    for name in at:
        if not isinstance(value, dict) or name not in value:
            return _ABSENT
        value = value[name]
    return value


def _is_scalar(value: object) -> bool:
    return not isinstance(value, (dict, list))


def _differ(one: Key, other: Key) -> bool:
    return type(one) is not type(other) or one != other


def _compare(path: str, one: object, other: object, old: Rows, new: Rows) -> None:
    if not isinstance(one, dict) or not isinstance(other, dict):
        _add_present(old, path, one)
        _add_present(new, path, other)
        return
    if bool(one) is not bool(other):
        old[path, 0], new[path, 0] = key_of(one), key_of(other)
    for name in one.keys() | other.keys():
        mine, theirs = one.get(name, _ABSENT), other.get(name, _ABSENT)
        if mine is not theirs:
            _compare(path + segment(name), mine, theirs, old, new)


def _add_present(rows: Rows, path: str, value: object) -> None:
    if value is not _ABSENT:
        _add(rows, path, cast("Json", value))


def _add(rows: Rows, path: str, value: Json) -> None:
    if len(rows) >= MAX_ROWS:
        raise TooWide
    rows[path, 0] = key_of(value)
    if isinstance(value, dict):
        for name, below in value.items():
            _add(rows, path + segment(name), below)
    elif isinstance(value, list) and value:
        _add_elements(rows, path, value, [0])


def _add_elements(rows: Rows, path: str, elements: list[Json], count: list[int]) -> None:
    """What an array holds: its scalars once each, and the members of its objects below the same path."""
    seen: set[Key] = set()
    for element in elements:
        if isinstance(element, dict):
            for name, below in element.items():
                _add_inside(rows, path + segment(name), below, count)
        elif not isinstance(element, list):  # what arrays in arrays hold cannot be asked for
            key = key_of(element)
            if key not in seen:
                seen.add(key)
                _place(rows, path, key, count)


def _add_inside(rows: Rows, path: str, value: Json, count: list[int]) -> None:
    _place(rows, path, key_of(value), count)
    if isinstance(value, dict):
        for name, below in value.items():
            _add_inside(rows, path + segment(name), below, count)
    elif isinstance(value, list):
        _add_elements(rows, path, value, count)


def _place(rows: Rows, path: str, key: Key, count: list[int]) -> None:
    if len(rows) >= MAX_ROWS:
        raise TooWide
    count[0] += 1
    rows[path, count[0]] = key
