"""Adapters whose registry, messaging and command router are services behind AMQP."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

from gateway.config.hono import HttpAdapter as HttpSettings
from gateway.config.hono import MqttAdapter as MqttSettings
from gateway.config.hono_services import Peer
from gateway.config.hono_services import Services as Settings
from gateway.hono.adapters.http import HttpAdapter
from gateway.hono.adapters.mqtt import MqttAdapter
from gateway.hono.adapters.mqtt_device import Rooms
from gateway.hono.remote_services.assembly import RemoteSide, remote_side
from gateway.hono.remote_services.usage import SharedUsage
from gateway.observe.metrics import Metrics
from gateway.observe.tracing import Tracer
from gateway.runtime.listener import Endpoints
from gateway.runtime.module import running
from tests.hono_rig import FREE, Core, until
from tests.services_rig import Services, the_services

ADAPTER = Peer(username="http-adapter@HONO", password="http-secret")


@dataclass
class Away:
    """The side with the adapters."""

    side: RemoteSide
    metrics: Metrics
    endpoints: Endpoints

    @property
    def http(self) -> str:
        return f"http://{self.endpoints.get('hono.http')}"

    @property
    def mqtt(self) -> int:
        return self.endpoints.port("hono.mqtt")

    def sample(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(name, labels) or 0.0


@asynccontextmanager
async def adapters_on(
    services: Services,
    *,
    instance: str = "away",
    usage: SharedUsage | None = None,
    address: str = "",
    **settings: Any,
) -> AsyncIterator[Away]:
    """HTTP and MQTT adapter that know the services by their address alone."""
    metrics, endpoints = Metrics(), Endpoints()
    peer = Peer(address=address) if address else replace(ADAPTER, address=services.address)
    given = Settings(messaging=peer, **settings)
    side = remote_side(given, metrics, Tracer(), instance=instance, usage=usage)
    http = HttpAdapter(
        HttpSettings(bind=FREE),
        endpoints,
        side.authenticator,
        side.registry,
        side.ingress,
        side.commands,
    )
    mqtt = MqttAdapter(
        MqttSettings(bind=FREE),
        endpoints,
        metrics,
        Rooms(
            ingress=side.ingress,
            commands=side.commands,
            authenticator=side.authenticator,
            admission=side.connections,
            assertions=side.registry,
        ),
    )
    async with AsyncExitStack() as up:
        for module in (*side.modules, http, mqtt):
            await up.enter_async_context(running(module))
        await until(lambda: side.notifications.is_listening)
        yield Away(side, metrics, endpoints)


@asynccontextmanager
async def services_and_adapters(core: Core, **options: Any) -> AsyncIterator[Away]:
    """Both sides of `core`."""
    async with the_services(core) as services, adapters_on(services, **options) as away:
        yield away


@asynccontextmanager
async def a_worker(
    services: Services, instance: str = "worker0", usage: SharedUsage | None = None
) -> AsyncIterator[Away]:
    """The adapters of a worker process: on the Unix socket, limits counted elsewhere."""
    address = f"unix:{services.settings.socket}"
    shared = SharedUsage() if usage is None else usage
    async with adapters_on(services, instance=instance, usage=shared, address=address) as away:
        yield away
