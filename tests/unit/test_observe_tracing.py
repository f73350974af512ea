"""Spans: ids that are always there, sampling that follows the caller and bounds what is frequent."""

import pytest

from gateway.errors import NoConsumer
from gateway.model.trace import TraceContext
from gateway.observe import tracing
from gateway.observe.tracing import (
    FAILED_PER_SECOND,
    Span,
    Tracer,
    child_of,
    current_span,
    new_context,
)

PARENT = TraceContext("a" * 32, "b" * 16)


def test_a_new_context_reads_back_as_the_standard_says() -> None:
    for sampled in (True, False):
        context = new_context(sampled=sampled)
        assert TraceContext.parse(context.traceparent) == context
        assert context.is_sampled is sampled
    assert len({new_context().trace_id for _ in range(100)}) == 100
    assert len({new_context().span_id for _ in range(100)}) == 100


def test_ids_are_never_all_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []

    class Zero:
        """All zero, the first time at least: bytes are drawn again then."""

        def getrandbits(self, _bits: int) -> int:
            return 0

        def randbytes(self, size: int) -> bytes:
            drawn.append(size)
            return bytes((len(drawn) - 1,)) * size

    monkeypatch.setattr(tracing, "_ids", Zero())
    monkeypatch.setattr(tracing, "_page", tracing._Page())
    for context in (new_context(), child_of(PARENT)):
        assert TraceContext.parse(context.traceparent) == context
    assert len(drawn) == 2


def test_a_span_below_a_parent_keeps_its_trace_and_ends_once() -> None:
    tracer, seen = Tracer(), list[Span]()
    tracer.add_sink(seen.append)
    given = {"tenant_id": "t"}
    span = tracer.start("upload", PARENT, "server", given)
    span.set("more", 1)
    span.event("looked")
    span.end(NoConsumer())
    span.end()
    assert seen == tracer.recent("a" * 32) == [span]
    assert (span.parent_id, span.attributes) == ("b" * 16, {"tenant_id": "t", "more": 1})
    assert given == {"tenant_id": "t"}
    assert span.error == NoConsumer().message
    assert 0 < span.started <= span.events[0][0] <= span.ended


def test_a_callers_decision_not_to_sample_is_followed() -> None:
    tracer = Tracer()
    span = tracer.start("upload", TraceContext("a" * 32, "b" * 16, flags=0))
    with span:
        span.set("key", "value")
    assert not span.context.is_sampled
    assert tracer.recent() == []


def test_a_ratio_of_zero_samples_no_new_trace() -> None:
    tracer = Tracer(ratio=0.0)
    tracer.start("upload").end()
    tracer.start_frequent("upload telemetry", None, "server", {}).end()
    assert tracer.recent() == []


def test_frequent_spans_start_so_many_sampled_traces_per_second(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 100.0
    monkeypatch.setattr("gateway.observe.tracing._clock", lambda: now)
    tracer = Tracer(frequent_per_second=2)

    def sampled_of(count: int) -> int:
        spans = [tracer.start_frequent("telemetry", None, "server", {}) for _ in range(count)]
        for span in spans:
            assert TraceContext.parse(span.context.traceparent) == span.context
            span.end()
        return sum(span.context.is_sampled for span in spans)

    assert sampled_of(5) == 2
    now = 100.9
    assert sampled_of(5) == 0
    now = 101.1
    assert sampled_of(5) == 2
    assert len(tracer.recent()) == 4


def test_frequent_spans_below_a_sampled_parent_are_all_kept() -> None:
    tracer = Tracer(frequent_per_second=0)
    for _ in range(3):
        tracer.start_frequent("telemetry", PARENT, "server", {}).end()
    assert not tracer.start_frequent("telemetry", None, "server", {}).context.is_sampled
    assert len(tracer.recent("a" * 32)) == 3


def test_a_with_block_is_the_current_span_and_gives_way_to_the_outer_one() -> None:
    tracer = Tracer()
    assert current_span() is None
    with tracer.start("outer") as outer:
        with tracer.start("inner", outer.context) as inner:
            assert current_span() is inner
        assert current_span() is outer
        assert inner.outer is None
    assert current_span() is None


def test_an_override_goes_before_the_parent() -> None:
    tracer = Tracer(ratio=0.0)
    off = new_context(sampled=False)
    span = tracer.start("upload", off, sampled=True)
    assert span.context.is_sampled
    assert span.context.trace_id == off.trace_id
    assert not tracer.start("upload", span.context, sampled=False).context.is_sampled


def test_commands_are_sampled_whatever_the_ratio_but_a_caller_may_say_no() -> None:
    tracer = Tracer(ratio=0.0)
    assert tracer.start_rare("command", None, "consumer", {}).context.is_sampled
    off = new_context(sampled=False)
    assert not tracer.start_rare("command", off, "consumer", {}).context.is_sampled


def test_failures_are_shown_though_not_sampled_but_not_by_the_thousand() -> None:
    tracer = Tracer(ratio=0.0)
    for _ in range(100):
        tracer.failed(tracer.start("upload"), ValueError("no"), {"component": "x"})
    shown = tracer.recent()
    assert 1 <= len(shown) <= 2 * FAILED_PER_SECOND
    assert shown[0].error == "no"
    assert shown[0].attributes == {"component": "x"}
    assert shown[0].started <= shown[0].ended


def test_all_new_traces_can_be_limited() -> None:
    tracer = Tracer(per_second=3)
    sampled = [tracer.start("x").context.is_sampled for _ in range(50)]
    assert 3 <= sum(sampled) <= 6


def test_without_parents_every_span_is_decided_anew() -> None:
    tracer = Tracer(ratio=0.0, follows=False)
    assert not tracer.start("x", new_context()).context.is_sampled
