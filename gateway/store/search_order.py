"""The pieces of a search's SQL: its sources, its sort keys, and what comes after a place in the order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import Any, Final

from gateway.store.leaves import FALSE as NO
from gateway.store.leaves import LARGEST
from gateway.store.leaves import TRUE as YES
from gateway.store.search import Ask, Scalar, SortKey
from gateway.store.search_sql import COLUMNS, FALSE, TRUE, Driver, Sql, path_condition
from gateway.twin.namespaces import is_exact

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


def ids_of(driver: Driver) -> Sql:
    """The candidates of a driver, each once."""
    if driver.is_distinct:
        return driver.sql
    return Sql(f"SELECT DISTINCT thing_id FROM ({driver.sql})", driver.sql.values)  # noqa: S608


def led_by(driver: Driver) -> Sql:
    """A source: the candidates of a driver."""
    ids = ids_of(driver)
    return Sql(f"({ids}) d CROSS JOIN things t ON t.thing_id = d.thing_id", ids.values)


def in_scope(ask: Ask) -> list[Sql]:
    """True of things in the namespaces that are asked for and may be touched."""
    found = []
    if ask.namespaces is not None:
        found.append(Sql(f"t.namespace IN ({marks(ask.namespaces)})", ask.namespaces))
        if len(ask.namespaces) == 1:
            (name,) = ask.namespaces
            found.append(Sql("t.thing_id >= ? AND t.thing_id < ?", (f"{name}:", f"{name};")))
    if ask.scope.allowed is not None:
        found.append(any_of([_like(pattern) for pattern in ask.scope.allowed]))
    for pattern in ask.scope.blocked:
        like = _like(pattern)
        found.append(Sql(f"NOT {like}", like.values))
    return found


def in_namespaces(ask: Ask) -> list[Driver]:
    """The things of the namespaces that are asked for, or that alone may be touched."""
    names = ask.namespaces
    if names is None and ask.scope.allowed is not None and all(map(is_exact, ask.scope.allowed)):
        names = ask.scope.allowed
    if names is None:
        return []
    test = f"t.namespace IN ({marks(names)})"
    return [Driver(Sql(f"SELECT t.thing_id FROM things t WHERE {test}", names), is_distinct=True)]  # noqa: S608


def _like(pattern: str) -> Sql:
    """True of things in the namespaces that a pattern means; names of namespaces have no `[`."""
    sign = "=" if is_exact(pattern) else "GLOB"
    return Sql(f"(t.namespace {sign} ?)", (pattern,))


_WALKS: Final = {
    "t.modified": "things t INDEXED BY things_by_modified",
    "t.created": "things t INDEXED BY things_by_created",
    "t.thing_id": IN_ORDER,
    "t.revision": "things t INDEXED BY things_by_revision",
    "t.namespace": "things t INDEXED BY things_by_namespace",
}


def walk_of(value: str) -> str:
    """The source that has things in the order of a column, any where there is no index for it."""
    return _WALKS.get(value, "things t")


def all_of(parts: Sequence[Sql]) -> Sql:
    """True where all parts are."""
    if any(part.text == FALSE for part in parts):
        return Sql(FALSE)
    return _joined("AND", [part for part in parts if part.text != TRUE], TRUE)


def any_of(parts: Sequence[Sql]) -> Sql:
    """True where some part is."""
    return _joined("OR", [part for part in parts if part.text != FALSE], FALSE)


def _joined(op: str, parts: Sequence[Sql], of_none: str) -> Sql:
    if not parts:
        return Sql(of_none)
    if len(parts) == 1:
        return parts[0]
    text = f" {op} ".join(map(str, parts))
    return Sql(f"({text})", tuple(value for one in parts for value in one.values))


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
