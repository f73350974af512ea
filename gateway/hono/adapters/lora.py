"""The LoRaWAN adapter: network servers push what their devices sent, as one gateway device each.

A device's EUI is its device id; the server's JSON becomes the payload, with Hono's meta data about the
transmission as properties. Messages that are no uplink are taken and dropped, so that the server does not
repeat them. Commands go out by `lora_downlinks`.
Source: Hono, LoRaWAN adapter.
"""

from __future__ import annotations

import ssl as tls
from collections.abc import Callable
from functools import partial

import msgspec

from gateway.config.hono import LoraAdapter as Settings
from gateway.errors import BadRequest, MethodNotAllowed, Unauthenticated
from gateway.hono.adapters.http_messages import (
    ACCEPTED,
    parameter,
    positive_seconds,
    qos_level,
    trace_of,
)
from gateway.hono.adapters.http_requests import Request
from gateway.hono.adapters.http_server import Exchange, Response
from gateway.hono.adapters.http_shell import NO_ROUTE, Face, HttpShell
from gateway.hono.adapters.http_uploads import Uploads
from gateway.hono.adapters.lora_downlinks import Downlinks
from gateway.hono.adapters.lora_provider import Provider, Uplink
from gateway.hono.adapters.lora_providers import provider_of
from gateway.hono.adapters.lora_values import MalformedUplink
from gateway.hono.ingress import IngressService
from gateway.hono.registry_view import RegistryView
from gateway.model.json import JsonObject
from gateway.model.message import EMPTY_NOTIFICATION, Adapter, Kind, Principal, Scalar, Upload
from gateway.model.ports import Authenticator, CommandRouting
from gateway.runtime.listener import Endpoints

CONTENT_TYPE = "application/vnd.eclipse-hono.lora."
"""With the name of the kind of network server behind it."""
FACE = Face(adapter=Adapter.LORA, name="hono.lora", tls_name="hono.loras")
OK = Response(200)


class LoraAdapter:
    """The module that serves network servers on `hono.lora`, with a TLS context also on `hono.loras`."""

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
        self._shell = HttpShell(
            FACE, settings, endpoints, authenticator, self._dispatch, tls_context=tls_context
        )
        self._uploads = Uploads(
            self._shell, registry, ingress, commands, idle_timeout=settings.idle_timeout
        )
        self._downlinks = Downlinks(settings, registry, commands)

    async def run(self, ready: Callable[[], None]) -> None:
        """Serve until cancelled; commands that are on their way then are released."""
        async with self._downlinks.running():
            await self._shell.run(ready)

    def _dispatch(self, exchange: Exchange) -> None:
        request = exchange.request
        provider = provider_of(request.path)
        if provider is None:
            self._shell.answer(exchange, NO_ROUTE)
        elif request.method == "OPTIONS":  # some servers ask so whether they may come
            self._shell.authenticate(exchange, partial(self._welcome, exchange))
        elif request.method != "POST":
            raise MethodNotAllowed(f"expected POST here, got {request.method[:16]}")
        else:
            self._shell.authenticate(exchange, partial(self._receive, exchange, provider))

    def _welcome(self, exchange: Exchange, sender: Principal | None) -> None:
        _known(sender)
        self._shell.answer(exchange, OK)

    def _receive(self, exchange: Exchange, provider: Provider, sender: Principal | None) -> None:
        gateway = _known(sender)
        request = exchange.request
        _check_content_type(request, provider)
        uplink = provider.uplink(read_object(request.body))
        if uplink is None:
            self._shell.answer(exchange, ACCEPTED)
            return
        upload = make_upload(request, provider, gateway, uplink)
        self._uploads.submit(exchange, upload, positive_seconds(parameter(request, "hono-ttd")))
        self._downlinks.expect(gateway, provider)


def _known(sender: Principal | None) -> Principal:
    """Network servers always log in, whatever tenant and settings say of devices."""
    if sender is None:
        raise Unauthenticated("credentials are missing")
    return sender


def _check_content_type(request: Request, provider: Provider) -> None:
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != provider.content_type:
        raise BadRequest("missing or unsupported content-type")


def read_object(body: bytes) -> JsonObject:
    """Read a request's JSON object.

    Errors: MalformedUplink.
    """
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedUplink from error
    if not isinstance(value, dict):
        raise MalformedUplink
    return value


def make_upload(request: Request, provider: Provider, gateway: Principal, uplink: Uplink) -> Upload:
    """Put an uplink into the form that applications get."""
    is_empty = not uplink.payload
    return Upload(
        adapter=Adapter.LORA,
        principal=gateway,
        kind=Kind.TELEMETRY,
        qos=qos_level(request, Kind.TELEMETRY),
        payload=uplink.payload,
        address=request.target,
        tenant=gateway.tenant,
        device=uplink.device,
        content_type=EMPTY_NOTIFICATION if is_empty else CONTENT_TYPE + provider.name,
        properties=_properties(request, provider, uplink),
        trace=trace_of(request),
    )


def _properties(request: Request, provider: Provider, uplink: Uplink) -> dict[str, Scalar]:
    properties: dict[str, Scalar] = {
        "orig_lora_provider": provider.name,
        "additional_data": request.body.decode(),
    }
    if uplink.meta is not None:
        properties["meta_data"] = msgspec.json.encode(uplink.meta).decode()
        port = uplink.meta.get("function_port")
        if isinstance(port, int):
            properties["function_port"] = port
    return properties
