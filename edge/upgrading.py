"""The beginning of a WebSocket to the cloud: ask for it, wait for the answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from edge.websocket import ClientSession, Event, Opened
from gateway.errors import GatewayError

CHUNK = 65_536
"""Bytes read at once."""


async def answered(
    session: ClientSession,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    refusal: Callable[[Event], GatewayError],
) -> tuple[Opened, list[Event]]:
    """Return the answer to the upgrade, and what came with it already.

    Errors: what `refusal` makes of any other answer.
    """
    writer.write(session.to_send())
    while True:
        events = session.receive(await reader.read(CHUNK))
        if not events:
            continue
        first, *rest = events
        if not isinstance(first, Opened):
            raise refusal(first)
        return first, rest
