"""The pieces of a search's SQL: its sources, its sort keys, and what comes after a place in the order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import Any, Final

from gateway.store.leaves import FALSE as NO
from gateway.store.leaves import LARGEST
from gateway.store.leaves import TRUE as YES
from gateway.store.search import Scalar, SortKey
from gateway.store.search_sql import COLUMNS, TRUE, Sql, path_condition

IN_ORDER: Final = "things t INDEXED BY things_in_order"


@dataclass(frozen=True, slots=True)
class Key:
    """A sort key as SQL: `value` is the expression; `join` brings its row in, `path` where it is one."""

    key: SortKey
    value: str
    join: Sql | None = None

    @property
    def order(self) -> str:
        return f"{self.value} DESC" if self.key.is_descending else self.value


def policy_says(subjects: Sequence[str], signatures: Sequence[int]) -> Sql:
    """True of things whose policy has one of these signatures for one of these subjects."""
    return Sql(
        "EXISTS (SELECT 1 FROM policy_readers g WHERE g.policy_id = t.policy_id"  # noqa: S608
        f" AND g.subject IN ({marks(subjects)}) AND +g.signature IN ({marks(signatures)}))",
        (*subjects, *signatures),
    )


def led_by(driver: Sql) -> str:
    """A source: the candidates of a driver, each once."""
    ids = f"(SELECT DISTINCT thing_id FROM ({driver})) d"  # noqa: S608
    return f"{ids} CROSS JOIN things t ON t.thing_id = d.thing_id"


_WALKS: Final = {
    "t.modified": "things t INDEXED BY things_by_modified",
    "t.created": "things t INDEXED BY things_by_created",
    "t.thing_id": IN_ORDER,
}


def walk_of(value: str) -> str:
    """The source that has things in the order of a column, any where there is no index for it."""
    return _WALKS.get(value, "things t")


def all_of(parts: Sequence[Sql]) -> Sql:
    """True where all parts are."""
    kept = [part for part in parts if part.text != TRUE] or [Sql(TRUE)]
    return Sql(" AND ".join(map(str, kept)), tuple(value for one in kept for value in one.values))


def marks(values: Sequence[object]) -> str:
    """Places for values to be bound."""
    return ",".join("?" * len(values))


def key_for(key: SortKey, number: int) -> Key:
    """A sort key of a search; `number` tells it from the others."""
    column = COLUMNS.get(key.pointer[0])
    if column is not None:
        return Key(key, f"t.{column}" if len(key.pointer) == 1 else "NULL")
    if "*" in key.pointer:
        return Key(key, "NULL")
    alias = f"s{number}"
    where = path_condition(key.pointer, f"{alias}.path")
    join = Sql(
        f" LEFT JOIN search_rows {alias} ON {alias}.thing_id = t.thing_id AND {where}"
        f" AND {alias}.position = 0 AND +{alias}.value < x'02'",
        where.values,
    )
    return Key(key, f"{alias}.value", join)


def beyond(key: Key, value: Scalar, rest: Sql) -> Sql:
    """True of what stands after `value` by this key, or beside it and then after by the others."""
    name, bound = key.value, bindable(value)
    equal = Sql(f"({name} IS ? AND {rest})", (bound, *rest.values))
    if value is None:
        if key.key.is_descending:
            return equal
        return Sql(f"({name} IS NOT NULL OR {equal})", equal.values)
    if key.key.is_descending:
        return Sql(f"({name} < ? OR {name} IS NULL OR {equal})", (bound, *equal.values))
    return Sql(f"({name} > ? OR {equal})", (bound, *equal.values))


def bindable(value: Scalar) -> Any:
    """A sort value as rows have it."""
    if isinstance(value, bool):
        return YES if value else NO
    if isinstance(value, int) and not -LARGEST <= value <= LARGEST:
        return inf if value > 0 else -inf  # no certain hit has such a value
    return value


def value_of(found: Any) -> Scalar:
    """A sort value as JSON; booleans are bytes in the index."""
    return found == YES if isinstance(found, bytes) else found
