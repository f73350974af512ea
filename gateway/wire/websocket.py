"""The server's side of one WebSocket after its upgrade, without I/O: bytes in, whole messages out.

For links with thousands of sessions that are mostly silent: what a session keeps between two messages is
this object and nothing else. Text only, no extensions, no compression. Source: RFC 6455.
"""

from __future__ import annotations

import base64
import binascii
import enum
import hashlib
from collections.abc import Mapping, Sequence

from gateway.errors import MalformedPacket

GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
NORMAL, PROTOCOL_ERROR, UNSUPPORTED, TOO_BIG, NO_CODE = 1000, 1002, 1003, 1009, 1005
MAX_CONTROL = 125


class Op(enum.IntEnum):
    CONTINUATION = 0x0
    TEXT = 0x1
    BINARY = 0x2
    CLOSE = 0x8
    PING = 0x9
    PONG = 0xA


class Broken(MalformedPacket):
    """The peer does not speak WebSocket as agreed; `close_code` tells it why."""

    def __init__(self, text: str, close_code: int = PROTOCOL_ERROR) -> None:
        super().__init__(text)
        self.close_code = close_code


def accept_of(key: str) -> str:
    """Return the proof that the upgrade with this `Sec-WebSocket-Key` was understood."""
    digest = hashlib.sha1((key + GUID).encode("latin-1"), usedforsecurity=False).digest()
    return base64.b64encode(digest).decode("ascii")


def wants_upgrade(method: str, fields: Mapping[str, Sequence[str]]) -> str | None:
    """Return the key of a request for a WebSocket, None for any other request.

    Shape:  `fields` are header names in lower case with their values.
    """
    connection = {w.strip().lower() for v in fields.get("connection", ()) for w in v.split(",")}
    upgrade = [value.lower() for value in fields.get("upgrade", ())]
    keys = fields.get("sec-websocket-key", ())
    is_asked = method == "GET" and "upgrade" in connection and "websocket" in upgrade
    if not is_asked or list(fields.get("sec-websocket-version", ())) != ["13"] or len(keys) != 1:
        return None
    try:
        is_key = len(base64.b64decode(keys[0], validate=True)) == 16
    except (binascii.Error, ValueError):
        return None
    return keys[0] if is_key else None


def frame(data: bytes, op: Op = Op.TEXT) -> bytes:
    """Write one whole message."""
    size = len(data)
    if size < 126:
        return bytes((0x80 | op, size)) + data
    if size < 65_536:
        return bytes((0x80 | op, 126)) + size.to_bytes(2, "big") + data
    return bytes((0x80 | op, 127)) + size.to_bytes(8, "big") + data


def close_frame(code: int, reason: str = "") -> bytes:
    """Write a goodbye; the reason is cut to what fits."""
    text = reason.encode()[: MAX_CONTROL - 2].decode("utf-8", "ignore").encode()
    return frame(code.to_bytes(2, "big") + text, Op.CLOSE)


def masked(data: bytes | bytearray, mask: bytes | bytearray) -> bytes:
    """Mask data, or take the mask off."""
    size = len(data)
    pad = (mask * (size // 4 + 1))[:size]
    return (int.from_bytes(data, "little") ^ int.from_bytes(pad, "little")).to_bytes(size, "little")


class ServerSession:
    """What one connection has said so far.

    Shape:  `limit` bounds one message in bytes; `answers` are frames to write (pongs, the goodbye); `closed`
            once either side has said goodbye.
    """

    __slots__ = ("_buffer", "_limit", "_need", "_parts", "answers", "closed")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._buffer: bytearray | None = None
        self._need = 0
        self._parts: bytearray | None = None
        self.answers: list[bytes] = []
        self.closed = False

    def receive(self, data: bytes) -> list[bytes]:
        """Take what the socket gave; return the text messages that are whole now.

        Errors: Broken; the connection is of no use after it.
        """
        source: bytes | bytearray = data
        if self._buffer is not None:
            self._buffer += data
            if len(self._buffer) < self._need:
                return []
            source, self._buffer = self._buffer, None
        messages: list[bytes] = []
        at = 0
        while not self.closed:
            start, end = self._span(source, at)
            if end > len(source):
                self._need = end - at
                break
            message = self._take(source[at], masked(source[start:end], source[start - 4 : start]))
            if message is not None:
                messages.append(message)
            at = end
        if at < len(source) and not self.closed:
            self._buffer = bytearray(source[at:])
        return messages

    def _span(self, source: bytes | bytearray, at: int) -> tuple[int, int]:
        """Return where a frame's payload starts and ends; an end beyond what is there: more is needed."""
        there = len(source) - at
        if there < 2:
            return at, at + 2
        first, second = source[at], source[at + 1]
        if first & 0x70:
            raise Broken("frame: reserved bits are set, no extension was agreed")
        if not second & 0x80:
            raise Broken("frame: a client must mask")
        size = second & 0x7F
        width = 0 if size < 126 else 2 if size == 126 else 8
        start = at + 6 + width
        if there < 6 + width:
            return start, start
        if width:
            size = int.from_bytes(source[at + 2 : at + 2 + width], "big")
        whole = size + len(self._parts or b"")
        if whole > self._limit:
            raise Broken(f"message: at most {self._limit} bytes, got {whole}", TOO_BIG)
        return start, start + size

    def _take(self, first: int, data: bytes) -> bytes | None:
        op, is_final = first & 0x0F, bool(first & 0x80)
        if op >= Op.CLOSE:
            self._take_control(op, is_final, data)
            return None
        if op == Op.BINARY:
            raise Broken("frame: only text is taken", UNSUPPORTED)
        if op not in (Op.TEXT, Op.CONTINUATION):
            raise Broken(f"frame: unknown opcode {op:#x}")
        if (op == Op.CONTINUATION) != (self._parts is not None):
            raise Broken("frame: continuation does not fit what came before")
        if self._parts is None:
            if is_final:
                return data
            self._parts = bytearray(data)
            return None
        self._parts += data
        if not is_final:
            return None
        whole, self._parts = bytes(self._parts), None
        return whole

    def _take_control(self, op: int, is_final: bool, data: bytes) -> None:
        if not is_final or len(data) > MAX_CONTROL:
            raise Broken("frame: a control frame is whole and at most 125 bytes")
        if op == Op.PING:
            self.answers.append(frame(data, Op.PONG))
        elif op == Op.CLOSE:
            self.answers.append(frame(data[:2] or NORMAL.to_bytes(2, "big"), Op.CLOSE))
            self.closed = True
        elif op != Op.PONG:
            raise Broken(f"frame: unknown opcode {op:#x}")
