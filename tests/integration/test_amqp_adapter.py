"""The AMQP adapter with python-qpid-proton as device, and rooms that the test plays."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from proton import Condition, Delivery, Message

from gateway.config.hono import AmqpAdapter as Settings
from gateway.errors import (
    AdapterDisabled,
    AuthenticatedDeviceNotFound,
    BadRequest,
    ConnectionLimitExceeded,
    DeviceNotFound,
    Forbidden,
    GatewayError,
    NoConsumer,
    NotProcessed,
    QuotaExceeded,
    Rejected,
    StoreUnavailable,
    TenantNotFound,
    TooLarge,
    Unauthenticated,
    Undeliverable,
)
from gateway.hono.adapters.amqp import AmqpAdapter
from gateway.hono.adapters.amqp_device import Rooms
from gateway.model.login import Login
from gateway.model.message import (
    Adapter,
    Command,
    CommandResponse,
    DeviceCommand,
    Kind,
    Principal,
    Upload,
)
from gateway.model.ports import DeviceLink, Done
from gateway.model.trace import TraceContext
from gateway.observe.metrics import Metrics
from gateway.runtime.listener import Endpoints
from gateway.runtime.module import running
from tests.integration.proton_peer import Peer, Received, until

TRACE = TraceContext("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331")
DEVICE = Principal("acme", "4711", "sensor1")


@dataclass
class Subscribed:
    tenant: str
    device: str
    link: DeviceLink
    gateway: str | None
    for_its_devices: bool
    ended: bool = False


@dataclass
class Fakes:
    """All rooms behind the adapter at once."""

    uploads: list[Upload] = field(default_factory=list)
    responses: list[CommandResponse] = field(default_factory=list)
    subscribed: list[Subscribed] = field(default_factory=list)
    asserted: list[tuple[str, str, str | None]] = field(default_factory=list)
    expel: list[Callable[[GatewayError], None]] = field(default_factory=list)
    released: int = 0
    verdict: GatewayError | None = None
    admission: GatewayError | None = None
    assertion: GatewayError | None = None
    busy: bool = False

    def submit(self, upload: Upload, done: Done) -> None:
        self.uploads.append(upload)
        done(self.verdict)

    def check_password(
        self,
        username: str,
        password: bytes,
        adapter: Adapter,
        done: Callable[[Principal | GatewayError], None],
    ) -> None:
        good = (username, password) == ("sensor1@acme", b"hono-secret")
        answer: Principal | GatewayError = DEVICE if good else Unauthenticated()
        if self.busy:
            answer = StoreUnavailable()
        asyncio.get_running_loop().call_later(0.01, done, answer)

    def check_login(
        self, login: Login, adapter: Adapter, done: Callable[[Principal | GatewayError], None]
    ) -> None:
        self.check_password(login.username or "", login.password or b"", adapter, done)

    def admit(
        self,
        principal: Principal,
        adapter: Adapter,
        close: Callable[[GatewayError], None],
        done: Callable[[Any], None],
        *,
        cipher_suite: str = "UNKNOWN",
        remote_id: str = "",
    ) -> None:
        self.expel.append(close)
        answer = self if self.admission is None else self.admission
        asyncio.get_running_loop().call_later(0.01, done, answer)

    def release(self) -> None:
        self.released += 1

    def assert_device(
        self, tenant: str, device: str, gateway: str | None, done: Callable[[Any], None]
    ) -> None:
        self.asserted.append((tenant, device, gateway))
        asyncio.get_running_loop().call_later(0.01, done, self.assertion)

    def subscribe(
        self,
        tenant: str,
        device: str,
        link: DeviceLink,
        *,
        adapter: Adapter,
        gateway: str | None = None,
        announce: bool = True,
        for_its_devices: bool = True,
    ) -> Callable[[], None]:
        entry = Subscribed(tenant, device, link, gateway, for_its_devices)
        self.subscribed.append(entry)

        def end() -> None:
            entry.ended = True

        return end

    def route(self, command: Command, done: Done) -> None:
        raise AssertionError("the adapter routes no command")

    def respond(self, response: CommandResponse, done: Done) -> None:
        self.responses.append(response)
        done(self.verdict)


@dataclass
class Rig:
    fakes: Fakes
    address: str
    metrics: Metrics

    def url(self, user: str = "sensor1%40acme", password: str = "hono-secret") -> str:
        return f"amqp://{user}:{password}@{self.address}"

    def device(self, **options: Any) -> Peer:
        return Peer(options.pop("url", self.url()), **options)


@asynccontextmanager
async def an_adapter(**settings: Any) -> AsyncIterator[Rig]:
    fakes, endpoints, metrics = Fakes(), Endpoints(), Metrics()
    rooms = Rooms(
        ingress=fakes, commands=fakes, authenticator=fakes, admission=fakes, assertions=fakes
    )
    adapter = AmqpAdapter(Settings(bind="127.0.0.1:0", **settings), endpoints, metrics, rooms)
    async with running(adapter):
        yield Rig(fakes, endpoints.get("hono.amqp"), metrics)


async def outcome(peer: Peer, message: Message) -> tuple[Any, ...]:
    peer.send(None, message, "t")
    return (await peer.expect("outcome"))[2:]


def a_message(to: str | None, body: Any = b"{}", **more: Any) -> Message:
    return Message(address=to, body=body, inferred=True, **more)


async def test_an_unsettled_message_is_an_upload_with_qos_1() -> None:
    async with an_adapter() as rig, rig.device() as peer:
        message = a_message(
            "telemetry",
            content_type="application/json",
            properties={"ignored": True},
            annotations={"x-opt-trace-context": {"traceparent": TRACE.traceparent}},
        )
        assert await outcome(peer, message) == ("accepted", None, None)
        assert rig.fakes.uploads == [
            Upload(
                adapter=Adapter.AMQP,
                principal=DEVICE,
                kind=Kind.TELEMETRY,
                qos=1,
                payload=b"{}",
                address="telemetry",
                content_type="application/json",
                trace=TRACE,
            )
        ]


@pytest.mark.parametrize(
    ("to", "kind", "tenant", "device"),
    [
        ("t", Kind.TELEMETRY, None, None),
        ("e", Kind.EVENT, None, None),
        ("event/acme/d", Kind.EVENT, "acme", "d"),
        ("telemetry//d", Kind.TELEMETRY, None, "d"),
    ],
)
async def test_the_to_property_names_endpoint_tenant_and_device(
    to: str, kind: Kind, tenant: str | None, device: str | None
) -> None:
    async with an_adapter() as rig, rig.device() as peer:
        await outcome(peer, a_message(to))
        upload = rig.fakes.uploads[0]
        assert (upload.kind, upload.tenant, upload.device) == (kind, tenant, device)
        assert upload.address == to


@pytest.mark.parametrize(("body", "payload"), [("text", b"text"), (b"raw", b"raw")])
async def test_a_value_body_is_a_payload(body: Any, payload: bytes) -> None:
    async with an_adapter() as rig, rig.device() as peer:
        message = Message(address="t", body=body, inferred=False)
        await outcome(peer, message)
        assert rig.fakes.uploads[0].payload == payload


async def test_an_events_ttl_is_at_least_a_second() -> None:
    async with an_adapter() as rig, rig.device() as peer:
        await outcome(peer, a_message("event", ttl=0.2))
        await outcome(peer, a_message("event", ttl=30.0))
        assert [upload.ttl for upload in rig.fakes.uploads] == [1.0, 30.0]


async def test_a_settled_message_is_an_upload_with_qos_0_and_a_settled_event_is_none() -> None:
    from proton.reactor import AtMostOnce

    async with an_adapter() as rig, rig.device() as peer:
        await peer.expect("opened")

        def work() -> None:
            sender = peer._container.create_sender(
                peer._connection, None, name="qos0", options=AtMostOnce()
            )
            peer._senders["qos0"] = sender
            peer._outbox["qos0"] = [(a_message("event"), "1"), (a_message("telemetry"), "2")]

        peer.do(work)
        await until(lambda: rig.fakes.uploads)
        assert [(upload.kind, upload.qos) for upload in rig.fakes.uploads] == [(Kind.TELEMETRY, 0)]


@pytest.mark.parametrize(
    ("message", "condition"),
    [
        (a_message(None), "amqp:not-found"),
        (a_message("unknown"), "amqp:not-found"),
        (a_message("telemetry/a/b/c"), "amqp:not-found"),
        (a_message("telemetry", body=[1, 2]), "hono:bad-request"),
        (a_message("command_response/acme/4711"), "hono:bad-request"),
        (a_message("cr/acme/4711/0r", properties={"status": 200}), "hono:bad-request"),
        (a_message("cr/acme/4711/0r", correlation_id="c"), "hono:bad-request"),
        (a_message("cr/other/4711/0r", correlation_id="c"), "amqp:unauthorized-access"),
    ],
)
async def test_a_bad_message_is_rejected_and_the_connection_stays(
    message: Message, condition: str
) -> None:
    async with an_adapter() as rig, rig.device() as peer:
        assert (await outcome(peer, message))[:2] == ("rejected", condition)
        assert (await outcome(peer, a_message("t")))[0] == "accepted"


@pytest.mark.parametrize(
    ("error", "state", "condition"),
    [
        (BadRequest("no"), "rejected", "hono:bad-request"),
        (Forbidden("no"), "rejected", "amqp:unauthorized-access"),
        (DeviceNotFound("no"), "rejected", "amqp:not-found"),
        (QuotaExceeded("no"), "rejected", "amqp:resource-limit-exceeded"),
        (TooLarge("no"), "rejected", "amqp:precondition-failed"),
        (NoConsumer(), "released", None),
        (NotProcessed(), "released", None),
        (GatewayError(), "released", None),
    ],
)
async def test_the_uploads_outcome_is_the_disposition(
    error: GatewayError, state: str, condition: str | None
) -> None:
    async with an_adapter() as rig, rig.device() as peer:
        rig.fakes.verdict = error
        got = await outcome(peer, a_message("t"))
        assert got == (state, condition, "no" if condition else None)


@pytest.mark.parametrize("error", [AdapterDisabled(), TenantNotFound()])
async def test_a_terminal_error_rejects_and_closes(error: GatewayError) -> None:
    async with an_adapter() as rig, rig.device() as peer:
        rig.fakes.verdict = error
        assert (await outcome(peer, a_message("t")))[0] == "rejected"
        condition = (await peer.expect("closed"))[1]
        assert condition in ("amqp:unauthorized-access", "amqp:not-found")
        await until(lambda: rig.fakes.released)


async def test_a_target_address_is_refused() -> None:
    async with an_adapter() as rig, rig.device() as peer:
        peer.send("telemetry", a_message("telemetry"), "1")
        assert (await peer.expect("link-error"))[2:] == (
            "hono:bad-request",
            "container supports anonymous terminus only",
        )


async def test_a_message_over_the_limit_detaches_the_link_and_the_connection_stays() -> None:
    async with an_adapter() as rig, rig.device() as peer:
        peer.send(None, a_message("t", body=b"x" * 3_000), "1")
        assert (await peer.expect("detached"))[2] == "amqp:link:message-size-exceeded"
        peer.do(lambda: peer._senders.clear())
        assert (await outcome(peer, a_message("t")))[0] == "accepted"


async def test_a_wrong_password_is_a_sasl_failure() -> None:
    async with an_adapter() as rig, rig.device(url=rig.url(password="x")) as peer:
        assert (await peer.expect("failed"))[1] == "amqp:unauthorized-access"
        sample = rig.metrics.registry.get_sample_value(
            "hono_connections_attempts_total",
            {
                "tenant": "UNKNOWN",
                "outcome": "unauthorized",
                "cipher_suite": "UNKNOWN",
                "component_name": "hono-amqp",
            },
        )
        assert sample == 1


async def test_a_busy_registry_is_a_temporary_sasl_failure() -> None:
    async with an_adapter() as rig:
        rig.fakes.busy = True
        async with rig.device() as peer:
            await peer.expect("failed")
            assert rig.fakes.expel == []


@pytest.mark.parametrize(
    ("error", "condition"),
    [
        (AdapterDisabled(), "amqp:unauthorized-access"),
        (ConnectionLimitExceeded(), "amqp:unauthorized-access"),
        (QuotaExceeded(), "amqp:unauthorized-access"),
        (AuthenticatedDeviceNotFound(), "amqp:not-found"),
        (StoreUnavailable(), "amqp:precondition-failed"),
    ],
)
async def test_a_device_that_is_not_admitted_is_opened_and_closed(
    error: GatewayError, condition: str
) -> None:
    async with an_adapter() as rig:
        rig.fakes.admission = error
        async with rig.device() as peer:
            assert (await peer.expect("closed"))[1] == condition
        assert rig.fakes.released == 0


async def test_an_adapter_that_is_full_closes_with_unauthorized() -> None:
    async with an_adapter(max_connections=1) as rig:
        async with rig.device() as one:
            await one.expect("opened")
            async with rig.device() as two:
                assert (await two.expect("closed"))[1] == "amqp:unauthorized-access"
        await until(lambda: rig.fakes.released == 1)
        async with rig.device() as three:
            await three.expect("opened")


async def test_a_device_that_is_deleted_is_expelled() -> None:
    async with an_adapter() as rig, rig.device() as peer:
        await peer.expect("opened")
        rig.fakes.expel[0](AuthenticatedDeviceNotFound())
        assert (await peer.expect("closed"))[1] == "amqp:not-found"
        await until(lambda: rig.fakes.released == 1)


async def test_an_anonymous_device_names_itself() -> None:
    async with (
        an_adapter(authentication_required=False) as rig,
        rig.device(url=f"amqp://{rig.address}", mechs="ANONYMOUS") as peer,
    ):
        assert (await outcome(peer, a_message("telemetry/acme/d")))[0] == "accepted"
        assert rig.fakes.uploads[0].principal is None
        peer.receive_from("command")
        assert (await peer.expect("link-error"))[2] == "hono:bad-request"


# --- commands ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "device", "gateway", "for_all", "asserted"),
    [
        ("command", "4711", None, True, []),
        ("c", "4711", None, True, []),
        ("command/acme/4711", "4711", None, False, []),
        ("command//d", "d", "4711", False, [("acme", "d", "4711")]),
        ("c/acme/d", "d", "4711", False, [("acme", "d", "4711")]),
    ],
)
async def test_a_receiver_subscribes_to_commands(
    source: str, device: str, gateway: str | None, for_all: bool, asserted: list[Any]
) -> None:
    async with an_adapter() as rig, rig.device() as peer:
        peer.receive_from(source)
        await peer.expect("attached")
        entry = await until(lambda: rig.fakes.subscribed and rig.fakes.subscribed[0])
        assert (entry.tenant, entry.device, entry.gateway) == ("acme", device, gateway)
        assert entry.for_its_devices is for_all
        assert rig.fakes.asserted == asserted
        peer.do(lambda: peer._connection.close())
        await until(lambda: entry.ended)


@pytest.mark.parametrize(
    ("source", "condition"),
    [
        ("telemetry", "amqp:not-found"),
        ("command/acme/d/x", "amqp:not-found"),
        ("command/acme", "hono:bad-request"),
        ("command/other/d", "amqp:unauthorized-access"),
    ],
)
async def test_a_receiver_elsewhere_is_refused(source: str, condition: str) -> None:
    async with an_adapter() as rig, rig.device() as peer:
        peer.receive_from(source)
        assert (await peer.expect("link-error"))[2] == condition


async def test_a_gateway_without_right_is_refused() -> None:
    async with an_adapter() as rig, rig.device() as peer:
        rig.fakes.assertion = Forbidden("no")
        peer.receive_from("command//d")
        assert (await peer.expect("link-error"))[2:] == ("amqp:unauthorized-access", "no")


def a_command(**more: Any) -> DeviceCommand:
    given: dict[str, Any] = {
        "tenant": "acme",
        "device": "4711",
        "name": "setOn",
        "payload": b"{}",
        "content_type": "application/json",
        "correlation_id": "c-1",
        "reply_to": "command_response/acme/r-1",
        "trace": TRACE,
        **more,
    }
    command = Command(**given)
    return DeviceCommand(command=command, target=command.device)


async def deliver(link: DeviceLink, command: DeviceCommand) -> GatewayError | None:
    answer: asyncio.Future[GatewayError | None] = asyncio.get_running_loop().create_future()
    link.deliver(command, answer.set_result)
    async with asyncio.timeout(5):
        return await answer


async def listening(rig: Rig, peer: Peer, source: str = "command") -> DeviceLink:
    peer.receive_from(source)
    await peer.expect("attached")
    entry: Subscribed = await until(lambda: rig.fakes.subscribed and rig.fakes.subscribed[0])
    link: Any = entry.link
    await until(lambda: link._link.credit)
    return entry.link


async def test_a_command_reaches_the_device_and_its_answer_comes_back() -> None:
    async with an_adapter() as rig, rig.device() as peer:
        link = await listening(rig, peer)
        assert await deliver(link, a_command()) is None
        received: Received = (await peer.expect("message"))[2]
        assert (received.address, received.subject) == ("command/acme/4711", "setOn")
        assert received.reply_to == "command_response/acme/4711/0r-1"
        assert (received.correlation_id, received.body) == ("c-1", b"{}")
        assert received.properties == {}
        response = a_message(
            received.reply_to,
            body=b"done",
            correlation_id=received.correlation_id,
            properties={"status": 200},
        )
        assert (await outcome(peer, response))[0] == "accepted"
        answer = rig.fakes.responses[0]
        assert (answer.tenant, answer.device, answer.reply_id) == ("acme", "4711", "r-1")
        assert (answer.status, answer.correlation_id, answer.payload) == (200, "c-1", b"done")
        assert (answer.adapter, answer.via) == ("hono-amqp", None)


async def test_a_gateway_is_told_whose_command_it_is() -> None:
    async with an_adapter() as rig, rig.device() as peer:
        link = await listening(rig, peer)
        command = a_command(device="d", reply_to=None)
        await deliver(link, DeviceCommand(command=command.command, target="d", gateway="4711"))
        received: Received = (await peer.expect("message"))[2]
        assert received.properties == {"device_id": "d"}
        assert (received.address, received.reply_to) == ("command/acme/d", None)


def answering(state: Any, **local: Any) -> Callable[[Received, Delivery], None]:
    def answer(_received: Received, delivery: Delivery) -> None:
        for name, value in local.items():
            setattr(delivery.local, name, value)
        delivery.update(state)
        delivery.settle()

    return answer


@pytest.mark.parametrize(
    ("answer", "kind", "text"),
    [
        (answering(Delivery.RELEASED), Undeliverable, None),
        (answering(Delivery.REJECTED, condition=Condition("x", "why")), Rejected, "why"),
        (answering(Delivery.MODIFIED, failed=True), NotProcessed, None),
    ],
)
async def test_the_devices_disposition_is_passed_on(
    answer: Callable[[Received, Delivery], None], kind: type[GatewayError], text: str | None
) -> None:
    async with an_adapter() as rig, rig.device() as peer:
        peer.answer = answer
        error = await deliver(await listening(rig, peer), a_command())
        assert type(error) is kind
        assert text is None or (error is not None and error.message == text)


async def test_a_silent_device_and_one_without_credit_release_the_command() -> None:
    async with (
        an_adapter(send_to_device_timeout=0.1) as rig,
        rig.device(accept=False, prefetch=1) as peer,
    ):
        link = await listening(rig, peer)
        first = await deliver(link, a_command())
        assert isinstance(first, Undeliverable)
        assert not isinstance(first, NotProcessed)
        assert isinstance(await deliver(link, a_command()), NoConsumer)


async def test_a_lost_device_releases_its_commands() -> None:
    async with an_adapter(send_to_device_timeout=0) as rig:
        answers: list[GatewayError | None] = []
        async with rig.device(accept=False) as peer:
            link = await listening(rig, peer)
            link.deliver(a_command(), answers.append)
            await peer.expect("message")
        await until(lambda: answers)
        assert isinstance(answers[0], Undeliverable)
