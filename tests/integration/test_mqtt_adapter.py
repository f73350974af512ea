"""The MQTT adapter with real clients: who is let in, uploads, bad input."""

from __future__ import annotations

import asyncio
import base64
import socket
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import pytest
from paho.mqtt.packettypes import PacketTypes

from gateway.errors import (
    AdapterDisabled,
    AuthenticatedDeviceNotFound,
    ConnectionLimitExceeded,
    GatewayError,
    StoreUnavailable,
    TenantDisabled,
    TenantNotFound,
)
from gateway.model.message import (
    Adapter,
    Kind,
    Principal,
    Upload,
)
from gateway.model.ports import Done
from gateway.runtime.module import running
from gateway.wire.mqtt import packets as p
from gateway.wire.mqtt.codec import encode
from gateway.wire.mqtt.packets import V3, V5
from gateway.wire.mqtt.properties import Properties
from tests.mqtt_peers import paho_client, properties_of, raw_client, run_tool, until
from tests.mqtt_rig import BOTH, TRACEPARENT, V50, Rig


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    made = Rig()
    async with running(made.adapter):
        yield made
    assert made.registry.leases == 0
    assert not made.commands.links


# --- CONNECT ----------------------------------------------------------------------------------------


@BOTH
async def test_a_device_with_its_password_is_let_in(rig: Rig, version: int) -> None:
    async with rig.sensor(version) as device:
        assert await device.connack() == 0
        assert rig.registry.leases == 1
        if version == V50:
            said = device.connack_properties[0]
            assert said.MaximumQoS == 1
            assert said.SharedSubscriptionAvailable == 0
            assert said.AssignedClientIdentifier
    await until(lambda: rig.registry.leases == 0)


@pytest.mark.parametrize(
    ("error", "code3", "code5"),
    [
        (None, 4, 0x86),
        (TenantNotFound(), 4, 0x86),
        (TenantDisabled(), 5, 0x87),
        (StoreUnavailable(), 3, 0x88),
        (GatewayError(), 5, 0x80),
    ],
)
async def test_a_refused_login_has_honos_code(
    rig: Rig, error: GatewayError | None, code3: int, code5: int
) -> None:
    if error is not None:
        rig.registry.errors["x@T"] = error
    for version, code in ((V3, code3), (V5, code5)):
        async with raw_client(rig.address) as raw:
            raw.send(encode(p.Connect("c", version, username="x@T", password=b"x"), version))
            answer = await raw.rest()
            assert answer[:4:3] == bytes((0x20, code))


@pytest.mark.parametrize(
    ("error", "code3", "code5"),
    [
        (AdapterDisabled(), 5, 0x87),
        (AuthenticatedDeviceNotFound(), 5, 0x87),
        (ConnectionLimitExceeded(), 5, 0x97),
    ],
)
async def test_a_refused_admission_has_honos_code(
    rig: Rig, error: GatewayError, code3: int, code5: int
) -> None:
    rig.registry.refusal = error
    for version, code in ((V3, code3), (V5, code5)):
        async with raw_client(rig.address) as raw:
            raw.send(
                encode(p.Connect("c", version, username="gw@T", password=b"gw-secret"), version)
            )
            assert (await raw.rest())[:4:3] == bytes((0x20, code))


async def test_no_credentials_are_wrong_credentials(rig: Rig) -> None:
    async with raw_client(rig.address) as raw:
        raw.send(encode(p.Connect("c", V3), V3))
        assert await raw.rest() == b"\x20\x02\0\4"
    text = rig.metrics.text().decode()
    line = 'outcome="unauthorized",tenant="UNKNOWN"} 1.0'
    assert any("hono_connections_attempts_total" in row and line in row for row in text.split("\n"))


async def test_extended_authentication_is_refused(rig: Rig) -> None:
    async with raw_client(rig.address) as raw:
        said = Properties(authentication_method="SCRAM")
        raw.send(encode(p.Connect("c", V5, username="a", password=b"b", properties=said), V5))
        assert (await raw.rest())[:4] == b"\x20\x03\0\x8c"


async def test_a_full_adapter_says_so() -> None:
    rig = Rig(max_connections=1)
    async with running(rig.adapter), rig.sensor() as first:
        assert await first.connack() == 0
        async with raw_client(rig.address) as raw:
            raw.send(rig.connect)
            assert await raw.rest() == b"\x20\x02\0\3"
        async with raw_client(rig.address) as raw:
            raw.send(encode(p.Connect("c", V5, username="a", password=b"b"), V5))
            assert (await raw.rest())[:4] == b"\x20\x03\0\x9c"


async def test_a_client_that_says_nothing_is_closed() -> None:
    rig = Rig(connect_timeout=0.05)
    async with running(rig.adapter), raw_client(rig.address) as raw:
        raw.send(b"\x10")
        assert await raw.rest() == b""


async def test_messages_sent_before_the_decision_wait_for_it(rig: Rig) -> None:
    rig.registry.delay = asyncio.Event()
    async with raw_client(rig.address) as raw:
        raw.send(rig.connect + encode(p.Publish("t", b"early"), V3))
        await until(lambda: rig.registry.tasks)
        assert rig.ingress.uploads == []
        rig.registry.delay.set()
        assert await raw.read(4) == b"\x20\x02\0\0"
        await until(lambda: rig.ingress.uploads)


async def test_a_client_that_leaves_before_the_decision_leaves_nothing(rig: Rig) -> None:
    rig.registry.delay = asyncio.Event()
    async with raw_client(rig.address) as raw:
        raw.send(rig.connect)
        await until(lambda: rig.registry.tasks)
    rig.registry.delay.set()
    await asyncio.gather(*rig.registry.tasks)
    await until(lambda: not rig.adapter._devices)
    assert rig.registry.leases == 0


async def test_a_device_without_credentials_is_let_in_where_settings_say_so() -> None:
    rig = Rig(authentication_required=False)
    async with running(rig.adapter), paho_client(rig.address) as device:
        assert await device.connack() == 0
        device.client.publish("telemetry/T/4711", b"x", 1)
        await device.ack()
        upload = rig.ingress.uploads[0]
        assert (upload.principal, upload.tenant, upload.device) == (None, "T", "4711")
        assert b"hono_connections_unauthenticated" in rig.metrics.text()
        assert await device.subscribe(("command/T/4711/req/#", 1), ("command///req/#", 1)) == [
            1,
            0x80,
        ]


async def test_equal_client_ids_are_two_connections(rig: Rig) -> None:
    async with rig.sensor(client_id="same") as one, rig.sensor(client_id="same") as two:
        assert [await one.connack(), await two.connack()] == [0, 0]
        one.client.publish("t", b"1", 1)
        two.client.publish("t", b"2", 1)
        await one.ack()
        await two.ack()


def has_length(items: list[Any], length: int) -> bool:
    return len(items) == length


# --- uploads ----------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize(
    ("topic", "qos", "kind", "tenant", "device"),
    [
        ("telemetry", 0, Kind.TELEMETRY, None, None),
        ("t", 1, Kind.TELEMETRY, None, None),
        ("event", 1, Kind.EVENT, None, None),
        ("e", 1, Kind.EVENT, None, None),
        ("telemetry/T/4712", 1, Kind.TELEMETRY, "T", "4712"),
        ("t//4712", 0, Kind.TELEMETRY, None, "4712"),
        ("event//4712", 1, Kind.EVENT, None, "4712"),
    ],
)
async def test_an_upload_reaches_the_ingress(
    rig: Rig, version: int, topic: str, qos: int, kind: Kind, tenant: str | None, device: str | None
) -> None:
    async with rig.gateway(version) as client:
        client.client.publish(topic, b'{"t":1}', qos, retain=True)
        await client.ack()
        await until(lambda: rig.ingress.uploads)
    assert rig.ingress.uploads == [
        Upload(
            adapter=Adapter.MQTT,
            principal=Principal("T", "gw-1", "gw"),
            kind=kind,
            qos=qos,
            payload=b'{"t":1}',
            address=topic,
            tenant=tenant,
            device=device,
            retain=True,
        )
    ]


async def test_the_property_bag_is_read(rig: Rig) -> None:
    topic = (
        "event//4712/?content-type=application%2Fjson&hono-ttl=10&x=y"
        f"&traceparent={TRACEPARENT}&tracestate=a%3Db"
    )
    async with rig.gateway() as client:
        client.client.publish(topic, b"x", 1)
        await client.ack()
    (upload,) = rig.ingress.uploads
    assert (upload.content_type, upload.ttl) == ("application/json", 10.0)
    assert (upload.address, upload.device) == (topic, "4712")
    assert upload.trace is not None
    assert (upload.trace.traceparent, upload.trace.state) == (TRACEPARENT, "a=b")


async def test_mqtt_5_properties_are_read_and_the_bag_wins(rig: Rig) -> None:
    said = properties_of(
        PacketTypes.PUBLISH,
        ContentType="text/plain",
        MessageExpiryInterval=7,
        UserProperty=[("traceparent", TRACEPARENT), ("tracestate", "a=b")],
    )
    async with rig.sensor(V50) as client:
        client.client.publish("event", b"1", 1, properties=said)
        await client.ack()
        client.client.publish("event/?content-type=a%2Fb&hono-ttl=1", b"2", 1, properties=said)
        await client.ack()
    first, second = rig.ingress.uploads
    assert (first.content_type, first.ttl) == ("text/plain", 7.0)
    assert first.trace is not None
    assert (first.trace.traceparent, first.trace.state) == (TRACEPARENT, "a=b")
    assert (second.content_type, second.ttl) == ("a/b", 1.0)


async def test_mosquitto_pub_sends_with_both_versions(rig: Rig) -> None:
    host, _, port = rig.address.rpartition(":")
    for version in ("mqttv311", "mqttv5"):
        for qos, topic in (("0", "telemetry"), ("1", "telemetry"), ("1", "event")):
            done = await run_tool(
                "mosquitto_pub", "-h", host, "-p", port, "-V", version, "-q", qos, "-t", topic,
                "-u", "sensor1@T", "-P", "hono-secret", "-m", f"{version}-{qos}",
            )  # fmt: skip
            assert (done.code, done.err) == (0, "")
    await until(lambda: len(rig.ingress.uploads) == 6)
    assert [(u.payload, u.qos, u.kind.value) for u in rig.ingress.uploads] == [
        (f"{version}-{qos}".encode(), qos, kind)
        for version in ("mqttv311", "mqttv5")
        for qos, kind in ((0, "telemetry"), (1, "telemetry"), (1, "event"))
    ]


async def test_mosquitto_pub_with_a_wrong_password_is_refused(rig: Rig) -> None:
    host, _, port = rig.address.rpartition(":")
    done = await run_tool(
        "mosquitto_pub", "-h", host, "-p", port, "-t", "t", "-u", "sensor1@T", "-P", "no", "-m", "x"
    )
    assert done.code != 0
    assert "Connection Refused: bad user name or password" in done.out + done.err


async def test_puback_waits_for_the_outcome_and_keeps_the_order(rig: Rig) -> None:
    held: list[Done] = []
    rig.ingress.held = held
    async with raw_client(rig.address) as raw:
        raw.send(rig.connect)
        await raw.read(4)
        raw.send(b"".join(encode(p.Publish("t", b"x", 1, packet_id=n), V3) for n in (5, 6, 7)))
        await until(lambda: len(held) == 3)
        held[2](None)
        held[1](None)
        raw.send(b"\xc0\0")
        assert await raw.read(2) == b"\xd0\0"
        held[0](None)
        assert await raw.read(12) == b"\x40\x02\0\5\x40\x02\0\6\x40\x02\0\7"


async def test_reading_stops_while_too_many_uploads_have_no_outcome() -> None:
    rig = Rig(max_in_flight=4)
    held: list[Done] = []
    rig.ingress.held = held
    async with running(rig.adapter), raw_client(rig.address) as raw:
        raw.send(rig.connect)
        await raw.read(4)
        for number in range(5):
            raw.send(encode(p.Publish("t", str(number).encode()), V3))
            await until(partial(has_length, held, number + 1))
        raw.send(encode(p.Publish("t", b"later"), V3))
        await asyncio.sleep(0.05)
        assert len(held) == 5
        for done in held[:3]:
            done(None)
        await until(lambda: len(held) == 6)
        assert rig.ingress.uploads[-1].payload == b"later"


async def test_the_cache_of_topics_is_bounded(rig: Rig) -> None:
    async with raw_client(rig.address) as raw:
        raw.send(rig.connect)
        for number in range(300):
            raw.send(encode(p.Publish(f"t//{number}", b"x"), V3))
        await until(lambda: len(rig.ingress.uploads) == 300)
        (device,) = rig.adapter._devices
        assert len(device._routes) <= 64


# --- life and bad input -------------------------------------------------------------------------------


@BOTH
async def test_a_device_whose_right_ends_is_disconnected(rig: Rig, version: int) -> None:
    async with rig.sensor(version) as device:
        await device.connack()
        rig.registry.closers[0](AuthenticatedDeviceNotFound())
        await device.disconnected()
        assert device.gone_reasons[0] == (0x98 if version == V50 else 0x80)


async def test_a_will_is_ignored(rig: Rig) -> None:
    async with raw_client(rig.address) as raw:
        will = p.Will("telemetry", b"gone", 1)
        raw.send(encode(p.Connect("c", V3, True, 0, "sensor1@T", b"hono-secret", will), V3))
        await raw.read(4)
    await until(lambda: not rig.adapter._devices)
    assert rig.ingress.uploads == []


@pytest.mark.parametrize(
    "data",
    [
        b"\x30\xff\xff\xff\x7f",
        b"\x30\x83\x11" + b"\0\1t",
        b"\xff" * 100,
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x32\x05\0\1t\0\0",
        b"\x30\x03\0\1#",
    ],
    ids=["256 MB", "over the limit", "noise", "http", "packet id 0", "wildcard"],
)
async def test_broken_input_ends_that_connection_alone(rig: Rig, data: bytes) -> None:
    async with rig.sensor() as device, raw_client(rig.address) as raw:
        raw.send(rig.connect)
        await raw.read(4)
        raw.send(data)
        assert await raw.rest() == b""
        device.client.publish("t", b"still here", 1)
        await device.ack()
    assert [u.payload for u in rig.ingress.uploads] == [b"still here"]


async def test_a_payload_of_the_limit_passes_and_a_larger_packet_does_not(rig: Rig) -> None:
    async with rig.sensor() as device:
        device.client.publish("telemetry", bytes(2_048), 1)
        await device.ack()
        device.client.publish("telemetry", bytes(2_300), 1)
        await device.disconnected()


async def test_a_device_that_does_not_read_is_not_read_from(rig: Rig) -> None:
    """Each PINGREQ asks for two bytes; a peer that never takes them must not fill our memory."""
    async with raw_client(rig.address, receive_buffer=4_096) as raw:
        raw.send(rig.connect)
        await raw.read(4)
        raw.stop_reading()
        (device,) = rig.adapter._devices
        sock = device.fact("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4_096)  # type: ignore[attr-defined]
        while device.is_writable:
            raw.send(b"\xc0\0" * 16_384)
            await asyncio.sleep(0)
        for _ in range(20):
            raw.send(b"\xc0\0" * 16_384)
            await asyncio.sleep(0)
        assert device.unsent < 1_048_576
        raw.writer.transport.abort()


@BOTH
async def test_stopping_tells_devices(version: int) -> None:
    rig = Rig()
    async with running(rig.adapter):
        ready = rig.sensor(version)
        device = await ready.__aenter__()
        await device.connack()
    await device.disconnected()
    await ready.__aexit__(None, None, None)
    assert device.gone_reasons[0] == (0x8B if version == V50 else 0x80)


async def test_base64_credentials_pass_to_the_authenticator(rig: Rig) -> None:
    name = base64.b64encode(b"sensor1@T:hono-secret").decode()
    rig.registry.passwords[name] = ("", Principal("T", "4711", "sensor1"))
    async with paho_client(rig.address, username=name, password="") as device:
        assert await device.connack() == 0
