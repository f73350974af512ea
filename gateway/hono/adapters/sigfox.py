"""The Sigfox adapter: the Sigfox backend calls back with what its devices sent, as one gateway device.

`GET /data/telemetry/{tenant}?device={device}&data={data}&ack={ack}`; `/data/event` alike. A device that
asks for an acknowledgement waits for a command, which must be one-way and have the eight bytes of a downlink.
Source: Hono, Sigfox adapter user guide.
"""

from __future__ import annotations

import base64
import binascii
import re
import ssl as tls
from collections.abc import Callable
from functools import partial
from urllib.parse import unquote, unquote_to_bytes

import msgspec

from gateway.config.hono import SigfoxAdapter as Settings
from gateway.errors import BadRequest, Forbidden, MethodNotAllowed, Rejected, Unauthenticated
from gateway.hono.adapters.http_messages import (
    EXPOSED_HEADERS,
    JSON,
    KINDS,
    parameter,
    positive_seconds,
    qos_level,
    trace_of,
)
from gateway.hono.adapters.http_requests import Request
from gateway.hono.adapters.http_server import Exchange, Response
from gateway.hono.adapters.http_shell import NO_ROUTE, Face, HttpShell
from gateway.hono.adapters.http_uploads import Answers, Uploads
from gateway.hono.ingress import IngressService
from gateway.hono.registry_view import RegistryView
from gateway.model.message import (
    EMPTY_NOTIFICATION,
    OCTET_STREAM,
    Adapter,
    DeviceCommand,
    Kind,
    Principal,
    Scalar,
    Upload,
)
from gateway.model.ports import Authenticator, CommandRouting
from gateway.runtime.listener import Endpoints

FACE = Face(
    adapter=Adapter.SIGFOX,
    name="hono.sigfox",
    tls_name="hono.sigfoxs",
    exposed_headers=EXPOSED_HEADERS,
)
DOWNLINK_BYTES = 8
PREFIX = "sigfox."
"""Of the query parameters that applications get."""
_HEX = re.compile(r"(?:[0-9A-Fa-f]{2})*")


def downlink(command: DeviceCommand) -> Response:
    """Put a command into the answer of a callback; the backend looks for its own device's id."""
    data = {command.target: {"downlinkData": command.command.payload.hex()}}
    return Response(200, msgspec.json.encode(data), (("Content-Type", JSON),))


def check_downlink(command: DeviceCommand) -> None:
    """Refuse what no Sigfox device can be told.

    Errors: Rejected.
    """
    inner = command.command
    if not inner.is_one_way or len(inner.payload) != DOWNLINK_BYTES:
        raise Rejected("malformed command message")


ANSWERS = Answers(Response(204), downlink, check_downlink)


class SigfoxAdapter:
    """The module that serves the Sigfox backend on `hono.sigfox`, with TLS also on `hono.sigfoxs`."""

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
        self._shell = HttpShell(
            FACE, settings, endpoints, authenticator, self._dispatch, tls_context=tls_context
        )
        self._uploads = Uploads(
            self._shell,
            registry,
            ingress,
            commands,
            idle_timeout=settings.idle_timeout,
            answers=ANSWERS,
        )

    async def run(self, ready: Callable[[], None]) -> None:
        """Serve until cancelled; devices that wait are hung up on and their commands released."""
        await self._shell.run(ready)

    def _dispatch(self, exchange: Exchange) -> None:
        headers = exchange.request.headers
        headers["authorization"] = plain_login(headers.get("authorization", ""))
        self._shell.authenticate(exchange, partial(self._receive, exchange))

    def _receive(self, exchange: Exchange, sender: Principal | None) -> None:
        if sender is None:
            raise Unauthenticated("credentials are missing")
        request = exchange.request
        target = parse_path(request.path)
        if target is None:
            self._shell.answer(exchange, NO_ROUTE)
            return
        if request.method != "GET":
            raise MethodNotAllowed(f"expected GET here, got {request.method[:16]}")
        kind, tenant = target
        if tenant != sender.tenant:
            raise Forbidden("tenant information mismatch")
        self._uploads.submit(exchange, make_upload(request, kind, sender), self._wait_of(request))

    def _wait_of(self, request: Request) -> int | None:
        ack = request.query.get("ack", request.headers.get("ack", ""))
        return self._settings.ttd_when_ack_required or None if ack.lower() == "true" else None


def parse_path(path: str) -> tuple[Kind, str] | None:
    """Return kind and tenant of `/data/telemetry/{tenant}` or `/data/event/{tenant}`; None for others."""
    parts = path.split("/")
    if len(parts) != 4 or parts[:2] != ["", "data"] or parts[2] not in KINDS or not parts[3]:
        return None
    return KINDS[parts[2]], unquote(parts[3])


def plain_login(authorization: str) -> str:
    """Return credentials as they were meant that the backend took from its callback's URL.

    It sends them as the URL has them: `auth-id%40tenant` and a password with escapes. What has an `@` of its
    own is what it says.
    """
    scheme, _, token = authorization.partition(" ")
    try:
        name, colon, password = base64.b64decode(token.strip(), validate=True).partition(b":")
    except (binascii.Error, ValueError):
        return authorization
    if scheme.lower() != "basic" or b"@" in name or b"%40" not in name:
        return authorization
    meant = unquote_to_bytes(name) + colon + unquote_to_bytes(password)
    return f"Basic {base64.b64encode(meant).decode()}"


def make_upload(request: Request, kind: Kind, gateway: Principal) -> Upload:
    """Put a callback into the form that applications get.

    Errors: BadRequest.
    """
    query = request.query
    device, data = query.get("device"), query.get("data")
    if not device:
        raise BadRequest("device: expected the id of the Sigfox device in the query")
    if data is not None and not _HEX.fullmatch(data):
        raise BadRequest("data: expected hex in the query")
    properties: dict[str, Scalar] = {n: v for n, v in query.items() if n.startswith(PREFIX)}
    return Upload(
        adapter=Adapter.SIGFOX,
        principal=gateway,
        kind=kind,
        qos=qos_level(request, kind),
        payload=bytes.fromhex(data or ""),
        address=request.target,
        tenant=gateway.tenant,
        device=device,
        content_type=EMPTY_NOTIFICATION if data is None else OCTET_STREAM,
        ttl=positive_seconds(parameter(request, "hono-ttl")),
        properties=properties,
        trace=trace_of(request),
    )
