"""What goes out over one WebSocket: whole frames, written at once or queued up to a bound."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from aiohttp import WSCloseCode, web

SLOW = b"too slow"
TOO_SLOW_SECONDS = 2.0
"""How long a session that fell behind may take to read what is under way, and that it is closed."""
HIGH_WATER = 65_536
"""Bytes in the transport's buffer above which frames wait in the session's own queue."""

_FIRST_PAUSE = 0.01
_LONGEST_PAUSE = 0.32
"""Seconds between two looks at a transport that is full; sessions that read nothing are looked at seldom."""


def text_frame(payload: bytes) -> bytes:
    """A whole server text frame, the same for every session.

    Source: RFC 6455, section 5.2.
    """
    size = len(payload)
    if size < 126:
        return bytes((0x81, size)) + payload
    if size < 65_536:
        return b"\x81\x7e" + size.to_bytes(2, "big") + payload
    return b"\x81\x7f" + size.to_bytes(8, "big") + payload


def close_frame(code: int, reason: bytes) -> bytes:
    """A close frame of the server.

    Source: RFC 6455, section 5.5.1.
    """
    body = code.to_bytes(2, "big") + reason
    return bytes((0x88, len(body))) + body


class Outbox:
    """What goes out to one session: at once while the transport takes it, else queued up to `limit`.

    A session with more is closed with 1008: what waits is forgotten, and a peer that does not even read
    that is cut off.
    """

    def __init__(
        self, session_id: str, request: web.Request, limit: int, drop: Callable[[], None]
    ) -> None:
        self.session_id = session_id
        self.labels: tuple[str, ...] = ()
        self._transport = request.transport
        self._limit = limit
        self._drop = drop
        self._waiting: deque[bytes] = deque()
        self._cut: asyncio.TimerHandle | None = None
        self._room = asyncio.Event()

    @property
    def depth(self) -> int:
        """How many frames wait."""
        return len(self._waiting)

    def offer(self, frame: bytes) -> None:
        """Send a whole frame; never blocks."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        if not self._waiting and transport.get_write_buffer_size() < HIGH_WATER:
            transport.write(frame)
            return
        if len(self._waiting) >= self._limit:
            self._fall_behind(transport)
            return
        self._waiting.append(frame)
        self._room.set()

    def _fall_behind(self, transport: asyncio.Transport) -> None:
        self._drop()
        self._waiting.clear()
        transport.write(close_frame(WSCloseCode.POLICY_VIOLATION, SLOW))
        transport.close()
        loop = asyncio.get_running_loop()
        self._cut = loop.call_later(TOO_SLOW_SECONDS, transport.abort)

    def close(self) -> None:
        """The session is over."""
        if self._cut is not None:
            self._cut.cancel()

    async def drain(self) -> None:
        """Write what had to wait, as the transport empties; runs as long as the session."""
        transport, pause = self._transport, _FIRST_PAUSE
        while transport is not None and not transport.is_closing():
            await self._room.wait()
            has_room = transport.get_write_buffer_size() < HIGH_WATER
            while self._waiting and transport.get_write_buffer_size() < HIGH_WATER:
                transport.write(self._waiting.popleft())
            if not self._waiting:
                self._room.clear()
            else:
                pause = _FIRST_PAUSE if has_room else min(2 * pause, _LONGEST_PAUSE)
                await asyncio.sleep(pause)
