"""The target URLs that services of this machine may send to: rules say which, the disk keeps them.

Source: KubeEdge reference, section 18.6.
"""

from __future__ import annotations

import logging
import re
import sqlite3

from gateway.errors import GatewayError
from gateway.store.database import Database
from gateway.wire.cloudedge.envelope import Envelope
from gateway.wire.cloudedge.routing import ServiceBusTarget

log = logging.getLogger(__name__)

MAX_TARGETS = 1_000
_SLASHES = re.compile("/+")


class ServiceTargets:
    """A hub handler; `load` comes before the first question."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._urls: set[str] = set()

    async def load(self) -> None:
        """Read what was allowed when this edge ended. Errors: StoreUnavailable."""
        rows = await self._database.read(
            lambda c: c.execute("SELECT url FROM target_urls").fetchall()
        )
        self._urls.update(url for (url,) in rows)

    def allows(self, url: str) -> bool:
        """True when a rule takes what is sent there."""
        return url in self._urls

    def on_target(self, _envelope: Envelope, target: ServiceBusTarget) -> None:
        """A rule came, or the last one of a target went."""
        if target.is_allowed:
            self._allow(target.url)
        else:
            self._forbid(target.url)

    def _allow(self, url: str) -> None:
        if url in self._urls:
            return
        if len(self._urls) >= MAX_TARGETS:
            log.warning("too many targets of services", extra={"target": url})
            return
        self._urls.add(url)
        self._write("INSERT OR IGNORE INTO target_urls (url) VALUES (?)", [url])

    def _forbid(self, url: str) -> None:
        """Forget a URL; KubeEdge's cloud names it with `//` made `/`."""
        gone = [known for known in self._urls if _joined(known) == _joined(url)]
        self._urls.difference_update(gone)
        self._write("DELETE FROM target_urls WHERE url = ?", gone)

    def _write(self, sql: str, urls: list[str]) -> None:
        def work(connection: sqlite3.Connection) -> None:
            connection.executemany(sql, [(url,) for url in urls])

        self._database.submit(work, _logged)


def _joined(url: str) -> str:
    return _SLASHES.sub("/", url)


def _logged(result: GatewayError | None) -> None:
    if result is not None:
        log.warning("a target of services is not on disk", extra={"cause": result.message})
