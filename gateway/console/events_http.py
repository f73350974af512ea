"""`events`: changes of Nodes, Devices, Pods and discovered devices as a stream."""

from __future__ import annotations

import asyncio

from aiohttp import web

from gateway.console.changes import KINDS, TURN_SECONDS, Reader, framed_news
from gateway.console.guard import Call
from gateway.console.mirrors import Mirrors
from gateway.console.streams import Stream, Streams
from gateway.errors import BadRequest


class EventRoutes:
    """The stream."""

    def __init__(self, mirrors: Mirrors, streams: Streams) -> None:
        self._mirrors = mirrors
        self._streams = streams

    async def stream(self, call: Call) -> web.StreamResponse:
        """Errors: BadRequest; Undeliverable and QuotaExceeded when too many are open."""
        kinds = _kinds(call.query("kinds"))
        await self._mirrors.known()
        async with self._streams.opened(call.request, call.session) as stream:
            with self._mirrors.feed.read(kinds) as reader:
                await stream.send("hello", {"kinds": [*sorted(kinds)]})
                await stream.send("resync", {"reason": await _follow(stream, reader)})
        return stream.response


async def _follow(stream: Stream, reader: Reader) -> str:
    """Tell what comes; return why it ends."""
    while stream.is_alive:
        if not await stream.news(reader.news.wait):
            continue
        if reader.is_behind:
            return "too slow"
        for piece in framed_news(reader.taken()):
            await stream.write(piece)
        await asyncio.sleep(TURN_SECONDS)
    return "session ended"


def _kinds(text: str) -> frozenset[str]:
    """Errors: BadRequest."""
    names = [name for name in text.split(",") if name] or list(KINDS)
    if not set(names) <= set(KINDS):
        raise BadRequest(f"kinds: expected some of {', '.join(KINDS)}")
    return frozenset(names)
