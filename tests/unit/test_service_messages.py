"""What a worker writes of a message is what the main process reads."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from gateway.hono.amqp_messages import MessageEncoder
from gateway.hono.service_uploads import read_message
from gateway.model.message import Kind, Message
from gateway.model.trace import TraceContext
from gateway.wire.amqp.message import decode_message

TRACE = TraceContext("1" * 32, "2" * 16)
VALUES = st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(max_size=9)
MESSAGES = st.builds(
    Message,
    tenant=st.just("acme"),
    device=st.sampled_from(("d1", "d2")),
    kind=st.sampled_from(Kind),
    qos=st.sampled_from((0, 1)),
    payload=st.binary(min_size=1, max_size=9),
    at=st.integers(0, 2**32).map(float),
    trace=st.sampled_from((TRACE, TraceContext("1" * 32, "2" * 16, state="a=b"))),
    content_type=st.sampled_from(("text/plain", "a/b")),
    adapter=st.sampled_from(("hono-mqtt", "")),
    address=st.sampled_from(("telemetry", "e//d2", "\u00a1\x03qosT\x00")),
    ttl=st.none() | st.integers(1, 1_000).map(float),
    ttd=st.none() | st.integers(-1, 60),
    retain=st.booleans(),
    duplicate=st.booleans(),
    properties=st.dictionaries(st.sampled_from(("a", "content-encoding", "b")), VALUES).map(
        lambda given: {k: v for k, v in given.items() if k != "content-encoding"} | {"c": "d"}
    ),
)


@given(st.lists(MESSAGES, min_size=1, max_size=4))
def test_nothing_of_a_message_is_lost_on_the_way(messages: list[Message]) -> None:
    encoder = MessageEncoder("i")
    for message in messages:
        is_event = message.kind is Kind.EVENT
        sent = msgspec.structs.replace(message, qos=1) if is_event else message
        encoded = encoder.encode_event(sent, 0, sent.ttl) if is_event else encoder.encode(sent)
        read = decode_message(encoded)
        assert read_message(sent.kind, "acme", read, sent.at, sent.trace) == sent
