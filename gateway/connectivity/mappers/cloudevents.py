"""`CloudEvents`: Ditto Protocol in CloudEvents, in both modes on the way in, structured on the way out.

Source: CloudEvents 1.0.2; Ditto, payload mapping, CloudEvents mapper.
"""

from __future__ import annotations

import base64
import binascii
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime

import msgspec

from gateway.connectivity.errors import mapping_failed
from gateway.connectivity.mappers.base import External, Incoming, Outgoing
from gateway.errors import GatewayError
from gateway.model.message import DITTO_PROTOCOL
from gateway.wire.ditto.envelope import decode
from gateway.wire.ditto.placeholders import Scope

NAME = "CloudEvents"
STRUCTURED = "application/cloudevents+json"
VERSION = "1.0"
SOURCE = "https://github.com/eclipse-ditto/ditto"
"""What consumers of Ditto's events filter by."""
TYPE = "org.eclipse.ditto.outbound"
_BINARY = ("ce-id", "ce-source", "ce-type", "ce-specversion")


class _Event(msgspec.Struct):
    """What is read of a structured event."""

    specversion: str
    id: str
    source: str
    type: str
    data: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    data_base64: str | None = None


class CloudEventsMapper:
    """No options."""

    def incoming(self, message: External, _scope: Scope) -> Sequence[Incoming]:
        if message.media_type == STRUCTURED:
            event = _event(message.payload)
            return (_incoming(_data(event), event.id),)
        if message.media_type != DITTO_PROTOCOL:
            return ()
        if not all(name in message.headers for name in _BINARY):
            raise mapping_failed(NAME, f"it is no CloudEvent: it needs {', '.join(_BINARY)}")
        return (_incoming(message.payload, message.headers["ce-id"]),)

    def outgoing(self, signal: Outgoing) -> External | None:
        namespace, name, rest = signal.topic.split("/", 2)
        event = {
            "specversion": VERSION,
            "id": str(signal.headers.get("correlation-id") or uuid.uuid4()),
            "source": SOURCE,
            "type": f"{TYPE}:{rest}",
            "time": decode(signal.frame).timestamp or _now(),
            "subject": f"{namespace}:{name}",
            "datacontenttype": DITTO_PROTOCOL,
            "data": msgspec.Raw(signal.frame),
        }
        return External({}, msgspec.json.encode(event), STRUCTURED)


def _event(payload: bytes) -> _Event:
    try:
        return msgspec.json.decode(payload, type=_Event)
    except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
        raise mapping_failed(NAME, f"it is no CloudEvent ({error})") from error


def _data(event: _Event) -> bytes:
    if event.data_base64 is not None:
        try:
            return base64.b64decode(event.data_base64, validate=True)
        except (binascii.Error, ValueError) as error:
            raise mapping_failed(NAME, "'data_base64' is no base64") from error
    if isinstance(event.data, msgspec.UnsetType):
        raise mapping_failed(NAME, "it has no 'data'")
    return bytes(event.data)


def _incoming(data: bytes, event_id: str) -> Incoming:
    """The envelope; the event's id is its correlation id."""
    try:
        envelope = decode(data)
    except GatewayError as error:
        raise mapping_failed(NAME, f"{error.message} {error.description or ''}") from error
    kept = {name: v for name, v in envelope.headers.items() if name.lower() != "correlation-id"}
    envelope.headers = {**kept, "correlation-id": event_id}
    return Incoming(envelope)


def _now() -> str:
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")
