"""A server of Thing Models on loopback that remembers what it was asked, and can misbehave."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer

from tests.wot_samples import DOCUMENTS

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class ModelServer:
    """Documents by path; `answers` come first."""

    documents: dict[str, Any] = field(default_factory=lambda: dict(DOCUMENTS))
    answers: dict[str, Answer] = field(default_factory=dict)
    asked: Counter[str] = field(default_factory=Counter)
    held: asyncio.Event = field(default_factory=asyncio.Event)
    base: str = ""
    port: int = 0

    def hold(self) -> None:
        """Answer nothing until `held` is set."""
        self.held.clear()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.asked[request.path] += 1
        await self.held.wait()
        if request.path in self.answers:
            return await self.answers[request.path](request)
        if request.path not in self.documents:
            raise web.HTTPNotFound
        body = json.dumps(self.documents[request.path]).encode()
        return web.Response(body=body, content_type="application/tm+json")


@asynccontextmanager
async def a_model_server() -> AsyncIterator[ModelServer]:
    """It runs for the length of the block."""
    models = ModelServer()
    models.held.set()
    app = web.Application()
    app.router.add_route("*", "/{rest:.*}", models.handle)
    async with TestServer(app, host="127.0.0.1") as server:
        models.port = server.port or 0
        models.base = f"http://127.0.0.1:{models.port}"
        yield models
        models.held.set()
