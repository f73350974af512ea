"""The last traces of a process, as documents: one with its spans, or the newest that fit a wish.

Spans of worker processes are asked for when somebody looks; those of edges came over the hub and are in the
ring.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from gateway.errors import BadRequest, NotFound
from gateway.model.json import Json, JsonObject
from gateway.observe.tracing import TRACE_DIGITS, Seen, Tracer, seen

SHORTEST: Final = 6
"""Digits of a trace id that are enough to name it."""
MOST: Final = 100
"""Traces in one answer."""
OURSELVES: Final = "twinspan"
KINDS: Final[Mapping[str, tuple[str, ...]]] = {
    "telemetry": ("upload telemetry", "cloudhub upload telemetry", "forward Telemetry"),
    "event": ("upload event", "cloudhub upload event", "forward Event", "send "),
    "command": ("map and delegate", "delegate Command", "process received", "upload Command"),
    "twin": ("things.change",),
    "edge": ("edge.", "cloudhub ", "devicecontroller ", "edgecontroller ", "dynamiccontroller "),
    "api": ("ditto ", "GET registry", "PUT registry", "POST registry", "DELETE registry"),
}
"""What a trace is about -> how the names of some of its spans begin."""
_DEVICE: Final = ("device_id", "device", "object")
_HEX: Final = frozenset("0123456789abcdef")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """Which traces somebody wants to see; an empty text, or False, wants all.

    Shape:  `thing` and `device` are ids, a device's also as `namespace/name`; `kind` a key of `KINDS`.
    """

    thing: str = ""
    device: str = ""
    kind: str = ""
    failed: bool = False

    def fits(self, spans: Sequence[Seen]) -> bool:
        """True when the spans of one trace are what is wanted."""
        return (
            (not self.failed or any(span.error for span in spans))
            and (not self.kind or any(s.name.startswith(KINDS[self.kind]) for s in spans))
            and (not self.device or any(self._is_of_device(span) for span in spans))
            and (not self.thing or any(self._is_of_thing(span) for span in spans))
        )

    def _is_of_device(self, span: Seen) -> bool:
        named = (str(span.facts.get(name, "")) for name in _DEVICE)
        return any(one == self.device or one.endswith(f"/{self.device}") for one in named)

    def _is_of_thing(self, span: Seen) -> bool:
        path = str(span.facts.get("url.path", ""))
        return span.facts.get("thing") == self.thing or f"/things/{self.thing}/" in f"{path}/"


class RecentTraces:
    """Looks into the ring of a tracer, and of those of our other processes."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer

    def own(self) -> list[Seen]:
        """Return the spans of this process, and of edges, oldest first."""
        return [seen(span) for span in self._tracer.recent()]

    async def _spans(self) -> list[Seen]:
        elsewhere = self._tracer.elsewhere
        return [*self.own(), *(await elsewhere() if elsewhere else ())]

    async def one(self, wanted: str) -> JsonObject:
        """Return a trace.

        Shape:  `wanted` is its id, the first digits of it, or a `traceparent`.
        Errors: BadRequest for what is no id, or the first digits of several; NotFound with why.
        """
        digits = _digits_of(wanted)
        found = _by_trace(s for s in await self._spans() if s.trace.startswith(digits))
        if len(found) > 1:
            raise BadRequest(
                f"{digits}: the first digits of {len(found)} traces; give more of them"
            )
        for trace, spans in found.items():
            return trace_document(trace, spans)
        raise NotFound(f"trace {digits} is not among those kept", description=self._why_not(wanted))

    async def last(self, count: int, wish: Wish) -> JsonObject:
        """Return the newest traces that fit, newest first; by their last span."""
        traces = _by_trace(await self._spans())
        fitting = [(trace, spans) for trace, spans in traces.items() if wish.fits(spans)]
        fitting.sort(key=lambda pair: max(span.ended for span in pair[1]), reverse=True)
        items: list[Json] = [trace_document(*pair) for pair in fitting[: min(count, MOST)]]
        return {"traces": items, "seen": len(traces)}

    def _why_not(self, wanted: str) -> str:
        if wanted.count("-") >= 3 and not int(wanted.rpartition("-")[2][:2] or "0", 16) & 1:
            return "It is not sampled: the last two digits of its traceparent say so."
        spans = self._tracer.recent()
        reasons = ["it was not sampled (observe.traces.ratio, .telemetry_per_second)"]
        if len(spans) == self._tracer.keep:
            oldest = _time(min(span.ended for span in spans))
            reasons.insert(
                0, f"it is too old (the last {len(spans)} spans are kept, since {oldest})"
            )
        elif not spans:
            return "This process has finished no sampled span yet."
        reasons.append("none of its spans has ended yet, or its process exports by itself")
        return f"Perhaps {'; '.join(reasons)}."


def _digits_of(wanted: str) -> str:
    parts = wanted.strip().lower().split("-")
    digits = parts[1] if len(parts) == 4 else parts[0]
    if not SHORTEST <= len(digits) <= TRACE_DIGITS or not _HEX.issuperset(digits):
        raise BadRequest(
            f"expected a trace id of {TRACE_DIGITS} hex digits, at least the first {SHORTEST} of it,"
            " or a traceparent"
        )
    return digits


def _by_trace(spans: Iterable[Seen]) -> dict[str, list[Seen]]:
    found: dict[str, list[Seen]] = {}
    for span in spans:
        found.setdefault(span.trace, []).append(span)
    return found


def trace_document(trace: str, spans: Sequence[Seen]) -> JsonObject:
    """Return one trace as JSON.

    Units:  `offset_ms` is since the start of the trace's first span, by the clock of the span's process.
    """
    began = min(span.started for span in spans)
    ordered = sorted(spans, key=lambda span: (span.started, span.ended))
    return {
        "trace_id": trace,
        "started": _time(began),
        "duration_ms": _ms(max(span.ended for span in spans) - began),
        "failed": any(span.error for span in spans),
        "spans": [_span_document(span, began) for span in ordered],
    }


def _span_document(span: Seen, began: int) -> JsonObject:
    events: list[Json] = [
        {"offset_ms": _ms(at - began), "name": name, "attributes": {**facts}}
        for at, name, facts in span.events
    ]
    return {
        "span_id": span.span,
        "parent_id": span.parent,
        "name": span.name,
        "kind": span.kind,
        "service": str(span.resource.get("service.name", OURSELVES)),
        "node": str(span.resource.get("k8s.node.name", "")),
        "offset_ms": _ms(span.started - began),
        "duration_ms": _ms(span.ended - span.started),
        "error": span.error,
        "attributes": {**span.facts},
        "events": events,
    }


def _ms(nanoseconds: int) -> float:
    return round(nanoseconds / 1_000_000, 3)


def _time(nanoseconds: int) -> str:
    return datetime.fromtimestamp(nanoseconds / 1e9, UTC).isoformat(timespec="milliseconds")
