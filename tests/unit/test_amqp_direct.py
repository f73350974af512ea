"""Composites read straight from their bytes are what the general decoder makes of them, broken ones too."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.errors import MalformedPacket
from gateway.wire.amqp.decode import decode
from gateway.wire.amqp.direct import read_composite
from gateway.wire.amqp.fields import Catalogue
from gateway.wire.amqp.message import SECTIONS, Header, Properties
from gateway.wire.amqp.performatives import (
    ACCEPTED,
    RECEIVER,
    RELEASED,
    SASL,
    SENDER,
    TRANSPORT,
    Attach,
    Begin,
    Detach,
    Disposition,
    Error,
    Flow,
    Modified,
    Open,
    Rejected,
    SaslInit,
    Source,
    Target,
    Transfer,
)

UINT = st.integers(0, 2**32 - 1)
FLAG = st.booleans()
STATE = st.sampled_from(
    (None, ACCEPTED, RELEASED, Rejected(Error("amqp:not-found", "x")), Modified(True))
)
PERFORMATIVES = st.one_of(
    st.builds(Transfer, UINT, UINT, st.binary(max_size=32), UINT, FLAG, FLAG, state=STATE),
    st.builds(Disposition, FLAG, UINT, st.none() | UINT, FLAG, STATE),
    st.builds(Flow, UINT, UINT, UINT, st.none() | UINT, st.none() | UINT, UINT, UINT, UINT, FLAG),
    st.builds(Detach, UINT, FLAG, st.none() | st.builds(Error, st.just("amqp:not-found"))),
    st.builds(Open, st.text(max_size=40), st.none() | st.text(max_size=9), UINT),
    st.builds(Begin, UINT, UINT, UINT),
    st.builds(Attach, st.text(max_size=20), UINT, FLAG, source=st.just(Source("a"))),
    st.just(Attach("a", 1, True, target=Target("t"), properties={"a": 1})),
)


def by_the_general_decoder(catalogue: Catalogue, data: bytes) -> tuple[object, int]:
    value, end = decode(data)
    return catalogue.read(value), end


def check_alike(catalogue: Catalogue, data: bytes) -> None:
    expected = outcome(lambda: by_the_general_decoder(catalogue, data))
    assert outcome(lambda: catalogue.decode(data)) == expected


def outcome(read: Callable[[], tuple[object, int]]) -> tuple[object, int] | str:
    """What was read, or the words of the refusal."""
    try:
        return read()
    except MalformedPacket as error:
        return error.message


@given(PERFORMATIVES, st.binary(max_size=20))
def test_a_performative_is_read_alike_and_ends_where_its_payload_begins(
    value: object, payload: bytes
) -> None:
    data = TRANSPORT.write(value)
    assert TRANSPORT.decode(data + payload) == (value, len(data))
    check_alike(TRANSPORT, data + payload)


@given(PERFORMATIVES, st.data())
def test_a_performative_with_some_bytes_changed_is_read_alike_or_refused_alike(
    value: object, data: st.DataObject
) -> None:
    raw = bytearray(TRANSPORT.write(value))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(raw) - 1))
        raw[at] = data.draw(st.sampled_from((0, 1, 0x40, 0x41, 0x43, 0x45, 0x52, 0xA0, 0xC0, 255)))
    cut = data.draw(st.integers(0, len(raw)))
    check_alike(TRANSPORT, bytes(raw))
    check_alike(TRANSPORT, bytes(raw[:cut]))


@given(st.binary(max_size=64))
@example(b"\x00\x53\x15\xc0\x02\x02\x41")
@example(b"\x00\x53\x15\xc0\xff\x02\x41\x43")
@example(b"\x00\x53\x18\xc0\x01\x00")
@example(b"\x00\x53\x18\x45")
def test_any_bytes_are_read_alike_or_refused_alike(data: bytes) -> None:
    for catalogue in (TRANSPORT, SASL, SECTIONS):
        check_alike(catalogue, data)
        check_alike(catalogue, b"\x00\x53" + data)


@pytest.mark.parametrize(
    ("catalogue", "value"),
    [
        (TRANSPORT, Transfer(0, 70_000, b"\0\0\0\1", 0, False)),
        (TRANSPORT, Disposition(RECEIVER, 1, 50, True, ACCEPTED)),
        (TRANSPORT, Disposition(SENDER, 1, None, True, RELEASED)),
        (TRANSPORT, Flow(1_000, 1, 1_000, 7, 0, 5, 1_000)),
        (SASL, SaslInit("PLAIN", b"\0a\0b", "localhost")),
        (SECTIONS, Properties(to="telemetry", content_type="application/json", message_id="1")),
        (SECTIONS, Header(durable=True, ttl=1_000)),
    ],
)
def test_what_comes_with_each_message_takes_the_short_way(
    catalogue: Catalogue, value: object
) -> None:
    assert read_composite(catalogue._plans, catalogue.write(value)) is not None


@pytest.mark.parametrize("state", [b"\x45", b"\xc0\x01\x00", b"\xd0\0\0\0\4\0\0\0\0"])
def test_an_empty_list_has_three_forms(state: bytes) -> None:
    body = b"\x41\x43\x40\x41\x00\x53\x24" + state
    data = b"\x00\x53\x15\xc0" + bytes((len(body) + 1, 5)) + body
    assert TRANSPORT.decode(data) == (Disposition(RECEIVER, 0, None, True, ACCEPTED), len(data))
