"""The HTTP adapter: devices post telemetry, events and command responses, and wait for commands.

An upload with `hono-ttd` listens for commands from before it is forwarded until its answer is written; the
first command travels in that answer, later ones are released. A device that hangs up releases its command.
Failures that are not the client's are told as 503 with `Retry-After`, without internal detail.
Source: Hono, HTTP Adapter user guide.
"""

from __future__ import annotations

import asyncio
import logging
import ssl as tls
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import msgspec

from gateway.config.hono import HttpAdapter as Settings
from gateway.errors import (
    GatewayError,
    MethodNotAllowed,
    NoConsumer,
    NotBuilt,
    Unauthenticated,
    Undeliverable,
)
from gateway.hono.adapters.http_messages import (
    ACCEPTED,
    EXPOSED_HEADERS,
    KINDS,
    NOT_FOUND,
    Target,
    basic_login,
    command_response,
    content_type_of,
    error_response,
    parameter,
    parse_path,
    positive_seconds,
    preflight,
    qos_level,
    refusal,
    response_status,
    trace_of,
)
from gateway.hono.adapters.http_server import (
    Exchange,
    HttpConnection,
    Limits,
    Response,
)
from gateway.hono.commands import CommandRouter, check_response_status, parse_request_id
from gateway.hono.ingress import IngressService
from gateway.hono.meters import Ttd
from gateway.hono.registry import Registry
from gateway.hono.routes import resolve_address
from gateway.model.message import (
    Adapter,
    CommandResponse,
    DeviceCommand,
    Principal,
    Upload,
)
from gateway.model.ports import Authenticator, Done
from gateway.model.registry import Tenant
from gateway.runtime.listener import Door, Endpoints, doors_of, listening

log = logging.getLogger(__name__)

MAX_TTD_OF_IDLE = 0.8
"""The part of the idle time-out that a wait for a command may take."""


class _Wait:
    """One upload that waits for a command: the link of its device for that time.

    Ends in exactly one of: a command in the answer, an answer without one, an error, the peer gone.
    """

    __slots__ = (
        "_adapter",
        "_command",
        "_end",
        "_exchange",
        "_is_over",
        "_started",
        "_timer",
        "_upload",
    )

    def __init__(self, adapter: HttpAdapter, exchange: Exchange, upload: Upload) -> None:
        self._adapter = adapter
        self._exchange = exchange
        self._upload = upload
        self._started = time.perf_counter()
        self._command: tuple[DeviceCommand, Done] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._is_over = False
        exchange.on_gone = self._gone
        self._end: Callable[[], None] = lambda: None

    def begin(self, tenant: str, device: str, gateway: str | None) -> None:
        """Listen, then forward the upload."""
        self._end = self._adapter.commands.subscribe(
            tenant, device, self, adapter=Adapter.HTTP, gateway=gateway, announce=False
        )
        self._adapter.ingress.submit(self._upload, self._forwarded)

    def deliver(self, command: DeviceCommand, done: Done) -> None:
        """Take the first command; it is accepted once the answer is written."""
        if self._is_over or self._command is not None:
            done(NoConsumer())
            return
        self._command = (command, done)
        if self._timer is not None:
            self._answer()

    def _forwarded(self, error: GatewayError | None) -> None:
        if self._is_over:
            return
        if error is not None:
            self._over(error, Ttd.NONE)
            self._adapter.answer(self._exchange, error_response(error))
            return
        wait = float(self._upload.ttd or 0)
        self._timer = asyncio.get_running_loop().call_later(wait, self._answer)
        if self._command is not None:
            self._answer()

    def _answer(self) -> None:
        taken, self._command = self._command, None
        if taken is None:
            self._over(None, Ttd.EXPIRED)
            self._adapter.answer(self._exchange, ACCEPTED)
            return
        self._over(None, Ttd.COMMAND)
        command, done = taken
        self._adapter.answer(
            self._exchange,
            command_response(command),
            lambda is_written: done(None if is_written else _hung_up()),
        )

    def _gone(self) -> None:
        if not self._is_over:
            self._over(None, Ttd.NONE)

    def _over(self, error: GatewayError | None, ttd: Ttd) -> None:
        self._is_over = True
        if self._timer is not None:
            self._timer.cancel()
        self._end()
        self._adapter.ingress.record_waited(self._upload, error, self._started, ttd)
        if self._command is not None:
            _, done = self._command
            self._command = None
            done(_hung_up())


def _hung_up() -> Undeliverable:
    return Undeliverable("the device did not wait for the command")


class HttpAdapter:
    """The module that serves devices on `hono.http`; `tls_context` adds the listener `hono.https`."""

    name = "hono.http"

    def __init__(
        self,
        settings: Settings,
        endpoints: Endpoints,
        authenticator: Authenticator,
        registry: Registry,
        ingress: IngressService,
        commands: CommandRouter,
        *,
        tls_context: tls.SSLContext | None = None,
    ) -> None:
        self.ingress = ingress
        self.commands = commands
        self._settings = settings
        self._endpoints = endpoints
        self._authenticator = authenticator
        self._registry = registry
        self._tls = tls_context
        self._limits = Limits(settings.max_payload, settings.request_timeout, settings.idle_timeout)
        self._connections: set[HttpConnection] = set()

    async def run(self, ready: Callable[[], None]) -> None:
        """Serve until cancelled; then devices that wait are hung up on and their commands released."""
        settings = self._settings
        plain = Door("hono.http", settings.bind, "hono.http.bind")
        doors = doors_of(plain, "hono.https", settings.tls_bind, self._tls)
        async with listening(self._endpoints, self._connection, doors):
            ready()
            try:
                await asyncio.Event().wait()
            finally:
                for connection in tuple(self._connections):
                    connection.close()

    def _connection(self) -> asyncio.Protocol:
        if len(self._connections) >= self._settings.max_connections:
            log.info("connection refused", extra={"adapter": self.name, "cause": "too many"})
            return _Refused()
        connection = HttpConnection(self.handle, refusal, self._limits, self._connections.discard)
        self._connections.add(connection)
        return connection

    # --- requests -------------------------------------------------------------------------------------

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
        self,
        exchange: Exchange,
        response: Response,
        written: Callable[[bool], None] | None = None,
    ) -> None:
        """Send an answer, with the CORS headers where a browser asks."""
        if "origin" in exchange.request.headers:
            cors = (
                ("Access-Control-Allow-Origin", "*"),
                ("Access-Control-Expose-Headers", EXPOSED_HEADERS),
            )
            response = replace(response, headers=(*response.headers, *cors))
        exchange.respond(response, written)

    def _dispatch(self, exchange: Exchange) -> None:
        request = exchange.request
        target = parse_path(request.path, request.method)
        if target is None:
            self.answer(exchange, Response(404, NOT_FOUND, (("Content-Type", "text/html"),)))
        elif request.method == "OPTIONS":
            exchange.respond(preflight(target))
        elif request.method != target.method:
            raise MethodNotAllowed(f"expected {target.method} here, got {request.method[:16]}")
        else:
            self._authenticate(exchange, target)

    def _authenticate(self, exchange: Exchange, target: Target) -> None:
        authorization = exchange.request.headers.get("authorization", "")
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() == "basic":
            username, password = basic_login(token.strip())
            self._authenticator.check_password(
                username, password, Adapter.HTTP, partial(self._authenticated, exchange, target)
            )
        elif scheme.lower() == "bearer":
            raise NotBuilt("authentication with a bearer token is not built")
        elif self._settings.authentication_required or target.method == "POST":
            raise Unauthenticated("credentials are missing")
        else:
            self._work(exchange, target, None)

    def _authenticated(
        self, exchange: Exchange, target: Target, who: Principal | GatewayError
    ) -> None:
        if isinstance(who, GatewayError):
            self.answer(exchange, error_response(who))
        else:
            self._guarded(exchange, partial(self._work, exchange, target, who))

    def _work(self, exchange: Exchange, target: Target, sender: Principal | None) -> None:
        if target.endpoint == "command":
            self._respond(exchange, target, sender)
        else:
            self._upload(exchange, target, sender)

    # --- uploads --------------------------------------------------------------------------------------

    def _upload(self, exchange: Exchange, target: Target, sender: Principal | None) -> None:
        request = exchange.request
        kind = KINDS[target.endpoint]
        upload = Upload(
            adapter=Adapter.HTTP,
            principal=sender,
            kind=kind,
            qos=qos_level(request, kind),
            payload=request.body,
            address=request.target,
            tenant=target.tenant,
            device=target.device,
            content_type=content_type_of(request),
            ttl=positive_seconds(parameter(request, "hono-ttl")),
            trace=trace_of(request),
        )
        ttd = positive_seconds(parameter(request, "hono-ttd"))
        if ttd is None:
            self.ingress.submit(upload, partial(self._forwarded, exchange))
            return
        tenant, device, gateway = resolve_address(sender, target.tenant, target.device)
        self._registry.find_tenant(
            tenant,
            lambda found: self._wait(exchange, upload, (device, gateway), ttd, found),
        )

    def _forwarded(self, exchange: Exchange, error: GatewayError | None) -> None:
        self.answer(exchange, ACCEPTED if error is None else error_response(error))

    def _wait(
        self,
        exchange: Exchange,
        upload: Upload,
        listener: tuple[str, str | None],
        ttd: int,
        found: Tenant | GatewayError,
    ) -> None:
        if isinstance(found, GatewayError):
            self.answer(exchange, error_response(found))
            return
        if exchange.is_over:  # the device hung up while it was looked up: nobody waits
            self.ingress.submit(upload, partial(self._forwarded, exchange))
            return
        longest = int(self._settings.idle_timeout * MAX_TTD_OF_IDLE)
        effective = min(ttd, found.adapter(Adapter.HTTP).max_ttd, longest)
        device, gateway = listener
        waiting = _Wait(self, exchange, msgspec.structs.replace(upload, ttd=effective))
        waiting.begin(found.tenant_id, device, gateway)

    # --- command responses ----------------------------------------------------------------------------

    def _respond(self, exchange: Exchange, target: Target, sender: Principal | None) -> None:
        request = exchange.request
        tenant, device, gateway = resolve_address(sender, target.tenant, target.device)
        status = check_response_status(response_status(parameter(request, "hono-cmd-status")))
        correlation_id, reply_id = parse_request_id(target.request_id, tenant, device)
        self.commands.respond(
            CommandResponse(
                tenant=tenant,
                device=device,
                reply_id=reply_id,
                correlation_id=correlation_id,
                status=status,
                payload=request.body,
                content_type=content_type_of(request),
                trace=trace_of(request),
                adapter=Adapter.HTTP.value,
                via=gateway,
            ),
            partial(self._forwarded, exchange),
        )


class _Refused(asyncio.Protocol):
    """A socket over the limit: closed at once."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()
