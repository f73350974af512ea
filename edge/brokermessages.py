"""Messages inside the edge's broker: with the time at which they end, and those that are retained."""

from __future__ import annotations

import msgspec

from gateway.wire.mqtt.filters import TopicFilter
from gateway.wire.mqtt.packets import Publish
from gateway.wire.mqtt.properties import NONE, Properties

OVERHEAD = 256
"""Bytes that a kept message costs beside its topic and payload, roughly."""


class Message(msgspec.Struct, frozen=True, gc=False):
    """A message on its way to subscribers.

    Units:  `expires_at` on the loop's clock, None for never.
    """

    topic: str
    payload: bytes
    qos: int = 0
    retain: bool = False
    properties: Properties = NONE
    expires_at: float | None = None

    @property
    def size(self) -> int:
        return len(self.topic) + len(self.payload) + OVERHEAD

    def remaining(self, now: float) -> Properties | None:
        """Return the properties with what is left of the expiry; None when the message has expired."""
        if self.expires_at is None:
            return self.properties
        left = self.expires_at - now
        if left <= 0:
            return None
        return msgspec.structs.replace(self.properties, message_expiry=max(1, round(left)))


def message_of(packet: Publish, now: float) -> Message:
    """Take a client's message over."""
    expiry = packet.properties.message_expiry
    return Message(
        packet.topic,
        packet.payload,
        packet.qos,
        packet.retain,
        packet.properties,
        None if expiry is None else now + expiry,
    )


class Retained:
    """The last retained message of each topic, bounded in number and bytes."""

    def __init__(self, max_messages: int, max_bytes: int) -> None:
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._messages: dict[str, Message] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._messages)

    def keep(self, message: Message) -> bool:
        """Keep a message, or with an empty payload forget its topic; False when there is no room."""
        old = self._messages.pop(message.topic, None)
        if old is not None:
            self._bytes -= old.size
        if not message.payload:
            return True
        if (
            len(self._messages) >= self._max_messages
            or self._bytes + message.size > self._max_bytes
        ):
            return False
        self._messages[message.topic] = message
        self._bytes += message.size
        return True

    def matching(self, topic_filter: TopicFilter, now: float) -> list[Message]:
        """Return the messages for a new subscription; those that expired are forgotten."""
        if topic_filter.has_wildcard:
            found = [m for t, m in self._messages.items() if topic_filter.matches(t)]
        else:
            exact = self._messages.get(topic_filter.text)
            found = [] if exact is None else [exact]
        expired = [m for m in found if m.remaining(now) is None]
        for message in expired:
            self.keep(Message(message.topic, b""))
        return [m for m in found if m not in expired] if expired else found
