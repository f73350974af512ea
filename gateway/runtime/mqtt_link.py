"""An MQTT session on a socket: bytes, timer, back-pressure; one write per chunk.

For the device-side hot path: `handle` is synchronous, and one `transport.write` answers everything that one
chunk brought. What a peer may do is the subclass's business.

When to stop reading: while `hold(...)` has a reason that was not released, and while the peer does not take
what we write. So what waits in the process for one peer is bounded by what we send on our own accord, which
the owner bounds by `is_writable` and `unsent`.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Generic, TypeVar, cast

from gateway.wire.mqtt.packets import Publish
from gateway.wire.mqtt.session import Session
from gateway.wire.mqtt.state import Event

S = TypeVar("S", bound=Session)

HIGH_WATER = 65_536
"""Bytes waiting in the transport at which we stop reading from the peer."""
LINGER_SECONDS = 1.0
"""How long a peer may take to read the last bytes of a connection that we end."""


class Hold:
    """Reasons not to read from the peer, as bits (plain ints: asked for with every message)."""

    DECISION = 1
    WORK = 2
    WRITES = 4


class MqttLink(asyncio.Protocol, Generic[S]):
    """One socket; subclasses make the session and handle its events."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.session: S
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._holds = 0
        self.is_reading_chunk = False
        """True while a chunk's events are handled: what they queue is sent at its end."""
        self._flush_due = False
        self._ended = False

    # --- for subclasses ---------------------------------------------------------------------------

    def make_session(self, now: float) -> S:
        """Return the session of this connection."""
        raise NotImplementedError

    def handle(self, event: Event) -> None:
        """Work on one event; must not block."""
        raise NotImplementedError

    def on_publish(self, message: Publish) -> None:
        """Work on a message: most events are one, so the hot loop calls this without asking `handle`."""
        self.handle(message)

    def lost(self) -> None:
        """The session has ended; called once, after its last event."""

    def on_writable(self) -> None:
        """The peer takes bytes again."""

    # --- for owners -------------------------------------------------------------------------------

    @property
    def is_writable(self) -> bool:
        """False while the transport is full or gone."""
        return self._transport is not None and not self._holds & Hold.WRITES

    @property
    def unsent(self) -> int:
        """Bytes that wait for the peer to read."""
        return 0 if self._transport is None else self._transport.get_write_buffer_size()

    def fact(self, name: str) -> object:
        """Return a fact about the transport, e.g. `peername` or `ssl_object`."""
        return None if self._transport is None else self._transport.get_extra_info(name)

    def process(self, events: list[Event]) -> None:
        """Handle events that an answer of ours has released, and send what follows."""
        for event in events:
            self.handle(event)
        self.flush()
        self.arm()

    def flush_soon(self) -> None:
        """Send what was queued outside of an event: once per turn of the loop."""
        if not self._flush_due and not self.is_reading_chunk:
            self._flush_due = True
            self.loop.call_soon(self.flush)

    def flush(self) -> None:
        """Send what the session has queued, and end the socket when the session has ended."""
        self._flush_due = False
        transport = self._transport
        if transport is None:
            return
        data = self.session.to_send()
        if data:
            transport.write(data)
        if self.session.closed:
            self._after()
            self._close(transport)

    def hold(self, reason: int) -> None:
        """Stop reading until `reason` is released."""
        if not self._holds and self._transport is not None:
            self._transport.pause_reading()
        self._holds |= reason

    def release(self, reason: int) -> None:
        """Go on reading when no other reason is left."""
        if not self._holds & reason:
            return
        self._holds &= ~reason
        if not self._holds and self._transport is not None:
            self._transport.resume_reading()
            self.resumed(self.loop.time())

    def resumed(self, now: float) -> None:
        """Reading goes on at `now`."""

    def abort(self) -> None:
        """End the socket now, whatever waits to be sent."""
        if self._transport is not None:
            self._transport.abort()

    def arm(self) -> None:
        """Set the timer for the session's next tick."""
        wake_at = self.session.wake_at
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if wake_at is not None and self._transport is not None:
            self._timer = self.loop.call_at(wake_at, self._tick)

    # --- asyncio ------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=HIGH_WATER)
        sock = self._transport.get_extra_info("socket")
        if sock is not None:  # finds peers that vanished and have no MQTT keep-alive
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self.session = self.make_session(self.loop.time())
        self.arm()

    def data_received(self, data: bytes) -> None:
        on_publish = self.on_publish
        self.is_reading_chunk = True
        try:
            for event in self.session.receive(data, self.loop.time()):
                if type(event) is Publish:
                    on_publish(event)
                else:
                    self.handle(event)
        finally:
            self.is_reading_chunk = False
        self.flush()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 (that the peer has gone is enough)
        self._transport = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for event in self.session.receive(b"", self.loop.time()):
            self.handle(event)
        self._after()

    def pause_writing(self) -> None:
        self.hold(Hold.WRITES)

    def resume_writing(self) -> None:
        self.release(Hold.WRITES)
        self.on_writable()

    # --- inside ----------------------------------------------------------------------------------------

    def _after(self) -> None:
        if self.session.closed and not self._ended:
            self._ended = True
            self.lost()

    def _tick(self) -> None:
        self._timer = None
        now = self.loop.time()
        if self._holds & (Hold.WORK | Hold.DECISION):  # we do not listen: silence proves nothing
            self._timer = self.loop.call_later(1.0, self._tick)
            return
        self.process(self.session.tick(now))

    def _close(self, transport: asyncio.Transport) -> None:
        if not transport.is_closing():
            transport.close()
            self.loop.call_later(LINGER_SECONDS, transport.abort)
