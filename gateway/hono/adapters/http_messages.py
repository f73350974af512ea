"""What the HTTP adapter reads from requests and how it renders answers; nothing here waits or sends.

Source: Hono, HTTP Adapter user guide.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from urllib.parse import unquote

import msgspec

from gateway.errors import (
    BadRequest,
    GatewayError,
    NotBuilt,
    Unauthenticated,
)
from gateway.hono.adapters.http_requests import Request
from gateway.hono.adapters.http_server import Response
from gateway.hono.device_texts import SHOWN
from gateway.model.message import OCTET_STREAM, DeviceCommand, Kind
from gateway.model.trace import TraceContext
from gateway.outcome import outcome_of

JSON = "application/json; charset=utf-8"
NOT_FOUND = b"<html><body><h1>Resource not found</h1></body></html>"
RETRY_AFTER = "2"

EXPOSED_HEADERS = "hono-command, hono-cmd-req-id, hono-cmd-target-device"
_PREFLIGHT_HEADERS = {
    "telemetry": "qos-level, hono-ttd, authorization, content-type",
    "event": "hono-ttd, authorization, content-type",
    "command": "hono-cmd-status, authorization, content-type",
}
KINDS = {"telemetry": Kind.TELEMETRY, "event": Kind.EVENT}

ACCEPTED = Response(202)


@dataclass(frozen=True, slots=True)
class Target:
    """What a path asks for.

    Shape:  `endpoint` telemetry, event or command; `method` the one that the path is for; `tenant` and
            `device` None where the path says nothing; `request_id` of a command response.
    """

    endpoint: str
    method: str
    tenant: str | None = None
    device: str | None = None
    request_id: str = ""


def parse_path(path: str, method: str) -> Target | None:
    """Read a path; None where the adapter has no such resource.

    Shape:  `/telemetry`, `/telemetry/{tenant}/{device}`, `/telemetry//{device}`, the same for `/event`;
            `/command/res/{request id}`, `/command/res/{tenant}/{device}/{request id}`. A request id may
            hold slashes; the method tells its two forms apart.
    """
    if not path.startswith("/"):
        return None
    first, *rest = [unquote(segment) for segment in path.split("/")[1:]]
    if first in KINDS:
        if not rest:
            return Target(first, "POST")
        if len(rest) == 2 and rest[1]:
            return Target(first, "PUT", rest[0] or None, rest[1])
        return None
    if first != "command" or rest[:1] != ["res"] or len(rest) < 2 or not rest[-1]:
        return None
    if len(rest) >= 4 and method != "POST":
        return Target(first, "PUT", rest[1] or None, rest[2], "/".join(rest[3:]))
    return Target(first, "POST", request_id="/".join(rest[1:]))


def error_response(error: GatewayError) -> Response:
    """Render an error as this adapter does."""
    status = outcome_of(error).status if error.status == 500 else error.status
    headers = [("Content-Type", JSON)]
    text = error.message
    if status == 401:
        headers.append(("WWW-Authenticate", 'Basic realm="Hono"'))
    if status >= 500 and status != NotBuilt.status:
        status = 503
        headers.append(("Retry-After", RETRY_AFTER))
        text = error.message if isinstance(error, SHOWN) else "temporarily unavailable"
    return Response(status, msgspec.json.encode({"error": text}), tuple(headers))


def refusal(status: int, text: str) -> Response:
    """Render an error of the server itself."""
    return Response(status, msgspec.json.encode({"error": text}), (("Content-Type", JSON),))


def command_response(command: DeviceCommand) -> Response:
    """Put a command into the answer of an upload."""
    inner = command.command
    headers = [("hono-command", inner.name)]
    if command.request_id:
        headers.append(("hono-cmd-req-id", command.request_id))
    if command.gateway is not None:
        headers.append(("hono-cmd-target-device", command.target))
    headers += command.marks
    content_type = inner.content_type or (OCTET_STREAM if inner.payload else None)
    if content_type is not None:
        headers.append(("Content-Type", content_type))
    return Response(200, inner.payload, tuple(headers))


# --- requests ----------------------------------------------------------------------------------------


def basic_login(token: str) -> tuple[str, bytes]:
    try:
        username, colon, password = base64.b64decode(token, validate=True).partition(b":")
        if colon:
            return username.decode(), password
    except ValueError:  # no base64, no ASCII, or no UTF-8 in it
        pass
    raise Unauthenticated("Authorization: expected Basic base64(<user name>:<password>)")


def parameter(request: Request, name: str) -> str | None:
    """Return a header, or else the query parameter of that name."""
    value = request.headers.get(name)
    if value is None and "?" in request.target:
        return request.query.get(name)
    return value


def positive_seconds(text: str | None) -> int | None:
    """Read seconds; what is no positive number counts as absent."""
    if text is None or not text.isascii() or not text.isdigit() or len(text) > 9:
        return None
    return int(text) or None


def response_status(text: str | None) -> int:
    if text is None or not text.isascii() or not text.isdigit() or len(text) != 3:
        raise BadRequest("hono-cmd-status: expected a number of 200..299 or 400..599")
    return int(text)


def qos_level(request: Request, kind: Kind) -> int:
    text = request.headers.get("qos-level")
    allowed = ("1",) if kind is Kind.EVENT else ("0", "1")
    if text is None:
        return int(allowed[0])
    if text not in allowed:
        raise BadRequest(f"qos-level: expected {' or '.join(allowed)}, got {text[:16]!r}")
    return int(text)


def content_type_of(request: Request) -> str | None:
    text = request.headers.get("content-type")
    if text is not None and not (text.isascii() and text.isprintable()):
        raise BadRequest("Content-Type: expected printable ASCII")
    return text or None


def trace_of(request: Request) -> TraceContext | None:
    traceparent = request.headers.get("traceparent")
    if traceparent is None:
        return None
    return TraceContext.parse(traceparent, request.headers.get("tracestate"))


def preflight(target: Target) -> Response:
    return Response(
        204,
        b"",
        (
            ("Access-Control-Allow-Origin", "*"),
            ("Access-Control-Allow-Methods", target.method),
            ("Access-Control-Allow-Headers", _PREFLIGHT_HEADERS[target.endpoint]),
        ),
    )
