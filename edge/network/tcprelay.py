"""TCP through a Service: one connection in, one out to who serves; each half closes for itself.

Bounds: what one side does not take stops the reading of the other; bytes that wait are the transports' own
buffers. Who does not answer within seconds is passed over for the next.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import cast

CONNECT_SECONDS = 2.0
"""For one endpoint, unless it is the last."""
LAST_SECONDS = 10.0
KEEPALIVE = ((socket.TCP_KEEPIDLE, 60), (socket.TCP_KEEPINTVL, 15), (socket.TCP_KEEPCNT, 4))
BUFFER = 65_536
"""Bytes that wait for one side before the other is not read any more."""

Address = tuple[str, int]


class Half(asyncio.Protocol):
    """One side of a connection."""

    def __init__(self, ended: Callable[[], None]) -> None:
        self._ended = ended
        self._is_eof = False
        self._early = bytearray()
        self.peer: Half | None = None
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.set_write_buffer_limits(high=BUFFER)

    def join(self, peer: Half) -> None:
        """Let two sides hear each other."""
        self.peer, peer.peer = peer, self
        for half in (self, peer):
            half.hand_on_early()

    def hand_on_early(self) -> None:
        """Hand on what came before there was a peer."""
        if self.peer is None or self.peer.transport is None:
            return
        if self._early:
            self.peer.transport.write(bytes(self._early))
            self._early.clear()
            if self.transport is not None:
                self.transport.resume_reading()
        if self._is_eof:
            self.peer.finish()

    def data_received(self, data: bytes) -> None:
        if self.peer is None:
            self._early += data
            if self.transport is not None:
                self.transport.pause_reading()
        elif self.peer.transport is not None:
            self.peer.transport.write(data)

    def eof_received(self) -> bool:
        self._is_eof = True
        if self.peer is not None:
            self.peer.finish()
        return True

    def finish(self) -> None:
        """Say that nothing more comes."""
        if self.transport is not None and not self.transport.is_closing():
            with suppress(OSError, RuntimeError):
                self.transport.write_eof()
            if self._is_eof:
                self.transport.close()

    def pause_writing(self) -> None:
        if self.peer is not None and self.peer.transport is not None:
            with suppress(RuntimeError):
                self.peer.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.peer is not None and self.peer.transport is not None:
            with suppress(RuntimeError):
                self.peer.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        peer, self.peer, self.transport = self.peer, None, None
        if peer is not None and peer.transport is not None:
            if exc is not None:
                peer.transport.abort()
            else:
                peer.transport.close()
        self._ended()

    def abort(self) -> None:
        if self.transport is not None:
            self.transport.abort()


async def connect(targets: Sequence[Address], ended: Callable[[], None]) -> tuple[Half, Address]:
    """Connect to the first of some that answers. Errors: OSError of the last; TimeoutError."""
    loop = asyncio.get_running_loop()
    failure: OSError = ConnectionRefusedError("nobody serves")
    for at, target in enumerate(targets):
        seconds = CONNECT_SECONDS if at + 1 < len(targets) else LAST_SECONDS
        try:
            async with asyncio.timeout(seconds):
                _, half = await loop.create_connection(lambda: Half(ended), *target)
        except OSError as error:  # TimeoutError is one
            failure = error
            continue
        if half.transport is not None:
            keep_alive(half.transport)
        return half, target
    raise failure


def keep_alive(transport: asyncio.Transport) -> None:
    """Notice a peer that went away without a word."""
    found = transport.get_extra_info("socket")
    with suppress(OSError):
        found.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for option, value in KEEPALIVE:
            found.setsockopt(socket.IPPROTO_TCP, option, value)
