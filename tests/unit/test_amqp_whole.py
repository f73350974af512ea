"""Whole messages read at once mean what the general way of frames says."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.wire.amqp.events import LinkDetached, MessageArrived
from gateway.wire.amqp.link import ReceiverLink
from gateway.wire.amqp.performatives import TRANSPORT, Transfer
from gateway.wire.amqp.whole import read_whole
from tests.unit.amqp_client import attach_sender, frame, opened, transfer

TRANSFERS = st.builds(
    Transfer,
    handle=st.sampled_from([0, 1, 255, 256]),
    delivery_id=st.sampled_from([None, 0, 1, 255, 256, 2**32 - 1]),
    delivery_tag=st.none() | st.binary(max_size=40),
    message_format=st.sampled_from([None, 0, 1]),
    settled=st.sampled_from([None, True, False]),
    more=st.booleans(),
    aborted=st.booleans(),
)


@given(TRANSFERS, st.binary(max_size=50), st.binary(max_size=10), st.booleans())
def test_what_is_read_at_once_is_what_the_frame_says(
    asked: Transfer, payload: bytes, before: bytes, is_cut: bool
) -> None:
    whole = frame(asked, payload)
    data = before + whole + b"more"
    end = len(before) + len(whole) - (1 if is_cut and payload else 0)
    found = read_whole(data, len(before), end)
    if found is None:
        return
    handle, delivery_id, tag, settled, rest = found
    read, at = TRANSPORT.decode(whole[8:])
    assert isinstance(read, Transfer)
    assert (handle, delivery_id, tag) == (read.handle, read.delivery_id, read.delivery_tag)
    assert settled == bool(read.settled)
    assert not read.more
    assert not read.aborted
    assert rest == data[len(before) + 8 + at : end]


@given(st.binary(max_size=80))
def test_bytes_that_are_no_transfer_are_left_to_others(noise: bytes) -> None:
    data = b"\0\0\0\x60\x02\0\0\0\0\x53\x14\xc0" + noise
    for end in range(len(data) + 1):
        read_whole(data[:end], 0, end)


@given(st.integers(0, 60), st.integers(0, 255), st.integers(0, 255))
def test_no_byte_of_a_message_breaks_the_reader(at: int, value: int, tag: int) -> None:
    data = bytearray(frame(Transfer(1, 0x01000000, bytes(tag % 30), 0, False), b"payload"))
    data[at % len(data)] = value
    read_whole(bytes(data), 0, len(data))


def test_our_own_messages_are_read_at_once() -> None:
    usual = frame(Transfer(0, 0x01000000, b"\0\0\0\x07", 0, False), b"payload")
    assert read_whole(usual, 0, len(usual)) == (0, 0x01000000, b"\0\0\0\x07", False, b"payload")


def test_a_message_beyond_the_credit_ends_its_link_as_ever() -> None:
    server = opened()
    server.link_credit = 2
    server.receive(attach_sender(0, "telemetry/acme"))
    big = [transfer(0, 0x01000000 + n, b"x", settled=False) for n in range(3)]
    events = server.receive(b"".join(big))
    assert [type(e) for e in events] == [MessageArrived, MessageArrived, LinkDetached]


def test_a_delivery_id_that_is_in_use_ends_the_session_as_ever() -> None:
    server = opened()
    server.receive(attach_sender(0, "telemetry/acme"))
    twice = transfer(0, 0x01000000, b"x", settled=False)
    events = server.receive(twice + twice)
    assert [type(e) for e in events] == [MessageArrived, LinkDetached]


def test_a_message_over_the_size_ends_its_link_as_ever() -> None:
    server = opened()
    server.max_message_size = 10
    server.receive(attach_sender(0, "telemetry/acme"))
    link = server.link()
    assert isinstance(link, ReceiverLink)
    (event,) = server.receive(transfer(0, 0x01000000, b"x" * 11, settled=False))
    assert isinstance(event, LinkDetached)
    assert event.error is not None
    assert event.error.condition == "amqp:link:message-size-exceeded"
