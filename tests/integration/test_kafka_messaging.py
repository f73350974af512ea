"""Which tenants use Kafka, and how their messages reach it beside the taps."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from gateway.config.hono import Hono
from gateway.errors import (
    BadRequest,
    ConsumerTimeout,
    GatewayError,
    InvalidSetting,
    NoConsumer,
    NotProcessed,
    StoreUnavailable,
    Unencodable,
)
from gateway.hono.downstream import Messaging
from gateway.hono.kafka_library import BrokerUnavailable
from gateway.hono.kafka_messaging import KafkaMessaging, KafkaTenants, messaging_type
from gateway.hono.kafka_records import Record
from gateway.model.message import CommandResponse, Kind, Message, MessagingType
from gateway.model.ports import Done
from gateway.model.trace import TraceContext
from gateway.observe.metrics import Metrics
from gateway.observe.tracing import Tracer
from gateway.store.memory_events import MemoryEvents
from tests.hono_rig import Core, a_core, until

TRACE = TraceContext("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331")
UNSAMPLED = TraceContext("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", 0)
AT = 1_700_000_000.0


class Sender:
    """A broker that the test plays."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.forgotten: list[Record] = []
        self.error: GatewayError | None = None
        self.held: list[Done] | None = None

    def send(self, kind: str, record: Record, done: Done) -> None:
        self.records.append(record)
        if self.held is None:
            done(self.error)
        else:
            self.held.append(done)

    def send_and_forget(self, kind: str, record: Record, done: Done) -> None:
        self.forgotten.append(record)
        done(self.error)


class Tap:
    """A connection that the test plays."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.error: GatewayError | None = None
        self.answers = True

    def is_open(self, message: Message) -> bool:
        return True

    def take(self, message: Message, done: Done) -> None:
        self.messages.append(message)
        if self.answers:
            done(self.error)


class Rig:
    def __init__(self, core: Core) -> None:
        self.core = core
        self.tenants = KafkaTenants(core.registry, MessagingType.KAFKA)
        self.sender, self.tracer = Sender(), Tracer()
        self.metrics = Metrics()
        self.kafka = KafkaMessaging(self.tenants, self.sender, self.tracer, self.metrics)
        self.events = MemoryEvents(clock=lambda: AT)
        self.messaging = Messaging(self.events, self.metrics, timeout=1.0)
        self.messaging.use_broker(self.kafka, 0.05)
        self.answers: list[GatewayError | None] = []

    def send(self, **more: Any) -> list[GatewayError | None]:
        given: dict[str, Any] = {
            "tenant": "acme",
            "device": "d1",
            "kind": Kind.TELEMETRY,
            "qos": 1,
            "payload": b"21",
            "at": AT,
            "trace": TRACE,
            **more,
        }
        self.messaging.send(Message(**given), self.answers.append)
        return self.answers


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    async with a_core() as core:
        await core.tenant("acme")
        rig = Rig(core)
        found: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        rig.tenants.find("acme", found.set_result)
        assert await found
        yield rig


# --- which tenants -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ext", "default", "expected"),
    [
        ({}, MessagingType.KAFKA, True),
        ({}, MessagingType.AMQP, False),
        ({"ext": {"messaging-type": "kafka"}}, MessagingType.AMQP, True),
        ({"ext": {"messaging-type": "amqp"}}, MessagingType.KAFKA, False),
        ({"ext": {"messaging-type": "pubsub"}}, MessagingType.KAFKA, True),
        ({"ext": {"messaging-type": 7}}, MessagingType.AMQP, False),
    ],
)
async def test_a_tenant_says_its_messaging_or_gets_the_default(
    ext: Any, default: MessagingType, expected: bool
) -> None:
    async with a_core() as core:
        await core.tenant("t", ext)
        tenants = KafkaTenants(core.registry, default)
        assert tenants.carries("t") is None
        found: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        tenants.find("t", found.set_result)
        assert await found is expected
        assert tenants.carries("t") is expected


async def test_a_change_of_the_tenant_counts_for_its_next_message(rig: Rig) -> None:
    assert rig.tenants.carries("acme") is True
    body: Any = {"ext": {"messaging-type": "amqp"}}
    await rig.core.registry.update_tenant("acme", body, None)
    rig.send()
    await until(lambda: bool(rig.answers))
    assert isinstance(rig.answers[0], NoConsumer)
    assert rig.tenants.carries("acme") is False


async def test_messages_that_come_while_the_tenant_is_looked_up_keep_their_order(rig: Rig) -> None:
    await rig.core.registry.update_tenant("acme", {"enabled": True}, None)
    assert rig.tenants.carries("acme") is None
    for number in range(5):
        rig.send(payload=b"%d" % number)
    assert rig.sender.records == []
    await until(lambda: len(rig.answers) == 5)
    assert [record.value for record in rig.sender.records] == [b"0", b"1", b"2", b"3", b"4"]


async def test_of_a_tenant_that_is_gone_the_default_decides(rig: Rig) -> None:
    rig.send(tenant="gone", kind=Kind.EVENT)
    await until(lambda: bool(rig.answers))
    assert rig.sender.records[0].topic == "hono.event.gone"


def test_a_messaging_type_that_is_none_is_a_bad_setting() -> None:
    assert messaging_type(Hono()) is MessagingType.KAFKA
    assert messaging_type(Hono(messaging_type="amqp")) is MessagingType.AMQP
    with pytest.raises(InvalidSetting, match=r"^hono\.messaging_type: "):
        messaging_type(Hono(messaging_type="pubsub"))


# --- outcomes ----------------------------------------------------------------------------------------


async def test_qos_1_waits_for_the_broker_and_needs_no_consumer(rig: Rig) -> None:
    rig.sender.held = []
    assert rig.send() == []
    rig.sender.held[0](None)
    assert rig.answers == [None]


async def test_qos_0_waits_for_nobody(rig: Rig) -> None:
    assert rig.send(qos=0) == [None]
    assert (len(rig.sender.forgotten), rig.sender.records) == (1, [])


@pytest.mark.parametrize("kind", list(Kind))
async def test_the_broker_s_refusal_is_the_device_s(rig: Rig, kind: Kind) -> None:
    rig.sender.error = BrokerUnavailable()
    assert rig.send(kind=kind) == [rig.sender.error]


async def test_an_event_without_taps_is_the_broker_s_alone(rig: Rig) -> None:
    assert rig.send(kind=Kind.EVENT) == [None]
    assert rig.sender.records[0].topic == "hono.event.acme"
    assert rig.events.size == 0


async def test_telemetry_reaches_the_broker_and_every_tap_and_waits_for_both(rig: Rig) -> None:
    tap = Tap()
    rig.messaging.add_tap(tap)
    rig.sender.held = []
    assert rig.send() == []
    assert len(tap.messages) == 1
    rig.sender.held[0](None)
    assert rig.answers == [None]


@pytest.mark.parametrize(
    ("broker", "tap", "expected"),
    [
        (BrokerUnavailable(), None, BrokerUnavailable),
        (BrokerUnavailable(), BadRequest(), BrokerUnavailable),
        (None, BadRequest(), type(None)),
        (None, GatewayError(), NotProcessed),
        (None, StoreUnavailable(), StoreUnavailable),
    ],
)
async def test_the_outcomes_of_broker_and_tap_are_merged(
    rig: Rig, broker: Any, tap: Any, expected: type[object]
) -> None:
    listener = Tap()
    listener.error = tap
    rig.messaging.add_tap(listener)
    rig.sender.error = broker
    [answer] = rig.send()
    assert isinstance(answer, expected)


async def test_a_tap_that_says_nothing_is_given_up(rig: Rig) -> None:
    tap = Tap()
    tap.answers = False
    rig.messaging.add_tap(tap)
    assert rig.send() == []
    await until(lambda: bool(rig.answers))
    assert isinstance(rig.answers[0], ConsumerTimeout)


async def test_qos_0_with_a_tap_is_done_at_once(rig: Rig) -> None:
    tap = Tap()
    tap.answers = False
    rig.messaging.add_tap(tap)
    assert rig.send(qos=0) == [None]
    assert (len(tap.messages), len(rig.sender.forgotten)) == (1, 1)


async def test_a_named_tap_gets_events_once_the_broker_has_them(rig: Rig) -> None:
    tap = Tap()
    rig.messaging.add_tap(tap, name="c1", tenants=["acme"])
    rig.sender.held = []
    assert rig.send(kind=Kind.EVENT) == []
    assert tap.messages == []
    rig.sender.held[0](None)
    assert rig.answers == [None]
    assert [message.payload for message in tap.messages] == [b"21"]
    assert rig.events.size == 0


async def test_an_event_that_the_broker_refused_does_not_reach_taps(rig: Rig) -> None:
    tap = Tap()
    rig.messaging.add_tap(tap, name="c1", tenants=["acme"])
    rig.sender.error = BrokerUnavailable()
    assert rig.send(kind=Kind.EVENT) == [rig.sender.error]
    assert tap.messages == []


# --- traces and responses ------------------------------------------------------------------------------


async def test_a_sampled_message_has_a_span_that_ends_with_the_outcome(rig: Rig) -> None:
    rig.sender.error = BrokerUnavailable()
    rig.send(kind=Kind.EVENT)
    [span] = rig.tracer.recent(TRACE.trace_id)
    assert (span.name, span.kind, span.parent_id) == ("forward Event", "producer", TRACE.span_id)
    assert span.attributes["message_bus.destination"] == "hono.event.acme"
    assert span.error is not None
    given = dict(rig.sender.records[0].headers)["traceparent"]
    assert given == span.context.traceparent.encode()


async def test_an_unsampled_message_carries_its_own_context(rig: Rig) -> None:
    rig.send(trace=UNSAMPLED)
    given = dict(rig.sender.records[0].headers)["traceparent"]
    assert given == UNSAMPLED.traceparent.encode()
    assert rig.tracer.recent() == []


async def test_responses_to_commands_of_kafka_go_to_kafka(rig: Rig) -> None:
    response = CommandResponse(
        tenant="acme", device="d1", reply_id="", correlation_id="c", status=200, trace=TRACE
    )
    assert rig.kafka.owns("acme", "")
    assert not rig.kafka.owns("acme", "reply-1")
    rig.kafka.take(response, rig.answers.append)
    assert rig.answers == [None]
    assert rig.sender.records[0].topic == "hono.command_response.acme"
    [span] = rig.tracer.recent()
    assert span.name == "forward Command response"


@pytest.mark.parametrize("kind", list(Kind))
async def test_what_cannot_be_written_as_a_record_is_refused_and_the_next_goes_on(
    rig: Rig, kind: Kind
) -> None:
    first, second = rig.send(kind=kind, properties={"a": "\ud800"}), rig.send(kind=kind)
    assert first is second
    assert [type(answer) for answer in second] == [Unencodable, type(None)]
    text = rig.metrics.text().decode()
    assert f'twinspan_northbound_unencodable_total{{type="{kind.value}"}} 1.0' in text


async def test_a_response_that_cannot_be_written_as_a_record_is_refused(rig: Rig) -> None:
    response = CommandResponse(
        tenant="acme", device="d1", reply_id="", correlation_id="\ud800", status=200, trace=TRACE
    )
    rig.kafka.take(response, rig.answers.append)
    assert [type(answer) for answer in rig.answers] == [Unencodable]
    assert len(rig.tracer.recent()) == 1, "its span has ended"
