"""One socket of port 10000: the upgrade of an edge node, then text messages both ways.

A protocol of our own instead of the HTTP library's WebSocket: a node that is silent keeps no request, no
reader and no task here, which is a quarter of what a session costs. It decides nothing: who is let in and
what messages mean is its owner's (`cloud.hub`).

Bounds: 16 KB of request head within 10 s; messages as the owner says; what a node does not read makes
`stalled_since` tell since when. Source: RFC 6455, RFC 9112.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, cast

from gateway.errors import BadRequest, GatewayError
from gateway.runtime.http_heads import MAX_HEAD, Fields, Malformed, parse_head, write_head
from gateway.wire.cloudedge.names import REFUSAL
from gateway.wire.websocket import (
    NORMAL,
    Broken,
    ServerSession,
    accept_of,
    close_frame,
    frame,
    wants_upgrade,
)

if TYPE_CHECKING:
    from cloud.sessions import NodeSession

HEAD_SECONDS = 10.0
CLOSE_SECONDS = 1.0
"""How long a node may take to answer a goodbye."""
WRITE_LIMIT = 262_144
"""Bytes that wait for a node; above it nothing more is written until it has read a good part."""
_PHRASES = {403: "Forbidden", 426: "Upgrade Required", 503: "Service Unavailable"}


@dataclass(frozen=True, slots=True)
class Upgrade:
    """A request for a WebSocket.

    Shape:  header names in lower case, of a repeated one its first value; `certificate` is DER, None without
            one; `peer` its address.
    """

    headers: Mapping[str, str]
    certificate: bytes | None
    peer: str


class Owner(Protocol):
    """Who the connections belong to. Calls are synchronous and in order."""

    def made(self, connection: Connection) -> None:
        """Somebody has connected."""

    def admit(self, connection: Connection, asked: Upgrade) -> Callable[[], NodeSession]:
        """Let a node in: return what opens its session. Errors: GatewayError, which is the answer."""

    def received(self, session: NodeSession, message: bytes) -> None: ...

    def broken(self, session: NodeSession, error: Broken) -> None:
        """The node does not speak as agreed; nothing more comes from it."""

    def writable(self, session: NodeSession) -> None:
        """A node that was stalled has read."""

    def lost(self, connection: Connection, session: NodeSession | None) -> None:
        """The connection is gone."""


class Connection(asyncio.Protocol):
    """One connection; made by the listener."""

    __slots__ = (
        "_head",
        "_headers",
        "_held",
        "_is_leaving",
        "_is_reading",
        "_owner",
        "_session",
        "_timer",
        "_transport",
        "_websocket",
        "stalled_since",
    )

    def __init__(self, owner: Owner, max_frame: int, headers: Mapping[str, str]) -> None:
        self._owner = owner
        self._headers = headers
        self._websocket = ServerSession(max_frame)
        self._transport: asyncio.Transport | None = None
        self._session: NodeSession | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._head: bytearray | None = bytearray()
        self._held: list[bytes] | None = None
        self._is_reading = True
        self._is_leaving = False
        self.stalled_since: float | None = None
        """Since when the node has not read what waits for it, by the loop's clock."""

    # --- what the owner calls -------------------------------------------------------------------

    @property
    def is_reading(self) -> bool:
        return self._is_reading

    @property
    def is_leaving(self) -> bool:
        """True once we have said goodbye."""
        return self._is_leaving

    def send(self, messages: Sequence[bytes]) -> None:
        """Write text messages, all at once."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(b"".join([frame(message) for message in messages]))

    def pause(self) -> None:
        """Read no more until `resume`; what has come already is kept back."""
        if self._is_reading and self._transport is not None:
            self._is_reading = False
            self._transport.pause_reading()

    def resume(self) -> None:
        """Go on with what was kept back, then read again."""
        if self._is_reading or self._transport is None:
            return
        self._is_reading = True
        held, self._held = self._held, None
        self._deliver(held or [])
        if self._is_reading and not self._transport.is_closing():
            self._transport.resume_reading()

    def close(self, code: int = NORMAL, reason: str = "") -> None:
        """Say goodbye and hang up, when the node has answered or a second later."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        if not self._is_leaving:
            self._is_leaving = True
            transport.write(close_frame(code, reason))
            self._start_timer(CLOSE_SECONDS)
            if not self._is_reading:  # its answer may stand behind what was kept back
                self._is_reading, self._held = True, None
                transport.resume_reading()

    def abort(self) -> None:
        """Hang up."""
        if self._transport is not None:
            self._transport.abort()

    # --- asyncio.Protocol -----------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=WRITE_LIMIT)
        self._start_timer(HEAD_SECONDS)
        self._owner.made(self)

    def data_received(self, data: bytes) -> None:
        if self._head is None:
            self._read(data)
            return
        self._head += data
        end = self._head.find(b"\r\n\r\n") + 4
        if end >= 4 and end <= MAX_HEAD:
            head, rest, self._head = bytes(self._head[:end]), bytes(self._head[end:]), None
            self._begin(head)
            if rest and self._session is not None:
                self._read(rest)
        elif len(self._head) > MAX_HEAD:
            self._head = None
            self._refuse(GatewayError("the head of the request is too long"), 431)

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  gone is gone
        self._stop_timer()
        session, self._session, self._transport = self._session, None, None
        self._held = None
        self._owner.lost(self, session)

    def pause_writing(self) -> None:
        self.stalled_since = asyncio.get_running_loop().time()

    def resume_writing(self) -> None:
        self.stalled_since = None
        if self._session is not None:
            self._owner.writable(self._session)

    # --- in -------------------------------------------------------------------------------------

    def _begin(self, head: bytes) -> None:
        """Answer the request; a node that is let in is open afterwards."""
        assert self._transport is not None  # noqa: S101  bytes came through it
        try:
            start, fields = parse_head(head)
            asked = self._asked(fields)
            opens = self._owner.admit(self, asked)
            key = wants_upgrade(start.partition(" ")[0], fields)
            if key is None:
                self._refuse(BadRequest("expected a WebSocket upgrade"), 426)
                return
        except Malformed as error:
            self._refuse(GatewayError(str(error)), error.status)
            return
        except GatewayError as error:
            self._refuse(error, error.status)
            return
        answer = [
            ("Upgrade", "websocket"),
            ("Connection", "Upgrade"),
            ("Sec-WebSocket-Accept", accept_of(key)),
            *self._headers.items(),
        ]
        self._transport.write(write_head("HTTP/1.1 101 Switching Protocols", answer))
        self._stop_timer()
        self._session = opens()

    def _asked(self, fields: Fields) -> Upgrade:
        assert self._transport is not None  # noqa: S101  bytes came through it
        tls = self._transport.get_extra_info("ssl_object")
        certificate = tls.getpeercert(binary_form=True) if tls is not None else None
        parsed = self._transport.get_extra_info("peercert")
        if isinstance(parsed, dict):
            parsed.clear()  # the loop keeps it for the connection's life; we read the DER form once
        address = self._transport.get_extra_info("peername")
        headers = {name: values[0] for name, values in fields.items()}
        return Upgrade(headers, certificate, str(address[0]) if address else "")

    def _refuse(self, error: GatewayError, status: int) -> None:
        assert self._transport is not None  # noqa: S101  bytes came through it
        why = error.details.get("refusal")
        body = error.message.encode()
        lines = [
            ("Content-Type", "text/plain; charset=utf-8"),
            ("Content-Length", str(len(body))),
            ("Connection", "close"),
        ]
        if status == 426:
            lines.append(("Sec-WebSocket-Version", "13"))
        if why:
            lines.append((REFUSAL, str(why)))
        start = f"HTTP/1.1 {status} {_PHRASES.get(status, 'Refused')}"
        self._transport.write(write_head(start, lines) + body)
        self._transport.close()

    def _read(self, data: bytes) -> None:
        assert self._transport is not None  # noqa: S101  bytes came through it
        if self._session is None:
            return  # refused already
        try:
            messages = self._websocket.receive(data)
        except Broken as error:
            if self._is_leaving:
                self.abort()
            else:
                self._owner.broken(self._session, error)
            return
        if not self._is_leaving:
            self._deliver(messages)
        answers = self._websocket.answers
        if answers:
            if self._websocket.closed:
                self._say(answers[-1])
            elif self.stalled_since is None:  # who pings and does not read must not fill our memory
                self._say(b"".join(answers))
            answers.clear()
        if self._websocket.closed:
            self._transport.close()

    def _say(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def _deliver(self, messages: list[bytes]) -> None:
        """Hand messages over until the owner has enough for now; the rest is kept back."""
        for at, message in enumerate(messages):
            if not self._is_reading:
                self._held = [*(self._held or ()), *messages[at:]]
                return
            if self._session is None or self._is_leaving:
                return
            self._owner.received(self._session, message)

    # --- time -----------------------------------------------------------------------------------

    def _start_timer(self, seconds: float) -> None:
        self._stop_timer()
        self._timer = asyncio.get_running_loop().call_later(seconds, self.abort)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
