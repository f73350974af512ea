"""What the tables of all groups share: columns, and cells of common parts."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeAlias

from gateway.model.json import Json, JsonObject
from gateway.wire.kube.clock import age_since
from gateway.wire.kube.parts import part, rows, text
from gateway.wire.kube.resources import Column
from gateway.wire.kube.selectors import read_selector, selector_text

NONE, UNSET, UNKNOWN = "<none>", "<unset>", "<unknown>"
MORE_THAN = 3
"""So many entries of a list are shown; what there is beyond is counted."""

Cells: TypeAlias = "Callable[[JsonObject, float], list[Json]]"

NAME = Column("Name", format="name")
AGE = Column("Age")


@dataclass(frozen=True, slots=True)
class Printed:
    """How a kind is printed; the cells of a row, in the order of the columns, for an object at a time."""

    columns: tuple[Column, ...]
    cells: Cells


def columns(*names: str) -> tuple[Column, ...]:
    """Columns by name.

    Shape:  `Name` is first where nothing else is said; `Ready:integer` has another type than string, a
            trailing `*` is shown with `-o wide` only.
    """
    return (NAME, *map(_column, names))


def _column(word: str) -> Column:
    name, _, kind = word.rstrip("*").partition(":")
    return Column(name, kind or "string", priority=1 if word.endswith("*") else 0)


def name_of(item: JsonObject) -> str:
    return text(part(item, "metadata").get("name"))


def age(item: JsonObject, now: float) -> str:
    return age_since(part(item, "metadata").get("creationTimestamp"), now)


def count(item: JsonObject, *path: str) -> int:
    """A number at a path; 0 where there is none."""
    value = part(item, *path[:-1]).get(path[-1])
    return value if isinstance(value, int) else 0


def word(value: Json, default: str = NONE) -> str:
    """A value as a cell; the default where it is absent or empty."""
    return str(value) if value not in (None, "") else default


def flag(value: Json, default: bool = False) -> bool:
    return value if isinstance(value, bool) else default


def labels_text(value: Json) -> str:
    """`a=1,b=2`, by key."""
    table = value if isinstance(value, dict) else {}
    return ",".join(f"{key}={table[key]}" for key in sorted(table)) or NONE


def selector_cell(value: Json, empty: str = NONE) -> str:
    """A label selector as text."""
    return selector_text(read_selector(value)) or empty if isinstance(value, dict) else NONE


def containers(template: JsonObject) -> list[Json]:
    """Names and images of the containers of a template."""
    found = rows(part(template, "spec").get("containers"))
    return [
        ",".join(text(each.get("name")) for each in found),
        ",".join(text(each.get("image")) for each in found),
    ]


def counted(found: Iterable[str], empty: str, most: int = MORE_THAN, joint: str = ",") -> str:
    """The first of a list, and how many more there are."""
    every = list(found)
    shown = joint.join(every[:most])
    if len(every) > most:
        return f"{shown} + {len(every) - most} more..."
    return shown or empty


def strings(value: Json) -> list[str]:
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []
