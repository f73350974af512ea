"""Senders to a messaging network: one link per address, its credit, and the few messages that wait for it.

A link without credit and without messages under way has nobody who takes: what is sent there is refused with
NoConsumer, as Hono's adapters do. Where credit is only used up for the moment, or the link is just being
attached, up to `MAX_QUEUE` messages wait for it; more are refused. What has no outcome after the time-out is
taken back and told as ConsumerTimeout, or NoConsumer where it never went out.
Links are kept for the addresses that were used last.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from typing import Final

import msgspec

from gateway.errors import (
    ConsumerTimeout,
    GatewayError,
    NoConsumer,
    NotProcessed,
    QuotaExceeded,
    Undeliverable,
)
from gateway.hono.amqp_outcomes import error_of
from gateway.hono.remote_services.connection import ServiceConnection
from gateway.model.ports import Done
from gateway.outcome import RESOURCE_LIMIT
from gateway.wire.amqp.link import Incoming, ReceiverLink, SenderLink, Sent
from gateway.wire.amqp.performatives import RELEASED, Accepted, Error, Rejected

MAX_QUEUE: Final = 1_000
MAX_UNSETTLED: Final = 10_000
MAX_LINKS: Final = 2_000
MAX_IN_FLIGHT: Final = 100_000
FLOW_LATENCY: Final = 0.05
"""Seconds that a new link's first credit may take; Hono's clients wait 20 ms."""


class Parcel(msgspec.Struct, eq=False):
    """One message on its way; its outcome comes once.

    Shape:  `at_most_once` counts as delivered when it has gone out; `deadline` on the loop's clock.
    """

    link: OutLink
    payload: bytes
    done: Done | None
    at_most_once: bool
    deadline: float
    sent: Sent | None = None

    def settled(self, state: object) -> None:
        """The peer told its outcome; None says that the link was lost."""
        self.sent = None
        done, self.done = self.done, None
        if done is not None:
            done(None if type(state) is Accepted else _error_of(state))

    def end(self, error: GatewayError | None) -> None:
        """Tell the outcome, the first one only."""
        done, self.done = self.done, None
        if done is not None:
            done(error)

    def expire(self) -> None:
        """Its time is over."""
        done, self.done = self.done, None
        if done is None:
            return
        was_sent = self.sent is not None
        self.link.withdraw(self)
        done(ConsumerTimeout() if was_sent else NoConsumer())


def _error_of(state: object) -> GatewayError | None:
    """Return what an outcome means; our own services tell a tenant's exceeded data volume by its text."""
    if isinstance(state, Rejected) and isinstance(state.error, Error):
        said = state.error
        is_volume = said.description == QuotaExceeded.default_message
        if said.condition == RESOURCE_LIMIT and is_volume:
            return QuotaExceeded()
    return error_of(state)


class OutLink:
    """One address."""

    def __init__(self, connection: ServiceConnection, address: str) -> None:
        self._connection = connection
        self._waiting: deque[Parcel] = deque()
        self._is_new = True
        self.is_over = False
        self._link: SenderLink = connection.attach_sender(address, self)

    @property
    def is_idle(self) -> bool:
        return not self._waiting and not self._link.unsettled

    def send(self, parcel: Parcel) -> bool:
        """Send a message, or let it wait; False where nobody takes it."""
        if not self._waiting and self._may_send():
            self._send(parcel)
        elif self._may_wait():
            self._waiting.append(parcel)
        else:
            return False
        return True

    def _may_send(self) -> bool:
        link = self._link
        return link.sendable > 0 and link.unsettled < MAX_UNSETTLED and self._connection.is_writable

    def _may_wait(self) -> bool:
        """True where credit is to be expected soon."""
        link = self._link
        is_moving = self._is_new or link.unsettled > 0 or link.credit > 0
        return is_moving and len(self._waiting) < MAX_QUEUE

    def _send(self, parcel: Parcel) -> None:
        sent = parcel.sent = self._link.send(parcel.payload, parcel.settled)
        parcel.payload = b""
        self._connection.flush_soon()
        if sent is None or parcel.at_most_once:
            parcel.end(None)

    def withdraw(self, parcel: Parcel) -> None:
        """Settle a parcel as released, or forget it where it still waits."""
        sent, parcel.sent = parcel.sent, None
        if sent is not None:
            self._link.withdraw(sent, RELEASED)
            self._connection.flush_soon()
        elif parcel in self._waiting:
            self._waiting.remove(parcel)

    def close(self) -> None:
        """End the link."""
        self._connection.detach(self._link)

    # --- the link's owner -----------------------------------------------------------------------------

    def attached(self) -> None:
        """Credit follows soon, or there is nobody."""
        asyncio.get_running_loop().call_later(FLOW_LATENCY, self._settle_down)

    def _settle_down(self) -> None:
        """A link that got no credit by now has none to wait for."""
        if self._is_new and not self.is_over:
            self._is_new = False
            self._give_up(NoConsumer())

    def sendable(self) -> None:
        self._is_new = False
        while self._waiting and self._may_send():
            self._send(self._waiting.popleft())

    def arrived(self, link: ReceiverLink, delivery: Incoming) -> None:  # noqa: ARG002  LinkOwner's signature
        raise AssertionError("nothing arrives on a link that we send on")

    def detached(self, error: Error | None) -> None:
        self.is_over = True
        if error is None:
            self._give_up(NotProcessed())
        else:
            self._give_up(Undeliverable(f"{error.condition}: {error.description}"))

    def _give_up(self, error: GatewayError) -> None:
        waiting, self._waiting = self._waiting, deque()
        for parcel in waiting:
            parcel.end(error)


class OutLinks:
    """The links of one connection, by address; loop-bound, started by the first message.

    Shape:  `on_timeout` hears what a message that was given up was about, as `send` was told.
    Units:  `timeout` in seconds.
    """

    def __init__(
        self,
        connection: ServiceConnection,
        timeout: float,
        *,
        capacity: int = MAX_LINKS,
    ) -> None:
        self._connection = connection
        self._timeout = timeout
        self._capacity = capacity
        self._links: OrderedDict[str, OutLink] = OrderedDict()
        self._flights: deque[Parcel] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def send(self, address: str, payload: bytes, done: Done, *, at_most_once: bool = False) -> None:
        """Send a message to an address.

        Errors (through `done`): NoConsumer; ConsumerTimeout; NotProcessed when the link is lost;
            StoreUnavailable while there is no connection; Undeliverable when the peer refuses the link; what
            the peer says.
        """
        link = self._links.get(address)
        if link is None or link.is_over:
            try:
                link = self._attach(address)
            except GatewayError as error:
                done(error)
                return
        loop = self._loop
        if loop is None:
            loop = self._loop = asyncio.get_running_loop()
        parcel = Parcel(link, payload, done, at_most_once, loop.time() + self._timeout)
        if len(self._flights) >= MAX_IN_FLIGHT or not link.send(parcel):
            done(NoConsumer())
        elif parcel.done is not None:
            self._watch(parcel, loop)

    def _attach(self, address: str) -> OutLink:
        link = self._links[address] = OutLink(self._connection, address)
        excess = len(self._links) - self._capacity
        if excess > 0:
            idle = [known for known, one in self._links.items() if one.is_idle and one is not link]
            for known in idle[:excess]:
                self._links.pop(known).close()
        return link

    def _watch(self, parcel: Parcel, loop: asyncio.AbstractEventLoop) -> None:
        flights = self._flights
        while flights and flights[0].done is None:
            flights.popleft()
        flights.append(parcel)
        if self._timer is None:
            self._timer = loop.call_at(parcel.deadline, self._expire)

    def _expire(self) -> None:
        """Give up what is over time."""
        loop, flights = asyncio.get_running_loop(), self._flights
        now = loop.time()
        while flights and (flights[0].done is None or flights[0].deadline <= now):
            flights.popleft().expire()
        self._timer = loop.call_at(flights[0].deadline, self._expire) if flights else None
