"""One client's connection to the edge's broker: the MQTT conversation, without the routing."""

from __future__ import annotations

import logging
from functools import partial
from typing import Protocol

from edge.brokersession import BrokerSession
from gateway.errors import GatewayError, MalformedTopic, Undeliverable
from gateway.runtime.mqtt_link import Hold, MqttLink
from gateway.wire.mqtt.filters import TopicFilter
from gateway.wire.mqtt.packets import (
    V5,
    Connect,
    Disconnect,
    Publish,
    Subscribe,
    Subscription,
    Unsubscribe,
)
from gateway.wire.mqtt.reasons import Reason
from gateway.wire.mqtt.server import ServerSession
from gateway.wire.mqtt.state import Acked, Closed, Event, Limits

log = logging.getLogger(__name__)

_REASONS: dict[int, Reason] = {
    400: Reason.PAYLOAD_FORMAT_INVALID,
    403: Reason.NOT_AUTHORIZED,
    413: Reason.PACKET_TOO_LARGE,
    503: Reason.QUOTA_EXCEEDED,
}


class Owner(Protocol):
    """The broker."""

    limits: Limits

    def joined(self, client: BrokerClient) -> None: ...

    def left(self, client: BrokerClient) -> None: ...

    def connect(self, client: BrokerClient, packet: Connect) -> None:
        """Decide about a CONNECT, now or later."""

    def publish_from(self, client: BrokerClient, packet: Publish) -> None: ...

    def subscribe(
        self, session: BrokerSession, entry: Subscription, packet: Subscribe
    ) -> tuple[int, bool]:
        """Return the code for SUBACK and whether the subscription is new."""

    def send_retained(self, session: BrokerSession, entry: Subscription, is_new: bool) -> None: ...

    def unsubscribe(self, session: BrokerSession, text: str) -> bool: ...


class BrokerClient(MqttLink[ServerSession]):
    """One accepted socket."""

    def __init__(self, owner: Owner) -> None:
        super().__init__()
        self._owner = owner
        self.kept: BrokerSession | None = None
        self.said_goodbye = False
        self._unanswered = 0

    def make_session(self, now: float) -> ServerSession:
        self._owner.joined(self)
        return ServerSession(self._owner.limits, now)

    def handle(self, event: Event) -> None:
        match event:
            case Publish():
                self._on_publish(event)
            case Acked():
                self._kept.drain()
            case Subscribe():
                self._on_subscribe(event)
            case Unsubscribe():
                self._on_unsubscribe(event)
            case Connect():
                self.hold(Hold.DECISION)
                self._owner.connect(self, event)
            case Disconnect():
                self._on_disconnect(event)
            case Closed(error=error) if error is not None:
                log.info("mqtt client broke the protocol", extra={"cause": error.message})
            case _:
                pass

    @property
    def _kept(self) -> BrokerSession:
        if self.kept is None:
            raise AssertionError("the session gives no request before CONNECT is accepted")
        return self.kept

    def resumed(self, now: float) -> None:
        self.session.heard(now)

    def on_writable(self) -> None:
        if self.kept is not None:
            self.kept.drain()

    def lost(self) -> None:
        self._owner.left(self)

    def end(self, reason: int) -> None:
        """Close the connection; an MQTT 5 client is told why."""
        self.process(self.session.disconnect(reason))

    # --- requests ---------------------------------------------------------------------------------

    def _on_publish(self, packet: Publish) -> None:
        self._unanswered += 1
        if self._unanswered > self._owner.limits.receive_maximum:
            self.hold(Hold.WORK)
        self._owner.publish_from(self, packet)

    def answer(self, packet: Publish, error: GatewayError | None) -> None:
        """The outcome of a message is known: acknowledge it, or refuse it as far as MQTT can.

        An MQTT 3.1.1 client cannot be told: when trying again may help it is disconnected without PUBACK and
        so sends again; else the message is acknowledged and gone.
        """
        self._unanswered -= 1
        if self._unanswered * 2 <= self._owner.limits.receive_maximum:
            self.release(Hold.WORK)
        if error is not None:
            log.info(
                "a local message was refused",
                extra={"topic": packet.topic, "cause": error.message, "status": error.status},
            )
        if not packet.qos:
            return
        if error is None:
            self.session.acknowledge(packet.packet_id)
        elif self.session.version == V5:
            reason = _REASONS.get(error.status, Reason.UNSPECIFIED_ERROR)
            self.session.acknowledge(packet.packet_id, reason)
        elif isinstance(error, Undeliverable):
            self.process(self.session.close())
        else:
            self.session.acknowledge(packet.packet_id)
        self.flush_soon()

    def _on_subscribe(self, packet: Subscribe) -> None:
        answers = [self._owner.subscribe(self._kept, e, packet) for e in packet.subscriptions]
        self.session.suback(packet.packet_id, tuple(code for code, _ in answers))
        for entry, (code, is_new) in zip(packet.subscriptions, answers, strict=True):
            if code < 0x80:
                self._owner.send_retained(self._kept, entry, is_new)

    def _on_unsubscribe(self, packet: Unsubscribe) -> None:
        codes = tuple(
            int(Reason.SUCCESS if done else Reason.NO_SUBSCRIPTION_EXISTED)
            for done in [self._owner.unsubscribe(self._kept, f) for f in packet.filters]
        )
        self.session.unsuback(packet.packet_id, codes)

    def _on_disconnect(self, packet: Disconnect) -> None:
        self.said_goodbye = packet.reason != Reason.DISCONNECT_WITH_WILL
        expiry = packet.properties.session_expiry
        if expiry is not None and self.kept is not None:
            self.kept.expiry = float(expiry)


def answer_later(client: BrokerClient, packet: Publish) -> partial[None]:
    """Return the `done` of a message."""
    return partial(client.answer, packet)


def filter_code(entry: Subscription) -> TopicFilter | int:
    """Return the filter of an entry, or the code that says what is wrong with it."""
    try:
        return TopicFilter.parse(entry.filter)
    except MalformedTopic:
        return int(Reason.TOPIC_FILTER_INVALID)
