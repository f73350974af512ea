"""One port for plain and TLS clients: a connection's first byte tells which it is.

The byte is looked at, not taken: the protocol above sees all of it.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl as tls
from collections.abc import Callable
from typing import cast

from gateway.runtime.listener import HANDSHAKE_SECONDS

FIRST_SECONDS = 10.0
"""In which a client must say something."""
HELLO = b"\x16"
"""First byte of TLS: the type of a handshake record. No HTTP method starts with it."""

Context = Callable[[], "tls.SSLContext | None"]


class Front(asyncio.Protocol):
    """Stands in front of a protocol until the first byte is there; `decide` is for its owner to run."""

    def __init__(
        self, inner: Callable[[], asyncio.Protocol], context: Context, came: Callable[[Front], None]
    ) -> None:
        self._inner = inner
        self._context = context
        self._came = came
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.pause_reading()
        self._came(self)

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    async def decide(self) -> None:
        """Wait for the first byte and hand the connection on; hang up on who is silent or not wanted."""
        transport = self._transport
        if transport is None:
            return
        try:
            async with asyncio.timeout(FIRST_SECONDS):
                first = await _peek(transport)
            if first == HELLO:
                await self._with_tls(transport)
            else:
                inner = self._inner()
                transport.set_protocol(inner)
                inner.connection_made(transport)
                transport.resume_reading()
        except (OSError, TimeoutError):
            transport.abort()
        except asyncio.CancelledError:
            transport.abort()
            raise

    async def _with_tls(self, transport: asyncio.Transport) -> None:
        context = self._context()
        if context is None:
            transport.abort()
            return
        inner = self._inner()
        upgraded = await asyncio.get_running_loop().start_tls(
            transport,
            inner,
            context,
            server_side=True,
            ssl_handshake_timeout=HANDSHAKE_SECONDS,
        )
        if upgraded is not None:
            inner.connection_made(upgraded)


async def _peek(transport: asyncio.Transport) -> bytes:
    """Return the first byte, b"" at the end, and leave it where it is. Errors: OSError."""
    loop = asyncio.get_running_loop()
    copy = socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno()))
    try:
        there = asyncio.Event()
        loop.add_reader(copy, there.set)
        try:
            await there.wait()
        finally:
            loop.remove_reader(copy)
        return copy.recv(1, socket.MSG_PEEK)
    finally:
        copy.close()
