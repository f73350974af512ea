"""Recent traces: which are found, why one is not, and how a tree is drawn."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.cli.trace import drawn
from gateway.errors import BadRequest, NotFound
from gateway.observe.recent import RecentTraces, Wish, trace_document
from gateway.observe.tracing import Seen, Tracer, seen

SECOND = 1_000_000_000


def a_span(name: str, span: int, parent: int | None = None, **more: Any) -> Seen:
    at = more.pop("at", span) * 1_000_000
    return Seen(
        trace="a" * 32,
        span=f"{span:016x}",
        name=name,
        kind="internal",
        started=SECOND + at,
        ended=SECOND + at + more.pop("took", 1) * 1_000_000,
        parent=None if parent is None else f"{parent:016x}",
        **more,
    )


def lines_of(*spans: Seen, is_wide: bool = False) -> list[str]:
    import click

    document = trace_document("a" * 32, spans)
    return [click.unstyle(line) for line in drawn(document, is_wide=is_wide)]


def test_children_hang_below_their_parents_in_the_order_of_time() -> None:
    lines = lines_of(
        a_span("late", 4, 1),
        a_span("root", 1, 99),
        a_span("early", 2, 1),
        a_span("leaf", 3, 2, resource={"k8s.node.name": "edge-1"}),
    )
    assert [line.split("  ")[0] for line in lines[2:]] == ["root", "├─ early", "│", "└─ late"]
    assert "│  └─ leaf" in lines[4]
    assert "@edge-1" in lines[4]
    assert "4.0 ms  4 spans" in lines[0]


def test_a_ring_and_an_orphan_are_drawn_too() -> None:
    lines = lines_of(a_span("a", 1, 2), a_span("b", 2, 1), a_span("orphan", 3, 77))
    names = " ".join(lines[2:])
    assert all(name in names for name in ("? a", "? b", "orphan"))


def test_what_a_device_wrote_does_not_command_the_terminal() -> None:
    spans = a_span("n\x1b[2J", 1, error="e\x07\nforged", facts={"de\x1bvice": "x\x1b]0;y"})
    text = "".join(lines_of(spans, is_wide=True))
    assert not any(c in text for c in "\x1b\x07\n")


def a_tracer(keep: int = 100) -> tuple[Tracer, RecentTraces]:
    tracer = Tracer(keep=keep)
    return tracer, RecentTraces(tracer)


async def test_a_trace_is_found_by_id_by_its_first_digits_and_by_traceparent() -> None:
    tracer, recent = a_tracer()
    with tracer.start("outer") as outer:
        tracer.start("inner", outer.context).end()
    context = outer.context
    for wanted in (context.trace_id, context.trace_id[:6].upper(), context.traceparent):
        found = await recent.one(wanted)
        assert [span["name"] for span in found["spans"]] == ["outer", "inner"]  # type: ignore[index,union-attr,call-overload]


async def test_spans_of_other_processes_are_in_it() -> None:
    tracer, recent = a_tracer()
    span = tracer.start("here")
    span.end()
    other = Tracer()
    other.start("there", span.context).end()

    async def elsewhere() -> list[Seen]:
        return [seen(each) for each in other.recent()]

    tracer.elsewhere = elsewhere
    found = await recent.one(span.context.trace_id)
    assert [each["name"] for each in found["spans"]] == ["here", "there"]  # type: ignore[index,union-attr,call-overload]


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ("00-" + "b" * 32 + "-" + "c" * 16 + "-00", "not sampled"),
        ("b" * 32, "too old"),
    ],
    ids=["flags", "old"],
)
async def test_what_is_not_there_is_said_with_why(wanted: str, said: str) -> None:
    tracer, recent = a_tracer(keep=2)
    for _ in range(3):
        tracer.start("x").end()
    with pytest.raises(NotFound) as caught:
        await recent.one(wanted)
    assert said in str(caught.value.description)


async def test_a_ring_that_never_was_full_cannot_have_lost_it() -> None:
    tracer, recent = a_tracer()
    with pytest.raises(NotFound) as caught:
        await recent.one("b" * 32)
    assert "no sampled span yet" in str(caught.value.description)
    tracer.start("x").end()
    with pytest.raises(NotFound) as caught:
        await recent.one("b" * 32)
    assert "too old" not in str(caught.value.description)


@pytest.mark.parametrize("wanted", ["", "abc", "g" * 32, "a" * 33, "00-a-b", "%00"], ids=repr)
async def test_what_is_no_id_is_refused(wanted: str) -> None:
    with pytest.raises(BadRequest):
        await a_tracer()[1].one(wanted)


async def test_the_first_digits_of_several_are_refused() -> None:
    tracer, recent = a_tracer()
    for last in "01":
        context = seen_context("abcdef" + "0" * 25 + last)
        tracer.start("x", context).end()
    with pytest.raises(BadRequest, match="of 2 traces"):
        await recent.one("abcdef")


def seen_context(trace: str) -> Any:
    from gateway.model.trace import TraceContext

    return TraceContext(trace, "1" * 16)


@pytest.mark.parametrize(
    ("wish", "fits"),
    [
        (Wish(), True),
        (Wish(thing="org.acme:1"), True),
        (Wish(thing="org.acme:2"), True),
        (Wish(thing="org.acme"), False),
        (Wish(device="4711"), True),
        (Wish(device="lamp"), True),
        (Wish(device="default/lamp"), True),
        (Wish(device="amp"), False),
        (Wish(kind="twin"), True),
        (Wish(kind="command"), False),
        (Wish(kind="twin", failed=True), False),
    ],
    ids=repr,
)
def test_what_fits_a_wish(wish: Wish, fits: bool) -> None:
    spans = [
        a_span("things.change", 1, facts={"thing": "org.acme:1"}),
        a_span("ditto PUT", 2, facts={"url.path": "/api/2/things/org.acme:2/features/a"}),
        a_span("upload event", 3, facts={"device_id": "4711"}),
        a_span("edge.mapper write", 4, facts={"device": "default/lamp"}),
    ]
    assert wish.fits(spans) is fits


async def test_the_newest_come_first_and_no_more_than_were_asked_for() -> None:
    tracer, recent = a_tracer()
    for name in ("one", "two", "three"):
        tracer.start(name).end()
    found = await recent.last(2, Wish())
    assert [one["spans"][0]["name"] for one in found["traces"]] == ["three", "two"]  # type: ignore[index,union-attr,call-overload]
    assert found["seen"] == 3
