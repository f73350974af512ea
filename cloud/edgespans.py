"""Takes the spans of edges that have no collector of their own, and hands them on as if they were ours.

Whose they are says the node's certificate, not the message: `k8s.node.name` of their resource is set here. A
node gets a bounded share; more is refused and counted.
"""

from __future__ import annotations

import time
from typing import Final

from cloud.hub import CloudHub
from cloud.sessions import Inbound
from gateway.errors import MalformedPacket
from gateway.observe.metrics import Metrics
from gateway.observe.tracing import Bucket, Span, Tracer
from gateway.wire.cloudedge.spans import EdgeSpans, ToldSpan

MESSAGES_PER_SECOND: Final = 5
MAX_NODES: Final = 10_000
SERVICE: Final = "twinspan-edge"
NODE: Final = "k8s.node.name"

Resource = dict[str, str | int | float | bool]


class EdgeSpanRoom:
    """Takes messages with spans."""

    def __init__(self, tracer: Tracer, metrics: Metrics) -> None:
        self._tracer = tracer
        self._outcomes = metrics.own.hub_spans
        self._shares: dict[str, Bucket] = {}

    def attach(self, hub: CloudHub) -> None:
        """Take what nodes say."""
        hub.on(EdgeSpans, self.on_spans, lambda _: None)

    async def on_spans(self, inbound: Inbound, message: EdgeSpans) -> None:
        if message.dropped > 0:
            self._outcomes.labels("dropped").inc(min(message.dropped, 1_000_000))
        if not self._share(inbound.node).take():
            self._outcomes.labels("refused").inc(len(message.spans))
            return
        resource: Resource = {"service.name": SERVICE, **message.resource, NODE: inbound.node}
        for told in message.spans:
            try:
                span = _span_of(told, resource)
            except MalformedPacket:
                self._outcomes.labels("malformed").inc()
            else:
                self._tracer.adopt(span)
                self._outcomes.labels("taken").inc()

    def _share(self, node: str) -> Bucket:
        share = self._shares.get(node)
        if share is None:
            if len(self._shares) >= MAX_NODES:
                self._shares.clear()
            share = self._shares[node] = Bucket(MESSAGES_PER_SECOND)
        return share


def _span_of(told: ToldSpan, resource: Resource) -> Span:
    return Span(
        told.name,
        told.context,
        told.parent or None,
        told.kind,
        told.started,
        None,
        dict(told.facts),
        [(event.at, event.name, dict(event.facts)) for event in told.events],
        told.ended or time.time_ns(),
        told.error or None,
        resource,
    )
