"""The LoRaWAN and Sigfox adapters for tests, and a network server that takes commands."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from aiohttp import web

from gateway.config.hono import LoraAdapter as LoraSettings
from gateway.config.hono import SigfoxAdapter as SigfoxSettings
from gateway.errors import GatewayError
from gateway.hono.adapters.lora import LoraAdapter
from gateway.hono.adapters.sigfox import SigfoxAdapter
from gateway.model.json import Json, JsonObject
from gateway.model.message import Adapter
from gateway.runtime.module import running
from tests.hono_rig import FREE, GATEWAY, Core, basic

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


# --- what comes of a request ------------------------------------------------------------------------

OFF = "device is disabled or not registered"
World = Callable[[Core], Awaitable[object]]


@dataclass(frozen=True, kw_only=True)
class Request:
    """One request to an adapter that runs for `acme`, and the state of the world that it meets."""

    method: str
    path: str
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    login: tuple[str, str] | None = GATEWAY
    outcome: GatewayError | None = None
    world: World | None = None


@dataclass(frozen=True)
class Case:
    """What must come of a request.

    Shape:  `metric` is the status that the meters get, None where nothing is counted.
    """

    status: int
    text: str
    metric: str | None
    request: Request

    @property
    def reaches(self) -> bool:
        """True where the consumer sees the message."""
        return self.metric == "forwarded" or self.request.outcome is not None


def case_maker(method: str, path: str, body: bytes = b"", **usual: str) -> Callable[..., Case]:
    """Return a maker of cases that says only what is unusual about them; `usual` are headers."""

    def make(status: int, text: str = "", metric: str | None = None, **unusual: Any) -> Case:
        given = {"method": method, "path": path, "body": body, "headers": usual, **unusual}
        return Case(status, text, metric, Request(**given))

    return make


def adapters(*types: str) -> World:
    """The tenant lists its adapters."""
    listed: list[Json] = [{"type": name, "enabled": True} for name in types]
    return lambda core: core.registry.update_tenant("acme", {"adapters": listed}, None)


def device(name: str, **body: Json) -> World:
    """A device is registered otherwise."""
    return lambda core: core.registry.update_device("acme", name, body, None)


async def judge(core: Core, url: str, case: Case, component: Adapter) -> None:
    """Send the request of a case; look at the answer, the consumer and the meters."""
    request = case.request
    if request.world is not None:
        await request.world(core)
    core.consumer.outcome = request.outcome
    headers = {**request.headers, **(basic(*request.login) if request.login else {})}
    async with aiohttp.ClientSession() as http:
        answer = await Caller(http, url)(request.method, request.path, request.body, headers)
    assert answer.status == case.status
    assert case.text in answer.text
    assert (answer.headers.get("retry-after") == "2") is (case.status == 503)
    assert (answer.headers.get("www-authenticate") == 'Basic realm="Hono"') is (case.status == 401)
    assert len(core.consumer.messages) == case.reaches
    assert counted(core, component) == ({case.metric} if case.metric else set())


def counted(core: Core, component: Adapter, ttd: str = "none") -> set[str]:
    """The outcomes that the meters of `acme`'s telemetry over an adapter know."""
    labels = {"tenant": "acme", "type": "telemetry", "qos": "0", "ttd": ttd}
    name = "hono_telemetry_processing_duration_seconds_count"
    return {
        status
        for status in ("forwarded", "undeliverable", "unprocessable")
        if core.sample(name, **labels, status=status, component_name=component)
    }


# --- adapters, and who is at their other side -------------------------------------------------------


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
