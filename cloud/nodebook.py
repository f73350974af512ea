"""Which certificates nodes were given, and which of them no longer count.

Deleting a Node revokes what was issued to it before; a new join gives a new certificate. Asked at each
connection from memory; written to `gateway.db` so that it survives a restart. The book is bounded: a
certificate whose row had to go is judged by its date alone, against the node's last revocation.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass, field

from cloud.certificates import Issued, NodeCertificate
from gateway.store import edge_sequences
from gateway.store.database import Database

MAX_PER_NODE = 8
"""Rows of one node: its first certificate and its newest ones."""
MAX_ROWS = 200_000
"""Rows of all nodes; those of nodes that never came go first, the oldest of them before others."""


@dataclass(slots=True)
class _Known:
    issued: dict[str, str] = field(default_factory=dict)
    """serial -> node, for certificates that were not revoked."""
    revoked: set[str] = field(default_factory=set)
    revoked_at: dict[str, float] = field(default_factory=dict)
    registered: dict[str, str] = field(default_factory=dict)
    """node -> its Node's uid, "" where it was seen before uids were noted."""


class NodeBook:
    """The book of issued certificates. `load` once before use.

    Shape:  without `revokes` every certificate is good until its end, as with KubeEdge.
    """

    def __init__(self, database: Database, *, revokes: bool = True) -> None:
        self._database = database
        self._revokes = revokes
        self._known = _Known()

    async def load(self, now: float) -> None:
        """Read the book; certificates that have expired are dropped from it."""
        await self._database.write(lambda c: _drop_expired(c, now))
        self._known = await self._database.read(_read)

    @property
    def registered(self) -> frozenset[str]:
        """Nodes whose Node object has been seen and not yet its deletion."""
        return frozenset(self._known.registered)

    def is_revoked(self, certificate: NodeCertificate) -> bool:
        """True when the node was deleted, or replaced, after this certificate was issued."""
        if not self._revokes or certificate.serial in self._known.issued:
            return False
        if certificate.serial in self._known.revoked:
            return True
        return certificate.issued_at <= self.revoked_at(certificate.node)

    def owner(self, serial: str) -> str | None:
        """Return the node that a certificate counts for, None for one that is not in the book."""
        return self._known.issued.get(serial)

    def is_known(self, serial: str) -> bool:
        """True for a certificate that is in the book, revoked or not."""
        return serial in self._known.issued or serial in self._known.revoked

    def revoked_at(self, node: str) -> float:
        """Return when a node's certificates were revoked last, -1 for never."""
        return self._known.revoked_at.get(node, -1.0)

    def has_certificate(self, node: str) -> bool:
        """True when a node has a certificate of ours that counts."""
        return node in self._known.issued.values()

    def count(self, node: str) -> int:
        """Return how many certificates of a node count."""
        return sum(owner == node for owner in self._known.issued.values())

    async def issued(self, certificate: Issued) -> None:
        """Note a new certificate; it is handed out only after this returns."""
        known = self._known
        surplus = len(known.issued) + len(known.revoked) + 1 - MAX_ROWS
        gone = await self._database.write(lambda c: _insert(c, certificate, surplus))
        known.issued[certificate.serial] = certificate.node
        for serial in gone:
            known.issued.pop(serial, None)
            known.revoked.discard(serial)

    async def revoke(self, node: str, now: float, *, spare: str = "") -> None:
        """Revoke all that was issued to `node` before, but for the serial `spare`."""
        await self._database.write(lambda c: _revoke(c, node, now, spare))
        for serial in [s for s, n in self._known.issued.items() if n == node and s != spare]:
            del self._known.issued[serial]
            self._known.revoked.add(serial)
        self._known.revoked_at[node] = now

    def uid(self, node: str) -> str:
        """Return the uid of the Node that was seen last, "" where none is known."""
        return self._known.registered.get(node, "")

    async def register(self, node: str, uid: str) -> None:
        """Note that the Node object exists."""
        if self._known.registered.get(node) == uid:
            return
        await self._database.write(lambda c: _mark(c, node, uid, registered=True))
        self._known.registered[node] = uid

    async def unregister(self, node: str) -> None:
        """Note that the Node object is gone, and with it what its stores have sent."""
        await self._database.write(lambda c: _forget(c, node))
        self._known.registered.pop(node, None)


def _read(connection: sqlite3.Connection) -> _Known:
    known = _Known()
    for serial, node, revoked in connection.execute(
        "SELECT serial, node, revoked_at FROM node_certificate"
    ):
        if revoked is None:
            known.issued[serial] = node
        else:
            known.revoked.add(serial)
    for node, registered, uid, revoked in connection.execute(
        "SELECT node, registered, uid, revoked_at FROM edge_node"
    ):
        if registered:
            known.registered[node] = uid
        if revoked is not None:
            known.revoked_at[node] = revoked
    return known


def _drop_expired(connection: sqlite3.Connection, now: float) -> None:
    connection.execute("DELETE FROM node_certificate WHERE expires_at < ?", (now,))


def _insert(connection: sqlite3.Connection, certificate: Issued, surplus: int) -> list[str]:
    """Write a row and return the serials of those that had to go."""
    connection.execute(
        "INSERT INTO node_certificate (serial, node, issued_at, expires_at) VALUES (?, ?, ?, ?)",
        (certificate.serial, certificate.node, certificate.issued_at, certificate.expires_at),
    )
    gone = _superseded(connection, certificate.node)
    if surplus > 0:
        gone += _unused(connection, certificate.serial, surplus)
    connection.executemany(
        "DELETE FROM node_certificate WHERE serial = ?", [(serial,) for serial in gone]
    )
    return gone


def _superseded(connection: sqlite3.Connection, node: str) -> list[str]:
    """Return all of a node but the first one, which may be of the old form, and the newest ones."""
    rows = connection.execute(
        "SELECT serial FROM node_certificate WHERE node = ? ORDER BY issued_at, serial", (node,)
    ).fetchall()
    return [serial for (serial,) in rows[1 : 1 - MAX_PER_NODE]] if len(rows) > MAX_PER_NODE else []


def _unused(connection: sqlite3.Connection, spare: str, count: int) -> list[str]:
    rows = connection.execute(
        "SELECT serial FROM node_certificate WHERE serial <> ? ORDER BY"
        " node IN (SELECT node FROM edge_node WHERE registered = 1), issued_at LIMIT ?",
        (spare, count),
    )
    return [serial for (serial,) in rows]


def _revoke(connection: sqlite3.Connection, node: str, now: float, spare: str) -> None:
    connection.execute(
        "UPDATE node_certificate SET revoked_at = ?"
        " WHERE node = ? AND revoked_at IS NULL AND serial <> ?",
        (now, node, spare),
    )
    connection.execute(
        "INSERT INTO edge_node (node, revoked_at) VALUES (?, ?)"
        " ON CONFLICT (node) DO UPDATE SET revoked_at = excluded.revoked_at",
        (node, now),
    )


def _mark(connection: sqlite3.Connection, node: str, uid: str, *, registered: bool) -> None:
    connection.execute(
        "INSERT INTO edge_node (node, registered, uid) VALUES (?, ?, ?)"
        " ON CONFLICT (node) DO UPDATE SET registered = excluded.registered, uid = excluded.uid",
        (node, int(registered), uid),
    )


def _forget(connection: sqlite3.Connection, node: str) -> None:
    _mark(connection, node, "", registered=False)
    edge_sequences.forget(connection, node)
