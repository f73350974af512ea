"""One connection to Redis: commands out, simple replies back. No library: four commands are all that is used.

Source: RESP2, as Redis documents it.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl as tls
from collections.abc import Sequence
from typing import TypeAlias

from edge.mappers.pushaddress import Address
from gateway.errors import Rejected, Undeliverable

CONNECT_SECONDS = 10.0
MAX_LINE = 65_536
MAX_BULK = 1_048_576
Reply: TypeAlias = "int | bytes | None"

PASSING = frozenset(
    {
        *("NOAUTH", "WRONGPASS", "NOPERM", "READONLY", "LOADING", "OOM", "MISCONF", "BUSY"),
        *("TRYAGAIN", "CLUSTERDOWN", "MASTERDOWN", "NOREPLICAS"),
    }
)
"""First words of errors that may pass, some when somebody mends the server."""


class RedisClient:
    """An open connection; commands one at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def connect(cls, address: Address, password: str, database: int) -> RedisClient:
        """Connect, log in and choose a database. Errors: Undeliverable; Rejected."""
        context = tls.create_default_context() if address.is_secure else None
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                streams = await asyncio.open_connection(
                    address.host, address.port, ssl=context, limit=MAX_LINE
                )
        except (OSError, TimeoutError, UnicodeError) as error:
            raise Undeliverable(f"Redis is not reached: {error or 'no answer'}") from error
        client = cls(*streams)
        try:
            if password:
                await client.ask("AUTH", password)
            if database:
                await client.ask("SELECT", str(database))
        except BaseException:
            client.close()
            raise
        return client

    async def ask(self, *words: str | bytes) -> Reply:
        """Send a command and return its reply. Errors: Rejected, Undeliverable; see `PASSING`."""
        try:
            self._writer.write(command(words))
            await self._writer.drain()
            return await self._reply()
        except (OSError, EOFError, ValueError, asyncio.LimitOverrunError) as error:
            raise Undeliverable(f"Redis has gone: {error or type(error).__name__}") from error

    async def _reply(self) -> Reply:
        line = (await self._reader.readuntil(b"\r\n"))[:-2]
        mark, rest = line[:1], line[1:]
        if mark == b"-":
            raise error_of(rest.decode("utf-8", "replace"))
        if mark == b"+":
            return rest
        if mark == b":":
            return int(rest)
        if mark == b"$":
            return await self._bulk(int(rest))
        raise ValueError(f"an answer that is no RESP: {line[:40]!r}")

    async def _bulk(self, size: int) -> bytes | None:
        if size < 0:
            return None
        if size > MAX_BULK:
            raise ValueError(f"an answer of {size} bytes")
        return (await self._reader.readexactly(size + 2))[:-2]

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._writer.close()


def command(words: Sequence[str | bytes]) -> bytes:
    """Write a command as an array of strings."""
    parts = [word.encode() if isinstance(word, str) else word for word in words]
    head = b"*%d\r\n" % len(parts)
    return head + b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts)


def error_of(text: str) -> Rejected | Undeliverable:
    """Return an error of the server as ours."""
    passes = text.split(" ", 1)[0] in PASSING
    return Undeliverable(f"Redis: {text[:200]}") if passes else Rejected(f"Redis: {text[:200]}")
