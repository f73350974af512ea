"""Readers of stored events: order of a device's events, what is held, what is given back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace

from gateway.errors import Rejected, Undeliverable
from gateway.hono import event_readers
from gateway.hono.amqp_messages import MessageEncoder
from gateway.hono.consumers import EventOutcome
from gateway.hono.event_readers import TAP_WINDOW, ConsumerReaders, TapReader
from gateway.model.message import Kind, Message
from gateway.model.ports import Done
from gateway.model.trace import TraceContext
from gateway.observe.metrics import Metrics
from gateway.store.memory_events import MemoryEvents
from gateway.store.ports import StoredEvent
from tests.hono_rig import until

TRACE = TraceContext("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331")


def an_event(payload: str, device: str = "d1") -> Message:
    return Message(
        tenant="acme",
        device=device,
        kind=Kind.EVENT,
        qos=1,
        payload=payload.encode(),
        at=1_000.0,
        trace=TRACE,
    )


def a_store(*messages: Message) -> MemoryEvents:
    store = MemoryEvents(clock=lambda: 1_000.0)
    store.open_cursor("acme", TapReader.cursor_name("c"), lambda: None).close()
    for message in messages:
        store.append(message, lambda _: None)
    return store


class SlowTap:
    """A tap that answers when the test says so."""

    def __init__(self) -> None:
        self.work: list[tuple[str, Done]] = []

    def is_open(self, _message: Message) -> bool:
        return True

    def take(self, message: Message, done: Done) -> None:
        self.work.append((message.payload.decode(), done))

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.work]


async def test_a_tap_works_on_one_event_of_a_device_and_on_other_devices_beside_it() -> None:
    tap = SlowTap()
    store = a_store(an_event("1"), an_event("2"), an_event("other", "d2"), an_event("3"))
    reader = TapReader(store, "acme", "c", tap)
    assert tap.names == ["1", "other"]
    tap.work[0][1](None)
    tap.work[2][1](Rejected("mapping failed"))
    assert tap.names == ["1", "other", "2", "3"]
    reader.close()


async def test_what_failed_comes_again_before_what_its_device_sent_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(event_readers, "FIRST_PAUSE", 0.01)
    tap = SlowTap()
    reader = TapReader(a_store(an_event("1"), an_event("2"), an_event("3")), "acme", "c", tap)
    tap.work[0][1](Undeliverable("busy"))
    assert tap.names == ["1"], "it comes after a pause"
    await until(lambda: len(tap.work) == 2)
    for at in (1, 2, 3):
        tap.work[at][1](None)
    assert tap.names == ["1", "1", "2", "3"]
    reader.close()


async def test_a_tap_never_holds_more_than_its_window() -> None:
    tap = SlowTap()
    store = a_store(*(an_event(str(number)) for number in range(3 * TAP_WINDOW)))
    reader = TapReader(store, "acme", "c", tap)
    for at in range(3 * TAP_WINDOW):
        tap.work[at][1](None)
    assert tap.names == [str(number) for number in range(3 * TAP_WINDOW)]
    reader.close()


async def test_what_expired_while_it_stood_behind_another_reaches_no_tap() -> None:
    now = [1_000.0]
    store = MemoryEvents(max_ttl=10.0, clock=lambda: now[0])
    tap = SlowTap()
    reader = TapReader(store, "acme", "c", tap)
    for payload in ("1", "2"):
        store.append(an_event(payload), lambda _: None, consumers=False)
    now[0] = 1_011.0
    store.append(replace(an_event("3"), at=1_011.0), lambda _: None, consumers=False)
    tap.work[0][1](None)
    assert tap.names == ["1", "3"]
    tap.work[1][1](None)
    assert store.size == 0
    reader.close()


async def test_what_a_tap_ends_after_it_was_closed_is_settled() -> None:
    tap = SlowTap()
    store = a_store(an_event("1"), an_event("2"))
    reader = TapReader(store, "acme", "c", tap)
    reader.close()
    tap.work[0][1](None)
    TapReader(store, "acme", "c", tap).close()
    assert tap.names == ["1", "2"]


class App:
    """A consumer that answers everything with one outcome."""

    def __init__(self, outcome: EventOutcome, credit: int = 100_000) -> None:
        self.credit = credit
        self.got: list[str] = []
        self._outcome = outcome

    def send(self, message: Message, outcome: Done) -> Callable[[], None] | None:
        raise AssertionError("no telemetry here")

    def send_encoded(self, payload: bytes, outcome: Done) -> Callable[[], None] | None:
        raise AssertionError("no telemetry here")

    def send_event(self, event: StoredEvent, outcome: Callable[[EventOutcome], None]) -> None:
        self.got.append(event.message.payload.decode())
        outcome(self._outcome)


async def test_events_that_nobody_here_wants_are_held_up_to_a_bound_and_not_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(event_readers, "MAX_HELD", 3)
    store = a_store(*(an_event(str(number)) for number in range(10)))
    readers = ConsumerReaders(store, "acme", Metrics())
    picky, eager = App(EventOutcome.NOT_HERE), App(EventOutcome.DONE)
    readers.add(picky)
    readers.pump()
    assert picky.got == ["0", "1", "2"]
    readers.remove(picky)
    readers.add(eager)
    readers.pump()
    assert eager.got == [str(number) for number in range(10)]
    readers.close()


async def test_an_event_that_waits_for_a_consumer_without_credit_holds_up_nobody() -> None:
    store = a_store(an_event("1"))
    readers = ConsumerReaders(store, "acme", Metrics())
    picky, paused = App(EventOutcome.NOT_HERE), App(EventOutcome.DONE, credit=0)
    readers.add(picky)
    readers.add(paused)
    store.append(an_event("2"), lambda _: None)
    assert (picky.got, paused.got) == (["1", "2"], [])
    paused.credit = 10
    readers.pump()
    assert paused.got == ["1", "2"]
    readers.close()


class Writer(App):
    """A consumer that writes events as AMQP does."""

    def __init__(self) -> None:
        super().__init__(EventOutcome.DONE)
        self._encoder = MessageEncoder("test")

    def send_event(self, event: StoredEvent, outcome: Callable[[EventOutcome], None]) -> None:
        self._encoder.encode_event(event.message, event.attempts, event.left)
        super().send_event(event, outcome)


@pytest.mark.parametrize("properties", [{"a": "\ud800"}, {"a": 10**400}, {"\udfff": 1}])
async def test_an_event_that_cannot_be_written_is_dropped_and_those_behind_it_go_on(
    properties: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    store = a_store(an_event("1"), replace(an_event("secret"), properties=properties))
    store.append(an_event("3"), lambda _: None)
    metrics, app = Metrics(), Writer()
    readers = ConsumerReaders(store, "acme", metrics)
    readers.add(app)
    assert app.got == ["1", "3"]
    readers.remove(app)
    again = App(EventOutcome.DONE)
    readers.add(again)
    assert again.got == [], "it does not come again"
    readers.close()
    assert 'twinspan_northbound_unencodable_total{type="event"} 1.0' in metrics.text().decode()
    assert "cannot be written" in caplog.text
    assert "secret" not in caplog.text
