"""RQL as SQL over the search index: the second back end of the tree, which agrees with the predicate.

Every comparison becomes a condition on the thing `t` that is true or false, never NULL; and, where the
index can find the things that meet it, a driver: a query of their ids. Values are bound, never written
into the text. Source: `gateway.twin.rql_predicate` with `Semantics.SEARCH` says what each operator means.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from gateway.model.glob import glob_matches
from gateway.model.json import Json, Pointer
from gateway.store.leaves import LARGEST, MAX_TEXT, path_text
from gateway.twin.rql import Comparison, Logical, Node, too_large
from gateway.twin.rql_predicate import resolved

FALSE: Final = "0"
TRUE: Final = "1"

COLUMNS: Final = {
    "thingId": "thing_id",
    "namespace": "namespace",
    "_namespace": "namespace",
    "_revision": "revision",
    "_created": "created",
    "_modified": "modified",
}
"""Properties that are columns of the thing itself; the others are rows of the index."""

_NUMERIC_COLUMNS: Final = frozenset(("revision",))
_DRIVING_COLUMNS: Final = frozenset(("thing_id", "namespace", "created", "modified", "revision"))
LED: Final = "r.value"
CHECKED: Final = "+r.value"
"""The plus keeps SQLite from looking a known thing's value up by the value: the thing is the shorter way."""
_MAX_GLOB: Final = 45_000


@dataclass(frozen=True, slots=True)
class Sql:
    """A piece of SQL and what it binds."""

    text: str
    values: tuple[Any, ...] = ()

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class Driver:
    """A query of the ids of things that may match (perhaps one several times); all that match are among them.

    Shape:  `is_in_order` says that the ids come in their order: one path, one value. `is_distinct` that none
            comes twice. `covers` is the part of the filter that all of them meet.
    """

    sql: Sql
    is_in_order: bool = False
    is_distinct: bool = False
    covers: Node | None = None


def path_matches(pattern: str, path: str) -> bool:
    """True when a path meets a pattern whose segments may be `*`."""
    wanted, found = pattern.split("/"), path.split("/")
    return len(wanted) == len(found) and all(
        one in ("*", other) for one, other in zip(wanted, found, strict=True)
    )


def _ilike(value: str, pattern: str) -> bool:
    return glob_matches(pattern, value.lower())


def add_functions(connection: sqlite3.Connection) -> None:
    """Give a connection the functions that compiled queries call."""
    connection.create_function("twin_path", 2, path_matches, deterministic=True)
    connection.create_function("twin_ilike", 2, _ilike, deterministic=True)


# --- the tree ----------------------------------------------------------------------------------


def condition(node: Node, now: datetime, met: Node | None = None) -> Sql:
    """What is true of `t` exactly when the filter holds for the whole thing; `met` is known to hold."""
    if node is met:
        return Sql(TRUE)
    if isinstance(node, Comparison):
        return _atom(node, now).condition()
    if node.op == "not":
        inner = condition(node.operands[0], now)
        return Sql(f"NOT {inner}", inner.values)
    under = met if node.op == "and" else None
    parts = [condition(operand, now, under) for operand in node.operands]
    if node.op == "and":
        parts = [part for part in parts if part.text != TRUE] or parts[:1]
    return _joined(node.op, parts)


def widened(node: Node, now: datetime, *, negated: bool = False) -> Sql:
    """What is true of `t` at least when the filter holds for some part of the thing.

    A caller who sees a part sees fewer values: what needs a value still needs it, what needs the absence
    of one may always hold.
    """
    if isinstance(node, Comparison):
        if negated or node.op == "empty":
            return Sql(TRUE)
        if node.op == "ne":
            node = Comparison("exists", node.property)
        return _atom(node, now).condition()
    if node.op == "not":
        return widened(node.operands[0], now, negated=not negated)
    op = _OTHER[node.op] if negated else node.op
    return _joined(op, [widened(operand, now, negated=negated) for operand in node.operands])


_OTHER: Final = {"and": "or", "or": "and"}


def _joined(op: str, parts: Sequence[Sql]) -> Sql:
    """Halves of halves: SQLite bounds the depth of an expression."""
    if len(parts) == 1:
        return parts[0]
    middle = len(parts) // 2
    one, other = _joined(op, parts[:middle]), _joined(op, parts[middle:])
    return Sql(f"({one} {op.upper()} {other})", one.values + other.values)


def drivers(node: Node, now: datetime, *, negated: bool = False) -> list[Driver]:
    """Ways to find the candidates of a filter by the index; none when only looking at all things would do."""
    if isinstance(node, Comparison):
        driver = None if negated else _atom(node, now).driver(node)
        return [] if driver is None else [driver]
    if node.op == "not":
        return drivers(node.operands[0], now, negated=not negated)
    if (node.op == "and") is not negated:
        return [
            driver for operand in node.operands for driver in drivers(operand, now, negated=negated)
        ]
    return _either(node, now, negated=negated)


def _either(node: Logical, now: datetime, *, negated: bool) -> list[Driver]:
    each = [drivers(operand, now, negated=negated) for operand in node.operands[:_MAX_UNION]]
    if len(node.operands) > _MAX_UNION or not all(each):
        return []
    chosen = [found[0] for found in each]
    are_met = all(
        driver.covers is operand for driver, operand in zip(chosen, node.operands, strict=True)
    )
    text = " UNION ".join(f"SELECT thing_id FROM ({driver.sql})" for driver in chosen)  # noqa: S608
    values = tuple(value for driver in chosen for value in driver.sql.values)
    covers = node if are_met and not negated else None
    return [Driver(Sql(text, values), is_distinct=True, covers=covers)]


_MAX_UNION: Final = 64


def tests_on(node: Node | None, pointer: Pointer, now: datetime, place: str) -> list[Sql]:
    """What a filter demands of the value at a pointer, where that is no array, as tests of `place`."""
    if node is None:
        return []
    if isinstance(node, Logical):
        if node.op != "and":
            return []
        return [
            test for operand in node.operands for test in tests_on(operand, pointer, now, place)
        ]
    if node.property.pointer != pointer or node.op not in _DEMANDING:
        return []
    return [_tests(node.op, place, [resolved(value, now) for value in node.values])]


def demands(node: Node | None, pointer: Pointer) -> bool:
    """True where a filter lets nothing pass that has no value at a pointer, or null there."""
    if isinstance(node, Logical):
        return node.op == "and" and any(demands(operand, pointer) for operand in node.operands)
    if node is None or node.property.pointer != pointer:
        return False
    return node.op in _DEMANDING and None not in node.values


_DEMANDING: Final = frozenset(("eq", "in", "gt", "ge", "lt", "le", "like"))


# --- comparisons -------------------------------------------------------------------------------


def _atom(node: Comparison, now: datetime) -> _Row | _Column:
    pointer = node.property.pointer
    values = [resolved(value, now) for value in node.values]
    column = COLUMNS.get(pointer[0])
    if column is None:
        return _Row(node.op, pointer, values)
    return _Column(node.op, column, values, is_there=len(pointer) == 1)


@dataclass(frozen=True, slots=True)
class _Row:
    """A comparison with what the index holds."""

    op: str
    pointer: Pointer
    values: list[Json]

    def condition(self) -> Sql:
        if self.op == "exists":
            return self._exists(Sql(TRUE))
        if self.op == "empty":
            return _not(self._exists(Sql(_NOT_EMPTY)))
        if self.op == "ne":
            there = self._exists(Sql(TRUE))
            equal = self._exists(_test("eq", CHECKED, self.values[0]))
            return Sql(f"({there} AND NOT {equal})", there.values + equal.values)
        return self._exists(self.tests(CHECKED))

    def driver(self, node: Comparison) -> Driver | None:
        if self.op == "empty":
            return None
        test = Sql(TRUE) if self.op in ("exists", "ne") else self.tests(LED)
        covers = None if self.op == "ne" else node
        if "*" in self.pointer:
            return Driver(self._ids_of_any(test), covers=covers)
        if self.op == "eq":
            return Driver(self._ids(test), is_in_order=True, covers=covers)
        return Driver(self._each_once(test), is_distinct=True, covers=covers)

    def tests(self, place: str) -> Sql:
        return _tests(self.op, place, self.values)

    def _exists(self, test: Sql) -> Sql:
        if test.text == FALSE:
            return test
        where = path_condition(self.pointer, "r.path" if "*" not in self.pointer else "+r.path")
        return Sql(
            "EXISTS (SELECT 1 FROM search_rows r WHERE r.thing_id = t.thing_id"  # noqa: S608
            f" AND {where} AND {test})",
            where.values + test.values,
        )

    def _ids(self, test: Sql, more: str = "") -> Sql:
        where = path_condition(self.pointer, "r.path")
        return Sql(
            f"SELECT r.thing_id FROM {_BY_VALUE} WHERE {where} AND {test}{more}",  # noqa: S608
            where.values + test.values,
        )

    def _each_once(self, test: Sql) -> Sql:
        """Things whose own value meets a test, then those in which an array holds one that does.

        What has a scalar at a path holds no array there; for other tests the own value comes first.
        """
        own = self._ids(test, " AND r.position = 0")
        held = self._ids(test, " AND r.position > 0" + (_NO_OWN if test.text == TRUE else ""))
        held = Sql(f"SELECT DISTINCT thing_id FROM ({held})", held.values)  # noqa: S608
        return Sql(f"{own} UNION ALL {held}", own.values + held.values)

    def _ids_of_any(self, test: Sql) -> Sql:
        where = _path_test(self.pointer, "p")
        return Sql(
            f"SELECT r.thing_id FROM search_paths p CROSS JOIN {_BY_VALUE}"  # noqa: S608
            f" ON r.path = p.id WHERE {where} AND {test}",
            where.values + test.values,
        )


_BY_VALUE: Final = "search_rows r INDEXED BY search_rows_by_value"
_NO_OWN: Final = (
    " AND NOT EXISTS (SELECT 1 FROM search_rows o"
    " WHERE o.thing_id = r.thing_id AND o.path = r.path AND o.position = 0)"
)
_NOT_EMPTY: Final = (
    "(r.value IS NOT NULL AND r.value <> '' AND r.value <> x'04' AND r.value <> x'05')"
)


def path_condition(pointer: Pointer, column: str) -> Sql:
    """True of rows at a pointer."""
    if "*" not in pointer:
        return Sql(
            f"{column} = (SELECT id FROM search_paths WHERE path = ?)",  # noqa: S608
            (text_value(path_text(pointer)),),
        )
    where = _path_test(pointer, "p")
    return Sql(f"{column} IN (SELECT p.id FROM search_paths p WHERE {where})", where.values)  # noqa: S608


def _path_test(pointer: Pointer, alias: str) -> Sql:
    text = (text_value(path_text(pointer)),)
    if pointer[0] == "features" and pointer[1:2] == ("*",) and "*" not in pointer[2:]:
        return Sql(f"{alias}.pattern = ?", text)
    return Sql(f"twin_path(?, {alias}.path)", text)


@dataclass(frozen=True, slots=True)
class _Column:
    """A comparison with a column: always there, never null; `is_there` is False for what lies below it."""

    op: str
    name: str
    values: list[Json]
    is_there: bool

    def condition(self) -> Sql:
        if self.op in ("exists", "empty"):
            return Sql(TRUE if self.is_there is (self.op == "exists") else FALSE)
        if not self.is_there:
            return Sql(FALSE)
        if self.op == "ne":
            return _not(_tests("eq", f"t.{self.name}", [v for v in self.values if self._fits(v)]))
        return self._tests()

    def driver(self, node: Comparison) -> Driver | None:
        if self.name not in _DRIVING_COLUMNS or self.op in ("exists", "empty", "ne"):
            return None
        test = self.condition()
        sql = Sql(f"SELECT t.thing_id FROM things t WHERE {test}", test.values)  # noqa: S608
        return Driver(sql, is_distinct=True, covers=node)

    def _tests(self) -> Sql:
        return _tests(self.op, f"t.{self.name}", [one for one in self.values if self._fits(one)])

    def _fits(self, value: Json) -> bool:
        if isinstance(value, str):
            return self.name not in _NUMERIC_COLUMNS
        return self.name in _NUMERIC_COLUMNS and _is_number(value)


def _not(sql: Sql) -> Sql:
    return Sql(f"NOT {sql}", sql.values)


# --- values ------------------------------------------------------------------------------------


def _is_number(value: Json) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _tests(op: str, place: str, values: Sequence[Json]) -> Sql:
    """True when what is at `place` compares so with one of the values of a filter."""
    if op != "in":
        return _test(op, place, values[0]) if values else Sql(FALSE)
    listed = tuple(_listed(value) for value in values if _can_be_listed(value))
    parts = [_test("eq", place, value) for value in values if not _can_be_listed(value)]
    if listed:
        parts.append(Sql(f"{place} IN ({','.join('?' * len(listed))})", listed))
    parts = [part for part in parts if part.text != FALSE]
    return _joined("or", parts) if parts else Sql(FALSE)


def _can_be_listed(value: Json) -> bool:
    """True for what is equal to a row's value by being the same."""
    if isinstance(value, str):
        return isinstance(text_value(value), str)
    if isinstance(value, (bool, float)):
        return True
    return isinstance(value, int) and -LARGEST <= value <= LARGEST


def _listed(value: Json) -> Any:
    return bytes((value,)) if isinstance(value, bool) else value


def _test(op: str, place: str, value: Json) -> Sql:
    """True when what is at `place` compares so with a value of a filter."""
    if op in ("like", "ilike"):
        return _LIKES[op](place, str(value))
    if value is None:
        return Sql(f"{place} IS NULL" if op == "eq" else FALSE)
    if isinstance(value, bool):
        return _compared(op, place, Sql("?", (bytes((value,)),)), "x'00'", "x'02'")
    if isinstance(value, str):
        return _compared(op, place, _text(value), "''", "x''")
    if not isinstance(value, (int, float)):
        return Sql(FALSE)  # a filter has no objects
    exact_op, number = _number(op, value)
    if exact_op is None:
        return Sql(FALSE)
    return _compared(exact_op, place, Sql("?", (number,)), None, "''")


_SIGNS: Final = {"eq": "=", "gt": ">", "ge": ">=", "lt": "<", "le": "<="}


def _compared(op: str, place: str, bound: Sql, least: str | None, beyond: str) -> Sql:
    """Only values of the same type: `least` is the first of them, `beyond` the first after them."""
    test = f"{place} {_SIGNS[op]} {bound}"
    if op in ("gt", "ge"):
        test += f" AND {place} < {beyond}"
    elif op in ("lt", "le") and least is not None:
        test += f" AND {place} >= {least}"
    return Sql(f"({test})", bound.values)


def _text(value: str) -> Sql:
    bound = text_value(value)
    return Sql("?" if isinstance(bound, str) else "CAST(? AS TEXT)", (bound,))


def text_value(value: str) -> str | bytes:
    """A text as it can be bound; one with lone surrogates as bytes, which equal no stored text."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return value.encode("utf-8", "surrogatepass")
    return value


def _number(op: str, value: int | float) -> tuple[str | None, int | float]:
    """A number that can be bound, with the operator that then means the same; None for "never"."""
    if isinstance(value, float) or -LARGEST <= value <= LARGEST:
        return op, value
    try:
        near = float(value)
    except OverflowError:
        near = float("inf") if value > 0 else float("-inf")
    if near == value:
        return op, near
    if op == "eq":
        return None, near
    if op in ("lt", "le"):
        return ("lt" if near > value else "le"), near
    return ("gt" if near < value else "ge"), near


# --- patterns ----------------------------------------------------------------------------------


def _like(place: str, pattern: str) -> Sql:
    glob = _glob(pattern)
    if glob is None:
        return Sql(FALSE)
    low, high = _prefix(pattern)
    if high is None:
        return Sql(f"({place} >= ? AND {place} < x'' AND {place} GLOB ?)", (low, glob))
    return Sql(f"({place} >= ? AND {place} < ? AND {place} GLOB ?)", (low, high, glob))


def _like_any_case(place: str, pattern: str) -> Sql:
    """ASCII texts by SQLite, others by the predicate's own function: only it knows their lower case."""
    lower = pattern.lower()
    glob = _glob(lower)
    if glob is None:
        return Sql(FALSE)
    return Sql(
        f"({place} >= '' AND {place} < x'' AND"
        f" CASE WHEN length({place}) = length(CAST({place} AS BLOB))"
        f" THEN lower({place}) GLOB ? ELSE twin_ilike({place}, ?) END)",
        (glob, lower),
    )


_LIKES: Final[dict[str, Callable[[str, str], Sql]]] = {"like": _like, "ilike": _like_any_case}


def _glob(pattern: str) -> str | None:
    """A pattern as SQLite's GLOB has it; None for one that no stored text meets.

    Errors: BadRequest for one that is too long to try.
    """
    pattern = re.sub(r"\*+", "*", pattern)
    if "\0" in pattern or isinstance(text_value(pattern), bytes):
        return None
    if len(pattern.replace("*", "")) > MAX_TEXT:
        return None
    glob = pattern.replace("[", "[[]")
    if len(glob.encode()) > _MAX_GLOB:
        raise too_large("a pattern that is too long")
    return glob


def _prefix(pattern: str) -> tuple[str, str | None]:
    """The texts that begin as a pattern does: the first of them, and the first after them if there is one."""
    head = re.split(r"[*?]", pattern, maxsplit=1)[0]
    if not head or ord(head[-1]) >= 0xD7FF:
        return head, None
    return head, head[:-1] + chr(ord(head[-1]) + 1)
