"""Hono's internal services on one AMQP 1.0 endpoint, for protocol adapters that run elsewhere.

| address | receiver | sender |
|---|---|---|
| `cbs` | gets its token | |
| `tenant`; `registration`, `credentials`, `cmd_router`, `device_con` with `/{tenant}` | answers | requests |
| `telemetry/{tenant}`, `event/{tenant}` | | uploads for applications |
| `command_response/{tenant}/{replyId}` | | responses to commands |
| `command_internal/{adapter instance}` | commands for its devices | |
| `notification/registry-tenant`, `-device` | registry changes | |

Rights are those of Hono's permissions file; on the Unix socket, which only the same user reaches, everything
is allowed. Full: a connection above the limit is opened and closed with `amqp:resource-limit-exceeded`.
Source: Hono, internal APIs over AMQP 1.0.
"""

from __future__ import annotations

import asyncio
import logging
import ssl as tls
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from cryptography import x509

from gateway.config.internal import Internal
from gateway.hono import (
    service_auth,
    service_commands,
    service_credentials,
    service_notifications,
    service_registration,
    service_router,
    service_tenants,
    service_uploads,
)
from gateway.hono.amqp_shell import AmqpProtocol
from gateway.hono.sasl import parse_plain
from gateway.hono.service_auth import TokenLink
from gateway.hono.service_authorities import (
    EVERYTHING,
    EXTERNAL,
    READ,
    WRITE,
    ServiceUser,
    Users,
)
from gateway.hono.service_commands import CommandReceivers, InstanceLink
from gateway.hono.service_notifications import NotificationLink, Notifications
from gateway.hono.service_requests import (
    MAX_REQUEST,
    REQUEST_CREDIT,
    Desk,
    Operations,
    ReplyLink,
    RequestLink,
)
from gateway.hono.service_routes import Routes
from gateway.hono.service_tokens import Tokens
from gateway.hono.service_uploads import UploadLink, Uploads
from gateway.observe.metrics import Metrics
from gateway.outcome import NOT_FOUND, PRECONDITION_FAILED, RESOURCE_LIMIT, UNAUTHORIZED
from gateway.runtime.listener import Door, Endpoints, doors_of, listening
from gateway.runtime.unix_socket import listening_at
from gateway.wire.amqp.connection import SASL_AUTH, SASL_OK
from gateway.wire.amqp.events import (
    ConnectionEnded,
    Disposed,
    Event,
    LinkDetached,
    LinkRequested,
    MessageArrived,
    OpenRequested,
    SaslRequested,
    SendPossible,
)
from gateway.wire.amqp.limits import Limits
from gateway.wire.amqp.link import ReceiverLink, SenderLink, Sent
from gateway.wire.amqp.performatives import SND_MIXED, SND_SETTLED, SND_UNSETTLED, Error, Open

log = logging.getLogger(__name__)

NOT_ALLOWED: Final = "amqp:not-allowed"
INVALID_FIELD: Final = "amqp:invalid-field"
ILLEGAL_STATE: Final = "amqp:illegal-state"
HARD_LIMIT: Final = 2
"""Sockets beyond this multiple of the connection limit are dropped without AMQP."""
GOODBYE_SECONDS: Final = 0.5
"""In which components may answer our close."""
HANDLES: Final = 32_767
"""Links of one session: an adapter has some for each tenant that it serves."""
NEIGHBOUR: Final = ServiceUser("the Unix socket's", EXTERNAL, EVERYTHING)
TENANTLESS: Final = (service_tenants.ENDPOINT,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rooms:
    """What the endpoint opens to its peers; `services` by the first part of their address."""

    services: Mapping[str, Operations]
    desk: Desk
    tokens: Tokens
    uploads: Uploads
    routes: Routes
    receivers: CommandReceivers
    notifications: Notifications


class _Socket(AmqpProtocol):
    """One accepted socket on TCP."""

    def limits_for(self, transport: asyncio.Transport) -> Limits:
        limits = super().limits_for(transport)
        if _subject(transport.get_extra_info("ssl_object")) is None:
            return limits
        return replace(limits, mechanisms=(EXTERNAL, *limits.mechanisms))


class InternalServices:
    """The endpoint as a module; `tls_context` adds the listener `hono.internals`."""

    name = "hono.internal"

    def __init__(
        self,
        settings: Internal,
        endpoints: Endpoints,
        users: Users,
        rooms: Rooms,
        metrics: Metrics,
        *,
        tls_context: tls.SSLContext | None = None,
    ) -> None:
        self.users = users
        self.rooms = rooms
        self.metrics = metrics
        self._settings = settings
        self._endpoints = endpoints
        self._tls = tls_context
        self._sockets: set[AmqpProtocol] = set()
        self._no_more = asyncio.Event()
        self._limits = Limits(
            container_id="twinspan-internal",
            max_frame_size=settings.max_frame,
            idle_timeout=settings.idle_timeout,
            handle_max=HANDLES,
            offered_capabilities=(),
        )

    async def run(self, ready: Callable[[], None]) -> None:
        """Serve until cancelled."""
        settings = self._settings
        await self.rooms.routes.load()
        async with AsyncExitStack() as up:
            if settings.enabled:
                plain = Door("hono.internal", settings.bind, "hono.internal.bind")
                doors = doors_of(plain, "hono.internals", settings.tls_bind, self._tls)
                await up.enter_async_context(listening(self._endpoints, self._socket, doors))
            if settings.socket:
                local = listening_at(settings.socket, self._local, setting="hono.internal.socket")
                await up.enter_async_context(local)
            ready()
            try:
                await self.rooms.routes.keep_clean()
            finally:
                await self._say_goodbye()
                self.rooms.routes.close()

    def _socket(self) -> AmqpProtocol:
        return _Socket(self._limits, self._connect, self._gone)

    def _local(self) -> AmqpProtocol:
        limits = replace(self._limits, mechanisms=(EXTERNAL, "ANONYMOUS", *self._limits.mechanisms))
        return AmqpProtocol(limits, self._connect_neighbour, self._gone)

    def _connect(self, protocol: AmqpProtocol, neighbour: ServiceUser | None = None) -> Component:
        self._sockets.add(protocol)
        self.metrics.elsewhere.service_connections.set(len(self._sockets))
        if len(self._sockets) > self._settings.max_connections * HARD_LIMIT:
            protocol.abort()
        return Component(self, protocol, neighbour)

    def _connect_neighbour(self, protocol: AmqpProtocol) -> Component:
        return self._connect(protocol, NEIGHBOUR)

    def _gone(self, protocol: AmqpProtocol) -> None:
        self._sockets.discard(protocol)
        self.metrics.elsewhere.service_connections.set(len(self._sockets))
        if not self._sockets:
            self._no_more.set()

    async def _say_goodbye(self) -> None:
        for protocol in tuple(self._sockets):
            protocol.close(Error("amqp:connection:forced", "the gateway stops"))
        self._no_more.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(GOODBYE_SECONDS if self._sockets else 0):
                await self._no_more.wait()
        for protocol in tuple(self._sockets):
            protocol.abort()

    @property
    def is_full(self) -> bool:
        return len(self._sockets) > self._settings.max_connections

    @property
    def max_message(self) -> int:
        return self._settings.max_message


def _subject(connection: object) -> str | None:
    """Return the subject of a peer's certificate, which TLS has checked; None where it showed none."""
    if not isinstance(connection, tls.SSLObject):
        return None
    data = connection.getpeercert(binary_form=True)
    return None if data is None else x509.load_der_x509_certificate(data).subject.rfc4514_string()


class Component:
    """One component's connection; `neighbour` is who it is when it comes over the Unix socket."""

    def __init__(
        self, endpoint: InternalServices, protocol: AmqpProtocol, neighbour: ServiceUser | None
    ) -> None:
        self._endpoint = endpoint
        self._rooms = endpoint.rooms
        self._protocol = protocol
        self._neighbour = neighbour
        self._user: ServiceUser | None = None

    @property
    def user(self) -> ServiceUser:
        if self._user is None:
            raise AssertionError("links come after the login")
        return self._user

    def on_event(self, event: Event) -> None:
        match event:
            case Disposed(deliveries=deliveries, state=state):
                for sent in filter(_is_awaited, deliveries):
                    sent.context.end(state)  # type: ignore[attr-defined]
            case SendPossible(link=link):
                _on_credit(link)
            case MessageArrived(link=link, delivery=delivery):
                link.context.arrived(delivery)  # type: ignore[attr-defined]
            case LinkRequested(link=link):
                self._on_link(link)
            case LinkDetached(link=link, unsettled=unsettled) if link.context is not None:
                link.context.lost(unsettled)  # type: ignore[attr-defined]
            case SaslRequested(mechanism=mechanism, response=response):
                self._on_sasl(mechanism, response)
            case OpenRequested(open=opened):
                self._on_open(opened)
            case ConnectionEnded(error=error):
                log.debug("component gone", extra={"user": self._name, "cause": str(error)})

    def on_writable(self) -> None:
        """Changes of the registry have waited; what else was not sent meanwhile is not kept."""
        self._rooms.notifications.resume(self._protocol)

    @property
    def _name(self) -> str:
        return "" if self._user is None else self._user.name

    # --- connection -------------------------------------------------------------------------------

    def _on_sasl(self, mechanism: str, response: bytes) -> None:
        protocol = self._protocol
        if mechanism == "PLAIN":
            self._user = self._by_password(response)
        elif self._neighbour is not None:
            self._user = self._neighbour
        elif mechanism == EXTERNAL:
            self._user = self._by_certificate()
        if self._user is None:
            log.info("component refused", extra={"mechanism": mechanism})
            self._count_login("unauthorized", "unknown")
        code = SASL_AUTH if self._user is None else SASL_OK
        protocol.handle(protocol.connection.answer_sasl(code, protocol.now))

    def _count_login(self, outcome: str, client_type: str) -> None:
        self._endpoint.metrics.authentication_attempts.labels(outcome, client_type).inc()

    def _by_password(self, response: bytes) -> ServiceUser | None:
        name, password = parse_plain(response)
        user = self._endpoint.users.get(name)
        return user if user is not None and user.has_password(password) else None

    def _by_certificate(self) -> ServiceUser | None:
        subject = _subject(self._protocol.fact("ssl_object"))
        user = self._endpoint.users.get(subject or "")
        return user if user is not None and user.mechanism == EXTERNAL else None

    def _on_open(self, opened: Open) -> None:
        protocol = self._protocol
        connection = protocol.connection
        if self._endpoint.is_full:
            error = Error(RESOURCE_LIMIT, "maximum number of connections has been reached")
            protocol.handle(connection.refuse(error))
        elif service_auth.asks_for_addresses(opened):
            self._count_login("succeeded", "dispatch-router")
            more = service_auth.address_properties(self.user)
            offered = (service_auth.ADDRESS_AUTHZ,)
            protocol.handle(connection.accept(protocol.now, capabilities=offered, properties=more))
        else:
            self._count_login("succeeded", "auth-service")
            protocol.handle(connection.accept(protocol.now))

    # --- links ------------------------------------------------------------------------------------

    def _on_link(self, link: SenderLink | ReceiverLink) -> None:
        refusal = (
            self._on_sender(link) if isinstance(link, ReceiverLink) else self._on_receiver(link)
        )
        if refusal is not None:
            link.refuse(refusal)

    def _on_sender(self, link: ReceiverLink) -> Error | None:
        """Take a link that the component sends on; returns why not."""
        address = link.target.address if link.target is not None else None
        if not isinstance(address, str) or not address:
            return Error(NOT_ALLOWED, "this endpoint has no anonymous terminus")
        endpoint, _, tenant = address.partition("/")
        if endpoint == service_auth.ADDRESS:
            return Error(NOT_ALLOWED, "tokens are received, not sent")
        operations = self._rooms.services.get(endpoint)
        is_upload = endpoint in service_uploads.KINDS or endpoint == service_uploads.RESPONSES
        if operations is None and not is_upload:
            return _no_node(address)
        if not _is_well_formed(endpoint, tenant):
            return _no_node(address)
        if not self.user.authorities.may(WRITE, address):
            return Error(UNAUTHORIZED, f"no right to send to {address:.128}")
        if operations is None:
            uploads = self._rooms.uploads
            is_own = self._neighbour is not None
            link.context = upload = UploadLink(
                self._protocol, link, uploads, address, is_trusted=is_own
            )
            upload.accept(self._endpoint.max_message)
            return None
        if link.attach.snd_settle_mode == SND_SETTLED:
            return Error(PRECONDITION_FAILED, "requests are to be sent at least once")
        desk = self._rooms.desk
        link.context = RequestLink(self._protocol, link, desk, address, operations, self.user)
        link.accept(credit=REQUEST_CREDIT, max_message_size=MAX_REQUEST)
        return None

    def _on_receiver(self, link: SenderLink) -> Error | None:
        """Take a link that the component receives on; returns why not."""
        address = link.source.address if link.source is not None else None
        if not isinstance(address, str) or not address:
            return Error(INVALID_FIELD, "source: expected an address")
        endpoint, _, rest = address.partition("/")
        if address == service_auth.ADDRESS:
            return self._give_token(link)
        if endpoint in self._rooms.services:
            return self._reply(link, endpoint, rest, address)
        if endpoint == service_commands.ENDPOINT and rest:
            return self._attach(link, address, lambda: self._instance(link, rest))
        if address in service_notifications.ADDRESSES:
            return self._attach(link, address, lambda: self._notify(link, address))
        return _no_node(address)

    def _attach(self, link: SenderLink, address: str, accept: Callable[[], None]) -> Error | None:
        if not self.user.authorities.may(READ, address):
            return Error(UNAUTHORIZED, f"no right to receive from {address:.128}")
        accept()
        asked = link.attach.snd_settle_mode
        link.accept(snd_settle_mode=SND_UNSETTLED if asked == SND_MIXED else asked)
        return None

    def _give_token(self, link: SenderLink) -> Error | None:
        if link.attach.snd_settle_mode == SND_SETTLED:
            return Error(INVALID_FIELD, "tokens are to be received at least once")
        link.context = TokenLink(self._protocol, link, self._rooms.tokens, self.user)
        link.accept(snd_settle_mode=SND_UNSETTLED)
        return None

    def _reply(self, link: SenderLink, endpoint: str, rest: str, address: str) -> Error | None:
        if not (rest if endpoint in TENANTLESS else rest.partition("/")[2]):
            return Error(INVALID_FIELD, "source: expected a reply id behind the service's address")
        replies = self._rooms.desk.replies
        owner = replies.owner(address)
        if owner is not None and owner.protocol is not self._protocol:
            return Error(ILLEGAL_STATE, "another connection receives from this address")

        def accept() -> None:
            link.context = reply = ReplyLink(self._protocol, link)
            replies.add(address, reply)

        return self._attach(link, address, accept)

    def _instance(self, link: SenderLink, instance: str) -> None:
        rooms = self._rooms
        link.context = receiver = InstanceLink(self._protocol, link)
        is_own = self._neighbour is not None
        on_gone = partial(rooms.routes.end_instance, instance) if is_own else None
        rooms.receivers.add(instance, receiver, on_gone)

    def _notify(self, link: SenderLink, address: str) -> None:
        link.context = listener = NotificationLink(self._protocol, link)
        self._rooms.notifications.add(address, listener)


def _is_awaited(sent: Sent) -> bool:
    """True where somebody wants to know what became of it."""
    return sent.context is not None


def _on_credit(link: SenderLink) -> None:
    if isinstance(link.context, TokenLink):
        link.context.on_credit()
    elif isinstance(link.context, NotificationLink):
        link.context.resume()
    link.drained()


def _is_well_formed(endpoint: str, tenant: str) -> bool:
    """True for `{endpoint}/{tenant}`, the tenant service's bare name, and a response's reply address."""
    if endpoint in TENANTLESS:
        return not tenant
    if endpoint == service_uploads.RESPONSES:
        return bool(tenant)
    return bool(tenant) and "/" not in tenant


def _no_node(address: str) -> Error:
    return Error(NOT_FOUND, f"no such node: {address:.128}")


def services(
    tenants: service_tenants.TenantService,
    registration: service_registration.RegistrationService,
    credentials: service_credentials.CredentialsService,
    router: service_router.RouterService,
) -> Mapping[str, Operations]:
    """Return the services by the first part of their address."""
    return {
        service_tenants.ENDPOINT: tenants.operations,
        service_registration.ENDPOINT: registration.operations,
        service_credentials.ENDPOINT: credentials.operations,
        service_router.ENDPOINT: router.operations,
        service_router.CONNECTION_ENDPOINT: router.connection_operations,
    }
