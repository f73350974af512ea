"""Acknowledgements and the live channel over connections."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from gateway.errors import GatewayError, NoConsumer, Undeliverable
from tests.ditto_rig import a_websocket, curl, put
from tests.hono_rig import until
from tests.integration.test_connectivity import (
    DEVOPS,
    TENANT,
    THING,
    Rig,
    a_rig,
    amqp_document,
    connect,
    hono_document,
    modify,
)

EVENTS = "_/_/things/twin/events"
LIVE = "org.acme/my-device-1/things/live"
OWN = "c1:my-ack"


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    async with a_rig() as made:
        yield made


def with_target(document: dict[str, Any], **members: Any) -> dict[str, Any]:
    target = {**document["targets"][0], **members}
    return {**document, "targets": [target]}


async def change(rig: Rig, query: str, value: int = 2) -> Any:
    return await put(f"{rig.ditto.api}/things/{THING}/attributes/n?{query}", value)


async def test_publishing_is_acknowledged_with_the_targets_label(rig: Rig) -> None:
    label = "{{connection:id}}:my-ack"
    document = with_target(hono_document(), topics=[EVENTS], issuedAcknowledgementLabel=label)
    await connect(rig, document)
    good = await change(rig, f"requested-acks={OWN}")
    assert (good.status, good.json[OWN]["status"]) == (200, 200)
    rig.routing.verdict = NoConsumer()
    bad = await change(rig, f"requested-acks=twin-persisted,{OWN}", 3)
    assert bad.status == 424
    assert bad.json[OWN]["status"] == 503
    assert bad.json[OWN]["payload"]["error"] == "no.consumer"


async def test_a_target_that_does_not_want_the_event_is_stood_in_for(rig: Rig) -> None:
    topic = f"{EVENTS}?filter=gt(attributes/n,100)"
    document = with_target(hono_document(), topics=[topic], issuedAcknowledgementLabel=OWN)
    await connect(rig, document)
    weak = await change(rig, f"requested-acks={OWN}")
    assert (weak.status, weak.json[OWN]["headers"]["ditto-weak-ack"]) == (200, True)


async def test_a_device_acknowledges_what_its_source_declared(rig: Rig) -> None:
    document = with_target(hono_document(declaredAcks=[OWN]), topics=[EVENTS])
    await connect(rig, document)
    asking = asyncio.create_task(change(rig, f"requested-acks={OWN}"))
    await until(lambda: bool(rig.routing.commands))
    event = json.loads(rig.routing.commands[0].payload)
    assert event["headers"]["requested-acks"] == [OWN]
    ack = {
        "topic": f"org.acme/my-device-1/things/twin/acks/{OWN}",
        "path": "/",
        "headers": {"correlation-id": event["headers"]["correlation-id"]},
        "status": 207,
    }
    assert await rig.upload(ack) is None
    assert (await asking).status == 207
    foreign = {**ack, "topic": "org.acme/my-device-1/things/twin/acks/other:ack"}
    assert await rig.upload(foreign) is None
    assert any("not declared" in text for text in await rig.failures("c1"))


@pytest.mark.parametrize(
    ("place", "label"),
    [
        ("source", "my-ack"),
        ("source", "other:my-ack"),
        ("target", "{{connection:id}}:no way"),
        ("target", "twin-persisted"),
    ],
)
async def test_labels_of_a_connection_begin_with_its_id(rig: Rig, place: str, label: str) -> None:
    document = hono_document()
    if place == "source":
        document["sources"][0]["declaredAcks"] = [label]
    else:
        document["targets"][0]["issuedAcknowledgementLabel"] = label
    with pytest.raises(GatewayError) as refused:
        await rig.connections.create(document, "c1")
    assert refused.value.code == "connectivity:connection.configuration.invalid"


async def test_a_label_that_somebody_has_keeps_a_connection_from_opening(rig: Rig) -> None:
    async with a_websocket(rig.ditto, query=f"?declared-acks={OWN}"):
        await connect(rig, hono_document(declaredAcks=[OWN]))
        status = await curl(f"{rig.url}/c1/status", user=DEVOPS)
    assert status.json["liveStatus"] == "misconfigured"
    opened = await curl(
        "-X",
        "POST",
        f"{rig.url}/c1/command",
        "-H",
        "Content-Type: text/plain",
        "-d",
        "connectivity.commands:openConnection",
        user=DEVOPS,
    )
    assert opened.status == 200
    status = await curl(f"{rig.url}/c1/status", user=DEVOPS)
    assert status.json["liveStatus"] == "open"


async def test_a_device_is_told_when_the_acknowledgements_of_its_source_are_there(
    rig: Rig,
) -> None:
    acks = {"includes": ["twin-persisted", "app:ack"], "filter": "fn:filter(header:qos,'ne','0')"}
    await connect(rig, {**hono_document(acknowledgementRequests=acks), "targets": []})
    async with a_websocket(rig.ditto, query="?declared-acks=app:ack") as app:
        await app.control("START-SEND-EVENTS")
        for status, expected in ((200, None), (400, None), (503, Undeliverable)):
            uploading = asyncio.create_task(rig.upload(modify(status)))
            event = await app.envelope()
            assert event["headers"]["requested-acks"] == ["app:ack"]
            assert not uploading.done()
            ack = {
                "topic": "org.acme/my-device-1/things/twin/acks/app:ack",
                "path": "/",
                "headers": {"correlation-id": event["headers"]["correlation-id"]},
                "status": status,
            }
            await app.socket.send_json(ack)
            outcome = await uploading
            assert outcome is None if expected is None else isinstance(outcome, expected)


async def test_a_filter_decides_whether_acknowledgements_are_asked_for(rig: Rig) -> None:
    acks = {"includes": ["app:ack"], "filter": "fn:filter(header:qos,'eq','0')"}
    await connect(rig, {**hono_document(acknowledgementRequests=acks), "targets": []})
    async with a_websocket(rig.ditto) as app:
        await app.control("START-SEND-EVENTS")
        assert await rig.upload(modify(5)) is None
        assert (await app.envelope())["headers"]["requested-acks"] == []


async def test_a_live_command_becomes_a_command_and_the_devices_answer_its_response(
    rig: Rig,
) -> None:
    await connect(rig, amqp_document())
    url = f"{rig.ditto.api}/things/{THING}/attributes/location?channel=live&timeout=10"
    asking = asyncio.create_task(curl(url))
    await until(lambda: bool(rig.routing.commands))
    (command,) = rig.routing.commands
    assert (command.device, command.name, command.is_one_way) == (THING, "retrieve", False)
    asked = json.loads(command.payload)
    assert asked["topic"] == f"{LIVE}/commands/retrieve"
    answer = {
        "topic": asked["topic"],
        "path": asked["path"],
        "headers": {"correlation-id": asked["headers"]["correlation-id"]},
        "status": 200,
        "value": "Mars",
    }
    rig.routing.answer(command, 200, json.dumps(answer).encode(), "application/json")
    got = await asking
    assert (got.status, got.json, got.headers["channel"]) == (200, "Mars", "live")


async def test_a_device_sends_live_events_and_applications_hear_them(rig: Rig) -> None:
    await connect(rig, hono_document())
    async with a_websocket(rig.ditto) as app:
        await app.control("START-SEND-LIVE-EVENTS")
        event = {"topic": f"{LIVE}/events/modified", "path": "/attributes/x", "value": 5}
        assert await rig.upload({**event, "headers": {}}) is None
        heard = await app.envelope()
    assert (heard["topic"], heard["value"]) == (f"{LIVE}/events/modified", 5)


async def test_live_events_go_out_to_devices(rig: Rig) -> None:
    await connect(rig, with_target(hono_document(), topics=["_/_/things/live/events"]))
    async with a_websocket(rig.ditto) as app:
        event = {"topic": f"{LIVE}/events/modified", "path": "/attributes/x", "value": 5}
        await app.socket.send_json(event)
        await until(lambda: bool(rig.routing.commands))
    assert json.loads(rig.routing.commands[0].payload)["value"] == 5
    assert rig.routing.commands[0].tenant == TENANT


async def test_failed_acknowledgements_go_to_a_reply_target_that_wants_them(rig: Rig) -> None:
    reply = {
        "enabled": True,
        "address": "command",
        "expectedResponseTypes": ["nack"],
    }
    acks = {"includes": ["twin-persisted", "nobody:ack"]}
    document = hono_document(acknowledgementRequests=acks, replyTarget=reply)
    await connect(rig, {**document, "targets": []})
    asked = {**modify(7), "headers": {"timeout": "50ms", "correlation-id": "r1"}}
    assert isinstance(await rig.upload(asked), Undeliverable)
    (command,) = rig.routing.commands
    told = json.loads(command.payload)
    assert (told["topic"], told["status"]) == ("org.acme/my-device-1/things/twin/acks", 424)
    assert told["value"]["nobody:ack"]["status"] == 408
