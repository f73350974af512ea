"""One datagram to a CoAP message, and back.

Shape:  4 bytes of header, token, options in order of their numbers, 0xFF and payload.
Errors: MalformedPacket, naming what was wrong. Every length is checked against the datagram's end.
Source: RFC 7252, 3 (message format) and 3.1 (option format); RFC 8974 (longer tokens) is not taken.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, TypeAlias

import msgspec

from gateway.errors import MalformedPacket

CON: Final = 0
NON: Final = 1
ACK: Final = 2
RST: Final = 3

EMPTY: Final = 0
GET: Final = 1
POST: Final = 2
PUT: Final = 3
DELETE: Final = 4
FETCH: Final = 5
PATCH: Final = 6
IPATCH: Final = 7

HEADER: Final = 4
VERSION: Final = 1
MAX_TOKEN: Final = 8
MAX_OPTIONS: Final = 64
"""Options in one message."""
MAX_NUMBER: Final = 65_535
PAYLOAD_MARKER: Final = 0xFF

Option: TypeAlias = tuple[int, bytes]


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """One CoAP message.

    Shape:  `type` CON, NON, ACK or RST; `code` as on the wire (0x45 is 2.05); `options` in the order of
            their numbers, those of one number in the order in which they were sent.
    """

    type: int
    code: int
    mid: int
    token: bytes = b""
    options: tuple[Option, ...] = ()
    payload: bytes = b""

    @property
    def is_request(self) -> bool:
        return 0 < self.code < 0x20

    def first(self, number: int) -> bytes | None:
        """Return the first value of an option, None where it is absent."""
        for found, value in self.options:
            if found == number:
                return value
        return None

    def all(self, number: int) -> list[bytes]:
        """Return all values of an option that may come several times."""
        return [value for found, value in self.options if found == number]


def is_coap(data: bytes) -> bool:
    """True where a datagram has a header of this version; others are to be ignored in silence."""
    return len(data) >= HEADER and data[0] >> 6 == VERSION


def type_and_mid(data: bytes) -> tuple[int, int]:
    """Return message type and id of a datagram that `is_coap`, whatever comes behind them."""
    return data[0] >> 4 & 3, data[2] << 8 | data[3]


def decode(data: bytes) -> Message:
    """Read a datagram that `is_coap`."""
    first = data[0]
    size = first & 0x0F
    at = HEADER + size
    if size > MAX_TOKEN or at > len(data):
        raise MalformedPacket(f"coap: a token of {size} bytes in a datagram of {len(data)}")
    code = data[1]
    if code == EMPTY and len(data) > HEADER:
        raise MalformedPacket(f"coap: an empty message has {len(data) - HEADER} bytes too many")
    options, payload = _decode_options(data, at)
    return Message(
        type=first >> 4 & 3,
        code=code,
        mid=data[2] << 8 | data[3],
        token=data[HEADER:at],
        options=options,
        payload=payload,
    )


def _decode_options(data: bytes, at: int) -> tuple[tuple[Option, ...], bytes]:
    found: list[Option] = []
    number, end = 0, len(data)
    while at < end:
        first = data[at]
        at += 1
        if first == PAYLOAD_MARKER:
            if at == end:
                raise MalformedPacket("coap: no payload behind its marker")
            return tuple(found), data[at:]
        delta, size = first >> 4, first & 0x0F
        if delta >= 13:
            delta, at = _extended(data, at, delta)
        if size >= 13:
            size, at = _extended(data, at, size)
        number += delta
        if at + size > end or number > MAX_NUMBER or len(found) == MAX_OPTIONS:
            raise MalformedPacket(f"coap: option {number} of {size} bytes at byte {at}")
        found.append((number, data[at : at + size]))
        at += size
    return tuple(found), b""


def _extended(data: bytes, at: int, nibble: int) -> tuple[int, int]:
    if nibble == 13 and at < len(data):
        return data[at] + 13, at + 1
    if nibble == 14 and at + 1 < len(data):
        return (data[at] << 8 | data[at + 1]) + 269, at + 2
    raise MalformedPacket(f"coap: an option's delta or length at byte {at} is cut or reserved")


def encode(message: Message) -> bytes:
    """Write a message.

    Errors: ValueError for a token or option that has no place in it: a mistake of ours.
    """
    token, mid = message.token, message.mid
    if len(token) > MAX_TOKEN:
        raise ValueError(f"a token has at most {MAX_TOKEN} bytes, got {len(token)}")
    out = bytearray(
        (VERSION << 6 | message.type << 4 | len(token), message.code, mid >> 8, mid & 0xFF)
    )
    out += token
    _encode_options(out, message.options)
    if message.payload:
        out.append(PAYLOAD_MARKER)
        out += message.payload
    return bytes(out)


def _encode_options(out: bytearray, options: Iterable[Option]) -> None:
    last = 0
    for number, value in options:
        delta, more_delta = _nibble(number - last)
        size, more_size = _nibble(len(value))
        out.append(delta << 4 | size)
        out += more_delta
        out += more_size
        out += value
        last = number


def _nibble(value: int) -> tuple[int, bytes]:
    if 0 <= value < 13:
        return value, b""
    if 13 <= value < 269:
        return 13, (value - 13).to_bytes(1, "big")
    if 269 <= value < 65_805:
        return 14, (value - 269).to_bytes(2, "big")
    raise ValueError(f"an option's delta or length is 0..65804, got {value}")


def empty(kind: int, mid: int) -> bytes:
    """Write an empty message: an acknowledgement, a reset, a ping."""
    return bytes((VERSION << 6 | kind << 4, EMPTY, mid >> 8, mid & 0xFF))
