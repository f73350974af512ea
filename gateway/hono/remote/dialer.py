"""Keeps a connection to the remote: makes it, waits for its end, comes back with back-off and jitter."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from gateway.hono.remote.meters import RelayMeters
from gateway.runtime.backoff import Backoff

log = logging.getLogger(__name__)

RETRY_FIRST = 0.5


class Connection(Protocol):
    """A connection of either protocol, as the dialer sees it."""

    ended: asyncio.Event
    cause: str

    @property
    def protocol(self) -> asyncio.Protocol:
        """Itself, as what the socket talks to."""

    def end(self, cause: str) -> None: ...

    def close(self, cause: str) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where the remote listens.

    Units:  `connect_timeout`, until the remote has let us in, and `reconnect_cap` in seconds.
    """

    host: str
    port: int
    tls: ssl.SSLContext | None
    server_name: str
    connect_timeout: float
    reconnect_cap: float


class Dialer:
    """One tenant's connection; `make` returns a new protocol for each try."""

    def __init__(
        self, place: Place, make: Callable[[], Connection], meters: RelayMeters, tenant: str
    ) -> None:
        self._place = place
        self._make = make
        self._meters = meters
        self._tenant = tenant
        self._backoff = Backoff(RETRY_FIRST, place.reconnect_cap)
        self._connection: Connection | None = None
        self._word = asyncio.Event()
        self._is_in = False
        self.cause = ""
        """Why the last connection, or try, ended; empty before the first one."""

    def entered(self) -> None:
        """The remote has let us in."""
        self._is_in = True
        self._word.set()

    def ended(self) -> None:
        """The connection is over."""
        self._word.set()

    def works(self) -> None:
        """The remote does what it is there for: the next loss is a new one."""
        self._backoff.reset()

    def say_goodbye(self) -> None:
        """End the connection with a word to the remote."""
        if self._connection is not None:
            self._connection.close("we stop")

    async def run(self) -> None:
        """Keep a connection until cancelled."""
        while True:
            await self._connect_once()
            pause = self._backoff.next()
            log.info(
                "the remote is away",
                extra={"tenant": self._tenant, "cause": self.cause, "again_in": round(pause, 1)},
            )
            await asyncio.sleep(pause)

    async def _connect_once(self) -> None:
        self._word.clear()
        self._is_in = False
        connection = self._make()
        try:
            async with asyncio.timeout(self._place.connect_timeout):
                await self._dial(connection)
        except (OSError, TimeoutError) as error:
            self._failed(connection, "unreachable", str(error) or "no connection in time")
            return
        self._connection = connection
        try:
            if await self._is_let_in(connection):
                await connection.ended.wait()
                self._failed(connection, "lost", connection.cause)
        finally:
            self._connection = None
            connection.end("we stop")

    async def _dial(self, connection: Connection) -> None:
        place = self._place
        await asyncio.get_running_loop().create_connection(
            lambda: connection.protocol,
            place.host,
            place.port,
            ssl=place.tls,
            server_hostname=place.server_name if place.tls is not None else None,
        )

    async def _is_let_in(self, connection: Connection) -> bool:
        """Wait for the remote's word; False where it refuses, ends, or says nothing in time."""
        try:
            async with asyncio.timeout(self._place.connect_timeout):
                await self._word.wait()
        except TimeoutError:
            self._failed(connection, "unreachable", "the remote does not answer")
            return False
        if self._is_in:
            return True
        self._failed(connection, "refused", connection.cause)
        return False

    def _failed(self, connection: Connection, reason: str, cause: str) -> None:
        self.cause = cause[:256]
        self._meters.ended(reason)
        connection.end(cause)
        if reason == "refused":
            log.warning(
                "the remote does not let us in",
                extra={"tenant": self._tenant, "cause": self.cause},
            )
