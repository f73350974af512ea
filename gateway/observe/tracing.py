"""Light spans that always work; the OpenTelemetry SDK is loaded only when export is on.

Every room makes one span for its part of a message's walk and hands `span.context` on inside the
message, so one trace spans device, adapter, twin and edge, also across processes. Finished spans go
to the sinks: a bounded ring of the last ones (for `trace` and `why`) and, with export on, an OTLP
exporter behind a bounded queue.

Which span a log line belongs to is known inside `with` blocks of spans alone: they set a context variable.
Where messages come by the ten thousand, spans are ended by hand, nothing is set, and a line that is logged
there
names its trace in `extra={"trace": ...}`.
"""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextvars import ContextVar
from types import TracebackType

import msgspec

from gateway.model.trace import TraceContext

_clock = time.monotonic
AttributeValue = str | int | float | bool
Sink = Callable[["Span"], None]

_random = random.SystemRandom()
_ids = random.Random(_random.getrandbits(128))  # noqa: S311  ids must be unlike, not secret


TRACE_DIGITS, SPAN_DIGITS = 32, 16
_CONTEXTS = 256
"""How many new contexts one drawing of random bytes is for."""
FAILED_PER_SECOND = 10
"""Spans of failures in traces that nobody sampled."""


class _Page:
    """New contexts, made many at a time: one by one each costs twice as much.

    Most traces are not sampled, so contexts are made as such.
    """

    def __init__(self) -> None:
        self._ready: list[TraceContext] = []

    def take(self) -> TraceContext:
        """Return a context that is not sampled; neither of its ids is all zero."""
        try:
            return self._ready.pop()
        except IndexError:
            self._ready = self._drawn()
            return self._ready.pop()

    def _drawn(self) -> list[TraceContext]:
        digits, width = "0" * SPAN_DIGITS, TRACE_DIGITS + SPAN_DIGITS
        while "0" * SPAN_DIGITS in digits:
            digits = _ids.randbytes(_CONTEXTS * width // 2).hex()
        return [
            TraceContext(digits[at : at + TRACE_DIGITS], digits[at + TRACE_DIGITS : at + width], 0)
            for at in range(0, len(digits), width)
        ]


_page = _Page()


def new_context(*, sampled: bool = True) -> TraceContext:
    """Start a trace that nobody began before us."""
    context = _page.take()
    return TraceContext(context.trace_id, context.span_id, 1) if sampled else context


def child_of(parent: TraceContext) -> TraceContext:
    """Return the context of a new span below `parent`."""
    return TraceContext(
        parent.trace_id, f"{_ids.getrandbits(64) or 1:016x}", parent.flags, parent.state
    )


_NOTHING: dict[str, AttributeValue] = {}
_NEVER: list[tuple[int, str, Mapping[str, AttributeValue]]] = []
"""What spans that are not sampled share instead of attributes and events of their own."""


class Span(msgspec.Struct, eq=False):
    """One room's part of a walk; ends once, by `end` or by leaving its `with` block.

    Shape:  `resource` says whose span it is when it is another process's.
    Units:  `started` and `ended` in nanoseconds since the epoch; `kind` as OpenTelemetry names it
            (internal, server, client, producer, consumer). Without a `sink` it is not sampled: only its
            context is of use.
    """

    name: str
    context: TraceContext
    parent_id: str | None
    kind: str
    started: int
    sink: Sink | None
    attributes: dict[str, AttributeValue] = {}
    events: list[tuple[int, str, Mapping[str, AttributeValue]]] = []
    ended: int = 0
    error: str | None = None
    resource: Mapping[str, AttributeValue] | None = None
    outer: Span | None = None

    def set(self, key: str, value: AttributeValue) -> None:
        if self.attributes is _NOTHING:
            self.attributes = {}
        self.attributes[key] = value

    def event(self, name: str, attributes: Mapping[str, AttributeValue] | None = None) -> None:
        if self.sink is not None:
            self.events.append((time.time_ns(), name, attributes or {}))

    def end(self, error: BaseException | None = None) -> None:
        """Finish the span; a second call changes nothing."""
        if self.ended or self.sink is None:
            return
        self.ended = time.time_ns()
        if error is not None:
            self.error = str(error) or type(error).__name__
        self.sink(self)

    def __enter__(self) -> Span:
        self.outer = _current.get()
        _current.set(self)
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        error: BaseException | None,
        _where: TracebackType | None,
    ) -> None:
        _current.set(self.outer)
        self.outer = None  # else a walk's spans would keep each other
        self.end(error)


class Seen(msgspec.Struct, omit_defaults=True):
    """A finished span, as processes tell each other. Units:  times in nanoseconds since the epoch."""

    trace: str
    span: str
    name: str
    kind: str
    started: int
    ended: int
    parent: str | None = None
    error: str | None = None
    facts: dict[str, AttributeValue] = {}
    events: list[tuple[int, str, dict[str, AttributeValue]]] = []
    resource: dict[str, AttributeValue] = {}


def seen(span: Span) -> Seen:
    """Return what others may see of a span."""
    return Seen(
        span.context.trace_id,
        span.context.span_id,
        span.name,
        span.kind,
        span.started,
        span.ended,
        span.parent_id,
        span.error,
        span.attributes,
        [(at, name, dict(facts)) for at, name, facts in span.events],
        dict(span.resource or {}),
    )


_current: ContextVar[Span | None] = ContextVar("twinspan.span", default=None)


def current_span() -> Span | None:
    """Return the span whose `with` block this is, None outside of all."""
    return _current.get()


class Bucket:
    """At most so many a second."""

    __slots__ = ("_left", "_per_second", "second_ends")

    def __init__(self, per_second: int) -> None:
        self._per_second = per_second
        self.second_ends = 0.0
        self._left = 0

    def take(self) -> bool:
        """Return True while there is one left in this second."""
        now = _clock()
        if now >= self.second_ends:
            self.second_ends, self._left = now + 1.0, self._per_second
        if not self._left:
            return False
        self._left -= 1
        return True


class Tracer:
    """Makes spans and hands finished ones to its sinks.

    `ratio` samples the traces that start here (0.0 to 1.0); of those that start with what comes all the time,
    at most `frequent_per_second` are, and of all, where it is given, at most `per_second`. A parent's
    decision
    is followed, unless `follows` is False: then each span is decided anew. The last `keep` spans stay in
    memory.
    """

    def __init__(
        self,
        *,
        ratio: float = 1.0,
        frequent_per_second: int = 10,
        per_second: int | None = None,
        follows: bool = True,
        keep: int = 2_000,
    ) -> None:
        self._ratio = ratio
        self._follows = follows
        self._all = None if per_second is None else Bucket(per_second)
        self._frequent = Bucket(frequent_per_second)
        self._closed_until = 0.0
        self._failed = Bucket(FAILED_PER_SECOND)
        self.keep = keep
        self.elsewhere: Callable[[], Awaitable[Sequence[Seen]]] | None = None
        """Asks our other processes for what they keep."""
        self._recent: deque[Span] = deque(maxlen=keep)
        self._sinks: list[Sink] = []

    def add_sink(self, sink: Sink) -> None:
        """Send finished, sampled spans to `sink` too; it must not block."""
        self._sinks.append(sink)

    def start(
        self,
        name: str,
        parent: TraceContext | None = None,
        kind: str = "internal",
        attributes: Mapping[str, AttributeValue] | None = None,
        *,
        sampled: bool | None = None,
    ) -> Span:
        """Begin a span below `parent`, or a new trace without one.

        Shape:  `sampled` overrides what the parent and the settings say.
        """
        if parent is None:
            chosen = self._chooses() if sampled is None else sampled
            return self._span(name, new_context(sampled=chosen), None, kind, attributes)
        context = child_of(parent)
        if sampled is not None or not self._follows:
            chosen = self._chooses() if sampled is None else sampled
            flags = context.flags | 1 if chosen else context.flags & ~1
            context = TraceContext(context.trace_id, context.span_id, flags, context.state)
        return self._span(name, context, parent.span_id, kind, attributes)

    def start_frequent(
        self,
        name: str,
        parent: TraceContext | None,
        kind: str,
        attributes: Mapping[str, AttributeValue],
    ) -> Span:
        """Begin a span of what comes all the time, e.g. telemetry: `start`, with a bound on new traces."""
        if parent is None and (_clock() < self._closed_until or not self._opens()):
            return Span(name, _page.take(), None, kind, 0, None, _NOTHING, _NEVER)
        return self.start(name, parent, kind, attributes)

    def _opens(self) -> bool:
        """True while a frequent trace may begin in this second."""
        if self._frequent.take():
            return True
        self._closed_until = self._frequent.second_ends
        return False

    def start_rare(
        self,
        name: str,
        parent: TraceContext | None,
        kind: str,
        attributes: Mapping[str, AttributeValue],
    ) -> Span:
        """Begin a span of what is always worth a trace, e.g. a command; a parent's decision is followed."""
        return self.start(name, parent, kind, attributes, sampled=True if parent is None else None)

    def failed(
        self, span: Span, error: BaseException, attributes: Mapping[str, AttributeValue]
    ) -> None:
        """End a span with an error: one that is not sampled is shown all the same, ten a second at most."""
        if span.sink is None and not span.ended and self._failed.take():
            span.sink = self._finish
            span.started = span.started or time.time_ns()
            span.attributes = {**attributes, **span.attributes}
            span.events = []
        span.end(error)

    def _chooses(self) -> bool:
        if self._ratio < 1.0 and _ids.random() >= self._ratio:
            return False
        return self._all is None or self._all.take()

    def _span(
        self,
        name: str,
        context: TraceContext,
        parent_id: str | None,
        kind: str,
        attributes: Mapping[str, AttributeValue] | None,
    ) -> Span:
        if not context.is_sampled:
            return Span(name, context, parent_id, kind, 0, None, _NOTHING, _NEVER)
        return Span(
            name, context, parent_id, kind, time.time_ns(), self._finish, dict(attributes or {})
        )

    def recent(self, trace_id: str | None = None) -> list[Span]:
        """Return the last finished spans, oldest first, of one trace or of all."""
        return [s for s in self._recent if trace_id is None or s.context.trace_id == trace_id]

    def adopt(self, span: Span) -> None:
        """Take a finished span of another process."""
        self._finish(span)

    def _finish(self, span: Span) -> None:
        self._recent.append(span)
        for sink in self._sinks:
            sink(span)
