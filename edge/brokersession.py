"""What the edge's broker keeps for one client id: subscriptions, what waits for it, its will.

A session lives on its link while the client is connected, and without one until it expires. What cannot be
sent at once waits in a bounded queue. Full: the oldest QoS 0 message that waits is dropped, or the new one if
it is QoS 0; a QoS 1 or 2 message without room ends the session (`overflow`): a client never misses one
without noticing: it is told (MQTT 5) and finds no session when it returns. Retained messages that a new
subscription asked for may queue beyond that, up to as many as there can be.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import Protocol

import msgspec

from edge.brokermessages import Message
from gateway.errors import TooLarge
from gateway.wire.mqtt.filters import TopicFilter
from gateway.wire.mqtt.packets import Subscription, Will
from gateway.wire.mqtt.properties import NONE, Properties
from gateway.wire.mqtt.server import ServerSession
from gateway.wire.mqtt.state import SessionState

MAX_UNSENT = 131_072
"""Bytes in the client's socket above which messages wait in the queue."""


class Link(Protocol):
    """The connection of a client."""

    session: ServerSession
    loop: asyncio.AbstractEventLoop

    @property
    def unsent(self) -> int: ...

    def flush_soon(self) -> None: ...

    def end(self, reason: int) -> None: ...


class Keeper(Protocol):
    """The broker, as a session needs it."""

    def take_room(self, size: int) -> bool:
        """Reserve bytes of the queues' common budget; False when there are none."""

    def give_room(self, size: int) -> None: ...

    def dropped(self, cause: str) -> None: ...

    def sent(self) -> None: ...

    def overflow(self, session: BrokerSession) -> None:
        """The session cannot keep what it must: end it."""


@dataclass(frozen=True, slots=True)
class Grant:
    """One subscription in force."""

    filter: TopicFilter
    qos: int
    no_local: bool = False
    retain_as_published: bool = False
    ids: tuple[int, ...] = ()


class Delivery(msgspec.Struct, frozen=True, gc=False):
    """A message as one client gets it.

    Units:  `cost` in bytes of the queues' common budget; 0 for a retained message, which is held anyway.
    """

    message: Message
    qos: int
    retain: bool
    ids: tuple[int, ...] = ()
    cost: int = 0


class BrokerSession:
    """One client id."""

    def __init__(
        self,
        client_id: str,
        keeper: Keeper,
        max_queue: int,
        max_retained: int,
        max_in_flight: int,
    ) -> None:
        self.client_id = client_id
        self.state = SessionState()
        self.grants: dict[str, Grant] = {}
        self.link: Link | None = None
        self.expiry = 0.0
        self.will: Will | None = None
        self.delayed_will: Will | None = None
        self.will_timer: asyncio.TimerHandle | None = None
        self.expiry_timer: asyncio.TimerHandle | None = None
        self._keeper = keeper
        self._max_queue = max_queue
        self._max_retained = max_retained
        self._is_doomed = False
        self._max_in_flight = max_in_flight
        self._queue: deque[Delivery] = deque()

    @property
    def waiting(self) -> int:
        return len(self._queue)

    def deliver(self, delivery: Delivery) -> None:
        """Send a message now, or when the client can take it."""
        if self._is_doomed:
            return
        if not self._queue and self._may_send(delivery.qos):
            self._send(delivery)
        elif self.link is None and not delivery.qos:
            self._keeper.dropped("offline")
        else:
            self._enqueue(delivery)

    def drain(self) -> None:
        """Send what waits, as far as the client takes it."""
        queue = self._queue
        while queue and self._may_send(queue[0].qos):
            delivery = queue.popleft()
            self._keeper.give_room(delivery.cost)
            self._send(delivery)

    def forget(self) -> None:
        """Drop what waits."""
        for delivery in self._queue:
            self._keeper.give_room(delivery.cost)
        self._queue.clear()

    def stop_timers(self) -> None:
        """The client is back, or the session is gone."""
        for timer in (self.will_timer, self.expiry_timer):
            if timer is not None:
                timer.cancel()
        self.will_timer = self.expiry_timer = self.delayed_will = None

    # --- inside -----------------------------------------------------------------------------------

    def _may_send(self, qos: int) -> bool:
        link = self.link
        if link is None or not link.session.is_open or link.unsent > MAX_UNSENT:
            return False
        if not qos:
            return True
        return link.session.window > 0 and len(self.state.outbound) < self._max_in_flight

    def _send(self, delivery: Delivery) -> None:
        link, message = self.link, delivery.message
        if link is None:
            raise AssertionError("_may_send was asked")
        properties = message.remaining(link.loop.time())
        if properties is None:
            self._keeper.dropped("expired")
            return
        if delivery.ids:
            properties = msgspec.structs.replace(properties, subscription_ids=delivery.ids)
        try:
            link.session.publish(
                message.topic, message.payload, delivery.qos, delivery.retain, properties
            )
        except TooLarge:  # MQTT 5.0, 3.1.2.11.4: act as if it had been sent
            self._keeper.dropped("too large for the client")
            return
        self._keeper.sent()
        link.flush_soon()

    def _enqueue(self, delivery: Delivery) -> None:
        limit = self._max_queue + (0 if delivery.cost else self._max_retained)
        while len(self._queue) >= limit or not self._keeper.take_room(delivery.cost):
            if not self._drop_oldest_qos_0():
                self._refuse(delivery)
                return
        self._queue.append(delivery)

    def _drop_oldest_qos_0(self) -> bool:
        for at, waiting in enumerate(self._queue):
            if not waiting.qos:
                del self._queue[at]
                self._keeper.give_room(waiting.cost)
                self._keeper.dropped("queue full")
                return True
        return False

    def _refuse(self, delivery: Delivery) -> None:
        self._keeper.dropped("queue full")
        if delivery.qos:
            self._is_doomed = True
            self._keeper.overflow(self)


def grant_of(
    entry: Subscription, topic_filter: TopicFilter, properties: Properties = NONE
) -> Grant:
    """Return the subscription that an entry of a SUBSCRIBE asks for."""
    return Grant(
        topic_filter,
        entry.qos,
        entry.no_local,
        entry.retain_as_published,
        properties.subscription_ids,
    )
