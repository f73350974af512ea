"""The asyncio side of an AMQP 1.0 server connection: bytes, timers, back-pressure.

What a peer may do on the connection is the business of a `Peer`; this drives the sans-IO `Connection`, calls
the peer for each event and writes once per turn of the loop. A transport that is full reports
`is_writable` False: who sends then waits for `on_writable`. A peer that does not read ends by idle time-out.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Protocol, cast

from gateway.wire.amqp.connection import Connection
from gateway.wire.amqp.events import Event
from gateway.wire.amqp.limits import Limits
from gateway.wire.amqp.performatives import Error

log = logging.getLogger(__name__)

HIGH_WATER = 262_144
"""Bytes waiting in the transport at which sending pauses."""
LINGER_SECONDS = 1.0
"""How long a peer may take to read the last bytes."""


class Peer(Protocol):
    """What one side of the gateway does with a connection."""

    def on_event(self, event: Event) -> None: ...

    def on_writable(self) -> None:
        """The transport takes bytes again."""


class AmqpProtocol(asyncio.Protocol):
    """One accepted socket."""

    def __init__(
        self,
        limits: Limits,
        make_peer: Callable[[AmqpProtocol], Peer],
        on_lost: Callable[[AmqpProtocol], None],
    ) -> None:
        self._limits = limits
        self._make_peer = make_peer
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._flush_due = False
        self._transport: asyncio.Transport | None = None
        self.is_writable = True
        self.connection: Connection
        self.peer: Peer

    # --- asyncio ---------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have the interface without the class
        stream = cast(asyncio.Transport, transport)
        stream.set_write_buffer_limits(high=HIGH_WATER)
        self._transport = stream
        self.connection = self.make_connection(stream)
        self.peer = self._make_peer(self)
        self._arm()

    def make_connection(self, transport: asyncio.Transport) -> Connection:
        """Return the wire session of this socket."""
        return Connection(self.limits_for(transport), self._loop.time())

    def data_received(self, data: bytes) -> None:
        self.handle(self.connection.receive(data, self._loop.time()))
        self._flush()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 (the peer's going is enough)
        self.is_writable = False
        self._transport = None
        if self._timer is not None:
            self._timer.cancel()
        self.handle(self.connection.receive(b"", self._loop.time()))
        self._on_lost(self)

    def pause_writing(self) -> None:
        self.is_writable = False

    def resume_writing(self) -> None:
        self.is_writable = True
        self.peer.on_writable()
        self.flush_soon()

    def limits_for(self, _transport: asyncio.Transport) -> Limits:
        """What this peer is allowed; asked once, when TLS is done."""
        return self._limits

    # --- for the peer ------------------------------------------------------------------------------

    @property
    def now(self) -> float:
        return self._loop.time()

    def fact(self, name: str) -> object:
        """Return a fact about the transport, e.g. `peername` or `cipher`."""
        return None if self._transport is None else self._transport.get_extra_info(name)

    def handle(self, events: Iterable[Event]) -> None:
        """Give events to the peer, e.g. those that an answer has released."""
        for event in events:
            self.peer.on_event(event)

    def flush_soon(self) -> None:
        """Write what was queued outside of an event, once per turn of the loop."""
        if not self._flush_due:
            self._flush_due = True
            self._loop.call_soon(self._flush)

    def close(self, error: Error | None = None) -> None:
        """End the connection in AMQP's way."""
        self.handle(self.connection.close(error))
        self.flush_soon()

    def abort(self) -> None:
        """End the socket now."""
        if self._transport is not None:
            self._transport.abort()

    # --- timers and writing --------------------------------------------------------------------------

    def _flush(self) -> None:
        self._flush_due = False
        transport = self._transport
        if transport is None:
            return
        data = self.connection.to_send()
        if data:
            transport.write(data)
        if self.connection.closed:
            transport.close()
            self._loop.call_later(LINGER_SECONDS, transport.abort)
        else:
            self._arm()

    def _arm(self) -> None:
        """Wake for the next deadline; a timer that fires too early is cheaper than one per packet."""
        at = self.connection.wake_at
        if at is None or (self._timer is not None and self._timer_at <= at):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = at
        self._timer = self._loop.call_at(at, self._wake)

    def _wake(self) -> None:
        self._timer = None
        self.handle(self.connection.tick(self._loop.time()))
        self._flush()
