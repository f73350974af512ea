"""The envelope: one JSON object with topic, path, headers and value. Bytes in, `Envelope` out, and back."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from gateway.errors import BadRequest, TooLarge
from gateway.model.json import Json

MAX_BYTES: Final = 1_048_576

NOTHING: Final = msgspec.UNSET
"""Says that a member is absent; None is JSON's null."""


class Envelope(msgspec.Struct, omit_defaults=True):
    """One message of the protocol.

    Shape:  `value` stays raw JSON until somebody reads it; unknown members are ignored.
    """

    topic: str
    path: str = "/"
    headers: dict[str, Any] = {}
    value: msgspec.Raw | msgspec.UnsetType = NOTHING
    fields: str | None = None
    extra: msgspec.Raw | msgspec.UnsetType = NOTHING
    status: int | None = None
    revision: int | None = None
    timestamp: str | None = None

    @property
    def has_value(self) -> bool:
        """True when there is a value, be it null."""
        return self.value is not NOTHING

    def json_value(self) -> Json:
        """The value read; null when absent.

        Errors: BadRequest `json.invalid` for numbers that are out of range.
        """
        if isinstance(self.value, msgspec.UnsetType):
            return None
        try:
            found: Json = msgspec.json.decode(self.value)
        except (msgspec.DecodeError, RecursionError) as error:
            raise _broken(error) from error
        return found

    def raw_value(self) -> bytes:
        """The value's JSON text; empty when absent."""
        return b"" if isinstance(self.value, msgspec.UnsetType) else bytes(self.value)


class _Received(msgspec.Struct):
    """What is read from the network: nothing is required, so that we can say what is missing."""

    topic: str | None = None
    path: str | None = None
    headers: dict[str, Any] | None = None
    value: msgspec.Raw | msgspec.UnsetType = NOTHING
    fields: str | None = None
    extra: msgspec.Raw | msgspec.UnsetType = NOTHING
    status: int | None = None
    revision: int | None = None
    timestamp: str | None = None


_decoder = msgspec.json.Decoder(_Received)
_encoder = msgspec.json.Encoder()


def decode(data: bytes | str) -> Envelope:
    """Read an envelope.

    Errors: BadRequest `json.invalid` with the position, `json.field.missing` for topic or path;
            TooLarge over `MAX_BYTES`.
    """
    if len(data) > MAX_BYTES:
        raise TooLarge(f"Ditto Protocol: at most {MAX_BYTES} bytes, got {len(data)}")
    try:
        got = _decoder.decode(data)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise _broken(error) from error
    if got.topic is None or got.path is None:
        missing = "topic" if got.topic is None else "path"
        raise BadRequest(
            f"The JSON has no field '{missing}'.",
            code="json.field.missing",
            description="A message of the Ditto Protocol has 'topic' and 'path'.",
        )
    return Envelope(
        got.topic,
        got.path,
        got.headers or {},
        got.value,
        got.fields,
        got.extra,
        got.status,
        got.revision,
        got.timestamp,
    )


def _broken(error: Exception) -> BadRequest:
    return BadRequest(
        "The JSON of the message is not valid.", code="json.invalid", description=str(error)[:300]
    )


class _Sent(msgspec.Struct, omit_defaults=True):
    topic: str
    headers: dict[str, Any]
    path: str
    value: Any = NOTHING
    fields: str | None = None
    extra: Any = NOTHING
    status: int | None = None
    revision: int | None = None
    timestamp: str | None = None


def encode(
    topic: str,
    path: str,
    headers: dict[str, Any],
    value: Any = NOTHING,
    *,
    fields: str | None = None,
    extra: Any = NOTHING,
    status: int | None = None,
    revision: int | None = None,
    timestamp: str | None = None,
) -> bytes:
    """Write an envelope; `value` and `extra` may be JSON values or `msgspec.Raw`."""
    return _encoder.encode(
        _Sent(topic, headers, path, value, fields, extra, status, revision, timestamp)
    )
