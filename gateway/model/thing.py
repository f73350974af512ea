"""Digital twins as values: a thing, what is asked of it, what happened to it, live messages to it.

Documents are immutable by agreement: an update copies the dicts on its path and shares the rest, so old
and new states, events and subscribers may hold the same objects. Nobody mutates what they were given.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TypeAlias

from gateway.model.json import Json, JsonObject, Pointer
from gateway.model.message import SpoolId
from gateway.model.trace import TraceContext

HeaderValue: TypeAlias = "str | bool | int | list[str] | dict[str, Json]"
Headers: TypeAlias = Mapping[str, HeaderValue]
NO_HEADERS: Headers = MappingProxyType({})

TWIN, LIVE = "twin", "live"
"""The channels: what is stored of a thing, and the device itself."""

BUILT_IN_ACKS = frozenset(("twin-persisted", "live-response", "search-persisted"))
"""Labels of the acknowledgements that Ditto itself issues."""


class Action(enum.StrEnum):
    """What a thing command does to the value at its path."""

    CREATE = "create"
    RETRIEVE = "retrieve"
    MODIFY = "modify"
    MERGE = "merge"
    DELETE = "delete"
    PATCH = "patch"
    """RFC 6902 JSON Patch (`application/json-patch+json`): Twinspan's extension of Ditto."""
    MIGRATE = "migrate"
    """A new definition for the whole thing, with what its model and the sender say of the values."""


class EventAction(enum.StrEnum):
    """What happened to the value at an event's path."""

    CREATED = "created"
    MODIFIED = "modified"
    MERGED = "merged"
    DELETED = "deleted"
    MIGRATED = "migrated"
    """As merged; the definition is new."""

    @property
    def is_merge(self) -> bool:
        """True where an event's value is a merge patch."""
        return self in (EventAction.MERGED, EventAction.MIGRATED)


@dataclass(frozen=True, slots=True)
class Thing:
    """A thing as it is stored.

    Shape:  `document` holds `policyId`, `definition`, `attributes`, `features` as Ditto's JSON has them,
            without the `_` fields; `created` and `modified` are ISO 8601 instants; `revision` counts from 1
            and never has a gap, also across deletion and creation anew.
    """

    thing_id: str
    revision: int
    document: JsonObject
    created: str
    modified: str

    @property
    def policy_id(self) -> str:
        return str(self.document.get("policyId", self.thing_id))


@dataclass(frozen=True, slots=True, kw_only=True)
class ThingCommand:
    """One Ditto command.

    Shape:  `path` from the thing's root, `()` is the thing itself; `value` is the new value, merge patch or
            JSON Patch array; `subjects` are the caller's authorization subjects; `headers` are Ditto's, in
            lower case (`correlation-id`, `if-match`, `condition`, `if-equal`, `response-required` ...);
            `originator` identifies the session that sent it, which does not get its own events back;
            `channel` is `twin`, or `live` for a command to the device itself; `sudo` says that an operator
            asks: no policy is asked.
    """

    thing_id: str
    action: Action
    subjects: tuple[str, ...]
    path: Pointer = ()
    value: Json = None
    fields: str | None = None
    headers: Headers = field(default_factory=lambda: NO_HEADERS)
    originator: str | None = None
    trace: TraceContext | None = None
    spool: SpoolId | None = None
    channel: str = TWIN
    sudo: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ThingResult:
    """The answer to a command: 200 with a value, 201 with the created value, 204 without."""

    status: int
    value: Json = None
    has_value: bool = False
    etag: str | None = None
    revision: int | None = None
    headers: Headers = field(default_factory=lambda: NO_HEADERS)


@dataclass(frozen=True, slots=True, kw_only=True)
class ThingEvent:
    """One change of one thing, as it was stored.

    Shape:  `revision` of the thing after it; `value` as Ditto's events carry it (full value of the resource
            at `path`, the patch for merged, absent for deleted); `after` the state after it, None when the
            thing is gone; `timestamp` ISO 8601; `sequence` global, rising, set by the store; `metadata` the
            whole metadata after it, None where nobody set or removed any. A live event is what a device
            tells of itself: nothing of it is stored, `after` is the twin at that moment.
    """

    thing_id: str
    action: EventAction
    path: Pointer
    revision: int
    timestamp: str
    after: Thing | None
    before: Thing | None = None
    value: Json = None
    headers: Headers = field(default_factory=lambda: NO_HEADERS)
    originator: str | None = None
    subjects: tuple[str, ...] = ()
    trace: TraceContext | None = None
    sequence: int = 0
    channel: str = TWIN
    metadata: JsonObject | None = None


class Direction(enum.StrEnum):
    """`TO` goes to the thing's inbox (towards the device), `FROM` comes from its outbox."""

    TO = "TO"
    FROM = "FROM"


@dataclass(frozen=True, slots=True, kw_only=True)
class ThingMessage:
    """A live message to or from a thing or one of its features.

    Shape:  `payload` raw bytes; `timeout` seconds that the sender waits, 0 for fire-and-forget.
    """

    thing_id: str
    subject: str
    direction: Direction
    correlation_id: str
    subjects: tuple[str, ...]
    feature_id: str | None = None
    payload: bytes = b""
    content_type: str | None = None
    timeout: float = 10.0
    headers: Headers = field(default_factory=lambda: NO_HEADERS)
    originator: str | None = None
    trace: TraceContext | None = None

    @property
    def response_required(self) -> bool:
        return self.timeout > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ThingMessageResponse:
    """The answer to a live message; `status` is any HTTP code that the device chose."""

    thing_id: str
    correlation_id: str
    status: int
    payload: bytes = b""
    content_type: str | None = None
    headers: Headers = field(default_factory=lambda: NO_HEADERS)
