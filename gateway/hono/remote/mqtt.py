"""The way to a remote Hono over its MQTT adapter.

A PUBACK is the outcome of a message. What the remote refuses it tells on the error topic before the PUBACK;
with MQTT 5 the PUBACK says that it is a refusal, too. Without a subscription to errors it would hang up.
Commands are acknowledged once the device has them; one that no device took is left without an answer, which
the remote takes as released.
Source: Hono, MQTT Adapter user guide.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from functools import partial
from typing import Final

from gateway.errors import BadRequest, GatewayError, NoConsumer
from gateway.hono.remote.mqtt_topics import (
    COMMANDS,
    ERRORS,
    command_of,
    failure_of,
    response_topic,
    upload_topic,
)
from gateway.hono.remote.uplink import Hub, NotTaken
from gateway.model.message import CommandResponse, Message
from gateway.model.ports import Done
from gateway.runtime.mqtt_link import Hold, MqttLink
from gateway.wire.mqtt.client import ClientSession
from gateway.wire.mqtt.packets import (
    V5,
    ConnAck,
    Connect,
    Disconnect,
    Publish,
    SubAck,
    Subscription,
)
from gateway.wire.mqtt.properties import NONE, Properties
from gateway.wire.mqtt.state import Acked, Closed, Event, Limits, WindowFull

log = logging.getLogger(__name__)

COMMANDS_AT_ONCE: Final = 100
MAX_PACKET: Final = 1_048_576
MAX_UNSENT: Final = 262_144
"""Bytes that the remote has not read; above it nothing more is sent."""
MAX_UNANSWERED: Final = 30_000
"""Commands that we left without an answer: each keeps a packet identifier of the connection."""
HEAD_BYTES: Final = 7
"""Fixed header and length of the topic of a PUBLISH, packet identifier included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MqttLogin:
    """Who we are to the remote.

    Units:  `keep_alive`, `connect_timeout` in seconds. `version` as in `gateway.wire.mqtt.packets`.
    """

    client_id: str
    version: int
    username: str | None
    password: bytes | None
    keep_alive: int
    connect_timeout: float


class MqttUplink(MqttLink[ClientSession]):
    """The port `Uplink` of one connection.

    Shape:  `ended` is set once it is over; `cause` then says why.
    """

    def __init__(self, login: MqttLogin, hub: Hub, tenant: str, *, commands: bool) -> None:
        super().__init__()
        self.ended = asyncio.Event()
        self.cause = ""
        self._by_peer = False
        self._login = login
        self._hub = hub
        self._tenant = tenant
        self._asks_commands = commands
        self._is_up = False
        self._max_packet = 0
        self._waiting: dict[int, Done] = {}
        self._failures: dict[int, GatewayError] = {}
        self._commands = 0
        self._unanswered = 0

    # --- the port ------------------------------------------------------------------------------------

    @property
    def protocol(self) -> asyncio.Protocol:
        return self

    @property
    def can_send(self) -> bool:
        return (
            self._is_up
            and self.is_writable
            and self.unsent < MAX_UNSENT
            and self.session.window > 0
        )

    def fits(self, message: Message) -> bool:
        limit = self._max_packet
        return not limit or (
            len(message.payload) + len(upload_topic(message).encode()) + HEAD_BYTES + 1 <= limit
        )

    def send(self, message: Message, done: Done) -> None:
        """Publish an upload; `done` once it is sent (QoS 0) or the remote has answered."""
        self._publish(upload_topic(message), message.payload, message.qos, message.retain, done)

    def respond(self, response: CommandResponse, done: Done) -> None:
        """Publish a device's answer.

        Errors (through `done`): BadRequest for a reply id that is none; NoConsumer while nothing is taken.
        """
        try:
            topic = response_topic(response)
        except BadRequest as error:
            done(error)
            return
        if self.can_send:
            self._publish(topic, response.payload, 1, False, done)
        else:
            done(NoConsumer())

    def end(self, cause: str) -> None:
        self.cause = self.cause or cause
        self.abort()

    def close(self, cause: str) -> None:
        """End the connection with a word to the remote."""
        self.cause = self.cause or cause
        self.process(self.session.disconnect())

    def _publish(self, topic: str, payload: bytes, qos: int, retain: bool, done: Done) -> None:
        try:
            packet_id = self.session.publish(topic, payload, qos, retain)
        except WindowFull as error:
            done(NotTaken(error.message))
            return
        except GatewayError as error:  # over the packet size that the remote has told
            done(error)
            return
        self.flush_soon()
        if packet_id:
            self._waiting[packet_id] = done
        else:
            done(None)

    # --- the connection ------------------------------------------------------------------------------

    def make_session(self, now: float) -> ClientSession:
        login = self._login
        said = NONE
        if login.version == V5:
            said = Properties(maximum_packet=MAX_PACKET)
        connect = Connect(
            client_id=login.client_id,
            version=login.version,
            keep_alive=login.keep_alive,
            username=login.username,
            password=login.password,
            properties=said,
        )
        limits = Limits(max_packet=MAX_PACKET, connect_timeout=login.connect_timeout)
        return ClientSession(connect, limits, now)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.flush()

    def handle(self, event: Event) -> None:
        match event:
            case Acked():
                self._on_acked(event)
            case Publish():
                self._on_publish(event)
            case ConnAck():
                self._on_connack(event)
            case SubAck():
                self._on_suback(event)
            case Disconnect(reason=reason, properties=said):
                self.cause = self.cause or f"the remote ended: 0x{reason:02x} {said.reason_string}"
                self._by_peer = True
            case Closed(error=error) if error is not None:
                self.cause = self.cause or error.message
            case _:
                pass

    def lost(self) -> None:
        by_peer = self._by_peer or not self.cause
        self.cause = self.cause or "the connection was closed"
        self._is_up = False
        for packet_id, error in self._failures.items():
            done = self._waiting.pop(packet_id, None)
            if done is not None:  # it said why, and hung up instead of answering
                done(error)
        self._waiting.clear()
        self._hub.down(self, by_peer=by_peer)
        self.ended.set()

    def on_writable(self) -> None:
        if self._is_up:
            self._hub.has_room()

    def _on_connack(self, packet: ConnAck) -> None:
        if packet.reason:
            self.cause = f"the remote refused us: 0x{packet.reason:02x}"
            return
        self._max_packet = packet.properties.maximum_packet or 0
        wanted = [Subscription(ERRORS, 0)]
        if self._asks_commands:
            wanted.append(Subscription(COMMANDS, 1))
        self.session.subscribe(*wanted)
        self.arm()

    def _on_suback(self, packet: SubAck) -> None:
        refused = [
            name
            for name, code in zip((ERRORS, COMMANDS), packet.codes, strict=False)
            if code >= 0x80
        ]
        if refused:
            log.warning("the remote refused subscriptions", extra={"filters": refused})
        self._is_up = True
        self._hub.up(self)

    # --- outcomes ------------------------------------------------------------------------------------

    def _on_acked(self, event: Acked) -> None:
        done = self._waiting.pop(event.packet_id, None)
        error = self._failures.pop(event.packet_id, None)
        if error is None and event.reason >= 0x80:
            error = NotTaken(f"the remote answered 0x{event.reason:02x} and not why")
        if done is not None:
            done(error)
        self._hub.has_room()

    def _on_publish(self, packet: Publish) -> None:
        if packet.topic.startswith("error/"):
            failure = failure_of(packet)
            if failure is not None and failure.packet_id in self._waiting:
                self._failures[failure.packet_id] = failure.error
            return
        self._commands += 1
        if self._commands > COMMANDS_AT_ONCE:
            self.hold(Hold.WORK)
        done = partial(self._commanded, packet)
        try:
            command = command_of(packet, self._tenant)
        except BadRequest as error:
            done(error)
            return
        self._hub.command(command, done)

    def _commanded(self, packet: Publish, error: GatewayError | None) -> None:
        """Tell the remote that a device has a command; of others it hears nothing."""
        self._commands -= 1
        if self._commands * 2 <= COMMANDS_AT_ONCE:
            self.release(Hold.WORK)
        if not packet.qos or self.session.closed:
            return
        if error is None:
            self.session.acknowledge(packet.packet_id)
        else:
            self.session.skip(packet.packet_id)
            self._unanswered += 1
            if self._unanswered > MAX_UNANSWERED:
                self.close("the packet identifiers of unanswered commands are used up")
                return
        self.flush_soon()
