"""Where a CoAP device stands in a trace: Jaeger's binary form, as Hono's adapter reads it, or text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.hono.adapters.coap_messages import JAEGER, trace_of
from gateway.model.trace import TraceContext
from gateway.wire.coap import options
from tests.coap_rig import a_request

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


def jaeger(flags: int, *, trace: str = TRACE, span: str = SPAN, baggage: bytes = b"") -> bytes:
    ids = bytes.fromhex(trace), bytes.fromhex(span), bytes(8)
    return JAEGER.pack(*ids, flags, 1 if baggage else 0) + baggage


def said(value: bytes) -> TraceContext | None:
    return trace_of(a_request("t", more=((options.TRACE_CONTEXT, value),)))


@pytest.mark.parametrize(
    ("value", "flags"),
    [
        pytest.param(jaeger(1), 1, id="sampled"),
        pytest.param(jaeger(3), 1, id="debug"),
        pytest.param(jaeger(0), 0, id="not sampled"),
        pytest.param(jaeger(1, baggage=b"\0\0\0\1k\0\0\0\1v"), 1, id="baggage"),
        pytest.param(f"00-{TRACE}-{SPAN}-01".encode(), 1, id="traceparent"),
        pytest.param(f"00-{TRACE}-{SPAN}-00".encode(), 0, id="traceparent not sampled"),
    ],
)
def test_a_device_says_where_it_stands_in_a_trace(value: bytes, flags: int) -> None:
    assert said(value) == TraceContext(TRACE, SPAN, flags)


def test_a_short_trace_id_of_jaeger_is_filled_up_with_zeros() -> None:
    short = "0" * 16 + TRACE[16:]
    assert said(jaeger(1, trace=short)) == TraceContext(short, SPAN, 1)


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(b"", id="empty"),
        pytest.param(jaeger(1)[:-1], id="cut"),
        pytest.param(jaeger(1, trace="0" * 32), id="no trace"),
        pytest.param(jaeger(1, span="0" * 16), id="no span"),
        pytest.param(jaeger(1, baggage=bytes(128)), id="too long"),
        pytest.param(b"00-zz", id="text that is none"),
    ],
)
def test_what_is_no_trace_context_begins_a_trace_of_its_own(value: bytes) -> None:
    assert said(value) is None


def test_a_request_without_the_option_is_in_no_trace() -> None:
    assert trace_of(a_request("t")) is None


@given(st.binary(max_size=140))
def test_whatever_the_option_holds_nothing_is_raised(value: bytes) -> None:
    found = said(value)
    assert found is None or TraceContext.parse(found.traceparent) == found
