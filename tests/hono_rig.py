"""A running Hono core for tests: real store, real sockets, downstream that the test plays."""

from __future__ import annotations

import asyncio
import base64
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

from gateway.config.hono import HttpAdapter as HttpSettings
from gateway.config.hono import Registry as RegistrySettings
from gateway.config.hono import StoredCommands as StoredSettings
from gateway.errors import GatewayError
from gateway.hono.adapters.http import HttpAdapter
from gateway.hono.authentication import DeviceAuthenticator
from gateway.hono.commands import CommandRouter
from gateway.hono.ingress import IngressService
from gateway.hono.last_gateways import LastGateways
from gateway.hono.limits import Connections, Usage
from gateway.hono.passwords import PasswordPool
from gateway.hono.provisioning import Provisioning
from gateway.hono.registry import Registry
from gateway.hono.registry_http import RegistryHttp, RegistryServer
from gateway.hono.stored_commands import StoredCommands
from gateway.hono.traffic import Traffic
from gateway.model.json import Json, JsonObject
from gateway.model.message import EMPTY_NOTIFICATION, Message
from gateway.model.ports import Done
from gateway.observe.metrics import Metrics
from gateway.observe.tracing import Tracer
from gateway.runtime.listener import Endpoints
from gateway.runtime.module import running
from gateway.store.database import Database

DEVICE = ("sensor1@acme", "pw")
GATEWAY = ("gw@acme", "pw")
ADMIN = ("hono-client", "secret")
FREE = "127.0.0.1:0"


class Consumer:
    """A downstream that the test plays: keeps messages, answers with `outcome` or holds the answers."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.outcome: GatewayError | None = None
        self.held: list[Done] | None = None

    def send(self, message: Message, done: Done) -> None:
        self.messages.append(message)
        if self.held is None:
            done(self.outcome)
        else:
            self.held.append(done)

    def hold(self) -> list[Done]:
        """Answer nothing from now on; returns where the callbacks gather."""
        self.held = []
        return self.held

    @property
    def uploads(self) -> list[Message]:
        """Messages without the router's TTD events."""
        return [
            m for m in self.messages if m.content_type != EMPTY_NOTIFICATION or m.ttd not in (-1, 0)
        ]


@dataclass
class Core:
    """What every part stands on."""

    registry: Registry
    metrics: Metrics
    tracer: Tracer
    usage: Usage
    consumer: Consumer
    ingress: IngressService
    commands: CommandRouter
    authenticator: DeviceAuthenticator
    provisioning: Provisioning
    connections: Connections
    last_gateways: LastGateways
    traffic: Traffic
    stored: StoredCommands
    endpoints: Endpoints = field(default_factory=Endpoints)

    def url(self, name: str) -> str:
        return f"http://{self.endpoints.get(name)}"

    def sample(self, name: str, **labels: str) -> float:
        """The value of a metric, 0 where it was never touched."""
        return self.metrics.registry.get_sample_value(name, labels) or 0.0

    async def tenant(self, tenant: str, body: JsonObject | None = None) -> None:
        await self.registry.create_tenant(tenant, body or {})

    async def device(
        self,
        tenant: str,
        device: str,
        body: JsonObject | None = None,
        *,
        auth_id: str | None = None,
    ) -> None:
        """Register a device, with password `pw` where it gets an auth-id."""
        await self.registry.create_device(tenant, device, body or {})
        if auth_id is not None:
            secret: Json = {
                "type": "hashed-password",
                "auth-id": auth_id,
                "secrets": [{"pwd-plain": "pw"}],
            }
            await self.registry.update_credentials(tenant, device, [secret], None)


@asynccontextmanager
async def a_core(
    database: Database | None = None,
    keeps: StoredSettings | None = None,
    clock: Callable[[], float] = time.time,
    first_pause: float = 1.0,
    **changes: object,
) -> AsyncIterator[Core]:
    """All of the Hono core without adapters; `changes` are arguments of Registry.

    Shape:  on an empty store where `database` gives none; `keeps`, `clock` and `first_pause` are for stored
            commands.
    """
    database = database or Database(None, "gateway")
    metrics, tracer = Metrics(), Tracer()
    registry = Registry(database, metrics, passwords=PasswordPool(cost=4), **changes)  # type: ignore[arg-type]
    usage, consumer, last = Usage(database), Consumer(), LastGateways()
    traffic = Traffic()
    provisioning = Provisioning(registry, database, consumer, tracer)
    settings = keeps or StoredSettings()
    stored = StoredCommands(database, settings, metrics, clock=clock, first_pause=first_pause)
    hono = (registry, consumer, usage, last, metrics, tracer)
    core = Core(
        registry,
        metrics,
        tracer,
        usage,
        consumer,
        IngressService(*hono, traffic=traffic),
        CommandRouter(*hono, traffic=traffic, stored=stored),
        DeviceAuthenticator(registry, provisioning=provisioning),
        provisioning,
        Connections(registry, usage, metrics),
        last,
        traffic,
        stored,
    )
    async with AsyncExitStack() as up:
        await up.enter_async_context(database.running())
        for module in (registry, usage, provisioning, stored):
            await up.enter_async_context(running(module))
        yield core


async def a_fleet(core: Core) -> None:
    """Tenant `acme` with device d1 (sensor1), gateway gw-1 (gw) and d2 behind it; all passwords `pw`."""
    await core.tenant("acme")
    await core.device("acme", "d1", auth_id="sensor1")
    await core.device("acme", "gw-1", auth_id="gw")
    await core.device("acme", "d2", {"via": ["gw-1"]})


@asynccontextmanager
async def an_http_adapter(
    core: Core, tls_context: ssl.SSLContext | None = None, **changes: object
) -> AsyncIterator[str]:
    """The HTTP adapter of `core`; yields its URL. `changes` are settings."""
    settings = HttpSettings(bind=FREE, tls_bind=FREE, **changes)  # type: ignore[arg-type]
    adapter = HttpAdapter(
        settings,
        core.endpoints,
        core.authenticator,
        core.registry,
        core.ingress,
        core.commands,
        tls_context=tls_context,
    )
    async with running(adapter):
        yield core.url("hono.http")


@asynccontextmanager
async def a_registry_api(core: Core) -> AsyncIterator[str]:
    """The management API of `core`; yields its URL with `/v1`."""
    settings = RegistrySettings(bind=FREE, max_payload=2_000)
    server = RegistryServer(
        core.registry, settings, dict([ADMIN]), core.metrics, core.tracer, core.traffic, core.stored
    )
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


async def until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    """Wait for a condition."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110  what is waited for has no event of its own
            await asyncio.sleep(0.005)
