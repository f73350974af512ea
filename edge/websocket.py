"""The client's side of one WebSocket, without I/O: bytes in, events out.

Why not the HTTP library that the rest uses: it costs the agent a quarter of its memory and a third of its
start time, and the hub needs text frames, pings and one upgrade request, nothing else. No
extensions, no compression. Source: RFC 6455.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from gateway.errors import MalformedPacket, TooLarge
from gateway.wire.websocket import Op, accept_of, masked

MAX_HEAD = 16_384
"""Bytes of the answer to the upgrade."""
_STATUS = re.compile(r"[1-9][0-9]{2}").fullmatch


@dataclass(frozen=True, slots=True)
class Opened:
    """The server speaks WebSocket now; header names in lower case."""

    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Refused:
    """The server answered the upgrade with something else."""

    status: int
    reason: str
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Text:
    """One whole text message (UTF-8, not checked: the JSON reader does)."""

    data: bytes


@dataclass(frozen=True, slots=True)
class TooLong:
    """A message over the limit went past; nothing of it was kept."""


@dataclass(frozen=True, slots=True)
class Pong:
    """The peer answered a ping."""


@dataclass(frozen=True, slots=True)
class Closed:
    """The peer ends the connection; `code` 1005 when it gave none."""

    code: int
    reason: str


Event: TypeAlias = Opened | Refused | Text | TooLong | Pong | Closed


class ClientSession:
    """One connection's state.

    Shape:  `key` is 16 random bytes, `mask` gives 4 random bytes per frame (both from outside: no clock or
            dice here). `limit` bounds one message in bytes; a longer one goes by unread (`TooLong`).
    """

    def __init__(
        self,
        host: str,
        path: str,
        headers: Mapping[str, str],
        *,
        key: bytes,
        mask: Callable[[], bytes],
        limit: int,
    ) -> None:
        self._key = base64.b64encode(key).decode("ascii")
        self._mask = mask
        self._limit = limit
        self._buffer = bytearray()
        self._parts = bytearray()
        self._in_message = False
        self._is_too_long = False
        """True while the frames of a message over the limit go by."""
        self._left: int | None = None
        """Bytes of such a frame that are still to come."""
        self._is_open = False
        self.closed = False
        lines = [f"GET {path} HTTP/1.1", f"Host: {host}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        lines += ["Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13"]
        lines += [f"Sec-WebSocket-Key: {self._key}", "", ""]
        self._out = bytearray("\r\n".join(lines).encode("latin-1"))

    # --- out ----------------------------------------------------------------------------------

    def to_send(self) -> bytes:
        """Take what must be written now."""
        out = bytes(self._out)
        self._out.clear()
        return out

    def send_text(self, data: bytes) -> None:
        self._frame(Op.TEXT, data)

    def ping(self, payload: bytes = b"") -> None:
        self._frame(Op.PING, payload)

    def close(self, code: int = 1000) -> None:
        """Say goodbye; nothing is sent after it."""
        if self._is_open and not self.closed:
            self._frame(Op.CLOSE, code.to_bytes(2, "big"))
        self.closed = True

    def _frame(self, op: Op, data: bytes) -> None:
        size = len(data)
        if size < 126:
            head = bytes((0x80 | op, 0x80 | size))
        elif size < 65_536:
            head = bytes((0x80 | op, 0x80 | 126)) + size.to_bytes(2, "big")
        else:
            head = bytes((0x80 | op, 0x80 | 127)) + size.to_bytes(8, "big")
        mask = self._mask()
        self._out += head + mask + masked(data, mask)

    # --- in -----------------------------------------------------------------------------------

    def receive(self, data: bytes) -> list[Event]:
        """Take what the socket gave; `b""` says that the peer has gone.

        Errors: MalformedPacket, TooLarge (headers); the connection is of no use after either.
        """
        if not data:
            self.closed = True
            return [Closed(1006, "the peer has gone")]
        self._buffer += data
        events: list[Event] = []
        while not self.closed:
            event = self._next() if self._is_open else self._head()
            if event is None:
                break
            events += event
        return events

    def _head(self) -> list[Event] | None:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            if len(self._buffer) > MAX_HEAD:
                raise TooLarge(f"upgrade answer: more than {MAX_HEAD} bytes of headers")
            return None
        lines = self._buffer[:end].decode("latin-1").split("\r\n")
        del self._buffer[: end + 4]
        status, reason = _status_of(lines[0])
        headers = _headers_of(lines[1:])
        if status != 101:
            self.closed = True
            return [Refused(status, reason, headers)]
        if headers.get("sec-websocket-accept") != accept_of(self._key):
            raise MalformedPacket("upgrade answer: sec-websocket-accept does not fit our key")
        self._is_open = True
        return [Opened(headers)]

    def _next(self) -> list[Event] | None:
        return self._next_frame() if self._left is None else self._pass_over(self._left)

    def _next_frame(self) -> list[Event] | None:
        buffer = self._buffer
        if len(buffer) < 2:
            return None
        if buffer[0] & 0x70:
            raise MalformedPacket("frame: reserved bits are set, no extension was agreed")
        if buffer[1] & 0x80:
            raise MalformedPacket("frame: a server must not mask")
        size, at = buffer[1] & 0x7F, 2
        if size > 125:
            width = 2 if size == 126 else 8
            if len(buffer) < 2 + width:
                return None
            size, at = int.from_bytes(buffer[2 : 2 + width], "big"), 2 + width
        op, is_final = buffer[0] & 0x0F, bool(buffer[0] & 0x80)
        self._check(op, is_final, size)
        if op < Op.CLOSE and (self._is_too_long or size + len(self._parts) > self._limit):
            self._is_too_long, self._in_message = True, not is_final
            self._parts.clear()
            del buffer[:at]
            return self._pass_over(size)
        if len(buffer) < at + size:
            return None
        data = bytes(buffer[at : at + size])
        del buffer[: at + size]
        return self._take(op, is_final, data)

    def _pass_over(self, size: int) -> list[Event] | None:
        """Let a frame go by that belongs to a message over the limit; None while more of it is to come."""
        there = min(size, len(self._buffer))
        del self._buffer[:there]
        self._left = size - there or None
        if self._left is not None:
            return None
        if self._in_message:
            return []
        self._is_too_long = False
        return [TooLong()]

    def _check(self, op: int, is_final: bool, size: int) -> None:
        if op >= Op.CLOSE:
            if not is_final or size > 125:
                raise MalformedPacket("frame: a control frame is whole and at most 125 bytes")
            return
        if op not in (Op.CONTINUATION, Op.TEXT):
            raise MalformedPacket(f"frame: opcode {op:#x} is not text")
        if (op == Op.CONTINUATION) != self._in_message:
            raise MalformedPacket("frame: continuation does not fit what came before")

    def _take(self, op: int, is_final: bool, data: bytes) -> list[Event]:
        if op >= Op.CLOSE:
            return self._take_control(op, data)
        self._in_message = not is_final
        if not is_final:
            self._parts += data
            return []
        if self._parts:
            data = bytes(self._parts) + data
            self._parts.clear()
        return [Text(data)]

    def _take_control(self, op: int, data: bytes) -> list[Event]:
        if op == Op.PING:
            self._frame(Op.PONG, data)
            return []
        if op == Op.PONG:
            return [Pong()]
        if op != Op.CLOSE:
            raise MalformedPacket(f"frame: unknown opcode {op:#x}")
        code = int.from_bytes(data[:2], "big") if len(data) >= 2 else 1005
        self.close(code if len(data) >= 2 else 1000)
        return [Closed(code, data[2:].decode("utf-8", "replace"))]


def _status_of(line: str) -> tuple[int, str]:
    parts = line.split(" ", 2)
    if len(parts) < 2 or not parts[0].startswith("HTTP/1.") or not _STATUS(parts[1]):
        raise MalformedPacket(f"upgrade answer: expected an HTTP status line, got {line[:80]!r}")
    return int(parts[1]), parts[2] if len(parts) > 2 else ""


def _headers_of(lines: list[str]) -> dict[str, str]:
    pairs = (line.partition(":") for line in lines)
    return {name.strip().lower(): value.strip() for name, _, value in pairs}
