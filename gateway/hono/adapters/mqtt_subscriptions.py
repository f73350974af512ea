"""What one MQTT device has subscribed to, and the commands that are on their way to it.

Subscriptions that mean the same (`command///req/#` of device 4711 and `c//4711/q/#`) are one: the later
replaces the earlier.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from gateway.errors import BadRequest, GatewayError, MalformedTopic, NotProcessed, Undeliverable
from gateway.hono.adapters.admission import Assertions
from gateway.hono.adapters.mqtt_topics import CommandFilter, ErrorFilter, Filter, parse_filter
from gateway.model.message import Adapter, DeviceCommand, Principal
from gateway.model.ports import CommandRouting, Done
from gateway.model.registry import Assertion
from gateway.wire.mqtt.filters import check_topic
from gateway.wire.mqtt.packets import V5, Subscribe, Subscription
from gateway.wire.mqtt.properties import NONE, Properties
from gateway.wire.mqtt.reasons import Reason
from gateway.wire.mqtt.server import ServerSession

log = logging.getLogger(__name__)

FAILURE = int(Reason.UNSPECIFIED_ERROR)
MAX_SUBSCRIPTIONS = 1_000
"""Subscriptions of one connection; more are refused."""
MAX_UNSENT = 262_144
"""Bytes that a device has not read; above it commands are released."""
PATIENCE = 10
"""Time-outs of a command, from when it was given up, in which a late PUBACK still frees its place."""

_END_NOTHING: Callable[[], None] = lambda: None  # noqa: E731  error subscriptions have nothing to end

Key: TypeAlias = tuple[type, str, str]


class Device(Protocol):
    """The connection that a subscription belongs to."""

    session: ServerSession
    loop: asyncio.AbstractEventLoop

    @property
    def unsent(self) -> int: ...

    def flush_soon(self) -> None: ...

    def end(self, reason: Reason | None = None) -> None: ...


@dataclass(slots=True)
class _Active:
    """A subscription in force."""

    filter: Filter
    qos: int
    properties: Properties
    end: Callable[[], None]


class CommandsInFlight:
    """Commands sent with QoS 1 that wait for the device's PUBACK, each for a limited time.

    The application hears at once of a command that was given up, but its packet identifier and its part of
    the device's receive maximum stay taken: MQTT gives them back with the PUBACK only. A device that has no
    place left, and owes a PUBACK for every one of them for long, would never get a command again: its
    connection is ended, and the next one starts with all places free.
    """

    def __init__(self, device: Device, seconds: float) -> None:
        self._device = device
        self._seconds = seconds
        self._waiting: dict[int, tuple[Done, asyncio.TimerHandle]] = {}
        self._late: dict[int, asyncio.TimerHandle] = {}
        self._overdue: set[int] = set()

    def send(
        self, topic: str, payload: bytes, qos: int, properties: Properties, done: Done
    ) -> None:
        """Publish a command; `done` once it is sent (QoS 0), acknowledged, or given up."""
        session = self._device.session
        try:
            if session.closed or self._device.unsent > MAX_UNSENT:
                raise Undeliverable("the device does not take commands now")
            packet_id = session.publish(topic, payload, qos, properties=properties)
        except GatewayError as error:
            done(error)
            return
        self._device.flush_soon()
        if not packet_id:
            done(None)
            return
        timer = self._device.loop.call_later(self._seconds, self._give_up, packet_id)
        self._waiting[packet_id] = done, timer

    def answered(self, packet_id: int, reason: int) -> None:
        """The device has acknowledged (or, with a reason of 0x80 and above, refused) a command."""
        done, timer = self._waiting.pop(packet_id, (None, None))
        if done is None or timer is None:
            self._forget(packet_id)
            return
        timer.cancel()
        done(None if reason < 0x80 else NotProcessed(f"the device refused with 0x{reason:02x}"))

    def give_all_up(self) -> None:
        """The connection has ended."""
        for packet_id in list(self._waiting):
            self._waiting[packet_id][1].cancel()
            self._give_up(packet_id)
        for packet_id in list(self._late):
            self._forget(packet_id)

    def _give_up(self, packet_id: int) -> None:
        done, _ = self._waiting.pop(packet_id)
        self._device.session.state.drop_payload(packet_id)
        patience = self._seconds * PATIENCE
        self._late[packet_id] = self._device.loop.call_later(patience, self._miss, packet_id)
        done(NotProcessed("the device did not acknowledge the command in time"))

    def _forget(self, packet_id: int) -> None:
        """A command that was given up holds no place any more."""
        timer = self._late.pop(packet_id, None)
        if timer is not None:
            timer.cancel()
        self._overdue.discard(packet_id)

    def _miss(self, packet_id: int) -> None:
        """Count a PUBACK as never coming; end a connection that would take no command any more."""
        del self._late[packet_id]
        self._overdue.add(packet_id)
        session = self._device.session
        if session.window <= 0 and len(self._overdue) == len(session.state.outbound):
            log.info("device acknowledges no command", extra={"commands": len(self._overdue)})
            self._device.end(Reason.QUOTA_EXCEEDED)


class CommandLink:
    """The port `DeviceLink` of one command subscription."""

    def __init__(
        self,
        owner: Principal,
        topic_filter: CommandFilter,
        qos: int,
        properties: Properties,
        flights: CommandsInFlight,
        version: int,
    ) -> None:
        self._owner = owner
        self._filter = topic_filter
        self._qos = qos
        self._properties = properties
        self._flights = flights
        self._version = version

    def deliver(self, command: DeviceCommand, done: Done) -> None:
        """Publish a command to the device.

        Errors (through `done`): Rejected when it makes no topic; NotProcessed; Undeliverable.
        """
        topic = self._filter.topic(
            tenant=command.command.tenant,
            target=command.target,
            gateway=self._owner.device,
            request_id=command.request_id,
            name=command.command.name,
        )
        try:
            check_topic(topic)
        except MalformedTopic as error:
            done(error)
            return
        properties = self._described(command) if self._version == V5 else NONE
        self._flights.send(topic, command.command.payload, self._qos, properties, done)

    def _described(self, command: DeviceCommand) -> Properties:
        trace = command.command.trace
        user = command.marks
        if trace is not None:
            user += (("traceparent", trace.traceparent),)
            if trace.state:
                user += (("tracestate", trace.state),)
        return Properties(
            content_type=command.command.content_type,
            subscription_ids=self._properties.subscription_ids,
            user=user,
        )


class Subscriptions:
    """The subscriptions of one connection.

    Shape:  `peer` None for an unauthenticated device.
    """

    def __init__(
        self,
        device: Device,
        peer: Principal | None,
        commands: CommandRouting,
        assertions: Assertions,
        flights: CommandsInFlight,
    ) -> None:
        self._device = device
        self._peer = peer
        self._commands = commands
        self._assertions = assertions
        self._flights = flights
        self._active: dict[Key, _Active] = {}
        self._ended = False

    def subscribe(self, packet: Subscribe) -> None:
        """Work on a SUBSCRIBE; its SUBACK goes out when every entry is decided, in their order."""
        wanted = [self._parse(entry) for entry in packet.subscriptions]
        last = {self._key(f): at for at, f in enumerate(wanted) if f is not None}
        codes: list[int | None] = [None] * len(wanted)

        def decide(at: int, code: int) -> None:
            codes[at] = code
            if None not in codes:
                self._device.session.suback(packet.packet_id, tuple(c or 0 for c in codes))
                self._device.flush_soon()

        for at, topic_filter in enumerate(wanted):
            if topic_filter is None:
                decide(at, FAILURE)
            elif last[self._key(topic_filter)] != at:
                decide(at, packet.subscriptions[at].qos)
            else:
                self._ask(topic_filter, packet, at, decide)

    def unsubscribe(self, text: str) -> int:
        """End a subscription; returns the code for UNSUBACK."""
        try:
            key = self._key(parse_filter(text, self._peer))
        except BadRequest:
            return FAILURE
        active = self._active.pop(key, None)
        if active is None:
            return FAILURE
        active.end()
        return int(Reason.SUCCESS)

    def end(self) -> None:
        """The connection has ended."""
        self._ended = True
        active, self._active = self._active, {}
        for one in active.values():
            one.end()

    def error_filter(self, tenant: str, device: str) -> tuple[ErrorFilter, Properties] | None:
        """Return the subscription that wants to hear of errors of a device's messages."""
        for name in (device, "+"):
            active = self._active.get((ErrorFilter, tenant, name))
            if active is not None and isinstance(active.filter, ErrorFilter):
                return active.filter, active.properties
        return None

    # --- one entry ------------------------------------------------------------------------------------

    def _parse(self, entry: Subscription) -> Filter | None:
        try:
            topic_filter = parse_filter(entry.filter, self._peer)
        except BadRequest:
            return None
        highest = 0 if isinstance(topic_filter, ErrorFilter) else 1
        return topic_filter if entry.qos <= highest else None

    def _key(self, topic_filter: Filter) -> Key:
        tenant, device = self._target(topic_filter)
        return type(topic_filter), tenant, device

    def _target(self, topic_filter: Filter) -> tuple[str, str]:
        """Tenant and device that a filter means; `+` for all devices of a gateway."""
        if self._peer is None:
            return topic_filter.tenant, topic_filter.device
        return self._peer.tenant, topic_filter.device or self._peer.device

    def _ask(
        self, topic_filter: Filter, packet: Subscribe, at: int, decide: Callable[[int, int], None]
    ) -> None:
        """Subscribe, for another device only when the registry says that the peer may."""
        qos = packet.subscriptions[at].qos
        tenant, device = self._target(topic_filter)

        def asserted(found: Assertion | GatewayError) -> None:
            if isinstance(found, GatewayError) or self._ended or self._is_unwelcome(found):
                decide(at, FAILURE)
                return
            self._add(topic_filter, qos, packet.properties)
            decide(at, qos)

        is_new = self._key(topic_filter) not in self._active
        if is_new and len(self._active) >= MAX_SUBSCRIPTIONS:
            decide(at, FAILURE)
        elif self._peer is not None and device in ("+", self._peer.device):
            self._add(topic_filter, qos, packet.properties)
            decide(at, qos)
        else:
            gateway = None if self._peer is None else self._peer.device
            self._assertions.assert_device(tenant, device, gateway, asserted)

    def _is_unwelcome(self, found: Assertion) -> bool:
        """True where a device without credentials asks a tenant that demands them."""
        return self._peer is None and found.tenant.adapter(Adapter.MQTT).refuses_anonymous

    def _add(self, topic_filter: Filter, qos: int, properties: Properties) -> None:
        key = self._key(topic_filter)
        earlier = self._active.pop(key, None)
        end = _END_NOTHING
        if isinstance(topic_filter, CommandFilter):
            end = self._route_commands(topic_filter, qos, properties)
        if earlier is not None:
            earlier.end()
        self._active[key] = _Active(topic_filter, qos, properties, end)

    def _route_commands(
        self, topic_filter: CommandFilter, qos: int, properties: Properties
    ) -> Callable[[], None]:
        tenant, device = self._target(topic_filter)
        owner = self._peer or Principal(tenant, device, "")
        link = CommandLink(
            owner, topic_filter, qos, properties, self._flights, self._device.session.version
        )
        is_for_all = topic_filter.is_for_all
        target = owner.device if is_for_all else device
        return self._commands.subscribe(
            tenant,
            target,
            link,
            adapter=Adapter.MQTT,
            gateway=None if target == owner.device else owner.device,
            for_its_devices=is_for_all,
        )
