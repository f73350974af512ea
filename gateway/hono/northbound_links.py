"""The links of an application: receivers of telemetry, events and responses, senders of commands.

A link object is what a wire link's `context` holds; it turns deliveries into calls of the ports and outcomes
back into delivery states.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Container
from functools import partial
from typing import Final

import msgspec

from gateway.errors import (
    ConsumerTimeout,
    GatewayError,
    MalformedPacket,
    NoConsumer,
    NotProcessed,
    Unencodable,
)
from gateway.hono.amqp_messages import (
    COMMAND,
    COMMAND_RESPONSE,
    ForeignTenant,
    MessageEncoder,
    command_of,
    encode_response,
)
from gateway.hono.amqp_outcomes import (
    command_state,
    error_of,
    event_outcome_of,
)
from gateway.hono.amqp_shell import AmqpProtocol
from gateway.hono.consumers import EventOutcome
from gateway.hono.unencodable import note_unencodable
from gateway.model.message import CommandResponse, Kind, Message
from gateway.model.ports import CommandRouting, Done
from gateway.observe.histograms import Tally
from gateway.observe.metrics import Metrics
from gateway.outcome import BAD_REQUEST, NOT_FOUND, UNAUTHORIZED
from gateway.store.ports import StoredEvent
from gateway.wire.amqp.link import Incoming, ReceiverLink, SenderLink, Sent
from gateway.wire.amqp.message import decode_message
from gateway.wire.amqp.performatives import RELEASED, Error, Rejected

log = logging.getLogger(__name__)

MAX_UNSETTLED: Final = 10_000
"""Deliveries without an outcome on one link; above it the link has no credit for us."""


class Answer(msgspec.Struct, eq=False):
    """What an application said about deliveries, maybe many at once.

    Shape:  `outcome` is Hono's label of `state`; `at` on the loop's clock.
    """

    state: object
    outcome: str
    at: float


class DeliveryMeter(dict[str, Tally]):
    """Hono's delivery timer of one tenant and type, by outcome.

    A tally is made with the first delivery, which only registered tenants have: what an application makes up
    as an address becomes no label.
    """

    def __init__(self, metrics: Metrics, tenant: str, kind: str) -> None:
        super().__init__()
        self._metrics = metrics
        self._labels = (tenant, kind)

    def __missing__(self, outcome: str) -> Tally:
        tally = self._metrics.amqp_delivery_seconds.labels(*self._labels, outcome)
        self[outcome] = tally
        return tally


class Waiting(msgspec.Struct, eq=False):
    """What a delivery on its way to an application is remembered by."""

    meter: DeliveryMeter
    started: float
    outcome: Done | None
    event_ended: Callable[[EventOutcome], None] | None = None

    def end(self, answer: Answer) -> None:
        """Tell the outcome of a settled delivery."""
        self.meter[answer.outcome].observe(answer.at - self.started)
        if self.outcome is not None:
            self.outcome(None if answer.outcome == "accepted" else error_of(answer.state))
        elif self.event_ended is not None:
            self.event_ended(event_outcome_of(answer.state))

    def lose(self) -> None:
        """The link is gone."""
        if self.outcome is not None:
            self.outcome(NotProcessed())
        elif self.event_ended is not None:
            self.event_ended(EventOutcome.FAILED)


class ConsumerLink:
    """A receiver of telemetry or events: the `Consumer` of downstream messaging."""

    def __init__(
        self,
        protocol: AmqpProtocol,
        link: SenderLink,
        encoder: MessageEncoder,
        meter: DeliveryMeter,
        tenant: str,
        kind: Kind,
    ) -> None:
        self.tenant = tenant
        self.kind = kind
        self.leave: Callable[[], None] = lambda: None
        self._protocol = protocol
        self._link = link
        self._encoder = encoder
        self._meter = meter

    @property
    def credit(self) -> int:
        link = self._link
        if not self._protocol.is_writable or link.unsettled >= MAX_UNSETTLED:
            return 0
        return link.sendable

    def send(self, message: Message, outcome: Done) -> Callable[[], None] | None:
        return self.send_encoded(self._encoder.encode(message), outcome)

    def send_encoded(self, payload: bytes, outcome: Done) -> Callable[[], None] | None:
        protocol = self._protocol
        waiting = Waiting(self._meter, protocol.now, outcome)
        sent = self._link.send(payload, waiting)
        protocol.flush_soon()
        if sent is None:
            outcome(None)
            return None
        return partial(self._withdraw, sent)

    def _withdraw(self, sent: Sent) -> None:
        self._link.withdraw(sent, RELEASED)
        self._protocol.flush_soon()

    def send_event(self, event: StoredEvent, outcome: Callable[[EventOutcome], None]) -> None:
        payload = self._encoder.encode_event(event.message, event.attempts, event.left)
        waiting = Waiting(self._meter, self._protocol.now, None, outcome)
        sent = self._link.send(payload, waiting)
        self._protocol.flush_soon()
        if sent is None:
            outcome(EventOutcome.DONE)

    def lost(self, unsettled: tuple[Sent, ...]) -> None:
        """The link is gone: what has no outcome goes to others, and we leave."""
        for sent in unsettled:
            if isinstance(sent.context, Waiting):
                sent.context.lose()
        self.leave()


class _Meters(dict[str, DeliveryMeter]):
    """The delivery timers of responses, by tenant; made with a tenant's first response."""

    def __init__(self, metrics: Metrics) -> None:
        super().__init__()
        self._metrics = metrics

    def __missing__(self, tenant: str) -> DeliveryMeter:
        meter = self[tenant] = DeliveryMeter(self._metrics, tenant, COMMAND_RESPONSE)
        return meter


class ResponseLink:
    """A receiver of command responses at one reply address; `may_use` says of which tenants."""

    def __init__(
        self,
        protocol: AmqpProtocol,
        link: SenderLink,
        metrics: Metrics,
        timeout: float,
        may_use: Callable[[str], bool],
    ) -> None:
        self.leave: Callable[[], None] = lambda: None
        self.may_use = may_use
        self._protocol = protocol
        self._link = link
        self._metrics = metrics
        self._meters = _Meters(metrics)
        self._timeout = timeout

    @property
    def credit(self) -> int:
        if not self._protocol.is_writable or self._link.unsettled >= MAX_UNSETTLED:
            return 0
        return self._link.sendable

    def take(self, response: CommandResponse, done: Done) -> None:
        """Send a response; `done` once the application has accepted it."""
        if self.credit <= 0:
            done(NoConsumer())
            return
        try:
            payload = encode_response(response)
        except Unencodable as error:
            note_unencodable(
                self._metrics, COMMAND_RESPONSE, response.tenant, response.device, error
            )
            done(error)
            return
        waiting = _TimedWaiting(self._meters[response.tenant], self._protocol.now, done)
        sent = self._link.send(payload, waiting)
        self._protocol.flush_soon()
        if sent is None:
            done(None)
            return
        waiting.timer = asyncio.get_running_loop().call_later(
            self._timeout, self._expire, sent, waiting
        )

    def _expire(self, sent: Sent, waiting: _TimedWaiting) -> None:
        self._link.withdraw(sent, RELEASED)
        self._protocol.flush_soon()
        waiting.finish(ConsumerTimeout())

    def lost(self, unsettled: tuple[Sent, ...]) -> None:
        for sent in unsettled:
            if isinstance(sent.context, _TimedWaiting):
                sent.context.finish(NotProcessed())
        self.leave()


class _TimedWaiting:
    """One response on its way, with the timer that ends the wait."""

    __slots__ = ("_done", "_meter", "_started", "timer")

    def __init__(self, meter: DeliveryMeter, started: float, done: Done) -> None:
        self._meter = meter
        self._started = started
        self._done = done
        self.timer: asyncio.TimerHandle | None = None

    def end(self, answer: Answer) -> None:
        """Tell the outcome of a settled delivery."""
        self._meter[answer.outcome].observe(answer.at - self._started)
        self.finish(error_of(answer.state))

    def finish(self, error: GatewayError | None) -> None:
        if self.timer is not None:
            self.timer.cancel()
        self._done(error)


class CommandLink:
    """A sender of commands, to one tenant or (anonymous) to those its user may write to.

    `nodes` are the names of dynamic nodes, which commands may have as reply-to.
    """

    def __init__(
        self,
        protocol: AmqpProtocol,
        link: ReceiverLink,
        routing: CommandRouting,
        tenant: str | None,
        may_use: Callable[[str], bool],
        nodes: Container[str],
    ) -> None:
        self._protocol = protocol
        self._link = link
        self._nodes = nodes
        self._routing = routing
        self._tenant = tenant
        self._may_use = may_use

    def arrived(self, delivery: Incoming) -> None:
        """Route a command; its outcome settles the delivery."""
        try:
            message = decode_message(delivery.payload)
            if self._tenant is None and not self._is_routable(message.properties.to):
                error = Error(NOT_FOUND, f"no route to {(message.properties.to or '')[:128]!r}")
                self._settle(delivery, Rejected(error))
                return
            command = command_of(message, self._tenant, self._nodes)
        except (ForeignTenant, MalformedPacket) as error:
            condition = UNAUTHORIZED if isinstance(error, ForeignTenant) else BAD_REQUEST
            self._settle(delivery, Rejected(Error(condition, error.message)))
        except GatewayError as error:
            self._settle(delivery, command_state(error))
        else:
            if self._may_use(command.tenant):
                self._routing.route(command, self._done(delivery))
            else:
                self._settle(delivery, Rejected(Error(UNAUTHORIZED, "unauthorized")))

    @staticmethod
    def _is_routable(to: str | None) -> bool:
        return to is not None and to.partition("/")[0] == COMMAND

    def _done(self, delivery: Incoming) -> Done:
        def done(error: GatewayError | None) -> None:
            self._settle(delivery, command_state(error))

        return done

    def _settle(self, delivery: Incoming, state: object) -> None:
        self._link.settle(delivery, state)
        self._protocol.flush_soon()

    def lost(self, _unsettled: tuple[Sent, ...]) -> None:
        """Commands on their way go on; nobody is told."""
