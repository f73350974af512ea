"""The router's messages: rules between REST, the edge's MQTT (EventBus) and its HTTP services (ServiceBus).

All are of group `user` and never acknowledged. Source: KubeEdge router, eventbus, servicebus.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import msgspec
from msgspec import Meta, Raw, Struct

from gateway.errors import MalformedPacket, TooLarge
from gateway.model.trace import TraceContext
from gateway.wire.cloudedge.envelope import (
    MAX_FRAME,
    NULL,
    Envelope,
    Route,
    Stamp,
    answer_to,
    data_of,
    make,
    struct_of,
)
from gateway.wire.cloudedge.names import HTTP_METHODS, Group, Operation, Source

MAX_SERVICE_BODY = (MAX_FRAME - 131_072) // 4 * 3
"""Bytes of a body that fits into a frame as base64, with room for headers."""
MAX_HEADERS = 100
MAX_TARGET = 2_048

HttpHeaders = Mapping[str, Sequence[str]]
"""Go's `http.Header`: name -> values."""

_Values = Annotated[list[Annotated[str, Meta(max_length=16_384)]], Meta(max_length=MAX_HEADERS)]
_Headers = Annotated[
    dict[Annotated[str, Meta(max_length=256)], _Values | None], Meta(max_length=MAX_HEADERS)
]


@dataclass(frozen=True, slots=True)
class RouterUpload:
    """A publish on a topic that a rule wants; `resource` is the MQTT topic, `<ns>/<topic>` of the rule."""

    resource: str
    payload: bytes
    trace: TraceContext | None = None


@dataclass(frozen=True, slots=True)
class ServiceBusAnswer:
    """What an HTTP service at the edge answered to the call `parent_id`."""

    parent_id: str
    status: int
    headers: HttpHeaders
    body: bytes


@dataclass(frozen=True, slots=True)
class ServiceBusUpload:
    """An HTTP request of a service at the edge, for the rule with this `target` URL."""

    target: str
    body: bytes
    parent_id: str = ""


@dataclass(frozen=True, slots=True)
class ServiceReply:
    """What became of a service's request: the target's status and body, or the cloud's own refusal."""

    status: int
    body: bytes


@dataclass(frozen=True, slots=True)
class ServiceBusCall:
    """An HTTP request to a service at the edge: to `http://127.0.0.1:<port><path>` and nowhere else.

    Shape:  `path` begins with `/` and may carry a query.
    """

    msg_id: str
    port: int
    path: str
    method: str
    headers: HttpHeaders
    body: bytes
    trace: TraceContext | None = None


@dataclass(frozen=True, slots=True)
class ServiceBusTarget:
    """A target URL that services at the edge may, or no longer may, send to."""

    url: str
    is_allowed: bool


class _Request(Struct, frozen=True):
    header: _Headers | None = None
    body: str | None = None
    method: Annotated[str, Meta(max_length=32)] = ""
    url: str = ""


class _Response(Struct, frozen=True):
    status_code: Annotated[int, Meta(ge=100, le=599)]
    header: _Headers | None = None
    body: str | None = None


_REQUEST = msgspec.json.Decoder(_Request)
_RESPONSE = msgspec.json.Decoder(_Response)


# --- to the edge -----------------------------------------------------------------------------------


def bus_command(
    stamp: Stamp,
    operation: Operation,
    topic: str,
    payload: bytes | None = None,
    *,
    trace: TraceContext | None = None,
) -> Envelope:
    """Build publish, subscribe or unsubscribe for EventBus (cloud); read as `to_edge.BusCommand`.

    Errors: MalformedPacket for a payload that is not UTF-8: KubeEdge has no way to send it.
    """
    route = Route(
        source=Source.ROUTER_EVENT_BUS, group=Group.USER, operation=operation, resource=topic
    )
    if payload is None:
        return make(stamp, route, NULL, trace=trace)
    try:
        return make(stamp, route, payload.decode(), trace=trace)
    except UnicodeDecodeError as error:
        raise MalformedPacket("a publish to an edge's EventBus must be UTF-8 text") from error


def call_service(stamp: Stamp, call: ServiceBusCall) -> Envelope:
    """Build a call of an HTTP service (cloud); the message's id is the stamp's.

    Errors: TooLarge for a body that does not fit into a frame.
    """
    route = Route(
        source=Source.ROUTER_SERVICE_BUS,
        group=Group.USER,
        operation=call.method,
        resource=f"{call.port}:{call.path}",
    )
    content = _Request(_lists(call.headers), _base64(call.body), call.method, "")
    return make(stamp, route, content, trace=call.trace)


def allow_target(stamp: Stamp, url: str, *, is_allowed: bool) -> Envelope:
    """Build `start` or `stop` of a target URL (cloud)."""
    route = Route(
        source=Source.ROUTER_SERVICE_BUS,
        group=Group.USER,
        operation=Operation.START if is_allowed else Operation.STOP,
        resource=url,
    )
    return make(stamp, route, NULL)


def reply_to_service(
    asked: Envelope, stamp: Stamp, reply: ServiceReply, *, as_text: bool
) -> Envelope:
    """Build the answer to a service's request (cloud); `asked` is the message with the `ServiceBusUpload`.

    Shape:  `as_text` is KubeEdge's form: the target's body as text and nothing else; our edges take an object
            with its status.
    Errors: TooLarge.
    """
    route = Route(
        source=Source.SERVICE_BUS,
        group=Group.USER,
        operation=Operation.RESPONSE,
        resource=asked.route.resource,
    )
    if as_text:
        return answer_to(asked, stamp, route, reply.body.decode("utf-8", "replace"))
    return answer_to(asked, stamp, route, _Response(reply.status, None, _base64(reply.body)))


def read_service_reply(content: Raw) -> ServiceReply:
    """Read that answer (edge): a text says no status, it counts as 200. Errors: MalformedPacket."""
    if bytes(content).lstrip()[:1] != b"{":
        return ServiceReply(200, data_of(content))
    reply = struct_of(content, _RESPONSE)
    return ServiceReply(reply.status_code, _bytes(reply.body))


def read_service(envelope: Envelope) -> ServiceBusCall | ServiceBusTarget:
    """Read what the router sends to ServiceBus (edge). Errors: MalformedPacket."""
    route = envelope.route
    if route.operation in (Operation.START, Operation.STOP):
        if not route.resource or len(route.resource) > MAX_TARGET:
            raise MalformedPacket(f"resource: expected a target URL, got {route.resource[:200]!r}")
        return ServiceBusTarget(route.resource, route.operation == Operation.START)
    if route.operation not in HTTP_METHODS:
        raise MalformedPacket(f"operation: expected an HTTP method, got {route.operation[:100]!r}")
    port, path = _service(route.resource)
    content = struct_of(envelope.content, _REQUEST)
    return ServiceBusCall(
        envelope.msg_id,
        port,
        path,
        route.operation,
        _headers(content.header),
        _bytes(content.body),
        envelope.trace,
    )


def _service(resource: str) -> tuple[int, str]:
    port, _, path = resource.partition(":")
    if not (port.isascii() and port.isdigit() and 0 < int(port[:6]) < 65_536):
        raise MalformedPacket(f"resource: expected <port>:<path>, got {resource[:200]!r}")
    if any(not ("!" <= character <= "~") for character in path):
        raise MalformedPacket("resource: a path with blanks or control characters")
    return int(port), path if path.startswith("/") else f"/{path}"


# --- to the cloud ----------------------------------------------------------------------------------


def answer_service(
    asked: ServiceBusCall, stamp: Stamp, status: int, headers: HttpHeaders, body: bytes
) -> Envelope:
    """Build the answer of an HTTP service (edge). Errors: TooLarge."""
    content = _Response(status, _lists(headers), _base64(body))
    return make(stamp, _service_route(), content, parent=asked.msg_id, trace=asked.trace)


def upload_from_service(
    stamp: Stamp, target: str, body: bytes, *, trace: TraceContext | None = None
) -> Envelope:
    """Build a request of a service at the edge (edge): base64 text, as KubeEdge's edge sends it.

    Errors: TooLarge.
    """
    return make(stamp, _service_route(target), _base64(body), trace=trace)


def _service_route(resource: str = "") -> Route:
    return Route(
        source=Source.SERVICE_BUS, group=Group.USER, operation=Operation.UPLOAD, resource=resource
    )


def read_service_upload(envelope: Envelope) -> ServiceBusAnswer | ServiceBusUpload:
    """Read what ServiceBus sends up (cloud). Errors: MalformedPacket.

    An upload's `body` are the bytes on the wire: whether base64 text is to be decoded is the router's to say.
    """
    resource = envelope.route.resource
    if envelope.parent_id and not resource:
        content = struct_of(envelope.content, _RESPONSE)
        return ServiceBusAnswer(
            envelope.parent_id,
            content.status_code,
            _headers(content.header),
            _bytes(content.body),
        )
    if not resource or len(resource) > MAX_TARGET:
        raise MalformedPacket(f"resource: expected a target URL, got {resource[:200]!r}")
    return ServiceBusUpload(resource, data_of(envelope.content), envelope.parent_id)


def decode_service_body(body: bytes) -> bytes:
    """Return what a service at the edge sent: edges wrap it in base64 (`upload_from_service`)."""
    try:
        return base64.b64decode(body, validate=True)
    except binascii.Error:
        return body


# --- ground ----------------------------------------------------------------------------------------


def _lists(headers: HttpHeaders) -> dict[str, list[str] | None]:
    return {name: list(values) for name, values in headers.items()}


def _headers(headers: Mapping[str, list[str] | None] | None) -> HttpHeaders:
    return {name: values or [] for name, values in (headers or {}).items()}


def _base64(body: bytes) -> str:
    if len(body) > MAX_SERVICE_BODY:
        raise TooLarge(f"body: at most {MAX_SERVICE_BODY} bytes fit the link, got {len(body)}")
    return base64.b64encode(body).decode()


def _bytes(text: str | None) -> bytes:
    try:
        return base64.b64decode(text or "", validate=True)
    except ValueError as error:  # also of text that is no ASCII
        raise MalformedPacket(f"content.body: not base64: {error}") from error
