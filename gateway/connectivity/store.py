"""Where connections are kept: their documents, with secrets, in the gateway's database."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import cast

import msgspec

from gateway.model.json import JsonObject
from gateway.store.database import Database


@dataclass(frozen=True, slots=True)
class Stored:
    """A connection's document as it is on disk."""

    connection_id: str
    revision: int
    document: JsonObject
    created: str
    modified: str


def _stored(row: tuple[str, int, bytes, str, str]) -> Stored:
    connection_id, revision, document, created, modified = row
    decoded = cast(JsonObject, msgspec.json.decode(document))
    return Stored(connection_id, revision, decoded, created, modified)


class ConnectionStore:
    """Connections by id; their owner is the one writer."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def all(self) -> list[Stored]:
        """Return every connection, by id.

        Errors: StoreUnavailable.
        """

        def work(connection: sqlite3.Connection) -> list[Stored]:
            rows = connection.execute(
                "SELECT connection_id, revision, document, created, modified"
                " FROM connections ORDER BY connection_id"
            )
            return [_stored(row) for row in rows]

        return await self._database.read(work)

    async def put(self, connection_id: str, document: JsonObject) -> Stored:
        """Write a connection, new or again; its revision goes up by one.

        Errors: StoreUnavailable.
        """
        now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
        body = msgspec.json.encode(document)

        def work(connection: sqlite3.Connection) -> Stored:
            row = connection.execute(
                "INSERT INTO connections VALUES (?, 1, ?, ?, ?)"
                " ON CONFLICT (connection_id) DO UPDATE SET revision = revision + 1,"
                " document = excluded.document, modified = excluded.modified"
                " RETURNING connection_id, revision, document, created, modified",
                (connection_id, body, now, now),
            ).fetchone()
            return _stored(row)

        return await self._database.write(work, grows=True)

    async def delete(self, connection_id: str) -> None:
        """Forget a connection.

        Errors: StoreUnavailable.
        """

        def work(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM connections WHERE connection_id = ?", (connection_id,))

        await self._database.write(work)
