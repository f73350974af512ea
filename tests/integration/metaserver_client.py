"""A client of MetaServer's HTTP, for tests."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from tests.integration.edge_node import Node

PODS = "/api/v1/namespaces/default/pods"
MAPS = "/api/v1/namespaces/default/configmaps"
AWAY = "127.0.0.1:1"
"""No cloud is there."""
ADMIN = {"Authorization": "Bearer admin"}


class Client:
    """One HTTP client of a MetaServer."""

    def __init__(self, session: aiohttp.ClientSession, base: str) -> None:
        self.session = session
        self.base = base

    async def ask(self, method: str, path: str, **more: Any) -> tuple[int, Any, str]:
        """Return status, document and where the answer is from."""
        async with self.session.request(method, self.base + path, **more) as answer:
            document = json.loads(await answer.read() or b"null")
            return answer.status, document, answer.headers.get("X-Twinspan-From", "")

    async def names(self, path: str) -> tuple[list[str], str]:
        status, found, origin = await self.ask("GET", path)
        assert status == 200, found
        return sorted(item["metadata"]["name"] for item in found["items"]), origin

    @asynccontextmanager
    async def watch(self, path: str, **query: str) -> AsyncIterator[asyncio.Queue[Any]]:
        """Follow a path; the queue gets (type, name) of each event, and None at the end."""
        events: asyncio.Queue[Any] = asyncio.Queue()

        async def read(answer: aiohttp.ClientResponse) -> None:
            async for line in answer.content:
                event = json.loads(line)
                thing = event["object"]
                name = thing["metadata"].get("name") or thing.get("code", "")
                events.put_nowait((event["type"], name))
            events.put_nowait(None)

        query = {"watch": "1", **query}
        async with self.session.get(self.base + path, params=query) as answer:
            assert answer.status == 200, await answer.text()
            reader = asyncio.create_task(read(answer))
            try:
                yield events
            finally:
                reader.cancel()
                await asyncio.gather(reader, return_exceptions=True)


@asynccontextmanager
async def client_of(node: Node, **headers: str) -> AsyncIterator[Client]:
    base = f"http://{node.endpoints.get('edge.metaserver')}"
    async with aiohttp.ClientSession(headers=headers) as session:
        yield Client(session, base)


async def nothing_more(events: asyncio.Queue[Any]) -> None:
    await asyncio.sleep(0.1)
    assert events.empty()
