"""What an envelope can ask for or say, beside commands, messages and events of things and policies."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

from gateway.model.json import Json, JsonObject, Pointer
from gateway.model.message import SpoolId
from gateway.model.policy import PolicyCommand
from gateway.model.thing import (
    NO_HEADERS,
    Headers,
    ThingCommand,
    ThingEvent,
    ThingMessage,
    ThingMessageResponse,
)
from gateway.model.trace import TraceContext
from gateway.wire.ditto.topic import Topic


@dataclass(frozen=True, slots=True)
class Sender:
    """Who sent an envelope: its authorization subjects, and the session that does not get its own signals.

    Shape:  `trace` is used where the envelope carries none; `spool` where the message came from an edge.
    """

    subjects: tuple[str, ...]
    originator: str | None = None
    trace: TraceContext | None = None
    spool: SpoolId | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrieveThings:
    """Several things at once; the answer is an array."""

    topic: str
    thing_ids: tuple[str, ...]
    subjects: tuple[str, ...]
    fields: str | None = None
    headers: Headers = field(default_factory=lambda: NO_HEADERS)


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckPermissions:
    """May the sender do this, and that? The answer says so under the name of each question."""

    topic: str
    questions: Json
    subjects: tuple[str, ...]
    headers: Headers = field(default_factory=lambda: NO_HEADERS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Acknowledgement:
    """An acknowledgement that a subscriber issues under its label.

    Shape:  `group` is `things`, or `policies` for an announcement; `thing_id` is then the policy's id.
    """

    thing_id: str
    channel: str
    label: str
    correlation_id: str
    status: int
    value: Json = None
    has_value: bool = False
    headers: Headers = field(default_factory=lambda: NO_HEADERS)
    group: str = "things"


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchSignal:
    """`subscribe`, `request` or `cancel` of a search."""

    action: str
    value: JsonObject
    subjects: tuple[str, ...]
    fields: str | None = None
    headers: Headers = field(default_factory=lambda: NO_HEADERS)


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamSignal:
    """`subscribeForPersistedEvents`, `request` or `cancel` of a stream of an entity's past events."""

    action: str
    group: str
    entity_id: str
    path: Pointer
    value: JsonObject
    subjects: tuple[str, ...]
    headers: Headers = field(default_factory=lambda: NO_HEADERS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """The answer to a live command, or to one that we sent to another Ditto, or an error in its place.

    Shape:  `topic` and `path` are the command's, or `.../errors`; `subjects` are of who answers.
    """

    topic: Topic
    path: Pointer
    status: int
    value: Json = None
    has_value: bool = False
    headers: Headers = field(default_factory=lambda: NO_HEADERS)
    subjects: tuple[str, ...] = ()


Signal: TypeAlias = (
    ThingCommand
    | PolicyCommand
    | ThingMessage
    | ThingMessageResponse
    | RetrieveThings
    | CheckPermissions
    | Acknowledgement
    | SearchSignal
    | StreamSignal
    | ThingEvent
    | Response
)
