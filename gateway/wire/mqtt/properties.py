"""The properties of MQTT 5.0: one table says how each is written and where it may stand.

Source: MQTT 5.0, section 2.2.2.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from gateway.wire.mqtt import body as wire
from gateway.wire.mqtt.body import Body
from gateway.wire.mqtt.reasons import Fault, Reason, protocol_error

MAX_USER_PROPERTIES = 64
"""User properties, and subscription identifiers, that one packet may carry."""


class Type(enum.IntEnum):
    """Control packet types; WILL stands for the will properties inside a CONNECT."""

    WILL = 0
    CONNECT = 1
    CONNACK = 2
    PUBLISH = 3
    PUBACK = 4
    PUBREC = 5
    PUBREL = 6
    PUBCOMP = 7
    SUBSCRIBE = 8
    SUBACK = 9
    UNSUBSCRIBE = 10
    UNSUBACK = 11
    PINGREQ = 12
    PINGRESP = 13
    DISCONNECT = 14
    AUTH = 15


class Properties(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The properties of one packet; None or an empty tuple where the packet had none.

    Units:  `message_expiry`, `session_expiry`, `will_delay`, `server_keep_alive` in seconds; `maximum_packet`
            in bytes. `user` keeps order and repeated names.
    """

    payload_format: int | None = None
    message_expiry: int | None = None
    content_type: str | None = None
    response_topic: str | None = None
    correlation_data: bytes | None = None
    subscription_ids: tuple[int, ...] = ()
    session_expiry: int | None = None
    assigned_client_id: str | None = None
    server_keep_alive: int | None = None
    authentication_method: str | None = None
    authentication_data: bytes | None = None
    request_problem_information: int | None = None
    will_delay: int | None = None
    request_response_information: int | None = None
    response_information: str | None = None
    server_reference: str | None = None
    reason_string: str | None = None
    receive_maximum: int | None = None
    topic_alias_maximum: int | None = None
    topic_alias: int | None = None
    maximum_qos: int | None = None
    retain_available: int | None = None
    user: tuple[tuple[str, str], ...] = ()
    maximum_packet: int | None = None
    wildcards_available: int | None = None
    subscription_ids_available: int | None = None
    shared_available: int | None = None

    def user_value(self, name: str) -> str | None:
        """Return the first user property called `name`."""
        for key, value in self.user:
            if key == name:
                return value
        return None


NONE = Properties()


@dataclass(frozen=True, slots=True)
class _Kind:
    """How one data type is read and written."""

    read: Callable[[Body, str], Any]
    write: Callable[[Any], bytes]
    repeats: bool = False


def _pair(body: Body, field: str) -> tuple[str, str]:
    return body.text(field), body.text(field)


_BYTE = _Kind(Body.byte, lambda v: v.to_bytes(1, "big"))
_TWO = _Kind(Body.two, lambda v: v.to_bytes(2, "big"))
_FOUR = _Kind(Body.four, lambda v: v.to_bytes(4, "big"))
_TEXT = _Kind(Body.text, wire.text)
_BINARY = _Kind(Body.binary, wire.binary)
_VARINTS = _Kind(Body.varint, wire.varint, repeats=True)
_PAIRS = _Kind(_pair, lambda v: wire.text(v[0]) + wire.text(v[1]), repeats=True)


@dataclass(frozen=True, slots=True)
class _Row:
    """One property: its field in `Properties`, its type, the packets that may carry it, its range."""

    field: str
    kind: _Kind
    packets: frozenset[Type]
    low: int = 0
    high: int | None = None


def _row(field: str, kind: _Kind, *packets: Type, low: int = 0, high: int | None = None) -> _Row:
    return _Row(field, kind, frozenset(packets), low, high)


_ACKS = (Type.PUBACK, Type.PUBREC, Type.PUBREL, Type.PUBCOMP)
_MESSAGE = (Type.PUBLISH, Type.WILL)
_BOTH_ENDS = (Type.CONNECT, Type.CONNACK)
_ANSWERS = (Type.CONNACK, *_ACKS, Type.SUBACK, Type.UNSUBACK, Type.DISCONNECT, Type.AUTH)
_ANYWHERE = tuple(t for t in Type if t not in (Type.PINGREQ, Type.PINGRESP))

TABLE: dict[int, _Row] = {
    0x01: _row("payload_format", _BYTE, *_MESSAGE, high=1),
    0x02: _row("message_expiry", _FOUR, *_MESSAGE),
    0x03: _row("content_type", _TEXT, *_MESSAGE),
    0x08: _row("response_topic", _TEXT, *_MESSAGE),
    0x09: _row("correlation_data", _BINARY, *_MESSAGE),
    0x0B: _row("subscription_ids", _VARINTS, Type.PUBLISH, Type.SUBSCRIBE, low=1),
    0x11: _row("session_expiry", _FOUR, *_BOTH_ENDS, Type.DISCONNECT),
    0x12: _row("assigned_client_id", _TEXT, Type.CONNACK),
    0x13: _row("server_keep_alive", _TWO, Type.CONNACK),
    0x15: _row("authentication_method", _TEXT, *_BOTH_ENDS, Type.AUTH),
    0x16: _row("authentication_data", _BINARY, *_BOTH_ENDS, Type.AUTH),
    0x17: _row("request_problem_information", _BYTE, Type.CONNECT, high=1),
    0x18: _row("will_delay", _FOUR, Type.WILL),
    0x19: _row("request_response_information", _BYTE, Type.CONNECT, high=1),
    0x1A: _row("response_information", _TEXT, Type.CONNACK),
    0x1C: _row("server_reference", _TEXT, Type.CONNACK, Type.DISCONNECT),
    0x1F: _row("reason_string", _TEXT, *_ANSWERS),
    0x21: _row("receive_maximum", _TWO, *_BOTH_ENDS, low=1),
    0x22: _row("topic_alias_maximum", _TWO, *_BOTH_ENDS),
    0x23: _row("topic_alias", _TWO, Type.PUBLISH),  # 0 is judged by the session: 0x94, not 0x82
    0x24: _row("maximum_qos", _BYTE, Type.CONNACK, high=1),
    0x25: _row("retain_available", _BYTE, Type.CONNACK, high=1),
    0x26: _row("user", _PAIRS, *_ANYWHERE),
    0x27: _row("maximum_packet", _FOUR, *_BOTH_ENDS, low=1),
    0x28: _row("wildcards_available", _BYTE, Type.CONNACK, high=1),
    0x29: _row("subscription_ids_available", _BYTE, Type.CONNACK, high=1),
    0x2A: _row("shared_available", _BYTE, Type.CONNACK, high=1),
}


def read(body: Body, packet: Type) -> Properties:
    """Read the properties that stand at the cursor, with their length in front.

    Errors: Fault, naming the property: unknown, twice, not for this packet, out of range.
    """
    size = body.varint("properties length")
    if not size:
        return NONE
    if size > body.left:
        raise body.fault("properties", f"{size} bytes announced, {body.left} left")
    inner = Body(body.packet, body.data, body.at, body.at + size)
    values: dict[str, Any] = {}
    while inner.left:
        _read_one(inner, packet, values)
    body.at += size
    return Properties(**values)


def _read_one(body: Body, packet: Type, values: dict[str, Any]) -> None:
    number = body.varint("property identifier")
    row = TABLE.get(number)
    if row is None or packet not in row.packets:
        raise body.fault("property", f"0x{number:02x} is not allowed in this packet")
    value = row.kind.read(body, row.field)
    _check_range(body, row, value)
    if row.kind.repeats:
        earlier = values.get(row.field, ())
        if len(earlier) >= MAX_USER_PROPERTIES:
            raise Fault(
                f"{body.packet}: {row.field} stands more than {MAX_USER_PROPERTIES} times",
                Reason.QUOTA_EXCEEDED,
            )
        values[row.field] = (*earlier, value)
    elif row.field in values:
        raise protocol_error(f"{body.packet}: {row.field} stands twice")
    else:
        values[row.field] = value


def _check_range(body: Body, row: _Row, value: object) -> None:
    if not isinstance(value, int):
        return
    if value < row.low or (row.high is not None and value > row.high):
        raise protocol_error(f"{body.packet}: {row.field} may not be {value}")


def write(properties: Properties, packet: Type) -> bytes:
    """Write properties with their length in front; what this packet may not carry is an error.

    Errors: ValueError, naming the property: a mistake of ours, never of the peer.
    """
    if properties is NONE:
        return b"\0"
    out: list[bytes] = []
    for number, row in TABLE.items():
        value = getattr(properties, row.field)
        if value is None or value == ():
            continue
        if packet not in row.packets:
            raise ValueError(f"{packet.name} may not carry {row.field}")
        key = wire.varint(number)
        out += [key + row.kind.write(one) for one in (value if row.kind.repeats else (value,))]
    joined = b"".join(out)
    return wire.varint(len(joined)) + joined
