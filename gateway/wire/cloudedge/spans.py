"""Finished spans of an edge that has no collector of its own, as it tells its cloud.

An extension: KubeEdge has no words for it, so it goes only to a CloudCore that says it acknowledges uploads.
Nobody answers it; what the link does not take is lost.
"""

from __future__ import annotations

import re
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
KINDS = frozenset({"internal", "server", "client", "producer", "consumer"})

_Text = Annotated[str, Meta(max_length=MAX_TEXT)]
_Facts = Annotated[dict[_Text, _Text | int | float | bool], Meta(max_length=MAX_FACTS)]
_PARENT = re.compile(r"[0-9a-f]{16}")


class ToldEvent(Struct, frozen=True, array_like=True):
    """Units:  `at` in nanoseconds since the epoch."""

    at: int
    name: _Text
    facts: _Facts = {}


class ToldSpan(Struct, frozen=True, omit_defaults=True):
    """One finished span. Units:  `started` and `ended` in nanoseconds since the epoch, by the edge's
    clock."""

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
        return found


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
    return struct_of(envelope.content, _SPANS)
