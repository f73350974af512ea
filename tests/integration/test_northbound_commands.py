"""Commands and responses between python-qpid-proton applications and the gateway, and who may do what."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from proton import Message
from proton.utils import BlockingConnection

from gateway.errors import (
    ConsumerTimeout,
    DeviceNotFound,
    GatewayError,
    NoConsumer,
    NotProcessed,
    QuotaExceeded,
    TenantNotFound,
    Unencodable,
)
from gateway.model.message import Command, CommandResponse
from gateway.model.trace import TraceContext
from tests.integration.northbound_rig import AT, TRACE, Rig, a_northbound
from tests.integration.proton_peer import Peer, until

REPLY = "command_response/acme/r-1"


def a_command(to: str | None = "command/acme/4711", **more: Any) -> Message:
    given: dict[str, Any] = {"subject": "setBrightness", "body": b"{}", "inferred": True, **more}
    return Message(address=to, **given)


async def outcome(peer: Peer, link: str | None, message: Message) -> tuple[Any, ...]:
    peer.send(link, message, "t")
    return (await peer.expect("outcome"))[2:]


async def test_a_one_way_command_reaches_the_router() -> None:
    async with a_northbound() as rig, rig.peer() as peer:
        message = a_command(
            content_type="application/json",
            body=b'{"on": true}',
            annotations={"x-opt-trace-context": {"traceparent": TRACE.traceparent}},
        )
        assert await outcome(peer, "command/acme", message) == ("accepted", None, None)
        assert rig.routing.commands == [
            Command(
                tenant="acme",
                device="4711",
                name="setBrightness",
                payload=b'{"on": true}',
                content_type="application/json",
                trace=TraceContext.parse(TRACE.traceparent),
                properties={},
            )
        ]


@pytest.mark.parametrize(
    ("ids", "correlation"),
    [({"id": "m"}, "m"), ({"id": "m", "correlation_id": "c"}, "c"), ({"correlation_id": "c"}, "c")],
)
async def test_the_correlation_id_wins_over_the_message_id(ids: Any, correlation: str) -> None:
    async with a_northbound() as rig, rig.peer() as peer:
        message = a_command(reply_to=REPLY, **ids)
        assert (await outcome(peer, "command/acme", message))[0] == "accepted"
        command = rig.routing.commands[0]
        assert (command.correlation_id, command.reply_to) == (correlation, REPLY)


@pytest.mark.parametrize(("body", "payload"), [("text", b"text"), (b"raw", b"raw"), (None, b"")])
async def test_a_body_may_be_a_value_or_missing(body: Any, payload: bytes) -> None:
    async with a_northbound() as rig, rig.peer() as peer:
        message = a_command(body=body, inferred=False)
        assert (await outcome(peer, "command/acme", message))[0] == "accepted"
        assert rig.routing.commands[0].payload == payload


BAD = "hono:bad-request"
MALFORMED = "malformed command message"


@pytest.mark.parametrize(
    ("message", "condition", "text"),
    [
        (a_command(None), BAD, "missing or invalid command target address"),
        (a_command("telemetry/acme/4711"), BAD, "missing or invalid command target address"),
        (a_command("command"), BAD, "missing or invalid command target address"),
        (a_command("command/acme"), BAD, "invalid command target address"),
        (a_command("command/acme/"), BAD, "invalid command target address"),
        (a_command("command/other/4711"), "amqp:unauthorized-access", None),
        (a_command(subject=None), BAD, MALFORMED),
        (a_command(id=7), BAD, MALFORMED),
        (a_command(reply_to=REPLY), BAD, MALFORMED),
        (a_command(reply_to="command_response/other/r", id="1"), BAD, MALFORMED),
        (a_command(reply_to="command_response/acme/", id="1"), BAD, MALFORMED),
        (a_command(reply_to="elsewhere/acme/r", id="1"), BAD, MALFORMED),
        (a_command(body=[1, 2], inferred=True), BAD, MALFORMED),
    ],
)
async def test_a_bad_command_is_rejected_with_honos_text(
    message: Message, condition: str, text: str | None
) -> None:
    async with a_northbound() as rig, rig.peer() as peer:
        state, got, description = await outcome(peer, "command/acme", message)
        assert (state, got) == ("rejected", condition)
        assert text is None or description == text
        assert rig.routing.commands == []


@pytest.mark.parametrize(
    ("verdict", "expected"),
    [
        (NoConsumer(), ("released", None, None)),
        (GatewayError("bug"), ("released", None, None)),
        (NotProcessed(), ("released", None, None)),
        (NotProcessed(details={"delivery_failed": True}), ("modified", None, None)),
        (DeviceNotFound(), ("rejected", BAD, "device is disabled or not registered")),
        (TenantNotFound(), ("rejected", BAD, "tenant is disabled or not registered")),
        (QuotaExceeded("over"), ("rejected", BAD, "over")),
    ],
)
async def test_the_routers_verdict_is_the_applications_outcome(
    verdict: GatewayError, expected: tuple[Any, ...]
) -> None:
    async with a_northbound() as rig, rig.peer() as peer:
        rig.routing.verdict = verdict
        assert await outcome(peer, "command/acme", a_command()) == expected


async def test_the_anonymous_relay_routes_by_the_to_property() -> None:
    async with a_northbound() as rig, rig.peer() as peer:
        assert (await outcome(peer, None, a_command()))[0] == "accepted"
        assert rig.routing.commands[0].device == "4711"
        assert (await outcome(peer, None, a_command("nowhere/x")))[:2] == (
            "rejected",
            "amqp:not-found",
        )


async def test_command_senders_have_credit_at_once() -> None:
    def work(url: str) -> int:
        connection = BlockingConnection(url, timeout=5, allowed_mechs="PLAIN")
        sender = connection.create_sender("command/acme")
        connection.wait(lambda: sender.link.credit > 0, timeout=1)
        credit: int = sender.link.credit
        connection.close()
        return credit

    async with a_northbound() as rig:
        assert await asyncio.to_thread(work, rig.url()) > 0


def a_response(**more: Any) -> CommandResponse:
    given: dict[str, Any] = {
        "tenant": "acme",
        "device": "4711",
        "reply_id": "r-1",
        "correlation_id": "c-1",
        "status": 200,
        "payload": b"ok",
        "at": AT,
        "ttl": 5.0,
        "trace": TRACE,
        **more,
    }
    return CommandResponse(**given)


async def respond(rig: Rig, response: CommandResponse) -> GatewayError | None:
    answer: asyncio.Future[GatewayError | None] = asyncio.get_running_loop().create_future()
    rig.northbound.take(response, answer.set_result)
    async with asyncio.timeout(5):
        return await answer


async def test_a_response_reaches_the_receiver_at_its_reply_address() -> None:
    async with a_northbound() as rig, rig.peer() as peer:
        peer.receive_from(REPLY)
        await until(lambda: rig.northbound.owns("acme", "r-1"))
        assert not rig.northbound.owns("acme", "r-2")
        assert await respond(rig, a_response()) is None
        received = (await peer.expect("message"))[2]
        assert (received.address, received.correlation_id) == (REPLY, "c-1")
        assert received.properties == {"status": 200, "tenant_id": "acme", "device_id": "4711"}
        assert (received.content_type, received.body) == ("application/octet-stream", b"ok")
        assert received.ttl == 5.0
        assert received.creation_time == pytest.approx(AT, abs=0.001)


async def test_a_default_content_encoding_is_a_standard_property_of_the_response() -> None:
    async with a_northbound() as rig, rig.peer() as peer:
        peer.receive_from(REPLY)
        await until(lambda: rig.northbound.owns("acme", "r-1"))
        properties = {"content-encoding": "gzip", "region": "eu"}
        assert await respond(rig, a_response(properties=properties)) is None
        received = (await peer.expect("message"))[2]
        assert received.content_encoding == "gzip"
        assert received.properties.keys() == {"region", "status", "tenant_id", "device_id"}


async def test_a_response_without_receiver_or_credit_is_refused() -> None:
    async with a_northbound(patience=0.1) as rig, rig.peer(accept=False, prefetch=1) as peer:
        assert isinstance(await respond(rig, a_response()), NoConsumer)
        peer.receive_from(REPLY)
        await until(lambda: rig.northbound.owns("acme", "r-1"))
        assert isinstance(await respond(rig, a_response()), ConsumerTimeout)
        assert isinstance(await respond(rig, a_response()), NoConsumer)


async def test_a_reply_address_is_gone_with_its_receiver() -> None:
    async with a_northbound() as rig:
        async with rig.peer() as peer:
            peer.receive_from("command_response/acme/4711/x/y")
            await until(lambda: rig.northbound.owns("acme", "4711/x/y"))
        await until(lambda: not rig.northbound.owns("acme", "4711/x/y"))


@pytest.mark.parametrize(
    ("user", "password"), [("consumer%40HONO", "wrong"), ("nobody", "x"), ("nobody", "verysecret")]
)
async def test_a_wrong_user_or_password_is_refused(user: str, password: str) -> None:
    async with a_northbound() as rig, rig.peer(url=rig.url(user, password)) as peer:
        assert (await peer.expect("failed"))[1] == "amqp:unauthorized-access"


async def test_anonymous_is_not_offered() -> None:
    async with (
        a_northbound() as rig,
        rig.peer(url=f"amqp://{rig.address}", mechs="ANONYMOUS") as peer,
    ):
        assert (await peer.expect("failed"))[1] == "amqp:unauthorized-access"


@pytest.mark.parametrize(
    "address",
    ["", "telemetry", "telemetry/", "telemetry/acme/4711", "event", "command_response/acme",
     "notification/registry-tenant", "queue"],
)  # fmt: skip
async def test_unknown_receiver_addresses_are_not_found(address: str) -> None:
    async with a_northbound() as rig, rig.peer() as peer:
        peer.receive_from(address)
        assert (await peer.expect("link-error"))[2] == "amqp:not-found"


@pytest.mark.parametrize("address", ["telemetry/acme", "command", "command/acme/4711", "x"])
async def test_unknown_sender_addresses_are_not_found(address: str) -> None:
    async with a_northbound() as rig, rig.peer() as peer:
        peer.send(address, a_command(), "1")
        assert (await peer.expect("link-error"))[2] == "amqp:not-found"


async def test_a_user_stays_within_its_tenants() -> None:
    async with a_northbound() as rig, rig.peer(url=rig.url("ann", "secret")) as peer:
        for address in ("telemetry/acme", "event/acme", REPLY):
            peer.receive_from(address)
            assert (await peer.expect("attached"))[1] == address
        for address in ("telemetry/other", "event/other", "command_response/other/r"):
            peer.receive_from(address)
            assert (await peer.expect("link-error"))[1:3] == (address, "amqp:unauthorized-access")
        peer.send("command/other", a_command(), "1")
        assert (await peer.expect("link-error"))[2] == "amqp:unauthorized-access"
        message = a_command("command/other/4711")
        assert (await outcome(peer, None, message))[:2] == ("rejected", "amqp:unauthorized-access")


async def test_connections_over_the_limit_are_told_so() -> None:
    async with a_northbound(max_connections=1) as rig, rig.peer() as one:
        await one.expect("opened")
        async with rig.peer() as two:
            assert (await two.expect("closed"))[1] == "amqp:resource-limit-exceeded"


async def test_garbage_gets_the_header_we_speak_and_others_go_on() -> None:
    async with a_northbound() as rig, rig.peer() as peer:
        await peer.expect("opened")
        host, port = rig.address.split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        assert await reader.read(100) == b"AMQP\x03\x01\x00\x00"
        assert await reader.read(100) == b""
        writer.close()
        assert (await outcome(peer, "command/acme", a_command()))[0] == "accepted"


async def test_a_response_that_cannot_be_written_is_refused_and_the_next_goes_on() -> None:
    async with a_northbound() as rig, rig.peer() as peer:
        peer.receive_from(REPLY)
        await until(lambda: rig.northbound.owns("acme", "r-1"))
        assert isinstance(await respond(rig, a_response(correlation_id="\ud800")), Unencodable)
        assert await respond(rig, a_response()) is None
        text = rig.metrics.text().decode()
        assert 'twinspan_northbound_unencodable_total{type="command_response"} 1.0' in text
