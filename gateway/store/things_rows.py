"""Rows of things, policies and their events as values."""

from __future__ import annotations

from typing import Any

import msgspec

from gateway.model.json import parse_pointer
from gateway.model.policy import Policy, PolicyEvent
from gateway.model.thing import EventAction, Thing, ThingEvent
from gateway.model.trace import TraceContext


class Facts(msgspec.Struct, omit_defaults=True):
    """What an event carries besides its change."""

    headers: dict[str, Any] = {}
    originator: str | None = None
    subjects: tuple[str, ...] = ()
    trace: str | None = None
    metadata: dict[str, Any] | None = None


_decode = msgspec.json.Decoder().decode
_decode_facts = msgspec.json.Decoder(Facts).decode


def thing_of(row: tuple[Any, ...]) -> Thing | None:
    """A thing, None when it is deleted."""
    thing_id, revision, document, created, modified = row
    if document is None:
        return None
    return Thing(thing_id, revision, _decode(document), created, modified)


def policy_of(row: tuple[Any, ...]) -> Policy | None:
    """A policy, None when it is deleted."""
    policy_id, revision, document, created, modified = row
    if document is None:
        return None
    return Policy(policy_id, revision, _decode(document), created, modified)


def event_of(row: tuple[Any, ...]) -> ThingEvent:
    """An event, without the states around it."""
    sequence, thing_id, revision, action, path, value, facts, timestamp = row
    known = _decode_facts(facts)
    return ThingEvent(
        thing_id=thing_id,
        action=EventAction(action),
        path=parse_pointer(path),
        revision=revision,
        timestamp=timestamp,
        after=None,
        value=None if value is None else _decode(value),
        headers=known.headers,
        originator=known.originator,
        subjects=known.subjects,
        trace=TraceContext.parse(known.trace),
        sequence=sequence,
        metadata=known.metadata,
    )


def policy_event_of(row: tuple[Any, ...]) -> PolicyEvent:
    """An event of a policy, without the states around it."""
    policy_id, revision, action, path, value, facts, timestamp = row
    known = _decode_facts(facts)
    return PolicyEvent(
        policy_id=policy_id,
        action=EventAction(action),
        path=parse_pointer(path),
        revision=revision,
        timestamp=timestamp,
        after=None,
        value=None if value is None else _decode(value),
        headers=known.headers,
        originator=known.originator,
        subjects=known.subjects,
        trace=TraceContext.parse(known.trace),
    )
