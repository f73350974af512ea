"""The message envelope of the cloud-edge link: one JSON document per WebSocket text frame.

Pure: frames in, `Envelope` out, and back. What an envelope means is read once, in `to_cloud` (what an edge
sends) and `to_edge` (what a cloud sends). Source: KubeEdge `model.Message`, JSON form.

Twinspan's own fields sit in `header` under keys that KubeEdge's decoder does not know and ignores:
`traceparent` and `tracestate` (W3C trace context), `spool` and `upload` (see `uploads`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, NamedTuple, TypeVar

import msgspec
from msgspec import Meta, Raw, Struct

from gateway.errors import MalformedPacket, TooLarge
from gateway.model.json import Json, JsonObject
from gateway.model.trace import TraceContext

MAX_FRAME = 8 * 1024 * 1024
"""Bytes of one frame. KubeEdge sets no limit; the largest Kubernetes object is below 2 MiB."""

_Id = Annotated[str, Meta(max_length=128)]
_Word = Annotated[str, Meta(max_length=256)]
_Resource = Annotated[str, Meta(max_length=66_000)]
_Millis = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
_Lane = Annotated[str, Meta(min_length=1, max_length=600)]
_Count = Annotated[int, Meta(ge=1, le=2**63 - 1)]

NULL = Raw(b"null")
OK = Raw(b'"OK"')

T = TypeVar("T")


class Stamp(NamedTuple):
    """Id and time of a new message; shells make it, so that this package needs no clock.

    Shape:  `msg_id` a UUID v4 in text form; `millis` Unix time in milliseconds.
    """

    msg_id: str
    millis: int


class SpoolHeader(Struct, frozen=True):
    """Where an upload stands in its edge's spool (`gateway.model.message.SpoolId` on the wire)."""

    edge: _Id
    lane: _Lane
    sequence: _Count


class UploadHeader(Struct, frozen=True, omit_defaults=True):
    """What an edge knows about an upload beside topic and payload; see `uploads.Upload`."""

    kind: _Word = ""
    device: Annotated[str, Meta(max_length=600)] = ""
    content_type: _Word = ""
    encoding: _Word = ""
    qos: Annotated[int, Meta(ge=0, le=2)] = 0
    ttl: Annotated[float, Meta(ge=0)] | None = None
    at: _Millis = 0
    twin_owned: bool = False
    properties: dict[str, str | int | float | bool] = {}


class Header(Struct, frozen=True, omit_defaults=True):
    """Identity, order and trace of a message.

    Shape:  `timestamp` in Unix milliseconds; `resourceversion` of the Kubernetes object inside.
    """

    msg_id: Annotated[str, Meta(min_length=1, max_length=128)]
    timestamp: _Millis = 0
    parent_msg_id: _Id = ""
    resourceversion: _Id = ""
    sync: bool = False
    type: _Word = ""
    traceparent: _Word = ""
    tracestate: Annotated[str, Meta(max_length=1_024)] = ""
    spool: SpoolHeader | None = None
    upload: UploadHeader | None = None


class Route(Struct, frozen=True, omit_defaults=True):
    """Who sends what to whom: module names and a path-like subject."""

    source: _Word = ""
    destination: _Word = ""
    group: _Word = ""
    operation: _Word = ""
    resource: _Resource = ""


class Envelope(Struct, frozen=True):
    """One message as it stands on the wire; `content` is JSON text that nobody has parsed yet."""

    header: Header
    route: Route = Route()
    content: Raw = NULL

    @property
    def msg_id(self) -> str:
        return self.header.msg_id

    @property
    def parent_id(self) -> str:
        return self.header.parent_msg_id

    @property
    def trace(self) -> TraceContext | None:
        return TraceContext.parse(self.header.traceparent or None, self.header.tracestate or None)

    @property
    def is_text(self) -> bool:
        """True when the content is a JSON string."""
        return bytes(self.content).lstrip()[:1] == b'"'


_decoder = msgspec.json.Decoder(Envelope)
_encoder = msgspec.json.Encoder()


def decode(frame: str | bytes, *, limit: int = MAX_FRAME) -> Envelope:
    """Read one frame; a newline behind the document is allowed, unknown keys are ignored.

    Errors: TooLarge over `limit` bytes; MalformedPacket, naming the field at fault.
    """
    if len(frame) > limit:
        raise TooLarge(f"cloud-edge frame: at most {limit} bytes, got {len(frame)}")
    return _guarded(_decode, frame, "cloud-edge frame")


def _decode(frame: str | bytes) -> Envelope:
    try:
        return _decoder.decode(frame)
    except msgspec.ValidationError as error:
        try:
            return _decode_with_nulls(frame)
        except msgspec.ValidationError:
            raise error from None  # it names the field by its whole path


def _decode_with_nulls(frame: str | bytes) -> Envelope:
    """Read a frame whose header or route may hold `null`: no Go peer writes it, others take it for absent."""
    loose = _loose_decoder.decode(frame)
    header = msgspec.convert({k: v for k, v in loose.header.items() if v is not None}, Header)
    route = {k: v for k, v in (loose.route or {}).items() if v is not None}
    return Envelope(header, msgspec.convert(route, Route), loose.content)


class _Loose(Struct, frozen=True):
    header: dict[str, Any]
    route: dict[str, Any] | None = None
    content: Raw = NULL


def encode(envelope: Envelope) -> bytes:
    """Write one frame (UTF-8 JSON, no newline)."""
    return _encoder.encode(envelope)


def make(
    stamp: Stamp,
    route: Route,
    content: Json | Raw | Struct = None,
    *,
    parent: str = "",
    version: str = "",
    trace: TraceContext | None = None,
    spool: SpoolHeader | None = None,
    upload: UploadHeader | None = None,
) -> Envelope:
    """Build an envelope. `content`: text becomes a JSON string, objects nested JSON, None `null`."""
    header = Header(
        msg_id=stamp.msg_id,
        timestamp=stamp.millis,
        parent_msg_id=parent,
        resourceversion=version,
        traceparent=trace.traceparent if trace else "",
        tracestate=(trace.state or "") if trace else "",
        spool=spool,
        upload=upload,
    )
    raw = content if isinstance(content, Raw) else Raw(_encoder.encode(content))
    return Envelope(header, route, raw)


def answer_to(
    asked: Envelope, stamp: Stamp, route: Route, content: Json | Raw | Struct = None
) -> Envelope:
    """Build the answer to `asked`: its id becomes the parent id, its trace goes on."""
    return make(stamp, route, content, parent=asked.msg_id, trace=asked.trace)


def data_of(content: Raw) -> bytes:
    """Return the payload as a KubeEdge receiver sees it: the text of a JSON string, else the JSON itself.

    A receiver that parses it takes nested JSON and JSON inside a string alike.
    """
    raw = bytes(content)
    if raw.lstrip()[:1] == b'"':
        return _guarded(_decode_text, raw, "content").encode()
    return raw


def text_of(content: Raw) -> str:
    """Return the payload as text (`data_of`, decoded)."""
    return data_of(content).decode("utf-8", "replace")


def json_of(content: Raw) -> Json:
    """Parse the payload, nested or inside a string. Errors: MalformedPacket."""
    value: Json = _guarded(msgspec.json.decode, data_of(content), "content")
    return value


def object_of(content: Raw) -> JsonObject:
    """Parse a payload that must be a JSON object. Errors: MalformedPacket."""
    value = json_of(content)
    if not isinstance(value, dict):
        raise MalformedPacket(f"content: expected a JSON object, got {type(value).__name__}")
    return value


def struct_of(content: Raw, decoder: msgspec.json.Decoder[T]) -> T:
    """Parse a payload into a typed form. Errors: MalformedPacket, naming the field at fault."""
    return _guarded(decoder.decode, data_of(content), "content")


_decode_text = msgspec.json.Decoder(str).decode
_loose_decoder = msgspec.json.Decoder(_Loose)


def _guarded(decode: Callable[[str | bytes], T], data: str | bytes, what: str) -> T:
    try:
        return decode(data)
    except RecursionError as error:
        raise MalformedPacket(f"{what}: nested too deeply") from error
    except (msgspec.DecodeError, UnicodeError) as error:
        raise MalformedPacket(f"{what}: {error}") from error
