"""The AMQP 1.0 endpoint for applications, as Hono's messaging network shows it.

| address | what |
|---|---|
| receiver `telemetry/{tenant}` | competes for telemetry; credit and outcomes reach the device |
| receiver `event/{tenant}` | competes for the tenant's durable events |
| receiver `command_response/{tenant}/{replyId}` | responses to commands sent with that reply-to |
| receiver with a dynamic source | the same; the name that it gets is a reply-to for any tenant of its user |
| sender `command/{tenant}`, sender without address | commands; the anonymous one is routed by `to` |

Any other address is refused with `amqp:not-found`, also `notification/...`: registry change notifications are
internal. A tenant that the user has no right to: `amqp:unauthorized-access`. Tenants are not looked up at
attach, as with a message router: consumers of a tenant may come before the tenant.
Full: more connections than allowed are opened and closed with `amqp:resource-limit-exceeded`.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import ssl as tls
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, TypeAlias
from uuid import uuid4

from gateway.config.hono import Northbound as NorthboundSettings
from gateway.errors import NoConsumer
from gateway.hono.amqp_messages import MessageEncoder
from gateway.hono.amqp_outcomes import outcome_name
from gateway.hono.amqp_shell import AmqpProtocol
from gateway.hono.downstream import Messaging
from gateway.hono.northbound_links import (
    Answer,
    CommandLink,
    ConsumerLink,
    DeliveryMeter,
    ResponseLink,
)
from gateway.hono.sasl import parse_plain
from gateway.model.message import CommandResponse, Kind
from gateway.model.ports import CommandRouting, Done
from gateway.observe.metrics import Metrics
from gateway.outcome import NOT_FOUND, RESOURCE_LIMIT, UNAUTHORIZED
from gateway.runtime.listener import Door, Endpoints, doors_of, listening
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
from gateway.wire.amqp.link import ReceiverLink, SenderLink
from gateway.wire.amqp.performatives import SND_MIXED, SND_UNSETTLED, Error, Source

log = logging.getLogger(__name__)

ENDPOINT: Final = "northbound.amqp"
COMMAND_CREDIT: Final = 500
"""Commands of one link that may be on their way to devices."""
NOT_IMPLEMENTED: Final = "amqp:not-implemented"
DYNAMIC: Final = "temp."
"""What the names of dynamic nodes begin with; what follows cannot be guessed."""
HARD_LIMIT: Final = 2
"""Sockets beyond this multiple of the connection limit are dropped without AMQP."""

_ApplicationLink: TypeAlias = ConsumerLink | ResponseLink | CommandLink


@dataclass(frozen=True, slots=True)
class ApplicationUser:
    """Who may connect: `tenants` None means every tenant."""

    name: str
    password: str = field(repr=False)
    tenants: frozenset[str] | None = None

    def may_use(self, tenant: str) -> bool:
        return self.tenants is None or tenant in self.tenants


class Northbound:
    """The endpoint as a module; it is also the `ResponseSink` of its applications' reply addresses."""

    name = "northbound"

    def __init__(
        self,
        settings: NorthboundSettings,
        endpoints: Endpoints,
        messaging: Messaging,
        routing: CommandRouting,
        users: Mapping[str, ApplicationUser],
        metrics: Metrics,
        *,
        tls_context: tls.SSLContext | None = None,
        response_timeout: float = 1.0,
    ) -> None:
        """`tls_context` adds the listener `northbound.amqps`; times in seconds."""
        self.messaging = messaging
        self.routing = routing
        self.metrics = metrics
        self.users = users
        self.response_timeout = response_timeout
        self.encoder = MessageEncoder(uuid4().hex[:8])
        self._settings = settings
        self._endpoints = endpoints
        self._tls = tls_context
        self.nodes: dict[str, ResponseLink] = {}
        """Dynamic nodes by their names."""
        self._replies: dict[tuple[str, str], list[ResponseLink]] = {}
        self._protocols: set[AmqpProtocol] = set()
        self._limits = Limits(
            container_id="twinspan-northbound",
            max_frame_size=settings.max_frame,
            idle_timeout=settings.idle_timeout,
        )

    async def run(self, ready: Callable[[], None]) -> None:
        """Serve until cancelled."""
        settings = self._settings
        plain = Door(ENDPOINT, settings.bind, "hono.northbound.bind")
        doors = doors_of(plain, "northbound.amqps", settings.tls_bind, self._tls)
        async with listening(self._endpoints, self._socket, doors):
            ready()
            try:
                await asyncio.Event().wait()
            finally:
                await self._say_goodbye()

    def _socket(self) -> AmqpProtocol:
        return AmqpProtocol(self._limits, self._connect, self._protocols.discard)

    async def _say_goodbye(self) -> None:
        for protocol in tuple(self._protocols):
            protocol.close(Error("amqp:connection:forced", "the gateway stops"))
        if self._protocols:
            await asyncio.sleep(0)  # the last bytes go out, then the sockets
        for protocol in tuple(self._protocols):
            protocol.abort()

    @property
    def is_full(self) -> bool:
        return len(self._protocols) > self._settings.max_connections

    @property
    def max_message(self) -> int:
        return self._settings.max_message

    def _connect(self, protocol: AmqpProtocol) -> Application:
        self._protocols.add(protocol)
        if len(self._protocols) > self._settings.max_connections * HARD_LIMIT:
            protocol.abort()
        return Application(self, protocol)

    # --- responses -----------------------------------------------------------------------------------

    def owns(self, tenant: str, reply_id: str) -> bool:
        return bool(self._links_at(tenant, reply_id))

    def _links_at(self, tenant: str, reply_id: str) -> Sequence[ResponseLink]:
        links = self._replies.get((tenant, reply_id))
        if links is not None:
            return links
        node = self.nodes.get(reply_id)
        return () if node is None or not node.may_use(tenant) else (node,)

    def take(self, response: CommandResponse, done: Done) -> None:
        for link in self._links_at(response.tenant, response.reply_id):
            if link.credit > 0:
                link.take(response, done)
                return
        done(NoConsumer())

    def add_reply_link(self, tenant: str, reply_id: str, link: ResponseLink) -> None:
        """Let `link` get the responses of one reply address until it leaves."""
        key = (tenant, reply_id)
        self._replies.setdefault(key, []).append(link)

        def leave() -> None:
            links = self._replies[key]
            links.remove(link)
            if not links:
                del self._replies[key]

        link.leave = leave

    def add_node(self, link: ResponseLink) -> str:
        """Make a dynamic node, which lives as long as its link; returns its name."""
        name = f"{DYNAMIC}{uuid4().hex}"
        self.nodes[name] = link

        def leave() -> None:
            del self.nodes[name]

        link.leave = leave
        return name


class Application:
    """One application's connection."""

    def __init__(self, endpoint: Northbound, protocol: AmqpProtocol) -> None:
        self._endpoint = endpoint
        self._protocol = protocol
        self._user: ApplicationUser | None = None
        self._consumers: set[ConsumerLink] = set()

    def on_event(self, event: Event) -> None:
        match event:
            case Disposed(deliveries=deliveries, state=state):
                answer = Answer(state, outcome_name(state), self._protocol.now)
                for sent in deliveries:
                    sent.context.end(answer)  # type: ignore[attr-defined]
            case SendPossible(link=link):
                self._on_credit(link)
            case MessageArrived(link=link, delivery=delivery):
                link.context.arrived(delivery)  # type: ignore[attr-defined]
            case LinkRequested(link=link):
                self._on_link(link)
            case LinkDetached(link=link, unsettled=unsettled):
                self._on_detached(link, unsettled)
            case SaslRequested(response=response):
                self._on_sasl(response)
            case OpenRequested():
                self._on_open()
            case ConnectionEnded(error=error):
                log.debug("application gone", extra={"user": self._name, "cause": str(error)})

    def on_writable(self) -> None:
        for consumer in list(self._consumers):
            self._endpoint.messaging.ready(consumer.tenant, consumer.kind)

    @property
    def _name(self) -> str:
        return "" if self._user is None else self._user.name

    # --- connection ------------------------------------------------------------------------------------

    def _on_sasl(self, response: bytes) -> None:
        name, password = parse_plain(response)
        user = self._endpoint.users.get(name)
        expected = b"" if user is None else user.password.encode()
        if hmac.compare_digest(expected, password) and user is not None and password:
            self._user = user
        else:
            log.info("application refused", extra={"user": name[:128]})
        is_in = self._user is not None
        self._endpoint.metrics.authentication_attempts.labels(
            "succeeded" if is_in else "unauthorized", "unknown"
        ).inc()
        code = SASL_OK if is_in else SASL_AUTH
        protocol = self._protocol
        protocol.handle(protocol.connection.answer_sasl(code, protocol.now))

    def _on_open(self) -> None:
        protocol = self._protocol
        if self._endpoint.is_full:
            error = Error(RESOURCE_LIMIT, "maximum number of connections has been reached")
            protocol.handle(protocol.connection.refuse(error))
            return
        protocol.handle(protocol.connection.accept(protocol.now))

    # --- links -----------------------------------------------------------------------------------------

    def _on_link(self, link: SenderLink | ReceiverLink) -> None:
        if isinstance(link, ReceiverLink):
            self._on_sender(link)
            return
        if link.source is not None and link.source.dynamic:
            self._make_node(link, link.source)
            return
        address = link.source.address if link.source is not None else None
        endpoint, _, rest = (address if isinstance(address, str) else "").partition("/")
        tenant, _, reply_id = rest.partition("/")
        if endpoint in _KINDS and tenant and not reply_id:
            self._attach(link, tenant, lambda: self._consume(link, tenant, _KINDS[endpoint]))
        elif endpoint == "command_response" and tenant and reply_id:
            self._attach(link, tenant, lambda: self._listen(link, tenant, reply_id))
        else:
            link.refuse(Error(NOT_FOUND, f"no such node: {address!s:.128}"))

    def _on_sender(self, link: ReceiverLink) -> None:
        address = link.target.address if link.target is not None else None
        if link.target is not None and link.target.dynamic:
            link.refuse(Error(NOT_IMPLEMENTED, "dynamic targets: attach without address instead"))
            return
        if link.target is not None and address is None:
            self._command(link, None)
            return
        endpoint, _, tenant = (address if isinstance(address, str) else "").partition("/")
        if endpoint == "command" and tenant and "/" not in tenant:
            self._attach(link, tenant, lambda: self._command(link, tenant))
        else:
            link.refuse(Error(NOT_FOUND, f"no such node: {address!s:.128}"))

    def _attach(
        self, link: SenderLink | ReceiverLink, tenant: str, accept: Callable[[], None]
    ) -> None:
        if self._may_use(tenant):
            accept()
        else:
            link.refuse(Error(UNAUTHORIZED, f"no right to tenant {tenant:.128}"))

    def _consume(self, link: SenderLink, tenant: str, kind: Kind) -> None:
        endpoint = self._endpoint
        meter = DeliveryMeter(endpoint.metrics, tenant, kind.value)
        consumer = ConsumerLink(self._protocol, link, endpoint.encoder, meter, tenant, kind)
        link.context = consumer
        _accept(link)
        leave = endpoint.messaging.add_consumer(tenant, kind, consumer)
        self._consumers.add(consumer)
        endpoint.metrics.northbound_links.labels(kind.value).inc()

        def gone() -> None:
            self._consumers.discard(consumer)
            endpoint.metrics.northbound_links.labels(kind.value).dec()
            leave()

        consumer.leave = gone

    def _may_use(self, tenant: str) -> bool:
        return self._user is not None and self._user.may_use(tenant)

    def _listen(self, link: SenderLink, tenant: str, reply_id: str) -> None:
        responses = self._responses(link)
        _accept(link)
        self._endpoint.add_reply_link(tenant, reply_id, responses)

    def _make_node(self, link: SenderLink, asked: Source) -> None:
        name = self._endpoint.add_node(self._responses(link))
        _accept(link, replace(asked, address=name, dynamic_node_properties=None))

    def _responses(self, link: SenderLink) -> ResponseLink:
        endpoint = self._endpoint
        responses = ResponseLink(
            self._protocol, link, endpoint.metrics, endpoint.response_timeout, self._may_use
        )
        link.context = responses
        return responses

    def _command(self, link: ReceiverLink, tenant: str | None) -> None:
        endpoint = self._endpoint
        link.context = CommandLink(
            self._protocol, link, endpoint.routing, tenant, self._may_use, endpoint.nodes
        )
        link.accept(credit=COMMAND_CREDIT, max_message_size=self._endpoint.max_message)

    def _on_credit(self, link: SenderLink) -> None:
        consumer = link.context
        if isinstance(consumer, ConsumerLink):
            self._endpoint.messaging.ready(consumer.tenant, consumer.kind)
        link.drained()

    def _on_detached(self, link: SenderLink | ReceiverLink, unsettled: tuple[object, ...]) -> None:
        if isinstance(link.context, ConsumerLink | ResponseLink | CommandLink):
            link.context.lost(unsettled)  # type: ignore[arg-type]


_KINDS: Final = {"telemetry": Kind.TELEMETRY, "event": Kind.EVENT}


def _accept(link: SenderLink, source: Source | None = None) -> None:
    """At least once unless the receiver asked for settled deliveries."""
    asked = link.attach.snd_settle_mode
    link.accept(snd_settle_mode=SND_UNSETTLED if asked == SND_MIXED else asked, source=source)
