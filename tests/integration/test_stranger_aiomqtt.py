"""aiomqtt, asyncio's MQTT client, as a device at the MQTT adapter on the real Hono core."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiomqtt import Client, MqttCodeError, MqttError, ProtocolVersion

from gateway.config.hono import MqttAdapter as Settings
from gateway.errors import GatewayError
from gateway.hono.adapters.mqtt import MqttAdapter
from gateway.hono.adapters.mqtt_device import Rooms
from gateway.model.message import Command, CommandResponse
from gateway.model.ports import Done
from gateway.runtime.device_tls import device_context
from gateway.runtime.module import running
from tests.device_pki import a_server, client_context, issue
from tests.hono_rig import FREE, Core, a_core, a_fleet, until

VERSIONS = pytest.mark.parametrize("protocol", [ProtocolVersion.V311, ProtocolVersion.V5])


class Application:
    """Takes the responses to commands whose reply id is `r`."""

    def __init__(self) -> None:
        self.responses: list[CommandResponse] = []

    def owns(self, tenant: str, reply_id: str) -> bool:
        return (tenant, reply_id) == ("acme", "r")

    def take(self, response: CommandResponse, done: Done) -> None:
        self.responses.append(response)
        done(None)


@pytest.fixture
async def core(tmp_path: Path) -> AsyncIterator[Core]:
    """A core with a running MQTT adapter, plain and with TLS."""
    file = a_server(tmp_path)
    async with a_core() as made:
        await a_fleet(made)
        rooms = Rooms(
            ingress=made.ingress,
            commands=made.commands,
            authenticator=made.authenticator,
            admission=made.connections,
            assertions=made.registry,
        )
        settings = Settings(bind=FREE, tls_bind=FREE)
        context = device_context(file, file, "test")
        adapter = MqttAdapter(settings, made.endpoints, made.metrics, rooms, tls_context=context)
        async with running(adapter):
            yield made


def a_client(core: Core, endpoint: str = "hono.mqtt", **more: Any) -> Client:
    login = {"username": "sensor1@acme", "password": "pw"}
    return Client("127.0.0.1", core.endpoints.port(endpoint), **{"timeout": 20, **login, **more})


def a_command(name: str, **more: Any) -> Command:
    return Command(tenant="acme", device="d1", name=name, payload=b"on", **more)


@VERSIONS
async def test_uploads_of_all_kinds_are_taken(core: Core, protocol: ProtocolVersion) -> None:
    async with a_client(core, protocol=protocol) as client:
        await client.publish("telemetry", b"0", qos=0)
        await client.publish("telemetry", b"1", qos=1)
        await client.publish("event/?content-type=text%2Fplain", b"2", qos=1)
    found = [(bytes(m.payload), m.kind.value, m.qos) for m in core.consumer.uploads]
    assert found == [(b"0", "telemetry", 0), (b"1", "telemetry", 1), (b"2", "event", 1)]
    assert {m.device for m in core.consumer.uploads} == {"d1"}


async def test_many_publishes_at_once_are_all_acknowledged(core: Core) -> None:
    async with a_client(core, max_inflight_messages=10) as client, asyncio.TaskGroup() as group:
        for number in range(200):
            group.create_task(client.publish("telemetry", str(number).encode(), qos=1))
    assert sorted(int(m.payload) for m in core.consumer.uploads) == list(range(200))


@VERSIONS
async def test_a_question_is_heard_and_answered(core: Core, protocol: ProtocolVersion) -> None:
    application, outcomes = Application(), list[GatewayError | None]()
    leave = core.commands.add_sink(application)
    async with a_client(core, protocol=protocol) as client:
        await client.subscribe("command///req/#", qos=1)
        asked = a_command("ask", correlation_id="c", reply_to="command_response/acme/r")
        core.commands.route(asked, outcomes.append)
        async for message in client.messages:
            request_id = str(message.topic).split("/")[4]
            assert (message.payload, message.topic.matches("command///req/+/ask")) == (b"on", True)
            await client.publish(f"command///res/{request_id}/200", b"done", qos=1)
            break
    (response,) = application.responses
    assert (response.correlation_id, response.status, response.payload) == ("c", 200, b"done")
    assert outcomes == [None]
    leave()


@VERSIONS
async def test_a_wrong_password_is_an_error_with_its_code(
    core: Core, protocol: ProtocolVersion
) -> None:
    with pytest.raises(MqttCodeError) as refused:
        async with a_client(core, protocol=protocol, password="no"):
            pytest.fail("a stranger got in")
    assert "authori" in str(refused.value) or "password" in str(refused.value)
    assert core.consumer.uploads == []


async def test_a_client_that_is_thrown_out_comes_back_and_hears_commands_again(core: Core) -> None:
    client = a_client(core, identifier="again")
    async with client:
        await client.subscribe("command///req/#", qos=1)
        await client.publish("nowhere", b"x", qos=0)  # ends the connection
        with pytest.raises(MqttError):
            async for _ in client.messages:
                pass
    outcomes: list[GatewayError | None] = []
    await until(lambda: not core.commands.is_listening("acme", "d1"))
    async with client:
        await client.subscribe("command///req/#", qos=1)
        core.commands.route(a_command("again"), outcomes.append)
        async for message in client.messages:
            assert str(message.topic) == "command///req//again"
            break
        await until(lambda: bool(outcomes))
    assert outcomes == [None]


@pytest.mark.parametrize("tls", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@VERSIONS
async def test_a_certificate_is_a_login_with_both_versions_of_tls(
    core: Core, tmp_path: Path, protocol: ProtocolVersion, tls: ssl.TLSVersion
) -> None:
    authority = issue("CN=Acme CA")
    device = issue("CN=d1,O=Acme", authority).save(tmp_path, "d1")
    await core.registry.update_tenant("acme", {"trusted-ca": [authority.anchor()]}, None)
    login: Any = {"type": "x509-cert", "auth-id": "CN=d1,O=Acme", "secrets": [{}]}
    await core.registry.update_credentials("acme", "d1", [login], None)
    context = client_context(device, tls)
    more = {"tls_context": context, "username": None, "password": None, "protocol": protocol}
    async with a_client(core, "hono.mqtts", **more) as client:
        await client.publish("event", b"x", qos=1)
    (message,) = core.consumer.uploads
    assert (message.tenant, message.device) == ("acme", "d1")
