"""Heads and bodies of HTTP/1.1 on asyncio's streams: what the small server and the small client share.

Strict where leniency lets requests be smuggled: one length, no folded lines, no blank before a colon, CRLF
only.
Source: RFC 9112.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterable, Mapping

MAX_HEAD = 16_384
MAX_FIELDS = 100
MAX_CHUNK_LINE = 256
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_TARGET = re.compile(r"[!-~]+")
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_LENGTH = re.compile(r"[0-9]{1,15}")
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,8})[ \t]*(;.*)?")

Fields = Mapping[str, tuple[str, ...]]
"""Names in lower case -> values in order."""


class Malformed(Exception):
    """Not HTTP/1.1 as it is read here.

    Shape:  `status` is what a server answers: 400, 413, 431, 501.
    """

    def __init__(self, text: str, status: int = 400) -> None:
        super().__init__(text)
        self.status = status


async def read_head(reader: asyncio.StreamReader) -> tuple[str, Fields] | None:
    """Read a start line and fields; None at a clean end of the stream.

    Errors: Malformed; the reader's limit must be `MAX_HEAD`.
    """
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as error:
        if error.partial.strip():
            raise Malformed("the head ends too early") from error
        return None
    except asyncio.LimitOverrunError as error:
        raise Malformed("the head is too long", 431) from error
    if len(head) > MAX_HEAD:
        raise Malformed("the head is too long", 431)
    return parse_head(head)


def parse_head(head: bytes) -> tuple[str, Fields]:
    """Parse a start line and fields, with the empty line behind them. Errors: Malformed."""
    start, *lines = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
    return start, _fields(lines)


def _fields(lines: Iterable[str]) -> Fields:
    fields: dict[str, tuple[str, ...]] = {}
    for count, line in enumerate(lines, 1):
        name, colon, value = line.partition(":")
        if count > MAX_FIELDS:
            raise Malformed("too many header fields", 431)
        if not colon or not _NAME.fullmatch(name) or not _VALUE.fullmatch(value):
            raise Malformed("a header field is malformed")
        key = name.lower()
        fields[key] = (*fields.get(key, ()), value.strip(" \t"))
    return fields


def body_length(fields: Fields) -> int | None:
    """Return the length that the fields tell, None for chunks, -1 for none told.

    Errors: Malformed for two lengths or a coding that is not `chunked` alone.
    """
    coding, lengths = fields.get("transfer-encoding", ()), fields.get("content-length", ())
    if coding:
        if lengths:
            raise Malformed("both Content-Length and Transfer-Encoding")
        if len(coding) != 1 or coding[0].lower() != "chunked":
            raise Malformed("a transfer coding that is not read here", 501)
        return None
    if not lengths:
        return -1
    if len(set(lengths)) != 1 or not _LENGTH.fullmatch(lengths[0]):
        raise Malformed("Content-Length is malformed")
    return int(lengths[0])


async def read_chunks(reader: asyncio.StreamReader, limit: int) -> AsyncIterator[bytes]:
    """Yield the pieces of a chunked body; extensions and trailers are dropped.

    Errors: Malformed, with 413 for more than `limit` bytes; IncompleteReadError.
    """
    total = 0
    while size := await _chunk_size(reader):
        total += size
        if total > limit:
            raise Malformed(f"a body of at most {limit} bytes is taken", 413)
        while size:
            piece = await reader.readexactly(min(size, 65_536))
            size -= len(piece)
            yield piece
        if await reader.readexactly(2) != b"\r\n":
            raise Malformed("a chunk is longer than it says")
    left = MAX_HEAD
    while (line := await _line(reader, left)) != b"":
        left -= len(line) + 2
        if left <= 0:
            raise Malformed("the trailers are too long", 431)


async def _chunk_size(reader: asyncio.StreamReader) -> int:
    found = _CHUNK.fullmatch(await _line(reader, MAX_CHUNK_LINE))
    if found is None:
        raise Malformed("the size of a chunk is malformed")
    return int(found[1], 16)


async def _line(reader: asyncio.StreamReader, limit: int) -> bytes:
    try:
        line = await reader.readuntil(b"\r\n")
    except asyncio.LimitOverrunError as error:
        raise Malformed("a line is too long") from error
    if len(line) > limit + 2:
        raise Malformed("a line is too long")
    return line[:-2]


def write_head(start: str, fields: Iterable[tuple[str, str]]) -> bytes:
    """Write a start line and fields. Errors: ValueError for what would end a line or a name early."""
    lines = [start]
    for name, value in fields:
        if not _NAME.fullmatch(name) or not _VALUE.fullmatch(value):
            raise ValueError(f"not a header field: {name[:100]!r}")
        lines.append(f"{name}: {value}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def chunk(data: bytes) -> bytes:
    """Write one chunk; b"" is none (it would end the body)."""
    return b"%x\r\n%b\r\n" % (len(data), data) if data else b""


LAST_CHUNK = b"0\r\n\r\n"


def is_token(text: str) -> bool:
    """True for what may be a method or field name."""
    return _NAME.fullmatch(text) is not None


def is_target(text: str) -> bool:
    """True for visible ASCII alone."""
    return _TARGET.fullmatch(text) is not None
