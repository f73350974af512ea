"""One contract for commands in all protocols: what an application sends, a device hears and answers, who is
told what, and what is counted."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import pytest
import pytest_asyncio
from paho.mqtt import client as paho
from proton import Delivery, Message

from tests.contract.adapter_service import Service, a_service
from tests.contract.command_faces import (
    FACES,
    REACTIONS,
    AmqpFace,
    AmqpListener,
    Ear,
    Face,
    MqttFace,
    MqttListener,
)
from tests.integration.proton_peer import Peer, Received, until

DEVICE, GATEWAY = Ear("sensor1", "4711"), Ear("gw", "gw-1")
JSON = "application/json"
OCTETS = "application/octet-stream"
COMMANDS = "hono_command_processing_duration_seconds"
SIZES = "hono_command_payload_bytes"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service() -> AsyncIterator[Service]:
    async with a_service() as found:
        yield found


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def impatient() -> AsyncIterator[Service]:
    async with a_service(patience=0.05) as found:
        yield found


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the contract.

    Shape:  `status` and what follows belong to the response; `listens` False takes the application's receiver
            away before the device answers. `told` is what the device hears about its response.
    """

    says: str
    ear: Ear = DEVICE
    to: str = "4711"
    is_request: bool = True
    payload: bytes = b"on"
    content_type: str | None = JSON
    tenant: Mapping[str, Any] = field(default_factory=dict)
    status: int = 200
    response: bytes = b"done"
    response_type: str | None = JSON
    listens: bool = True
    told: Mapping[str, str] | None = None
    counts: str | None = "forwarded"


OK = {"http": "202", "mqtt": "puback", "amqp": "accepted", "coap": "2.04"}
BAD = {"http": "400", "mqtt": "closed", "amqp": "rejected hono:bad-request", "coap": "4.00"}
ALONE = {
    "http": "503 no consumer available",
    "mqtt": "closed",
    "amqp": "released",
    "coap": "5.03 no consumer available",
}

ROWS = (
    Row(says="a one-way command", is_request=False, counts=None),
    Row(says="a one-way command for a device behind a gateway", ear=GATEWAY, to="4712",
        is_request=False, counts=None),
    Row(says="a command without payload", is_request=False, payload=b"", content_type=None,
        counts=None),
    Row(says="a command and its response", told=OK),
    Row(says="a response through a gateway", ear=GATEWAY, to="4712", told=OK),
    Row(says="a gateway's own command", ear=GATEWAY, to="gw-1", told=OK),
    Row(says="an empty response", response=b"", response_type=None, status=204, told=OK),
    Row(says="a response without content type", response_type=None, told=OK),
    Row(says="a response that says no", status=404, told=OK),
    Row(says="a response with a status of the server", status=500, told=OK),
    Row(says="a response that lives for a while", tenant={"defaults": {"ttl-command-response": 30}},
        told=OK),
    Row(says="a status that is none", status=150, told=BAD, counts="unprocessable"),
    Row(says="a status that redirects", status=302, told=BAD, counts="unprocessable"),
    Row(says="nobody waits for the response", listens=False, told=ALONE, counts="undeliverable"),
)  # fmt: skip


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("face", FACES, ids=lambda face: face.name)
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.says)
async def test_an_application_a_device_and_the_meters_agree(
    service: Service, row: Row, face: Face
) -> None:
    tenant = await service.fleet(dict(row.tenant))
    async with AsyncExitStack() as stack:
        listener = await stack.enter_async_context(face.listening(service, tenant, row.ear))
        app = await stack.enter_async_context(service.application())
        reply_to = f"command_response/{tenant}/r-1"
        if row.is_request:
            app.receive_from(reply_to)
            await app.expect("attached")
        app.send(f"command/{tenant}", a_command(row, tenant, reply_to), "c")
        heard = await listener.hears()
        assert (heard.name, heard.payload) == ("switch", row.payload)
        expected = None if face.name.startswith("mqtt3") else row.content_type
        assert heard.content_type == expected, heard.content_type
        assert heard.is_request == row.is_request
        assert heard.target == (row.to if row.to != row.ear.device else None)
        assert (await app.expect("outcome"))[1:3] == ("c", "accepted")
        if row.is_request:
            if not row.listens:
                await stack.enter_async_context(Gone(app, service, tenant))
            told = await listener.answers(heard, row.status, row.response, row.response_type)
            assert told.startswith((row.told or {})[face.name.partition("-")[0].rstrip("35")])
            if row.told is OK:
                check_response(row, tenant, (await app.expect("message"))[2])
    await check_counts(service, row, face, tenant)


def a_command(row: Row, tenant: str, reply_to: str) -> Message:
    return Message(
        address=f"command/{tenant}/{row.to}",
        subject="switch",
        body=row.payload or None,
        content_type=row.content_type,
        correlation_id="17" if row.is_request else None,
        reply_to=reply_to if row.is_request else None,
    )


class Gone:
    """The application's receiver is closed."""

    def __init__(self, app: Peer, service: Service, tenant: str) -> None:
        self._app, self._service, self._tenant = app, service, tenant

    async def __aenter__(self) -> None:
        self._app.kill()
        await until(lambda: not self._service.northbound.owns(self._tenant, "r-1"))

    async def __aexit__(self, *_: object) -> None:
        return None


def check_response(row: Row, tenant: str, message: Received) -> None:
    """The response is exactly what Hono's applications expect."""
    assert message.address == f"command_response/{tenant}/r-1"
    assert message.correlation_id == "17"
    assert message.properties == {
        "status": row.status,
        "tenant_id": tenant,
        "device_id": row.to,
    }
    expected = row.response_type or (OCTETS if row.response else None)
    assert message.content_type == expected, message.content_type
    assert message.body == (row.response or None)
    assert message.creation_time > 1_700_000_000
    assert message.ttl == pytest.approx(30 if row.tenant else 0, abs=5)


async def check_counts(service: Service, row: Row, face: Face, tenant: str) -> None:
    """The command, and its response where there is one, each once under its labels."""

    def labels(direction: str, status: str) -> dict[str, str]:
        return {
            "tenant": tenant,
            "direction": direction,
            "status": status,
            "component_name": face.adapter,
        }

    expected = [(labels("request" if row.is_request else "one-way", "forwarded"), 1)]
    if row.counts is not None:
        expected.append((labels("response", row.counts), 1))

    def counted() -> list[Any]:
        return service.samples(COMMANDS, tenant).get(f"{COMMANDS}_count", [])

    await until(lambda: len(counted()) == len(expected))
    assert counted() == expected
    sizes = service.samples(SIZES, tenant).get(f"{SIZES}_sum", [])
    assert sum(size for _, size in sizes) == len(row.payload) + (
        len(row.response) if row.is_request else 0
    )


# --- devices that do not accept ----------------------------------------------------------------------

TOLD = {
    "rejects": ("rejected", "hono:bad-request", "no such thing", "unprocessable"),
    "releases": ("released", None, None, "undeliverable"),
    "modifies": ("modified", None, None, "undeliverable"),
}


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("reaction", REACTIONS)
async def test_an_amqp_device_s_word_reaches_the_application(
    service: Service, reaction: str
) -> None:
    tenant = await service.fleet()
    face = AmqpFace()
    state, condition, text, status = TOLD[reaction]
    async with (
        face.listening(service, tenant, DEVICE) as listener,
        service.application() as app,
    ):
        assert isinstance(listener, AmqpListener)

        def react(_: Received, delivery: Delivery) -> None:
            REACTIONS[reaction](delivery)
            delivery.settle()

        listener.peer.answer = react
        command = a_command(Row(says="", is_request=False), tenant, "")
        app.send(f"command/{tenant}", command, "c")
        assert await app.expect("outcome") == ("outcome", "c", state, condition, text)
    await counts_one(service, tenant, face.adapter, status)


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("version", [int(paho.MQTTv311), int(paho.MQTTv5)])
async def test_a_device_that_is_silent_has_its_command_released(
    impatient: Service, version: int
) -> None:
    tenant = await impatient.fleet()
    face = MqttFace(version, 1)
    async with (
        face.listening(impatient, tenant, DEVICE) as listener,
        impatient.application() as app,
    ):
        assert isinstance(listener, MqttListener)
        listener.peer.client.manual_ack_set(True)
        app.send(f"command/{tenant}", a_command(Row(says="", is_request=False), tenant, ""), "c")
        assert (await app.expect("outcome"))[2] == "released"
    await counts_one(impatient, tenant, face.adapter, "undeliverable")


async def counts_one(service: Service, tenant: str, component: str, status: str) -> None:
    def counted() -> list[Any]:
        return service.samples(COMMANDS, tenant).get(f"{COMMANDS}_count", [])

    await until(lambda: bool(counted()))
    labels = {
        "tenant": tenant,
        "direction": "one-way",
        "status": status,
        "component_name": component,
    }
    assert counted() == [(labels, 1)]


# --- commands that reach no device -------------------------------------------------------------------

ROUTER = "hono-command-router"
UNKNOWN_DEVICE = "device is disabled or not registered"
NOWHERE: list[tuple[str, dict[str, Any], dict[str, Any], tuple[Any, ...], str]] = [
    ("4711", {}, {}, ("released", None, None), "undeliverable"),
    ("4712", {}, {}, ("released", None, None), "undeliverable"),
    ("none", {}, {}, ("rejected", "hono:bad-request", UNKNOWN_DEVICE), "unprocessable"),
    (
        "4711",
        {},
        {"4711": {"enabled": False}},
        ("rejected", "hono:bad-request", UNKNOWN_DEVICE),
        "unprocessable",
    ),
]


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(("to", "tenant", "devices", "outcome", "status"), NOWHERE)
async def test_the_application_knows_at_once(
    service: Service,
    to: str,
    tenant: dict[str, Any],
    devices: dict[str, Any],
    outcome: tuple[Any, ...],
    status: str,
) -> None:
    name = await service.fleet(tenant, devices)
    async with service.application() as app:
        command = a_command(Row(says="", to=to, is_request=False), name, "")
        app.send(f"command/{name}", command, "c")
        assert (await app.expect("outcome"))[2:] == outcome
    counted = service.samples(COMMANDS, name).get(f"{COMMANDS}_count", [])
    assert [(labels["status"], labels["component_name"]) for labels, _ in counted] in (
        [(status, ROUTER)],
        [],  # of what is not registered no tenant may be counted
    )
