"""Signals on their way out: mapped, given their headers, sent to a device as a Hono command.

A live message whose sender waits becomes a command with a reply address; who sent it is remembered for a
while, so that an answer that is not Ditto Protocol can still be given to the one who waits.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gateway.connectivity.endpoints import HONO, reply_headers, target_headers
from gateway.connectivity.errors import invalid
from gateway.connectivity.journal import Category, Entry, Journal, Step, Subject
from gateway.connectivity.mappers.base import External, Outgoing
from gateway.connectivity.mappers.engines import Configured, applies
from gateway.connectivity.model import (
    CONNECTION_ANNOUNCEMENTS,
    LIVE_COMMANDS,
    LIVE_EVENTS,
    LIVE_MESSAGES,
    POLICY_ANNOUNCEMENTS,
    TWIN_EVENTS,
    Connection,
    ReplyTarget,
    Target,
    Topic,
)
from gateway.connectivity.scopes import header_scope, signal_scope, texts, time_scope
from gateway.ditto.desk import Desk
from gateway.ditto.service import ThingsService
from gateway.ditto.subscriptions import Heard, Seen
from gateway.errors import BadRequest, GatewayError
from gateway.model.json import JsonObject, format_pointer
from gateway.model.message import Command
from gateway.model.ports import CommandRouting, Done
from gateway.model.thing import ThingCommand, ThingEvent, ThingMessage
from gateway.model.trace import TraceContext
from gateway.observe.metrics import Metrics
from gateway.wire.ditto.announcements import Announcement
from gateway.wire.ditto.headers import error_json
from gateway.wire.ditto.placeholders import Lookup, Scope, Template
from gateway.wire.ditto.read import Acknowledgement
from gateway.wire.ditto.topic import thing_topic
from gateway.wire.ditto.write import (
    event_frame,
    event_headers,
    event_topic,
    live_command_frame,
    live_command_headers,
    live_command_topic,
    message_frame,
    message_path,
)

MAX_ASKED = 10_000


class Asked:
    """Live messages that went out and may be answered: correlation id -> the message. Bounded, oldest go."""

    def __init__(self) -> None:
        self._messages: OrderedDict[str, ThingMessage] = OrderedDict()

    def add(self, message: ThingMessage) -> None:
        self._messages[message.correlation_id] = message
        while len(self._messages) > MAX_ASKED:
            self._messages.popitem(last=False)

    def take(self, correlation_id: str) -> ThingMessage | None:
        return self._messages.pop(correlation_id, None)


@dataclass(frozen=True, slots=True)
class Route:
    """Where one target or reply target sends: its address, headers and mappers."""

    address: Template
    headers: Mapping[str, Template]
    mappers: Sequence[Configured]
    category: Category
    issued: str | None = None


class Outbound:
    """What one open connection sends."""

    def __init__(
        self,
        connection: Connection,
        mappers: Mapping[str, Configured],
        things: ThingsService,
        routing: CommandRouting,
        journal: Journal,
        metrics: Metrics,
    ) -> None:
        self._connection = connection
        self._things = things
        self._announcements = things.policies.announcements
        self._routing = routing
        self._journal = journal
        self._counts = metrics.connection_messages
        self._targets = [(target, self._route_of(target, mappers)) for target in connection.targets]
        self._declared = [label for source in connection.sources for label in source.declared]
        self.asked = Asked()

    def _route_of(self, target: Target, mappers: Mapping[str, Configured]) -> Route:
        headers = target_headers(self._connection, target.headers)
        named = [mappers[name] for name in target.mappers]
        return Route(target.address, headers, named, Category.TARGET, target.issued)

    def reply_route(self, reply: ReplyTarget, mappers: Sequence[Configured]) -> Route | None:
        """Where the responses of a source go, None when nowhere."""
        if not reply.enabled or reply.address is None:
            return None
        headers = reply_headers(self._connection, reply.headers)
        return Route(reply.address, headers, mappers, Category.RESPONSE)

    # --- signals --------------------------------------------------------------------------------

    def on_event(self, event: ThingEvent) -> None:
        """A twin event for every target that may and wants to see it."""
        self._event(TWIN_EVENTS, event)

    def on_live_event(self, event: ThingEvent) -> None:
        """A live event, likewise."""
        self._event(LIVE_EVENTS, event)

    def _event(self, kind: str, event: ThingEvent) -> None:
        for topic, route in self._routes(kind):
            seen = topic.subscription.see(event, self._things)
            if seen is not None:
                self._send_to(route, event.thing_id, outgoing_event(seen), event.trace)

    def on_message(self, message: ThingMessage) -> None:
        """A live message, likewise."""
        for topic, route in self._routes(LIVE_MESSAGES):
            heard = topic.subscription.hear(message, self._things)
            if heard is None:
                continue
            if message.response_required:
                self.asked.add(message)
            outgoing = outgoing_message(message, heard.extra)
            self._send_to(route, message.thing_id, outgoing, message.trace)

    def on_live_command(self, command: ThingCommand) -> None:
        """A live command, likewise."""
        for topic, route in self._routes(LIVE_COMMANDS):
            heard = topic.subscription.hear(command, self._things)
            if heard is not None:
                self._send_to(route, command.thing_id, outgoing_command(heard), command.trace)

    def on_policy_announcement(self, route: Route, announced: Announcement) -> None:
        """An announcement of a policy for one target; publishing acknowledges it, where that is asked for."""
        correlation_id = str(announced.headers.get("correlation-id", ""))
        label = route.issued or ""

        def told(error: GatewayError | None) -> None:
            status = 200 if error is None else error.status
            self._announcements.acknowledge(announced.entity_id, correlation_id, label, status)

        is_asked = label in announced.headers.get("requested-acks", ())
        self.send(route, _outgoing_announcement(announced), None, told if is_asked else None)

    def announce(self, announced: Announcement) -> None:
        """Tell the targets that want to know of the connection itself."""
        for _, route in self._routes(CONNECTION_ANNOUNCEMENTS):
            self.send(route, _outgoing_announcement(announced), None)

    def divert(self, index: int, answer: Outgoing) -> None:
        """Send another connection's answer to the target at a place.

        Errors: BadRequest where there is no such target.
        """
        if index >= len(self._targets):
            raise BadRequest(f"It has no target for the answers of source {index + 1}.")
        self.send(self._targets[index][1], answer, None)

    def policy_routes(self) -> Sequence[tuple[Topic, Route]]:
        """Where announcements of policies go."""
        return self._routes(POLICY_ANNOUNCEMENTS)

    def _routes(self, kind: str) -> Sequence[tuple[Topic, Route]]:
        return [
            (topic, route)
            for target, route in self._targets
            for topic in target.topics
            if topic.kind == kind
        ]

    # --- sending --------------------------------------------------------------------------------

    def _send_to(
        self, route: Route, thing_id: str, signal: Outgoing, trace: TraceContext | None
    ) -> None:
        """Send to a target, and acknowledge what asks for it: publishing, or that a device was told."""
        wanted = signal.headers.get("requested-acks")
        if not isinstance(wanted, list):
            self.send(route, signal, trace)
            return
        issuer = _Issuer(self._things.desk, self._connection.originator, thing_id, signal, route)
        sent = self.send(route, signal, trace, issuer.issue if route.issued in wanted else None)
        if sent:
            issuer.reached(self._declared)

    def send(
        self,
        route: Route,
        signal: Outgoing,
        trace: TraceContext | None,
        told: Done | None = None,
    ) -> bool:
        """Map a signal and send what comes out; every outcome is in the journal, and goes to `told`.

        Shape:  True when something was sent.
        """
        scope = self._scope(signal)
        sent = False
        entry = _Noted(self._journal, route, signal)
        for configured in route.mappers:
            try:
                is_meant = applies(configured.outgoing, scope)
                external = configured.mapper.outgoing(signal) if is_meant else None
                if external is not None:
                    sent |= self._publish(route, external, scope, entry, trace, told)
            except GatewayError as error:
                entry.note(Step.MAPPED, error)
                if told is not None:
                    told(error)
        return sent

    def _scope(self, signal: Outgoing) -> dict[str, Lookup]:
        known = texts(signal.headers)
        return {
            **signal_scope(signal.topic, signal.path),
            "header": header_scope(known),
            "connection": {"id": self._connection.id}.get,
            "request": {"subjectId": known.get("ditto-originator")}.get,
            "time": time_scope,
        }

    def _publish(
        self,
        route: Route,
        external: External,
        scope: Scope,
        entry: _Noted,
        trace: TraceContext | None,
        told: Done | None,
    ) -> bool:
        address = route.address.resolve(scope)
        if address is None:
            entry.note(Step.DROPPED, None, "The address could not be resolved.")
            return False
        headers = dict(external.headers)
        for name, template in route.headers.items():
            if (value := template.resolve(scope)) is not None:
                headers[name.lower()] = value
        command = command_of(self._connection, address, headers, external, trace)

        def done(error: GatewayError | None) -> None:
            self._counts.labels("outbound", "failure" if error else "success").inc()
            entry.note(Step.PUBLISHED, error)
            if told is not None:
                told(error)

        self._routing.route(command, done)
        return True


@dataclass(frozen=True, slots=True)
class _Issuer:
    """Acknowledges one signal in the name of a connection."""

    desk: Desk
    owner: str
    thing_id: str
    signal: Outgoing
    route: Route

    @property
    def correlation_id(self) -> str:
        return str(self.signal.headers.get("correlation-id", ""))

    def reached(self, declared: Sequence[str]) -> None:
        """A device was told, and may acknowledge what the sources declared."""
        issued = (self.route.issued,) if self.route.issued else ()
        self.desk.reached(self.thing_id, self.correlation_id, (*declared, *issued))

    def issue(self, error: GatewayError | None) -> None:
        """Acknowledge that the signal was published, or was not."""
        assert self.route.issued is not None  # noqa: S101  asked only for routes that issue
        ack = Acknowledgement(
            thing_id=self.thing_id,
            channel=self.signal.topic.split("/")[3],
            label=self.route.issued,
            correlation_id=self.correlation_id,
            status=200 if error is None else error.status,
            value=None if error is None else {**error_json(error)},
            has_value=error is not None,
        )
        self.desk.acknowledge(ack, self.owner)


@dataclass(frozen=True, slots=True)
class _Noted:
    """Writes the outcomes of one signal into the journal."""

    journal: Journal
    route: Route
    signal: Outgoing

    def note(self, step: Step, error: GatewayError | None, message: str = "") -> None:
        about = Subject.of(self.signal.topic)
        self.journal.note(
            Entry(
                category=self.route.category,
                step=step,
                address=self.route.address.text,
                failure=None if error is None else _reason(error),
                correlation_id=str(self.signal.headers.get("correlation-id", "")),
                entity_id=about.entity_id,
                entity_type=about.entity_type,
                message=message,
            )
        )


def outgoing_event(seen: Seen) -> Outgoing:
    """A twin event on its way out."""
    event = seen.event
    headers = event_headers(event)
    frame = event_frame(event, seen.extra)
    return Outgoing(event_topic(event), format_pointer(event.path), headers, frame, seen=seen)


def outgoing_message(message: ThingMessage, extra: JsonObject | None = None) -> Outgoing:
    """A live message on its way out."""
    headers = {
        **message.headers,
        "correlation-id": message.correlation_id,
        "response-required": message.response_required,
    }
    if message.content_type is not None:
        headers["content-type"] = message.content_type
    return Outgoing(
        thing_topic(message.thing_id, "live", "messages", message.subject),
        message_path(message),
        headers,
        message_frame(message, extra),
        message.payload,
        message.content_type,
        is_message=True,
    )


def outgoing_command(heard: Heard[ThingCommand]) -> Outgoing:
    """A live command on its way out."""
    command = heard.signal
    return Outgoing(
        live_command_topic(command),
        format_pointer(command.path),
        live_command_headers(command),
        live_command_frame(command, heard.extra),
    )


def _outgoing_announcement(announced: Announcement) -> Outgoing:
    return Outgoing(announced.topic, "/", announced.headers, announced.frame)


def _reason(error: GatewayError) -> str:
    return f"{error.message} {error.description}" if error.description else error.message


def command_of(
    connection: Connection,
    address: str,
    headers: Mapping[str, str],
    external: External,
    trace: TraceContext | None,
) -> Command:
    """The Hono command that an external message stands for.

    Shape:  `to` (AMQP), else the address, is `command/{tenant}/{device}`; of type `hono` the device is the
            header `device_id`.
    Errors: BadRequest where device or subject are missing.
    """
    tenant, device = _device_of(connection, headers.get("to") or address, headers)
    subject = headers.get("subject", "")
    if not device or not subject:
        raise invalid(
            f"A command needs a device and a subject; address '{address}' and the header mapping give"
            f" '{device}' and '{subject}'."
        )
    return Command(
        tenant=tenant,
        device=device,
        name=subject,
        payload=external.payload,
        content_type=headers.get("content-type") or external.content_type,
        correlation_id=headers.get("correlation-id"),
        reply_to=_reply_to(connection, tenant, headers),
        trace=trace,
    )


def _device_of(connection: Connection, address: str, headers: Mapping[str, str]) -> tuple[str, str]:
    if connection.type == HONO and not address.startswith("command/"):
        return connection.tenant, headers.get("device_id", "")
    endpoint, _, rest = address.partition("/")
    tenant, _, device = rest.partition("/")
    if endpoint != "command" or not tenant:
        raise invalid(
            f"Only the address 'command/{{tenant}}/{{device}}' is served, got '{address}'."
        )
    return tenant, device


def _reply_to(connection: Connection, tenant: str, headers: Mapping[str, str]) -> str | None:
    if connection.type != HONO:
        return headers.get("reply-to")
    wanted = headers.get("response-required", "false")
    return None if wanted == "false" else f"command_response/{tenant}/{connection.id}"
