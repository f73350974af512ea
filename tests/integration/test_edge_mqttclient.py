"""The MQTT client of the edge against brokers that are not ours (mosquitto) and ours."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from edge.broker import Broker
from edge.mqttclient import BrokerAddress, MqttClient
from gateway.config.edge import EdgeMqtt
from gateway.errors import GatewayError, Rejected, StoreUnavailable, Undeliverable
from gateway.model.ports import Done
from gateway.observe.metrics import Metrics
from gateway.runtime.listener import Endpoints
from gateway.runtime.module import running
from gateway.wire.mqtt.packets import V3, V5, Publish
from tests.mqtt_peers import mosquitto, paho_client, until

BOTH = pytest.mark.parametrize("version", [V3, V5], ids=["3.1.1", "5.0"])


class Rig:
    """A client and what it was told."""

    def __init__(self, address: str, **more: Any) -> None:
        host, _, port = address.rpartition(":")
        self.messages: list[Publish] = []
        self.links: list[bool] = []
        self.told: list[GatewayError | None] = []
        self.error: GatewayError | None = None
        more = {"reconnect_cap": 0.05} | more
        self.client = MqttClient(
            BrokerAddress(host=host, port=int(port), client_id="edge-1", **more),
            self.take,
            on_link=self.links.append,
        )

    def take(self, message: Publish, done: Done) -> None:
        self.messages.append(message)
        done(self.error)

    def publish(self, topic: str, payload: bytes, qos: int = 1) -> None:
        self.client.publish(topic, payload, self.told.append, qos=qos)


@asynccontextmanager
async def our_broker(
    error: GatewayError | None = None,
) -> AsyncIterator[tuple[str, Broker, list[Publish]]]:
    """The edge's own broker as the far side."""
    seen: list[Publish] = []

    def take(message: Publish, done: Done) -> None:
        seen.append(message)
        done(error)

    endpoints = Endpoints()
    broker = Broker(EdgeMqtt(bind="127.0.0.1:0"), endpoints, Metrics(), take)
    async with running(broker):
        yield endpoints.get("edge.mqtt"), broker, seen


@BOTH
@pytest.mark.parametrize("qos", [0, 1, 2])
async def test_messages_go_through_mosquitto_both_ways(version: int, qos: int) -> None:
    async with mosquitto() as address:
        rig = Rig(address, version=version)
        rig.client.subscribe("down/#", qos)
        async with running(rig.client), paho_client(address) as peer:
            await until(lambda: rig.links == [True])
            await peer.subscribe(("up/#", 2))
            rig.publish("up/1", b"hello", qos)
            message = await peer.message()
            assert (message.payload, message.qos) == (b"hello", qos)
            await until(lambda: rig.told == [None])
            peer.client.publish("down/1", b"back", qos)
            await until(lambda: rig.messages)
            got = rig.messages[0]
            assert (got.topic, got.payload, got.qos) == ("down/1", b"back", qos)


async def test_a_broker_that_is_away_fails_messages_and_is_tried_again() -> None:
    async with mosquitto() as address:
        port = int(address.rpartition(":")[2])
    rig = Rig(address)
    async with running(rig.client):
        rig.client.subscribe("down", 1)
        rig.publish("up", b"x")
        assert isinstance(rig.told[0], Undeliverable)
        for _ in range(2):
            async with mosquitto(port), paho_client(address) as peer:
                await until(lambda: rig.client.is_connected)
                rig.messages.clear()
                rig.publish("up", b"y")
                await until(lambda: rig.told[-1] is None)
                peer.client.publish("down", b"z", 1)
                await until(lambda: rig.messages)
            await until(lambda: not rig.client.is_connected)
    assert rig.links == [True, False, True, False]


async def test_what_had_no_answer_fails_when_the_broker_goes() -> None:
    held: list[Done] = []
    endpoints = Endpoints()
    broker = Broker(
        EdgeMqtt(bind="127.0.0.1:0"), endpoints, Metrics(), lambda _m, d: held.append(d)
    )
    async with running(broker):
        rig = Rig(endpoints.get("edge.mqtt"))
        async with running(rig.client):
            await until(lambda: rig.client.is_connected)
            rig.publish("up", b"x")
            await until(lambda: held)
            assert rig.told == []
    assert isinstance(rig.told[0], Undeliverable)


async def test_a_refused_message_is_rejected() -> None:
    async with our_broker(StoreUnavailable()) as (address, _, seen):
        rig = Rig(address, version=V5)
        async with running(rig.client):
            await until(lambda: rig.client.is_connected)
            rig.publish("up", b"x")
            await until(lambda: rig.told)
    assert isinstance(rig.told[0], Rejected)
    assert [m.payload for m in seen] == [b"x"]


async def test_a_message_over_the_brokers_limit_fails_at_once() -> None:
    async with our_broker() as (address, _, seen):
        rig = Rig(address, version=V5)
        async with running(rig.client):
            await until(lambda: rig.client.is_connected)
            rig.publish("up", bytes(300_000))
            assert rig.told[0] is not None
            assert rig.told[0].status == 413
    assert seen == []


async def test_an_unsubscribed_filter_is_silent() -> None:
    async with our_broker() as (address, broker, _):
        rig = Rig(address)
        async with running(rig.client):
            await until(lambda: rig.client.is_connected)
            rig.client.subscribe("a")
            await until(lambda: broker.has_subscribers("a"))
            rig.client.unsubscribe("a")
            await until(lambda: not broker.has_subscribers("a"))


@pytest.mark.parametrize(("version", "acked"), [(V3, False), (V5, True)])
async def test_a_message_that_we_cannot_keep_is_refused_as_far_as_mqtt_can(
    version: int, acked: bool
) -> None:
    async with our_broker() as (address, broker, _):
        rig = Rig(address, version=version)
        rig.error = StoreUnavailable()
        rig.client.subscribe("a")
        async with running(rig.client):
            await until(lambda: broker.has_subscribers("a"))
            broker.publish("a", b"x", qos=1)
            await until(lambda: rig.messages)
            session = broker._sessions["edge-1"]
            await asyncio.sleep(0.02)
            assert (not session.state.outbound) is acked


async def test_keep_alive_keeps_a_quiet_connection() -> None:
    async with our_broker() as (address, _, _):
        rig = Rig(address, keep_alive=1)
        async with running(rig.client):
            await until(lambda: rig.client.is_connected)
            link = rig.client._link
            assert link is not None
            heard = link.session._heard
            await until(lambda: link.session._heard > heard)
            assert rig.client.is_connected


async def test_a_broker_that_refuses_us_is_tried_again() -> None:
    endpoints = Endpoints()
    broker = Broker(EdgeMqtt(bind="127.0.0.1:0", max_connections=0), endpoints, Metrics())
    async with running(broker):
        rig = Rig(endpoints.get("edge.mqtt"))
        async with running(rig.client):
            await asyncio.sleep(0.1)
            assert not rig.client.is_connected
    assert rig.links == []
