"""The MQTT adapter on the real Hono core: registry, ingress, command router, TLS."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from paho.mqtt import client as paho

from edge.broker import Broker
from gateway.config.edge import EdgeMqtt
from gateway.config.hono import MqttAdapter as Settings
from gateway.errors import GatewayError
from gateway.hono.adapters.mqtt import MqttAdapter
from gateway.hono.adapters.mqtt_device import Rooms
from gateway.model.message import EMPTY_NOTIFICATION, Command, CommandResponse
from gateway.model.ports import Done
from gateway.observe.metrics import Metrics
from gateway.runtime.listener import Endpoints
from gateway.runtime.module import running
from tests.hono_rig import Core, a_core, a_fleet
from tests.mqtt_peers import paho_client, run_tool, until

V311, V50 = int(paho.MQTTv311), int(paho.MQTTv5)
FREE = "127.0.0.1:0"


@asynccontextmanager
async def an_adapter(core: Core, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """The adapter of `core`; yields its address."""
    rooms = Rooms(
        ingress=core.ingress,
        commands=core.commands,
        authenticator=core.authenticator,
        admission=core.connections,
        assertions=core.registry,
    )
    settings = Settings(bind=FREE, tls_bind=FREE)
    async with running(MqttAdapter(settings, core.endpoints, core.metrics, rooms, tls_context=tls)):
        yield core.endpoints.get("hono.mqtt")


@pytest.fixture
async def core() -> AsyncIterator[Core]:
    async with a_core() as made:
        await a_fleet(made)
        yield made


@pytest.fixture
async def address(core: Core) -> AsyncIterator[str]:
    async with an_adapter(core) as made:
        yield made


def sensor(address: str, version: int = V311, **more: Any) -> Any:
    return paho_client(address, version, username="sensor1@acme", password="pw", **more)


def gateway(address: str, **more: Any) -> Any:
    return paho_client(address, username="gw@acme", password="pw", **more)


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A PEM file with key and self-signed certificate of 127.0.0.1."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), 1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    pem = tmp_path / "server.pem"
    pem.write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        + made.public_bytes(Encoding.PEM)
    )
    return pem


async def test_telemetry_and_events_reach_the_consumer(core: Core, address: str) -> None:
    async with sensor(address) as device:
        device.client.publish("telemetry", b'{"t":1}', 1)
        await device.ack()
        device.client.publish("e/?content-type=text%2Fplain&hono-ttl=5", b"x", 1)
        await device.ack()
    telemetry, event = core.consumer.uploads
    assert (telemetry.tenant, telemetry.device, telemetry.qos) == ("acme", "d1", 1)
    assert (telemetry.adapter, telemetry.address) == ("hono-mqtt", "telemetry")
    assert (event.content_type, event.ttl) == ("text/plain", 5.0)
    labels = {"tenant": "acme", "component_name": "hono-mqtt"}
    assert core.sample("hono_connections_authenticated", **labels) in (0.0, 1.0)
    labels |= {"outcome": "succeeded", "cipher_suite": "UNKNOWN"}
    assert core.sample("hono_connections_attempts_total", **labels) == 1.0


async def test_a_gateway_speaks_for_its_device_and_no_other(core: Core, address: str) -> None:
    async with gateway(address) as client:
        await client.subscribe(("error//+/#", 0))
        client.client.publish("telemetry/acme/d2", b"x", 1)
        await client.ack()
        client.client.publish("telemetry/acme/d1", b"x", 1)
        assert (await client.message()).topic.startswith("error//d1/telemetry/")
    (upload,) = core.consumer.uploads
    assert (upload.device, upload.via) == ("d2", "gw-1")


async def test_an_empty_payload_needs_the_empty_notification(core: Core, address: str) -> None:
    async with sensor(address) as device:
        device.client.publish(f"event/?content-type={EMPTY_NOTIFICATION}", b"", 1)
        await device.ack()
        device.client.publish("event", b"", 1)
        await device.disconnected()
    assert len(core.consumer.uploads) == 1


async def test_wrong_passwords_and_unknown_tenants_are_told_the_same(address: str) -> None:
    host, _, port = address.rpartition(":")
    for user in ("sensor1@acme", "nobody@acme", "sensor1@nowhere", "sensor1"):
        done = await run_tool(
            "mosquitto_pub", "-h", host, "-p", port, "-t", "t", "-u", user, "-P", "wrong", "-m", "x"
        )
        assert "bad user name or password" in done.out + done.err, user


async def test_a_tenant_that_does_not_use_mqtt_refuses(core: Core, address: str) -> None:
    await core.registry.update_tenant(
        "acme", {"adapters": [{"type": "hono-http", "enabled": True}]}, None
    )
    async with sensor(address, V50) as device:
        assert await device.connack() == 0x87


async def test_a_disabled_device_is_disconnected_and_not_let_in_again(
    core: Core, address: str
) -> None:
    async with sensor(address, V50) as device:
        await device.connack()
        await core.registry.update_device("acme", "d1", {"enabled": False}, None)
        await device.disconnected()
    async with sensor(address, V50) as device:
        assert await device.connack() == 0x87


class Application:
    """Who waits for responses."""

    def __init__(self) -> None:
        self.responses: list[CommandResponse] = []

    def owns(self, tenant: str, reply_id: str) -> bool:
        return (tenant, reply_id) == ("acme", "app-1")

    def take(self, response: CommandResponse, done: Done) -> None:
        self.responses.append(response)
        done(None)


async def test_a_command_goes_down_and_its_answer_comes_up(core: Core, address: str) -> None:
    application, told = Application(), list[GatewayError | None]()
    core.commands.add_sink(application)
    command = Command(
        tenant="acme",
        device="d2",
        name="set",
        payload=b"on",
        correlation_id="c-1",
        reply_to="command_response/acme/app-1",
    )
    async with gateway(address) as client:
        assert await client.subscribe(("command//+/req/#", 1)) == [1]
        core.commands.route(command, told.append)
        message = await client.message()
        prefix, tenant, device, _, request_id, name = message.topic.split("/")
        assert (prefix, tenant, device, name) == ("command", "", "d2", "set")
        client.client.publish(f"command//d2/res/{request_id}/200", b"done", 1)
        await client.ack()
        await until(lambda: told)
    assert told == [None]
    (response,) = application.responses
    assert (response.status, response.correlation_id, response.payload) == (200, "c-1", b"done")
    ttds = [m.ttd for m in core.consumer.messages if m.ttd is not None]
    assert ttds == [-1, 0]


async def test_devices_connect_over_tls(core: Core, certificate: Path) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    async with an_adapter(core, context):
        host, _, port = core.endpoints.get("hono.mqtts").rpartition(":")
        done = await run_tool(
            "mosquitto_pub", "-h", host, "-p", port, "--cafile", str(certificate), "--insecure",
            "-u", "sensor1@acme", "-P", "pw", "-t", "event", "-q", "1", "-m", "x" * 2_000,
        )  # fmt: skip
        assert (done.code, done.err) == (0, "")
    assert [len(m.payload) for m in core.consumer.uploads] == [2_000]
    assert b'cipher_suite="TLS_' in core.metrics.text()


async def test_the_edges_broker_serves_tls(tmp_path: Path, certificate: Path) -> None:
    endpoints = Endpoints()
    broker = Broker(EdgeMqtt(bind=FREE, tls_cert=str(certificate)), endpoints, Metrics())
    async with running(broker):
        host, _, port = endpoints.get("edge.mqtt").rpartition(":")
        where = ("-h", host, "-p", port, "--cafile", str(certificate), "--insecure", "-q", "1")
        waiting = asyncio.ensure_future(run_tool("mosquitto_sub", *where, "-t", "a", "-C", "1"))
        await until(lambda: broker.has_subscribers("a") or waiting.done())
        assert (await run_tool("mosquitto_pub", *where, "-t", "a", "-m", "hi")).code == 0
        assert (await waiting).out == "hi\n"
