"""What sessions are made of beside packets: limits, own events, phases, and what outlives a connection."""

from __future__ import annotations

import enum
from collections.abc import Container
from dataclasses import dataclass
from typing import TypeAlias

import msgspec

from gateway.errors import Undeliverable
from gateway.wire.mqtt.packets import (
    Auth,
    ConnAck,
    Connect,
    Disconnect,
    Publish,
    SubAck,
    Subscribe,
    UnsubAck,
    Unsubscribe,
)
from gateway.wire.mqtt.reasons import Fault


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What we take from a peer.

    Units:  `max_packet` in bytes, fixed header included; `connect_timeout` and `max_keep_alive` in seconds
            (0: no limit). `receive_maximum` bounds QoS 1 and 2 messages without our final answer; 3.1.1
            has no word for it, there the shell stops reading when `in_flight` is too high.
    """

    max_packet: int = 262_144
    receive_maximum: int = 65_535
    topic_alias_maximum: int = 0
    connect_timeout: float = 10.0
    max_keep_alive: int = 0


class Acked(msgspec.Struct, frozen=True, gc=False):
    """The peer has answered a QoS 1 or 2 message of ours for good; `reason` 0x80 and above: refused."""

    packet_id: int
    reason: int = 0


class Closed(msgspec.Struct, frozen=True):
    """The last event of a session: the peer is gone, or `error` says why we end it."""

    reason: int = 0
    error: Fault | None = None


Event: TypeAlias = (
    Connect
    | ConnAck
    | Publish
    | Acked
    | Subscribe
    | SubAck
    | Unsubscribe
    | UnsubAck
    | Disconnect
    | Auth
    | Closed
)


class WindowFull(Undeliverable):
    """The peer has not answered as many messages as it takes at once."""

    code = "mqtt.window"
    default_message = "the peer's receive maximum is reached"


class SessionState:
    """What outlives a connection: our messages without an answer, and QoS 2 messages half received."""

    __slots__ = ("_last_id", "outbound", "received")

    def __init__(self) -> None:
        self.outbound: dict[int, Publish | None] = {}
        """Packet identifier -> message; None once PUBREL is out or only its place is kept."""
        self.received: set[int] = set()
        self._last_id = 0

    def drop_payload(self, packet_id: int) -> None:
        """Keep only the place of a message whose answer no longer matters: it is never sent again.

        Its identifier and its part of the peer's receive maximum stay in use until the peer answers
        (MQTT 5.0, 2.2.1 and 4.9).
        """
        if packet_id in self.outbound:
            self.outbound[packet_id] = None

    def take_id(self, taken: Container[int] = ()) -> int:
        """Return a packet identifier that nobody uses."""
        for _ in range(65_535):
            self._last_id = self._last_id % 65_535 + 1
            if self._last_id not in self.outbound and self._last_id not in taken:
                return self._last_id
        raise WindowFull("all packet identifiers are in use")


class Phase(enum.Enum):
    """NEW waits for the first packet, ASKED for our side's decision about it."""

    NEW = "new"
    ASKED = "asked"
    OPEN = "open"
    CLOSED = "closed"


NEW, ASKED, OPEN, CLOSED = Phase
