"""What a mapper is: external messages to Ditto Protocol envelopes and back, without state and I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, cast

import msgspec
from msgspec import UNSET, Raw, UnsetType

from gateway.connectivity.errors import mapping_failed
from gateway.ditto.subscriptions import Seen
from gateway.errors import BadRequest, GatewayError
from gateway.model.json import Json
from gateway.model.message import DITTO_PROTOCOL
from gateway.wire.ditto.envelope import Envelope, decode
from gateway.wire.ditto.placeholders import Scope

NOTHING: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class External:
    """A message as the peer knows it.

    Shape:  `headers` with lower-case names; `address` is the source's address it came from.
    """

    headers: Mapping[str, str]
    payload: bytes = b""
    content_type: str | None = None
    address: str = ""

    @property
    def media_type(self) -> str:
        """The content type without parameters, in lower case; empty when there is none."""
        return (self.content_type or "").partition(";")[0].strip().lower()


@dataclass(frozen=True, slots=True)
class Incoming:
    """An envelope that a mapper made, and refusals of it that are as good as success."""

    envelope: Envelope
    tolerated: frozenset[int] = NOTHING

    @classmethod
    def made(
        cls,
        topic: str,
        path: str,
        headers: Mapping[str, Json],
        value: Json | Raw | UnsetType = UNSET,
        status: int | None = None,
    ) -> Incoming:
        """One that the mapper wrote itself."""
        raw = value if isinstance(value, Raw | UnsetType) else Raw(msgspec.json.encode(value))
        return cls(Envelope(topic, path, dict(headers), raw, status=status))


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A signal on its way out: its frame in Ditto Protocol and what its parts say.

    Shape:  `payload` and `content_type` of messages; `seen` of events.
    """

    topic: str
    path: str
    headers: Mapping[str, object]
    frame: bytes
    payload: bytes = b""
    content_type: str | None = None
    is_message: bool = False
    seen: Seen | None = None


class Mapper(Protocol):
    """One configured mapper."""

    def incoming(self, message: External, scope: Scope) -> Sequence[Incoming]:
        """Make envelopes; none says that the message is not for this mapper.

        Errors: BadRequest `connectivity:message.mapping.failed`.
        """

    def outgoing(self, signal: Outgoing) -> External | None:
        """Make an external message, or None to drop the signal."""


def parse_json(mapper: str, payload: bytes) -> Json:
    """Read a JSON payload.

    Errors: BadRequest `connectivity:message.mapping.failed`.
    """
    try:
        return cast(Json, msgspec.json.decode(payload))
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise mapping_failed(mapper, f"the payload is not JSON ({error})") from error


def required(scope_text: str | None, mapper: str, what: str) -> str:
    """A resolved text that has to be there.

    Errors: BadRequest `connectivity:message.mapping.failed`.
    """
    if not scope_text:
        raise mapping_failed(mapper, f"{what} could not be resolved")
    return scope_text


def topic_of(thing_id: str, rest: str) -> str:
    """The topic of a thing's signal: `twin/commands/modify`."""
    namespace, _, name = thing_id.partition(":")
    if not name:
        raise BadRequest(f"'{thing_id[:256]}' is not a valid Thing ID.", code="things:id.invalid")
    return f"{namespace}/{name}/things/{rest}"


class DittoMapper:
    """Ditto Protocol as it is, whatever content type the device gave; Hono's notifications are not for it."""

    BLOCKED = "application/vnd.eclipse-hono-"

    def incoming(self, message: External, _scope: Scope) -> Sequence[Incoming]:
        if message.media_type.startswith(self.BLOCKED) or not message.payload:
            return ()
        try:
            return (Incoming(decode(message.payload)),)
        except GatewayError as error:
            raise mapping_failed("Ditto", f"{error.message} {error.description or ''}") from error

    def outgoing(self, signal: Outgoing) -> External | None:
        return External({}, signal.frame, DITTO_PROTOCOL)
