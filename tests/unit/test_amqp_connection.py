"""The AMQP 1.0 server session: handshake, links, credit, settlement, errors, time."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.wire.amqp.connection import AMQP_HEADER, CLOSE_SECONDS, MAX_AHEAD, SASL_HEADER
from gateway.wire.amqp.events import (
    ConnectionEnded,
    ConnectionOpened,
    Disposed,
    Event,
    LinkDetached,
    MessageArrived,
    OpenRequested,
    SaslRequested,
    SendPossible,
)
from gateway.wire.amqp.link import Incoming, SenderLink
from gateway.wire.amqp.performatives import (
    ACCEPTED,
    RCV_SECOND,
    RECEIVER,
    RELEASED,
    SENDER,
    SND_SETTLED,
    SND_UNSETTLED,
    Attach,
    Begin,
    Close,
    Detach,
    Disposition,
    End,
    Error,
    Flow,
    Modified,
    Open,
    Received,
    Rejected,
    SaslInit,
    SaslMechanisms,
    SaslOutcome,
    Source,
    Target,
    Transfer,
)
from tests.unit.amqp_client import (
    BEGIN,
    OPEN,
    PLAIN,
    Server,
    attach_receiver,
    attach_sender,
    credit,
    frame,
    frames_of,
    opened,
    transfer,
)


def ended(events: list[Event]) -> Error | None:
    return next(event.error for event in events if isinstance(event, ConnectionEnded))


def closes(server: Server) -> Error | None:
    """The error of the close frame that the server writes."""
    return next(each.error for each in server.sent() if isinstance(each, Close))


# --- handshake -----------------------------------------------------------------------------------------


def test_the_handshake_asks_for_sasl_and_open() -> None:
    server = Server()
    events = server.receive(PLAIN + OPEN)
    assert events == [
        SaslRequested("PLAIN", b"\0ann\0secret", "host"),
        OpenRequested(Open("client", max_frame_size=1_024, idle_time_out=30_000)),
    ]
    header, mechanisms, outcome, second, answer = server.sent()
    assert (header, second) == (SASL_HEADER, AMQP_HEADER)
    assert mechanisms == SaslMechanisms(("PLAIN",))
    assert outcome == SaslOutcome(0)
    assert answer == Open(
        "server",
        max_frame_size=16_384,
        channel_max=63,
        idle_time_out=30_000,
        offered_capabilities=("ANONYMOUS-RELAY",),
    )


def test_what_was_sent_ahead_waits_for_the_answers() -> None:
    connection = Server().connection
    events = list(connection.receive(PLAIN + OPEN + BEGIN + attach_sender(), 0.0))
    assert [type(event) for event in events] == [SaslRequested]
    events = list(connection.answer_sasl(0, 0.0))
    assert [type(event) for event in events] == [OpenRequested]
    assert list(connection.receive(attach_receiver(1), 0.0)) == []
    assert len(list(connection.accept(0.0))) == 2


def test_too_much_sent_ahead_ends_the_connection() -> None:
    connection = Server().connection
    list(connection.receive(PLAIN, 0.0))
    for _ in range(MAX_AHEAD // 1_000):
        assert list(connection.receive(b"x" * 1_000, 0.0)) == []
    assert ended(list(connection.receive(b"x" * 1_000, 0.0))) is not None
    assert connection.closed


def test_an_answer_given_at_once_stands_before_what_follows() -> None:
    server = opened()
    server.receive(attach_receiver(0) + frame(Detach(handle=0, closed=True)))
    assert [type(each) for each in server.sent()] == [Attach, Detach]


def test_a_refused_password_gets_its_outcome_and_the_end() -> None:
    server = Server()
    server.sasl_code = 1
    events = server.receive(PLAIN)
    assert isinstance(events[-1], ConnectionEnded)
    assert server.sent()[-1] == SaslOutcome(1)
    assert server.connection.closed


def test_a_mechanism_that_was_not_offered_is_refused() -> None:
    server = Server()
    server.receive(SASL_HEADER + frame(SaslInit("ANONYMOUS"), kind=1))
    assert server.sent()[-1] == SaslOutcome(1)
    assert server.connection.closed


@pytest.mark.parametrize(
    "header", [b"GET / HT", b"AMQP\x02\x01\x00\x00", b"AMQP\x00\x00\x09\x01", AMQP_HEADER, b"X"]
)
def test_another_protocol_gets_our_header_and_the_end(header: bytes) -> None:
    server = Server()
    events = server.receive(header)
    assert ended(events) is not None
    assert server.connection.to_send() == SASL_HEADER
    assert server.connection.closed


def test_a_connection_without_sasl_is_allowed_where_the_limits_say_so() -> None:
    server = Server(allow_without_sasl=True)
    server.receive(OPEN)
    assert server.connection.is_open


def test_a_sasl_frame_over_its_limit_is_refused() -> None:
    server = Server()
    events = server.receive(SASL_HEADER + (8_193).to_bytes(4, "big") + b"\x02\x01\x00\x00")
    error = ended(events)
    assert error is not None
    assert error.condition == "amqp:framing-error"


def test_a_refused_open_is_opened_and_closed() -> None:
    server = Server()
    list(server.connection.receive(PLAIN, 0.0))
    list(server.connection.answer_sasl(0, 0.0))
    list(server.connection.receive(OPEN, 0.0))
    server.connection.refuse(Error("amqp:unauthorized-access", "no"))
    sent = server.sent()
    assert isinstance(sent[-2], Open)
    assert sent[-1] == Close(Error("amqp:unauthorized-access", "no"))


# --- every cut of the stream ----------------------------------------------------------------------------


def shape(event: Event) -> Any:
    """An event without the identity of its session's objects."""
    match event:
        case MessageArrived(link=link, delivery=delivery):
            return "message", link.name, delivery.id, delivery.payload, delivery.settled
        case LinkDetached(link=link, error=error, unsettled=unsettled):
            return "detached", link.name, error, len(unsettled)
        case Disposed(deliveries=deliveries, state=state):
            return "disposed", [sent.id for sent in deliveries], state
        case SaslRequested() | OpenRequested() | ConnectionOpened() | ConnectionEnded():
            return event
        case other:
            return type(other), other.link.name


STREAM = (
    PLAIN
    + OPEN
    + BEGIN
    + attach_sender(0)
    + attach_receiver(1)
    + credit(1, 5)
    + transfer(0, 0, b"one")
    + transfer(0, 1, b"two ", more=True)
    + frame(Transfer(handle=0), b"halves")
    + transfer(0, 2, b"settled", settled=True)
    + b"\x00\x00\x00\x08\x02\x00\x00\x00"
    + transfer(0, 3, b"never", more=True)
    + frame(Transfer(handle=0, aborted=True))
    + frame(Detach(handle=1, closed=True))
    + frame(End())
    + frame(Close())
)


def test_events_do_not_depend_on_where_the_network_cuts() -> None:
    whole = [shape(event) for event in Server().receive(STREAM)]
    assert [each for each in whole if isinstance(each, tuple) and each[0] == "message"] == [
        ("message", "s0", 0, b"one", False),
        ("message", "s0", 1, b"two halves", False),
        ("message", "s0", 2, b"settled", True),
    ]
    for cut in range(1, len(STREAM)):
        server = Server()
        events = server.receive(STREAM[:cut]) + server.receive(STREAM[cut:])
        assert [shape(event) for event in events] == whole


def test_byte_by_byte_is_the_same_as_at_once() -> None:
    whole = [shape(event) for event in Server().receive(STREAM)]
    server = Server()
    for at in range(len(STREAM)):
        server.receive(STREAM[at : at + 1])
    assert [shape(event) for event in server.events] == whole


@given(st.integers(0, len(STREAM) - 1), st.integers(0, 255))
@settings(max_examples=500, deadline=None)
def test_a_damaged_stream_ends_with_a_named_error_or_not_at_all(at: int, byte: int) -> None:
    data = bytearray(STREAM)
    data[at] = byte
    server = Server()
    server.receive(bytes(data))
    for event in server.events:
        if isinstance(event, ConnectionEnded) and event.error is not None:
            assert event.error.condition.startswith("amqp:")
    frames_of(server.connection.to_send())


@given(st.binary(max_size=300))
@settings(max_examples=300, deadline=None)
def test_garbage_after_open_ends_the_connection_or_waits(data: bytes) -> None:
    server = opened()
    server.receive(data)
    frames_of(server.connection.to_send())


@pytest.mark.parametrize(
    ("data", "condition"),
    [
        (b"\x00\x00\x00\x07\x02\x00\x00\x00", "amqp:framing-error"),
        (b"\x7f\xff\xff\xff\x02\x00\x00\x00", "amqp:framing-error"),
        (b"\x00\x00\x00\x08\x01\x00\x00\x00", "amqp:framing-error"),
        (b"\x00\x00\x00\x08\x03\x00\x00\x00", "amqp:framing-error"),
        (b"\x00\x00\x00\x08\x02\x01\x00\x00", "amqp:framing-error"),
        (b"\x00\x00\x00\x09\x02\x00\x00\x00\xff", "amqp:decode-error"),
        (b"\x00\x00\x00\x09\x02\x00\x00\x00\x41", "amqp:decode-error"),
        (frame(Open("again")), "amqp:not-allowed"),
        (BEGIN, "amqp:not-allowed"),
        (frame(Begin(0, 1, 1), channel=64), "amqp:framing-error"),
        (frame(Flow(1, 0, 1), channel=5), "amqp:framing-error"),
        (attach_sender(256), "amqp:framing-error"),
    ],
)
def test_what_the_protocol_does_not_allow_closes_with_a_condition(
    data: bytes, condition: str
) -> None:
    server = opened()
    error = ended(server.receive(data))
    assert error is not None
    assert error.condition == condition
    assert error.description
    assert closes(server) == error
    assert not server.connection.closed
    server.receive(frame(Close()))
    assert server.connection.closed


def test_a_peer_that_does_not_close_is_left_after_a_while() -> None:
    server = opened()
    server.receive(b"\x00\x00\x00\x00\x00\x00\x00\x00", 5.0)
    assert server.connection.wake_at == 5.0 + CLOSE_SECONDS
    server.connection.tick(5.0 + CLOSE_SECONDS)
    assert server.connection.closed


# --- sessions and links -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "condition"),
    [
        (attach_sender(0) + attach_sender(0), "amqp:session:handle-in-use"),
        (frame(Detach(handle=9)), "amqp:session:unattached-handle"),
        (transfer(9, 0, b""), "amqp:session:unattached-handle"),
        (attach_sender(0) + frame(Transfer(handle=0), b"x"), "amqp:invalid-field"),
        (attach_receiver(0) + transfer(0, 0, b""), "amqp:not-allowed"),
        (attach_sender(0) + transfer(0, 5, b"") + transfer(0, 5, b""), "amqp:invalid-field"),
    ],
)
def test_a_broken_session_rule_ends_the_session_alone(data: bytes, condition: str) -> None:
    server = opened()
    server.receive(data)
    end = next(each for each in server.sent() if isinstance(each, End))
    assert end.error is not None
    assert end.error.condition == condition
    assert not any(isinstance(event, ConnectionEnded) for event in server.events)
    server.receive(transfer(0, 6, b"late") + frame(End()) + BEGIN)
    assert isinstance(server.sent()[-1], Begin)


def test_more_frames_than_the_window_allows_end_the_session() -> None:
    server = opened(incoming_window=4)
    server.link_credit = 100
    server.receive(attach_sender(0))
    server.sent()
    session = server.connection._sessions[0]
    session._incoming_window = 0
    server.receive(transfer(0, 0, b"x"))
    end = next(each for each in server.sent() if isinstance(each, End))
    assert end.error is not None
    assert end.error.condition == "amqp:session:window-violation"


def test_the_incoming_window_is_opened_again() -> None:
    server = opened(incoming_window=4)
    server.receive(attach_sender(0))
    server.sent()
    server.receive(transfer(0, 0, b"x", more=True) + frame(Transfer(handle=0, more=True), b"y"))
    flow = next(each for each in server.sent() if isinstance(each, Flow))
    assert (flow.incoming_window, flow.next_incoming_id, flow.handle) == (4, 2, None)


def test_an_attach_is_echoed_and_a_sender_gets_credit() -> None:
    server = opened()
    server.receive(attach_sender(3, "x", rcv_settle_mode=RCV_SECOND, snd_settle_mode=SND_UNSETTLED))
    attach, flow = server.sent()
    assert attach == Attach(
        "s3",
        3,
        RECEIVER,
        SND_UNSETTLED,
        RCV_SECOND,
        source=Source(),
        target=Target("x"),
        max_message_size=10_000,
    )
    assert (flow.handle, flow.link_credit, flow.delivery_count) == (3, 10, 0)


def test_a_refused_link_has_a_null_terminus_and_a_detach() -> None:
    server = opened()
    server.attach = lambda link: link.refuse(Error("amqp:not-found", "no"))  # type: ignore[method-assign]
    server.receive(attach_receiver(0) + attach_sender(1))
    first, second, third, fourth = server.sent()
    assert (first.source, second.error.condition) == (None, "amqp:not-found")
    assert (third.target, fourth.closed) == (None, True)
    server.receive(credit(0, 5) + frame(Detach(handle=0)) + frame(Detach(handle=1)))
    assert server.sent() == []
    assert server.connection._sessions[0].links == {}


def test_a_message_without_credit_detaches_the_link() -> None:
    server = opened()
    server.link_credit = 1
    server.receive(attach_sender(0))
    server.sent()
    server.receive(transfer(0, 0, b"1") + transfer(0, 1, b"2"))
    detach = next(each for each in server.sent() if isinstance(each, Detach))
    assert detach.error is not None
    assert detach.error.condition == "amqp:link:transfer-limit-exceeded"


def test_a_message_over_the_limit_detaches_before_it_is_whole() -> None:
    server = opened()
    server.max_message_size = 10
    server.receive(attach_sender(0))
    server.sent()
    events = server.receive(
        transfer(0, 0, b"123456", more=True) + transfer(0, 0, b"78901", more=True)
    )
    assert isinstance(events[-1], LinkDetached)
    detach = next(each for each in server.sent() if isinstance(each, Detach))
    assert detach.error is not None
    assert detach.error.condition == "amqp:link:message-size-exceeded"
    assert server.receive(transfer(0, 0, b"rest")) == []
    assert not server.connection.closed


def arrived(server: Server) -> list[Incoming]:
    return [event.delivery for event in server.events if isinstance(event, MessageArrived)]


def test_settling_writes_ranges_and_grants_credit_at_half() -> None:
    server = opened()
    server.receive(attach_sender(0))
    server.sent()
    for number in range(6):
        server.receive(transfer(0, number, b"x"))
    deliveries = arrived(server)
    link = server.link(0)
    for number in (0, 1, 2):
        link.settle(deliveries[number], ACCEPTED)
    link.settle(deliveries[3], Rejected(Error("a:b")))
    link.settle(deliveries[5], RELEASED)
    dispositions = [each for each in server.sent() if isinstance(each, Disposition)]
    assert dispositions == [
        Disposition(RECEIVER, 0, 2, True, ACCEPTED),
        Disposition(RECEIVER, 3, None, True, Rejected(Error("a:b"))),
        Disposition(RECEIVER, 5, None, True, RELEASED),
    ]
    link.settle(deliveries[4], ACCEPTED)
    assert server.link(0).credit == 9
    flows = [each for each in server.sent() if isinstance(each, Flow)]
    assert flows == []


def test_the_ids_of_a_detached_link_are_free_again() -> None:
    server = opened()
    server.receive(attach_sender(0) + transfer(0, 7, b"x"))
    server.receive(frame(Detach(handle=0, closed=True)))
    server.receive(attach_sender(0) + transfer(0, 7, b"y"))
    assert [delivery.payload for delivery in arrived(server)] == [b"x", b"y"]
    assert not server.connection.closed


def test_a_settled_delivery_gets_no_disposition_but_makes_room() -> None:
    server = opened()
    server.link_credit = 1
    server.receive(attach_sender(0))
    server.sent()
    server.receive(transfer(0, 0, b"x", settled=True))
    server.link(0).settle(arrived(server)[0])
    (flow,) = server.sent()
    assert (flow.link_credit, flow.delivery_count) == (1, 1)


def test_a_sender_that_settles_second_is_told_the_state_unsettled() -> None:
    server = opened()
    server.receive(attach_sender(0, rcv_settle_mode=RCV_SECOND) + transfer(0, 0, b"x"))
    server.sent()
    server.link(0).settle(arrived(server)[0], ACCEPTED)
    assert server.sent()[0] == Disposition(RECEIVER, 0, None, False, ACCEPTED)
    assert server.connection._sessions[0]._incoming.keys() == {0}
    server.receive(frame(Disposition(SENDER, 0, None, True, ACCEPTED)))
    assert server.connection._sessions[0]._incoming == {}


# --- sending ------------------------------------------------------------------------------------------------


def a_sender(credits_: int = 10, window: int = 100, **more: Any) -> tuple[Server, SenderLink]:
    server = opened()
    server.receive(attach_receiver(0, **more) + credit(0, credits_, incoming_window=window))
    server.sent()
    return server, server.link(0)


def test_credit_is_told_and_used_up() -> None:
    server, link = a_sender(2)
    assert isinstance(server.events[-1], SendPossible)
    assert link.sendable == 2
    link.send(b"one")
    link.send(b"two")
    assert link.sendable == 0
    one, two = frames_of(server.connection.to_send())
    assert (one[1].delivery_id, one[1].settled, one[2]) == (0, False, b"one")
    assert (two[1].delivery_id, two[1].delivery_tag, two[2]) == (1, b"\0\0\0\1", b"two")


def test_credit_counts_from_the_delivery_count_that_the_peer_knew() -> None:
    server, link = a_sender(5)
    for _ in range(3):
        link.send(b"x")
    server.receive(credit(0, 5, delivery_count=1, next_incoming_id=1))
    assert link.credit == 3


def test_a_large_message_is_cut_to_the_peers_frames() -> None:
    server, link = a_sender()
    payload = bytes(range(256)) * 12
    link.send(payload)
    data = server.connection.to_send()
    parts = frames_of(data)
    assert b"".join(part for _, _, part in parts) == payload
    assert [each.more for _, each, _ in parts] == [True] * (len(parts) - 1) + [False]
    assert {each.delivery_id for _, each, _ in parts} == {0}
    sizes = []
    while data:
        size = int.from_bytes(data[:4], "big")
        sizes.append(size)
        data = data[size:]
    assert max(sizes) <= 1_024


def test_frames_wait_for_the_session_window() -> None:
    server, link = a_sender(10, window=2)
    assert link.sendable == 2
    link.send(b"x" * 3_000)
    assert len(server.sent()) == 2
    assert link.sendable == 0
    flow = Flow(2, 0, 100, next_incoming_id=2)
    events = server.receive(frame(flow))
    assert len(server.sent()) == 2
    assert [type(event) for event in events] == []
    events = server.receive(frame(Flow(2, 0, 100, next_incoming_id=4)))
    assert [type(event) for event in events] == [SendPossible]


def test_what_waits_is_dropped_with_its_link() -> None:
    server, link = a_sender(10, window=0)
    link.send(b"x")
    server.receive(frame(Detach(handle=0, closed=True)))
    server.sent()
    server.receive(frame(Flow(10, 0, 100, next_incoming_id=0)))
    assert server.sent() == []


def contexts(event: Event) -> list[object]:
    assert isinstance(event, Disposed)
    return [sent.context for sent in event.deliveries]


def test_dispositions_come_as_ranges() -> None:
    server, link = a_sender()
    for number in range(6):
        link.send(b"x", number)
    server.sent()
    (one,) = server.receive(frame(Disposition(RECEIVER, 1, 3, True, ACCEPTED)))
    assert contexts(one) == [1, 2, 3]
    state = Modified(delivery_failed=True)
    (two,) = server.receive(frame(Disposition(RECEIVER, 0, 100, True, state)))
    assert isinstance(two, Disposed)
    assert (contexts(two), two.state) == ([0, 4, 5], state)
    assert server.receive(frame(Disposition(RECEIVER, 0, 5, True, ACCEPTED))) == []
    assert link.unsettled == 0


def test_a_range_of_four_billion_costs_nothing() -> None:
    server, link = a_sender()
    link.send(b"x", "only")
    (event,) = server.receive(frame(Disposition(RECEIVER, 0, 2**31 - 2, True, ACCEPTED)))
    assert contexts(event) == ["only"]


def test_a_state_that_is_not_settled_is_settled_back() -> None:
    server, link = a_sender()
    link.send(b"x", "c")
    server.sent()
    assert server.receive(frame(Disposition(RECEIVER, 0, None, False, Received(0, 0)))) == []
    (event,) = server.receive(frame(Disposition(RECEIVER, 0, None, False, ACCEPTED)))
    assert contexts(event) == ["c"]
    assert server.sent() == [Disposition(SENDER, 0, None, True, ACCEPTED)]


def test_settled_without_a_state_says_none() -> None:
    server, link = a_sender()
    link.send(b"x", "c")
    (event,) = server.receive(frame(Disposition(RECEIVER, 0, None, True)))
    assert isinstance(event, Disposed)
    assert event.state is None


def test_a_withdrawn_delivery_is_settled_by_us() -> None:
    server, link = a_sender()
    sent = link.send(b"x")
    assert sent is not None
    server.sent()
    link.withdraw(sent, RELEASED)
    link.withdraw(sent, RELEASED)
    assert server.sent() == [Disposition(SENDER, 0, None, True, RELEASED)]
    assert server.receive(frame(Disposition(RECEIVER, 0, None, True, ACCEPTED))) == []


def test_a_receiver_of_settled_messages_gives_no_outcome() -> None:
    server, link = a_sender(snd_settle_mode=SND_SETTLED)
    assert link.send(b"x") is None
    assert server.sent()[0].settled is True
    assert link.unsettled == 0


def test_draining_uses_up_the_credit() -> None:
    server, link = a_sender(5)
    events = server.receive(credit(0, 5, drain=True))
    assert isinstance(events[-1], SendPossible)
    link.send(b"x")
    link.drained()
    sent = server.sent()
    assert isinstance(sent[0], Transfer)
    assert (sent[1].link_credit, sent[1].delivery_count, sent[1].drain) == (0, 5, True)
    server.receive(credit(0, 0, delivery_count=5, drain=True))
    assert (server.sent()[0].link_credit, link.draining) == (0, True)
    server.receive(credit(0, 2, delivery_count=5))
    link.drained()
    assert (server.sent(), link.credit, link.draining) == ([], 2, False)


def test_an_echo_is_answered() -> None:
    server, _ = a_sender()
    server.receive(credit(0, 10, echo=True))
    assert server.sent()[0].handle == 0
    server.receive(frame(Flow(10, 0, 10, next_incoming_id=0, echo=True)))
    assert server.sent()[0].handle is None


@pytest.mark.parametrize("data", [frame(Detach(handle=0)), frame(End()), frame(Close()), b""])
def test_however_a_link_ends_its_unsettled_deliveries_are_named(data: bytes) -> None:
    server, link = a_sender()
    link.send(b"x", 1)
    link.send(b"y", 2)
    events = server.receive(data)
    (lost,) = [event for event in events if isinstance(event, LinkDetached)]
    assert [sent.context for sent in lost.unsettled] == [1, 2]
    assert (link.is_open, link.is_gone, link.sendable) == (False, True, 0)


def test_our_close_still_writes_the_outcomes_that_were_due() -> None:
    server = opened()
    server.receive(attach_sender(0) + transfer(0, 0, b"x"))
    server.sent()
    server.link(0).settle(arrived(server)[0], ACCEPTED)
    server.connection.close()
    kinds = [type(each) for each in server.sent()]
    assert kinds == [Disposition, Close]


# --- time -----------------------------------------------------------------------------------


def test_a_peer_that_never_opens_is_dropped() -> None:
    server = Server(handshake_timeout=10.0)
    assert server.connection.wake_at == 10.0
    server.receive(SASL_HEADER, 9.0)
    assert ended(server.connection.tick(10.0)) is not None
    assert server.connection.closed


def test_heartbeats_go_out_at_half_of_what_the_peer_wants() -> None:
    server = opened()
    assert server.connection.wake_at == 15.0
    server.connection.tick(15.0)
    assert server.sent() == [None]
    assert server.connection.wake_at == 30.0


def test_a_silent_peer_is_closed() -> None:
    server = Server(idle_timeout=20.0)
    server.receive(PLAIN + OPEN, 1.0)
    server.sent()
    server.connection.tick(20.9)
    assert not any(isinstance(event, ConnectionEnded) for event in server.events)
    error = ended(server.connection.tick(21.0))
    assert error is not None
    assert error.condition == "amqp:resource-limit-exceeded"
    assert closes(server) == error


def test_nothing_is_due_after_the_end() -> None:
    server = opened()
    server.receive(b"")
    assert server.connection.closed
    assert server.connection.wake_at is None
    assert server.connection.tick(1_000.0) == []
    assert server.receive(BEGIN) == []
