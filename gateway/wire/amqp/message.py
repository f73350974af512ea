"""AMQP 1.0 messages: the sections of a transfer's payload.

Sections come in the standard's order, each at most once but for data and sequence, which may repeat. The
body may be missing (Hono's empty notification has none).
Errors: MalformedPacket names the section and what was wrong.
Source: OASIS AMQP 1.0, part 3, section 3.2.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Final, TypeAlias
from uuid import UUID

import msgspec

from gateway.errors import MalformedPacket
from gateway.wire.amqp.decode import decode
from gateway.wire.amqp.encode import encode, encode_described
from gateway.wire.amqp.fields import (
    BINARY,
    BOOLEAN,
    MESSAGE_ID,
    STRING,
    SYMBOL,
    TIMESTAMP,
    UBYTE,
    UINT,
    Catalogue,
    Field,
)
from gateway.wire.amqp.values import Described, Symbol, ULong

MessageId: TypeAlias = "str | int | UUID | bytes"
"""ulong, uuid, binary or string; Hono uses strings."""

EMPTY: Final[Mapping[object, object]] = {}


class Header(msgspec.Struct, frozen=True):
    """Transport facts of a message; `ttl` in milliseconds."""

    durable: bool = False
    priority: int = 4
    ttl: int | None = None
    first_acquirer: bool = False
    delivery_count: int = 0


class Properties(msgspec.Struct, frozen=True):
    """The immutable standard properties; times in milliseconds since the epoch."""

    message_id: MessageId | None = None
    user_id: bytes | None = None
    to: str | None = None
    subject: str | None = None
    reply_to: str | None = None
    correlation_id: MessageId | None = None
    content_type: str | None = None
    content_encoding: str | None = None
    absolute_expiry_time: int | None = None
    creation_time: int | None = None
    group_id: str | None = None
    group_sequence: int | None = None
    reply_to_group_id: str | None = None


class Data(msgspec.Struct, frozen=True):
    """A body of bytes; several data sections are joined."""

    payload: bytes


class Value(msgspec.Struct, frozen=True):
    """A body of one AMQP value."""

    value: object


class Sequence(msgspec.Struct, frozen=True):
    """A body of lists."""

    rows: tuple[list[object], ...]


Body: TypeAlias = "Data | Value | Sequence"


class AmqpMessage(msgspec.Struct, frozen=True, kw_only=True):
    """One message with all its sections."""

    header: Header = Header()
    delivery_annotations: Mapping[object, object] | None = None
    message_annotations: Mapping[object, object] | None = None
    properties: Properties = Properties()
    application_properties: Mapping[object, object] | None = None
    body: Body | None = None
    footer: Mapping[object, object] | None = None


SECTIONS: Final = Catalogue()
SECTIONS.add(
    0x70,
    "amqp:header:list",
    Header,
    Field("durable", BOOLEAN),
    Field("priority", UBYTE),
    Field("ttl", UINT),
    Field("first-acquirer", BOOLEAN),
    Field("delivery-count", UINT),
)
SECTIONS.add(
    0x73,
    "amqp:properties:list",
    Properties,
    Field("message-id", MESSAGE_ID),
    Field("user-id", BINARY),
    Field("to", STRING),
    Field("subject", STRING),
    Field("reply-to", STRING),
    Field("correlation-id", MESSAGE_ID),
    Field("content-type", SYMBOL),
    Field("content-encoding", SYMBOL),
    Field("absolute-expiry-time", TIMESTAMP),
    Field("creation-time", TIMESTAMP),
    Field("group-id", STRING),
    Field("group-sequence", UINT),
    Field("reply-to-group-id", STRING),
)

_HEADER, _DELIVERY, _ANNOTATIONS, _PROPERTIES, _APPLICATION = 0x70, 0x71, 0x72, 0x73, 0x74
_DATA, _SEQUENCE, _VALUE, _FOOTER = 0x75, 0x76, 0x77, 0x78
_NAMES: Final = {
    _HEADER: "header",
    _DELIVERY: "delivery-annotations",
    _ANNOTATIONS: "message-annotations",
    _PROPERTIES: "properties",
    _APPLICATION: "application-properties",
    _DATA: "data",
    _SEQUENCE: "amqp-sequence",
    _VALUE: "amqp-value",
    _FOOTER: "footer",
}
_CODES: Final[dict[object, int]] = {
    **{ULong(code): code for code in _NAMES},
    Symbol("amqp:header:list"): _HEADER,
    Symbol("amqp:delivery-annotations:map"): _DELIVERY,
    Symbol("amqp:message-annotations:map"): _ANNOTATIONS,
    Symbol("amqp:properties:list"): _PROPERTIES,
    Symbol("amqp:application-properties:map"): _APPLICATION,
    Symbol("amqp:data:binary"): _DATA,
    Symbol("amqp:amqp-sequence:list"): _SEQUENCE,
    Symbol("amqp:amqp-value:*"): _VALUE,
    Symbol("amqp:footer:map"): _FOOTER,
}
_SMALL_ULONG: Final = 0x53
_BINARY: Final = (0xA0, 0xB0)
_SIZE_BYTES: Final = {0xA0: 1, 0xB0: 4, 0xC0: 1, 0xC1: 1, 0xD0: 4, 0xD1: 4}
"""Bytes of the size of a binary, list or map, by format code."""
_SIZE_AT: Final = 4
_SECTION_HEAD: Final = 4
_COMPOSITES: Final[Mapping[type, int]] = {Header: _HEADER, Properties: _PROPERTIES}
_MAPS: Final = (_DELIVERY, _ANNOTATIONS, _APPLICATION, _FOOTER)
_REPEATING: Final = (_DATA, _SEQUENCE)


def decode_message(data: bytes) -> AmqpMessage:
    """Read a transfer's payload.

    Errors: MalformedPacket for an unknown section, a wrong order, a section twice, a wrong field type.
    """
    sections: dict[int, object] = {}
    at, last = 0, 0
    while at < len(data):
        found = SECTIONS.decode_usual(data, at)
        if found is not None:
            (section, at), code = found, _COMPOSITES[type(found[0])]
        else:
            section, at = decode(data, at)
            code = _section_code(section)
        if code < last or (code in sections and code not in _REPEATING):
            raise MalformedPacket(f"amqp message: section {_NAMES[code]} stands in the wrong place")
        last = code
        _collect(sections, code, section)
    return _message(sections)


def last_data_section(data: bytes) -> tuple[int, int] | None:
    """Find the one data section that a message ends with, without reading the sections before it.

    Shape:  (where it begins, where its bytes begin); None where the message is of another form, or broken.
            What stands before it may still be no message.
    """
    at, end = 0, len(data)
    while end - at > _SECTION_HEAD and data[at] == 0 and data[at + 1] == _SMALL_ULONG:
        form = data[at + 3]
        start = at + _SIZE_AT + _SIZE_BYTES.get(form, end)
        if start > end:
            return None
        stop = start + int.from_bytes(data[at + _SIZE_AT : start], "big")
        if data[at + 2] == _DATA:
            return (at, start) if stop == end and form in _BINARY else None
        at = stop
    return None


def _section_code(value: object) -> int:
    code = _CODES.get(value.descriptor) if isinstance(value, Described) else None
    if code is None:
        raise MalformedPacket("amqp message: expected a section")
    return code


def _collect(sections: dict[int, object], code: int, section: object) -> None:
    if not isinstance(section, Described):
        sections[code] = section  # read by its plan
        return
    value = section.value
    if code in (_HEADER, _PROPERTIES):
        sections[code] = SECTIONS.read(section)
    elif code in _MAPS:
        sections[code] = _map(code, value)
    elif code == _DATA:
        sections.setdefault(code, []).append(_typed(code, value, bytes))  # type: ignore[attr-defined]
    elif code == _SEQUENCE:
        sections.setdefault(code, []).append(_typed(code, value, list))  # type: ignore[attr-defined]
    else:
        sections[code] = Value(value)


def _typed(code: int, value: object, kind: type) -> object:
    if type(value) is not kind:
        raise MalformedPacket(
            f"amqp message: section {_NAMES[code]}: expected {kind.__name__}, got {type(value).__name__}"
        )
    return value


def _map(code: int, value: object) -> dict[object, object]:
    if not isinstance(value, dict):
        raise MalformedPacket(f"amqp message: section {_NAMES[code]}: expected a map")
    return value


def _message(sections: dict[int, object]) -> AmqpMessage:
    bodies = [code for code in (_DATA, _SEQUENCE, _VALUE) if code in sections]
    if len(bodies) > 1:
        raise MalformedPacket("amqp message: more than one kind of body")
    return AmqpMessage(
        header=sections.get(_HEADER, _NO_HEADER),  # type: ignore[arg-type]
        delivery_annotations=sections.get(_DELIVERY),  # type: ignore[arg-type]
        message_annotations=sections.get(_ANNOTATIONS),  # type: ignore[arg-type]
        properties=sections.get(_PROPERTIES, _NO_PROPERTIES),  # type: ignore[arg-type]
        application_properties=sections.get(_APPLICATION),  # type: ignore[arg-type]
        body=_body(sections, bodies[0]) if bodies else None,
        footer=sections.get(_FOOTER),  # type: ignore[arg-type]
    )


def _body(sections: dict[int, object], code: int) -> Body:
    section = sections[code]
    if isinstance(section, list):
        return Data(b"".join(section)) if code == _DATA else Sequence(tuple(section))
    assert isinstance(section, Value)  # noqa: S101  _collect made it
    return section


_NO_HEADER: Final = Header()
_NO_PROPERTIES: Final = Properties()


def encode_message(message: AmqpMessage) -> bytes:
    """Write all sections; those with nothing in them are left away."""
    return b"".join((encode_prefix(message), _encode_body(message.body), _footer(message.footer)))


def encode_prefix(message: AmqpMessage) -> bytes:
    """Write what stands before the body."""
    parts: list[bytes] = []
    if message.header != _NO_HEADER:
        parts.append(SECTIONS.write(message.header))
    parts.append(_encode_map(_DELIVERY, message.delivery_annotations))
    parts.append(_encode_map(_ANNOTATIONS, message.message_annotations))
    if message.properties != _NO_PROPERTIES:
        parts.append(SECTIONS.write(message.properties))
    parts.append(_encode_map(_APPLICATION, message.application_properties))
    return b"".join(parts)


_SHORT_HEADS: Final = tuple(b"\x00\x53\x75\xa0" + bytes((size,)) for size in range(256))


def data_head(size: int) -> bytes:
    """Return what stands before the `size` bytes of a data section."""
    if size < 256:
        return _SHORT_HEADS[size]
    return b"\x00\x53\x75\xb0" + struct.pack(">I", size)


def _encode_map(code: int, value: Mapping[object, object] | None) -> bytes:
    return encode_described(code, encode(dict(value))) if value else b""


def _footer(value: Mapping[object, object] | None) -> bytes:
    return _encode_map(_FOOTER, value)


def _encode_body(body: Body | None) -> bytes:
    match body:
        case None:
            return b""
        case Data(payload):
            return data_head(len(payload)) + payload
        case Value(value):
            return encode_described(_VALUE, encode(value))
        case Sequence(rows):
            return b"".join(encode_described(_SEQUENCE, encode(row)) for row in rows)


def payload_of(message: AmqpMessage) -> bytes | None:
    """Return the body as bytes where it is a data section, or a value that is a string or binary.

    Shape:  b"" without a body or with a null value; None for any other body.
    """
    match message.body:
        case None:
            return b""
        case Data(payload):
            return payload
        case Value(value):
            if value is None:
                return b""
            if isinstance(value, bytes):
                return value
            return value.encode() if isinstance(value, str) else None
        case Sequence():
            return None
