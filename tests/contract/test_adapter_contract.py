"""One contract for all adapters: each row of the table, in each protocol that has a way to say it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from queue import Empty
from typing import Any

import pytest
import pytest_asyncio
from proton import Condition, Delivery

from gateway.model.message import EMPTY_NOTIFICATION
from tests.contract.adapter_faces import FACES, Face, Told
from tests.contract.adapter_refusals import REFUSALS
from tests.contract.adapter_service import Service, a_service
from tests.contract.adapter_table import ANY, Consumer, Row, Who
from tests.contract.adapter_uploads import UPLOADS
from tests.integration.proton_peer import Peer, Received, until

SERVICES: dict[str, dict[str, Any]] = {
    "usual": {},
    "open": {"authentication_required": False},
    "impatient": {"patience": 0.05},
    "full": {"max_connections": 0},
}
ROWS = (*UPLOADS, *REFUSALS)
TRACEPARENT = re.compile("00-[0-9a-f]{32}-[0-9a-f]{16}-0[01]")
LONG = {"t": "telemetry", "e": "event"}
Services = Callable[[str], Any]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def services() -> AsyncIterator[Services]:
    """Services by name, each started when it is first asked for."""
    started: dict[str, Service] = {}
    async with AsyncExitStack() as stack:

        async def find(name: str) -> Service:
            if name not in started:
                started[name] = await stack.enter_async_context(a_service(**SERVICES[name]))
            return started[name]

        yield find


# --- the application ---------------------------------------------------------------------------------


def rejected(name: str | None) -> Callable[[Delivery], None]:
    def answer(delivery: Delivery) -> None:
        if name is not None:
            delivery.local.condition = Condition(name, "said the consumer")
        delivery.update(Delivery.REJECTED)

    return answer


def modified(**flags: bool) -> Callable[[Delivery], None]:
    def answer(delivery: Delivery) -> None:
        delivery.local.failed = flags.get("failed", False)
        delivery.local.undeliverable = flags.get("undeliverable", False)
        delivery.update(Delivery.MODIFIED)

    return answer


ANSWERS: dict[Consumer, Callable[[Delivery], None]] = {
    Consumer.ACCEPTS: lambda delivery: delivery.update(Delivery.ACCEPTED),
    Consumer.RELEASES: lambda delivery: delivery.update(Delivery.RELEASED),
    Consumer.REJECTS: rejected(None),
    Consumer.HAS_NO_ROOM: rejected("amqp:resource-limit-exceeded"),
    Consumer.FORBIDS: rejected("amqp:unauthorized-access"),
    Consumer.BREAKS: rejected("amqp:internal-error"),
    Consumer.FAILS: modified(failed=True),
    Consumer.REFUSES_HERE: modified(undeliverable=True),
}


@asynccontextmanager
async def an_application(service: Service, row: Row, tenant: str) -> AsyncIterator[Peer | None]:
    """The consumer of a row, attached and with credit as it should be."""
    if row.consumer is Consumer.NONE:
        yield None
        return
    credit = 0 if row.consumer is Consumer.HAS_NO_CREDIT else 10
    async with service.application(prefetch=credit, accept=False) as peer:

        def answer(_: Received, delivery: Delivery) -> None:
            how = ANSWERS.get(row.consumer)
            if how is not None:
                how(delivery)
                delivery.settle()
            elif row.consumer is Consumer.DIES:
                peer.kill()

        peer.answer = answer
        peer.receive_from(f"{kind_of(row)}/{tenant}")
        await peer.expect("attached")
        if credit:
            await until(
                lambda: row.endpoint not in ("telemetry", "t") or has_credit(service, tenant)
            )
        yield peer


def has_credit(service: Service, tenant: str) -> bool:
    return service.messaging.has_consumer(tenant)


def kind_of(row: Row) -> str:
    name = LONG.get(row.endpoint, row.endpoint)
    return name if name in LONG.values() else "telemetry"


async def what_came(service: Service, row: Row, tenant: str, peer: Peer | None) -> Received:
    """The message that applications get; a kept event is fetched by one that comes later."""
    if peer is not None and row.consumer is not Consumer.HAS_NO_CREDIT:
        return (await peer.expect("message"))[2]  # type: ignore[no-any-return]
    async with service.application() as late:
        late.receive_from(f"{kind_of(row)}/{tenant}")
        return (await late.expect("message"))[2]  # type: ignore[no-any-return]


def check_message(row: Row, face: Face, tenant: str, told: Told, message: Received) -> None:
    """The message is exactly what Hono's applications expect."""
    seen = dict(row.seen or {})
    device, kind = seen.pop("device", "4711"), kind_of(row)
    expected = {
        "device_id": device,
        "qos": row.qos,
        "orig_adapter": face.adapter,
        "orig_address": told.address,
        **seen.pop("more", {}),
    }
    assert message.properties == expected
    assert message.address == f"{kind}/{tenant}"
    assert message.content_type == seen.pop("content_type", row.content_type)
    assert message.body == seen.pop("body", row.payload)
    assert message.ttl == pytest.approx(seen.pop("ttl", 0.0), abs=5)
    assert bool(message.ttl) == bool((row.seen or {}).get("ttl"))
    assert message.durable == (kind == "event")
    assert not seen
    assert message.id
    assert message.creation_time > 1_700_000_000
    annotations = dict(message.annotations)
    assert TRACEPARENT.fullmatch(annotations.pop("x-opt-trace-context")["traceparent"])
    assert annotations == {
        "tenant_id": tenant,
        "device_id": device,
        "resource": f"{kind}/{tenant}/{device}",
    }


def came(peer: Peer) -> list[Any]:
    """Messages that an application has got."""
    found: list[Any] = []
    while True:
        try:
            entry = peer.log.get_nowait()
        except Empty:
            return found
        if entry[0] == "message":
            found.append(entry[2])


# --- what is counted ---------------------------------------------------------------------------------

TIMES = "hono_telemetry_processing_duration_seconds"
SIZES = "hono_telemetry_payload_bytes"
ATTEMPTS = "hono_connections_attempts"


def counted(service: Service, tenant: str, family: str = TIMES) -> list[tuple[Any, float]]:
    return service.samples(family, tenant).get(f"{family}_count", [])


def check_counts(service: Service, row: Row, face: Face, tenant: str) -> None:
    """One message is counted with these labels, or none."""
    uploads, sizes = counted(service, tenant), service.samples(SIZES, tenant)
    if row.status is None or refuses(row, face):
        assert uploads == []
        return
    labels = {
        "tenant": tenant,
        "type": kind_of(row),
        "status": row.status,
        "qos": str(row.qos),
        "ttd": row.ttd_label,
        "component_name": face.adapter,
    }
    assert uploads == [(labels, 1)]
    size = len(row.payload) if row.size is None else row.size
    if size:
        assert sizes[f"{SIZES}_sum"] == [(labels, size)]


def refuses(row: Row, face: Face) -> bool:
    return row.tells.of(face.name).startswith(("connack", "closed amqp", "sasl", "no handshake"))


def check_attempts(
    service: Service, row: Row, face: Face, tenant: str, unknown: dict[str, float]
) -> None:
    """Connections that are made or refused are counted by outcome, of unknown tenants as UNKNOWN."""
    if face.adapter in ("hono-http", "hono-coap"):
        return
    outcome = row.attempts if refuses(row, face) else "succeeded"
    if row.who is Who.STRANGER and (outcome == "succeeded" or face.adapter == "hono-amqp"):
        return  # SASL without a mechanism that is offered is no attempt of anybody
    outcome = outcome or "unauthorized"
    by_tenant = service.samples(ATTEMPTS, tenant).get(f"{ATTEMPTS}_total", [])
    if not by_tenant:
        new = {
            name: count - unknown.get(name, 0) for name, count in strangers(service, face).items()
        }
        assert {name: count for name, count in new.items() if count} == {outcome: 1}
        return
    assert [(labels["outcome"], value) for labels, value in by_tenant] == [(outcome, 1)]
    assert strangers(service, face) == unknown


def strangers(service: Service, face: Face) -> dict[str, float]:
    """Attempts of no known tenant, by outcome."""
    found = service.samples(ATTEMPTS, "UNKNOWN").get(f"{ATTEMPTS}_total", [])
    return {
        labels["outcome"]: count
        for labels, count in found
        if labels["component_name"] == face.adapter
    }


# --- the contract ------------------------------------------------------------------------------------


def takes_part(row: Row, face: Face) -> bool:
    """True where a face has a way to say a row, and more to hear than its like that does not watch."""
    if (row.only and face.name not in row.only) or not face.can(row.attempt("t")):
        return False
    plain = face.name.removesuffix("-watching")
    return plain == face.name or row.tells.of(face.name) != row.tells.of(plain)


CASES = [
    pytest.param(row, face, id=f"{row.says}-{face.name}")
    for row in ROWS
    for face in FACES
    if takes_part(row, face)
]


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(("row", "face"), CASES)
async def test_a_device_an_application_and_the_meters_agree(
    services: Services, row: Row, face: Face
) -> None:
    service: Service = await services(row.service)
    tenant = await service.fleet(dict(row.tenant), row.devices, used_bytes=row.used_bytes)  # type: ignore[arg-type]
    if row.used_seconds:
        service.usage.add_seconds(await service.read_tenant(tenant), row.used_seconds)
    if row.no_credentials:
        await service.disable_credentials(tenant, "4711")
    unknown = strangers(service, face)

    async with an_application(service, row, tenant) as peer:
        told = await face.upload(
            service, row.attempt(tenant), lambda: bool(counted(service, tenant))
        )
        expected = row.tells.of(face.name)
        assert re.fullmatch(re.escape(expected).replace(re.escape(ANY), ".*"), told.text), told.text
        if row.seen is not None:
            message = await what_came(service, row, tenant, peer)
            check_message(row, face, tenant, told, message)
        elif peer is not None:
            assert came(peer) == []
    if row.status is not None and not refuses(row, face):
        await until(lambda: bool(counted(service, tenant)))
    check_counts(service, row, face, tenant)
    await asyncio.sleep(0)
    check_attempts(service, row, face, tenant, unknown)


def test_the_table_has_a_row_for_every_consumer() -> None:
    assert {row.consumer for row in ROWS} == set(Consumer)
    assert {row.who for row in ROWS} == set(Who)
    assert any(row.content_type == EMPTY_NOTIFICATION for row in ROWS)


def test_every_face_takes_part() -> None:
    assert {case.values[1] for case in CASES} == set(FACES)
