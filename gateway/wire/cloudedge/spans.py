"""Finished spans of an edge that has no collector of its own, as it tells its cloud.

An extension: KubeEdge has no words for it, so it goes only to a CloudCore that says it acknowledges uploads.
Nobody answers it; what the link does not take is lost.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated

import msgspec
from msgspec import Meta, Raw, Struct

from gateway.errors import MalformedPacket
from gateway.model.trace import TraceContext
from gateway.wire.cloudedge.envelope import Envelope, Route, Stamp, make, struct_of
from gateway.wire.cloudedge.names import Group, Operation, Source

RESOURCE = "spans"
MAX_SPANS = 100
MAX_TEXT = 1_024
MAX_FACTS = 32
MAX_SPAN = 40_000
"""Characters in all texts of one span; also of a message's resource."""
KINDS = frozenset({"internal", "server", "client", "producer", "consumer"})

_Text = Annotated[str, Meta(max_length=MAX_TEXT)]
_Facts = Annotated[dict[_Text, _Text | int | float | bool], Meta(max_length=MAX_FACTS)]
_PARENT = re.compile(r"[0-9a-f]{16}")


class ToldEvent(Struct, frozen=True, array_like=True):
    """Units:  `at` in nanoseconds since the epoch."""

    at: int
    name: _Text
    facts: _Facts = {}


def size_of(facts: Mapping[str, str | int | float | bool]) -> int:
    """Return the characters of attributes; a number counts as a few."""
    return sum(
        len(name) + (len(value) if isinstance(value, str) else 8) for name, value in facts.items()
    )


class ToldSpan(Struct, frozen=True, omit_defaults=True):
    """One finished span.

    Units:  `started` and `ended` in nanoseconds since the epoch, by the edge's clock.
    """

    name: _Text
    traceparent: _Text
    started: int
    ended: int
    parent: _Text = ""
    kind: _Text = "internal"
    error: _Text = ""
    facts: _Facts = {}
    events: Annotated[tuple[ToldEvent, ...], Meta(max_length=MAX_FACTS)] = ()

    @property
    def context(self) -> TraceContext:
        """Errors: MalformedPacket."""
        found = TraceContext.parse(self.traceparent)
        if (
            found is None
            or self.kind not in KINDS
            or (self.parent and _PARENT.fullmatch(self.parent) is None)
            or not 0 < self.started <= self.ended < 2**63
        ):
            raise MalformedPacket("spans: ids, kind or times cannot be")
        if self.size > MAX_SPAN:
            raise MalformedPacket(f"spans: at most {MAX_SPAN} characters in one")
        return found

    @property
    def size(self) -> int:
        """The characters of all its texts."""
        events = sum(len(event.name) + size_of(event.facts) for event in self.events)
        return len(self.name) + len(self.error) + size_of(self.facts) + events


class EdgeSpans(Struct, frozen=True, omit_defaults=True):
    """Shape:  `resource` are the edge's resource attributes; `dropped` how many it lost since the last."""

    spans: Annotated[tuple[ToldSpan, ...], Meta(max_length=MAX_SPANS)]
    resource: Annotated[dict[_Text, _Text], Meta(max_length=MAX_FACTS)] = {}
    dropped: int = 0


_SPANS = msgspec.json.Decoder(EdgeSpans)


def tell_spans(stamp: Stamp, spans: EdgeSpans) -> Envelope:
    """Build the message (edge)."""
    route = Route(
        source=Source.TRACES,
        group=Group.RESOURCE,
        operation=Operation.UPDATE,
        resource=RESOURCE,
    )
    return make(stamp, route, Raw(msgspec.json.encode(spans)))


def read_spans(envelope: Envelope) -> EdgeSpans:
    """Read the message (cloud). Errors: MalformedPacket."""
    found = struct_of(envelope.content, _SPANS)
    if size_of(found.resource) > MAX_SPAN:
        raise MalformedPacket(f"spans: at most {MAX_SPAN} characters in the resource")
    return found
