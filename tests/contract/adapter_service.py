"""A whole Hono-compatible service for contract tests: all parts real, on free ports of this process."""

from __future__ import annotations

import asyncio
import base64
import itertools
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from prometheus_client.registry import Collector

from gateway.config import hono as settings
from gateway.hono.adapters.amqp import AmqpAdapter
from gateway.hono.adapters.amqp_device import Rooms as AmqpRooms
from gateway.hono.adapters.coap import CoapAdapter
from gateway.hono.adapters.coap_dtls import SecureSockets
from gateway.hono.adapters.coap_keys import CoapKeys
from gateway.hono.adapters.http import HttpAdapter
from gateway.hono.adapters.mqtt import MqttAdapter
from gateway.hono.adapters.mqtt_device import Rooms as MqttRooms
from gateway.hono.authentication import DeviceAuthenticator
from gateway.hono.commands import CommandRouter
from gateway.hono.downstream import Messaging
from gateway.hono.ingress import IngressService
from gateway.hono.last_gateways import LastGateways
from gateway.hono.limits import Connections, Usage
from gateway.hono.northbound import ENDPOINT, ApplicationUser, Northbound
from gateway.hono.passwords import PasswordPool
from gateway.hono.registry import Registry
from gateway.model.json import Json, JsonObject
from gateway.observe.metrics import Metrics
from gateway.observe.tracing import Tracer
from gateway.runtime.listener import Endpoints
from gateway.runtime.module import running
from gateway.store.database import Database
from gateway.store.memory_events import MemoryEvents
from tests.integration.proton_peer import Peer

FREE = "127.0.0.1:0"
MAX_PAYLOAD = 2_048
PASSWORDS = {"sensor1": "hono-secret", "gw": "gw-secret", "gw2": "gw2-secret"}
DEVICES: Mapping[str, tuple[str | None, JsonObject]] = {
    "4711": ("sensor1", {}),
    "gw-1": ("gw", {}),
    "gw-2": ("gw2", {}),
    "4712": (None, {"via": ["gw-1"]}),
}
"""Device -> (auth-id or None, registration). Each auth-id has a password and the same pre-shared key."""

_numbers = itertools.count(1)


@dataclass
class Service:
    """What runs, and how to change it."""

    registry: Registry
    usage: Usage
    metrics: Metrics
    last_gateways: LastGateways
    messaging: Messaging
    connections: Connections
    commands: CommandRouter
    patience: float
    endpoints: Endpoints = field(default_factory=Endpoints)
    northbound: Northbound = field(init=False)

    def address(self, name: str) -> str:
        """`host:port` of an endpoint."""
        return self.endpoints.get(name)

    def application(self, **options: Any) -> Peer:
        """An application that may use every tenant."""
        url = f"amqp://consumer%40HONO:verysecret@{self.address(ENDPOINT)}"
        return Peer(url, **options)

    def samples(self, family: str, tenant: str) -> dict[str, list[tuple[dict[str, str], float]]]:
        """Samples of a family that name a tenant: sample name -> (labels, value)."""
        found: dict[str, list[tuple[dict[str, str], float]]] = {}
        for metric in self._families[family].collect():
            for sample in metric.samples:
                if sample.labels.get("tenant") == tenant and sample.value:
                    found.setdefault(sample.name, []).append((dict(sample.labels), sample.value))
        return found

    @property
    def _families(self) -> Mapping[str, Collector]:
        metrics = self.metrics
        return {
            "hono_telemetry_processing_duration_seconds": metrics.telemetry_seconds,
            "hono_telemetry_payload_bytes": metrics.telemetry_bytes,
            "hono_command_processing_duration_seconds": metrics.command_seconds,
            "hono_command_payload_bytes": metrics.command_bytes,
            "hono_connections_attempts": metrics.connection_attempts,
        }

    async def fleet(
        self,
        tenant: JsonObject | None = None,
        devices: Mapping[str, JsonObject] | None = None,
        *,
        used_bytes: int = 0,
    ) -> str:
        """Register a tenant of its own with the usual devices, changed as told; returns its id."""
        name = f"tenant-{next(_numbers)}"
        await self.registry.create_tenant(name, tenant or {})
        for device, (auth_id, body) in DEVICES.items():
            change = (devices or {}).get(device, {})
            await self.registry.create_device(name, device, {**body, **change})
            if auth_id is not None:
                await self._log_in_with(name, device, auth_id)
        if used_bytes:
            self.usage.add_bytes(await self.read_tenant(name), used_bytes)
        return name

    async def _log_in_with(self, tenant: str, device: str, auth_id: str) -> None:
        password = PASSWORDS[auth_id]
        key = base64.b64encode(password.encode()).decode()
        secrets: list[Json] = [
            {"type": "hashed-password", "auth-id": auth_id, "secrets": [{"pwd-plain": password}]},
            {"type": "psk", "auth-id": auth_id, "secrets": [{"key": key}]},
        ]
        await self.registry.update_credentials(tenant, device, secrets, None)

    async def disable_credentials(self, tenant: str, device: str) -> None:
        """Switch all credentials of a device off."""
        stored, version = await self.registry.read_credentials(tenant, device)
        off: list[Json] = [{**one, "enabled": False} for one in stored if isinstance(one, dict)]
        await self.registry.update_credentials(tenant, device, off, version)

    async def read_tenant(self, name: str) -> Any:
        """The tenant as the registry knows it."""
        found: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.registry.find_tenant(name, found.set_result)
        return await found


@asynccontextmanager
async def a_service(
    *, authentication_required: bool = True, patience: float = 20.0, max_connections: int = 10_000
) -> AsyncIterator[Service]:
    """All adapters and the northbound endpoint over one registry.

    Units:  `patience` in seconds: how long a consumer, or a device with a command, may be silent.
    """
    database, metrics, tracer = Database(None, "gateway"), Metrics(), Tracer()
    registry = Registry(database, metrics, passwords=PasswordPool(cost=4))
    usage, last = Usage(database), LastGateways()
    messaging = Messaging(MemoryEvents(), metrics, timeout=patience)
    connections = Connections(registry, usage, metrics)
    ingress = IngressService(registry, messaging, usage, last, metrics, tracer)
    commands = CommandRouter(registry, messaging, usage, last, metrics, tracer)
    service = Service(registry, usage, metrics, last, messaging, connections, commands, patience)
    authenticator = DeviceAuthenticator(registry)
    rooms: dict[str, Any] = {
        "ingress": ingress,
        "commands": commands,
        "authenticator": authenticator,
        "admission": connections,
        "assertions": registry,
    }
    common: dict[str, Any] = {
        "bind": FREE,
        "tls_bind": FREE,
        "authentication_required": authentication_required,
    }
    lasting = {
        **common,
        "max_connections": max_connections,
        "send_to_device_timeout": patience,
    }
    ends, coap = service.endpoints, settings.CoapAdapter(**common, timeout_to_ack=-1)
    secure = SecureSockets(coap, CoapKeys(registry, authenticator), metrics, None)
    northbound = Northbound(
        settings.Northbound(bind=FREE),
        ends,
        messaging,
        commands,
        {"consumer@HONO": ApplicationUser("consumer@HONO", "verysecret")},
        metrics,
        response_timeout=patience,
    )
    commands.add_sink(northbound)
    service.northbound = northbound
    modules = (
        registry,
        usage,
        northbound,
        HttpAdapter(
            settings.HttpAdapter(**common), ends, authenticator, registry, ingress, commands
        ),
        MqttAdapter(settings.MqttAdapter(**lasting), ends, metrics, MqttRooms(**rooms)),
        AmqpAdapter(settings.AmqpAdapter(**lasting), ends, metrics, AmqpRooms(**rooms)),
        CoapAdapter(coap, ends, registry, ingress, commands, metrics, secure=secure),
    )
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(database.running())
        for module in modules:
            await stack.enter_async_context(running(module))
        yield service
