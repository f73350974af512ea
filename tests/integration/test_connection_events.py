"""Applications hear of devices that come and go: over MQTT and AMQP, as events."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from paho.mqtt import client as paho

from gateway.config.hono import AmqpAdapter as AmqpSettings
from gateway.config.hono import MqttAdapter as MqttSettings
from gateway.errors import InvalidSetting, StoreUnavailable
from gateway.hono.adapters.amqp import AmqpAdapter
from gateway.hono.adapters.amqp_device import Rooms as AmqpRooms
from gateway.hono.adapters.mqtt import MqttAdapter
from gateway.hono.adapters.mqtt_device import Rooms as MqttRooms
from gateway.hono.connection_events import CONTENT_TYPE, ConnectionEvents, with_events
from gateway.model.message import Message
from gateway.runtime.module import running
from tests.hono_rig import FREE, Core, a_core, a_fleet, until
from tests.integration.proton_peer import Peer
from tests.mqtt_peers import paho_client

V311, V50 = int(paho.MQTTv311), int(paho.MQTTv5)
LOGIN: Any = {"username": "sensor1@acme", "password": "pw"}


@pytest.fixture
async def core() -> AsyncIterator[Core]:
    async with contextlib.AsyncExitStack() as stack:
        core = await stack.enter_async_context(a_core())
        await a_fleet(core)
        doors: dict[str, Any] = {
            "ingress": core.ingress,
            "commands": core.commands,
            "authenticator": core.authenticator,
            "admission": ConnectionEvents(core.connections, core.consumer, core.tracer),
            "assertions": core.registry,
        }
        mqtt = MqttSettings(bind=FREE, authentication_required=False)
        for adapter in (
            MqttAdapter(mqtt, core.endpoints, core.metrics, MqttRooms(**doors)),
            AmqpAdapter(AmqpSettings(bind=FREE), core.endpoints, core.metrics, AmqpRooms(**doors)),
        ):
            await stack.enter_async_context(running(adapter))
        yield core


def events(core: Core) -> list[Message]:
    return [m for m in core.consumer.messages if m.content_type == CONTENT_TYPE]


def told(core: Core) -> list[Any]:
    return [msgspec.json.decode(message.payload) for message in events(core)]


@pytest.mark.parametrize("version", [V311, V50])
async def test_an_mqtt_device_is_told_of_when_it_comes_and_goes(core: Core, version: int) -> None:
    address = core.endpoints.get("hono.mqtt")
    async with paho_client(address, version, client_id="pump-7", **LOGIN) as device:
        assert await device.connack() == 0
    await until(lambda: len(told(core)) == 2)
    same = {"remote-id": "pump-7", "source": "hono-mqtt"}
    assert told(core) == [{"cause": "connected", **same}, {"cause": "disconnected", **same}]
    first = events(core)[0]
    assert (first.tenant, first.device, first.kind, first.qos) == ("acme", "d1", "event", 1)
    assert core.connections.count("acme") == 0


async def test_an_amqp_device_is_told_of_by_its_container(core: Core) -> None:
    url = f"amqp://{core.endpoints.get('hono.amqp')}"
    async with Peer(url, user="sensor1@acme", password="pw", allow_insecure_mechs=True) as peer:
        await peer.expect("opened")
    await until(lambda: len(told(core)) == 2)
    assert [event["cause"] for event in told(core)] == ["connected", "disconnected"]
    assert told(core)[0]["source"] == "hono-amqp"
    assert told(core)[0]["remote-id"] == told(core)[1]["remote-id"] != ""


async def test_nothing_is_told_of_devices_without_credentials_or_with_wrong_ones(
    core: Core,
) -> None:
    address = core.endpoints.get("hono.mqtt")
    async with paho_client(address) as device:
        assert await device.connack() == 0
    async with paho_client(address, username="sensor1@acme", password="no") as device:
        assert await device.connack() != 0
    assert told(core) == []


@pytest.mark.parametrize(("version", "code"), [(V311, 136), (V50, 136)])
async def test_a_device_whose_arrival_cannot_be_told_is_not_let_in(
    core: Core, version: int, code: int
) -> None:
    core.consumer.outcome = StoreUnavailable()
    async with paho_client(core.endpoints.get("hono.mqtt"), version, **LOGIN) as device:
        assert await device.connack() == code
    assert [event["cause"] for event in told(core)] == ["connected"]
    assert core.connections.count("acme") == 0


async def test_nothing_is_told_of_a_device_that_was_expelled(core: Core) -> None:
    async with paho_client(core.endpoints.get("hono.mqtt"), **LOGIN) as device:
        assert await device.connack() == 0
        await core.registry.delete_device("acme", "d1", None)
        await device.disconnected()
    await until(lambda: core.connections.count("acme") == 0)
    assert [event["cause"] for event in told(core)] == ["connected"]


async def test_a_device_that_is_expelled_while_its_arrival_is_told_is_not_let_in(
    core: Core,
) -> None:
    held = core.consumer.hold()
    async with paho_client(core.endpoints.get("hono.mqtt"), **LOGIN) as device:
        await until(lambda: bool(held))
        await core.registry.delete_device("acme", "d1", None)
        held[0](None)
        await device.disconnected()
    await until(lambda: core.connections.count("acme") == 0)
    assert [event["cause"] for event in told(core)] == ["connected"]


async def test_a_device_that_left_while_its_arrival_was_told_is_told_to_have_gone(
    core: Core,
) -> None:
    held = core.consumer.hold()
    async with paho_client(core.endpoints.get("hono.mqtt"), **LOGIN) as device:
        await until(lambda: bool(held))
        sock = device.client.socket()
        assert sock is not None
        sock.close()
    held[0](None)
    await until(lambda: len(told(core)) == 2)
    assert core.connections.count("acme") == 0


async def test_events_are_a_wish(core: Core) -> None:
    plain = core.connections
    for producer in ("none", "logging"):
        assert with_events(producer, plain, core.consumer, core.tracer) is plain
    assert with_events("events", plain, core.consumer, core.tracer) is not plain
    with pytest.raises(InvalidSetting, match="connection_events"):
        with_events("both", plain, core.consumer, core.tracer)
