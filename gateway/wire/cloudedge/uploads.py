"""Telemetry and events on their way up: source `bus`, group `user`, operation `upload`.

KubeEdge sends topic (as the resource) and payload text, at most once. Twinspan adds, where the cloud
said `twinspan-spool: 1` at the upgrade (so both ends are ours): `header.spool` (edge, lane, sequence)
asks for an answer, `header.upload` says what the edge knows. The cloud then answers `response` with
the parent id:

- content `"OK"`: taken; drop it from the spool.
- content `{"status": 408|5xx but 501, "code", "error"}`: nobody could take it now; try again later.
- content `{"status": other, "code", "error"}`: refused for good; drop it and count it.

Payload that is not UTF-8 travels as base64 with `header.upload.encoding` = `base64`.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

import msgspec
from msgspec import Raw, Struct

from gateway.errors import CommandTimeout, GatewayError, MalformedPacket
from gateway.model.message import NO_PROPERTIES, Kind, Scalar, SpoolId
from gateway.model.trace import TraceContext
from gateway.wire.cloudedge.envelope import (
    OK,
    Envelope,
    Route,
    SpoolHeader,
    Stamp,
    UploadHeader,
    answer_to,
    data_of,
    make,
    struct_of,
)
from gateway.wire.cloudedge.names import Group, Operation, Source

BASE64 = "base64"
_KINDS = {"telemetry": Kind.TELEMETRY, "t": Kind.TELEMETRY, "event": Kind.EVENT, "e": Kind.EVENT}


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgeUpload:
    """What an edge sends up.

    Shape:  `topic` as published at the edge; `kind` None where neither header nor topic tell (then only
            the router may want it); `device` is `<ns>:<name>` or a Hono id, "" where unknown; `at` Unix ms of
            the publish, 0 for unknown; `ttl` seconds; `twin_owned` marks the copy of a report that
            changes the twin by another way; `spool` None: nobody waits for an answer.
    """

    topic: str
    payload: bytes
    kind: Kind | None = None
    device: str = ""
    content_type: str = ""
    qos: int = 0
    ttl: float | None = None
    at: int = 0
    twin_owned: bool = False
    properties: Mapping[str, Scalar] = field(default_factory=lambda: NO_PROPERTIES)
    spool: SpoolId | None = None
    trace: TraceContext | None = None


def address_of(topic: str) -> tuple[Kind | None, str]:
    """Read kind and device from `telemetry|t|event|e/[tenant]/device[/...]`; else (None, "")."""
    parts = topic.split("?", 1)[0].split("/")
    kind = _KINDS.get(parts[0])
    return (kind, parts[2]) if kind and len(parts) > 2 else (kind, "")


def upload(stamp: Stamp, item: EdgeUpload) -> Envelope:
    """Build the message (edge)."""
    text, encoding = _as_text(item.payload)
    at = item.spool
    spool = SpoolHeader(at.edge, at.lane, at.sequence) if at else None
    header = UploadHeader(
        kind=item.kind or "",
        device=item.device,
        content_type=item.content_type,
        encoding=encoding,
        qos=item.qos,
        ttl=item.ttl,
        at=item.at,
        twin_owned=item.twin_owned,
        properties=dict(item.properties),
    )
    route = Route(
        source=Source.BUS, group=Group.USER, operation=Operation.UPLOAD, resource=item.topic
    )
    plain = header == UploadHeader()
    return make(stamp, route, text, trace=item.trace, spool=spool, upload=None if plain else header)


def read_upload(envelope: Envelope) -> EdgeUpload:
    """Read the message (cloud). Errors: MalformedPacket."""
    header = envelope.header.upload or UploadHeader()
    spool = envelope.header.spool
    kind, device = address_of(envelope.route.resource)
    return EdgeUpload(
        topic=envelope.route.resource,
        payload=_from_text(data_of(envelope.content), header.encoding),
        kind=_kind(header.kind) or kind,
        device=header.device or device,
        content_type=header.content_type,
        qos=header.qos,
        ttl=header.ttl,
        at=header.at or envelope.header.timestamp,
        twin_owned=header.twin_owned,
        properties=header.properties,
        spool=SpoolId(spool.edge, spool.lane, spool.sequence) if spool else None,
        trace=envelope.trace,
    )


def _kind(text: str) -> Kind | None:
    if not text:
        return None
    if text not in (Kind.TELEMETRY, Kind.EVENT):
        raise MalformedPacket(f"header.upload.kind: expected telemetry or event, got {text!r}")
    return Kind(text)


def _as_text(payload: bytes) -> tuple[str, str]:
    try:
        return payload.decode(), ""
    except UnicodeDecodeError:
        return base64.b64encode(payload).decode("ascii"), BASE64


def _from_text(data: bytes, encoding: str) -> bytes:
    if not encoding:
        return data
    if encoding != BASE64:
        raise MalformedPacket(f"header.upload.encoding: expected base64, got {encoding!r}")
    try:
        return base64.b64decode(data, validate=True)
    except binascii.Error as error:
        raise MalformedPacket(f"content: not base64: {error}") from error


# --- the cloud's answer ------------------------------------------------------------------------


class Verdict(Enum):
    """What the edge does with the item at the head of a lane."""

    TAKEN = "taken"
    RETRY = "retry"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class UploadAnswer:
    """The cloud's answer to a spooled upload; `text` says why when it was not taken."""

    verdict: Verdict
    status: int = 202
    code: str = ""
    text: str = ""


class _Refused(Struct, frozen=True):
    status: int
    code: str = ""
    error: str = ""


_REFUSED = msgspec.json.Decoder(_Refused)


def answer_upload(asked: Envelope, stamp: Stamp, error: GatewayError | None) -> Envelope:
    """Build the answer to a spooled upload (cloud); `error` None: taken."""
    route = Route(
        source=Source.CLOUD_HUB,
        group=Group.USER,
        operation=Operation.RESPONSE,
        resource=asked.route.resource,
    )
    if error is None:
        return answer_to(asked, stamp, route, OK)
    return answer_to(asked, stamp, route, _Refused(error.status, error.code, error.message))


def read_upload_answer(content: Raw) -> UploadAnswer:
    """Read that answer (edge). Errors: MalformedPacket."""
    if data_of(content) == b"OK":
        return UploadAnswer(Verdict.TAKEN)
    body = struct_of(content, _REFUSED)
    later = body.status == CommandTimeout.status or (body.status >= 500 and body.status != 501)
    return UploadAnswer(
        Verdict.RETRY if later else Verdict.REFUSED, body.status, body.code, body.error
    )
