"""Commands that wait for devices, with real clients at both ends: proton, paho, mosquitto, curl, CoAP."""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from paho.mqtt import client as paho
from proton import Message

from gateway.config.hono import AmqpAdapter as AmqpSettings
from gateway.config.hono import MqttAdapter as MqttSettings
from gateway.config.hono import Northbound as NorthboundSettings
from gateway.hono.adapters import amqp_device, mqtt_device
from gateway.hono.adapters.amqp import AmqpAdapter
from gateway.hono.adapters.coap_messages import CHANGED
from gateway.hono.adapters.mqtt import MqttAdapter
from gateway.hono.downstream import Messaging
from gateway.hono.kafka_records import DELIVERY_FAILURE
from gateway.hono.northbound import ENDPOINT, ApplicationUser, Northbound
from gateway.model.message import COMMAND_ID, DUPLICATE
from gateway.runtime.module import running
from gateway.store.memory_events import MemoryEvents
from gateway.wire.coap import options
from tests.coap_rig import a_coap_adapter, a_device, a_request
from tests.hono_rig import ADMIN, FREE, Core, a_core, a_fleet, a_registry_api, an_http_adapter
from tests.hono_rig import curl as run_curl
from tests.integration.proton_peer import Peer, Received
from tests.mqtt_peers import Paho, paho_client, run_tool, until

REPLIES = "command_response/acme/app"


@pytest.fixture
async def core() -> AsyncIterator[Core]:
    async with a_core() as core, AsyncExitStack() as up:
        await a_fleet(core)
        await core.registry.update_tenant("acme", {"ext": {"stored-commands": True}}, None)
        rooms: dict[str, Any] = {
            "ingress": core.ingress,
            "commands": core.commands,
            "authenticator": core.authenticator,
            "admission": core.connections,
            "assertions": core.registry,
        }
        ends, metrics = core.endpoints, core.metrics
        mqtt = MqttSettings(bind=FREE, send_to_device_timeout=20.0)
        northbound = Northbound(
            NorthboundSettings(bind=FREE),
            ends,
            Messaging(MemoryEvents(), metrics),
            core.commands,
            {"app": ApplicationUser("app", "pw")},
            metrics,
        )
        core.commands.add_sink(northbound)
        for module in (
            northbound,
            MqttAdapter(mqtt, ends, metrics, mqtt_device.Rooms(**rooms)),
            AmqpAdapter(AmqpSettings(bind=FREE), ends, metrics, amqp_device.Rooms(**rooms)),
        ):
            await up.enter_async_context(running(module))
        await up.enter_async_context(an_http_adapter(core))
        await up.enter_async_context(a_coap_adapter(core))
        yield core


@pytest.fixture
async def app(core: Core) -> AsyncIterator[Peer]:
    async with Peer(f"amqp://app:pw@{core.endpoints.get(ENDPOINT)}") as peer:
        yield peer


async def send(
    app: Peer, name: str, device: str = "d1", ttl: float = 600.0, *, answered: bool = False
) -> None:
    """Send a command that may wait, and see it accepted."""
    more = {"reply_to": REPLIES, "correlation_id": f"c-{name}"} if answered else {}
    message = Message(
        address=f"command/acme/{device}", subject=name, body=b"on", ttl=ttl, inferred=True, **more
    )
    app.send("command/acme", message, name)
    assert (await app.expect("outcome"))[1:3] == (name, "accepted")


def waiting(core: Core) -> float:
    return core.sample("twinspan_stored_commands_waiting", tenant="acme")


@asynccontextmanager
async def a_paho(core: Core, version: int = int(paho.MQTTv5)) -> AsyncIterator[Paho]:
    address = core.endpoints.get("hono.mqtt")
    async with paho_client(address, version, username="sensor1@acme", password="pw") as device:
        yield device


def an_amqp_device(core: Core) -> Peer:
    return Peer(f"amqp://sensor1%40acme:pw@{core.endpoints.get('hono.amqp')}")


# --- each adapter -----------------------------------------------------------------------------------


async def test_a_device_on_mqtt_5_gets_what_waited_with_its_id(core: Core, app: Peer) -> None:
    for name in "abc":
        await send(app, name)
    async with a_paho(core) as device:
        await device.subscribe(("command///req/#", 1))
        messages = [await device.message() for _ in "abc"]
        assert [message.topic for message in messages] == [f"command///req//{n}" for n in "abc"]
        ids = [dict(message.properties.UserProperty)[COMMAND_ID] for message in messages]  # type: ignore[union-attr]
        assert len(set(ids)) == 3
        await until(lambda: waiting(core) == 0)


async def test_mosquitto_gets_what_waited(core: Core, app: Peer) -> None:
    await send(app, "a")
    host, _, port = core.endpoints.get("hono.mqtt").rpartition(":")
    words = ("-h", host, "-p", port, "-u", "sensor1@acme", "-P", "pw", "-q", "1", "-W", "20")
    done = await run_tool("mosquitto_sub", *words, "-C", "1", "-t", "command///req/#", "-v")
    assert done.out == "command///req//a on\n"
    await until(lambda: waiting(core) == 0)


async def test_each_poll_over_http_brings_one_that_waited(core: Core, app: Peer) -> None:
    for name in "ab":
        await send(app, name)
    url = f"{core.url('hono.http')}/telemetry?hono-ttd=20"
    for name in "ab":
        status, text = await run_curl(
            *("-i", "-u", "sensor1@acme:pw", "-H", "Content-Type: a/b", "--data", "x", url)
        )
        assert status == 200
        assert f"hono-command: {name}\r\n" in text
        assert f"{COMMAND_ID}: " in text
        assert text.endswith("on")
    await until(lambda: waiting(core) == 0)


async def test_a_device_on_amqp_gets_what_waited_with_its_id(core: Core, app: Peer) -> None:
    await send(app, "a")
    async with an_amqp_device(core) as device:
        device.receive_from("command")
        got: Received = (await device.expect("message"))[2]
        assert (got.subject, got.body) == ("a", b"on")
        assert got.annotations[COMMAND_ID] == got.id
        await until(lambda: waiting(core) == 0)


async def test_a_poll_over_coap_brings_what_waited(core: Core, app: Peer) -> None:
    await send(app, "a")
    async with a_device(core) as device:
        device.send(a_request("telemetry/acme/d1?hono-ttd=20&empty"))
        await until(lambda: any(m.code == CHANGED for m in device.seen))
        (answer,) = (m for m in device.seen if m.code == CHANGED)
        said = [value.decode() for value in answer.all(options.LOCATION_QUERY)]
        assert said[0] == "hono-command=a"
        assert said[1].startswith(f"{COMMAND_ID}=")
        assert answer.payload == b"on"


async def test_a_gateway_gets_what_waited_for_its_devices(core: Core, app: Peer) -> None:
    await send(app, "a", "d2")
    address = core.endpoints.get("hono.mqtt")
    async with paho_client(address, username="gw@acme", password="pw") as gateway:
        await gateway.subscribe(("command//+/req/#", 1))
        assert (await gateway.message()).topic == "command//d2/req//a"


# --- requests ---------------------------------------------------------------------------------------


async def test_a_request_that_waited_is_answered(core: Core, app: Peer) -> None:
    app.receive_from(REPLIES)
    await app.expect("attached")
    await send(app, "a", answered=True)
    async with a_paho(core) as device:
        await device.subscribe(("command///req/#", 1))
        request_id = (await device.message()).topic.split("/")[4]
        device.client.publish(f"command///res/{request_id}/200", b"done", 1)
        answer: Received = (await app.expect("message"))[2]
    assert (answer.correlation_id, answer.properties["status"]) == ("c-a", 200)
    assert answer.body == b"done"


async def test_a_request_that_nobody_came_for_fails_at_its_reply_address(
    core: Core, app: Peer
) -> None:
    app.receive_from(REPLIES)
    await app.expect("attached")
    await send(app, "a", ttl=0.1, answered=True)
    answer: Received = (await app.expect("message"))[2]
    assert (answer.correlation_id, answer.properties["status"]) == ("c-a", 503)
    assert answer.content_type == DELIVERY_FAILURE
    assert json.loads(answer.body) == {"error": "the command expired before its device took it"}


async def test_without_a_time_to_live_the_application_knows_at_once(core: Core, app: Peer) -> None:
    message = Message(address="command/acme/d1", subject="a", body=b"on", inferred=True)
    app.send("command/acme", message, "a")
    assert (await app.expect("outcome"))[1:3] == ("a", "released")


# --- devices that move ------------------------------------------------------------------------------


async def test_a_command_in_flight_follows_its_device_to_another_adapter(
    core: Core, app: Peer
) -> None:
    """The device dies on MQTT with a command in its socket, and comes back on AMQP."""
    async with a_paho(core) as old:
        old.client.manual_ack_set(True)
        await old.subscribe(("command///req/#", 1))
        message = Message(
            address="command/acme/d1", subject="a", body=b"on", ttl=600.0, inferred=True
        )
        app.send("command/acme", message, "a")
        first = dict((await old.message()).properties.UserProperty)  # type: ignore[union-attr]
        async with an_amqp_device(core) as new:
            new.receive_from("command")
            await new.expect("attached")
            sock: Any = old.client.socket()
            sock.shutdown(socket.SHUT_RDWR)
            assert (await app.expect("outcome"))[1:3] == ("a", "accepted")
            got: Received = (await new.expect("message"))[2]
            assert got.subject == "a"
            assert (got.annotations[COMMAND_ID], DUPLICATE in first) == (first[COMMAND_ID], False)
            assert got.annotations[DUPLICATE] is True
            await until(lambda: waiting(core) == 0)
    assert len(core.commands._subscriptions) == 0


async def test_a_device_that_polls_gets_what_it_did_not_acknowledge_before(
    core: Core, app: Peer
) -> None:
    async with a_paho(core) as old:
        old.client.manual_ack_set(True)
        await old.subscribe(("command///req/#", 1))
        app.send(
            "command/acme",
            Message(address="command/acme/d1", subject="a", body=b"on", ttl=600.0, inferred=True),
            "a",
        )
        await old.message()
    assert (await app.expect("outcome"))[1:3] == ("a", "accepted")
    url = f"{core.url('hono.http')}/event?hono-ttd=20"
    status, text = await run_curl(
        *("-i", "-u", "sensor1@acme:pw", "-H", "Content-Type: a/b", "--data", "x", url)
    )
    assert (status, f"{DUPLICATE}: true\r\n" in text) == (200, True)


# --- operators --------------------------------------------------------------------------------------


async def test_operators_see_and_delete_what_waits(core: Core, app: Peer) -> None:
    app.receive_from(REPLIES)
    await app.expect("attached")
    await send(app, "a", answered=True)
    await send(app, "b")
    await send(app, "c", "d2")
    async with a_registry_api(core) as url:
        user = ("-u", ":".join(ADMIN))

        async def call(path: str, *more: str) -> tuple[int, Any]:
            status, text = await run_curl(*user, *more, f"{url}/commands/{path}")
            return status, json.loads(text) if text else None

        status, found = await call("acme/d1")
        assert (status, found["total"]) == (200, 2)
        first, second = found["result"]
        assert (first["subject"], first["one-way"], first["correlation-id"]) == ("a", False, "c-a")
        assert (second["subject"], second["one-way"], second["size"]) == ("b", True, 2)
        assert "payload" not in first
        assert (await call("acme"))[1]["total"] == 3
        page = (await call("acme?limit=2"))[1]
        assert len(page["result"]) == 2
        last = (await call(f"acme?limit=2&after={page['next']}"))[1]
        assert ([row["subject"] for row in last["result"]], "next" in last) == (["c"], False)
        assert (await call("acme?limit=x"))[0] == 400
        assert (await call("nobody"))[0] == 404
        assert (await call("acme/nobody"))[0] == 404
        assert (await run_curl(f"{url}/commands/acme"))[0] == 401
        delete = ("-X", "DELETE")
        assert (await call(f"acme/d2/{first['id']}", *delete))[0] == 404
        assert (await call(f"acme/d1/{first['id']}", *delete))[0] == 204
        answer: Received = (await app.expect("message"))[2]
        assert (answer.correlation_id, answer.properties["status"]) == ("c-a", 410)
        assert [row["subject"] for row in (await call("acme/d1"))[1]["result"]] == ["b"]
        assert (await call("acme", *delete))[0] == 204
        assert (await call("acme"))[1] == {"total": 0, "result": []}
        await until(lambda: waiting(core) == 0)
