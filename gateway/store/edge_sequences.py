"""How far each lane of an edge's spool has been taken; what makes a redelivery recognisable.

`advance` runs inside the transaction of the write that a spooled message causes, so the change and the
knowledge of it are durable together. Whoever causes no write records the sequence on its own.
"""

from __future__ import annotations

import sqlite3

from gateway.model.message import SpoolId


def advance(connection: sqlite3.Connection, spool: SpoolId) -> bool:
    """Note that `spool` has been taken; False when it, or a later one of its lane, was taken before."""
    cursor = connection.execute(
        "INSERT INTO edge_sequences (edge, lane, sequence) VALUES (?, ?, ?)"
        " ON CONFLICT (edge, lane) DO UPDATE SET sequence = excluded.sequence"
        " WHERE excluded.sequence > edge_sequences.sequence",
        (spool.edge, spool.lane, spool.sequence),
    )
    return cursor.rowcount > 0


def last(connection: sqlite3.Connection, edge: str, lane: str) -> int:
    """Return the last sequence taken in a lane, 0 for none."""
    row = connection.execute(
        "SELECT sequence FROM edge_sequences WHERE edge = ? AND lane = ?", (edge, lane)
    ).fetchone()
    return int(row[0]) if row else 0


def forget(connection: sqlite3.Connection, node: str) -> None:
    """Forget the lanes of all stores that a node had; CloudCore names them `<node>/<store>`."""
    connection.execute(
        "DELETE FROM edge_sequences WHERE edge >= ? AND edge < ?", (f"{node}/", f"{node}0")
    )
