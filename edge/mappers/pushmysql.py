"""The push method `dbMethod.mysql`: rows in a table of the property's own, as KubeEdge's mappers write them.

Shape: table `<namespace>/<device>/<property>` with `id`, `ts` (UTC) and `field` (the value as text); made
where it is missing. The password comes from the environment variable `PASSWORD`. The library (PyMySQL) waits,
so each server has one connection and one thread for all properties that go there; calls have a time limit.
Source: KubeEdge reference, section 16.2, and its mapper template.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import re
import ssl as tls
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from edge.mappers.pushaddress import Address, read_address
from edge.mappers.pushing import AT_ONCE, Sample
from edge.mappers.pushtimes import clock_text
from edge.mappers.sharedlinks import SharedLinks
from gateway.errors import Rejected, Undeliverable
from gateway.model.json import JsonObject
from gateway.wire.cloudedge.devices import mapping, text

if TYPE_CHECKING:
    import pymysql

PORT = 3306
FIELD = "mysqlClientConfig"
CALL_SECONDS = 5
"""Of each wait for the server; a process that ends waits as long for a call under way."""
MAX_SERVERS = 16
"""Servers, each with a thread."""
NO_TABLE = 1146
PERMANENT = frozenset({1064, 1103, 1136, 1264, 1366, 1406})
"""Errors of the server about what was sent: sent again, it would be refused again."""
_TABLE = re.compile(r"[A-Za-z0-9_./-]{1,64}")
_DATABASE = re.compile(r"[A-Za-z0-9_-]{1,64}")

_Row = tuple[str, str]
_Server = tuple[Address, str, str]


class MysqlServers:
    """The connections, one to each server, database and user."""

    def __init__(self) -> None:
        self._links: SharedLinks[_Server, _Link] = SharedLinks(FIELD, MAX_SERVERS)

    def make(self, config: JsonObject) -> MysqlPusher:
        """Read `mysql` of a `dbMethod`. Errors: Rejected, also where PyMySQL is not installed."""
        if importlib.util.find_spec("pymysql") is None:
            raise Rejected("mysql needs PyMySQL: pip install 'twinspan[mysql]'")
        client = mapping(config.get(FIELD))
        address = read_address(f"{FIELD}.addr", client.get("addr"), PORT)
        database, user = text(client.get("database")), text(client.get("userName"))
        if not _DATABASE.fullmatch(database):
            raise Rejected(f"{FIELD}.database: expected 1 to 64 letters, digits, _ and -")
        if os.environ.get("PASSWORD"):
            address.require_secrecy(f"{FIELD}.addr", "the password")
        server = address, database, user
        return MysqlPusher(*self._links.take(server, lambda: _Link(address, database, user)))


class _Link:
    """One connection in a thread of its own."""

    def __init__(self, address: Address, database: str, user: str) -> None:
        self._address = address
        self._database = database
        self._user = user
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="push mysql")
        self._connection: pymysql.Connection[pymysql.cursors.Cursor] | None = None

    async def insert(self, table: str, rows: Sequence[_Row]) -> None:
        """Write rows, all or none. Errors: Undeliverable, Rejected."""
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._thread, self._insert, table, rows)

    def _insert(self, table: str, rows: Sequence[_Row]) -> None:
        import pymysql

        try:
            self._write(table, rows)
        except (pymysql.Error, OSError) as error:
            self._hang_up()
            raise _error_of(error) from error

    def _write(self, table: str, rows: Sequence[_Row]) -> None:
        import pymysql

        connection = self._connection = self._connection or self._connect()
        with connection.cursor() as cursor:
            try:
                cursor.executemany(_insert_text(table), rows)
            except pymysql.ProgrammingError as error:
                if error.args[0] != NO_TABLE:
                    raise
                cursor.execute(_create_text(table))
                cursor.executemany(_insert_text(table), rows)
        connection.commit()

    def _connect(self) -> pymysql.Connection[pymysql.cursors.Cursor]:
        import pymysql

        return pymysql.connect(
            host=self._address.host,
            port=self._address.port,
            user=self._user,
            password=os.environ.get("PASSWORD", ""),
            database=self._database,
            charset="utf8mb4",
            connect_timeout=CALL_SECONDS,
            read_timeout=CALL_SECONDS,
            write_timeout=CALL_SECONDS,
            ssl=tls.create_default_context() if self._address.is_secure else None,
            ssl_disabled=not self._address.is_secure,
        )

    def _hang_up(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(Exception):  # it may be broken in any way
                connection.close()

    def close(self) -> None:
        """Close the connection, in its thread, once it is idle."""
        self._thread.submit(self._hang_up)
        self._thread.shutdown(wait=False)


class MysqlPusher:
    """A property's samples to its table."""

    at_once = AT_ONCE

    def __init__(self, link: _Link, release: Callable[[], None]) -> None:
        self._link = link
        self._release = release

    async def push(self, samples: Sequence[Sample]) -> None:
        rows = [(clock_text(sample.at), sample.text) for sample in samples]
        await self._link.insert(table_name(samples[0]), rows)

    async def close(self) -> None:
        self._release()


def table_name(sample: Sample) -> str:
    """Return a property's table. Errors: Rejected for a name that is not put into SQL."""
    name = f"{sample.device}/{sample.name}"
    if not _TABLE.fullmatch(name):
        raise Rejected(
            f"no table {name[:200]!r}: expected at most 64 letters, digits, and any of _ . / -"
        )
    return name


def _insert_text(table: str) -> str:
    return f"INSERT INTO `{table}` (ts, field) VALUES (%s, %s)"  # noqa: S608  `table_name` has judged it


def _create_text(table: str) -> str:
    columns = "id INT AUTO_INCREMENT PRIMARY KEY, ts DATETIME NOT NULL, field TEXT"
    return f"CREATE TABLE IF NOT EXISTS `{table}` ({columns})"


def _error_of(error: Exception) -> Rejected | Undeliverable:
    number = error.args[0] if error.args else 0
    said = f"MySQL: {str(error.args[-1])[:200] if error.args else type(error).__name__}"
    return Rejected(said) if number in PERMANENT else Undeliverable(said)
