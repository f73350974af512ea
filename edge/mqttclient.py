"""A client of an MQTT broker that is not ours (EventBus in external mode): connects, and comes back.

Subscriptions are renewed at each connect. A message that cannot be sent now, or whose connection ends before
its PUBACK, fails with Undeliverable: whoever publishes keeps what must not be lost. `run` is ready at once: a
broker that is away must not keep the edge from starting.
"""

from __future__ import annotations

import asyncio
import logging
import ssl as tls
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from gateway.errors import GatewayError, Rejected, Undeliverable
from gateway.model.ports import Done
from gateway.runtime.backoff import Backoff
from gateway.runtime.mqtt_link import Hold, MqttLink
from gateway.wire.mqtt.client import ClientSession
from gateway.wire.mqtt.packets import V3, V5, ConnAck, Connect, Publish, SubAck, Subscription
from gateway.wire.mqtt.properties import NONE, Properties
from gateway.wire.mqtt.reasons import Reason
from gateway.wire.mqtt.state import Acked, Closed, Event, Limits

log = logging.getLogger(__name__)

MAX_UNSENT = 1_048_576
"""Bytes that the broker has not taken; above it messages fail at once."""

FILTERS_AT_ONCE = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerAddress:
    """Where the broker is and how to log in.

    Units:  `keep_alive`, `connect_timeout` in seconds; `max_packet` in bytes. `version` 4 is MQTT 3.1.1.
    """

    host: str
    port: int
    client_id: str
    username: str | None = None
    password: bytes | None = None
    version: int = V3
    keep_alive: int = 60
    connect_timeout: float = 10.0
    max_packet: int = 1_048_576
    max_in_flight: int = 100
    reconnect_cap: float = 30.0


class MqttClient:
    """The client, as a module.

    Shape:  `on_message(message, done)` gets what the broker sends; its PUBACK waits for `done`.
            `on_link(is_up)` is told when the broker is there and when it has gone.
    """

    name = "edge.mqttclient"

    def __init__(
        self,
        address: BrokerAddress,
        on_message: Callable[[Publish, Done], None],
        *,
        on_link: Callable[[bool], None] | None = None,
        tls_context: tls.SSLContext | None = None,
    ) -> None:
        self.address = address
        self.on_message = on_message
        self._on_link = on_link
        self._tls = tls_context
        self._filters: dict[str, int] = {}
        self._link: _Link | None = None
        self._backoff = Backoff(cap=address.reconnect_cap)

    @property
    def is_connected(self) -> bool:
        return self._link is not None

    async def run(self, ready: Callable[[], None]) -> None:
        """Keep a connection until cancelled."""
        ready()
        while True:
            await self._connect_once()
            await asyncio.sleep(self._backoff.next())

    async def _connect_once(self) -> None:
        address = self.address
        link = _Link(self)
        try:
            async with asyncio.timeout(address.connect_timeout):
                await link.loop.create_connection(
                    lambda: link, address.host, address.port, ssl=self._tls
                )
        except (OSError, TimeoutError, UnicodeError) as error:  # the last: no name of a host
            log.info(
                "mqtt broker is not reachable",
                extra={"host": address.host, "port": address.port, "cause": str(error)},
            )
            return
        try:
            await link.ended.wait()
        finally:
            link.process(link.session.disconnect())
            link.abort()

    # --- for EventBus -----------------------------------------------------------------------------

    def subscribe(self, topic_filter: str, qos: int = 1) -> None:
        """Ask for messages, now and after each connect."""
        self._filters[topic_filter] = qos
        if self._link is not None:
            self._link.session.subscribe(Subscription(topic_filter, qos))
            self._link.flush_soon()

    def unsubscribe(self, topic_filter: str) -> None:
        """Ask for no more messages."""
        if self._filters.pop(topic_filter, None) is not None and self._link is not None:
            self._link.session.unsubscribe(topic_filter)
            self._link.flush_soon()

    def publish(
        self,
        topic: str,
        payload: bytes,
        done: Done,
        *,
        qos: int = 1,
        retain: bool = False,
        properties: Properties = NONE,
    ) -> None:
        """Send a message; `done` when it was sent (QoS 0) or acknowledged.

        Errors (through `done`): Undeliverable when the broker is away, slow or gone before it answered;
            Rejected when it refused; TooLarge over its maximum packet size.
        """
        if self._link is None:
            done(Undeliverable("the MQTT broker is not connected"))
        else:
            self._link.publish(topic, payload, qos, retain, properties, done)

    # --- for the link -----------------------------------------------------------------------------

    def up(self, link: _Link) -> None:
        """The broker has let us in."""
        self._backoff.reset()
        self._link = link
        wanted = [Subscription(f, qos) for f, qos in self._filters.items()]
        for at in range(0, len(wanted), FILTERS_AT_ONCE):
            link.session.subscribe(*wanted[at : at + FILTERS_AT_ONCE])
        log.info("mqtt broker connected", extra={"host": self.address.host})
        if self._on_link is not None:
            self._on_link(True)

    def down(self, link: _Link) -> None:
        """The connection has ended."""
        if self._link is not link:
            return
        self._link = None
        log.info("mqtt broker gone", extra={"host": self.address.host})
        if self._on_link is not None:
            self._on_link(False)


class _Link(MqttLink[ClientSession]):
    """One connection."""

    def __init__(self, owner: MqttClient) -> None:
        super().__init__()
        self.ended = asyncio.Event()
        self._owner = owner
        self._waiting: dict[int, Done] = {}
        self._unanswered = 0

    def make_session(self, now: float) -> ClientSession:
        address = self._owner.address
        connect = Connect(
            client_id=address.client_id,
            version=address.version,
            keep_alive=address.keep_alive,
            username=address.username,
            password=address.password,
            properties=self._said(address),
        )
        limits = Limits(
            max_packet=address.max_packet,
            receive_maximum=address.max_in_flight,
            connect_timeout=address.connect_timeout,
        )
        return ClientSession(connect, limits, now)

    @staticmethod
    def _said(address: BrokerAddress) -> Properties:
        if address.version != V5:
            return NONE
        return Properties(receive_maximum=address.max_in_flight, maximum_packet=address.max_packet)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.flush()

    def handle(self, event: Event) -> None:
        match event:
            case Publish():
                self._on_publish(event)
            case Acked():
                self._on_acked(event)
            case ConnAck():
                self._on_connack(event)
            case SubAck():
                refused = [hex(code) for code in event.codes if code >= 0x80]
                if refused:
                    log.warning("mqtt broker refused subscriptions", extra={"codes": refused})
            case Closed(error=error) if error is not None:
                log.warning("mqtt connection ended", extra={"cause": error.message})
            case _:
                pass

    def lost(self) -> None:
        self._owner.down(self)
        waiting, self._waiting = self._waiting, {}
        for done in waiting.values():
            done(Undeliverable("the MQTT broker went before it answered"))
        self.ended.set()

    def publish(
        self,
        topic: str,
        payload: bytes,
        qos: int,
        retain: bool,
        properties: Properties,
        done: Done,
    ) -> None:
        """Send a message."""
        try:
            if not self.session.is_open or self.unsent > MAX_UNSENT:
                raise Undeliverable("the MQTT broker does not take messages now")
            packet_id = self.session.publish(topic, payload, qos, retain, properties)
        except GatewayError as error:
            done(error)
            return
        self.flush_soon()
        if packet_id:
            self._waiting[packet_id] = done
        else:
            done(None)

    def _on_connack(self, packet: ConnAck) -> None:
        if packet.reason:
            log.warning("mqtt broker refused us", extra={"reason": hex(packet.reason)})
            return
        self._owner.up(self)
        self.arm()

    def _on_acked(self, event: Acked) -> None:
        done = self._waiting.pop(event.packet_id, None)
        if done is not None:
            refused = event.reason >= 0x80
            done(Rejected(f"the broker refused with 0x{event.reason:02x}") if refused else None)

    def _on_publish(self, packet: Publish) -> None:
        self._unanswered += 1
        if self._unanswered > self._owner.address.max_in_flight:
            self.hold(Hold.WORK)
        self._owner.on_message(packet, partial(self._answer, packet))

    def _answer(self, packet: Publish, error: GatewayError | None) -> None:
        self._unanswered -= 1
        if self._unanswered * 2 <= self._owner.address.max_in_flight:
            self.release(Hold.WORK)
        if not packet.qos:
            return
        if error is None or self.session.version == V5:
            reason = 0 if error is None else int(Reason.IMPLEMENTATION_SPECIFIC_ERROR)
            self.session.acknowledge(packet.packet_id, reason)
        else:
            self.session.skip(packet.packet_id)
        self.flush_soon()
