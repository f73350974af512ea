"""`twinspan adapters` against a second Twinspan, known through Hono's service APIs alone."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion
from proton import Message

from tests.integration.proton_peer import Peer, until
from tests.process import Twinspan, eventually, twinspan

pytestmark = pytest.mark.e2e

USER = "sensor1@DEFAULT_TENANT"
PASSWORD = "hono-secret"


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Twinspan]:
    """The one with registry, router and messaging; its own adapters stay idle."""
    sets = ("hono.internal.enabled=true", "hono.internal.bind=127.0.0.1:0")
    data = tmp_path_factory.mktemp("services") / "data"
    with twinspan(data, "gateway", "--demo", sets=sets) as up:
        yield up


@pytest.fixture(scope="module")
def adapters(services: Twinspan, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Twinspan]:
    """The one with the adapters; it logs in as Hono's own MQTT adapter does."""
    sets = (
        f"hono.services.messaging.address={services.endpoints['hono.internal']}",
        "hono.services.messaging.username=mqtt-adapter@HONO",
        "hono.services.messaging.password=mqtt-secret",
        "hono.http.authentication_required=true",
    )
    with twinspan(tmp_path_factory.mktemp("adapters") / "data", "adapters", sets=sets) as up:
        yield up


def post(adapters: Twinspan, path: str, body: str, *more: str) -> tuple[int, str]:
    done = subprocess.run(
        [
            "curl", "-s", "-w", "\n%{http_code}", "-m", "30", "-u", f"{USER}:{PASSWORD}",
            "-H", "content-type: application/json", "-d", body, *more,
            adapters.url("hono.http", path),
        ],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    text, _, status = done.stdout.rpartition("\n")
    return int(status), text


@contextmanager
def a_device(adapters: Twinspan) -> Iterator[paho.Client]:
    """The sample device, connected over MQTT."""
    client = paho.Client(CallbackAPIVersion.VERSION2)
    client.username_pw_set(USER, PASSWORD)
    client.connect("127.0.0.1", adapters.port("hono.mqtt"))
    client.loop_start()
    try:
        eventually(client.is_connected, what="device connected")
        yield client
    finally:
        client.disconnect()
        client.loop_stop()


def an_application(services: Twinspan) -> Peer:
    """A foreign AMQP client with the application's user."""
    return Peer(f"amqp://consumer%40HONO:verysecret@{services.endpoints['northbound.amqp']}")


async def test_events_and_telemetry_reach_applications(
    services: Twinspan, adapters: Twinspan
) -> None:
    async with an_application(services) as application:
        for address in ("event/DEFAULT_TENANT", "telemetry/DEFAULT_TENANT"):
            application.receive_from(address)
            await application.expect("attached")
        assert await asyncio.to_thread(post, adapters, "/event", '{"n": 1}') == (202, "")
        _, _, event = await application.expect("message")
        assert (event.body, event.durable) == (b'{"n": 1}', True)
        assert (event.properties["device_id"], event.properties["importance"]) == ("4711", "high")
        assert "traceparent" in event.annotations["x-opt-trace-context"]
        qos = ("-H", "QoS-Level: 1")
        assert (await asyncio.to_thread(post, adapters, "/telemetry", "{}", *qos))[0] == 202
        _, _, telemetry = await application.expect("message")
        assert (telemetry.body, telemetry.properties["qos"]) == (b"{}", 1)
        assert telemetry.address == "telemetry/DEFAULT_TENANT"


async def test_an_mqtt_device_takes_a_command_and_answers_it(
    services: Twinspan, adapters: Twinspan
) -> None:
    got: list[paho.MQTTMessage] = []
    async with an_application(services) as application:
        reply_to = "command_response/DEFAULT_TENANT/e2e"
        application.receive_from(reply_to)
        await application.expect("attached")
        application.receive_from("event/DEFAULT_TENANT")
        with a_device(adapters) as device:
            device.on_message = lambda _client, _data, message: got.append(message)
            assert device.subscribe("command///req/#", 1)[0] == 0
            while True:  # the device says that it listens
                _, _, event = await application.expect("message")
                if event.properties.get("ttd") == -1:
                    break
            command = Message(
                address="command/DEFAULT_TENANT/4711", subject="set", id="c1",
                reply_to=reply_to, body=b'{"on": true}',
            )  # fmt: skip
            application.send("command/DEFAULT_TENANT", command, "c1")
            outcome = await application.expect("outcome")
            assert (outcome[1], str(outcome[2])) == ("c1", "accepted")
            await until(lambda: bool(got))
            assert got[0].payload == b'{"on": true}'
            request_id = got[0].topic.split("/")[4]
            device.publish(f"command///res/{request_id}/200", b'{"on": true}', 1)
            while True:
                _, link, answer = await application.expect("message")
                if link == reply_to:
                    break
            assert (answer.properties["status"], answer.body) == (200, b'{"on": true}')
            assert answer.correlation_id == "c1"


def test_what_the_registry_forbids_is_refused_at_once(
    services: Twinspan, adapters: Twinspan
) -> None:
    assert post(adapters, "/event", "{}")[0] == 202
    url = services.url("hono.registry", "/v1/devices/DEFAULT_TENANT/4711")
    user = ("-u", "hono-client:secret")
    shown = subprocess.run(["curl", "-s", *user, url], capture_output=True, text=True, check=True)
    device = json.loads(shown.stdout)

    def put(document: object) -> None:
        body = ("-H", "content-type: application/json", "-d", json.dumps(document))
        subprocess.run(["curl", "-sf", *user, "-X", "PUT", *body, url], check=True)

    put({**device, "enabled": False})
    try:
        eventually(lambda: post(adapters, "/event", "{}")[0] == 404, what="device refused")
    finally:
        put(device)
    eventually(lambda: post(adapters, "/event", "{}")[0] == 202, what="device welcome again")
