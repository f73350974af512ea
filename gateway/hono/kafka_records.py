"""Hono's messages as Kafka records: topics, keys, headers and how values are written in them.

A header's value is UTF-8 text without quotes for a string, JSON text for anything else; what is missing has
no header. The key is the device id, so that one device's records share a partition and keep their order.
Source: Hono, Telemetry, Event and Command & Control API for Kafka.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import msgspec

from gateway.errors import BadRequest, Unencodable
from gateway.model.message import (
    OCTET_STREAM,
    Command,
    CommandResponse,
    Kind,
    Message,
    MessagingType,
    Scalar,
)
from gateway.model.trace import TraceContext

Header: TypeAlias = tuple[str, str | bytes | None]

COMMAND_PREFIX: Final = "hono.command."
COMMAND_TOPICS: Final = r"^hono\.command\..+"
"""Commands of all tenants; responses and internal commands have other prefixes."""
NOTIFICATION_TOPICS: Final = (
    "hono.notification.registry-tenant",
    "hono.notification.registry-device",
)
DELIVERY_FAILURE: Final = "application/vnd.eclipse-hono-delivery-failure-notification+json"
METADATA_PREFIX: Final = "delivery-failure-notification-metadata"
DUPLICATE_HEADER: Final = "x-opt-twinspan-duplicate"
RETAIN_HEADER: Final = "x-opt-retain"
MALFORMED: Final = "malformed command message"

MAX_CACHE: Final = 50_000
MAX_METADATA: Final = 64
"""Metadata headers that are copied into a delivery failure notification."""

_TOPICS: Final = {Kind.TELEMETRY: "hono.telemetry.", Kind.EVENT: "hono.event."}
_NEVER_DEFAULTS: Final = frozenset({"creation-time", "ttl", "traceparent", "tracestate"})
"""Headers that are set for each record; a default of that name does not reach it."""


class Record(msgspec.Struct, frozen=True, gc=False):
    """What is handed to a producer."""

    topic: str
    key: bytes
    value: bytes | None
    headers: list[Header]


def command_topic(tenant: str) -> str:
    """Return the topic that applications write a tenant's commands to."""
    return COMMAND_PREFIX + tenant


def response_topic(tenant: str) -> str:
    """Return the topic of a tenant's command responses."""
    return f"hono.command_response.{tenant}"


def topics_of(tenant: str) -> tuple[str, ...]:
    """Return all topics of a tenant."""
    uploads = tuple(prefix + tenant for prefix in _TOPICS.values())
    return (*uploads, command_topic(tenant), response_topic(tenant))


def encode_value(value: Scalar) -> bytes:
    """Return a header's value."""
    return value.encode() if isinstance(value, str) else json.dumps(value).encode()


# --- telemetry and events ----------------------------------------------------------------------------


class _Parts(msgspec.Struct, eq=False):
    """What does not change from message to message of one device."""

    properties: Mapping[str, Scalar]
    topic: str
    key: bytes
    headers: tuple[Header, ...]


_NO_FORM: Final = (ValueError, TypeError, OverflowError)
"""What writing a message raises that has no form in Kafka: lone surrogates, numbers that are none."""


class RecordEncoder:
    """Turns messages into records; remembers what messages of one device have in common."""

    def __init__(self) -> None:
        self._cache: dict[tuple[object, ...], _Parts] = {}

    def encode(self, message: Message, trace: TraceContext) -> Record:
        """Return the record of a message; `trace` is the context that the application continues.

        Errors: Unencodable.
        """
        try:
            return self._write(message, trace)
        except _NO_FORM as error:
            raise Unencodable from error

    def _write(self, message: Message, trace: TraceContext) -> Record:
        parts = self._parts(message)
        headers = [
            *parts.headers,
            ("creation-time", b"%d" % (message.at * 1_000)),
            ("traceparent", trace.traceparent.encode()),
        ]
        if message.ttl is not None:
            headers.append(("ttl", b"%d" % (message.ttl * 1_000)))
        if trace.state is not None:
            headers.append(("tracestate", trace.state.encode()))
        return Record(parts.topic, parts.key, message.payload or None, headers)

    def _parts(self, message: Message) -> _Parts:
        key = (
            message.tenant,
            message.device,
            message.kind,
            message.qos,
            message.content_type,
            message.address,
            message.adapter,
            message.ttd,
            message.retain,
            message.duplicate,
            not message.payload,
        )
        parts = self._cache.get(key)
        if parts is None or not _is_same(parts.properties, message.properties):
            parts = self._cache[key] = _make_parts(message)
            if len(self._cache) > MAX_CACHE:
                del self._cache[next(iter(self._cache))]
        return parts


def _is_same(one: Mapping[str, Scalar], other: Mapping[str, Scalar]) -> bool:
    """Equal in values and their types: True and 1 are not the same header."""
    return one is other or (one == other and all(type(one[k]) is type(other[k]) for k in one))


def _make_parts(message: Message) -> _Parts:
    found = _defaults(message.properties)
    found["device_id"] = message.device
    found["qos"] = message.qos
    content_type = message.content_type or (OCTET_STREAM if message.payload else None)
    for name, value in (
        ("content-type", content_type),
        ("orig_adapter", str(message.adapter) or None),
        ("orig_address", message.address or None),
        ("ttd", message.ttd),
        (RETAIN_HEADER, message.retain or None),
        (DUPLICATE_HEADER, message.duplicate or None),
    ):
        if value is not None:
            found[name] = value
    return _Parts(
        message.properties,
        _TOPICS[message.kind] + message.tenant,
        message.device.encode(),
        tuple((name, encode_value(value)) for name, value in found.items()),
    )


def _defaults(properties: Mapping[str, Scalar]) -> dict[str, Scalar]:
    return {name: value for name, value in properties.items() if name not in _NEVER_DEFAULTS}


# --- responses -----------------------------------------------------------------------------------------


def encode_response(response: CommandResponse, trace: TraceContext) -> Record:
    """Return the record of a device's response, or of a delivery failure notification.

    Errors: Unencodable.
    """
    try:
        return _write_response(response, trace)
    except _NO_FORM as error:
        raise Unencodable from error


def _write_response(response: CommandResponse, trace: TraceContext) -> Record:
    found = _defaults(response.properties)
    found |= {
        "correlation-id": response.correlation_id,
        "device_id": response.device,
        "tenant_id": response.tenant,
        "status": response.status,
        "creation-time": int(response.at * 1_000),
        "traceparent": trace.traceparent,
    }
    content_type = response.content_type or (OCTET_STREAM if response.payload else None)
    if content_type is not None:
        found["content-type"] = content_type
    if response.ttl is not None:
        found["ttl"] = int(response.ttl * 1_000)
    if trace.state is not None:
        found["tracestate"] = trace.state
    return Record(
        response_topic(response.tenant),
        response.device.encode(),
        response.payload or None,
        [(name, encode_value(value)) for name, value in found.items()],
    )


# --- commands ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandRecord:
    """A command as it was read from its topic.

    Shape:  `command` None where it is malformed; `correlation_id` is there also then, if the record has one;
            `expires` in seconds since the epoch; `metadata` are the headers that a delivery failure
            notification gives back.
    """

    tenant: str
    device: str
    size: int
    command: Command | None
    correlation_id: str | None
    response_required: bool
    trace: TraceContext | None
    expires: float | None
    metadata: Mapping[str, Scalar]


def read_command(
    topic: str, key: bytes | None, value: bytes | None, headers: Sequence[tuple[str, object]] | None
) -> CommandRecord:
    """Read a record of `hono.command.{tenant}`.

    Errors: BadRequest where it names no device, or another one than its key: nobody can be told.
    """
    given = Headers(headers or ())
    device = given.text("device_id")
    if not device:
        raise BadRequest("device_id: the header is missing")
    if key != device.encode():
        raise BadRequest("device_id: differs from the record's key")
    tenant = topic.removeprefix(COMMAND_PREFIX)
    correlation_id = given.text("correlation-id") or None
    response_required = given.flag("response-required")
    trace = TraceContext.parse(given.text("traceparent"), given.text("tracestate"))
    name = given.text("subject")
    metadata = given.starting_with(METADATA_PREFIX)
    command = None
    if name and (correlation_id or not response_required):
        command = Command(
            tenant=tenant,
            device=device,
            name=name,
            payload=value or b"",
            content_type=given.text("content-type"),
            correlation_id=correlation_id,
            reply_to=f"command_response/{tenant}/" if response_required else None,
            trace=trace,
            properties=metadata,
            messaging=MessagingType.KAFKA,
        )
    return CommandRecord(
        tenant=tenant,
        device=device,
        size=len(value or b""),
        command=command,
        correlation_id=correlation_id,
        response_required=response_required,
        trace=trace,
        expires=given.expiry(),
        metadata=metadata,
    )


class Headers:
    """A record's headers; where a name comes several times, the first counts."""

    def __init__(self, headers: Iterable[tuple[str, object]]) -> None:
        self._values: dict[str, bytes] = {}
        for name, value in headers:
            if isinstance(value, bytes):
                self._values.setdefault(name, value)

    def text(self, name: str) -> str | None:
        """Return a string; None where it is missing or not UTF-8."""
        return _text(self._values.get(name))

    def flag(self, name: str) -> bool:
        """Return True for the JSON text `true`."""
        return self._values.get(name) == b"true"

    def whole(self, name: str) -> int | None:
        """Return a whole number; None where it is missing or none."""
        text = self._values.get(name, b"").strip()
        return int(text) if text.removeprefix(b"-").isdigit() and len(text) < 20 else None

    def expiry(self) -> float | None:
        """Return when the record is not wanted any more, seconds since the epoch; None for never."""
        ttl, created = self.whole("ttl"), self.whole("creation-time")
        return None if ttl is None or created is None else (created + ttl) / 1_000

    def starting_with(self, prefix: str) -> dict[str, Scalar]:
        """Return headers by the beginning of their name, as text."""
        found: dict[str, Scalar] = {}
        for name, value in self._values.items():
            text = _text(value)
            if name.startswith(prefix) and text is not None and len(found) < MAX_METADATA:
                found[name] = text
        return found


def _text(value: bytes | None) -> str | None:
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError:
        return None
