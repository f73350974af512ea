"""Drives a sans-IO session over a stream: the form for ordinary, low-rate links.

Device-side hot paths use an `asyncio.Protocol` and outcome callbacks instead.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Protocol, TypeVar

CHUNK = 65_536

Event = TypeVar("Event")
EventOut = TypeVar("EventOut", covariant=True)


class Session(Protocol[EventOut]):
    """The five members that every wire session has."""

    @property
    def closed(self) -> bool: ...
    @property
    def wake_at(self) -> float | None: ...
    def receive(self, data: bytes, now: float) -> Iterable[EventOut]: ...
    def tick(self, now: float) -> Iterable[EventOut]: ...
    def to_send(self) -> bytes: ...


async def pump(
    session: Session[Event],
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    handle: Callable[[Event], Awaitable[None]],
) -> None:
    """Drive `session` until it closes; `b""` tells it that the peer has gone."""
    now = asyncio.get_running_loop().time
    while not session.closed:
        try:
            async with asyncio.timeout_at(session.wake_at):
                data = await reader.read(CHUNK)
        except TimeoutError:
            events = session.tick(now())
        else:
            events = session.receive(data, now())
        for event in events:
            await handle(event)
        writer.write(session.to_send())
        await writer.drain()
