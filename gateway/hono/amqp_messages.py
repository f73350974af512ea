"""Messages as applications see them over AMQP 1.0, from and to the gateway's values.

What is the same for each message of a device is encoded once and kept: sending is then joining a few byte
strings around the trace context, the message id and the creation time, which all have a fixed width.
Source: Hono, Telemetry and Event API, Command and Control API (AMQP 1.0).
"""

from __future__ import annotations

import struct
from collections.abc import Container, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Final

from gateway.errors import BadRequest, Unencodable
from gateway.model.message import (
    CONTENT_ENCODING,
    OCTET_STREAM,
    Command,
    CommandResponse,
    Message,
    Scalar,
)
from gateway.model.trace import TraceContext
from gateway.wire.amqp.encode import encode, encode_described
from gateway.wire.amqp.message import (
    SECTIONS,
    AmqpMessage,
    Data,
    Header,
    Properties,
    data_head,
    encode_message,
    payload_of,
)
from gateway.wire.amqp.values import Int, Symbol

TRACE_ANNOTATION: Final = "x-opt-trace-context"
DUPLICATE_ANNOTATION: Final = "x-opt-twinspan-duplicate"
MAX_CACHE: Final = 10_000
"""Addresses whose encoded parts are kept; the oldest goes first."""
MAX_TTL_MS: Final = 0xFFFF_FFFF

_MARK: Final = "\x01"
_TRACE_MARK: Final = _MARK * 55
_ID_MARK: Final = _MARK * 12
_TIME_MARK: Final = 0x0101_0101_0101_0101
_TIME = struct.Struct(">q")


@dataclass(frozen=True, slots=True)
class _Parts:
    """The encoded pieces around what changes; `properties` is the mapping they were made from."""

    properties: Mapping[str, Scalar]
    annotations: bytes
    to_id: bytes
    to_time: bytes
    tail: bytes


_Key = tuple[object, ...]


NO_FORM: Final = (BadRequest, ValueError, TypeError, OverflowError, struct.error)
"""What writing a message raises that has no form in AMQP: text, numbers or types beyond it."""


class MessageEncoder:
    """Writes telemetry and events; one per process, as its message ids must differ.

    Errors: Unencodable, which says nothing of the payload.
    """

    def __init__(self, instance: str) -> None:
        self._instance = instance
        self._numbers = count(1)
        self._cache: dict[_Key, _Parts] = {}
        self._id_mark = f"{instance}-{_ID_MARK}"

    def encode(self, message: Message) -> bytes:
        """Return the payload of telemetry's transfer."""
        ttl = message.ttl
        return self._encode(message, b"" if ttl is None else SECTIONS.write(Header(ttl=_ms(ttl))))

    def encode_event(self, message: Message, attempts: int, left: float | None) -> bytes:
        """Return the payload of an event's transfer.

        Units:  `left` in seconds: what remains of its time to live.
        """
        header = Header(durable=True, ttl=_ms(left), delivery_count=attempts)
        return self._encode(message, SECTIONS.write(header))

    def _encode(self, message: Message, header: bytes) -> bytes:
        try:
            return self._write(message, header)
        except NO_FORM as error:
            raise Unencodable from error

    def _write(self, message: Message, header: bytes) -> bytes:
        trace, payload = message.trace, message.payload
        if trace.state is not None:
            return header + self._encode_slowly(message)
        parts = self._parts(message)
        pieces = (
            header,
            parts.annotations,
            trace.traceparent.encode(),
            parts.to_id,
            b"%012x" % next(self._numbers),
            parts.to_time,
            _TIME.pack(int(message.at * 1_000)),
            parts.tail,
            data_head(len(payload)) if payload else b"",
            payload,
        )
        return b"".join(pieces)

    def _encode_slowly(self, message: Message) -> bytes:
        """Messages with a tracestate, whose width is not fixed."""
        properties = _properties(message, self._next_id(), int(message.at * 1_000))
        return b"".join(
            (
                _annotations(message, trace_map(message.trace)),
                SECTIONS.write(properties),
                _application(message),
                data_head(len(message.payload)) if message.payload else b"",
                message.payload,
            )
        )

    def _next_id(self) -> str:
        return f"{self._instance}-{next(self._numbers):012x}"

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
            bool(message.payload),
        )
        parts = self._cache.get(key)
        properties = message.properties
        if parts is None or not (
            parts.properties is properties or _is_same(parts.properties, properties)
        ):
            parts = self._cache[key] = self._make_parts(message)
            if len(self._cache) > MAX_CACHE:
                del self._cache[next(iter(self._cache))]
        return parts

    def _make_parts(self, message: Message) -> _Parts:
        trace = _mark(_TRACE_MARK)
        annotations, _, after_trace = _annotations(message, {"traceparent": _TRACE_MARK}).partition(
            trace
        )
        properties = SECTIONS.write(_properties(message, self._id_mark, _TIME_MARK))
        before_id, _, rest = properties.partition(_mark(_ID_MARK))
        before_time, _, after_time = rest.rpartition(_TIME.pack(_TIME_MARK))
        return _Parts(
            message.properties,
            annotations,
            after_trace + before_id,
            before_time,
            after_time + _application(message),
        )


def _mark(text: str) -> bytes:
    return text.encode()


def _is_same(one: Mapping[str, Scalar], other: Mapping[str, Scalar]) -> bool:
    """Equal in values and their types: True and 1 are not the same property."""
    return one == other and all(type(one[key]) is type(other[key]) for key in one)


def _annotations(message: Message, trace: dict[object, object]) -> bytes:
    annotations: dict[object, object] = {
        Symbol("tenant_id"): message.tenant,
        Symbol("device_id"): message.device,
        Symbol("resource"): f"{message.kind.value}/{message.tenant}/{message.device}",
    }
    if message.retain:
        annotations[Symbol("x-opt-retain")] = True
    if message.duplicate:
        annotations[Symbol(DUPLICATE_ANNOTATION)] = True
    annotations[Symbol(TRACE_ANNOTATION)] = trace
    return encode_described(0x72, encode(annotations))


def _properties(message: Message, message_id: str, at: int) -> Properties:
    content_type = message.content_type or (OCTET_STREAM if message.payload else None)
    return Properties(
        message_id=message_id,
        to=f"{message.kind.value}/{message.tenant}",
        content_type=content_type,
        content_encoding=_encoding(message.properties),
        creation_time=at,
    )


def _encoding(properties: Mapping[str, Scalar]) -> str | None:
    """Return the default `content-encoding`, which is a standard property."""
    encoding = properties.get(CONTENT_ENCODING)
    return encoding if isinstance(encoding, str) else None


def _scalars(properties: Mapping[str, Scalar]) -> dict[object, object]:
    return {key: scalar(value) for key, value in properties.items() if key != CONTENT_ENCODING}


def _application(message: Message) -> bytes:
    given = _scalars(message.properties)
    given["device_id"] = message.device
    given["qos"] = Int(message.qos)
    if message.adapter:
        given["orig_adapter"] = str(message.adapter)
    if message.address:
        given["orig_address"] = message.address
    if message.ttd is not None:
        given["ttd"] = Int(message.ttd)
    return encode_described(0x74, encode(given))


def scalar(value: Scalar) -> object:
    """Return a JSON scalar as the AMQP type that Hono gives it."""
    if type(value) is int and -0x8000_0000 <= value <= 0x7FFF_FFFF:
        return Int(value)
    if type(value) is int and not -(2**63) <= value < 2**63:
        return float(value)
    return value


def _ms(seconds: float | None) -> int | None:
    """Return a time to live as the header carries it; 0 would say that it is over."""
    return None if seconds is None else max(1, int(min(seconds * 1_000, MAX_TTL_MS)))


def trace_map(trace: TraceContext) -> dict[object, object]:
    """Return a trace context as the annotation carries it."""
    entries: dict[object, object] = {"traceparent": trace.traceparent}
    if trace.state is not None:
        entries["tracestate"] = trace.state
    return entries


def trace_of(message: AmqpMessage) -> TraceContext | None:
    """Return the trace context of a message that came in, from the annotation or the properties."""
    carrier = (message.message_annotations or {}).get(Symbol(TRACE_ANNOTATION))
    if not isinstance(carrier, dict):
        carrier = message.application_properties or {}
    parent, state = carrier.get("traceparent"), carrier.get("tracestate")
    if not isinstance(parent, str):
        return None
    return TraceContext.parse(parent, state if isinstance(state, str) else None)


# --- commands and responses ----------------------------------------------------------------------------

COMMAND: Final = "command"
COMMAND_RESPONSE: Final = "command_response"
_MALFORMED: Final = "malformed command message"


class ForeignTenant(BadRequest):
    """A command for another tenant than the link's."""

    code = "command.tenant"
    default_message = "command target tenant does not match the link's"


def command_of(
    message: AmqpMessage, link_tenant: str | None, nodes: Container[str] = ()
) -> Command:
    """Read an application's command.

    Shape:  `nodes` are names that are a reply-to by themselves; the command gets the tenant's address of one.
    Errors: BadRequest with Hono's text; ForeignTenant.
    """
    tenant, device = _target(message.properties.to)
    if link_tenant is not None and tenant != link_tenant:
        raise ForeignTenant
    properties = message.properties
    payload = payload_of(message)
    correlation = properties.message_id
    if properties.correlation_id is not None:
        correlation = properties.correlation_id
    if not properties.subject or payload is None or not isinstance(correlation, str | None):
        raise BadRequest(_MALFORMED)
    reply_to = properties.reply_to
    if reply_to is not None and reply_to in nodes:
        reply_to = f"{COMMAND_RESPONSE}/{tenant}/{reply_to}"
    _check_reply_to(reply_to, tenant, correlation)
    ttl = message.header.ttl
    return Command(
        tenant=tenant,
        device=device,
        name=properties.subject,
        payload=payload,
        content_type=properties.content_type,
        correlation_id=correlation,
        reply_to=reply_to,
        trace=trace_of(message),
        properties=scalars_of(message),
        ttl=None if ttl is None else ttl / 1_000,
    )


def _target(to: str | None) -> tuple[str, str]:
    parts = (to or "").split("/", 2)
    if parts[0] != COMMAND or len(parts) < 2 or not parts[1]:
        raise BadRequest("missing or invalid command target address")
    if len(parts) < 3 or not parts[2]:
        raise BadRequest("invalid command target address")
    return parts[1], parts[2]


def _check_reply_to(reply_to: str | None, tenant: str, correlation: str | None) -> None:
    if reply_to is None:
        return
    endpoint, _, rest = reply_to.partition("/")
    of, _, reply_id = rest.partition("/")
    if endpoint != COMMAND_RESPONSE or of != tenant or not reply_id or not correlation:
        raise BadRequest(_MALFORMED)


def scalars_of(message: AmqpMessage) -> Mapping[str, Scalar]:
    """Return the application properties that are plain JSON scalars, as plain Python values."""
    found: dict[str, Scalar] = {}
    for key, value in (message.application_properties or {}).items():
        plain = _plain(value)
        if isinstance(key, str) and plain is not None:
            found[str(key)] = plain
    return found


def _plain(value: object) -> Scalar | None:
    if isinstance(value, bool):
        return value
    for kind in (int, float, str):
        if isinstance(value, kind):
            return kind(value)
    return None


def response_message(response: CommandResponse) -> AmqpMessage:
    """Return a device's response as the application gets it."""
    content_type = response.content_type or (OCTET_STREAM if response.payload else None)
    properties = _scalars(response.properties)
    properties |= {
        "status": Int(response.status),
        "tenant_id": response.tenant,
        "device_id": response.device,
    }
    return AmqpMessage(
        header=Header(ttl=_ms(response.ttl)),
        message_annotations=_response_annotations(response),
        properties=Properties(
            to=f"{COMMAND_RESPONSE}/{response.tenant}/{response.reply_id}",
            correlation_id=response.correlation_id,
            content_type=content_type,
            content_encoding=_encoding(response.properties),
            creation_time=int(response.at * 1_000),
        ),
        application_properties=properties,
        body=Data(response.payload) if response.payload else None,
    )


def _response_annotations(response: CommandResponse) -> dict[object, object]:
    annotations: dict[object, object] = {
        Symbol("tenant_id"): response.tenant,
        Symbol("device_id"): response.device,
    }
    if response.trace is not None:
        annotations[Symbol(TRACE_ANNOTATION)] = trace_map(response.trace)
    return annotations


def encode_response(response: CommandResponse) -> bytes:
    """Return the payload of a response's transfer. Errors: Unencodable."""
    try:
        return encode_message(response_message(response))
    except NO_FORM as error:
        raise Unencodable from error
