"""Bytes of one whole control packet to its value, and back.

Framing and the rules of a conversation are the session's job. Every length in a packet is checked
against the packet's own end, which the session has capped before.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from gateway.errors import MalformedTopic
from gateway.wire.mqtt import body as wire
from gateway.wire.mqtt import properties as props
from gateway.wire.mqtt.body import Body
from gateway.wire.mqtt.filters import check_topic
from gateway.wire.mqtt.packets import (
    V3,
    V5,
    Auth,
    ConnAck,
    Connect,
    Disconnect,
    Packet,
    PingReq,
    PingResp,
    PubAck,
    PubComp,
    Publish,
    PubRec,
    PubRel,
    SubAck,
    Subscribe,
    Subscription,
    UnsubAck,
    Unsubscribe,
    Will,
)
from gateway.wire.mqtt.properties import NONE, Properties, Type
from gateway.wire.mqtt.reasons import Fault, Reason, protocol_error

MAX_ENTRIES = 256
"""Filters in one SUBSCRIBE or UNSUBSCRIBE."""

_FLAGS = {Type.PUBREL: 2, Type.SUBSCRIBE: 2, Type.UNSUBSCRIBE: 2}
_Ack: TypeAlias = PubAck | PubRec | PubRel | PubComp


def decode(first: int, data: bytes, version: int) -> Packet:
    """Read the packet whose fixed header began with `first` and whose body is `data`.

    Errors: Fault, naming packet, field and byte (counted from the start of the body).
    """
    kind = check_first_byte(first)
    if kind is Type.PUBLISH:
        return decode_publish(first, data, 0, len(data), version)
    body = Body(kind.name, data)
    packet = _DECODERS[kind](body, version)
    body.finish()
    return packet


def check_first_byte(first: int) -> Type:
    """Return the packet type; what can be said before the rest of the packet is there.

    Errors: Fault for the reserved type 0, or flags that the type does not have.
    """
    if first < 0x10:
        raise Fault(f"fixed header: packet type 0 is reserved, got 0x{first:02x}")
    kind = Type(first >> 4)
    if kind is not Type.PUBLISH and first & 0x0F != _FLAGS.get(kind, 0):
        raise Fault(f"{kind.name}: flags 0x{first & 0x0F:x} are not allowed")
    return kind


def encode(packet: Packet, version: int) -> bytes:
    """Write a packet, fixed header and all.

    Errors: ValueError for a value that has no place in the packet: a mistake of ours.
    """
    kind, flags, write = _ENCODERS[type(packet)]
    if isinstance(packet, Publish):
        flags = packet.dup << 3 | packet.qos << 1 | packet.retain
    return frame(kind << 4 | flags, write(packet, version))


def frame(first: int, body: bytes) -> bytes:
    """Put a fixed header before a body."""
    size = len(body)
    if size < 0x80:
        return bytes((first, size)) + body
    return bytes((first,)) + wire.varint(size) + body


def _read_properties(body: Body, kind: Type, version: int) -> Properties:
    return props.read(body, kind) if version == V5 else NONE


def _write_properties(properties: Properties, kind: Type, version: int) -> bytes:
    return props.write(properties, kind) if version == V5 else b""


# --- CONNECT, CONNACK -----------------------------------------------------------------------------


def _decode_connect(body: Body, _version: int) -> Connect:
    version = _protocol_version(body)
    flags = body.byte("connect flags")
    _check_connect_flags(body, flags, version)
    keep_alive = body.two("keep alive")
    properties = _read_properties(body, Type.CONNECT, version)
    if properties.authentication_data is not None and properties.authentication_method is None:
        raise protocol_error("CONNECT: authentication data without a method")
    client_id = body.text("client identifier")
    will = _decode_will(body, flags, version) if flags & 0x04 else None
    return Connect(
        client_id=client_id,
        version=version,
        clean_start=bool(flags & 0x02),
        keep_alive=keep_alive,
        username=body.text("user name") if flags & 0x80 else None,
        password=body.binary("password") if flags & 0x40 else None,
        will=will,
        properties=properties,
    )


def _protocol_version(body: Body) -> int:
    name = body.binary("protocol name")
    if name not in (b"MQTT", b"MQIsdp"):
        raise body.fault("protocol name", f"expected MQTT, got {name[:16]!r}")
    version = body.byte("protocol level")
    if name != b"MQTT" or version not in (V3, V5):
        raise Fault(
            f"CONNECT: protocol level: expected 4 or 5, got {version}",
            Reason.UNSUPPORTED_PROTOCOL_VERSION,
        )
    return version


def _check_connect_flags(body: Body, flags: int, version: int) -> None:
    will_qos = flags >> 3 & 3
    if flags & 0x01:
        raise body.fault("connect flags", "the reserved bit is set")
    if will_qos == 3:
        raise body.fault("connect flags", "will QoS 3")
    if not flags & 0x04 and flags & 0x38:
        raise body.fault("connect flags", "will QoS or retain without a will")
    if version == V3 and flags & 0x40 and not flags & 0x80:
        raise body.fault("connect flags", "a password without a user name")


def _decode_will(body: Body, flags: int, version: int) -> Will:
    properties = _read_properties(body, Type.WILL, version)
    topic = _topic(body.text("will topic"), "CONNECT: will topic")
    payload = body.binary("will payload")
    return Will(topic, payload, flags >> 3 & 3, bool(flags & 0x20), properties)


def _encode_connect(packet: Connect, _version: int) -> bytes:
    flags = packet.clean_start << 1
    will = b""
    if packet.will is not None:
        flags |= 0x04 | packet.will.qos << 3 | packet.will.retain << 5
        will = _encode_will(packet.will, packet.version)
    username = password = b""
    if packet.username is not None:
        flags |= 0x80
        username = wire.text(packet.username)
    if packet.password is not None:
        flags |= 0x40
        password = wire.binary(packet.password)
    return b"".join(
        (
            b"\0\4MQTT",
            bytes((packet.version, flags)),
            packet.keep_alive.to_bytes(2, "big"),
            _write_properties(packet.properties, Type.CONNECT, packet.version),
            wire.text(packet.client_id),
            will,
            username,
            password,
        )
    )


def _encode_will(will: Will, version: int) -> bytes:
    properties = _write_properties(will.properties, Type.WILL, version)
    return properties + wire.text(will.topic) + wire.binary(will.payload)


def _decode_connack(body: Body, version: int) -> ConnAck:
    flags = body.byte("acknowledge flags")
    if flags > 1:
        raise body.fault("acknowledge flags", f"reserved bits are set in 0x{flags:02x}")
    reason = body.byte("reason")
    if version == V5:
        _known_reason(body, reason)
    elif reason > 5:
        raise body.fault("return code", f"expected 0 to 5, got {reason}")
    if flags and reason:
        raise body.fault("acknowledge flags", "session present in a refusal")
    return ConnAck(reason, bool(flags), _read_properties(body, Type.CONNACK, version))


def _encode_connack(packet: ConnAck, version: int) -> bytes:
    head = bytes((packet.session_present, packet.reason))
    return head + _write_properties(packet.properties, Type.CONNACK, version)


# --- PUBLISH and its answers ----------------------------------------------------------------------


def decode_publish(first: int, data: bytes, at: int, end: int, version: int) -> Publish:
    """Read a PUBLISH that lies in `data[at:end]`; a topic alias is left in its properties."""
    body = Body("PUBLISH", data, at, end)
    qos = first >> 1 & 3
    if qos == 3:
        raise body.fault("QoS", "3 is not allowed")
    if not qos and first & 0x08:
        raise body.fault("DUP", "set on a QoS 0 message")
    topic = body.text("topic name")
    packet_id = body.packet_id() if qos else 0
    properties = _read_properties(body, Type.PUBLISH, version)
    if topic or properties.topic_alias is None:
        _topic(topic, "PUBLISH: topic name")
    if properties.response_topic is not None:
        _topic(properties.response_topic, "PUBLISH: response topic")
    return Publish(topic, body.rest(), qos, bool(first & 1), packet_id, bool(first & 8), properties)


def _topic(topic: str, what: str) -> str:
    try:
        return check_topic(topic)
    except MalformedTopic as error:
        raise Fault(f"{what}: {error.message}", Reason.TOPIC_NAME_INVALID) from error


def _encode_publish(packet: Publish, version: int) -> bytes:
    if bool(packet.qos) != bool(packet.packet_id):
        raise ValueError(f"QoS {packet.qos} with packet identifier {packet.packet_id}")
    packet_id = packet.packet_id.to_bytes(2, "big") if packet.qos else b""
    properties = _write_properties(packet.properties, Type.PUBLISH, version)
    return wire.text(packet.topic) + packet_id + properties + packet.payload


def _decode_ack(cls: type[_Ack], kind: Type) -> Callable[[Body, int], Packet]:
    def read(body: Body, version: int) -> Packet:
        packet_id = body.packet_id()
        if version != V5 or not body.left:
            return cls(packet_id)
        reason = _known_reason(body, body.byte("reason"))
        return cls(packet_id, reason, props.read(body, kind) if body.left else NONE)

    return read


def _encode_ack(kind: Type) -> Callable[[_Ack, int], bytes]:
    def write(packet: _Ack, version: int) -> bytes:
        packet_id = packet.packet_id.to_bytes(2, "big")
        if version != V5:
            return packet_id
        return packet_id + _optional_end(packet.reason, packet.properties, kind)

    return write


def _optional_end(reason: int, properties: Properties, kind: Type) -> bytes:
    """Reason and properties, left out as far as they say nothing (MQTT 5.0, 3.4.2.1)."""
    if properties is not NONE and properties != NONE:
        return bytes((reason,)) + props.write(properties, kind)
    return bytes((reason,)) if reason else b""


def _known_reason(body: Body, reason: int) -> int:
    try:
        return int(Reason(reason))
    except ValueError:
        raise protocol_error(f"{body.packet}: unknown reason code 0x{reason:02x}") from None


# --- SUBSCRIBE, UNSUBSCRIBE and their answers -------------------------------------------------------


def _entries(body: Body, read: Callable[[Body], Any]) -> tuple[Any, ...]:
    out: list[Any] = []
    while body.left:
        if len(out) >= MAX_ENTRIES:
            raise Fault(f"{body.packet}: more than {MAX_ENTRIES} entries", Reason.QUOTA_EXCEEDED)
        out.append(read(body))
    if not out:
        raise protocol_error(f"{body.packet}: at least one entry is needed")
    return tuple(out)


def _filter(body: Body) -> str:
    value = body.text("topic filter")
    if not value:
        raise body.fault("topic filter", "expected at least one character")
    return value


def _subscription3(body: Body) -> Subscription:
    topic_filter = _filter(body)
    qos = body.byte("requested QoS")
    if qos > 2:
        raise body.fault("requested QoS", f"expected 0 to 2, got {qos}")
    return Subscription(topic_filter, qos)


def _subscription5(body: Body) -> Subscription:
    topic_filter = _filter(body)
    options = body.byte("subscription options")
    qos, handling = options & 3, options >> 4 & 3
    if options & 0xC0 or qos == 3 or handling == 3:
        raise body.fault("subscription options", f"0x{options:02x} is not allowed")
    no_local = bool(options & 4)
    if no_local and topic_filter.startswith("$share/"):
        raise protocol_error("SUBSCRIBE: no local on a shared subscription")
    return Subscription(topic_filter, qos, no_local, bool(options & 8), handling)


def _decode_subscribe(body: Body, version: int) -> Subscribe:
    packet_id = body.packet_id()
    properties = _read_properties(body, Type.SUBSCRIBE, version)
    if len(properties.subscription_ids) > 1:
        raise protocol_error("SUBSCRIBE: more than one subscription identifier")
    read = _subscription5 if version == V5 else _subscription3
    return Subscribe(packet_id, _entries(body, read), properties)


def _encode_subscribe(packet: Subscribe, version: int) -> bytes:
    out = [packet.packet_id.to_bytes(2, "big")]
    out.append(_write_properties(packet.properties, Type.SUBSCRIBE, version))
    for one in packet.subscriptions:
        options = one.qos
        if version == V5:
            options |= one.no_local << 2 | one.retain_as_published << 3 | one.retain_handling << 4
        out += (wire.text(one.filter), bytes((options,)))
    return b"".join(out)


def _decode_suback(body: Body, version: int) -> SubAck:
    packet_id = body.packet_id()
    properties = _read_properties(body, Type.SUBACK, version)
    codes = body.rest()
    for code in codes:
        if version == V5:
            _known_reason(body, code)
        elif code not in (0, 1, 2, 0x80):
            raise body.fault("return code", f"0x{code:02x} is not allowed")
    return SubAck(packet_id, tuple(codes), properties)


def _encode_suback(packet: SubAck, version: int) -> bytes:
    properties = _write_properties(packet.properties, Type.SUBACK, version)
    codes = packet.codes if version == V5 else [min(code, 0x80) for code in packet.codes]
    return packet.packet_id.to_bytes(2, "big") + properties + bytes(codes)


def _decode_unsubscribe(body: Body, version: int) -> Unsubscribe:
    packet_id = body.packet_id()
    properties = _read_properties(body, Type.UNSUBSCRIBE, version)
    return Unsubscribe(packet_id, _entries(body, _filter), properties)


def _encode_unsubscribe(packet: Unsubscribe, version: int) -> bytes:
    properties = _write_properties(packet.properties, Type.UNSUBSCRIBE, version)
    filters = b"".join([wire.text(one) for one in packet.filters])
    return packet.packet_id.to_bytes(2, "big") + properties + filters


def _decode_unsuback(body: Body, version: int) -> UnsubAck:
    packet_id = body.packet_id()
    if version != V5:
        return UnsubAck(packet_id)
    properties = props.read(body, Type.UNSUBACK)
    return UnsubAck(packet_id, tuple(_known_reason(body, c) for c in body.rest()), properties)


def _encode_unsuback(packet: UnsubAck, version: int) -> bytes:
    packet_id = packet.packet_id.to_bytes(2, "big")
    if version != V5:
        return packet_id
    return packet_id + props.write(packet.properties, Type.UNSUBACK) + bytes(packet.codes)


# --- DISCONNECT, AUTH, PING -----------------------------------------------------------------------


def _decode_disconnect(body: Body, version: int) -> Disconnect:
    if version != V5 or not body.left:
        return Disconnect()
    reason = _known_reason(body, body.byte("reason"))
    return Disconnect(reason, props.read(body, Type.DISCONNECT) if body.left else NONE)


def _encode_disconnect(packet: Disconnect, version: int) -> bytes:
    if version != V5:
        return b""
    return _optional_end(packet.reason, packet.properties, Type.DISCONNECT)


def _decode_auth(body: Body, version: int) -> Auth:
    if version != V5:
        raise protocol_error("AUTH: packet type 15 is reserved before MQTT 5.0")
    if not body.left:
        return Auth()
    reason = _known_reason(body, body.byte("reason"))
    return Auth(reason, props.read(body, Type.AUTH) if body.left else NONE)


def _encode_auth(packet: Auth, _version: int) -> bytes:
    return _optional_end(packet.reason, packet.properties, Type.AUTH)


def _nothing(_packet: object, _version: int) -> bytes:
    return b""


_DECODERS: dict[Type, Callable[[Body, int], Packet]] = {
    Type.CONNECT: _decode_connect,
    Type.CONNACK: _decode_connack,
    Type.PUBACK: _decode_ack(PubAck, Type.PUBACK),
    Type.PUBREC: _decode_ack(PubRec, Type.PUBREC),
    Type.PUBREL: _decode_ack(PubRel, Type.PUBREL),
    Type.PUBCOMP: _decode_ack(PubComp, Type.PUBCOMP),
    Type.SUBSCRIBE: _decode_subscribe,
    Type.SUBACK: _decode_suback,
    Type.UNSUBSCRIBE: _decode_unsubscribe,
    Type.UNSUBACK: _decode_unsuback,
    Type.PINGREQ: lambda _body, _version: PingReq(),
    Type.PINGRESP: lambda _body, _version: PingResp(),
    Type.DISCONNECT: _decode_disconnect,
    Type.AUTH: _decode_auth,
}

_ENCODERS: dict[type[Any], tuple[Type, int, Callable[[Any, int], bytes]]] = {
    Connect: (Type.CONNECT, 0, _encode_connect),
    ConnAck: (Type.CONNACK, 0, _encode_connack),
    Publish: (Type.PUBLISH, 0, _encode_publish),
    PubAck: (Type.PUBACK, 0, _encode_ack(Type.PUBACK)),
    PubRec: (Type.PUBREC, 0, _encode_ack(Type.PUBREC)),
    PubRel: (Type.PUBREL, 2, _encode_ack(Type.PUBREL)),
    PubComp: (Type.PUBCOMP, 0, _encode_ack(Type.PUBCOMP)),
    Subscribe: (Type.SUBSCRIBE, 2, _encode_subscribe),
    SubAck: (Type.SUBACK, 0, _encode_suback),
    Unsubscribe: (Type.UNSUBSCRIBE, 2, _encode_unsubscribe),
    UnsubAck: (Type.UNSUBACK, 0, _encode_unsuback),
    PingReq: (Type.PINGREQ, 0, _nothing),
    PingResp: (Type.PINGRESP, 0, _nothing),
    Disconnect: (Type.DISCONNECT, 0, _encode_disconnect),
    Auth: (Type.AUTH, 0, _encode_auth),
}
