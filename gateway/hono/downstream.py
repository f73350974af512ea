"""Where checked messages go: one of the competing consumers, and every open tap.

Telemetry is passed on at once or refused; nothing is kept. The device's outcome is merged from those of the
consumer and the taps (decision record 0003): a consumer's refusal wins; a tap that finally refused counts as
done, one that could not work is 503; what has no outcome after `timeout` is 503 and taken back.

Events are stored once; the device's outcome is the store's. From there each reader has a cursor of its own:
one for the competing consumers of a tenant, one for each named tap and tenant (`gateway.hono.event_readers`).

Messages of tenants whose messaging is a broker (Kafka) go there instead of to consumers, and to the taps as
all others; an event is stored for named taps once the broker has it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from typing import Protocol

import msgspec
from prometheus_client import Counter

from gateway.errors import (
    ConsumerTimeout,
    GatewayError,
    NoConsumer,
    NotProcessed,
    Rejected,
    Undeliverable,
    Unencodable,
)
from gateway.hono.consumers import Consumer, ConsumerGroup
from gateway.hono.event_readers import ConsumerReaders, TapReader
from gateway.hono.forward_spans import forward_span
from gateway.hono.unencodable import note_unencodable
from gateway.model.message import Kind, Message
from gateway.model.ports import Done, Tap
from gateway.observe.metrics import Metrics
from gateway.observe.tracing import Span, Tracer
from gateway.store.ports import EventStore

_EVENT = Kind.EVENT
MAX_IN_FLIGHT = 100_000
"""Telemetry messages of the last `timeout` seconds; above it uploads are refused."""


class Flight(msgspec.Struct, eq=False):
    """One telemetry message without an outcome: how many parties still have to say theirs."""

    tenant: str
    done: Done
    waits: int
    deadline: float
    error: GatewayError | None = None
    withdraw: Callable[[], None] | None = None
    span: Span | None = None

    def consumed(self, error: GatewayError | None) -> None:
        """The consumer's outcome: its refusal ends the flight."""
        self.withdraw = None
        if self.span is not None:
            self.span.end(error)
        if self.waits == 1 or (error is not None and self.waits):
            self.waits = 0
            self.done(error or self.error)
        elif self.waits:
            self.waits -= 1

    def tapped(self, error: GatewayError | None) -> None:
        """A tap's outcome: what it finally refused is not the device's fault."""
        if error is not None and not isinstance(error, Rejected):
            unable = isinstance(error, Undeliverable)
            self.error = self.error or (error if unable else NotProcessed())
        if self.waits:
            self.waits -= 1
            if not self.waits:
                self.done(self.error)

    def expire(self) -> None:
        """Nobody waits any longer."""
        if self.waits:
            if self.withdraw is not None:
                self.withdraw()
            if self.span is not None:
                self.span.end(ConsumerTimeout())
            self.waits = 0
            self.done(ConsumerTimeout())


class Flights:
    """Telemetry without an outcome, in the order of deadlines; loop-bound, started by its first message.

    Shape:  `timeouts` counts by tenant and type.
    Units:  `timeout` in seconds.
    """

    def __init__(self, timeout: float, timeouts: Counter | None = None) -> None:
        self._timeouts = timeouts
        self._timeout = timeout
        self._flights: deque[Flight] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop

    @property
    def depth(self) -> int:
        """How many wait, those that were answered behind one that was not among them."""
        return len(self._flights)

    @property
    def is_full(self) -> bool:
        return len(self._flights) >= MAX_IN_FLIGHT

    def take_off(self, message: Message, done: Done, waits: int) -> Flight:
        """Begin to wait for `waits` parties; QoS 0 is answered by who calls, whatever they say."""
        return self.begin(message.tenant, done if message.qos else _forget, waits)

    def begin(self, tenant: str, done: Done, waits: int) -> Flight:
        """Begin to wait for `waits` parties; `done` hears what they say."""
        flights = self._flights
        if self._timer is None:
            self._loop = asyncio.get_running_loop()
        deadline = self._loop.time() + self._timeout
        flight = Flight(tenant, done, waits, deadline)
        while flights and not flights[0].waits:
            flights.popleft()
        flights.append(flight)
        if self._timer is None:
            self._timer = self._loop.call_at(deadline, self._expire)
        return flight

    def _expire(self) -> None:
        """End what is over time."""
        now, flights = self._loop.time(), self._flights
        while flights and (not flights[0].waits or flights[0].deadline <= now):
            flight = flights.popleft()
            if flight.waits:
                if self._timeouts is not None:
                    self._timeouts.labels(flight.tenant, Kind.TELEMETRY.value).inc()
                flight.expire()
        self._timer = self._loop.call_at(flights[0].deadline, self._expire) if flights else None


class Broker(Protocol):
    """A message broker that takes the messages of some tenants; it needs no consumers to do so."""

    def carries(self, tenant: str) -> bool | None:
        """True for tenants whose messages it takes; None where that has to be looked up."""

    def find(self, tenant: str, done: Callable[[bool], None]) -> None:
        """Look it up."""

    def send(self, message: Message, done: Done) -> None:
        """Take a message: QoS 0 is answered at once, others once the broker has it, in bounded time."""


class Messaging:
    """The `Downstream` of this process; loop-bound, started by its first message."""

    def __init__(self, events: EventStore, metrics: Metrics, *, timeout: float = 1.0) -> None:
        self._events = events
        self._metrics = metrics
        self._groups: dict[str, ConsumerGroup] = {}
        self._readers: dict[str, ConsumerReaders] = {}
        self._taps: list[Tap] = []
        self._flights = flights = Flights(timeout, metrics.amqp_timeout)
        metrics.own.watch_queue("telemetry_in_flight", lambda: flights.depth, MAX_IN_FLIGHT)
        self._broker: Broker | None = None
        self._broker_flights = self._flights
        self._on_takers: list[Callable[[str | None], None]] = []
        self.tracer: Tracer | None = None
        """Makes a span of handing on what is sampled; None for nobody."""

    def use_broker(self, broker: Broker, timeout: float) -> None:
        """Let a broker take the messages of those tenants that it carries.

        Units:  `timeout` in seconds: telemetry that has taps too is given up after it.
        """
        self._broker = broker
        self._broker_flights = Flights(timeout)

    # --- the port ------------------------------------------------------------------------------------

    def send(self, message: Message, done: Done) -> None:
        broker = self._broker
        if broker is None:
            self._to_consumers(message, done)
            return
        carries = broker.carries(message.tenant)
        if carries is None:
            broker.find(message.tenant, partial(self._found, broker, message, done))
        else:
            self._found(broker, message, done, carries)

    def relay(self, tenant: str, encoded: bytes, qos: int, done: Done) -> bool:
        """Send telemetry on as it came, to a consumer alone; False where none takes it now.

        Shape:  the caller knows that it `is_relayed`.
        """
        group = self._groups.get(tenant)
        consumer = group.next() if group is not None else None
        if consumer is None or self._flights.is_full:
            return False
        flight = self._flights.begin(tenant, done if qos else _forget, 1)
        flight.withdraw = consumer.send_encoded(encoded, flight.consumed)
        if not flight.waits:
            flight.withdraw = None
        if not qos:
            done(None)
        return True

    def _to_consumers(self, message: Message, done: Done) -> None:
        if message.kind is _EVENT:
            self._events.append(message, done)
            return
        group = self._groups.get(message.tenant)
        consumer = group.next() if group is not None else None
        taps = self._open_taps(message)
        if (consumer is None and not taps) or self._flights.is_full:
            self._metrics.amqp_nocredit.labels(message.tenant, message.kind.value).inc()
            done(NoConsumer())
            return
        flight = self._flights.take_off(message, done, len(taps) + (consumer is not None))
        if consumer is not None:
            self._to_consumer(consumer, message, flight)
        for tap in taps:
            tap.take(message, flight.tapped)
        if not message.qos:
            done(None)

    def _to_consumer(self, consumer: Consumer, message: Message, flight: Flight) -> None:
        if self.tracer is not None and message.trace.flags & 1:
            span = flight.span = forward_span(self.tracer, message)
            message = msgspec.structs.replace(message, trace=span.context)
        try:
            withdraw = consumer.send(message, flight.consumed)
        except Unencodable as error:
            note_unencodable(
                self._metrics, message.kind.value, message.tenant, message.device, error
            )
            flight.consumed(error)
        else:
            flight.withdraw = withdraw if flight.waits else None

    def _open_taps(self, message: Message) -> tuple[Tap, ...]:
        taps: tuple[Tap, ...] = ()
        for tap in self._taps:
            if tap.is_open(message):
                taps += (tap,)
        return taps

    # --- tenants of a broker -----------------------------------------------------------------------------

    def _found(self, broker: Broker, message: Message, done: Done, carries: bool) -> None:
        if carries:
            self._to_broker(broker, message, done)
        else:
            self._to_consumers(message, done)

    def _to_broker(self, broker: Broker, message: Message, done: Done) -> None:
        if message.kind is _EVENT:
            if self._events.has_taps(message.tenant):
                done = partial(self._event_taken, message, done)
            broker.send(message, done)
            return
        taps = self._open_taps(message)
        if not taps:
            broker.send(message, done)
            return
        if self._broker_flights.is_full:
            done(NoConsumer())
            return
        flight = self._broker_flights.take_off(message, done, len(taps) + 1)
        broker.send(message, flight.consumed)
        for tap in taps:
            tap.take(message, flight.tapped)
        if not message.qos:
            done(None)

    def _event_taken(self, message: Message, done: Done, error: GatewayError | None) -> None:
        """The broker has an event; it is kept for the taps alone."""
        if error is None:
            self._events.append(message, done, consumers=False)
        else:
            done(error)

    # --- consumers and taps ------------------------------------------------------------------------------

    def has_consumer(self, tenant: str) -> bool:
        """True while some application takes the tenant's telemetry and has credit."""
        group = self._groups.get(tenant)
        return group is not None and group.has_credit

    def takes_telemetry(self, message: Message) -> bool:
        """True while somebody is there for telemetry such as `message`, with credit or without."""
        broker = self._broker
        if broker is not None and broker.carries(message.tenant) is not False:
            return True
        return message.tenant in self._groups or bool(self._open_taps(message))

    def is_relayed(self, message: Message) -> bool:
        """True while telemetry such as `message` goes to AMQP consumers alone, and nobody reads it here."""
        broker = self._broker
        if broker is not None and broker.carries(message.tenant) is not False:
            return False
        return not self._open_taps(message)

    def on_takers(self, listener: Callable[[str | None], None]) -> None:
        """Tell `listener` whose takers of telemetry come or go: a tenant's, None for any tenant's."""
        self._on_takers.append(listener)

    def _takers_changed(self, tenant: str | None) -> None:
        for listener in self._on_takers:
            listener(tenant)

    def add_consumer(self, tenant: str, kind: Kind, consumer: Consumer) -> Callable[[], None]:
        """Let an application compete for messages; returns the way to end it.

        Call `ready` whenever it has credit again.
        """
        if kind is Kind.EVENT:
            readers = self._readers.get(tenant)
            if readers is None:
                readers = self._readers[tenant] = ConsumerReaders(
                    self._events, tenant, self._metrics, self.tracer
                )
            readers.add(consumer)
            return lambda: self._remove_reader(tenant, consumer)
        self._groups.setdefault(tenant, ConsumerGroup()).add(consumer)
        self._takers_changed(tenant)
        return lambda: self._remove_consumer(tenant, consumer)

    def ready(self, tenant: str, kind: Kind) -> None:
        """A consumer of this tenant has credit again; only events wait for that."""
        readers = self._readers.get(tenant)
        if kind is Kind.EVENT and readers is not None:
            readers.pump()

    def add_tap(
        self, tap: Tap, *, name: str | None = None, tenants: Iterable[str] = ()
    ) -> Callable[[], None]:
        """Show a tap every message that it is open for; returns the way to end it.

        With a `name`, events of `tenants` reach it through durable cursors: those that it could not work on
        come again, also after a restart. Without a name it sees telemetry alone.
        """
        self._taps.append(tap)
        self._takers_changed(None)
        readers = []
        if name is not None:
            readers = [TapReader(self._events, tenant, name, tap) for tenant in tenants]

        def end() -> None:
            if tap in self._taps:
                self._taps.remove(tap)
                self._takers_changed(None)
            for reader in readers:
                reader.close()

        return end

    def forget_tap(self, name: str, tenants: Iterable[str]) -> None:
        """A named tap is gone for good: events are not kept for it any more."""
        for tenant in tenants:
            self._events.drop_cursor(tenant, TapReader.cursor_name(name))

    # --- leaving ---------------------------------------------------------------------------------------

    def _remove_consumer(self, tenant: str, consumer: Consumer) -> None:
        group = self._groups[tenant]
        group.remove(consumer)
        if not group:
            del self._groups[tenant]
            self._takers_changed(tenant)

    def _remove_reader(self, tenant: str, consumer: Consumer) -> None:
        readers = self._readers[tenant]
        readers.remove(consumer)
        if not readers:
            del self._readers[tenant]
            readers.close()


def _forget(_error: GatewayError | None) -> None:
    """QoS 0: the device was answered at the hand-over."""
