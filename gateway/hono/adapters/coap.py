"""The CoAP adapter: devices send telemetry, events and command responses, and wait for commands.

`hono.coap` is plain UDP: it knows no credentials and is there only where devices need none; tenant and device
stand in the path. `hono.coaps` is DTLS, where a device proves itself with its pre-shared key.
CON is at least once, NON at most once. Full: 5.03 with Max-Age 2.
Source: Hono, CoAP Adapter user guide.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Hashable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import cache, partial
from typing import cast

import msgspec

from gateway.config.hono import CoapAdapter as Settings
from gateway.errors import BadRequest, GatewayError, Unauthenticated
from gateway.hono.adapters.coap_answers import CoapAnswering
from gateway.hono.adapters.coap_exchanges import Exchange, Exchanges, Peer, Written
from gateway.hono.adapters.coap_messages import (
    DONE,
    Response,
    Target,
    asks_for_time,
    content_type_of,
    error_response,
    parse_query,
    parse_target,
    positive_seconds,
    response_status,
    time_option,
    trace_of,
)
from gateway.hono.adapters.command_waits import CommandWait
from gateway.hono.commands import parse_request_id
from gateway.hono.ingress import IngressService
from gateway.hono.registry_view import RegistryView
from gateway.hono.routes import resolve_address
from gateway.model.message import Adapter, CommandResponse, Kind, Principal, Upload
from gateway.model.ports import CommandRouting
from gateway.model.registry import Change, RegistryChange, Subject, Tenant
from gateway.observe.metrics import Metrics
from gateway.runtime.datagrams import receiving
from gateway.runtime.dtls import DtlsSocket
from gateway.runtime.listener import Endpoints

log = logging.getLogger(__name__)

SWEEP_SECONDS = 10.0

MakeSecure = Callable[
    [Callable[[Peer, bytes], None], Callable[[Hashable], None]], DtlsSocket[Principal]
]
"""(what to do with a datagram of a peer, what to do when a peer is gone) -> the socket of DTLS"""


class PlainPeer:
    """An address that datagrams come from."""

    __slots__ = ("_socket", "key")

    principal: Principal | None = None
    is_proved = False

    def __init__(self, socket: PlainSocket, address: tuple[object, ...]) -> None:
        self._socket = socket
        self.key = address

    def send(self, datagram: bytes) -> None:
        """Send a datagram; it may be lost."""
        self._socket.send(datagram, self.key)


class PlainSocket(asyncio.DatagramProtocol):
    """CoAP without security."""

    def __init__(self, received: Callable[[Peer, bytes], None]) -> None:
        self._received = received
        self._transport: asyncio.DatagramTransport
        self._is_full = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[object, ...]) -> None:
        self._received(PlainPeer(self, addr), data)

    def pause_writing(self) -> None:
        self._is_full = True

    def resume_writing(self) -> None:
        self._is_full = False

    def send(self, datagram: bytes, address: tuple[object, ...]) -> None:
        """Send a datagram; while the socket is full it is lost, as datagrams may be."""
        if not self._is_full:
            self._transport.sendto(datagram, address)


@dataclass(frozen=True, slots=True)
class _Request:
    """A request as far as it was read."""

    exchange: Exchange
    target: Target
    query: Mapping[str, str]
    sender: Principal | None


class CoapAdapter:
    """The module that serves devices on `hono.coap` and `hono.coaps`.

    Shape:  `secure` makes the socket of DTLS; without it there is no `hono.coaps`, and `missing` says why.
    """

    name = "hono.coap"

    def __init__(
        self,
        settings: Settings,
        endpoints: Endpoints,
        registry: RegistryView,
        ingress: IngressService,
        commands: CommandRouting,
        metrics: Metrics,
        *,
        secure: MakeSecure | None = None,
        missing: str = "",
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.ingress = ingress
        self.commands = commands
        self._settings = settings
        self._endpoints = endpoints
        self._registry = registry
        self._secure = secure
        self._missing = missing
        self._clock = clock
        self._metrics = metrics
        self._sessions: DtlsSocket[Principal] | None = None
        counters = cache(metrics.coap_datagrams.labels)  # of a closed set of outcomes
        self.exchanges = Exchanges(
            self.handle,
            lambda outcome: counters(outcome).inc(),
            max_body=settings.max_payload,
            max_requests=settings.max_requests,
            max_remembered=settings.max_remembered,
        )

    async def run(self, ready: Callable[[], None]) -> None:
        """Serve until cancelled; devices that wait then are not answered, their commands are released."""
        async with AsyncExitStack() as stack:
            await self._open_plain(stack)
            await self._open_secure(stack)
            ready()
            try:
                while True:
                    await asyncio.sleep(SWEEP_SECONDS)
                    self._sweep()
            finally:
                self.exchanges.close()
                if self._sessions is not None:
                    self._sessions.close()

    async def _open_plain(self, stack: AsyncExitStack) -> None:
        if self._settings.authentication_required:
            log.info(
                "plain CoAP is off: it has no credentials",
                extra={"setting": "hono.coap.authentication_required=false opens it"},
            )
            return
        make = partial(PlainSocket, self.exchanges.received)
        await stack.enter_async_context(
            receiving(
                self._endpoints,
                "hono.coap",
                self._settings.bind,
                make,
                setting="hono.coap.bind",
            )
        )

    async def _open_secure(self, stack: AsyncExitStack) -> None:
        if self._secure is None:
            nobody = self._settings.authentication_required
            level = logging.WARNING if nobody else logging.INFO
            log.log(level, "CoAP over DTLS is off", extra={"cause": self._missing})
            return
        make = partial(self._secure, self.exchanges.received, self.exchanges.gone)
        self._sessions = await stack.enter_async_context(
            receiving(
                self._endpoints,
                "hono.coaps",
                self._settings.tls_bind,
                make,
                setting="hono.coap.tls_bind",
            )
        )
        self._metrics.coap_sessions.set_function(self._sessions.__len__)
        stack.callback(self._registry.on_change(self._changed))

    def _sweep(self) -> None:
        self.exchanges.sweep()
        if self._sessions is not None:
            self._sessions.sweep()

    def _changed(self, change: RegistryChange) -> None:
        """Let devices prove themselves anew whose credentials have changed, or that may not be here."""
        is_about_keys = change.subject is Subject.CREDENTIALS and change.change is not Change.CREATE
        if self._sessions is not None and (is_about_keys or change.ends_connections):
            self._sessions.end_where(lambda who: change.concerns(who.tenant, who.device))

    # --- requests -----------------------------------------------------------------------------------

    def handle(self, exchange: Exchange) -> None:
        """Work on one request; answers through the exchange, now or later."""
        self._guarded(exchange, partial(self._dispatch, exchange))

    def _guarded(self, exchange: Exchange, work: Callable[[], None]) -> None:
        try:
            work()
        except GatewayError as error:
            self.answer(exchange, error_response(error))
        except Exception:
            log.exception("request failed", extra={"adapter": self.name})
            self.answer(exchange, error_response(GatewayError()))

    def answer(
        self, exchange: Exchange, response: Response, written: Written | None = None
    ) -> None:
        """Send an answer, with the server's time where the device asks for it."""
        if exchange.wants_time:
            response = response.with_option(*time_option(self._clock()))
        exchange.respond(response, written)

    def _dispatch(self, exchange: Exchange) -> None:
        query = parse_query(exchange.request)
        exchange.wants_time = asks_for_time(exchange.request, query)
        target = parse_target(exchange.request)
        sender = exchange.peer.principal
        if sender is None and (target.needs_login or self._settings.authentication_required):
            raise Unauthenticated("the device has not proved who it is: that takes DTLS")
        if target.resource.kind is not Kind.TELEMETRY and not exchange.is_confirmable:
            raise BadRequest("events and command responses have to be confirmable")
        request = _Request(exchange, target, query, sender)
        if target.resource.kind is None:
            self._respond(request)
        else:
            self._upload(request, target.resource.kind)

    # --- uploads ------------------------------------------------------------------------------------

    def _upload(self, request: _Request, kind: Kind) -> None:
        exchange, target = request.exchange, request.target
        upload = Upload(
            adapter=Adapter.COAP,
            principal=request.sender,
            kind=kind,
            qos=1 if exchange.is_confirmable else 0,
            payload=exchange.request.payload,
            address=target.address,
            tenant=target.tenant,
            device=target.device,
            content_type=content_type_of(exchange.request, request.query),
            trace=trace_of(exchange.request),
        )
        try:
            tenant, device, gateway = resolve_address(request.sender, target.tenant, target.device)
        except GatewayError:  # counted there
            self.ingress.submit(upload, partial(self._forwarded, exchange))
            return
        self._registry.find_tenant(
            tenant, partial(self._with_tenant, request, upload, (device, gateway))
        )

    def _forwarded(self, exchange: Exchange, error: GatewayError | None) -> None:
        self.answer(exchange, DONE if error is None else error_response(error))

    def _with_tenant(
        self,
        request: _Request,
        upload: Upload,
        listener: tuple[str, str | None],
        found: Tenant | GatewayError,
    ) -> None:
        exchange = request.exchange
        if exchange.is_over:
            return
        if isinstance(found, GatewayError):
            self.ingress.submit(upload, partial(self._forwarded, exchange))
            return
        seconds = self._ack_seconds(found, request.query)
        if seconds == 0:
            exchange.acknowledge_in(0)
        ttd = positive_seconds(request.query.get("hono-ttd"))
        if ttd is None:
            self.ingress.submit(upload, partial(self._forwarded, exchange))
        else:
            ttd = min(ttd, found.adapter(Adapter.COAP).max_ttd)
            upload = msgspec.structs.replace(upload, ttd=ttd)
            is_authenticated = upload.principal is not None
            answering = CoapAnswering(
                self, exchange, request.target.resource, is_authenticated=is_authenticated
            )
            waiting = CommandWait(self.ingress, self.commands, upload, answering)
            exchange.on_gone = waiting.gone
            waiting.begin(found.tenant_id, *listener)
        exchange.acknowledge_in(seconds)

    def _ack_seconds(self, tenant: Tenant, query: Mapping[str, str]) -> float:
        """Return when an empty acknowledgement goes out: 0 at once, below 0 never."""
        usual = self._settings.timeout_to_ack
        ext = tenant.adapter(Adapter.COAP).ext
        wanted = _milliseconds(ext.get("timeoutToAck"))
        if wanted is None:
            return usual
        if wanted == 0 and usual > 0 and "piggy" in query:
            triggered = _milliseconds(ext.get("deviceTriggeredTimeoutToAck"))
            return usual if triggered is None else triggered
        return wanted

    # --- command responses --------------------------------------------------------------------------

    def _respond(self, request: _Request) -> None:
        exchange, target = request.exchange, request.target
        tenant, device, gateway = resolve_address(request.sender, target.tenant, target.device)
        status = response_status(request.query.get("hono-cmd-status"))
        correlation_id, reply_id = parse_request_id(target.request_id, tenant, device)
        self.commands.respond(
            CommandResponse(
                tenant=tenant,
                device=device,
                reply_id=reply_id,
                correlation_id=correlation_id,
                status=status,
                payload=exchange.request.payload,
                content_type=content_type_of(exchange.request, request.query),
                adapter=Adapter.COAP.value,
                via=gateway,
                trace=trace_of(exchange.request),
            ),
            partial(self._forwarded, exchange),
        )
        exchange.acknowledge_in(self._settings.timeout_to_ack)


def _milliseconds(value: object) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return value / 1000 if is_number else None  # type: ignore[operator]
