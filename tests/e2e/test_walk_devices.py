"""Devices over HTTP, MQTT and AMQP, applications behind the northbound endpoint, events over a kill."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from paho.mqtt import client as paho
from proton import Delivery, Message, symbol

from tests.integration.proton_peer import Peer, Received
from tests.mqtt_peers import paho_client
from tests.process import twinspan
from tests.walk import Answer, Device, Walk, curl, in_thread

pytestmark = pytest.mark.e2e

TENANT = "walk"
QUIET = "nobody-listens"
NO_CONSUMER = {"error": "no consumer available"}


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Walk]:
    with twinspan(tmp_path_factory.mktemp("devices") / "data", "gateway", "--demo") as running:
        yield Walk(running)


@pytest.fixture(scope="module")
def sensor(walk: Walk) -> Device:
    device = walk.a_device(TENANT, "org.acme:sensor")
    defaults = {"defaults": {"unit": "mine"}}
    assert walk.registry("PUT", f"devices/{TENANT}/{device.name}", data=defaults).status == 204
    return device


@pytest.fixture(scope="module")
def lonely(walk: Walk) -> Device:
    """A device of a tenant that has neither consumer nor connection."""
    return walk.a_device(QUIET, "lonely")


# --- 1. the registry


def test_the_registry_makes_reads_changes_and_deletes_what_a_device_needs(walk: Walk) -> None:
    made = walk.registry("POST", "tenants/crud", data={"ext": {"note": "x"}})
    assert (made.status, made.json) == (201, {"id": "crud"})
    assert made.headers["location"].endswith("/v1/tenants/crud")
    assert walk.registry("GET", "tenants/crud").json["ext"] == {"note": "x"}
    assert walk.registry("POST", "devices/crud/d1", data={"defaults": {"unit": "C"}}).status == 201
    read = walk.registry("GET", "devices/crud/d1")
    assert read.json["defaults"] == {"unit": "C"}
    etag = read.headers["etag"]
    put = walk.registry(
        "PUT", "devices/crud/d1", "-H", f"If-Match: {etag}", data={"enabled": False}
    )
    assert put.status == 204
    stale = walk.registry(
        "PUT", "devices/crud/d1", "-H", f"If-Match: {etag}", data={"enabled": True}
    )
    assert stale.status == 412
    assert walk.registry("GET", "devices/crud/d1").json["enabled"] is False
    secret = {"type": "hashed-password", "auth-id": "a", "secrets": [{"pwd-plain": "hidden-word"}]}
    assert walk.registry("PUT", "credentials/crud/d1", data=[secret]).status == 204
    shown = walk.registry("GET", "credentials/crud/d1")
    assert shown.json[0]["auth-id"] == "a"
    assert "hidden-word" not in shown.body
    assert "pwd-hash" not in shown.body
    assert walk.registry("DELETE", "devices/crud/d1").status == 204
    assert walk.registry("GET", "devices/crud/d1").status == 404
    assert walk.registry("GET", "credentials/crud/d1").status == 404
    assert walk.registry("DELETE", "tenants/crud").status == 204
    assert walk.registry("GET", "tenants/crud").status == 404


def test_the_registry_refuses_what_is_wrong_with_a_json_error(walk: Walk) -> None:
    url = walk.running.url("hono.registry", "/v1/tenants")
    refusals: list[tuple[int, Answer]] = [
        (401, curl("GET", f"{url}/DEFAULT_TENANT")),
        (401, curl("GET", f"{url}/DEFAULT_TENANT", user="hono-client:wrong")),
        (409, walk.registry("POST", "tenants/DEFAULT_TENANT")),
        (404, walk.registry("GET", "tenants/nowhere")),
        (404, walk.registry("POST", "devices/nowhere/d")),
        (404, walk.registry("PUT", "devices/DEFAULT_TENANT/nobody", data={})),
        (409, walk.registry("POST", "devices/DEFAULT_TENANT/4711")),
        (400, walk.registry("POST", "tenants/broken", data='{"enabled": ')),
        (400, walk.registry("POST", "tenants/broken", data={"enabled": "perhaps"})),
        (400, walk.registry("POST", "tenants/broken", data=[1])),
        (400, walk.registry("POST", "tenants/br%20oken")),
        (413, walk.registry("POST", "tenants/broken", data={"ext": {"x": "y" * 20_000}})),
        (404, walk.registry("GET", "no-such-thing/x")),
    ]
    assert [answer.status for _, answer in refusals] == [status for status, _ in refusals]
    for _, answer in refusals:
        assert isinstance(answer.json["error"], str), answer
    plain = curl(
        "POST", f"{url}/x", user="hono-client:secret", data="{}", content_type="text/plain"
    )
    assert plain.status == 400
    assert walk.registry("GET", "tenants/broken").status == 404


# --- 2 and 3. telemetry and events to an application


@asynccontextmanager
async def consumer(walk: Walk, tenant: str = TENANT) -> AsyncIterator[Peer]:
    async with walk.application() as peer:
        for kind in ("telemetry", "event"):
            peer.receive_from(f"{kind}/{tenant}")
            await peer.expect("attached")
        yield peer


async def received(peer: Peer, body: bytes) -> Received:
    """The next message of that body; what came before it is passed."""
    while True:
        message: Received = (await peer.expect("message", 10.0))[2]
        if message.body == body:
            return message


def hono_says(message: Received) -> dict[str, Any]:
    """The parts by which Hono's applications know a message."""
    return {
        "address": message.address,
        "content-type": message.content_type,
        **{k: message.properties.get(k) for k in ("device_id", "orig_adapter", "orig_address")},
        "qos": message.properties.get("qos"),
    }


def check_common(message: Received, kind: str, device: Device) -> None:
    assert message.annotations["tenant_id"] == device.tenant
    assert message.annotations["device_id"] == device.name
    assert message.annotations["resource"] == f"{kind}/{device.tenant}/{device.name}"
    assert message.annotations["x-opt-trace-context"]["traceparent"].startswith("00-")
    assert message.creation_time > 1_600_000_000
    assert message.durable is (kind == "event")


async def test_telemetry_and_events_over_http_reach_a_proton_receiver(
    walk: Walk, sensor: Device
) -> None:
    async with consumer(walk) as app:
        for path, kind, options, qos in (
            ("telemetry", "telemetry", (), 0),
            ("telemetry", "telemetry", ("-H", "qos-level: 1"), 1),
            ("event", "event", (), 1),
        ):
            body = f'{{"n": "{kind}-{qos}"}}'
            answer = await in_thread(walk.upload, sensor, path, body, *options)
            assert (answer.status, answer.body) == (202, "")
            message = await received(app, body.encode())
            assert hono_says(message) == {
                "address": f"{kind}/{TENANT}",
                "content-type": "application/json",
                "device_id": sensor.name,
                "orig_adapter": "hono-http",
                "orig_address": f"/{path}",
                "qos": qos,
            }
            check_common(message, kind, sensor)


@pytest.mark.parametrize("version", ["311", "5"])
async def test_telemetry_and_events_over_mqtt_reach_a_proton_receiver(
    walk: Walk, sensor: Device, version: str
) -> None:
    async with consumer(walk) as app:
        for topic, kind, qos in (
            ("telemetry", "telemetry", 0),
            ("t/?content-type=text%2Fplain&color=red", "telemetry", 1),
            ("event", "event", 1),
            (f"e/{TENANT}/{sensor.name}", "event", 1),
        ):
            body = f"{topic} {version}"
            await in_thread(
                walk.publish, sensor, topic, body, "-q", str(qos), "-V", f"mqttv{version}"
            )
            message = await received(app, body.encode())
            assert message.address == f"{kind}/{TENANT}"
            assert message.properties["orig_adapter"] == "hono-mqtt"
            assert message.properties["orig_address"] == topic
            assert message.properties["qos"] == qos
            if "color" in topic:
                assert "color" not in message.properties  # Hono forwards its own words only
                assert message.content_type == "text/plain"
            check_common(message, kind, sensor)


async def test_an_amqp_device_gets_the_applications_outcome_for_each_of_its_messages(
    walk: Walk, sensor: Device
) -> None:
    async with consumer(walk) as app, walk.amqp_device(sensor) as device:
        for address, kind in (("telemetry", "telemetry"), ("event", "event")):
            body = f"{kind} by amqp".encode()
            sent = Message(
                body=body,
                address=address,
                content_type=symbol("text/plain"),
                properties={"unit": "C"},
            )
            sent.inferred = True
            device.send(None, sent, tag=kind)
            assert (await device.expect("outcome"))[1:3] == (kind, "accepted")
            message = await received(app, body)
            assert hono_says(message) == {
                "address": f"{kind}/{TENANT}",
                "content-type": "text/plain",
                "device_id": sensor.name,
                "orig_adapter": "hono-amqp",
                "orig_address": address,
                "qos": 1,
            }
            assert message.properties.get("unit") == "mine"  # the registry's, not the device's
            check_common(message, kind, sensor)


def reject(_message: Received, delivery: Delivery) -> None:
    delivery.update(Delivery.REJECTED)
    delivery.settle()


async def test_an_application_that_refuses_telemetry_is_heard_by_the_device(
    walk: Walk, sensor: Device
) -> None:
    async with walk.application(prefetch=0) as app, walk.amqp_device(sensor) as device:
        app.answer = reject
        app.receive_from(f"telemetry/{TENANT}", credit=10)
        await app.expect("attached")
        device.send(None, Message(body=b"bad", address="telemetry"), tag="bad")
        assert (await device.expect("outcome"))[2] == "rejected"
        answer = await in_thread(walk.upload, sensor, "telemetry", "bad", "-H", "qos-level: 1")
        assert answer.status == 400


# --- without anybody who wants it


async def test_telemetry_that_nobody_wants_is_refused_as_hono_refuses_it(
    walk: Walk, lonely: Device
) -> None:
    for options in ((), ("-H", "qos-level: 1")):
        answer = await in_thread(walk.upload, lonely, "telemetry", {"t": 1}, *options)
        assert (answer.status, answer.json) == (503, NO_CONSUMER)
        assert answer.headers["retry-after"] == "2"
    complaint = await in_thread(walk.try_publish, lonely, "telemetry", "x", "-q", "1")
    assert complaint, "mosquitto_pub was told that all is well"
    async with walk.amqp_device(lonely) as device:
        device.send(None, Message(body=b"x", address="telemetry"), tag="1")
        assert (await device.expect("outcome"))[2] == "released"


async def test_mqtt_telemetry_that_nobody_wants_is_told_on_the_error_topic(
    walk: Walk, lonely: Device
) -> None:
    address = walk.running.endpoints["hono.mqtt"]
    async with paho_client(
        address, paho.MQTTv5, username=lonely.user, password=lonely.password
    ) as device:
        assert await device.connack() == 0
        assert await device.subscribe(("error///#", 0)) == [0]
        device.client.publish("telemetry", b"x", qos=1)
        told = await device.message()
        assert told.topic.startswith("error///")
        assert told.topic.endswith("/503")
        assert b"no consumer available" in told.payload
        assert (await device.ack())[1] >= 0x80


# --- events outlive


async def test_events_without_a_consumer_are_kept_over_kill_9_and_delivered_in_order(
    tmp_path: Path,
) -> None:
    with twinspan(tmp_path / "data", "gateway", "--demo") as running:
        walk = Walk(running)
        device = walk.a_device("keeper", "d")
        answer = await in_thread(walk.upload, device, "event", "1", content_type="text/plain")
        assert answer.status == 202
        await in_thread(walk.publish, device, "event", "2", "-q", "1")
        async with walk.amqp_device(device) as peer:
            peer.send(None, Message(body=b"3", address="event"), tag="3")
            assert (await peer.expect("outcome"))[2] == "accepted"
        running.kill()
        await in_thread(running.start)
        async with walk.application() as app:
            app.receive_from("event/keeper")
            kept = [(await app.expect("message", 10.0))[2] for _ in range(3)]
        assert [message.body for message in kept] == [b"1", b"2", b"3"]
        assert [message.durable for message in kept] == [True] * 3
        assert running.stop() == 0  # a clean stop keeps what was accepted; a kill may repeat it
        await in_thread(running.start)
        answer = await in_thread(walk.upload, device, "event", "4", content_type="text/plain")
        assert answer.status == 202
        async with walk.application() as app:
            app.receive_from("event/keeper")
            assert (await app.expect("message", 10.0))[2].body == b"4", "accepted ones came again"
