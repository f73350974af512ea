"""Who may read what under each policy, kept with it: imports, references and root policies worked in.

A policy is signed when it is stored. What it was signed with (imports, imports of imports, root policies) is
noted; when one of these changes, those that depend on it are signed anew in the same transaction while they
are few. With many, one row says that they are stale: searches judge their things one by one meanwhile, and
`resign` works through them in the order of their ids, a bounded number at a time.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec

from gateway.model.entity_id import namespace_of
from gateway.model.json import JsonObject
from gateway.store.readers import ANYBODY, ODD, signatures_of
from gateway.twin.policy import read_entry
from gateway.twin.policy_resolution import resolved_entries
from gateway.twin.policy_roots import Root, root_ids

RESIGNED_AT_ONCE: Final = 32
"""Dependent policies that are signed anew within the transaction of the change."""
_READ_AT_ONCE: Final = 300
"""Documents read for that, and in one step of working through the others."""

_DOCUMENT: Final = "SELECT document FROM policies WHERE policy_id = ?"
_ADD_SIGNATURE: Final = "INSERT OR IGNORE INTO policy_signatures (body) VALUES (?)"
_ADD_READER: Final = """
INSERT INTO policy_readers (policy_id, subject, signature)
VALUES (?, ?, (SELECT signature FROM policy_signatures WHERE body = ?))
"""
_READERS: Final = """
SELECT r.subject, s.body FROM policy_readers r JOIN policy_signatures s USING (signature)
WHERE r.policy_id = ?
"""
_SOURCES: Final = "SELECT source FROM policy_depends WHERE policy_id = ?"
_IS_SOURCE: Final = "SELECT 1 FROM policy_depends WHERE source = ? LIMIT 1"
_MARK_STALE: Final = "INSERT OR REPLACE INTO policy_stale (source, after) VALUES (?, ?)"
_STALE: Final = "SELECT source, after FROM policy_stale ORDER BY source LIMIT 1"
_DEPENDENT: Final = """
SELECT policy_id FROM policy_depends WHERE source = ? AND policy_id > ? ORDER BY policy_id LIMIT ?
"""
_UNREAD: Final = "SELECT policy_id FROM policy_unread LIMIT ?"
_FACT: Final = "SELECT value FROM search_facts WHERE name = ?"
_SET_FACT: Final = "INSERT OR REPLACE INTO search_facts (name, value) VALUES (?, ?)"
_ROOTS: Final = "roots"
_KEPT_DOCUMENTS: Final = 64
"""Read documents that one transaction keeps for the next policy that imports them."""

_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


@dataclass(slots=True)
class _Documents:
    """The documents of other policies, as this transaction sees them, and which were looked at."""

    connection: sqlite3.Connection
    looked_at: set[str] = field(default_factory=set)
    reads: int = 0
    _read: dict[str, JsonObject | None] = field(default_factory=dict)

    def get(self, policy_id: str, /) -> JsonObject | None:
        """See `Documents.get`."""
        self.looked_at.add(policy_id)
        if policy_id not in self._read:
            if len(self._read) >= _KEPT_DOCUMENTS:
                self._read.clear()
            self._read[policy_id] = self.fresh(policy_id)
        return self._read[policy_id]

    def fresh(self, policy_id: str) -> JsonObject | None:
        """A document that is read once only."""
        self.reads += 1
        row = self.connection.execute(_DOCUMENT, (policy_id,)).fetchone()
        return None if row is None or row[0] is None else _decode(row[0])


class Signer:
    """Writes who may read what, within a transaction of the caller's."""

    __slots__ = ("_connection", "_documents", "_roots")

    def __init__(self, connection: sqlite3.Connection, roots: Sequence[Root]) -> None:
        self._connection = connection
        self._documents = _Documents(connection)
        self._roots = roots

    def stored(self, policy_id: str, document: JsonObject | None) -> bool:
        """A policy was stored, or deleted when `document` is None; True when some dependents stay stale."""
        self.sign(policy_id, document)
        if self._connection.execute(_IS_SOURCE, (policy_id,)).fetchone() is None:
            return False
        return not self._resigned(policy_id)

    def _resigned(self, source: str) -> bool:
        """Sign the dependents of a changed policy if they are few; else note which are stale."""
        dependent = self._dependent(source, "", RESIGNED_AT_ONCE + 1)
        done = self._sign_some(dependent) if len(dependent) <= RESIGNED_AT_ONCE else 0
        if done == len(dependent):
            return True
        self._connection.execute(_MARK_STALE, (source, dependent[done - 1] if done else ""))
        return False

    def _dependent(self, source: str, after: str, limit: int) -> list[str]:
        return [row[0] for row in self._connection.execute(_DEPENDENT, (source, after, limit))]

    def _sign_some(self, policy_ids: Sequence[str]) -> int:
        """Sign policies while not too much was read; how many."""
        for number, policy_id in enumerate(policy_ids):
            if self._documents.reads >= _READ_AT_ONCE:
                return number
            self.sign(policy_id, self._documents.fresh(policy_id))
        return len(policy_ids)

    def resign(self, limit: int) -> int:
        """Sign some policies that have no readers yet, and some that are stale; 0 when all are signed."""
        unread = [row[0] for row in self._connection.execute(_UNREAD, (limit,))]
        done = self._sign_some(unread)
        row = self._connection.execute(_STALE).fetchone()
        if row is None or done >= limit:
            return done
        return done + self._resign_next(row[0], row[1], limit)

    def _resign_next(self, source: str, after: str, limit: int) -> int:
        dependent = self._dependent(source, after, limit)
        done = self._sign_some(dependent)
        if done == len(dependent) < limit:
            self._connection.execute("DELETE FROM policy_stale WHERE source = ?", (source,))
        elif done:
            self._connection.execute(_MARK_STALE, (source, dependent[done - 1]))
        return done + 1

    def sign(self, policy_id: str, document: JsonObject | None) -> None:
        """Write the readers of a policy, and what they were worked out from."""
        found: dict[str, str] = {}
        self._documents.looked_at.clear()
        if document is not None:
            roots = {
                name: root
                for name in root_ids(self._roots, namespace_of(policy_id))
                if name != policy_id and (root := self._documents.get(name)) is not None
            }
            entries = resolved_entries(document, self._documents, roots, policy_id)
            found = signatures_of(read_entry(label, body) for label, body in entries)
        write_readers(self._connection, policy_id, found)
        self._write_sources(policy_id, self._documents.looked_at - {policy_id})

    def _write_sources(self, policy_id: str, wanted: set[str]) -> None:
        known = {row[0] for row in self._connection.execute(_SOURCES, (policy_id,))}
        for source in known - wanted:
            self._connection.execute(
                "DELETE FROM policy_depends WHERE policy_id = ? AND source = ?", (policy_id, source)
            )
        for source in wanted - known:
            self._connection.execute(
                "INSERT INTO policy_depends (policy_id, source) VALUES (?, ?)", (policy_id, source)
            )


def write_readers(
    connection: sqlite3.Connection, policy_id: str, signatures: dict[str, str]
) -> None:
    """Replace the readers of a policy."""
    connection.execute("DELETE FROM policy_unread WHERE policy_id = ?", (policy_id,))
    if dict(connection.execute(_READERS, (policy_id,)).fetchall()) == signatures:
        return
    connection.execute("DELETE FROM policy_readers WHERE policy_id = ?", (policy_id,))
    for subject, body in signatures.items():
        connection.execute(_ADD_SIGNATURE, (body,))
        connection.execute(_ADD_READER, (policy_id, subject, body))


def adopt_roots(connection: sqlite3.Connection, roots: Sequence[Root]) -> bool:
    """Have all policies signed anew when the settings name other root policies than before; True if so."""
    wanted = _encode([[one.namespace, list(one.policies)] for one in roots]).decode()
    row = connection.execute(_FACT, (_ROOTS,)).fetchone()
    if (row[0] if row else "[]") == wanted:
        return False
    connection.execute(_SET_FACT, (_ROOTS, wanted))
    connection.execute(_ADD_SIGNATURE, (ODD,))
    (odd,) = connection.execute(
        "SELECT signature FROM policy_signatures WHERE body = ?", (ODD,)
    ).fetchone()
    connection.execute(
        "INSERT OR REPLACE INTO policy_readers (policy_id, subject, signature)"
        " SELECT policy_id, ?, ? FROM policies WHERE document IS NOT NULL",
        (ANYBODY, odd),
    )
    connection.execute(
        "INSERT OR IGNORE INTO policy_unread (policy_id)"
        " SELECT policy_id FROM policies WHERE document IS NOT NULL"
    )
    return True
