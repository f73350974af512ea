"""The server end of an AMQP 1.0 connection, without I/O.

Five members drive it: `receive(data, now)`, `to_send()`, `tick(now)`, `wake_at`, `closed`. Bytes in, events
out; who handles an event answers by a method of the connection or of a link, then sends what `to_send`
returns. `receive` is lazy: the next frame is read after the event before it was handled, so that an answer
given at once stands in its place among our frames. It must be iterated to its end.
SASL and open are asked of the shell (`SaslRequested`, `OpenRequested`); until it has answered, what the
peer sent ahead waits, at most `MAX_AHEAD` bytes of it.

Malformed bytes end the connection with `amqp:framing-error`, `amqp:decode-error` or the condition that the
error names; the close frame is written, then input is ignored until the peer closes or `CLOSE_SECONDS` are
over.

Left out: transactions, link resumption, TLS inside AMQP (the shell brings TLS), SASL challenges.
Source: OASIS AMQP 1.0, part 2, sections 2.2 to 2.4, 2.8; part 5, section 5.3.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from gateway.errors import MalformedPacket
from gateway.wire.amqp.events import ConnectionEnded, Event, OpenRequested, SaslRequested
from gateway.wire.amqp.limits import Limits
from gateway.wire.amqp.performatives import (
    SASL,
    TRANSPORT,
    Begin,
    Close,
    End,
    Error,
    Open,
    SaslInit,
    SaslMechanisms,
    SaslOutcome,
)
from gateway.wire.amqp.session import Session, SessionFault
from gateway.wire.amqp.states import HEADERS, OVER, WAITING, State
from gateway.wire.amqp.whole import read_whole

AMQP_HEADER: Final = b"AMQP\x00\x01\x00\x00"
SASL_HEADER: Final = b"AMQP\x03\x01\x00\x00"
MIN_FRAME: Final = 512
MAX_SASL_FRAME: Final = 8_192
"""Bytes; the standard's 512 are too few for a JWT as password."""
MAX_AHEAD: Final = 262_144
"""Bytes that may wait while SASL or open has no answer."""
CLOSE_SECONDS: Final = 2.0
"""How long the peer's close is waited for."""

SASL_OK: Final = 0
SASL_AUTH: Final = 1
SASL_TEMP: Final = 4

_EMPTY_FRAME: Final = struct.pack(">IBBH", 8, 2, 0, 0)


class Connection:
    """One peer's connection."""

    def __init__(self, limits: Limits, now: float) -> None:
        self.limits = limits
        self.remote: Open | None = None
        self.remote_max_frame = MIN_FRAME
        self._state = State.FIRST_HEADER
        self._now = now
        self._buffer = bytearray()
        self._wanted = 0
        self.out: list[bytes] = []
        """Whole frames for the next `to_send`."""
        self._sessions: dict[int, Session] = {}
        self._flushing: dict[Session, None] = {}
        self._sasl_done = False
        self._open_sent = False
        self._is_running = False
        self._handshake_until: float | None = now + limits.handshake_timeout
        self._last_received = now
        self._beat_every: float | None = None
        self._next_beat = 0.0
        self._close_until: float | None = None

    # --- the five members --------------------------------------------------------------------------

    def receive(self, data: bytes, now: float) -> Iterable[Event]:
        """Take bytes from the peer; b"" says that it has gone."""
        self._now = self._last_received = now
        if not data:
            return self._end()
        if self._state is State.CLOSED:
            return ()
        if self._buffer:
            self._buffer += data
            if len(self._buffer) < self._wanted:
                return ()
            return self._run_buffer()
        return self._run(data)

    def to_send(self) -> bytes:
        """Return what must go to the peer now."""
        self._flush_sessions()
        if not self.out:
            return b""
        out = self.out[0] if len(self.out) == 1 else b"".join(self.out)
        self.out.clear()
        return out

    def _flush_sessions(self) -> None:
        if self._flushing:
            sessions, self._flushing = self._flushing, {}
            for session in sessions:
                session.flush()

    def tick(self, now: float) -> list[Event]:
        """Do what is due: heartbeat, end of patience."""
        self._now = now
        events: list[Event] = []
        if self._state is State.CLOSED:
            return events
        if self._close_until is not None and now >= self._close_until:
            self._state = State.CLOSED
            return events
        if self._handshake_until is not None and now >= self._handshake_until:
            self._fail("amqp:connection:forced", "no open within the handshake time-out", events)
        elif self._is_silent(now):
            text = f"silent for {self.limits.idle_timeout} seconds"
            self._fail("amqp:resource-limit-exceeded", text, events)
        if self._beat_every is not None and now >= self._next_beat and self._state is State.OPENED:
            self.out.append(_EMPTY_FRAME)
            self._next_beat = now + self._beat_every
        return events

    @property
    def wake_at(self) -> float | None:
        """When `tick` wants to be called, in the caller's clock; None for never."""
        if self._state is State.CLOSED:
            return None
        if self._close_until is not None:
            return self._close_until
        due = []
        if self.limits.idle_timeout > 0:
            due.append(self._last_received + self.limits.idle_timeout)
        if self._handshake_until is not None:
            due.append(self._handshake_until)
        if self._beat_every is not None:
            due.append(self._next_beat)
        return min(due, default=None)

    @property
    def closed(self) -> bool:
        """True once nothing more will be read or written (after a last `to_send`)."""
        return self._state is State.CLOSED

    # --- answers -----------------------------------------------------------------------------------

    @property
    def is_open(self) -> bool:
        return self._state is State.OPENED

    def answer_sasl(self, code: int, now: float) -> Iterable[Event]:
        """Answer `SaslRequested`: 0 goes on, anything else ends the connection.

        Returns the events of what the peer had sent ahead.
        """
        if self._state is not State.SASL_ASKED:
            return ()
        self._write_sasl(SaslOutcome(code=code))
        if code != SASL_OK:
            self._state = State.CLOSED
            return (ConnectionEnded(None),)
        self._sasl_done = True
        self._state = State.SECOND_HEADER
        return self._go_on(now)

    def accept(
        self,
        now: float,
        *,
        capabilities: tuple[str, ...] = (),
        properties: Mapping[object, object] | None = None,
    ) -> Iterable[Event]:
        """Answer `OpenRequested` with our open; returns the events of what the peer had sent ahead.

        Shape:  `capabilities` are offered beside those of the limits.
        """
        if self._state is not State.OPEN_ASKED:
            return ()
        self._write_open(capabilities, properties)
        self._state = State.OPENED
        self._handshake_until = None
        return self._go_on(now)

    def refuse(self, error: Error) -> list[Event]:
        """Answer `OpenRequested` with open and close."""
        return self.close(error)

    def close(self, error: Error | None = None) -> list[Event]:
        """Close the connection from our side; the events say which links went with it."""
        events: list[Event] = []
        if self._state not in OVER:
            self._flush_sessions()
            self._finish(error, events)
        return events

    # --- writing, for sessions and links -------------------------------------------------------------

    def write(self, channel: int, performative: object) -> None:
        """Queue a frame without payload."""
        body = TRANSPORT.write(performative)
        self.out.append(struct.pack(">IBBH", len(body) + 8, 2, 0, channel) + body)

    def needs_flush(self, session: Session) -> None:
        """Have `session.flush` called by the next `to_send`."""
        self._flushing[session] = None

    def _write_sasl(self, performative: object) -> None:
        body = SASL.write(performative)
        self.out.append(struct.pack(">IBBH", len(body) + 8, 2, 1, 0) + body)

    def _write_open(
        self,
        capabilities: tuple[str, ...] = (),
        properties: Mapping[object, object] | None = None,
    ) -> None:
        limits = self.limits
        self._open_sent = True
        self.write(
            0,
            Open(
                container_id=limits.container_id,
                max_frame_size=limits.max_frame_size,
                channel_max=limits.channel_max,
                idle_time_out=int(limits.idle_timeout * 500),
                offered_capabilities=(*limits.offered_capabilities, *capabilities) or None,
                properties=properties,
            ),
        )

    # --- reading ---------------------------------------------------------------------------------------

    def _go_on(self, now: float) -> Iterable[Event]:
        """Read on after an answer; an answer within `receive` leaves that to it."""
        if self._is_running:
            return ()
        self._now = now
        return self._run_buffer()

    def _run_buffer(self) -> Iterator[Event]:
        data = bytes(self._buffer)
        self._buffer.clear()
        return self._run(data)

    def _run(self, data: bytes) -> Iterator[Event]:
        """Work through all whole units in `data`, keep the rest."""
        at = 0
        events: list[Event] = []
        self._is_running = True
        try:
            while step := self._step(data, at, events):
                at += step
                if events:
                    yield from events
                    events.clear()
        except MalformedPacket as error:
            condition = error.code if error.code.startswith("amqp:") else "amqp:decode-error"
            self._fail(condition, error.message, events)
        finally:
            self._is_running = False
        if self._state not in OVER:
            self._keep(data, at, events)
        yield from events

    def _keep(self, data: bytes, at: int, events: list[Event]) -> None:
        self._buffer += data[at:]
        if len(self._buffer) > MAX_AHEAD:
            self._fail("amqp:resource-limit-exceeded", "too much sent ahead of the answer", events)

    def _step(self, data: bytes, at: int, events: list[Event]) -> int:
        """Take one header or frame at `at`; return its size, 0 when bytes or an answer are missing."""
        if self._state in WAITING:
            self._wanted = MAX_AHEAD + 1
            return 0
        if self._state is State.CLOSED:
            return 0
        if len(data) - at < 8:
            self._wanted = 8
            return self._peek_header(data, at, events)
        if self._state in HEADERS:
            return self._on_header(data[at : at + 8], events)
        size = int.from_bytes(data[at : at + 4], "big")
        if self._take_whole(data, at, size, events):
            return size
        self._check_head(data, at, size)
        if len(data) - at < size:
            self._wanted = size
            return 0
        self._on_frame(data, at, size, events)
        return size

    def _take_whole(self, data: bytes, at: int, size: int, events: list[Event]) -> bool:
        """Take a frame that is a whole message in its usual form; False for any other, and any doubt."""
        end = at + size
        if end > len(data) or size > self.limits.max_frame_size:
            return False
        found = read_whole(data, at, end)
        if found is None or self._state is not State.OPENED:
            return False
        session = self._sessions.get((data[at + 6] << 8) | data[at + 7])
        return session is not None and session.take_whole(*found, events)

    def _peek_header(self, data: bytes, at: int, events: list[Event]) -> int:
        """Refuse a foreign protocol at its first wrong byte, not only when eight are there."""
        if self._state in HEADERS and not AMQP_HEADER.startswith(data[at : at + 4][:4]):
            self._wrong_header(events)
        return 0

    def _on_header(self, header: bytes, events: list[Event]) -> int:
        if header == AMQP_HEADER and (self._sasl_done or self.limits.allow_without_sasl):
            self.out.append(AMQP_HEADER)
            self._state = State.OPEN
        elif header == SASL_HEADER and self._state is State.FIRST_HEADER:
            self.out.append(SASL_HEADER)
            self._write_sasl(SaslMechanisms(self.limits.mechanisms))
            self._state = State.SASL_INIT
        else:
            self._wrong_header(events)
        return 8

    def _wrong_header(self, events: list[Event]) -> None:
        """Answer with the header we want, then close: what the standard says."""
        self.out.append(AMQP_HEADER if self._sasl_done else SASL_HEADER)
        self._state = State.CLOSED
        error = Error("amqp:framing-error", "protocol header is not the one expected here")
        events.append(ConnectionEnded(error))

    def _check_head(self, data: bytes, at: int, size: int) -> None:
        sasl = self._state is State.SASL_INIT
        limit = MAX_SASL_FRAME if sasl else self.limits.max_frame_size
        if not 8 <= size <= limit:
            raise _framing(f"frame of {size} bytes, expected 8..{limit}")
        if data[at + 4] < 2 or data[at + 4] * 4 > size:
            raise _framing(f"data offset {data[at + 4]} in a frame of {size} bytes")
        if data[at + 5] != (1 if sasl else 0):
            raise _framing(f"frame type {data[at + 5]} is not expected here")

    def _on_frame(self, data: bytes, at: int, size: int, events: list[Event]) -> None:
        body = data[at + data[at + 4] * 4 : at + size]
        if self._state is State.SASL_INIT:
            self._on_sasl(SASL.decode(body)[0], events)
        elif body:
            performative, end = TRANSPORT.decode(body)
            channel = (data[at + 6] << 8) | data[at + 7]
            self._dispatch(channel, performative, body[end:] if end < len(body) else b"", events)

    def _on_sasl(self, performative: object, events: list[Event]) -> None:
        if not isinstance(performative, SaslInit):
            raise _framing("expected sasl-init")
        if performative.mechanism not in self.limits.mechanisms:
            self._write_sasl(SaslOutcome(code=SASL_AUTH))
            self._state = State.CLOSED
            events.append(ConnectionEnded(None))
            return
        self._state = State.SASL_ASKED
        response = performative.initial_response or b""
        events.append(SaslRequested(performative.mechanism, response, performative.hostname))

    def _dispatch(
        self, channel: int, performative: object, payload: bytes, events: list[Event]
    ) -> None:
        if self._state is State.CLOSING:
            if isinstance(performative, Close):
                self._state = State.CLOSED
        elif self._state is State.OPEN:
            self._on_open(performative, events)
        elif isinstance(performative, Close):
            self._on_close(performative, events)
        elif isinstance(performative, Begin):
            self._on_begin(channel, performative)
        else:
            self._on_session_frame(channel, performative, payload, events)

    def _on_open(self, performative: object, events: list[Event]) -> None:
        if not isinstance(performative, Open):
            raise MalformedPacket("amqp: expected open first", code="amqp:not-allowed")
        self.remote = performative
        self.remote_max_frame = min(
            max(performative.max_frame_size, MIN_FRAME), max(self.limits.max_frame_size, MIN_FRAME)
        )
        if performative.idle_time_out:
            self._beat_every = max(performative.idle_time_out / 2_000, 0.01)
            self._next_beat = self._now + self._beat_every
        self._state = State.OPEN_ASKED
        events.append(OpenRequested(performative))

    def _on_close(self, close: Close, events: list[Event]) -> None:
        error = close.error if isinstance(close.error, Error) else None
        self._lose_all(error, events)
        self.write(0, Close())
        self._state = State.CLOSED
        events.append(ConnectionEnded(error))

    def _on_begin(self, channel: int, begin: Begin) -> None:
        if channel > self.limits.channel_max:
            raise _framing(f"channel {channel} is over channel-max {self.limits.channel_max}")
        if channel in self._sessions:
            raise MalformedPacket(
                f"amqp begin: channel {channel} has a session", code="amqp:not-allowed"
            )
        self._sessions[channel] = Session(self, channel, begin)

    def _on_session_frame(
        self, channel: int, performative: object, payload: bytes, events: list[Event]
    ) -> None:
        session = self._sessions.get(channel)
        if session is None:
            raise _framing(f"channel {channel} has no session")
        if isinstance(performative, End):
            self._on_end(channel, session, performative, events)
            return
        if session.ended:
            return
        try:
            session.on_frame(performative, payload, events)
        except SessionFault as fault:
            session.ended = True
            self._flushing.pop(session, None)
            events += session.lose_links(fault.error)
            self.write(session.channel, End(error=fault.error))

    def _on_end(self, channel: int, session: Session, end: End, events: list[Event]) -> None:
        del self._sessions[channel]
        self._flushing.pop(session, None)
        if not session.ended:
            error = end.error if isinstance(end.error, Error) else None
            events += session.lose_links(error)
            self.write(session.channel, End())

    # --- ending ----------------------------------------------------------------------------------------

    def _is_silent(self, now: float) -> bool:
        if self._state in OVER or self.limits.idle_timeout <= 0:
            return False
        return now >= self._last_received + self.limits.idle_timeout

    def _fail(self, condition: str, text: str, events: list[Event]) -> None:
        if self._state in OVER:
            self._state = State.CLOSED
            return
        self._finish(Error(condition, text[:1_024]), events)

    def _finish(self, error: Error | None, events: list[Event]) -> None:
        self._lose_all(error, events)
        if self._state in (State.OPEN, State.OPEN_ASKED, State.OPENED):
            self._write_close(error)
        else:
            self._state = State.CLOSED
        events.append(ConnectionEnded(error))

    def _write_close(self, error: Error | None) -> None:
        if not self._open_sent:
            self._write_open()
        self.write(0, Close(error=error))
        self._state = State.CLOSING
        self._buffer.clear()
        self._handshake_until = None
        self._close_until = self._now + CLOSE_SECONDS

    def _end(self) -> list[Event]:
        """The peer's socket has gone."""
        events: list[Event] = []
        if self._state is not State.CLOSED:
            self._lose_all(None, events)
            if self._state is not State.CLOSING:
                events.append(ConnectionEnded(None))
            self._state = State.CLOSED
        return events

    def _lose_all(self, error: Error | None, events: list[Event]) -> None:
        for session in self._sessions.values():
            if not session.ended:
                events += session.lose_links(error)
        self._sessions.clear()
        self._flushing.clear()


def _framing(text: str) -> MalformedPacket:
    return MalformedPacket(f"amqp: {text}", code="amqp:framing-error")
