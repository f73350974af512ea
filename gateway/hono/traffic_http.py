"""`GET /v1/traffic/{tenant}`: a tenant's traffic as one JSON object a line, for as long as the reader stays.

An addition of ours to the management API, for its users alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import msgspec
from aiohttp import web

from gateway.errors import BadRequest
from gateway.hono.traffic import Passing, Traffic, Watcher

SILENCE_SECONDS = 15.0
"""After so long without a line an empty one is sent, so that a gone reader is noticed."""
NDJSON = "application/x-ndjson; charset=utf-8"

_encode = msgspec.json.Encoder().encode


async def watch_traffic(
    request: web.Request, traffic: Traffic, tenant: str, headers: Mapping[str, str]
) -> web.StreamResponse:
    """Stream what passes until the reader goes or the service stops.

    Shape:  query `kind` (telemetry, event, command, response; several times or with commas) and `device`.
            Lines are `Sighting`s; `{"missed": n}` where the reader was too slow.
    Errors: BadRequest for another kind; QuotaExceeded when too many watch.
    """
    kinds = _kinds(request.query.getall("kind", []))
    watcher, end = traffic.watch(tenant, kinds, request.query.get("device") or None)
    try:
        response = web.StreamResponse(headers={"Content-Type": NDJSON, **headers})
        response.headers["Cache-Control"] = "no-store"
        await response.prepare(request)
        await response.write(b"\n")  # so that the reader knows that it sees all from here on
        await _write_lines(watcher, response)
    finally:
        end()
    return response


async def _write_lines(watcher: Watcher, response: web.StreamResponse) -> None:
    while not watcher.is_over:
        try:
            async with asyncio.timeout(SILENCE_SECONDS):
                missed, sightings = await watcher.lines()
        except TimeoutError:
            await response.write(b"\n")
            continue
        lines = [_encode({"missed": missed})] if missed else []
        lines += [_encode(sighting) for sighting in sightings]
        if lines:
            await response.write(b"\n".join(lines) + b"\n")


def _kinds(given: list[str]) -> frozenset[Passing]:
    names = [name for text in given for name in text.split(",") if name]
    try:
        return frozenset(Passing(name) for name in names)
    except ValueError as error:
        known = ", ".join(Passing)
        raise BadRequest(f"kind: expected one of {known}, got {str(names)[:200]}") from error
