"""An edge's spans go behind everything else on the link, bounded on both ends, and come out as they were."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import msgspec
import pytest

from cloud.edgespans import MESSAGES_PER_SECOND, EdgeSpanRoom
from cloud.sessions import Inbound
from edge.hub import LinkFull
from edge.spannews import SpanNews, told_span
from gateway.config.edge import EdgeTraces
from gateway.errors import MalformedPacket
from gateway.observe.metrics import Metrics
from gateway.observe.tracing import Tracer
from gateway.runtime.module import Readiness, running
from gateway.wire.cloudedge.envelope import Envelope, Stamp, decode, encode
from gateway.wire.cloudedge.spans import EdgeSpans, ToldEvent, ToldSpan, tell_spans
from gateway.wire.cloudedge.to_cloud import read_to_cloud

FAST = EdgeTraces(interval=0.01, per_second=10_000)


class Wire:
    """The link: says how much waits to be written, and keeps what is sent."""

    def __init__(self) -> None:
        self.unwritten = 0
        self.is_full = False
        self.sent: list[EdgeSpans] = []
        self.came = asyncio.Event()

    @property
    def transport(self) -> Any:
        return self

    def get_write_buffer_size(self) -> int:
        return self.unwritten

    def send(self, envelope: Envelope) -> None:
        if self.is_full:
            raise LinkFull
        message = read_to_cloud(decode(encode(envelope)))
        assert isinstance(message, EdgeSpans)
        self.sent.append(message)
        self.came.set()


class Node:
    """What the cloud's room looks at of a message's sender."""

    node = "n1"


@asynccontextmanager
async def telling(
    wire: Wire, tracer: Tracer, metrics: Metrics, settings: EdgeTraces = FAST
) -> AsyncIterator[SpanNews]:
    news = SpanNews(settings, wire, tracer, metrics, {"site": "hall"})
    news.link_up(has_spool=True)
    async with running(news, Readiness(())):
        yield news


def counted(metrics: Metrics, outcome: str) -> float:
    return (
        metrics.registry.get_sample_value("twinspan_edge_spans_total", {"outcome": outcome}) or 0.0
    )


async def test_a_span_comes_out_in_the_cloud_as_the_edge_ended_it() -> None:
    here, there, wire = Tracer(), Tracer(), Wire()
    async with telling(wire, here, Metrics()):
        with here.start("edge.mapper write", None, "client", {"device": "d", "n": 3}) as parent:
            child = here.start("inner", parent.context)
            child.event("looked", {"ok": True})
            child.end(ValueError("no"))
        await wire.came.wait()
    metrics = Metrics()
    room = EdgeSpanRoom(there, metrics)
    await room.on_spans(cast("Inbound", Node()), wire.sent[0])
    inner, outer = there.recent()
    assert (inner.context, inner.parent_id, inner.error) == (
        child.context,
        parent.context.span_id,
        "no",
    )
    assert inner.events == child.events
    assert (outer.name, outer.kind, outer.attributes) == (
        "edge.mapper write",
        "client",
        {"device": "d", "n": 3},
    )
    assert (outer.started, outer.ended) == (parent.started, parent.ended)
    assert outer.resource == {
        "service.name": "twinspan-edge",
        "site": "hall",
        "k8s.node.name": "n1",
    }
    assert counted(metrics, "taken") == 2


async def test_spans_wait_while_anything_else_waits_to_be_written() -> None:
    tracer, wire, metrics = Tracer(), Wire(), Metrics()
    wire.unwritten = 1
    async with telling(wire, tracer, metrics, EdgeTraces(interval=0.01, max_queue=5)):
        for _ in range(8):
            tracer.start("x").end()
        await asyncio.sleep(0.1)
        assert wire.sent == []
        assert counted(metrics, "dropped") == 3
        wire.unwritten = 0
        await wire.came.wait()
    assert wire.sent[0].dropped == 3


async def test_no_more_than_the_rate_goes_at_a_time() -> None:
    tracer, wire = Tracer(), Wire()
    async with telling(wire, tracer, Metrics(), EdgeTraces(interval=0.1, per_second=30)):
        for _ in range(50):
            tracer.start("x").end()
        await wire.came.wait()
        assert sum(len(message.spans) for message in wire.sent) == 3


async def test_what_a_full_link_refuses_is_lost_and_counted() -> None:
    tracer, wire, metrics = Tracer(), Wire(), Metrics()
    wire.is_full = True
    async with telling(wire, tracer, metrics):
        tracer.start("x").end()
        while not counted(metrics, "dropped"):  # noqa: ASYNC110  a counter has no event
            await asyncio.sleep(0.01)
    assert wire.sent == []


async def test_a_cloud_of_kubeedge_is_told_nothing() -> None:
    tracer, wire = Tracer(), Wire()
    async with telling(wire, tracer, Metrics()) as news:
        news.link_up(has_spool=False)
        tracer.start("x").end()
        await asyncio.sleep(0.05)
    assert wire.sent == []


async def test_a_node_that_floods_is_refused_and_odd_spans_are_left_out() -> None:
    tracer, metrics = Tracer(), Metrics()
    span = Tracer().start("x")
    span.end()
    good = told_span(span)
    odd = [
        msgspec.structs.replace(good, traceparent="00-0-0-01"),
        msgspec.structs.replace(good, kind="odd"),
        msgspec.structs.replace(good, started=good.ended + 1),
        msgspec.structs.replace(good, parent="x"),
        msgspec.structs.replace(
            good,
            events=(ToldEvent(1, "e", {"a": "y" * 1_000}),) * 32,
            error="z" * 1_000,
            facts={f"{n}": "y" * 1_000 for n in range(32)},
        ),
    ]
    room = EdgeSpanRoom(tracer, metrics)
    inbound = cast("Inbound", Node())
    await room.on_spans(inbound, EdgeSpans((good, *odd)))
    assert (counted(metrics, "taken"), counted(metrics, "malformed")) == (1, 5)
    for _ in range(3 * MESSAGES_PER_SECOND):
        await room.on_spans(inbound, EdgeSpans((good,)))
    assert counted(metrics, "refused") >= MESSAGES_PER_SECOND


@pytest.mark.parametrize(
    "spans",
    [
        [{"name": "x"}],
        [{"name": "x" * 2_000, "traceparent": "", "started": 1, "ended": 2}],
        [{"name": "x", "traceparent": "", "started": 1, "ended": 2, "facts": {"a": [1]}}],
        [{"name": "x", "traceparent": "", "started": 1, "ended": 2}] * 101,
    ],
    ids=["fields", "length", "types", "count"],
)
def test_what_no_edge_of_ours_says_is_malformed(spans: Any) -> None:
    envelope = tell_spans(Stamp("1", 1), EdgeSpans(()))
    content = msgspec.Raw(msgspec.json.encode({"spans": spans}))
    with pytest.raises(MalformedPacket):
        read_to_cloud(msgspec.structs.replace(envelope, content=content))


def test_a_span_is_cut_to_what_the_link_takes() -> None:
    span = Tracer().start("x" * 5_000, None, "client", {str(n): "y" * 5_000 for n in range(100)})
    span.end()
    told = told_span(span)
    again = msgspec.json.decode(msgspec.json.encode(told), type=ToldSpan)
    assert (len(again.name), len(again.facts)) == (1_024, 32)
    assert again.context == span.context  # the cloud takes it
