"""One open connection: a tap on what devices send, a sink for their answers, a listener for signals."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol, TypeVar

from gateway.connectivity.answering import Answering, Divert
from gateway.connectivity.endpoints import Inlet, Responses, Uploads, inlets, source_headers
from gateway.connectivity.inbound import Inbound
from gateway.connectivity.journal import Category, Entry, Journal, Step, Subject
from gateway.connectivity.mappers.base import Outgoing
from gateway.connectivity.mappers.engines import Configured, configured
from gateway.connectivity.model import Connection, Source
from gateway.connectivity.outbound import Outbound, Route
from gateway.connectivity.queries import Begin, Queries, Works
from gateway.ditto.service import PoliciesService, ThingsService
from gateway.errors import Forbidden, GatewayError
from gateway.model.message import CommandResponse, Kind, Message
from gateway.model.ports import CommandRouting, Done, Tap
from gateway.model.thing import ThingCommand, ThingEvent, ThingMessage
from gateway.observe.metrics import Metrics
from gateway.wire.ditto.announcements import CLOSED, OPENED, Announcement, connection_state

log = logging.getLogger(__name__)

S = TypeVar("S", ThingEvent, ThingMessage, ThingCommand)


class Taps(Protocol):
    """Where taps are put on messages."""

    def add_tap(
        self, tap: Tap, *, name: str | None = None, tenants: Iterable[str] = ()
    ) -> Callable[[], None]: ...

    def forget_tap(self, name: str, tenants: Iterable[str]) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Rooms:
    """What open connections work with.

    Shape:  `begin` makes tasks that are awaited at the end; `divert` gives answers to other connections.
    """

    things: ThingsService
    policies: PoliciesService
    routing: CommandRouting
    taps: Taps
    metrics: Metrics
    begin: Begin
    divert: Divert


def now_text() -> str:
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


class Runtime:
    """Implements Tap, ResponseSink, SignalListener and LiveListener for one connection while it is open."""

    def __init__(self, connection: Connection, rooms: Rooms, journal: Journal) -> None:
        mappers = configured(connection)
        self.connection = connection
        self.since = now_text()
        self._rooms = rooms
        self._journal = journal
        self._outbound = Outbound(
            connection, mappers, rooms.things, rooms.routing, journal, rooms.metrics
        )
        self._works = Works(rooms.begin)
        self._uploads: dict[tuple[str, Kind], list[Inbound]] = {}
        self._responses: dict[tuple[str, str], Inbound] = {}
        self._ends: list[Callable[[], None]] = []
        for index, source in enumerate(connection.sources):
            self._add_source(index, source, mappers)

    def _add_source(self, index: int, source: Source, mappers: Mapping[str, Configured]) -> None:
        named = [mappers[name] for name in source.mappers]
        answering = Answering(
            connection=self.connection,
            index=index,
            reply=source.reply,
            route=self._outbound.reply_route(source.reply, named) if source.reply else None,
            outbound=self._outbound,
            divert=self._rooms.divert,
            failed=self._not_diverted,
        )
        queries = Queries(self._rooms.things, self._works, answering.push)
        self._ends.append(queries.close)
        for address, inlet in inlets(self.connection, source):
            one = Inbound(
                connection=self.connection,
                source=source,
                address=address,
                headers=source_headers(self.connection, source, inlet),
                mappers=named,
                answering=answering,
                queries=queries,
                asked=self._outbound.asked,
                things=self._rooms.things,
                policies=self._rooms.policies,
                journal=self._journal,
                metrics=self._rooms.metrics,
            )
            self._add(inlet, one)

    def _add(self, inlet: Inlet, one: Inbound) -> None:
        if isinstance(inlet, Uploads):
            self._uploads.setdefault((inlet.tenant, inlet.kind), []).append(one)
        elif isinstance(inlet, Responses):
            self._responses[inlet.tenant, inlet.reply_id] = one

    # --- life -----------------------------------------------------------------------------------

    def open(self) -> None:
        """Begin to take messages and signals.

        Errors: Conflict `acknowledgement:label.not.unique`.
        """
        connection, things = self.connection, self._rooms.things
        if connection.labels:
            self._ends.append(things.desk.declare(connection.labels, connection.originator))
        if self._uploads:
            tenants = event_tenants(connection)
            self._ends.append(self._rooms.taps.add_tap(self, name=connection.id, tenants=tenants))
        if connection.targets:
            self._ends += [things.listen(self), things.live.listen(self)]
        self._hear_announcements()
        self._announce(OPENED)

    def close(self) -> None:
        """Say so to who wants to know, and take no more."""
        self._announce(CLOSED)
        while self._ends:
            self._ends.pop()()
        self._works.close()

    # --- announcements --------------------------------------------------------------------------

    def _hear_announcements(self) -> None:
        for topic, route in self._outbound.policy_routes():
            wanted = topic.subscription
            self._ends.append(
                self._rooms.policies.announcements.join(
                    wanted.subjects, wanted.namespaces, self._announcer(route)
                )
            )

    def _announcer(self, route: Route) -> Callable[[Announcement], None]:
        def send(announced: Announcement) -> None:
            try:
                self._outbound.on_policy_announcement(route, announced)
            except Exception:  # a listener never raises: the others still get the announcement
                log.exception("announcement not sent", extra={"connection": self.connection.id})

        return send

    def _announce(self, state: str) -> None:
        announced = connection_state(self.connection.id, state, now_text(), str(uuid.uuid4()))
        self._outbound.announce(announced)

    # --- diversion ------------------------------------------------------------------------------

    def take_diverted(self, origin: str, index: int, answer: Outgoing) -> None:
        """Send the answer to a command that came in by another connection's source.

        Errors: Forbidden for a connection that is no target of diversions, or not of this one's;
                BadRequest where it has no target at that place.
        """
        diversion = self.connection.diversion
        if not diversion.is_target or origin not in diversion.authorized:
            raise Forbidden(
                f"The connection '{self.connection.id}' takes no answers of '{origin}'.",
                description="See 'is-diversion-target' and 'authorized-connections-as-sources'.",
            )
        self._outbound.divert(index, answer)

    def _not_diverted(self, error: GatewayError, headers: Mapping[str, str], topic: str) -> None:
        about = Subject.of(topic)
        self._journal.note(
            Entry(
                category=Category.RESPONSE,
                step=Step.DROPPED,
                failure=f"The answer could not be diverted: {error.message}",
                correlation_id=headers.get("correlation-id", ""),
                entity_id=about.entity_id,
                entity_type=about.entity_type,
            )
        )

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
