"""A client's AMQP 1.0 connection on asyncio, with python-qpid-proton as the protocol and no thread.

Bytes go in and out of proton's transport here; TLS is asyncio's, and the login in front of it is ours: what
proton's own can do depends on the machine it was built on. What happens on links is the subclass's
business: it makes them in `opened`, and gets their events. The library is an extra and loaded when the first
connection is made.

What proton gives from its memory is copied before anything else happens: its views die with their message.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from gateway.errors import GatewayError, InvalidSetting
from gateway.wire.amqp.sasl_client import SaslClient, plain_response

HIGH_WATER = 262_144
"""Bytes waiting in the socket at which we stop sending."""
MAX_FRAME = 65_536
INCOMING_BYTES = 4_194_304
"""What the peer may send ahead of our reading, all links together."""
LINGER_SECONDS = 1.0
"""How long the peer may take to read our last bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AmqpLogin:
    """Who we are to the peer.

    Shape:  `mechanism` PLAIN, EXTERNAL or ANONYMOUS. `host` is the name in open, for peers with several.
    Units:  `idle_timeout` in seconds: silence of the peer after which the connection ends.
    """

    host: str
    container: str
    mechanism: str
    username: str = ""
    password: str = ""
    idle_timeout: float = 40.0


def library(setting: str) -> Any:
    """Return the module `proton`.

    Errors: InvalidSetting, naming the setting that needs it, where it is not installed.
    """
    try:
        return importlib.import_module("proton")
    except ImportError as error:
        raise InvalidSetting(
            f"{setting}: needs an AMQP client: pip install 'twinspan[amqp]'"
        ) from error


class AmqpClient(asyncio.Protocol):
    """One connection.

    Shape:  `ended` is set once it is over; `cause` then says why, and `by_peer` whether the peer ended it.
    """

    def __init__(self, proton: Any, login: AmqpLogin) -> None:
        self.proton = proton
        self.loop = asyncio.get_running_loop()
        self.ended = asyncio.Event()
        self.cause = ""
        self.by_peer = False
        self.is_writable = True
        self._login = login
        self._socket: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._flush_due = False
        self._is_dispatching = False
        self._is_over = False
        self._sasl: SaslClient | None = None
        self._connection = proton.Connection()
        self._transport = proton.Transport()
        self._collector = proton.Collector()
        kinds = proton.Event
        self._handlers: Mapping[object, Callable[[Any], None]] = {
            kinds.CONNECTION_REMOTE_OPEN: lambda _event: self.opened(),
            kinds.CONNECTION_REMOTE_CLOSE: self._on_close,
            kinds.SESSION_REMOTE_CLOSE: self._on_session_close,
            kinds.LINK_REMOTE_OPEN: lambda event: self.attached(event.link),
            kinds.LINK_REMOTE_CLOSE: lambda event: self.detached(event.link),
            kinds.LINK_REMOTE_DETACH: lambda event: self.detached(event.link),
            kinds.LINK_FLOW: lambda event: self.flowed(event.link),
            kinds.DELIVERY: lambda event: self.delivered(event.delivery),
            kinds.TRANSPORT_ERROR: self._on_transport_error,
        }

    # --- for subclasses ------------------------------------------------------------------------------

    def opened(self) -> None:
        """The peer has let us in."""

    def attached(self, link: Any) -> None:
        """The peer has answered a link of ours; with a null terminus it is about to refuse it."""

    def detached(self, link: Any) -> None:
        """The peer has ended a link."""

    def flowed(self, link: Any) -> None:
        """The peer has told its credit."""

    def delivered(self, delivery: Any) -> None:
        """A message has come, or an outcome of one of ours."""

    def writable(self) -> None:
        """The socket takes bytes again."""

    def over(self) -> None:
        """The connection has ended; called once."""

    # --- for owners ----------------------------------------------------------------------------------

    def session(self) -> Any:
        """Begin a session."""
        session = self._connection.session()
        session.incoming_capacity = INCOMING_BYTES
        session.open()
        return session

    def flush_soon(self) -> None:
        """Send what was queued outside of an event: once per turn of the loop."""
        if not self._flush_due and not self._is_over:
            self._flush_due = True
            self.loop.call_soon(self._work)

    def close(self, cause: str) -> None:
        """End the connection with a word to the peer."""
        self.cause = self.cause or cause
        if self._is_over:
            return
        if self._sasl is not None:
            self.abort()
            return
        self._connection.close()
        self._work()
        if self._socket is not None:
            self.loop.call_later(LINGER_SECONDS, self.abort)

    def abort(self, cause: str = "") -> None:
        """End the socket now."""
        self.cause = self.cause or cause
        if self._socket is not None:
            self._socket.abort()

    # --- asyncio -------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._socket = cast(asyncio.Transport, transport)
        self._socket.set_write_buffer_limits(high=HIGH_WATER)
        login = self._login
        is_plain = login.mechanism == "PLAIN"
        response = plain_response(login.username, login.password) if is_plain else b""
        self._sasl = SaslClient(login.mechanism, response, login.host)
        self._socket.write(self._sasl.to_send())

    def _begin(self) -> None:
        """The peer knows who we are: open the connection."""
        login, connection = self._login, self._connection
        connection.container = login.container
        connection.hostname = login.host
        self._transport.idle_timeout = login.idle_timeout
        self._transport.max_frame_size = MAX_FRAME
        connection.collect(self._collector)
        self._transport.bind(connection)
        connection.open()
        self._work()

    def data_received(self, data: bytes) -> None:
        if self._sasl is None:
            self._take(data)
            return
        try:
            self._sasl.receive(data)
        except GatewayError as error:
            self.abort(error.message)
            return
        if self._socket is not None:
            self._socket.write(self._sasl.to_send())
        if self._sasl.is_done:
            rest, self._sasl = self._sasl.rest, None
            self._begin()
            self._take(rest)

    def _take(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            room = self._transport.capacity()
            if room <= 0:
                break  # it wants no more: the connection is over
            try:
                self._transport.push(bytes(view[:room]))
            except self.proton.TransportException:
                break  # its event says what was wrong
            view = view[room:]
            self._dispatch()
        self._work()

    def connection_lost(self, exc: Exception | None) -> None:
        self._socket = None
        self.by_peer = not self.cause or self.by_peer
        self.cause = self.cause or (str(exc) if exc else "the connection was closed")
        self._end()

    def pause_writing(self) -> None:
        self.is_writable = False

    def resume_writing(self) -> None:
        self.is_writable = True
        self.writable()
        self.flush_soon()

    # --- inside --------------------------------------------------------------------------------------

    def _work(self) -> None:
        """Handle what happened, send what follows, set the timer."""
        self._flush_due = False
        if self._socket is None or self._is_over or self._sasl is not None:
            return
        self._dispatch()
        deadline = self._transport.tick(self.loop.time())
        self._dispatch()
        self._send()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if deadline and self._socket is not None:
            self._timer = self.loop.call_at(deadline, self._work)

    def _dispatch(self) -> None:
        if self._is_dispatching:
            return  # a handler sends something: its event is still the first one
        self._is_dispatching = True
        try:
            while (event := self._collector.peek()) is not None:
                handler = self._handlers.get(event.type)
                if handler is not None:
                    handler(event)
                self._collector.pop()
        finally:
            self._is_dispatching = False

    def _send(self) -> None:
        transport, out = self._transport, self._socket
        while out is not None and (size := transport.pending()) > 0:
            out.write(bytes(transport.peek(size)))
            transport.pop(size)
            self._dispatch()
        if out is not None and transport.pending() < 0 and not out.is_closing():
            out.close()
            self.loop.call_later(LINGER_SECONDS, out.abort)

    def _on_close(self, event: Any) -> None:
        self._peer_ends(event.connection.remote_condition, "the peer closed the connection")
        self._connection.close()

    def _on_session_close(self, event: Any) -> None:
        self._peer_ends(event.session.remote_condition, "the peer ended the session")
        self._connection.close()

    def _on_transport_error(self, event: Any) -> None:
        condition = event.transport.condition
        is_ours = condition is not None and "local-idle-timeout" in (condition.description or "")
        self.cause = self.cause or _text(condition, "the connection failed")
        self.by_peer = not is_ours

    def _peer_ends(self, condition: Any, otherwise: str) -> None:
        if not self.cause:
            self.by_peer = True
            self.cause = _text(condition, otherwise)

    def _end(self) -> None:
        if self._is_over:
            return
        self._is_over = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.over()
        self._transport.unbind()
        self._collector.release()
        self.ended.set()


def _text(condition: Any, otherwise: str) -> str:
    """Return what a condition says, capped."""
    if condition is None:
        return otherwise
    return ": ".join(filter(None, (condition.name, condition.description)))[:256]


def condition_of(subject: Any) -> tuple[str, str]:
    """Return name and text of the peer's condition on a link or delivery, empty where there is none."""
    found = subject.condition if hasattr(subject, "condition") else subject.remote_condition
    if found is None:
        return "", ""
    return str(found.name or ""), str(found.description or "")[:256]
