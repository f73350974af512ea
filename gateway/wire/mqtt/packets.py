"""Control packets of MQTT 3.1.1 and 5.0 as values.

In 3.1.1 a packet has no properties (they are `NONE`) and, where it has no reason code either, the reason
is 0. `codec` turns these into bytes and back.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from gateway.wire.mqtt.properties import NONE, Properties

V3 = 4
V5 = 5


class Will(msgspec.Struct, frozen=True, gc=False):
    """What the server publishes when the client goes without a word."""

    topic: str
    payload: bytes = b""
    qos: int = 0
    retain: bool = False
    properties: Properties = NONE


class Connect(msgspec.Struct, frozen=True):
    """A client introduces itself.

    Units:  `keep_alive` in seconds, 0 for none. `clean_start` is 3.1.1's clean session.
    """

    client_id: str = ""
    version: int = V5
    clean_start: bool = True
    keep_alive: int = 0
    username: str | None = None
    password: bytes | None = None
    will: Will | None = None
    properties: Properties = NONE


class ConnAck(msgspec.Struct, frozen=True):
    """The server's answer; `reason` is 3.1.1's return code (0 to 5) there."""

    reason: int = 0
    session_present: bool = False
    properties: Properties = NONE


class Publish(msgspec.Struct, frozen=True, gc=False):
    """A message; `packet_id` is 0 for QoS 0."""

    topic: str
    payload: bytes = b""
    qos: int = 0
    retain: bool = False
    packet_id: int = 0
    dup: bool = False
    properties: Properties = NONE


class PubAck(msgspec.Struct, frozen=True, gc=False):
    """Answer to a QoS 1 message."""

    packet_id: int
    reason: int = 0
    properties: Properties = NONE


class PubRec(msgspec.Struct, frozen=True, gc=False):
    """First answer to a QoS 2 message."""

    packet_id: int
    reason: int = 0
    properties: Properties = NONE


class PubRel(msgspec.Struct, frozen=True, gc=False):
    """Second word of the sender of a QoS 2 message."""

    packet_id: int
    reason: int = 0
    properties: Properties = NONE


class PubComp(msgspec.Struct, frozen=True, gc=False):
    """Last answer to a QoS 2 message."""

    packet_id: int
    reason: int = 0
    properties: Properties = NONE


class Subscription(msgspec.Struct, frozen=True, gc=False):
    """One entry of a SUBSCRIBE.

    Shape:  `retain_handling` 0 sends retained messages, 1 only for a new subscription, 2 never.
    """

    filter: str
    qos: int = 0
    no_local: bool = False
    retain_as_published: bool = False
    retain_handling: int = 0


class Subscribe(msgspec.Struct, frozen=True):
    """A client asks for messages."""

    packet_id: int
    subscriptions: tuple[Subscription, ...]
    properties: Properties = NONE


class SubAck(msgspec.Struct, frozen=True):
    """One code per entry, in order: the granted QoS, or 0x80 and above."""

    packet_id: int
    codes: tuple[int, ...]
    properties: Properties = NONE


class Unsubscribe(msgspec.Struct, frozen=True):
    """A client asks for no more messages."""

    packet_id: int
    filters: tuple[str, ...]
    properties: Properties = NONE


class UnsubAck(msgspec.Struct, frozen=True):
    """One code per filter in 5.0; none in 3.1.1."""

    packet_id: int
    codes: tuple[int, ...] = ()
    properties: Properties = NONE


class PingReq(msgspec.Struct, frozen=True):
    """A client shows that it is there."""


class PingResp(msgspec.Struct, frozen=True):
    """The server shows that it is there."""


class Disconnect(msgspec.Struct, frozen=True):
    """The last packet of a connection; 3.1.1 has it from the client only."""

    reason: int = 0
    properties: Properties = NONE


class Auth(msgspec.Struct, frozen=True):
    """A step of extended authentication (5.0)."""

    reason: int = 0
    properties: Properties = NONE


Packet: TypeAlias = (
    Connect
    | ConnAck
    | Publish
    | PubAck
    | PubRec
    | PubRel
    | PubComp
    | Subscribe
    | SubAck
    | Unsubscribe
    | UnsubAck
    | PingReq
    | PingResp
    | Disconnect
    | Auth
)
