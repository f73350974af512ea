"""Events as EdgeX Foundry's device services publish them, of any of its forms. Pure.

The message is an envelope whose payload is the event's JSON, as base64 (EdgeX 2, 3) or as it is (EdgeX 4),
inside an `AddEventRequest` or bare; or, without an envelope, one of the latter. Readings may leave out what
their event says already (EdgeX 4, optimised payloads). Source: go-mod-messaging `MessageEnvelope`,
go-mod-core-contracts `dtos.Event`, `dtos.BaseReading`.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import Final

import msgspec

from gateway.errors import BadRequest, NotBuilt
from gateway.model.json import Json, JsonObject

MAX_MESSAGE: Final = 1_048_576
MAX_READINGS: Final = 500
MAX_NAME: Final = 256

TYPES: Final = {
    "Bool": "BOOLEAN",
    **{f"{sign}{bits}": "INT" for sign in ("Int", "Uint") for bits in (8, 16, 32, 64)},
    "Float32": "FLOAT",
    "Float64": "DOUBLE",
    "Binary": "BYTES",
}
"""Types of DeviceModels; strings, arrays and objects are STRING."""


@dataclass(frozen=True, slots=True)
class DeviceReading:
    """One value.

    Shape:  `value` text as EdgeX writes it, bytes for Binary, JSON for objects, None for null; `origin` in ns
            since the epoch, 0 for unknown.
    """

    resource: str
    kind: str
    value: object
    origin: int
    units: str = ""


@dataclass(frozen=True, slots=True)
class DeviceEvent:
    """What a device said at once."""

    device: str
    profile: str
    source: str
    readings: tuple[DeviceReading, ...]


def read_event(message: bytes) -> DeviceEvent:
    """Read a message of the bus. Errors: BadRequest for what is no event; NotBuilt for CBOR."""
    if len(message) > MAX_MESSAGE:
        raise BadRequest(f"an event of at most {MAX_MESSAGE} bytes is taken, got {len(message)}")
    document = _object(_json(message), "a message")
    if "payload" in document:
        document = _object(_payload(document), "a payload")
    inner = document.get("event")
    event = _object(inner, "an event") if inner is not None else document
    return _event(event)


def _payload(envelope: JsonObject) -> Json:
    kind = str(envelope.get("contentType", "")).lower()
    if "cbor" in kind:
        raise NotBuilt("events in CBOR are not built")
    payload = envelope["payload"]
    if not isinstance(payload, str):
        return payload
    try:
        return _json(base64.b64decode(payload, validate=True))
    except (binascii.Error, ValueError):
        return _json(payload.encode("utf-8", "replace"))


def _json(text: bytes) -> Json:
    try:
        value: Json = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError, ValueError) as error:
        raise BadRequest("expected JSON") from error
    return value


def _object(value: Json, what: str) -> JsonObject:
    if not isinstance(value, dict):
        raise BadRequest(f"expected {what} that is an object")
    return value


def _event(event: JsonObject) -> DeviceEvent:
    device, readings = _name(event.get("deviceName")), event.get("readings")
    if not device or not isinstance(readings, list) or len(readings) > MAX_READINGS:
        raise BadRequest(f"expected a deviceName and at most {MAX_READINGS} readings")
    source = _name(event.get("sourceName"))
    origin = _origin(event.get("origin"))
    found = [
        _reading(reading, source if len(readings) == 1 else "", origin)
        for reading in readings
        if isinstance(reading, dict)
    ]
    kept = tuple(each for each in found if each.resource)
    return DeviceEvent(device, _name(event.get("profileName")), source, kept)


def _reading(reading: JsonObject, source: str, origin: int) -> DeviceReading:
    kind = _name(reading.get("valueType"))
    return DeviceReading(
        _name(reading.get("resourceName")) or source,
        kind,
        _value(reading, kind),
        _origin(reading.get("origin")) or origin,
        _name(reading.get("units")),
    )


def _value(reading: JsonObject, kind: str) -> object:
    if kind == "Binary":
        said = reading.get("binaryValue")
        try:
            return base64.b64decode(said, validate=True) if isinstance(said, str) else None
        except (binascii.Error, ValueError):
            return None
    if kind in ("Object", "ObjectArray"):
        return reading.get("objectValue")
    return reading.get("value")


def _name(value: Json) -> str:
    return value[:MAX_NAME] if isinstance(value, str) else ""


def _origin(value: Json) -> int:
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    return value if is_whole and 0 < value < 2**63 else 0  # type: ignore[operator,return-value]
