"""The LoRaWAN and Sigfox adapters for tests, and a network server that takes commands."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp
from aiohttp import web

from gateway.config.hono import LoraAdapter as LoraSettings
from gateway.config.hono import SigfoxAdapter as SigfoxSettings
from gateway.hono.adapters.lora import LoraAdapter
from gateway.hono.adapters.sigfox import SigfoxAdapter
from gateway.model.json import Json, JsonObject
from gateway.runtime.module import running
from tests.hono_rig import FREE, Core

JSON = {"Content-Type": "application/json"}


@dataclass(frozen=True)
class Answer:
    """What a network server or the Sigfox backend is told."""

    status: int
    body: bytes
    headers: Mapping[str, str]

    @property
    def text(self) -> str:
        return self.body.decode()


class Caller:
    """A server that calls an adapter."""

    def __init__(self, http: aiohttp.ClientSession, url: str) -> None:
        self._http = http
        self._url = url

    async def __call__(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        async with self._http.request(
            method,
            self._url + path,
            data=body,
            headers=headers,
            skip_auto_headers=["Content-Type"],
        ) as response:
            lower = {name.lower(): value for name, value in response.headers.items()}
            return Answer(response.status, await response.read(), lower)


@asynccontextmanager
async def a_lora_adapter(
    core: Core, tls_context: ssl.SSLContext | None = None, **changes: object
) -> AsyncIterator[str]:
    """The LoRaWAN adapter of `core`; yields its URL. `changes` are settings."""
    settings = LoraSettings(bind=FREE, tls_bind=FREE, **changes)  # type: ignore[arg-type]
    adapter = LoraAdapter(
        settings,
        core.endpoints,
        core.authenticator,
        core.registry,
        core.ingress,
        core.commands,
        tls_context=tls_context,
    )
    async with running(adapter):
        yield core.url("hono.lora")


@asynccontextmanager
async def a_sigfox_adapter(core: Core, **changes: object) -> AsyncIterator[str]:
    """The Sigfox adapter of `core`; yields its URL. `changes` are settings."""
    settings = SigfoxSettings(bind=FREE, tls_bind=FREE, **changes)  # type: ignore[arg-type]
    adapter = SigfoxAdapter(
        settings, core.endpoints, core.authenticator, core.registry, core.ingress, core.commands
    )
    async with running(adapter):
        yield core.url("hono.sigfox")


@dataclass
class NetworkServer:
    """Takes commands: keeps what was posted, answers `status`, or waits where `gate` is closed."""

    url: str = ""
    status: int = 200
    posts: list[tuple[str, Mapping[str, str], Json]] = field(default_factory=list)
    gate: asyncio.Event = field(default_factory=asyncio.Event)

    async def handle(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.posts.append((request.path, request.headers, body))
        await self.gate.wait()
        return web.Response(status=self.status, headers={"Location": "/elsewhere"})

    def endpoint(self, **more: Json) -> JsonObject:
        """A gateway's document with this server as its command endpoint."""
        return {"command-endpoint": {"uri": self.url + "/push/{{deviceId}}", **more}}


@asynccontextmanager
async def a_network_server() -> AsyncIterator[NetworkServer]:
    """A network server on a free port, its gate open."""
    server = NetworkServer()
    server.gate.set()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", server.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    assert site._server is not None
    port = site._server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]
    server.url = f"http://127.0.0.1:{port}"
    try:
        yield server
    finally:
        server.gate.set()
        await runner.cleanup()
