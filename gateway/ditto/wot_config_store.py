"""Where the configuration of WoT validation is kept: one document in the gateway's database."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from typing import Final, cast

import msgspec

from gateway.model.json import JsonObject
from gateway.store.database import Database

GLOBAL: Final = "ditto:global"


@dataclass(frozen=True, slots=True)
class StoredConfig:
    """The document as it is on disk, None after it was deleted; revisions go on."""

    revision: int
    document: JsonObject | None
    created: str
    modified: str


class WotConfigStore:
    """One configuration; its owner is the one writer."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def load(self) -> StoredConfig | None:
        """The configuration, None where there never was one.

        Errors: StoreUnavailable.
        """

        def work(connection: sqlite3.Connection) -> StoredConfig | None:
            row = connection.execute(
                "SELECT revision, document, created, modified FROM wot_validation_config"
                " WHERE config_id = ?",
                (GLOBAL,),
            ).fetchone()
            return None if row is None else _stored(row)

        return await self._database.read(work)

    async def save(self, config: StoredConfig) -> None:
        """Write a configuration over the one before.

        Errors: StoreUnavailable.
        """
        body = None if config.document is None else msgspec.json.encode(config.document)

        def work(connection: sqlite3.Connection) -> None:
            connection.execute(
                "INSERT OR REPLACE INTO wot_validation_config VALUES (?, ?, ?, ?, ?)",
                (GLOBAL, config.revision, body, config.created, config.modified),
            )

        await self._database.write(work, grows=config.document is not None)


def _stored(row: tuple[int, bytes | None, str, str]) -> StoredConfig:
    revision, body, created, modified = row
    document = None if body is None else cast(JsonObject, msgspec.json.decode(body))
    return StoredConfig(revision, document, created, modified)
