"""A running console for tests: real sessions, things, registry and Kubernetes API behind Ditto's port."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from gateway.config.console import Console as ConsoleSettings
from gateway.config.ditto import DittoHttp
from gateway.config.hono import StoredCommands as StoredSettings
from gateway.config.kube import Kube, KubeHttps
from gateway.config.tree import Settings
from gateway.console.page import Console
from gateway.ditto.auth import Authentication
from gateway.ditto.endpoint import Endpoints as DittoEndpoints
from gateway.ditto.passwords import PasswordChecks, hash_password
from gateway.ditto.service import PoliciesService
from gateway.ditto.tokens import Tokens
from gateway.hono.registry import Registry
from gateway.hono.stored_commands import StoredCommands
from gateway.hono.traffic import Traffic
from gateway.kube.client import KubeClient
from gateway.kube.kubelets import Kubelets
from gateway.kube.module import KubeApi
from gateway.observe.metrics import Metrics
from gateway.observe.tracing import Tracer
from gateway.runtime.listener import Endpoints
from gateway.runtime.module import Readiness, running
from gateway.store.database import Database
from tests.ditto_rig import FREE, Stack, a_service, serving

HEADER = {"x-twinspan-console": "1"}
USERS = {"ditto": "ditto", "devops": "foobar", "status": "status"}
_HASHED = {name: hash_password(word, cost=4) for name, word in USERS.items()}


@dataclass
class Process:
    settings: Settings
    metrics: Metrics
    readiness: Readiness = field(default_factory=lambda: Readiness(()))
    endpoints: Endpoints = field(default_factory=Endpoints)
    tracer: Tracer = field(default_factory=Tracer)


@dataclass
class Rooms:
    registry: Registry
    policies: PoliciesService
    traffic: Traffic
    stored_commands: StoredCommands


class FakeCloud:
    """What CloudCore would know; tests change it."""

    def __init__(self) -> None:
        self.links: dict[str, float] = {}
        self.on_link: Any = None

    def link_since(self, node: str) -> float | None:
        return self.links.get(node)

    def certificates(self, node: str) -> tuple[int, float | None]:
        return 1, None

    def thing_id(self, namespace: str, name: str) -> str | None:
        return f"{namespace}:{name}"


@dataclass
class Rig:
    stack: Stack
    console: Console
    rooms: Rooms
    http: aiohttp.ClientSession
    kube: KubeClient
    cloud: FakeCloud
    process: Process

    @property
    def url(self) -> str:
        return self.stack.url

    async def ask(
        self, path: str, method: str = "GET", body: Any = None, **headers: str
    ) -> tuple[int, Any]:
        """Call the console's API (or a path from the root) with the cookie; return status and JSON."""
        url = f"{self.url}{path}" if path.startswith("/") else f"{self.url}/console/api/{path}"
        given = {**HEADER, **{k.replace("_", "-"): v for k, v in headers.items()}}
        async with self.http.request(method, url, json=body, headers=given) as response:
            raw = await response.read()
            is_json = "json" in response.headers.get("Content-Type", "")
            return response.status, json.loads(raw) if raw and is_json else raw.decode()

    async def sign_in(self, user: str, password: str | None = None) -> tuple[int, Any]:
        word = USERS.get(user, "") if password is None else password
        return await self.ask("session", "POST", {"user": user, "password": word})


@asynccontextmanager
async def a_console(
    folder: Path | None = None,
    *,
    operator: bool = True,
    kubelets: Kubelets | None = None,
    **settings: Any,
) -> AsyncIterator[Rig]:
    """A console; with a Kubernetes API where it gets a `folder`."""
    http = DittoHttp(bind=FREE)
    made = Settings(
        console=ConsoleSettings(**settings),
        kube=Kube(https=KubeHttps(bind=FREE)),
    )
    async with AsyncExitStack() as up:
        stack = await up.enter_async_context(a_service(http))
        process = Process(made, stack.metrics)
        console, cloud = Console(process), FakeCloud()
        registry = Registry(stack.database, stack.metrics)
        stored = StoredCommands(stack.database, StoredSettings(), stack.metrics)
        rooms = Rooms(registry, stack.policies, Traffic(), stored)
        stack.auth = Authentication(
            _HASHED, PasswordChecks(), Tokens(()), sessions=console.sessions
        )
        stack.endpoints = DittoEndpoints(stack.auth, http, stack.metrics, process.tracer)
        await up.enter_async_context(running(registry))
        kube: Any = None
        if folder is not None:
            api = KubeApi(
                made.kube, process.endpoints, Database(None, "kube"), stack.metrics, folder
            )
            if kubelets is not None:
                api.reach(lambda _others: kubelets)
            await up.enter_async_context(running(api))
            console.show_cloud(cloud)
            console.show_cluster(api)
            kube = api.client("test")
        await up.enter_async_context(serving(stack, http, None, console.routes(stack.auth, rooms)))
        for module in console.modules:
            await up.enter_async_context(running(module))
        jar = aiohttp.CookieJar(unsafe=True)
        client = await up.enter_async_context(aiohttp.ClientSession(cookie_jar=jar))
        rig = Rig(stack, console, rooms, client, kube, cloud, process)
        if operator:
            assert (await rig.sign_in("devops"))[0] == 200
        yield rig


@dataclass
class Events:
    """A stream of events, read one by one."""

    response: aiohttp.ClientResponse

    async def next(self, event: str = "") -> Any:
        """The data of the next event, or of the next one of that name."""
        name = ""
        async with asyncio.timeout(10):
            async for raw in self.response.content:
                line = raw.decode().rstrip("\n")
                if line.startswith("event: "):
                    name = line[7:]
                elif line.startswith("data: ") and event in ("", name):
                    return json.loads(line[6:])
        raise AssertionError(f"the stream ended before {event!r}")


@asynccontextmanager
async def events(rig: Rig, path: str) -> AsyncIterator[Events]:
    """Open a stream of the console's API."""
    url = f"{rig.url}/console/api/{path}"
    async with rig.http.get(url, headers=HEADER) as response:
        assert response.status == 200, await response.text()
        assert response.headers["Content-Type"].startswith("text/event-stream")
        yield Events(response)
