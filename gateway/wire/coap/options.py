"""CoAP's option numbers and what their values mean.

Source: RFC 7252, 5.10; RFC 7959 (Block1, Block2, Size1, Size2); RFC 9175 (Request-Tag); IANA, CoAP
Content-Formats. As Hono's adapter has it, option 65000 carries the server's time and 65022 a trace context.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from gateway.errors import BadRequest, MalformedPacket

IF_MATCH: Final = 1
URI_HOST: Final = 3
ETAG: Final = 4
IF_NONE_MATCH: Final = 5
OBSERVE: Final = 6
URI_PORT: Final = 7
LOCATION_PATH: Final = 8
URI_PATH: Final = 11
CONTENT_FORMAT: Final = 12
MAX_AGE: Final = 14
URI_QUERY: Final = 15
ACCEPT: Final = 17
LOCATION_QUERY: Final = 20
BLOCK2: Final = 23
BLOCK1: Final = 27
SIZE2: Final = 28
PROXY_URI: Final = 35
PROXY_SCHEME: Final = 39
SIZE1: Final = 60
REQUEST_TAG: Final = 292
TIME: Final = 65_000
TRACE_CONTEXT: Final = 65_022

MAX_TEXT: Final = 255
"""Bytes in one segment or argument, of a path or query."""
MAX_SIZE_EXPONENT: Final = 6
"""Blocks of 1,024 bytes, the largest."""
_RESERVED_EXPONENT: Final = 7

CRITICAL: Final = frozenset(
    {URI_HOST, URI_PORT, URI_PATH, URI_QUERY, ACCEPT, BLOCK1, BLOCK2, PROXY_URI, PROXY_SCHEME}
)
"""Critical options that are understood; a request with another one is refused."""

CONTENT_FORMATS: Final[Mapping[int, str]] = {
    0: "text/plain",
    16: 'application/cose; cose-type="cose-encrypt0"',
    17: 'application/cose; cose-type="cose-mac0"',
    18: 'application/cose; cose-type="cose-sign1"',
    21: "image/gif",
    22: "image/jpeg",
    23: "image/png",
    40: "application/link-format",
    41: "application/xml",
    42: "application/octet-stream",
    47: "application/exi",
    50: "application/json",
    51: "application/json-patch+json",
    52: "application/merge-patch+json",
    60: "application/cbor",
    61: "application/cwt",
    62: "application/multipart-core",
    63: "application/cbor-seq",
    101: "application/cose-key",
    102: "application/cose-key-set",
    110: "application/senml+json",
    111: "application/sensml+json",
    112: "application/senml+cbor",
    113: "application/sensml+cbor",
    114: "application/senml-exi",
    115: "application/sensml-exi",
    256: "application/coap-group+json",
    310: "application/senml+xml",
    311: "application/sensml+xml",
    432: "application/td+json",
    433: "application/tm+json",
    10_000: "application/vnd.ocf+cbor",
    11_542: "application/vnd.oma.lwm2m+tlv",
    11_543: "application/vnd.oma.lwm2m+json",
    11_544: "application/vnd.oma.lwm2m+cbor",
}
_NUMBERS = {media_type: number for number, media_type in CONTENT_FORMATS.items()}


def uint(value: bytes, most: int = 4) -> int:
    """Read an option's number.

    Errors: BadRequest for more than `most` bytes.
    """
    if len(value) > most:
        raise BadRequest(f"coap: a number of at most {most} bytes, got {len(value)}")
    return int.from_bytes(value, "big")


def uint_bytes(number: int) -> bytes:
    """Write a number in as few bytes as it needs; 0 needs none."""
    return number.to_bytes((number.bit_length() + 7) // 8, "big")


def text(value: bytes) -> str:
    """Read an option's text.

    Errors: MalformedPacket when it is too long or no UTF-8.
    """
    if len(value) > MAX_TEXT:
        raise MalformedPacket(f"coap: a text of at most {MAX_TEXT} bytes, got {len(value)}")
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise MalformedPacket(f"coap: a text is no UTF-8: {error.reason}") from error


def media_type_of(number: int) -> str:
    """Return the media type of a content format; `unknown/<number>` where it is not registered."""
    return CONTENT_FORMATS.get(number) or f"unknown/{number}"


def format_of(media_type: str) -> int | None:
    """Return the content format of a media type; None where there is none.

    Shape:  parameters are compared as written, but for `charset=utf-8`, which says nothing new.
    """
    plain = media_type.strip().lower()
    name, _, parameters = plain.partition(";")
    if parameters.strip() in ("charset=utf-8", 'charset="utf-8"'):
        plain = name.strip()
    return _NUMBERS.get(plain)


class Block(NamedTuple):
    """The value of a Block option.

    Shape:  block `number` of 2 ** (`exponent` + 4) bytes; `more` follow.
    """

    number: int
    more: bool
    exponent: int

    @property
    def size(self) -> int:
        return 1 << (self.exponent + 4)

    @property
    def start(self) -> int:
        """Where in the whole body this block begins."""
        return self.number << (self.exponent + 4)

    def encode(self) -> bytes:
        return uint_bytes(self.number << 4 | self.more << 3 | self.exponent)


def block(value: bytes) -> Block:
    """Read a Block option.

    Errors: BadRequest for more than 3 bytes, or the reserved exponent 7.
    """
    number = uint(value, 3)
    found = Block(number >> 4, bool(number & 8), number & 7)
    if found.exponent == _RESERVED_EXPONENT:
        raise BadRequest("coap: block size 7 is reserved")
    return found
