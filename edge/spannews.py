"""Tells the cloud the spans of an edge that has no collector of its own.

They are worth less than anything else on the link: they wait in a bounded queue in memory, go only while
nothing
else waits to be written, at most `edge.traces.per_second`, and only to a CloudCore of ours. What does not
fit, and
what waits while the link is down longer than the queue lasts, is dropped and counted.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Mapping
from typing import Protocol

from edge.clock import stamp
from gateway.config.edge import EdgeTraces
from gateway.errors import GatewayError
from gateway.observe.metrics import Metrics
from gateway.observe.tracing import AttributeValue, Span, Tracer
from gateway.wire.cloudedge.envelope import Envelope
from gateway.wire.cloudedge.spans import (
    MAX_FACTS,
    MAX_SPANS,
    MAX_TEXT,
    EdgeSpans,
    ToldEvent,
    ToldSpan,
    tell_spans,
)

log = logging.getLogger(__name__)


class Link(Protocol):
    """What is needed of the hub."""

    @property
    def transport(self) -> asyncio.WriteTransport | None: ...

    def send(self, envelope: Envelope) -> None: ...


class SpanNews:
    """Module, and a listener of the link."""

    name = "edge.traces"

    def __init__(
        self,
        settings: EdgeTraces,
        link: Link,
        tracer: Tracer,
        metrics: Metrics,
        resource: Mapping[str, str],
    ) -> None:
        self._settings = settings
        self._link = link
        self._resource = {k: v[:MAX_TEXT] for k, v in list(resource.items())[:MAX_FACTS]}
        self._waiting: deque[Span] = deque()
        self._sent = metrics.own.hub_spans.labels("sent")
        self._dropped = metrics.own.hub_spans.labels("dropped")
        self._lost = 0
        self._is_up = False
        metrics.own.watch_queue("edge_spans", lambda: len(self._waiting), settings.max_queue)
        tracer.add_sink(self._take)

    def link_up(self, *, has_spool: bool) -> None:
        self._is_up = has_spool

    def link_down(self) -> None:
        self._is_up = False

    async def run(self, ready: Callable[[], None]) -> None:
        ready()
        while True:
            await asyncio.sleep(self._settings.interval)
            if self._waiting and self._may_send():
                self._send()

    def _take(self, span: Span) -> None:
        if len(self._waiting) >= self._settings.max_queue:
            self._dropped.inc()
            self._lost += 1
        else:
            self._waiting.append(span)

    def _may_send(self) -> bool:
        transport = self._link.transport
        return self._is_up and transport is not None and not transport.get_write_buffer_size()

    def _send(self) -> None:
        budget = max(1, round(self._settings.per_second * self._settings.interval))
        while self._waiting and budget > 0 and self._may_send():
            count = min(MAX_SPANS, budget, len(self._waiting))
            batch = [self._waiting.popleft() for _ in range(count)]
            budget -= count
            told = EdgeSpans(tuple(map(told_span, batch)), self._resource, self._lost)
            try:
                self._link.send(tell_spans(stamp(), told))
            except GatewayError as error:
                log.debug("spans are lost", extra={"cause": error.message})
                self._dropped.inc(count)
                self._lost += count
                return
            self._lost = 0
            self._sent.inc(count)


def told_span(span: Span) -> ToldSpan:
    """Return a span as it goes over the link, cut to what is allowed there."""
    return ToldSpan(
        name=span.name[:MAX_TEXT],
        traceparent=span.context.traceparent,
        started=span.started,
        ended=max(span.started, span.ended),
        parent=span.parent_id or "",
        kind=span.kind,
        error=(span.error or "")[:MAX_TEXT],
        facts=_cut(span.attributes),
        events=tuple(
            ToldEvent(at, name[:MAX_TEXT], _cut(facts))
            for at, name, facts in span.events[:MAX_FACTS]
        ),
    )


def _cut(facts: Mapping[str, AttributeValue]) -> dict[str, AttributeValue]:
    return {
        name[:MAX_TEXT]: value[:MAX_TEXT] if isinstance(value, str) else value
        for name, value in list(facts.items())[:MAX_FACTS]
    }
