"""W3C trace context as a value; making ids and timing spans is `gateway.observe.tracing`'s job."""

from __future__ import annotations

import re

import msgspec

_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_MAX_TRACESTATE = 512


class TraceContext(msgspec.Struct, frozen=True, gc=False):
    """Where a message stands in a trace.

    Shape:  `trace_id` 32 and `span_id` 16 lower-case hex digits, never all zero; `flags` is a byte whose
            bit 0 says sampled (other bits may be set: read it as bits).
    Source: W3C Trace Context, section 3.2.
    """

    trace_id: str
    span_id: str
    flags: int = 1
    state: str | None = None

    @property
    def is_sampled(self) -> bool:
        return bool(self.flags & 1)

    @property
    def traceparent(self) -> str:
        return f"00-{self.trace_id}-{self.span_id}-{self.flags:02x}"

    @classmethod
    def parse(cls, traceparent: str | None, tracestate: str | None = None) -> TraceContext | None:
        """Read the two headers; None where there is none or it is broken (the standard says: start anew)."""
        if traceparent is None:
            return None
        match = _TRACEPARENT.fullmatch(traceparent.strip())
        if match is None:
            return None
        version, trace_id, span_id, flags, rest = match.groups()
        if (
            version == "ff"
            or (version == "00" and rest)
            or not trace_id.strip("0")
            or not span_id.strip("0")
        ):
            return None
        state = tracestate if tracestate and len(tracestate) <= _MAX_TRACESTATE else None
        return cls(trace_id, span_id, int(flags, 16), state)
