"""Failed messages of the MQTT adapter, with real clients: error topics, `on-error`, terminal errors."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest

from gateway.errors import (
    AdapterDisabled,
    Forbidden,
    NoConsumer,
)
from gateway.runtime.module import running
from gateway.wire.mqtt import packets as p
from gateway.wire.mqtt.codec import encode
from gateway.wire.mqtt.packets import V3
from tests.mqtt_peers import raw_client
from tests.mqtt_rig import BOTH, V50, Rig


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    made = Rig()
    async with running(made.adapter):
        yield made
    assert made.registry.leases == 0
    assert not made.commands.links


# --- failed messages ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("topic", "qos"),
    [
        ("event", 0),
        ("event", 2),
        ("telemetry", 2),
        ("unknown/topic", 1),
        ("/telemetry", 0),
        ("telemetry/a/b/c", 1),
        ("event/?hono-ttl=soon", 1),
        ("command///res/0abc/99x", 1),
        ("command///res/garbage/200", 1),
        ("command/OTHER/x/res/0001a/200", 1),
    ],
)
async def test_a_message_that_is_not_allowed_ends_the_connection(
    rig: Rig, topic: str, qos: int
) -> None:
    async with rig.sensor() as device:
        await device.connack()
        device.client.publish(topic, b"x", qos)
        await device.disconnected()
    assert rig.ingress.uploads == []
    assert rig.commands.responses == []


@BOTH
async def test_a_failed_upload_ends_the_connection(rig: Rig, version: int) -> None:
    rig.ingress.errors[b"x"] = NoConsumer()
    async with rig.sensor(version) as device:
        await device.connack()
        device.client.publish("telemetry", b"x", 1)
        await device.disconnected()
        assert device.acks.empty()


@BOTH
async def test_on_error_ignore_acknowledges_and_goes_on(rig: Rig, version: int) -> None:
    rig.ingress.errors[b"bad"] = Forbidden()
    async with rig.sensor(version) as device:
        device.client.publish("telemetry/?on-error=ignore", b"bad", 1)
        assert (await device.ack())[1] == (0x80 if version == V50 else 0)
        device.client.publish("telemetry", b"good", 1)
        assert (await device.ack())[1] == 0


async def test_on_error_skip_ack_goes_on_without_puback(rig: Rig) -> None:
    rig.ingress.errors[b"bad"] = Forbidden()
    async with raw_client(rig.address) as raw:
        raw.send(rig.connect)
        await raw.read(4)
        raw.send(encode(p.Publish("t/?on-error=skip-ack", b"bad", 1, packet_id=1), V3))
        raw.send(encode(p.Publish("t", b"good", 1, packet_id=2), V3))
        assert await raw.read(4) == b"\x40\x02\0\x02"


async def test_a_terminal_error_ends_the_connection_whatever_the_device_wants(rig: Rig) -> None:
    rig.ingress.errors[b"bad"] = AdapterDisabled()
    async with rig.sensor() as device:
        await device.subscribe(("error///#", 0))
        device.client.publish("telemetry/?on-error=ignore", b"bad", 1)
        await device.disconnected()
        assert (await device.message()).topic == "error///telemetry/2/403"


@BOTH
async def test_an_error_subscription_hears_what_failed_and_keeps_the_connection(
    rig: Rig, version: int
) -> None:
    rig.ingress.errors[b"bad"] = NoConsumer()
    async with rig.sensor(version) as device:
        assert await device.subscribe(("error///#", 0)) == [0]
        device.client.publish("telemetry", b"bad", 1)
        message = await device.message()
        told = json.loads(message.payload)
        mid, code = await device.ack()
        assert message.topic == f"error///telemetry/{mid}/503"
        assert (told["code"], told["message"], told["correlation-id"]) == (
            503,
            "no consumer available",
            str(mid),
        )
        assert told["timestamp"].endswith("Z")
        assert code == (0x80 if version == V50 else 0)


@pytest.mark.parametrize(
    ("listens", "publishes", "qos", "hears"),
    [
        ("e///#", "t", 0, "e///t/-1/403"),
        ("error/T//#", "e/?correlation-id=me", 1, "error/T//event/me/403"),
        ("e//+/#", "telemetry//4712", 0, "e//4712/t/-1/403"),
        ("error//4712/#", "t//4712/?correlation-id=a%2B", 0, "error//4712/telemetry/-1/403"),
        ("e///#", "nothing/of/ours", 0, "e///unknown/-1/404"),
        ("error///#", "event", 0, "error///event/-1/400"),
        ("e///#", "c///s/bad/200", 0, "e///c-s/-1/400"),
        ("error///#", "c///s/bad/200/?correlation-id=7", 0, "error///command-response/7/400"),
    ],
)
async def test_error_topics_have_the_form_of_the_filter(
    rig: Rig, listens: str, publishes: str, qos: int, hears: str
) -> None:
    rig.ingress.errors[b"bad"] = Forbidden()
    async with rig.gateway() as client:
        assert await client.subscribe((listens, 0)) == [0]
        client.client.publish(publishes, b"bad", qos)
        assert (await client.message()).topic == hears


async def test_an_error_subscription_for_one_device_does_not_cover_another(rig: Rig) -> None:
    rig.ingress.errors[b"bad"] = Forbidden()
    async with rig.gateway() as client:
        assert await client.subscribe(("error//4712/#", 0)) == [0]
        client.client.publish("telemetry", b"bad", 1)
        await client.disconnected()
        assert client.messages.empty()
