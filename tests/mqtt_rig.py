"""A running MQTT adapter over small fakes of the ports that it uses."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from paho.mqtt import client as paho

from gateway.config.hono import MqttAdapter as Settings
from gateway.errors import (
    DeviceNotFound,
    GatewayError,
    Unauthenticated,
)
from gateway.hono.adapters.admission import Lease
from gateway.hono.adapters.mqtt import MqttAdapter
from gateway.hono.adapters.mqtt_device import Rooms
from gateway.model.login import Login
from gateway.model.message import (
    Adapter,
    Command,
    CommandResponse,
    DeviceCommand,
    Principal,
    Upload,
)
from gateway.model.ports import DeviceLink, Done
from gateway.model.registry import Assertion, Device, Tenant
from gateway.observe.metrics import Metrics
from gateway.runtime.listener import Endpoints
from gateway.wire.mqtt import packets as p
from gateway.wire.mqtt.codec import encode
from gateway.wire.mqtt.packets import V3
from tests.mqtt_peers import paho_client

V311, V50 = int(paho.MQTTv311), int(paho.MQTTv5)
BOTH = pytest.mark.parametrize("version", [V311, V50], ids=["3.1.1", "5.0"])
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class FakeIngress:
    """Writes uploads down; answers as told, at once or when the test says."""

    def __init__(self) -> None:
        self.uploads: list[Upload] = []
        self.errors: dict[bytes, GatewayError] = {}
        self.held: list[Done] | None = None

    def submit(self, upload: Upload, done: Done) -> None:
        self.uploads.append(upload)
        if self.held is not None:
            self.held.append(done)
        else:
            done(self.errors.get(upload.payload))


class FakeCommands:
    """Writes subscriptions and responses down."""

    def __init__(self) -> None:
        self.links: dict[tuple[str, str, str | None, bool], DeviceLink] = {}
        self.responses: list[CommandResponse] = []
        self.error: GatewayError | None = None

    def subscribe(
        self,
        tenant: str,
        device: str,
        link: DeviceLink,
        *,
        adapter: Adapter,
        gateway: str | None = None,
        announce: bool = True,
        for_its_devices: bool = True,
    ) -> Callable[[], None]:
        assert (adapter, announce) == (Adapter.MQTT, True)
        key = (tenant, device, gateway, for_its_devices)
        self.links[key] = link

        def end() -> None:
            if self.links.get(key) is link:
                del self.links[key]

        return end

    def route(self, command: Command, done: Done) -> None:
        raise NotImplementedError

    def respond(self, response: CommandResponse, done: Done) -> None:
        self.responses.append(response)
        done(self.error)


class FakeRegistry:
    """Authenticator, admission and assertions over a few fixed names."""

    def __init__(self) -> None:
        self.passwords = {
            "sensor1@T": ("hono-secret", Principal("T", "4711", "sensor1")),
            "gw@T": ("gw-secret", Principal("T", "gw-1", "gw")),
        }
        self.errors: dict[str, GatewayError] = {}
        self.refusal: GatewayError | None = None
        self.closers: list[Callable[[GatewayError], None]] = []
        self.leases = 0
        self.delay: asyncio.Event | None = None
        self.tasks: list[asyncio.Task[None]] = []

    def check_password(
        self,
        username: str,
        password: bytes,
        adapter: Adapter,
        done: Callable[[Principal | GatewayError], None],
    ) -> None:
        expected, principal = self.passwords.get(username, ("", None))
        answer: Principal | GatewayError = Unauthenticated()
        if username in self.errors:
            answer = self.errors[username]
        elif principal is not None and password == expected.encode():
            answer = principal
        if self.delay is None:
            done(answer)
        else:
            self.tasks.append(asyncio.create_task(self._later(self.delay, done, answer)))

    def check_login(
        self, login: Login, adapter: Adapter, done: Callable[[Principal | GatewayError], None]
    ) -> None:
        self.check_password(login.username or "", login.password or b"", adapter, done)

    async def _later(self, when: asyncio.Event, done: Callable[[Any], None], answer: Any) -> None:
        await when.wait()
        done(answer)

    def admit(
        self,
        principal: Principal,
        adapter: Adapter,
        close: Callable[[GatewayError], None],
        done: Callable[[Lease | GatewayError], None],
        *,
        cipher_suite: str = "UNKNOWN",
        remote_id: str = "",
    ) -> None:
        del remote_id
        assert cipher_suite == "UNKNOWN"
        if self.refusal is not None:
            done(self.refusal)
            return
        self.closers.append(close)
        self.leases += 1
        done(self)

    def release(self) -> None:
        self.leases -= 1

    def assert_device(
        self,
        tenant: str,
        device: str,
        gateway: str | None,
        done: Callable[[Assertion | GatewayError], None],
    ) -> None:
        if (tenant, device, gateway) in {("T", "4712", "gw-1"), ("T", "4711", None)}:
            found = Device(tenant_id=tenant, device_id=device, document={})
            done(Assertion(Tenant(tenant_id=tenant, document={}), found))
        else:
            done(DeviceNotFound())


class Rig:
    """A running adapter with its fakes."""

    def __init__(self, **settings: Any) -> None:
        self.settings = Settings(bind="127.0.0.1:0", **settings)
        self.ingress = FakeIngress()
        self.commands = FakeCommands()
        self.registry = FakeRegistry()
        self.metrics = Metrics()
        self.endpoints = Endpoints()
        self.adapter = MqttAdapter(
            self.settings,
            self.endpoints,
            self.metrics,
            Rooms(
                ingress=self.ingress,
                commands=self.commands,
                authenticator=self.registry,
                admission=self.registry,
                assertions=self.registry,
            ),
        )

    @property
    def address(self) -> str:
        return self.endpoints.get("hono.mqtt")

    def sensor(self, version: int = V311, **more: Any) -> Any:
        return paho_client(
            self.address, version, username="sensor1@T", password="hono-secret", **more
        )

    def gateway(self, version: int = V311, **more: Any) -> Any:
        return paho_client(self.address, version, username="gw@T", password="gw-secret", **more)

    @property
    def connect(self) -> bytes:
        """A CONNECT of the sensor."""
        return encode(p.Connect("raw", V3, True, 0, "sensor1@T", b"hono-secret"), V3)


def a_command(
    name: str = "set", target: str = "4711", request_id: str = "", **more: Any
) -> DeviceCommand:
    gateway = more.pop("gateway", None)
    command = Command(tenant="T", device=target, name=name, payload=b"on", **more)
    return DeviceCommand(command=command, target=target, request_id=request_id, gateway=gateway)


class Outcome:
    """A `done` that remembers."""

    def __init__(self) -> None:
        self.told: list[GatewayError | None] = []

    def __call__(self, error: GatewayError | None) -> None:
        self.told.append(error)
