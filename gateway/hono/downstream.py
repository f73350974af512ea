"""Where checked messages go: one of the competing consumers, and every open tap.

Telemetry is passed on at once or refused; nothing is kept. The device's outcome is merged from those of the
consumer and the taps (decision record 0003): a consumer's refusal wins; a tap that finally refused counts as
done, one that could not work is 503; what has no outcome after `timeout` is 503 and taken back.

Events are stored once; the device's outcome is the store's. From there each reader has a cursor of its own:
one for the competing consumers of a tenant, one for each named tap and tenant (`gateway.hono.event_readers`).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable

from gateway.errors import (
    ConsumerTimeout,
    GatewayError,
    NoConsumer,
    NotProcessed,
    Rejected,
    Undeliverable,
)
from gateway.hono.consumers import Consumer, ConsumerGroup
from gateway.hono.event_readers import ConsumerReaders, TapReader
from gateway.model.message import Kind, Message
from gateway.model.ports import Done, Tap
from gateway.observe.metrics import Metrics
from gateway.store.ports import EventStore

MAX_IN_FLIGHT = 100_000
"""Telemetry messages of the last `timeout` seconds; above it uploads are refused."""


class Flight:
    """One telemetry message without an outcome."""

    __slots__ = ("_done", "_error", "_waits", "deadline", "tenant", "withdraw")

    def __init__(self, tenant: str, done: Done, waits: int, deadline: float) -> None:
        self.tenant = tenant
        self._done = done
        self._waits = waits
        self._error: GatewayError | None = None
        self.deadline = deadline
        self.withdraw: Callable[[], None] | None = None

    @property
    def is_over(self) -> bool:
        return self._waits == 0

    def consumed(self, error: GatewayError | None) -> None:
        """The consumer's outcome: its refusal ends the flight."""
        self.withdraw = None
        if error is not None:
            self._end(error)
        else:
            self._one_less()

    def tapped(self, error: GatewayError | None) -> None:
        """A tap's outcome: what it finally refused is not the device's fault."""
        if error is not None and not isinstance(error, Rejected):
            unable = isinstance(error, Undeliverable)
            self._error = self._error or (error if unable else NotProcessed())
        self._one_less()

    def expire(self) -> None:
        """Nobody waits any longer."""
        if self._waits:
            if self.withdraw is not None:
                self.withdraw()
            self._end(ConsumerTimeout())

    def _one_less(self) -> None:
        if self._waits == 1:
            self._end(self._error)
        elif self._waits:
            self._waits -= 1

    def _end(self, error: GatewayError | None) -> None:
        if self._waits:
            self._waits = 0
            self._done(error)


class Messaging:
    """The `Downstream` of this process; loop-bound, started by its first message."""

    def __init__(self, events: EventStore, metrics: Metrics, *, timeout: float = 1.0) -> None:
        self._events = events
        self._metrics = metrics
        self._timeout = timeout
        self._groups: dict[str, ConsumerGroup] = {}
        self._readers: dict[str, ConsumerReaders] = {}
        self._taps: list[Tap] = []
        self._flights: deque[Flight] = deque()
        self._timer: asyncio.TimerHandle | None = None

    # --- the port ------------------------------------------------------------------------------------

    def send(self, message: Message, done: Done) -> None:
        if message.kind is Kind.EVENT:
            self._events.append(message, done)
        else:
            self._send_telemetry(message, done)

    def has_consumer(self, tenant: str) -> bool:
        """True while some application takes the tenant's telemetry and has credit."""
        group = self._groups.get(tenant)
        return group is not None and group.has_credit

    def add_consumer(self, tenant: str, kind: Kind, consumer: Consumer) -> Callable[[], None]:
        """Let an application compete for messages; returns the way to end it.

        Call `ready` whenever it has credit again.
        """
        if kind is Kind.EVENT:
            readers = self._readers.get(tenant)
            if readers is None:
                readers = self._readers[tenant] = ConsumerReaders(self._events, tenant)
            readers.add(consumer)
            return lambda: self._remove_reader(tenant, consumer)
        self._groups.setdefault(tenant, ConsumerGroup()).add(consumer)
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
        readers = []
        if name is not None:
            readers = [TapReader(self._events, tenant, name, tap) for tenant in tenants]

        def end() -> None:
            if tap in self._taps:
                self._taps.remove(tap)
            for reader in readers:
                reader.close()

        return end

    def forget_tap(self, name: str, tenants: Iterable[str]) -> None:
        """A named tap is gone for good: events are not kept for it any more."""
        for tenant in tenants:
            self._events.drop_cursor(tenant, TapReader.cursor_name(name))

    # --- telemetry -------------------------------------------------------------------------------------

    def _send_telemetry(self, message: Message, done: Done) -> None:
        group = self._groups.get(message.tenant)
        consumer = group.next() if group is not None else None
        taps = [tap for tap in self._taps if tap.is_open(message)] if self._taps else []
        if (consumer is None and not taps) or len(self._flights) >= MAX_IN_FLIGHT:
            self._metrics.amqp_nocredit.labels(message.tenant, message.kind.value).inc()
            done(NoConsumer())
            return
        flight = self._take_off(message, done, len(taps) + (consumer is not None))
        if consumer is not None:
            flight.withdraw = consumer.send(message, flight.consumed)
            if flight.is_over:
                flight.withdraw = None
        for tap in taps:
            tap.take(message, flight.tapped)
        if message.qos == 0:
            done(None)

    def _take_off(self, message: Message, done: Done, waits: int) -> Flight:
        loop, flights = asyncio.get_running_loop(), self._flights
        asked = done if message.qos else _forget
        flight = Flight(message.tenant, asked, waits, loop.time() + self._timeout)
        while flights and flights[0].is_over:
            flights.popleft()
        flights.append(flight)
        if self._timer is None:
            self._timer = loop.call_at(flight.deadline, self._expire)
        return flight

    def _expire(self) -> None:
        """End what is over time; flights stand in the order of their deadlines."""
        loop = asyncio.get_running_loop()
        now, flights = loop.time(), self._flights
        while flights and (flights[0].is_over or flights[0].deadline <= now):
            flight = flights.popleft()
            if not flight.is_over:
                self._metrics.amqp_timeout.labels(flight.tenant, Kind.TELEMETRY.value).inc()
                flight.expire()
        self._timer = loop.call_at(flights[0].deadline, self._expire) if flights else None

    # --- leaving ---------------------------------------------------------------------------------------

    def _remove_consumer(self, tenant: str, consumer: Consumer) -> None:
        group = self._groups[tenant]
        group.remove(consumer)
        if not group:
            del self._groups[tenant]

    def _remove_reader(self, tenant: str, consumer: Consumer) -> None:
        readers = self._readers[tenant]
        readers.remove(consumer)
        if not readers:
            del self._readers[tenant]
            readers.close()


def _forget(_error: GatewayError | None) -> None:
    """QoS 0: the device was answered at the hand-over."""
