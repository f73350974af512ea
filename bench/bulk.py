"""Bulk import of things over HTTP: ratio to single PUTs of the same things, in the same run.

One server process, one client process, durable writes. Each way stores as many new things of about 1 kB that
share one policy: PUT after PUT on one connection; PUTs on as many connections as a browser would never open;
one bulk request. Then all are read again: GET by GET, and by one bulk request. Run:
`python -m bench.bulk [--things 2000] [--connections 50]`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from bench.twin_updates import a_document
from tests.process import Twinspan, twinspan

POLICY = "bench:fleet"
RIGHTS = {"grant": ["READ", "WRITE"], "revoke": []}
ENTRIES = {
    "owner": {
        "subjects": {"nginx:ditto": {"type": "bench"}},
        "resources": {"thing:/": RIGHTS, "policy:/": RIGHTS, "message:/": RIGHTS},
    }
}


@dataclass(frozen=True, slots=True)
class Rate:
    """What one way gave."""

    name: str
    per_second: float


class Client:
    """Stores and reads things in each way."""

    def __init__(self, http: aiohttp.ClientSession, base: str, things: int) -> None:
        self._http = http
        self._base = base
        self._things = things

    async def policy(self) -> None:
        """Make what all things share."""
        url = f"{self._base}/api/2/policies/{POLICY}"
        async with self._http.put(url, json={"entries": ENTRIES}) as answer:
            answer.raise_for_status()

    async def put(self, name: str) -> None:
        """One thing."""
        url = f"{self._base}/api/2/things/bench:{name}"
        async with self._http.put(url, json=a_thing()) as answer:
            answer.raise_for_status()
            await answer.read()

    async def get(self, name: str) -> None:
        """One thing again."""
        async with self._http.get(f"{self._base}/api/2/things/bench:{name}") as answer:
            answer.raise_for_status()
            await answer.read()

    async def each(self, one: Callable[[str], Awaitable[None]], prefix: str, workers: int) -> None:
        """All things, so many at a time."""
        names = iter([f"{prefix}{n}" for n in range(self._things)])

        async def work() -> None:
            for name in names:
                await one(name)

        await asyncio.gather(*(work() for _ in range(workers)))

    async def bulk(self, prefix: str, action: str, expected: int) -> None:
        """All things in one request."""
        value = {} if action == "retrieve" else {"value": a_thing()}

        async def body() -> AsyncIterator[bytes]:
            for n in range(self._things):
                topic = f"bench/{prefix}{n}/things/twin/commands/{action}"
                yield json.dumps({"topic": topic, "path": "/", **value}).encode() + b"\n"

        headers = {"Content-Type": "application/x-ndjson"}
        url = f"{self._base}/api/2/bulk"
        async with self._http.post(url, data=body(), headers=headers) as answer:
            answer.raise_for_status()
            found = await answer.read()
        statuses = {json.loads(line)["status"] for line in found.splitlines()}
        if statuses != {expected}:
            raise SystemExit(f"bulk {action}: statuses {statuses}")


def a_thing() -> dict[str, Any]:
    return {"policyId": POLICY, **a_document()}


async def run(up: Twinspan, things: int, connections: int) -> list[Rate]:
    """All ways, one after the other."""
    rates: list[Rate] = []

    async def timed(name: str, work: Awaitable[None]) -> None:
        started = time.perf_counter()
        await work
        rates.append(Rate(name, things / (time.perf_counter() - started)))

    connector = aiohttp.TCPConnector(limit=0)
    headers = {"Authorization": aiohttp.encode_basic_auth("ditto", "ditto")}
    timeout = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(connector=connector, headers=headers, timeout=timeout) as http:
        client = Client(http, up.url("ditto.http"), things)
        await client.policy()
        await timed("PUT, one connection", client.each(client.put, "a", 1))
        await timed(f"PUT, {connections} connections", client.each(client.put, "b", connections))
        await timed("bulk create", client.bulk("c", "modify", 201))
        await timed("GET, one connection", client.each(client.get, "a", 1))
        await timed(f"GET, {connections} connections", client.each(client.get, "b", connections))
        await timed("bulk retrieve", client.bulk("c", "retrieve", 200))
    return rates


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--things", type=int, default=2_000)
    parser.add_argument("--connections", type=int, default=50)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="twinspan-bench-") as name,
        twinspan(Path(name) / "data", "gateway", "--demo") as up,
    ):
        rates = asyncio.run(run(up, options.things, options.connections))
    if options.json:
        print(json.dumps([msgspec.to_builtins(one) for one in rates]))
        return
    print(f"{options.things} things of about 1 kB")
    print(f"{'way':24} {'things/s':>9} {'ratio':>6}")
    for at, one in enumerate(rates):
        baseline = rates[0 if at < 3 else 3].per_second
        print(f"{one.name:24} {one.per_second:>9.0f} {one.per_second / baseline:>6.1f}")


if __name__ == "__main__":
    main()
