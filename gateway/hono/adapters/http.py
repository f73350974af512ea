"""The HTTP adapter: devices post telemetry, events and command responses, and wait for commands.

Failures that are not the client's are told as 503 with `Retry-After`, without internal detail.
Source: Hono, HTTP Adapter user guide.
"""

from __future__ import annotations

import ssl as tls
from collections.abc import Callable
from functools import partial

from gateway.config.hono import HttpAdapter as Settings
from gateway.errors import MethodNotAllowed, Unauthenticated
from gateway.hono.adapters.http_messages import (
    EXPOSED_HEADERS,
    KINDS,
    Target,
    content_type_of,
    parameter,
    parse_path,
    positive_seconds,
    preflight,
    qos_level,
    response_status,
    trace_of,
)
from gateway.hono.adapters.http_requests import Request
from gateway.hono.adapters.http_server import Exchange
from gateway.hono.adapters.http_shell import NO_ROUTE, Face, HttpShell
from gateway.hono.adapters.http_uploads import Uploads
from gateway.hono.commands import parse_request_id
from gateway.hono.ingress import IngressService
from gateway.hono.registry_view import RegistryView
from gateway.hono.routes import resolve_address
from gateway.model.message import Adapter, CommandResponse, Principal, Upload
from gateway.model.ports import Authenticator, CommandRouting
from gateway.runtime.listener import Endpoints

FACE = Face(
    adapter=Adapter.HTTP,
    name="hono.http",
    tls_name="hono.https",
    exposed_headers=EXPOSED_HEADERS,
)


class HttpAdapter:
    """The module that serves devices on `hono.http`; `tls_context` adds the listener `hono.https`."""

    name = FACE.name

    def __init__(
        self,
        settings: Settings,
        endpoints: Endpoints,
        authenticator: Authenticator,
        registry: RegistryView,
        ingress: IngressService,
        commands: CommandRouting,
        *,
        tls_context: tls.SSLContext | None = None,
    ) -> None:
        self._settings = settings
        self._commands = commands
        self._shell = HttpShell(
            FACE, settings, endpoints, authenticator, self._dispatch, tls_context=tls_context
        )
        self._uploads = Uploads(
            self._shell, registry, ingress, commands, idle_timeout=settings.idle_timeout
        )

    async def run(self, ready: Callable[[], None]) -> None:
        """Serve until cancelled; then devices that wait are hung up on and their commands released."""
        await self._shell.run(ready)

    # --- requests -------------------------------------------------------------------------------------

    def _dispatch(self, exchange: Exchange) -> None:
        request = exchange.request
        target = request.noted(_target)
        if target is None:
            self._shell.answer(exchange, NO_ROUTE)
        elif request.method == "OPTIONS":
            exchange.respond(preflight(target))
        elif request.method != target.method:
            raise MethodNotAllowed(f"expected {target.method} here, got {request.method[:16]}")
        else:
            claimed = (target.tenant, target.device) if target.tenant and target.device else None
            self._shell.authenticate(
                exchange,
                partial(self._work, exchange, target),
                claimed=claimed,
                is_required=self._needs_login(target),
            )

    def _needs_login(self, target: Target) -> bool:
        return self._settings.authentication_required or target.method == "POST"

    def _work(self, exchange: Exchange, target: Target, sender: Principal | None) -> None:
        if sender is None and self._needs_login(target):
            raise Unauthenticated("credentials are missing")
        if target.endpoint == "command":
            self._respond(exchange, target, sender)
        else:
            self._upload(exchange, sender)

    def _upload(self, exchange: Exchange, sender: Principal | None) -> None:
        request = exchange.request
        draft, ttd = request.noted(_draft)
        upload = Upload(
            adapter=Adapter.HTTP,
            principal=sender,
            kind=draft.kind,
            qos=draft.qos,
            payload=request.body,
            address=draft.address,
            tenant=draft.tenant,
            device=draft.device,
            content_type=draft.content_type,
            ttl=draft.ttl,
            trace=draft.trace,
        )
        self._uploads.submit(exchange, upload, ttd)

    # --- command responses ----------------------------------------------------------------------------

    def _respond(self, exchange: Exchange, target: Target, sender: Principal | None) -> None:
        request = exchange.request
        tenant, device, gateway = resolve_address(sender, target.tenant, target.device)
        status = response_status(parameter(request, "hono-cmd-status"))
        correlation_id, reply_id = parse_request_id(target.request_id, tenant, device)
        self._commands.respond(
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
            partial(self._uploads.forwarded, exchange),
        )


def _target(request: Request) -> Target | None:
    """What a request's path asks for."""
    return parse_path(request.path, request.method)


def _draft(request: Request) -> tuple[Upload, int | None]:
    """What a request's head says of an upload, and how many seconds its device waits for a command.

    Errors: BadRequest.
    """
    target = request.noted(_target)
    if target is None:
        raise AssertionError("only what has a target is an upload")
    kind = KINDS[target.endpoint]
    draft = Upload(
        adapter=Adapter.HTTP,
        principal=None,
        kind=kind,
        qos=qos_level(request, kind),
        payload=b"",
        address=request.target,
        tenant=target.tenant,
        device=target.device,
        content_type=content_type_of(request),
        ttl=positive_seconds(parameter(request, "hono-ttl")),
        trace=trace_of(request),
    )
    return draft, positive_seconds(parameter(request, "hono-ttd"))
