"""Policies as values: who may do what on which path of things, messages and the policy itself."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from gateway.errors import BadRequest
from gateway.model.json import Json, JsonObject, Pointer, parse_pointer
from gateway.model.thing import NO_HEADERS, Action, EventAction, Headers
from gateway.model.trace import TraceContext


class Permission(enum.StrEnum):
    """What a resource of an entry grants or revokes."""

    READ = "READ"
    WRITE = "WRITE"
    EXECUTE = "EXECUTE"


@dataclass(frozen=True, slots=True)
class Policy:
    """A policy as it is stored.

    Shape:  `document` holds `entries` and `imports` as Ditto's JSON has them, with all optional members
            filled in; `created` and `modified` are ISO 8601 instants; `revision` counts from 1 without gaps.
    """

    policy_id: str
    revision: int
    document: JsonObject
    created: str
    modified: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyCommand:
    """One Ditto command on a policy.

    Shape:  `path` from the policy's root as `parse_policy_path` reads it: a resource key or subject id is
            one segment (`("entries", "owner", "resources", "thing:/attributes/x")`); `action` is one of
            create, retrieve, modify, delete; `fields` a field selector for retrieve; `sudo` as for things.
    """

    policy_id: str
    action: Action
    subjects: tuple[str, ...]
    path: Pointer = ()
    value: Json = None
    fields: str | None = None
    headers: Headers = field(default_factory=lambda: NO_HEADERS)
    originator: str | None = None
    trace: TraceContext | None = None
    sudo: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyEvent:
    """One change of one policy, as it was stored; `after` is None when the policy is gone."""

    policy_id: str
    action: EventAction
    path: Pointer
    revision: int
    timestamp: str
    after: Policy | None
    before: Policy | None = None
    value: Json = None
    headers: Headers = field(default_factory=lambda: NO_HEADERS)
    originator: str | None = None
    subjects: tuple[str, ...] = ()
    trace: TraceContext | None = None


_WHOLE_TAILS = ("resources", "subjects")
_LABEL_DEPTH = 3
"""Segments before a resource key or subject id: `entries/<label>/resources`."""


def parse_policy_path(text: str) -> Pointer:
    """Read the path below a policy, keeping a resource key or subject id in one segment.

    Shape:  `/entries/owner/resources/thing:/attributes/x` -> `("entries", "owner", "resources",
            "thing:/attributes/x")`; `""` and `/` are the policy itself.
    Errors: BadRequest `json.pointer.invalid` for an empty segment or a bad escape.
    """
    body = text[1:] if text.startswith("/") else text
    head = body.split("/", _LABEL_DEPTH)
    if len(head) <= _LABEL_DEPTH or head[0] != "entries" or head[2] not in _WHOLE_TAILS:
        return parse_pointer(text)
    if not head[_LABEL_DEPTH]:
        raise BadRequest(f"JSON pointer: empty segment in {text!r}", code="json.pointer.invalid")
    return (*parse_pointer("/".join(head[:_LABEL_DEPTH])), head[_LABEL_DEPTH])
