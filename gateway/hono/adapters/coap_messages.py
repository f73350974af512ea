"""What the CoAP adapter reads from requests and how it renders answers; nothing here waits or sends.

Source: Hono, CoAP Adapter user guide.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from gateway.errors import (
    BadRequest,
    GatewayError,
    MethodNotAllowed,
    NotBuilt,
    NotFound,
    Rejected,
)
from gateway.hono.device_texts import SHOWN
from gateway.model.message import EMPTY_NOTIFICATION, OCTET_STREAM, DeviceCommand, Kind
from gateway.model.trace import TraceContext
from gateway.outcome import outcome_of
from gateway.wire.coap import codec, options
from gateway.wire.coap.codec import Message, Option

CHANGED: Final = 0x44
RETRY_SECONDS: Final = 2
MAX_ERROR_TEXT: Final = 256
"""Bytes of the text in an error."""
MAX_QUERY: Final = 16
"""Arguments in one query."""

JAEGER: Final = struct.Struct(">16s8s8sBI")
"""Trace id, span id, parent's id, flags (1 sampled, 2 debug), count of baggage items, which follow."""
MAX_TRACE: Final = 128
"""Bytes of the option that carries a trace context."""

CONTENT_TYPE = "hono-content-type"
"""Our extension: a media type that has no content format."""


@dataclass(frozen=True, slots=True)
class Response:
    """An answer: `code` as on the wire, `options` in any order."""

    code: int = CHANGED
    options: tuple[Option, ...] = ()
    payload: bytes = b""

    def with_option(self, number: int, value: bytes) -> Response:
        return replace(self, options=(*self.options, (number, value)))


CONTINUE = Response(0x5F)
DONE = Response()


@dataclass(frozen=True, slots=True)
class Resource:
    """What a path's first segment means.

    Shape:  `kind` None is for responses to commands; `response` and `command` are the names that tell a
            device where to answer, short where it used a short name itself.
    """

    kind: Kind | None
    response: str = "command_response"
    command: str = "command"


RESOURCES: Mapping[str, Resource] = {
    "telemetry": Resource(Kind.TELEMETRY),
    "t": Resource(Kind.TELEMETRY, "cr", "c"),
    "event": Resource(Kind.EVENT),
    "e": Resource(Kind.EVENT, "cr", "c"),
    "command_response": Resource(None),
    "cr": Resource(None, "cr", "c"),
}


@dataclass(frozen=True, slots=True)
class Target:
    """What a request asks for.

    Shape:  `address` is the path; `tenant` and `device` None where the path says nothing; `needs_login`
            where it is for who has proved to be a device.
    """

    resource: Resource
    address: str
    needs_login: bool
    tenant: str | None = None
    device: str | None = None
    request_id: str = ""


def parse_target(request: Message) -> Target:
    """Read method and path.

    Shape:  POST `telemetry`, `event` (short `t`, `e`), `command_response/{request id}` (short `cr`); PUT the
            same with `{tenant}/{device}` behind the first segment, the tenant possibly empty.
    Errors: NotFound; MethodNotAllowed for other methods.
    """
    path = [options.text(value) for value in request.all(options.URI_PATH)]
    resource = RESOURCES.get(path[0]) if path else None
    if resource is None:
        raise NotFound("no such resource")
    address = "/" + "/".join(path)
    if request.code == codec.POST:
        return Target(resource, address, True, request_id=_own_request_id(resource, path))
    if request.code == codec.PUT:
        return _put_target(resource, address, path)
    raise MethodNotAllowed("expected POST or PUT")


def _own_request_id(resource: Resource, path: list[str]) -> str:
    """Read what a POST names beside its resource.

    Errors: NotFound where it names something else.
    """
    if resource.kind is None:
        return path[1] if len(path) == 2 else ""
    if len(path) > 1:
        raise NotFound("POST is for the device itself: expected no tenant and device in the path")
    return ""


def _put_target(resource: Resource, address: str, path: list[str]) -> Target:
    if len(path) < 3 or not path[2]:
        raise NotFound("PUT: expected {tenant}/{device} in the path")
    request_id = path[3] if resource.kind is None and len(path) == 4 else ""
    if len(path) > 3 and not request_id:
        raise NotFound("PUT: expected {tenant}/{device} in the path and nothing behind")
    return Target(resource, address, False, path[1] or None, path[2], request_id)


def parse_query(request: Message) -> Mapping[str, str]:
    """Read the query; an argument without `=` has an empty value, of equal names the first counts.

    Errors: BadRequest for too many; MalformedPacket.
    """
    values = request.all(options.URI_QUERY)
    if len(values) > MAX_QUERY:
        raise BadRequest(f"query: at most {MAX_QUERY} arguments, got {len(values)}")
    found: dict[str, str] = {}
    for value in values:
        name, _, argument = options.text(value).partition("=")
        found.setdefault(name, argument)
    return found


def content_type_of(request: Message, query: Mapping[str, str]) -> str | None:
    """Return the media type of a payload; None where the device says nothing.

    Errors: BadRequest for a content format that is no number, or a media type that is no ASCII.
    """
    if "empty" in query:
        return EMPTY_NOTIFICATION
    given = query.get(CONTENT_TYPE)
    if given:
        if not (given.isascii() and given.isprintable()):
            raise BadRequest(f"{CONTENT_TYPE}: expected printable ASCII")
        return given
    number = request.first(options.CONTENT_FORMAT)
    return None if number is None else options.media_type_of(options.uint(number, 2))


def trace_of(request: Message) -> TraceContext | None:
    """Return where the device stands in a trace; None where it says nothing, or what is none.

    Shape:  the option's value is Jaeger's binary form, whose baggage is not read, or a `traceparent` as text.
    Source: Hono's adapter, option 65022, which its user guide does not name; the text is ours.
    """
    value = request.first(options.TRACE_CONTEXT)
    if value is None or len(value) > MAX_TRACE:
        return None
    text = value.decode("ascii", errors="replace")
    found = TraceContext.parse(text)
    if found is not None or len(value) < JAEGER.size:
        return found
    trace, span, _, flags, _ = JAEGER.unpack_from(value)
    return TraceContext.parse(f"00-{trace.hex()}-{span.hex()}-{flags & 1:02x}")


def asks_for_time(request: Message, query: Mapping[str, str]) -> bool:
    """True where the answer is to carry the server's time."""
    return "hono-time" in query or request.first(options.TIME) is not None


def time_option(now: float) -> Option:
    """Return the option with the time: `now` in seconds since the epoch, milliseconds on the wire."""
    return options.TIME, options.uint_bytes(int(now * 1000))


def positive_seconds(text: str | None) -> int | None:
    """Read seconds; what is no positive number counts as absent."""
    if text is None or not text.isascii() or not text.isdigit() or len(text) > 9:
        return None
    return int(text) or None


def response_status(text: str | None) -> int:
    """Read the status of a command's response.

    Errors: BadRequest.
    """
    if text is None or not text.isascii() or not text.isdigit() or len(text) != 3:
        raise BadRequest("hono-cmd-status: expected a number of 200..299 or 400..599")
    return int(text)


# --- answers ---------------------------------------------------------------------------------------

"""Server-side failures whose text is part of the contract; of others nothing is shown."""
_TEXT_PLAIN: Option = (options.CONTENT_FORMAT, b"")


def code_of(status: int) -> int:
    """Return the code of an HTTP-like status; 5.00 where CoAP has none."""
    detail = status % 100
    return (status // 100 << 5 | detail) if detail < 32 else 0xA0


def error_response(error: GatewayError) -> Response:
    """Render an error as this adapter does."""
    status = outcome_of(error).status if error.status == 500 else error.status
    text = error.message
    found: tuple[Option, ...] = (_TEXT_PLAIN,)
    if status >= 500 and not isinstance(error, NotBuilt):
        status = 503
        found = (_TEXT_PLAIN, (options.MAX_AGE, bytes((RETRY_SECONDS,))))
        text = error.message if isinstance(error, SHOWN) else "temporarily unavailable"
    return Response(code_of(status), found, _cut(text))


def _cut(text: str) -> bytes:
    """Return a text's bytes, cut between two characters where it is too long."""
    return text.encode()[:MAX_ERROR_TEXT].decode(errors="ignore").encode()


OVERLOADED = error_response(GatewayError("", status=503))


def command_response(
    command: DeviceCommand, resource: Resource, *, is_authenticated: bool
) -> Response:
    """Put a command into the answer of an upload: its name, where to answer, its payload.

    Errors: Rejected where the names do not fit into CoAP's options.
    """
    inner = command.command
    found: list[Option] = [(options.LOCATION_QUERY, _segment(f"hono-command={inner.name}"))]
    found += ((options.LOCATION_QUERY, _segment(f"{n}={value}")) for n, value in command.marks)
    path = _location(command, resource, is_authenticated=is_authenticated)
    found += ((options.LOCATION_PATH, _segment(segment)) for segment in path)
    content_type = inner.content_type or (OCTET_STREAM if inner.payload else None)
    number = None if content_type is None else options.format_of(content_type)
    if number is not None:
        found.append((options.CONTENT_FORMAT, options.uint_bytes(number)))
    return Response(CHANGED, tuple(found), inner.payload)


def _location(
    command: DeviceCommand, resource: Resource, *, is_authenticated: bool
) -> tuple[str, ...]:
    behind = () if command.gateway is None else ("", command.target)
    if not command.request_id:
        return (resource.command, *behind)
    if not is_authenticated:
        behind = (command.command.tenant, command.target)
    return (resource.response, *behind, command.request_id)


def _segment(text: str) -> bytes:
    value = text.encode()
    if len(value) > options.MAX_TEXT:
        raise Rejected(f"CoAP has no room for a name of {len(value)} bytes: {text[:64]!r}")
    return value
