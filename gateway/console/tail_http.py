"""`tail`: a tenant's messages as they pass, no more of them than a reader can look at."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

import msgspec
from aiohttp import web

from gateway.console.fleet import rows
from gateway.console.guard import Call, answer
from gateway.console.streams import Stream, Streams, framed
from gateway.errors import BadRequest, NotFound
from gateway.hono.registry import Registry
from gateway.hono.search import parse_search
from gateway.hono.traffic import MAX_SHOWN, Passing, Sighting, Traffic, Watcher
from gateway.model.json import JsonObject

MAX_RATE: Final = 200
MAX_NAME: Final = 512
MAX_TENANTS: Final = 200
TICK_SECONDS: Final = 1.0


@dataclass(slots=True)
class Tally:
    """What passed within a second, and how much of it was shown."""

    rate: int
    kinds: Counter[str] = field(default_factory=Counter)
    shown: int = 0
    dropped: int = 0
    missed: int = 0

    def takes(self, kind: str) -> bool:
        """Count a message; False for one too many."""
        self.kinds[kind] += 1
        if self.shown < self.rate:
            self.shown += 1
            return True
        self.dropped += 1
        return False

    def turn(self, tenant: str) -> bytes:
        """What is told at the end of the second, which begins anew."""
        total = self.kinds.total() + self.missed
        told = framed(
            "rates",
            msgspec.json.encode({"tenant": tenant, "total": total, "kinds": dict(self.kinds)}),
        )
        lost = self.dropped + self.missed
        if lost:
            told = framed("dropped", msgspec.json.encode({"count": lost})) + told
        self.kinds.clear()
        self.shown = self.dropped = self.missed = 0
        return told


class TailRoutes:
    """The stream, and the tenants to choose from."""

    def __init__(self, traffic: Traffic, registry: Registry, streams: Streams) -> None:
        self._traffic = traffic
        self._registry = registry
        self._streams = streams

    async def stream(self, call: Call) -> web.StreamResponse:
        """Errors: BadRequest; TenantNotFound; QuotaExceeded and Undeliverable when too many watch."""
        tenant, device = call.query("tenant"), call.query("device")
        if not 0 < len(tenant) <= MAX_NAME or len(device) > MAX_NAME:
            raise BadRequest("tenant: expected the tenant to watch")
        kinds = _kinds(call.query("kind"))
        rate = call.number("max_rate", 50, MAX_RATE, 1)
        most = call.number("max_bytes", 2_048, MAX_SHOWN)
        await self._registry.read_tenant(tenant)
        watcher, end = self._traffic.watch(tenant, kinds, device or None)
        try:
            async with self._streams.opened(call.request, call.session) as stream:
                await stream.send("hello", {"tenant": tenant})
                await _follow(stream, watcher, Tally(rate), tenant, most)
        finally:
            end()
        return stream.response

    async def tenants(self, _call: Call) -> web.StreamResponse:
        search = parse_search((("pageSize", str(MAX_TENANTS)),), devices=False)
        try:
            found = await self._registry.search_tenants(search)
        except NotFound:
            return answer({"items": []})
        items = [each for each in rows(found.get("result")) if isinstance(each.get("id"), str)]
        return answer(
            {
                "items": [
                    {"id": each["id"], "enabled": each.get("enabled", True) is not False}
                    for each in items
                ]
            }
        )


async def _follow(stream: Stream, watcher: Watcher, tally: Tally, tenant: str, most: int) -> None:
    loop = asyncio.get_running_loop()
    tick = loop.time() + TICK_SECONDS
    while stream.is_alive and not watcher.is_over:
        try:
            async with asyncio.timeout_at(tick):
                missed, sightings = await watcher.lines()
        except TimeoutError:
            await stream.write(tally.turn(tenant))
            tick = max(tick + TICK_SECONDS, loop.time())
            continue
        tally.missed += missed
        shown = [each for each in sightings if tally.takes(each.kind.value)]
        if shown:
            lines = (framed("message", msgspec.json.encode(told(each, most))) for each in shown)
            await stream.write(b"".join(lines))
        if loop.time() >= tick:
            await stream.write(tally.turn(tenant))
            tick = loop.time() + TICK_SECONDS
    await stream.send("resync", {"reason": "session ended"})


def told(sighting: Sighting, most: int) -> JsonObject:
    """A message as readers see it: at most `most` bytes of its payload."""
    found: JsonObject = msgspec.to_builtins(sighting)
    if found.get("encoding") == "json":
        raw = msgspec.json.encode(sighting.payload)
        if len(raw) > most:
            part = raw[:most].decode("utf-8", "ignore")
            found |= {"encoding": "text", "payload": part, "cut": True}
        return found
    payload = sighting.payload
    if isinstance(payload, str) and len(payload.encode()) > most:
        even = most // 4 * 4 if found.get("encoding") == "base64" else most
        found |= {"payload": payload.encode()[:even].decode("utf-8", "ignore"), "cut": True}
    return found


def _kinds(text: str) -> frozenset[Passing]:
    """Errors: BadRequest."""
    try:
        return frozenset(Passing(name) for name in text.split(",") if name)
    except ValueError as error:
        raise BadRequest(f"kind: expected some of {', '.join(Passing)}") from error
