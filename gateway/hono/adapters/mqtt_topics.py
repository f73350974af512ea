"""The topics of Hono's MQTT adapter: where uploads, responses and subscriptions say what they are.

Names come long or short (`telemetry` or `t`); segments that are empty mean the connected device itself. A
topic may end in a property bag, `/?name=value&...`, URL-encoded.
Source: Hono, MQTT adapter user guide.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeAlias
from urllib.parse import parse_qsl

from gateway.errors import BadRequest, MalformedTopic, NotFound
from gateway.model.message import DUPLICATE, Kind, Principal
from gateway.model.trace import TraceContext

MAX_BAG_FIELDS = 32
NO_BAG: Mapping[str, str] = MappingProxyType({})

_UPLOADS: Mapping[str, tuple[Kind, bool]] = {
    "telemetry": (Kind.TELEMETRY, False),
    "t": (Kind.TELEMETRY, True),
    "event": (Kind.EVENT, False),
    "e": (Kind.EVENT, True),
}
_LONG = {"command": False, "c": True, "error": False, "e": True}
_RESPONSE = {("command", "res"), ("command", "s"), ("c", "res"), ("c", "s")}
_REQUEST = {("command", "req"), ("command", "q"), ("c", "req"), ("c", "q")}


class OnError(enum.Enum):
    """What a device wants when its message fails."""

    DEFAULT = "default"
    DISCONNECT = "disconnect"
    IGNORE = "ignore"
    SKIP_ACK = "skip-ack"


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """What a published topic says, whatever its endpoint.

    Shape:  `tenant` and `device` None where the topic said nothing; `endpoint` as error topics name it;
            `is_cacheable` is False when the bag speaks of one message alone.
    """

    endpoint: str
    tenant: str | None
    device: str | None
    on_error: OnError = OnError.DEFAULT
    correlation_id: str | None = None
    content_type: str | None = None
    trace: TraceContext | None = None
    is_cacheable: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadRoute(Route):
    """A telemetry or event topic; `ttl` in seconds; `duplicate` says that it may have been sent before."""

    kind: Kind
    is_event: bool
    ttl: float | None = None
    duplicate: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseRoute(Route):
    """The topic of an answer to a command; what it says is still to be checked."""

    request_id: str
    status: int


class BadTopic(BadRequest):
    """A topic that cannot be routed, with the little that an error message needs to know of it."""

    def __init__(self, error: BadRequest | NotFound, route: Route) -> None:
        super().__init__(error.message, code=error.code, status=error.status)
        self.route = route


def parse_topic(topic: str) -> UploadRoute | ResponseRoute:
    """Read the topic of a PUBLISH.

    Errors: BadTopic: malformed (400), unknown endpoint (404), a bad property bag (400).
    """
    path, bag = topic, NO_BAG
    at = topic.rfind("/?")
    try:
        if at >= 0:
            path, bag = topic[:at], _parse_bag(topic[at + 2 :])
        return _parse_path(path, bag)
    except (BadRequest, NotFound) as error:
        raise BadTopic(error, _unknown(path, bag)) from error


def _parse_path(path: str, bag: Mapping[str, str]) -> UploadRoute | ResponseRoute:
    if not path or path.startswith("/"):
        raise MalformedTopic("malformed topic name")
    segments = path.split("/")
    if segments[0] in _UPLOADS:
        return _upload(segments, bag)
    if len(segments) >= 4 and (segments[0], segments[3]) in _RESPONSE:
        return _response(segments, bag)
    raise NotFound(f"unsupported topic [{path[:128]}]")


def _upload(segments: list[str], bag: Mapping[str, str]) -> UploadRoute:
    kind, _ = _UPLOADS[segments[0]]
    if len(segments) > 3:
        raise BadRequest(f"topic: expected {segments[0]}/<tenant>/<device>, got more levels")
    tenant, device = (*segments[1:], "", "")[:2]
    return UploadRoute(
        kind=kind,
        is_event=kind is Kind.EVENT,
        ttl=_seconds(bag),
        duplicate=bag.get(DUPLICATE) == "true",
        endpoint=segments[0],
        tenant=tenant or None,
        device=device or None,
        **_common(bag),  # type: ignore[arg-type]
    )


def _response(segments: list[str], bag: Mapping[str, str]) -> ResponseRoute:
    prefix, tenant, device, _, *rest = segments
    if len(rest) != 2 or not all(rest):
        raise BadRequest("topic: expected command/<tenant>/<device>/res/<request id>/<status>")
    request_id, status = rest
    if not (status.isascii() and status.isdigit() and len(status) == 3):
        raise BadRequest(f"topic: expected a status of three digits, got {status[:16]!r}")
    return ResponseRoute(
        request_id=request_id,
        status=int(status),
        endpoint="c-s" if prefix == "c" else "command-response",
        tenant=tenant or None,
        device=device or None,
        **_common(bag) | {"is_cacheable": False},  # type: ignore[arg-type]
    )


def _unknown(path: str, bag: Mapping[str, str]) -> Route:
    """What an error message can say about a topic that cannot be read."""
    first, *rest = path.split("/")
    endpoint = first if first in _UPLOADS else "unknown"
    tenant, device = (*rest, "", "")[:2]
    if endpoint == "unknown":
        tenant = device = ""
    common = _common(bag) | {"is_cacheable": False}
    return Route(endpoint=endpoint, tenant=tenant or None, device=device or None, **common)  # type: ignore[arg-type]


# --- the property bag -------------------------------------------------------------------------------


def _parse_bag(text: str) -> Mapping[str, str]:
    try:
        return dict(parse_qsl(text, keep_blank_values=True, max_num_fields=MAX_BAG_FIELDS))
    except ValueError as error:
        raise BadRequest(f"property bag: expected up to {MAX_BAG_FIELDS} properties") from error


def _common(bag: Mapping[str, str]) -> dict[str, object]:
    trace = TraceContext.parse(bag.get("traceparent"), bag.get("tracestate"))
    correlation_id = bag.get("correlation-id")
    return {
        "on_error": _on_error(bag),
        "correlation_id": correlation_id,
        "content_type": bag.get("content-type") or None,
        "trace": trace,
        "is_cacheable": trace is None and correlation_id is None,
    }


def _on_error(bag: Mapping[str, str]) -> OnError:
    try:
        return OnError(bag.get("on-error", "default").lower())
    except ValueError:
        return OnError.DEFAULT


def _seconds(bag: Mapping[str, str]) -> float | None:
    text = bag.get("hono-ttl")
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 10):
        raise BadRequest(f"hono-ttl: expected seconds as a whole number, got {text[:16]!r}")
    return float(text)


# --- subscriptions -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CommandFilter:
    """A subscription to commands, e.g. `command//+/req/#`.

    Shape:  `tenant` and `device` are the segments as written, empty or not.
    """

    text: str
    prefix: str
    tenant: str
    device: str
    request: str

    @property
    def is_for_all(self) -> bool:
        """True when a gateway asks for the commands of all its devices."""
        return self.device == "+"

    def topic(self, *, tenant: str, target: str, gateway: str, request_id: str, name: str) -> str:
        """Return the topic of one command; `gateway` is the connected device itself."""
        device = target if self.device or target != gateway else ""
        return f"{self.prefix}/{tenant if self.tenant else ''}/{device}/{self.request}/{request_id}/{name}"


@dataclass(frozen=True, slots=True)
class ErrorFilter:
    """A subscription to errors, e.g. `error///#`.

    Shape:  as `CommandFilter`.
    """

    text: str
    prefix: str
    tenant: str
    device: str

    @property
    def is_for_all(self) -> bool:
        return self.device == "+"

    def topic(
        self, *, tenant: str, device: str, endpoint: str, correlation: str, status: int
    ) -> str:
        """Return the topic of one error."""
        return (
            f"{self.prefix}/{tenant if self.tenant else ''}/{device if self.device else ''}"
            f"/{_endpoint_like(self.prefix, endpoint)}/{correlation}/{status}"
        )


Filter: TypeAlias = CommandFilter | ErrorFilter

_SHORT_ENDPOINTS = {"telemetry": "t", "event": "e", "command-response": "c-s"}
_LONG_ENDPOINTS = {short: long for long, short in _SHORT_ENDPOINTS.items()}


def _endpoint_like(prefix: str, endpoint: str) -> str:
    """Name the failed message's endpoint in the form, long or short, of the error filter."""
    table = _SHORT_ENDPOINTS if _LONG[prefix] else _LONG_ENDPOINTS
    return table.get(endpoint, endpoint)


def parse_filter(text: str, peer: Principal | None) -> Filter:
    """Read a topic filter that a device subscribes to.

    Errors: BadRequest for an unknown form, `+` as tenant, a foreign tenant, or an unauthenticated device that
            does not name tenant and device.
    """
    segments = text.split("/")
    topic_filter: Filter
    if len(segments) == 5 and segments[4] == "#" and (segments[0], segments[3]) in _REQUEST:
        topic_filter = CommandFilter(text, segments[0], segments[1], segments[2], segments[3])
    elif len(segments) == 4 and segments[3] == "#" and segments[0] in ("error", "e"):
        topic_filter = ErrorFilter(text, segments[0], segments[1], segments[2])
    else:
        raise BadRequest(f"topic filter: unsupported [{text[:128]}]")
    _check_owner(topic_filter, peer)
    return topic_filter


def _check_owner(topic_filter: Filter, peer: Principal | None) -> None:
    tenant, device = topic_filter.tenant, topic_filter.device
    if "+" in tenant or "#" in tenant or "#" in device or ("+" in device and device != "+"):
        raise BadRequest(
            f"topic filter: a wildcard is not allowed there [{topic_filter.text[:128]}]"
        )
    if peer is None and (not tenant or not device or device == "+"):
        raise BadRequest("topic filter: an unauthenticated device must name tenant and device")
    if peer is not None and tenant and tenant != peer.tenant:
        raise BadRequest("topic filter: the tenant is not the device's own")
