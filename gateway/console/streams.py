"""Long answers: streams of events (SSE) and followed logs. How many, for how long, and how they end.

A stream ends with its session, with the process, and with a reader that takes nothing for a while.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Final

import msgspec
from aiohttp import hdrs, web

from gateway.console.guard import HEADERS, NO_STORE
from gateway.console.sessions import Session, Sessions
from gateway.errors import QuotaExceeded, Undeliverable
from gateway.model.json import Json

log = logging.getLogger(__name__)

EVENTS: Final = "text/event-stream; charset=utf-8"
PER_SESSION: Final = 16
WRITE_SECONDS: Final = 20.0
"""For which a reader may take nothing."""
COMMENT_SECONDS: Final = 15.0
LOOK_SECONDS: Final = 5.0
"""How often a silent stream looks whether its session still lives."""
WRITE_BUFFER: Final = 262_144
UNHEARD: Final[int | None] = getattr(socket, "TCP_USER_TIMEOUT", None)
UNHEARD_MILLIS: Final = 45_000
"""For which what was sent may stay without an answer of the reader's machine: it has gone then, silently."""


class ReaderGone(ConnectionResetError):
    """The reader took nothing for too long."""


class Stream:
    """One open answer."""

    def __init__(
        self, request: web.Request, response: web.StreamResponse, is_alive: Callable[[], bool]
    ) -> None:
        self.response = response
        self._request = request
        self._is_alive = is_alive
        self._loop = asyncio.get_running_loop()
        self._written = self._loop.time()

    @property
    def is_alive(self) -> bool:
        """False once the session has ended."""
        return self._is_alive()

    @property
    def is_read(self) -> bool:
        """False once the reader has gone."""
        transport = self._request.transport
        return transport is not None and not transport.is_closing()

    async def hand_on(self, body: AsyncIterator[bytes]) -> None:
        """Write what comes until it ends, the reader goes or the session ends; silence is no reason."""
        coming = asyncio.ensure_future(anext(body, None))
        try:
            while self.is_alive and self.is_read:
                done, _ = await asyncio.wait({coming}, timeout=LOOK_SECONDS)
                if not done:
                    continue
                piece = coming.result()
                if piece is None:
                    return
                await self.write(piece)
                coming = asyncio.ensure_future(anext(body, None))
        finally:
            coming.cancel()
            await asyncio.wait({coming})

    async def write(self, data: bytes) -> None:
        """Hand bytes on. Errors: ReaderGone; ConnectionError."""
        try:
            async with asyncio.timeout(WRITE_SECONDS):
                await self.response.write(data)
        except TimeoutError as error:
            raise ReaderGone("the reader took nothing") from error
        self._written = self._loop.time()

    async def send(self, event: str, data: Json) -> None:
        """Send one event; JSON has no line breaks in it, so data is one line."""
        await self.write(framed(event, msgspec.json.encode(data)))

    async def news(self, wait: Callable[[], Awaitable[object]]) -> bool:
        """Wait a while; True when `wait` was over, False when the time was (a comment is sent then)."""
        try:
            async with asyncio.timeout(LOOK_SECONDS):
                await wait()
        except TimeoutError:
            if self._loop.time() - self._written >= COMMENT_SECONDS:
                await self.write(b":\n\n")
            return False
        return True


def framed(event: str, data: bytes) -> bytes:
    """One event as it stands on the wire."""
    return b"event: " + event.encode() + b"\ndata: " + data + b"\n\n"


class Streams:
    """All open ones."""

    def __init__(self, limit: int, sessions: Sessions) -> None:
        self._limit = limit
        self._sessions = sessions
        self._open: dict[asyncio.Task[object], Session] = {}

    def __len__(self) -> int:
        return len(self._open)

    @asynccontextmanager
    async def opened(
        self, request: web.Request, session: Session, content_type: str = EVENTS
    ) -> AsyncIterator[Stream]:
        """Begin an answer, for the length of the block, which a reader that goes ends.

        Errors: Undeliverable above the limit of all; QuotaExceeded above that of one session.
        """
        task = self._enter(session)
        try:
            headers = {hdrs.CONTENT_TYPE: content_type, **HEADERS}
            headers |= {hdrs.CACHE_CONTROL: NO_STORE, "X-Accel-Buffering": "no"}
            response = web.StreamResponse(headers=headers)
            await response.prepare(request)
            settle(request.transport)
            yield Stream(request, response, lambda: self._sessions.is_alive(session))
        except ConnectionError:  # the reader has gone, or is as good as gone
            _cut(request.transport)
        except Exception:  # top of an answer that has begun: no other one may be written into it
            log.exception("a stream broke", extra={"path": request.path[:200]})
            _cut(request.transport)
        finally:
            self._open.pop(task, None)

    def _enter(self, session: Session) -> asyncio.Task[object]:
        if len(self._open) >= self._limit:
            raise Undeliverable(
                f"More than {self._limit} streams are open.", code="console:streams.full"
            )
        if sum(each is session for each in self._open.values()) >= PER_SESSION:
            raise QuotaExceeded(
                f"A session has at most {PER_SESSION} open streams.",
                code="console:streams.full",
                details={"headers": {"Retry-After": "5"}},
            )
        task = asyncio.current_task()
        if task is None:
            raise Undeliverable("no task")
        self._open[task] = session
        return task

    def close(self) -> None:
        """End all of them: the process stops."""
        for task in list(self._open):
            task.cancel()


def settle(transport: asyncio.Transport | None) -> None:
    """Bound what waits for a reader, and for how long the reader's machine may be silent."""
    if transport is None:
        return
    transport.set_write_buffer_limits(WRITE_BUFFER)
    line = transport.get_extra_info("socket")
    if (
        line is not None
        and line.family in (socket.AF_INET, socket.AF_INET6)
        and UNHEARD is not None
    ):
        with suppress(OSError):  # the line has gone already
            line.setsockopt(socket.IPPROTO_TCP, UNHEARD, UNHEARD_MILLIS)


def _cut(transport: asyncio.Transport | None) -> None:
    if transport is not None:
        transport.abort()
