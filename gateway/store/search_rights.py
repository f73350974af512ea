"""Who may see a hit: what the caller's signatures say of each thing, as SQL on the thing `t`."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from datetime import UTC
from typing import Final

from gateway.model.json import Pointer
from gateway.store.readers import ANYBODY, Judgement, Rights, judge
from gateway.store.search import Ask
from gateway.store.search_memory import Memory
from gateway.store.search_order import all_of, any_of, marks
from gateway.store.search_sql import COLUMNS, FALSE, Driver, Sql
from gateway.twin.rql import properties

_MAX_SIGNATURES: Final = 500
"""Signatures of one caller that are judged; things under policies with more are judged one by one."""
_MAX_NAMESPACES: Final = 1_000
_FEW_POLICIES: Final = 64
"""Policies that are listed in the query instead of looked up for each thing."""

_NEXT_SIGNATURE: Final = """
SELECT g.signature, s.body
FROM policy_readers g INDEXED BY policy_readers_by_subject
CROSS JOIN policy_signatures s ON s.signature = g.signature
WHERE g.subject = ? AND g.signature > ? ORDER BY g.signature LIMIT 1
"""
_NEXT_NAMESPACE: Final = """
SELECT namespace FROM things INDEXED BY things_by_namespace WHERE namespace > ? ORDER BY namespace LIMIT 1
"""
_NEXT_POLICY: Final = """
SELECT policy_id FROM things INDEXED BY things_by_policy WHERE policy_id > ? ORDER BY policy_id LIMIT 1
"""
_BY_POLICY: Final = "things t INDEXED BY things_by_policy"
_IS_STALE: Final = Sql(
    "EXISTS (SELECT 1 FROM policy_stale x CROSS JOIN policy_depends y"
    " ON y.policy_id = t.policy_id AND y.source = x.source WHERE y.policy_id > x.after)"
)
_STALE_THINGS: Final = Sql(
    "SELECT t.thing_id FROM policy_stale x CROSS JOIN policy_depends y INDEXED BY policy_depends_by_source"
    " ON y.source = x.source AND y.policy_id > x.after"
    " CROSS JOIN things t INDEXED BY things_by_policy ON t.policy_id = y.policy_id"
)


class Readable:
    """What one caller may read, for one query, in one snapshot."""

    def __init__(self, connection: sqlite3.Connection, ask: Ask, memory: Memory) -> None:
        self._connection = connection
        self._memory = memory
        self._subjects = ask.subjects
        self._everybody = (*ask.subjects, ANYBODY)
        self.judged = self._judge(ask)
        self._has_stale = memory.once("stale", self._is_any_stale)
        self._few = self._few_policies()
        few = self._few
        self.sees_all = few is not None and memory.once(("all", few), lambda: self._is_all(few))
        """True when no thing is hidden from the caller, not for this query."""
        self.certain = self._certain()
        """True of things whose policy lets the caller read all that the query names."""

    @property
    def is_certain(self) -> bool:
        """True when the other things are hidden from the caller altogether."""
        return self.judged.is_certain and not self._has_stale

    def uncertain(self) -> Sql:
        """True of things whose policy may let the caller read some of it."""
        parts = [self._says(self.judged.unsure), *self._odd()]
        may = any_of(parts)
        return all_of([may, Sql(f"NOT {self.certain}", self.certain.values)])

    def anyhow(self) -> Sql:
        """True of things whose policy may let the caller read anything."""
        return any_of([self._says(self.judged.good), self._says(self.judged.unsure), *self._odd()])

    def certain_things(self) -> Driver | None:
        """The things that may be certain, by their policies."""
        if not self.judged.good:
            return None
        return Driver(self._under(self._subjects, self.judged.good.all))

    def source(self) -> Sql:
        """The things that may be certain, each once."""
        if self._few is not None:
            return Sql(_BY_POLICY)
        good = self.judged.good.all
        policies = (
            "SELECT DISTINCT policy_id FROM policy_readers INDEXED BY policy_readers_by_subject"  # noqa: S608
            f" WHERE subject IN ({marks(self._subjects)}) AND signature IN ({marks(good)})"
        )
        return Sql(
            f"({policies}) p CROSS JOIN {_BY_POLICY} ON t.policy_id = p.policy_id",
            (*self._subjects, *good),
        )

    def uncertain_things(self) -> Driver:
        """The things that may be uncertain, by their policies."""
        judged = self.judged
        numbers = (*judged.unsure.all, *judged.bad.all)
        parts = [self._under(self._everybody, numbers)]
        if judged.known is not None:
            parts.append(self._under(self._everybody, judged.known, "NOT IN"))
        if self._has_stale:
            parts.append(_STALE_THINGS)
        text = " UNION ALL ".join(f"SELECT * FROM ({part})" for part in parts)  # noqa: S608
        return Driver(Sql(text, tuple(value for part in parts for value in part.values)))

    # --- judging ------------------------------------------------------------------------------------

    def _judge(self, ask: Ask) -> Judgement:
        bodies, are_all = self._memory.once(("bodies", self._everybody), self._bodies)
        pointers: list[Pointer] = [key.pointer for key in ask.sort]
        if ask.node is not None:
            pointers += [found.pointer for found in properties(ask.node)]
        asked = [pointer for pointer in pointers if pointer[0] not in COLUMNS]
        now = ask.now.astimezone(UTC).isoformat(timespec="microseconds")[:-6] + "Z"
        return judge(
            bodies,
            ask.subjects,
            asked,
            now,
            lambda: ask.namespaces or self._memory.once("namespaces", self._namespaces),
            are_all=are_all,
        )

    def _bodies(self) -> tuple[dict[int, str], bool]:
        """The signatures of the caller's subjects, each found by one step into the index; are these all?"""
        found: dict[int, str] = {}
        for subject in dict.fromkeys(self._everybody):
            last = 0
            while row := self._connection.execute(_NEXT_SIGNATURE, (subject, last)).fetchone():
                last, body = row
                if len(found) >= _MAX_SIGNATURES and last not in found:
                    return found, False
                found[last] = body
        return found, True

    def _namespaces(self) -> list[str] | None:
        """The namespaces that things are in, each found by one step; None for too many."""
        found: list[str] = []
        last = ""
        while row := self._connection.execute(_NEXT_NAMESPACE, (last,)).fetchone():
            last = row[0]
            found.append(last)
            if len(found) > _MAX_NAMESPACES:
                return None
        return found

    # --- as SQL ------------------------------------------------------------------------------------

    def _certain(self) -> Sql:
        if not self.judged.good or not self._subjects:
            return Sql(FALSE)
        if self.sees_all:
            return Sql("t.policy_id IS NOT NULL")
        if self._few is not None:
            return Sql(f"t.policy_id IN ({marks(tuple(self._few))})", tuple(self._few))
        parts = [self._says(self.judged.good, self._subjects)]
        return all_of([*parts, *(Sql(f"NOT {odd}", odd.values) for odd in self._odd())])

    def _few_policies(self) -> frozenset[str] | None:
        """The policies by name, where they are few and say the same in all namespaces."""
        good, judged = self.judged.good, self.judged
        if good.scoped or judged.bad or judged.known is not None or self._has_stale:
            return None
        signatures = good.signatures
        key = ("few", self._subjects, signatures)
        return self._memory.once(key, lambda: self._signed_with(signatures))

    def _signed_with(self, signatures: tuple[int, ...]) -> frozenset[str] | None:
        """The policies with one of these signatures for the caller, None for many."""
        rows = self._connection.execute(
            "SELECT DISTINCT policy_id FROM policy_readers INDEXED BY policy_readers_by_subject"  # noqa: S608
            f" WHERE subject IN ({marks(self._subjects)}) AND signature IN ({marks(signatures)})"
            " LIMIT ?",
            (*self._subjects, *signatures, _FEW_POLICIES + 1),
        ).fetchall()
        return None if len(rows) > _FEW_POLICIES else frozenset(row[0] for row in rows)

    def _is_any_stale(self) -> bool:
        found = self._connection.execute("SELECT 1 FROM policy_stale LIMIT 1").fetchone()
        return found is not None

    def _is_all(self, policies: frozenset[str]) -> bool:
        """True when all things are under these policies; each policy is found by one step."""
        last = ""
        while row := self._connection.execute(_NEXT_POLICY, (last,)).fetchone():
            last = row[0]
            if last not in policies:
                return False
        return True

    def _odd(self) -> list[Sql]:
        """True of things whose policies are not, or not simply, judged by their signatures."""
        found = []
        if self.judged.bad:
            found.append(self._says(self.judged.bad))
        if self.judged.known is not None:
            found.append(
                self._exists(
                    self._everybody, f"NOT IN ({marks(self.judged.known)})", self.judged.known
                )
            )
        if self._has_stale:
            found.append(_IS_STALE)
        return found

    def _says(self, rights: Rights, subjects: Sequence[str] | None = None) -> Sql:
        """True of things whose policy has one of these signatures for one of these subjects."""
        subjects = self._everybody if subjects is None else subjects
        parts = []
        if rights.signatures:
            parts.append(Sql(f"+g.signature IN ({marks(rights.signatures)})", rights.signatures))
        for namespaces, signatures in rights.scoped:
            parts.append(
                Sql(
                    f"(t.namespace IN ({marks(namespaces)}) AND +g.signature IN ({marks(signatures)}))",
                    (*namespaces, *signatures),
                )
            )
        if not parts:
            return Sql(FALSE)
        return _reader(subjects, any_of(parts))

    def _exists(self, subjects: Sequence[str], test: str, values: Sequence[int]) -> Sql:
        return _reader(subjects, Sql(f"+g.signature {test}", tuple(values)))

    def _under(self, subjects: Sequence[str], signatures: Sequence[int], how: str = "IN") -> Sql:
        """The things under the policies with, or without, these signatures."""
        return Sql(
            "SELECT t.thing_id FROM policy_readers g INDEXED BY policy_readers_by_subject"  # noqa: S608
            " CROSS JOIN things t INDEXED BY things_by_policy ON t.policy_id = g.policy_id"
            f" WHERE g.subject IN ({marks(subjects)}) AND g.signature {how} ({marks(signatures)})",
            (*subjects, *signatures),
        )


def _reader(subjects: Sequence[str], test: Sql) -> Sql:
    return Sql(
        "EXISTS (SELECT 1 FROM policy_readers g WHERE g.policy_id = t.policy_id"  # noqa: S608
        f" AND g.subject IN ({marks(subjects)}) AND {test})",
        (*subjects, *test.values),
    )
