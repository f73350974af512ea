"""One connection to Hono's services or its messaging network, made again whenever it is lost.

A link's `context` is its `LinkOwner`; a delivery's `context` is a callable that gets the outcome's state,
None when the link was lost with it. Links do not outlive their connection: owners hear `detached`, and attach
anew when they are needed, or when `on_open` says that there is a connection again.
A peer that reads too slowly: `is_writable` is False, who sends refuses or waits for `sendable`.
"""

from __future__ import annotations

import asyncio
import logging
import ssl as tls
from collections.abc import Callable
from typing import Final, Protocol

from gateway.config.hono_services import Peer as Settings
from gateway.errors import StoreUnavailable
from gateway.hono.amqp_shell import AmqpProtocol
from gateway.runtime.backoff import Backoff
from gateway.runtime.listener import parse_bind
from gateway.wire.amqp.client import ClientConnection, SaslLogin
from gateway.wire.amqp.connection import Connection
from gateway.wire.amqp.events import (
    ConnectionEnded,
    ConnectionOpened,
    Disposed,
    Event,
    LinkAttached,
    LinkDetached,
    MessageArrived,
    SendPossible,
)
from gateway.wire.amqp.limits import Limits
from gateway.wire.amqp.link import Incoming, ReceiverLink, SenderLink
from gateway.wire.amqp.performatives import Error

log = logging.getLogger(__name__)

CONNECT_SECONDS: Final = 5.0
FIRST_DELAY: Final = 0.1
LONGEST_DELAY: Final = 7.0
IDLE_SECONDS: Final = 20.0
MAX_FRAME: Final = 65_536
UNIX: Final = "unix:"
"""What an address begins with that is the path of a socket."""
AWAY: Final = "the service is not connected"


class LinkOwner(Protocol):
    """Whoever attached a link."""

    def attached(self) -> None:
        """The peer took the link."""

    def sendable(self) -> None:
        """A link that we send on has credit, or the transport takes bytes again."""

    def arrived(self, link: ReceiverLink, delivery: Incoming) -> None:
        """A message came; settle it on the link, now or later."""

    def detached(self, error: Error | None) -> None:
        """The link is gone, or was refused."""


class ServiceConnection:
    """A module that keeps the connection up; ready once it was open for the first time."""

    def __init__(self, settings: Settings, *, container_id: str, name: str = "services") -> None:
        self.name = name
        self._settings = settings
        self._limits = Limits(
            container_id=container_id,
            max_frame_size=MAX_FRAME,
            channel_max=1_023,
            idle_timeout=IDLE_SECONDS,
        )
        self._protocol: _Client | None = None
        self._listeners: list[Callable[[], None]] = []
        self._senders: set[SenderLink] = set()

    async def run(self, ready: Callable[[], None]) -> None:
        """Connect, and again after each loss, until cancelled."""
        backoff = Backoff(FIRST_DELAY, LONGEST_DELAY)
        while True:
            client = await self._connect()
            if client is not None:
                try:
                    if await self._opened(client):
                        backoff.reset()
                        ready()
                        await client.lost.wait()
                finally:
                    self.closed(client)
                    await _end(client)
            await asyncio.sleep(backoff.next())

    async def _connect(self) -> _Client | None:
        settings = self._settings
        loop = asyncio.get_running_loop()

        def factory() -> _Client:
            return _Client(self, self._limits, settings)

        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                if settings.address.startswith(UNIX):
                    path = settings.address.removeprefix(UNIX)
                    _, protocol = await loop.create_unix_connection(factory, path)
                    return protocol
                host, port = parse_bind(settings.address, "hono.services")
                context = _tls(settings)
                _, protocol = await loop.create_connection(
                    factory, host, port, ssl=context, server_hostname=host if context else None
                )
                return protocol
        except (OSError, TimeoutError) as error:
            self._log_failure(str(error) or type(error).__name__)
            return None

    async def _opened(self, client: _Client) -> bool:
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                is_open = await client.opened
        except TimeoutError:
            is_open = False
        if not is_open:
            self._log_failure(client.reason or "no open in time")
            return False
        self._protocol = client
        log.info("service connected", extra={"service": self.name, "peer": self._settings.address})
        for listener in self._listeners:
            listener()
        return True

    def _log_failure(self, cause: str) -> None:
        facts = {"service": self.name, "peer": self._settings.address, "cause": cause}
        log.warning("service is not reached", extra=facts)

    # --- for owners of links -----------------------------------------------------------------------------

    def on_open(self, listener: Callable[[], None]) -> None:
        """Call `listener` whenever links may be attached again."""
        self._listeners.append(listener)

    @property
    def is_open(self) -> bool:
        return self._protocol is not None

    @property
    def is_writable(self) -> bool:
        return self._protocol is not None and self._protocol.is_writable

    def flush_soon(self) -> None:
        """Write what was queued, once per turn of the loop."""
        if self._protocol is not None:
            self._protocol.flush_soon()

    def attach_sender(self, address: str | None, owner: LinkOwner) -> SenderLink:
        """Attach a link on which we send.

        Errors: StoreUnavailable while there is no connection; Undeliverable when it takes no more links.
        """
        client = self._open_client()
        link = client.wire.attach_sender(address, context=owner)
        self._senders.add(link)
        client.flush_soon()
        return link

    def attach_receiver(
        self, address: str, owner: LinkOwner, *, credit: int, max_message_size: int
    ) -> ReceiverLink:
        """Attach a link on which we receive; errors as `attach_sender`."""
        client = self._open_client()
        link = client.wire.attach_receiver(
            address, credit=credit, max_message_size=max_message_size, context=owner
        )
        client.flush_soon()
        return link

    def detach(self, link: SenderLink | ReceiverLink) -> None:
        """End a link; its owner is told as for any other end."""
        if self._protocol is not None and not link.is_gone:
            self._protocol.handle([link.detach()])
            self._protocol.flush_soon()

    def _open_client(self) -> _Client:
        if self._protocol is None:
            raise StoreUnavailable(AWAY)
        return self._protocol

    def closed(self, client: _Client) -> None:
        """Nothing more goes over this socket."""
        if self._protocol is client:
            self._protocol = None
            self._senders.clear()

    def gone(self, link: SenderLink | ReceiverLink) -> None:
        """A link has ended."""
        if isinstance(link, SenderLink):
            self._senders.discard(link)

    def writable(self) -> None:
        """The transport takes bytes again."""
        for link in tuple(self._senders):
            if link.is_open:
                _owner(link).sendable()


class _Client(AmqpProtocol):
    """One socket, as protocol and as the peer of its wire session."""

    wire: ClientConnection

    def __init__(self, owner: ServiceConnection, limits: Limits, settings: Settings) -> None:
        super().__init__(limits, lambda _protocol: self, lambda _protocol: self.lost.set())
        self._owner = owner
        self._settings = settings
        self.lost = asyncio.Event()
        self.opened: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self.reason = ""

    def make_connection(self, transport: asyncio.Transport) -> Connection:
        settings = self._settings
        login = SaslLogin()
        if settings.username:
            login = SaslLogin.plain(settings.username, settings.password)
        elif settings.certificate:
            login = SaslLogin("EXTERNAL")
        self.wire = ClientConnection(
            self.limits_for(transport), self.now, login, hostname=settings.hostname or None
        )
        return self.wire

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.flush_soon()

    def on_event(self, event: Event) -> None:
        match event:
            case Disposed(deliveries=deliveries, state=state):
                for sent in deliveries:
                    sent.context(state)  # type: ignore[operator]
            case SendPossible(link=link):
                _owner(link).sendable()
                link.drained()
            case MessageArrived(link=link, delivery=delivery):
                _owner(link).arrived(link, delivery)
            case LinkAttached(link=link):
                _owner(link).attached()
            case LinkDetached(link=link, error=error, unsettled=unsettled):
                self._owner.gone(link)
                for sent in unsettled:
                    sent.context(None)  # type: ignore[operator]
                _owner(link).detached(error)
            case ConnectionOpened():
                self._tell(True)
            case ConnectionEnded(error=error):
                if error is not None:
                    self.reason = f"{error.condition}: {error.description}"
                self._tell(False)
                self._owner.closed(self)
                self.lost.set()
            case _:  # what only a server is asked
                pass

    def on_writable(self) -> None:
        self._owner.writable()

    def _tell(self, is_open: bool) -> None:
        if not self.opened.done():
            self.opened.set_result(is_open)


def _owner(link: SenderLink | ReceiverLink) -> LinkOwner:
    owner: LinkOwner = link.context  # type: ignore[assignment]
    return owner


async def _end(client: _Client) -> None:
    client.close()
    await asyncio.sleep(0)  # the last bytes go out, then the socket
    client.abort()


def _tls(settings: Settings) -> tls.SSLContext | None:
    if not settings.tls:
        return None
    context = tls.create_default_context(cafile=settings.ca or None)
    if settings.certificate:
        context.load_cert_chain(settings.certificate, settings.key or None)
    return context
