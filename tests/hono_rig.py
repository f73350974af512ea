"""A running Hono core for tests: real store, real sockets, downstream that the test plays."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from gateway.config.hono import Registry as RegistrySettings
from gateway.hono.passwords import PasswordPool
from gateway.hono.registry import Registry
from gateway.hono.registry_http import RegistryHttp, RegistryServer
from gateway.observe.metrics import Metrics
from gateway.observe.tracing import Tracer
from gateway.runtime.listener import Endpoints
from gateway.runtime.module import running
from gateway.store.database import Database

ADMIN = ("hono-client", "secret")
FREE = "127.0.0.1:0"


@dataclass
class Core:
    """What every part stands on."""

    registry: Registry
    metrics: Metrics
    tracer: Tracer
    endpoints: Endpoints = field(default_factory=Endpoints)

    def url(self, name: str) -> str:
        return f"http://{self.endpoints.get(name)}"


@asynccontextmanager
async def a_core(**changes: object) -> AsyncIterator[Core]:
    """A registry on an empty store; `changes` are arguments of Registry."""
    database = Database(None, "gateway")
    metrics = Metrics()
    registry = Registry(database, metrics, passwords=PasswordPool(cost=4), **changes)  # type: ignore[arg-type]
    async with database.running(), running(registry):
        yield Core(registry, metrics, Tracer())


@asynccontextmanager
async def a_registry_api(core: Core) -> AsyncIterator[str]:
    """The management API of `core`; yields its URL with `/v1`."""
    settings = RegistrySettings(bind=FREE, max_payload=2_000)
    server = RegistryServer(core.registry, settings, dict([ADMIN]), core.metrics, core.tracer)
    async with running(RegistryHttp(server, settings, core.endpoints)):
        yield core.url("hono.registry") + "/v1"


def basic(name: str, password: str) -> dict[str, str]:
    """The header of Basic authentication."""
    token = base64.b64encode(f"{name}:{password}".encode()).decode()
    return {"Authorization": f"Basic {token}"}


async def curl(*args: str) -> tuple[int, str]:
    """Run curl; returns the status and what it printed."""
    process = await asyncio.create_subprocess_exec(
        "curl", "-sS", "-m", "20", "-w", "\n%{http_code}", *args, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    body, _, status = out.decode().rpartition("\n")
    return int(status), body


async def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    """Wait for a condition."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110  what is waited for has no event of its own
            await asyncio.sleep(0.005)
