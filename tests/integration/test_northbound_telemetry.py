"""Telemetry and events from the gateway to python-qpid-proton receivers."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from prometheus_client import generate_latest
from proton import Condition, Delivery

from gateway.errors import (
    BadRequest,
    ConsumerFull,
    ConsumerTimeout,
    Forbidden,
    GatewayError,
    NoConsumer,
    NotFound,
    NotProcessed,
    Rejected,
    Undeliverable,
    Unencodable,
)
from gateway.model.message import EMPTY_NOTIFICATION, Message
from gateway.model.ports import Done
from gateway.model.trace import TraceContext
from gateway.store.memory_events import MemoryEvents
from tests.integration.northbound_rig import AT, TRACE, a_message, a_northbound, an_event
from tests.integration.proton_peer import Received, until


async def test_telemetry_without_a_consumer_is_refused() -> None:
    async with a_northbound() as rig:
        error = await rig.send(a_message())
        assert isinstance(error, NoConsumer)
        assert error.message == "no consumer available"
        assert isinstance(await rig.send(a_message(qos=0)), NoConsumer)


async def test_a_consumer_gets_telemetry_as_hono_shapes_it() -> None:
    async with a_northbound() as rig, rig.peer() as peer:
        peer.receive_from("telemetry/acme")
        await peer.expect("attached")
        await until(lambda: rig.messaging._groups)
        message = a_message(
            ttl=30.0,
            ttd=5,
            retain=True,
            properties={"importance": "high", "n": 3, "f": 1.5, "b": True},
        )
        assert await rig.send(message) is None
        received: Received = (await peer.expect("message"))[2]
        assert received.address == "telemetry/acme"
        assert isinstance(received.id, str)
        assert received.creation_time == pytest.approx(AT, abs=0.001)
        assert (received.content_type, received.body) == ("application/json", b'{"temp": 5}')
        assert (received.ttl, received.durable) == (30.0, False)
        assert received.properties == {
            "importance": "high", "n": 3, "f": 1.5, "b": True, "device_id": "4711", "qos": 1,
            "orig_adapter": "hono-mqtt", "orig_address": "telemetry", "ttd": 5,
        }  # fmt: skip
        assert received.annotations == {
            "tenant_id": "acme",
            "device_id": "4711",
            "resource": "telemetry/acme/4711",
            "x-opt-retain": True,
            "x-opt-trace-context": {"traceparent": TRACE.traceparent},
        }


async def test_each_message_has_its_own_id_time_and_trace() -> None:
    other = TraceContext("1" * 32, "2" * 16, 0, "vendor=1")
    async with a_northbound() as rig, rig.peer() as peer:
        peer.receive_from("telemetry/acme")
        await until(lambda: rig.messaging._groups)
        await rig.send(a_message(b"1"))
        await rig.send(a_message(b"2", at=AT + 1))
        await rig.send(a_message(b"3", trace=other, properties={"content-encoding": "gzip"}))
        one, two, three = [(await peer.expect("message"))[2] for _ in range(3)]
        assert len({one.id, two.id, three.id}) == 3
        assert two.creation_time - one.creation_time == pytest.approx(1.0)
        assert three.annotations["x-opt-trace-context"] == {
            "traceparent": other.traceparent,
            "tracestate": "vendor=1",
        }


async def test_properties_of_another_type_are_not_mixed_up() -> None:
    async with a_northbound() as rig, rig.peer() as peer:
        peer.receive_from("telemetry/acme")
        await until(lambda: rig.messaging._groups)
        for value in (1, True, 1.0):
            await rig.send(a_message(properties={"v": value}))
        got = [(await peer.expect("message"))[2].properties["v"] for _ in range(3)]
        assert [type(value) is bool for value in got] == [False, True, False]


async def test_an_empty_notification_has_no_body() -> None:
    async with a_northbound() as rig, rig.peer() as peer:
        peer.receive_from("telemetry/acme")
        await until(lambda: rig.messaging._groups)
        await rig.send(a_message(b"", content_type=EMPTY_NOTIFICATION, ttd=-1))
        received = (await peer.expect("message"))[2]
        assert (received.body, received.content_type) == (None, EMPTY_NOTIFICATION)
        assert received.properties["ttd"] == -1


async def test_a_message_an_edge_sent_twice_says_so() -> None:
    async with a_northbound() as rig, rig.peer() as peer:
        peer.receive_from("telemetry/acme")
        await until(lambda: rig.messaging._groups)
        await rig.send(a_message(duplicate=True))
        assert (await peer.expect("message"))[2].annotations["x-opt-twinspan-duplicate"] is True


def rejecting(condition: str | None) -> Any:
    def answer(_received: Received, delivery: Delivery) -> None:
        if condition is not None:
            delivery.local.condition = Condition(condition, "because")
        delivery.update(Delivery.REJECTED)
        delivery.settle()

    return answer


def modifying(**flags: bool) -> Any:
    def answer(_received: Received, delivery: Delivery) -> None:
        for name, value in flags.items():
            setattr(delivery.local, name, value)
        delivery.update(Delivery.MODIFIED)
        delivery.settle()

    return answer


def releasing(_received: Received, delivery: Delivery) -> None:
    delivery.update(Delivery.RELEASED)
    delivery.settle()


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (rejecting(None), BadRequest),
        (rejecting("my:own"), BadRequest),
        (rejecting("amqp:unauthorized-access"), Forbidden),
        (rejecting("amqp:internal-error"), GatewayError),
        (rejecting("amqp:resource-limit-exceeded"), ConsumerFull),
        (releasing, NotProcessed),
        (modifying(failed=True), NotProcessed),
        (modifying(undeliverable=True), NotFound),
    ],
)
async def test_the_consumers_outcome_is_the_devices(answer: Any, error: type[GatewayError]) -> None:
    async with a_northbound() as rig, rig.peer() as peer:
        peer.answer = answer
        peer.receive_from("telemetry/acme")
        await until(lambda: rig.messaging._groups)
        assert type(await rig.send(a_message())) is error


async def test_qos_0_does_not_wait_for_the_consumer() -> None:
    async with a_northbound() as rig, rig.peer() as peer:
        peer.answer = rejecting(None)
        peer.receive_from("telemetry/acme")
        await until(lambda: rig.messaging._groups)
        assert await rig.send(a_message(qos=0)) is None
        assert (await peer.expect("message"))[2].properties["qos"] == 0


async def test_a_silent_consumer_is_a_timeout_and_the_delivery_is_taken_back() -> None:
    async with a_northbound(patience=0.1) as rig, rig.peer(accept=False) as peer:
        peer.receive_from("telemetry/acme")
        await until(lambda: rig.messaging._groups)
        error = await rig.send(a_message())
        assert isinstance(error, ConsumerTimeout)
        assert error.message == (
            "consumer failed to indicate in time whether it has processed the message"
        )
        await peer.expect("message")
        settled: list[bool] = []
        peer.do(lambda: settled.append(peer.unsettled[0].settled))
        await until(lambda: settled)
        assert settled == [True]


async def test_no_credit_is_no_consumer() -> None:
    async with a_northbound() as rig, rig.peer(accept=False, prefetch=1) as peer:
        peer.receive_from("telemetry/acme")
        await until(lambda: rig.messaging._groups)
        rig.messaging.send(a_message(), lambda _error: None)
        await peer.expect("message")
        assert isinstance(await rig.send(a_message()), NoConsumer)


async def test_consumers_of_a_tenant_take_turns() -> None:
    async with a_northbound() as rig, rig.peer() as one, rig.peer() as two:
        one.receive_from("telemetry/acme")
        two.receive_from("telemetry/acme")
        await one.expect("attached")
        await two.expect("attached")
        for number in range(4):
            assert await rig.send(a_message(str(number).encode())) is None
        bodies = [
            sorted([(await peer.expect("message"))[2].body for _ in range(2)])
            for peer in (one, two)
        ]
        assert sorted(bodies) == [[b"0", b"2"], [b"1", b"3"]]


async def test_the_loss_of_a_consumer_releases_what_it_had() -> None:
    async with a_northbound() as rig, rig.peer(accept=False) as peer:
        peer.receive_from("telemetry/acme")
        await until(lambda: rig.messaging._groups)
        answers: list[GatewayError | None] = []
        rig.messaging.send(a_message(), answers.append)
        await peer.expect("message")
        peer.do(lambda: peer.unsettled[0].link.close())
        await until(lambda: answers)
        assert isinstance(answers[0], NotProcessed)
        assert isinstance(await rig.send(a_message()), NoConsumer)


async def test_thousands_of_messages_arrive_in_order_and_are_all_accepted() -> None:
    async with a_northbound(patience=10.0) as rig, rig.peer(prefetch=100) as peer:
        peer.receive_from("telemetry/acme")
        await until(lambda: rig.messaging._groups)
        answers: list[GatewayError | None] = []
        group = rig.messaging._groups["acme"]
        for number in range(2_000):
            await until(lambda: group.has_credit)
            rig.messaging.send(a_message(str(number).encode()), answers.append)
        await until(lambda: len(answers) == 2_000)
        assert set(answers) == {None}
        bodies = [(await peer.expect("message"))[2].body for _ in range(2_000)]
        assert bodies == [str(number).encode() for number in range(2_000)]


class ATap:
    def __init__(self, verdict: GatewayError | None = None) -> None:
        self.verdict = verdict
        self.taken: list[Message] = []
        self.open = True

    def is_open(self, message: Message) -> bool:
        return self.open

    def take(self, message: Message, done: Done) -> None:
        self.taken.append(message)
        done(self.verdict)


@pytest.mark.parametrize(
    ("verdict", "outcome"),
    [
        (None, None),
        (Rejected("mapping failed"), None),
        (Undeliverable("busy"), Undeliverable),
        (GatewayError("bug"), NotProcessed),
    ],
)
async def test_a_tap_alone_decides(verdict: Any, outcome: Any) -> None:
    async with a_northbound() as rig:
        tap = ATap(verdict)
        end = rig.messaging.add_tap(tap)
        result = await rig.send(a_message())
        assert result is None if outcome is None else type(result) is outcome
        assert len(tap.taken) == 1
        end()
        assert isinstance(await rig.send(a_message()), NoConsumer)


async def test_a_tap_and_a_consumer_both_get_telemetry_and_the_refusal_wins() -> None:
    async with a_northbound() as rig, rig.peer() as peer:
        tap = ATap()
        rig.messaging.add_tap(tap)
        peer.answer = rejecting("my:own")
        peer.receive_from("telemetry/acme")
        await until(lambda: rig.messaging._groups)
        assert isinstance(await rig.send(a_message()), BadRequest)
        assert len(tap.taken) == 1


async def test_an_address_that_an_application_makes_up_becomes_no_label() -> None:
    async with a_northbound() as rig, rig.peer() as peer:
        for kind in ("telemetry", "event"):
            peer.receive_from(f"{kind}/made-up")
            await peer.expect("attached")
        peer.receive_from("telemetry/acme")
        await peer.expect("attached")
        await until(lambda: rig.messaging.has_consumer("acme"))
        assert await rig.send(a_message()) is None
        text = generate_latest(rig.metrics.registry).decode()
        assert 'tenant="acme"' in text
        assert "made-up" not in text


async def test_events_wait_for_their_consumer() -> None:
    async with a_northbound() as rig:
        for number in range(3):
            assert await rig.send(an_event(str(number).encode(), ttl=60.0)) is None
        async with rig.peer() as peer:
            peer.receive_from("event/acme")
            received = [(await peer.expect("message"))[2] for _ in range(3)]
            assert [each.body for each in received] == [b"0", b"1", b"2"]
            assert (received[0].durable, received[0].ttl) == (True, 60.0)
            assert received[0].address == "event/acme"
            assert received[0].annotations["resource"] == "event/acme/4711"
            await until(lambda: not rig.events._rows)  # type: ignore[attr-defined]


async def test_released_events_come_again_and_failed_ones_are_counted() -> None:
    async with a_northbound() as rig, rig.peer() as peer:
        seen: list[Received] = []

        def answer(received: Received, delivery: Delivery) -> None:
            seen.append(received)
            if len(seen) == 1:
                delivery.update(Delivery.RELEASED)
            elif len(seen) == 2:
                delivery.local.failed = True
                delivery.update(Delivery.MODIFIED)
            else:
                delivery.update(Delivery.ACCEPTED)
            delivery.settle()

        peer.answer = answer
        await rig.send(an_event(b"x"))
        peer.receive_from("event/acme")
        await until(lambda: len(seen) == 3)
        assert [each.delivery_count for each in seen] == [0, 0, 1]
        await until(lambda: not rig.events._rows)  # type: ignore[attr-defined]


async def test_an_event_that_is_undeliverable_here_goes_to_another_consumer() -> None:
    async with a_northbound() as rig, rig.peer() as one:
        one.answer = modifying(undeliverable=True)
        one.receive_from("event/acme")
        await rig.send(an_event(b"x"))
        await one.expect("message")
        async with rig.peer() as two:
            two.receive_from("event/acme")
            assert (await two.expect("message"))[2].body == b"x"
        await asyncio.sleep(0.02)
        assert not any(entry[0] == "message" for entry in list(one.log.queue))


async def test_an_event_tells_its_remaining_time_to_live_whenever_it_is_sent() -> None:
    now = [AT]
    async with a_northbound(MemoryEvents(clock=lambda: now[0])) as rig:
        assert await rig.send(an_event(b"short", ttl=50.0)) is None
        assert await rig.send(an_event(b"long", ttl=100.0)) is None
        now[0] = AT + 30
        async with rig.peer(accept=False) as peer:
            peer.receive_from("event/acme")
            got = [(await peer.expect("message"))[2] for _ in range(2)]
            assert [each.ttl for each in got] == pytest.approx([20.0, 70.0], abs=0.01)
            assert [each.delivery_count for each in got] == [0, 0]
            now[0] = AT + 60
        async with rig.peer() as peer:
            peer.receive_from("event/acme")
            again = (await peer.expect("message"))[2]
            assert (again.body, again.delivery_count) == (b"long", 1)
            assert again.ttl == pytest.approx(40.0, abs=0.01)
            await until(lambda: not rig.events._rows)  # type: ignore[attr-defined]
            assert not any(entry[0] == "message" for entry in list(peer.log.queue))


@pytest.mark.parametrize("failed", [True, False])
async def test_delivery_count_counts_failures_alone(failed: bool) -> None:
    async with a_northbound() as rig, rig.peer() as one:

        def elsewhere(_received: Received, delivery: Delivery) -> None:
            delivery.local.undeliverable = True
            delivery.local.failed = failed
            delivery.update(Delivery.MODIFIED)
            delivery.settle()

        one.answer = elsewhere
        one.receive_from("event/acme")
        await rig.send(an_event(b"x"))
        await one.expect("message")
        async with rig.peer() as two:
            two.receive_from("event/acme")
            assert (await two.expect("message"))[2].delivery_count == int(failed)


async def test_rejected_events_are_gone() -> None:
    async with a_northbound() as rig, rig.peer() as peer:
        peer.answer = rejecting(None)
        await rig.send(an_event(b"x"))
        peer.receive_from("event/acme")
        await peer.expect("message")
        await until(lambda: not rig.events._rows)  # type: ignore[attr-defined]


async def test_events_of_a_lost_consumer_go_to_the_next() -> None:
    async with a_northbound() as rig:
        async with rig.peer(accept=False) as peer:
            await rig.send(an_event(b"1"))
            await rig.send(an_event(b"2"))
            peer.receive_from("event/acme")
            await peer.expect("message")
            await peer.expect("message")
        async with rig.peer() as peer:
            peer.receive_from("event/acme")
            got = [(await peer.expect("message"))[2] for _ in range(2)]
            assert [(each.body, each.delivery_count) for each in got] == [(b"1", 1), (b"2", 1)]


async def test_a_named_tap_gets_events_it_missed_and_retries_what_failed() -> None:
    async with a_northbound() as rig:
        tap = ATap(Undeliverable())
        end = rig.messaging.add_tap(tap, name="c1", tenants=["acme"])
        assert await rig.send(an_event(b"1")) is None
        await until(lambda: tap.taken)
        end()
        await rig.send(an_event(b"2"))
        tap = ATap()
        rig.messaging.add_tap(tap, name="c1", tenants=["acme"])
        await until(lambda: len(tap.taken) == 2)
        assert [message.payload for message in tap.taken] == [b"1", b"2"]


async def test_telemetry_that_cannot_be_written_is_refused_and_the_next_goes_on() -> None:
    async with a_northbound() as rig, rig.peer() as peer:
        peer.receive_from("telemetry/acme")
        await until(lambda: rig.messaging.has_consumer("acme"))
        assert isinstance(await rig.send(a_message(properties={"a": "\ud800"})), Unencodable)
        assert await rig.send(a_message(b"next")) is None
        assert (await peer.expect("message"))[2].body == b"next"
        text = rig.metrics.text().decode()
        assert 'twinspan_northbound_unencodable_total{type="telemetry"} 1.0' in text
