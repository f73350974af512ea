"""Commands that wait for devices, in the shipped process: `kill -9`, Kafka, and the command line."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from paho.mqtt import client as paho
from proton import Message

from gateway.hono.kafka_records import DELIVERY_FAILURE
from gateway.model.message import COMMAND_ID, DUPLICATE
from tests import process
from tests.integration.proton_peer import Peer, Received
from tests.kafka_rig import Record, mock_cluster, read_all, write
from tests.mqtt_peers import Paho, paho_client
from tests.process import Twinspan, twinspan
from tests.walk import REGISTRY_USER

pytestmark = pytest.mark.e2e

TENANT = "DEFAULT_TENANT"
COMMANDS, RESPONSES = f"hono.command.{TENANT}", f"hono.command_response.{TENANT}"
METADATA = "delivery-failure-notification-metadata-x"


def keep_commands(up: Twinspan) -> None:
    """Let the demo's tenant keep commands that have a time to live."""
    url = up.url("hono.registry", f"/v1/tenants/{TENANT}")
    tenant = json.loads(process.run("curl", "-sSf", "-u", REGISTRY_USER, url))
    tenant["ext"] = {**tenant.get("ext", {}), "stored-commands": True}
    body = ("-H", "Content-Type: application/json", "--data", json.dumps(tenant))
    process.run("curl", "-sSf", "-u", REGISTRY_USER, "-X", "PUT", *body, url)


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Twinspan]:
    folder = tmp_path_factory.mktemp("stored") / "data"
    with twinspan(folder, "gateway", "--demo") as up:
        keep_commands(up)
        yield up


@asynccontextmanager
async def an_application(up: Twinspan) -> AsyncIterator[Peer]:
    url = f"amqp://consumer%40HONO:verysecret@{up.endpoints['northbound.amqp']}"
    async with Peer(url) as peer:
        yield peer


@asynccontextmanager
async def a_device(up: Twinspan) -> AsyncIterator[Paho]:
    async with paho_client(
        up.endpoints["hono.mqtt"],
        int(paho.MQTTv5),
        username=f"sensor1@{TENANT}",
        password="hono-secret",
    ) as device:
        yield device


async def send(app: Peer, name: str, ttl: float = 600.0, reply_to: str | None = None) -> None:
    message = Message(
        address=f"command/{TENANT}/4711",
        subject=name,
        body=b"on",
        ttl=ttl,
        inferred=True,
        reply_to=reply_to,
        correlation_id=f"c-{name}",
    )
    app.send(f"command/{TENANT}", message, name)
    assert (await app.expect("outcome"))[1:3] == (name, "accepted")


def mark_of(message: Any) -> tuple[str, bool]:
    said = dict(message.properties.UserProperty)
    return said[COMMAND_ID], said.get(DUPLICATE) == "true"


def twinspan_command(up: Twinspan, *arguments: str) -> str:
    program = (sys.executable, "-m", "gateway.cli", "command")
    return process.run(*program, *arguments, "--data-dir", str(up.data_dir))


async def test_what_was_accepted_outlives_kill_9_and_is_answered(gateway: Twinspan) -> None:
    reply_to = f"command_response/{TENANT}/app"
    async with an_application(gateway) as app:
        for name in "abc":
            await send(app, name, reply_to=reply_to)
    gateway.kill()
    gateway.start()
    async with an_application(gateway) as app, a_device(gateway) as device:
        app.receive_from(reply_to)
        await app.expect("attached")
        await device.subscribe(("command///req/#", 1))
        for name in "abc":
            topic = (await device.message()).topic.split("/")
            assert topic[5] == name
            device.client.publish(f"command///res/{topic[4]}/200", name.encode(), 1)
            answer: Received = (await app.expect("message"))[2]
            assert (answer.correlation_id, answer.body) == (f"c-{name}", name.encode())


async def test_one_under_way_at_kill_9_comes_again_and_says_so(gateway: Twinspan) -> None:
    async with an_application(gateway) as app:
        for name in "ab":
            await send(app, name)
        async with a_device(gateway) as device:
            device.client.manual_ack_set(True)
            await device.subscribe(("command///req/#", 1))
            first = mark_of(await device.message())
            gateway.kill()
    gateway.start()
    async with a_device(gateway) as device:
        await device.subscribe(("command///req/#", 1))
        again, second = [await device.message() for _ in "ab"]
        assert [m.topic for m in (again, second)] == ["command///req//a", "command///req//b"]
        assert mark_of(again) == (first[0], True)
        assert mark_of(second)[1] is False
        await asyncio.to_thread(process.eventually, lambda: json.loads(listed(gateway)) == [])


def listed(up: Twinspan) -> str:
    return twinspan_command(up, "list", TENANT, "-o", "json")


async def test_the_command_line_shows_and_deletes_what_waits(gateway: Twinspan) -> None:
    async with an_application(gateway) as app:
        for name in "xyz":
            await send(app, name)
    table = twinspan_command(gateway, "list", TENANT, "4711").splitlines()
    assert table[0].split() == ["DEVICE-ID", "ID", "SUBJECT", "STORED", "EXPIRES"]
    assert [line.split()[2] for line in table[1:]] == ["x", "y", "z"]
    twinspan_command(gateway, "delete", TENANT, "4711", table[2].split()[1])
    found = json.loads(listed(gateway))
    assert [row["subject"] for row in found] == ["x", "z"]
    twinspan_command(gateway, "delete", TENANT, "4711")
    assert json.loads(listed(gateway)) == []
    with pytest.raises(AssertionError, match="no such command: none"):
        twinspan_command(gateway, "delete", TENANT, "4711", "none")


# --- Kafka ------------------------------------------------------------------------------------------


def write_command(bootstrap: str, name: str, ttl: float) -> None:
    headers = {
        "device_id": b"4711",
        "subject": name.encode(),
        "correlation-id": f"c-{name}".encode(),
        "response-required": b"true",
        "creation-time": str(int(time.time() * 1_000)).encode(),
        "ttl": str(int(ttl * 1_000)).encode(),
        METADATA: b"7",
    }
    write(bootstrap, COMMANDS, "4711", b"on", headers)


def responses(bootstrap: str) -> dict[bytes, Record]:
    """What came to the topic of responses, by correlation id."""
    found = read_all(bootstrap, RESPONSES)
    return {record.headers["correlation-id"]: record for record in found}


async def test_kafka_applications_hear_of_what_waited(tmp_path: Path) -> None:
    with mock_cluster() as bootstrap:
        sets = (f"hono.kafka.bootstrap_servers={bootstrap}",)
        with twinspan(tmp_path / "data", "gateway", "--demo", sets=sets) as up:
            keep_commands(up)
            for name in "ab":
                await asyncio.to_thread(write_command, bootstrap, name, 600.0)

            def are_kept() -> bool:
                return [row["subject"] for row in json.loads(listed(up))] == ["a", "b"]

            await asyncio.to_thread(process.eventually, are_kept, seconds=60.0)
            await asyncio.to_thread(write_command, bootstrap, "late", 5.0)

            def has_expired() -> Record | None:
                return responses(bootstrap).get(b"c-late")

            failed = await asyncio.to_thread(process.eventually, has_expired, seconds=60.0)
            assert failed is not None
            assert failed.headers["content-type"] == DELIVERY_FAILURE.encode()
            assert (failed.headers["status"], failed.headers[METADATA]) == (b"503", b"7")
            up.kill()
            up.start()
            async with a_device(up) as device:
                await device.subscribe(("command///req/#", 1))
                for name in "ab":
                    topic = (await device.message()).topic.split("/")
                    assert topic[5] == name
                    device.client.publish(f"command///res/{topic[4]}/200", b"done", 1)

                def are_answered() -> bool:
                    found = responses(bootstrap)
                    return {b"c-a", b"c-b"} <= set(found) and found[b"c-a"].value == b"done"

                await asyncio.to_thread(process.eventually, are_answered, seconds=60.0)
