"""One open connection: a tap on what devices send, a sink for their answers, a listener for signals."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Protocol, TypeVar

from gateway.connectivity.endpoints import Inlet, Responses, Uploads, inlets
from gateway.connectivity.inbound import Inbound, PolicyRunner
from gateway.connectivity.journal import Journal
from gateway.connectivity.mappers.engines import configured
from gateway.connectivity.model import Connection
from gateway.connectivity.outbound import Outbound
from gateway.ditto.service import ThingsService
from gateway.errors import GatewayError
from gateway.model.message import CommandResponse, Kind, Message
from gateway.model.ports import CommandRouting, Done, Tap
from gateway.model.thing import ThingCommand, ThingEvent, ThingMessage
from gateway.observe.metrics import Metrics

log = logging.getLogger(__name__)

S = TypeVar("S", ThingEvent, ThingMessage, ThingCommand)


class Taps(Protocol):
    """Where taps are put on messages."""

    def add_tap(
        self, tap: Tap, *, name: str | None = None, tenants: Iterable[str] = ()
    ) -> Callable[[], None]: ...

    def forget_tap(self, name: str, tenants: Iterable[str]) -> None: ...


def now_text() -> str:
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


class Runtime:
    """Implements Tap, ResponseSink, SignalListener and LiveListener for one connection while it is open."""

    def __init__(
        self,
        connection: Connection,
        things: ThingsService,
        policies: PolicyRunner,
        routing: CommandRouting,
        journal: Journal,
        metrics: Metrics,
    ) -> None:
        mappers = configured(connection)
        self.connection = connection
        self.since = now_text()
        self._outbound = Outbound(connection, mappers, things, routing, journal, metrics)
        self._uploads: dict[tuple[str, Kind], list[Inbound]] = {}
        self._responses: dict[tuple[str, str], Inbound] = {}
        for source in connection.sources:
            for address, inlet in inlets(connection, source):
                one = Inbound.of(
                    connection,
                    source,
                    address,
                    inlet,
                    mappers,
                    things,
                    policies,
                    self._outbound,
                    journal,
                    metrics,
                )
                self._add(inlet, one)
        self._things = things
        self._ends: list[Callable[[], None]] = []

    def _add(self, inlet: Inlet, one: Inbound) -> None:
        if isinstance(inlet, Uploads):
            self._uploads.setdefault((inlet.tenant, inlet.kind), []).append(one)
        elif isinstance(inlet, Responses):
            self._responses[inlet.tenant, inlet.reply_id] = one

    # --- life -----------------------------------------------------------------------------------

    def open(self, taps: Taps) -> None:
        """Begin to take messages and signals.

        Errors: Conflict `acknowledgement:label.not.unique`.
        """
        connection = self.connection
        if connection.labels:
            self._ends.append(self._things.desk.declare(connection.labels, connection.originator))
        if self._uploads:
            self._ends.append(
                taps.add_tap(self, name=self.connection.id, tenants=event_tenants(self.connection))
            )
        if self.connection.targets:
            self._ends += [self._things.listen(self), self._things.live.listen(self)]

    def close(self) -> None:
        """Take no more."""
        while self._ends:
            self._ends.pop()()

    # --- Tap ------------------------------------------------------------------------------------

    def is_open(self, message: Message) -> bool:
        """True for messages of its sources; `take` skips copies of what changes the twin by another way."""
        return (message.tenant, message.kind) in self._uploads

    def take(self, message: Message, done: Done) -> None:
        found = self._uploads.get((message.tenant, message.kind), ())
        if not found or message.twin_owned:
            done(None)
            return
        merged = _All(len(found), done)
        for inbound in found:
            inbound.take(message, merged.one)

    # --- ResponseSink ---------------------------------------------------------------------------

    def owns(self, tenant: str, reply_id: str) -> bool:
        return (tenant, reply_id) in self._responses

    def take_response(self, response: CommandResponse) -> None:
        """Hand an answer of an owned reply address to who waits for it."""
        self._responses[response.tenant, response.reply_id].take_response(response)

    # --- SignalListener -------------------------------------------------------------------------

    def on_event(self, event: ThingEvent) -> None:
        self._tell(self._outbound.on_event, event)

    def on_message(self, message: ThingMessage) -> None:
        self._tell(self._outbound.on_message, message)

    # --- LiveListener ---------------------------------------------------------------------------

    def on_live_command(self, command: ThingCommand) -> None:
        self._tell(self._outbound.on_live_command, command)

    def on_live_event(self, event: ThingEvent) -> None:
        self._tell(self._outbound.on_live_event, event)

    def _tell(self, send: Callable[[S], None], signal: S) -> None:
        if signal.originator == self.connection.originator:
            return
        try:
            send(signal)
        except Exception:  # a listener never raises: the others still get the signal
            log.exception("signal not sent", extra={"connection": self.connection.id})


def event_tenants(connection: Connection) -> tuple[str, ...]:
    """The tenants whose events a connection takes."""
    found = (i for s in connection.sources for _, i in inlets(connection, s))
    tenants = (i.tenant for i in found if isinstance(i, Uploads) and i.kind is Kind.EVENT)
    return tuple(dict.fromkeys(tenants))


class _All:
    """Calls `done` once all parts are done; an error counts."""

    def __init__(self, waits: int, done: Done) -> None:
        self._waits = waits
        self._done = done
        self._error: GatewayError | None = None

    def one(self, error: GatewayError | None) -> None:
        self._error = self._error or error
        self._waits -= 1
        if not self._waits:
            self._done(self._error)
