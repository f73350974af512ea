"""MQTT sessions: the conversation, in both roles, with a clock moved by hand."""

from __future__ import annotations

import pytest

from gateway.errors import TooLarge
from gateway.wire.mqtt import packets as p
from gateway.wire.mqtt.codec import encode
from gateway.wire.mqtt.packets import V3, V5
from gateway.wire.mqtt.properties import Properties
from gateway.wire.mqtt.reasons import Reason
from gateway.wire.mqtt.server import ServerSession
from gateway.wire.mqtt.state import Acked, Closed, Event, Limits, WindowFull
from tests.mqtt_sessions import LIMITS, a_client, a_server, feed, sent, the_fault

# --- CONNECT ------------------------------------------------------------------------------------------


def test_what_comes_behind_connect_waits_for_the_decision() -> None:
    session = ServerSession(LIMITS, 0.0)
    data = encode(p.Connect("c", V3), V3) + encode(p.Publish("a", b"1"), V3)
    assert [type(e) for e in session.receive(data, 0.0)] == [p.Connect]
    assert session.receive(encode(p.Publish("a", b"2"), V3), 0.0) == []
    assert session.to_send() == b""
    assert [e.payload for e in session.accept(1.0) if isinstance(e, p.Publish)] == [b"1", b"2"]
    assert session.to_send() == b"\x20\x02\0\0"


def test_a_client_that_sends_too_much_before_the_decision_is_ended() -> None:
    session = ServerSession(LIMITS, 0.0)
    session.receive(encode(p.Connect("c", V3), V3), 0.0)
    events: list[Event] = []
    for _ in range(300):
        events += session.receive(b"\x30" * 1_000, 0.0)
    assert "more came after CONNECT" in the_fault(events)[1]
    assert session.accept(0.0) == []
    assert session.to_send() == b""


@pytest.mark.parametrize(
    ("version", "reason", "code3", "data"),
    [
        (V3, 0x87, None, b"\x20\x02\0\5"),
        (V3, 0x86, None, b"\x20\x02\0\4"),
        (V3, 0x97, 5, b"\x20\x02\0\5"),
        (V3, 0x88, 3, b"\x20\x02\0\3"),
        (V5, 0x9C, 3, b"\x20\x03\0\x9c\0"),
    ],
)
def test_a_refusal_has_the_code_of_its_version(
    version: int, reason: int, code3: int | None, data: bytes
) -> None:
    session = ServerSession(LIMITS, 0.0)
    session.receive(encode(p.Connect("c", version), version), 0.0)
    assert session.refuse(reason, code3) == [Closed(reason if version == V5 else data[3])]
    assert session.to_send() == data
    assert session.closed


def test_an_unknown_protocol_level_is_told_so() -> None:
    session = ServerSession(LIMITS, 0.0)
    events = session.receive(b"\x10\x0c\0\4MQTT\7\2\0\0\0\0", 0.0)
    assert the_fault(events)[0] == Reason.UNSUPPORTED_PROTOCOL_VERSION
    assert session.to_send() == b"\x20\x02\0\1"


def test_a_3_1_1_session_to_keep_needs_a_client_id() -> None:
    session = ServerSession(LIMITS, 0.0)
    events = session.receive(encode(p.Connect("", V3, clean_start=False), V3), 0.0)
    assert events == [Closed(2)]
    assert session.to_send() == b"\x20\x02\0\2"


def test_connack_tells_an_mqtt_5_client_our_limits() -> None:
    session = ServerSession(Limits(max_packet=500, receive_maximum=9, max_keep_alive=30), 0.0)
    session.receive(encode(p.Connect("c", V5, keep_alive=0), V5), 0.0)
    session.accept(0.0, properties=Properties(maximum_qos=1))
    assert sent(session) == [
        p.ConnAck(
            properties=Properties(
                maximum_qos=1, maximum_packet=500, receive_maximum=9, server_keep_alive=30
            )
        )
    ]
    assert session.wake_at == 45.0


@pytest.mark.parametrize(
    ("packets", "told"),
    [
        ([p.PingReq()], "PINGREQ before CONNECT"),
        ([p.Publish("a")], "PUBLISH before CONNECT"),
        ([p.PubAck(1)], "PUBACK before CONNECT"),
    ],
)
def test_connect_comes_first(packets: list[p.Packet], told: str) -> None:
    assert told in the_fault(feed(ServerSession(LIMITS, 0.0), *packets))[1]


def test_connect_comes_once() -> None:
    session = a_server(V5)
    reason, told = the_fault(feed(session, p.Connect("c", V5)))
    assert (reason, "a second one" in told) == (Reason.PROTOCOL_ERROR, True)
    (bye,) = sent(session)
    assert isinstance(bye, p.Disconnect)
    assert bye.reason == Reason.PROTOCOL_ERROR
    assert bye.properties.reason_string == told


def test_no_connect_in_time_ends_the_connection() -> None:
    session = ServerSession(LIMITS, 5.0)
    session.receive(b"\x10", 6.0)
    assert session.wake_at == 15.0
    assert session.tick(14.9) == []
    assert "no CONNECT in time" in the_fault(session.tick(15.0))[1]
    assert session.wake_at is None


# --- keep-alive ---------------------------------------------------------------------------------------


def test_a_silent_client_is_ended_after_one_and_a_half_keep_alive_times() -> None:
    session = a_server(V5, keep_alive=10)
    assert session.wake_at == 15.0
    assert feed(session, p.PingReq(), now=10.0) == []
    assert sent(session) == [p.PingResp()]
    assert session.tick(24.9) == []
    assert the_fault(session.tick(25.0))[0] == Reason.KEEP_ALIVE_TIMEOUT
    (bye,) = sent(session)
    assert isinstance(bye, p.Disconnect)
    assert bye.reason == Reason.KEEP_ALIVE_TIMEOUT


def test_a_client_pings_and_misses_the_answer() -> None:
    session = a_client(V3, keep_alive=10)
    assert session.wake_at == 10.0
    assert session.tick(10.0) == []
    assert sent(session) == [p.PingReq()]
    feed(session, p.PingResp(), now=11.0)
    session.tick(20.0)
    assert sent(session) == [p.PingReq()]
    assert "no answer to PINGREQ" in the_fault(session.tick(30.0))[1]


def test_the_server_sets_the_clients_keep_alive() -> None:
    session = a_client(V5, keep_alive=60, answer=Properties(server_keep_alive=5))
    assert session.wake_at == 5.0


# --- messages from the peer -----------------------------------------------------------------------------


@pytest.mark.parametrize("version", [V3, V5])
def test_answers_leave_in_the_order_of_the_messages(version: int) -> None:
    session = a_server(version)
    feed(session, *[p.Publish("a", b"long enough", 1, packet_id=n) for n in (7, 8, 9)])
    assert session.in_flight == 3
    session.acknowledge(9)
    session.acknowledge(8, 0x80)
    assert session.to_send() == b""
    session.acknowledge(7)
    refused = b"\x40\x03\0\x08\x80" if version == V5 else b"\x40\x02\0\x08"
    assert session.to_send() == b"\x40\x02\0\x07" + refused + b"\x40\x02\0\x09"
    assert session.in_flight == 0


def test_a_skipped_message_holds_nothing_back() -> None:
    session = a_server()
    feed(session, *[p.Publish("a", b"x", 1, packet_id=n) for n in (1, 2)])
    session.acknowledge(2)
    session.skip(1)
    assert sent(session) == [p.PubAck(2)]
    assert session.in_flight == 0


def test_an_answer_to_nothing_is_our_error_and_a_late_one_is_nothing() -> None:
    session = a_server()
    feed(session, p.Publish("a", b"x", 1, packet_id=1))
    with pytest.raises(ValueError, match="no message 2"):
        session.acknowledge(2)
    session.receive(b"", 0.0)
    session.acknowledge(1)
    assert session.to_send() == b""


def test_a_repeated_message_in_work_is_not_handed_on_twice() -> None:
    session = a_server()
    assert len(feed(session, p.Publish("a", b"xyz", 1, packet_id=1))) == 1
    assert feed(session, p.Publish("a", b"xyz", 1, packet_id=1, dup=True)) == []
    session.acknowledge(1)
    assert sent(session) == [p.PubAck(1)]
    said = Properties(content_type="x")
    session = a_server(V5)
    first, again = (
        p.Publish("a", b"xyz", 1, packet_id=1, dup=dup, properties=said) for dup in (False, True)
    )
    assert feed(session, first, again) == [first]


def test_an_identifier_in_use_is_a_fault() -> None:
    session = a_server(V5)
    feed(session, p.Publish("a", b"xyz", 1, packet_id=1))
    events = feed(session, p.Publish("a", b"xyz", 1, packet_id=1))
    assert the_fault(events)[0] == Reason.PACKET_IDENTIFIER_IN_USE


@pytest.mark.parametrize("version", [V3, V5])
def test_qos_2_is_handed_on_once(version: int) -> None:
    session = a_server(version)
    message = p.Publish("a", b"x", 2, packet_id=5)
    assert feed(session, message) == [message]
    session.acknowledge(5)
    assert sent(session) == [p.PubRec(5)]
    assert session.in_flight == 1
    again = p.Publish("a", b"x", 2, packet_id=5, dup=True)
    assert feed(session, again) == []
    assert sent(session) == [p.PubRec(5)]
    assert feed(session, p.PubRel(5)) == []
    assert sent(session) == [p.PubComp(5)]
    assert session.in_flight == 0


def test_a_refused_qos_2_message_ends_with_pubrec() -> None:
    session = a_server(V5)
    feed(session, p.Publish("a", b"x", 2, packet_id=5))
    session.acknowledge(5, Reason.QUOTA_EXCEEDED)
    assert sent(session) == [p.PubRec(5, Reason.QUOTA_EXCEEDED)]
    feed(session, p.PubRel(5))
    assert sent(session) == [p.PubComp(5, Reason.PACKET_IDENTIFIER_NOT_FOUND)]


def test_more_than_the_receive_maximum_is_a_fault() -> None:
    session = a_server(V5)
    events = feed(session, *[p.Publish("a", b"xyz", 1, packet_id=n) for n in range(1, 6)])
    assert [type(e) for e in events] == [p.Publish] * 3 + [Closed]
    assert the_fault(events)[0] == Reason.RECEIVE_MAXIMUM_EXCEEDED


def test_a_packet_over_the_limit_is_refused_before_it_comes() -> None:
    session = a_server(V5)
    events = session.receive(b"\x30\x80\x80\x80\x01", 0.0)
    assert the_fault(events) == (
        Reason.PACKET_TOO_LARGE,
        "fixed header: a packet of 2097157 bytes, at most 1000 are taken",
    )
    assert session.receive(b"x" * 10, 0.0) == []


def test_topic_aliases_are_resolved() -> None:
    session = a_server(V5)
    first, second, third = feed(
        session,
        p.Publish("a/b", b"1", properties=Properties(topic_alias=2)),
        p.Publish("", b"2", properties=Properties(topic_alias=2)),
        p.Publish("", b"3", 2, packet_id=1, properties=Properties(topic_alias=2, content_type="x")),
    )
    assert first == p.Publish("a/b", b"1")
    assert second == p.Publish("a/b", b"2")
    assert third == p.Publish("a/b", b"3", 2, packet_id=1, properties=Properties(content_type="x"))


@pytest.mark.parametrize(
    ("alias", "reason"),
    [(3, Reason.TOPIC_ALIAS_INVALID), (0, Reason.TOPIC_ALIAS_INVALID), (1, Reason.PROTOCOL_ERROR)],
)
def test_a_bad_topic_alias_is_a_fault(alias: int, reason: Reason) -> None:
    events = feed(a_server(V5), p.Publish("", b"x", properties=Properties(topic_alias=alias)))
    assert the_fault(events)[0] == reason


def test_a_known_topic_takes_the_short_way_and_a_broken_one_does_not() -> None:
    session = a_server()
    feed(session, p.Publish("a", b"long payload"))
    assert feed(session, p.Publish("a", b"long payload", retain=True)) == [
        p.Publish("a", b"long payload", retain=True)
    ]
    assert feed(session, p.Publish("a", b"", 0)) == [p.Publish("a")]
    assert "DUP" in the_fault(session.receive(b"\x38\x08\0\1along..", 0.0))[1]


@pytest.mark.parametrize("data", [b"\x30\x00", b"\x30\x01\x00", b"\x32\x03\0\1a", b"\x30\x03\0\5a"])
def test_a_short_publish_is_a_fault(data: bytes) -> None:
    session = a_server()
    feed(session, p.Publish("a", b"known"))
    assert the_fault(session.receive(data, 0.0))[0] == Reason.MALFORMED_PACKET


# --- messages to the peer ---------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [V3, V5])
def test_a_message_to_the_peer_is_answered(version: int) -> None:
    session = a_server(version)
    assert session.publish("a", b"0") == 0
    assert session.publish("a", b"1", 1, True) == 1
    assert session.publish("a", b"2", 2) == 2
    assert sent(session) == [
        p.Publish("a", b"0"),
        p.Publish("a", b"1", 1, True, 1),
        p.Publish("a", b"2", 2, False, 2),
    ]
    assert feed(session, p.PubAck(1), p.PubRec(2)) == [Acked(1)]
    assert sent(session) == [p.PubRel(2)]
    assert feed(session, p.PubComp(2)) == [Acked(2)]
    assert session.window == 65_535


def test_a_refused_message_says_why() -> None:
    session = a_server(V5)
    session.publish("a", b"1", 1)
    session.publish("a", b"2", 2)
    events = feed(session, p.PubAck(1, Reason.QUOTA_EXCEEDED), p.PubRec(2, Reason.NOT_AUTHORIZED))
    assert events == [Acked(1, Reason.QUOTA_EXCEEDED), Acked(2, Reason.NOT_AUTHORIZED)]


def test_an_unknown_pubrec_is_answered_and_an_unknown_puback_is_nothing() -> None:
    session = a_server(V5)
    assert feed(session, p.PubAck(9), p.PubRec(8), p.PubComp(7)) == []
    assert sent(session) == [p.PubRel(8, Reason.PACKET_IDENTIFIER_NOT_FOUND)]


def test_the_peers_receive_maximum_is_kept() -> None:
    session = a_server(V5, properties=Properties(receive_maximum=1))
    session.publish("a", b"1", 1)
    with pytest.raises(WindowFull):
        session.publish("a", b"2", 1)
    session.publish("a", b"0", 0)
    feed(session, p.PubAck(1))
    assert session.publish("a", b"2", 1) == 2


def test_the_peers_maximum_packet_size_is_kept() -> None:
    session = a_server(V5, properties=Properties(maximum_packet=20, topic_alias_maximum=1))
    with pytest.raises(TooLarge):
        session.publish("a", bytes(20), 1)
    assert session.window == 65_535
    session.publish("a", b"x")
    assert sent(session)[0] == p.Publish("a", b"x", properties=Properties(topic_alias=1))


def test_aliases_save_topics_as_far_as_the_peer_takes_them() -> None:
    session = a_server(V5, properties=Properties(topic_alias_maximum=1))
    for topic in ("a", "a", "b"):
        session.publish(topic, b"x")
    assert sent(session) == [
        p.Publish("a", b"x", properties=Properties(topic_alias=1)),
        p.Publish("", b"x", properties=Properties(topic_alias=1)),
        p.Publish("b", b"x"),
    ]


def test_a_resumed_session_sends_again_what_had_no_answer() -> None:
    old = a_server(V3, clean_start=False)
    for qos in (1, 2, 1):
        old.publish("a", b"x", qos)
    feed(old, p.PubRec(2), p.PubAck(3))
    session = ServerSession(LIMITS, 9.0)
    session.receive(encode(p.Connect("c", V3, clean_start=False), V3), 9.0)
    session.accept(9.0, state=old.state)
    assert sent(session) == [
        p.ConnAck(0, True),
        p.Publish("a", b"x", 1, False, 1, True),
        p.PubRel(2),
    ]
    assert feed(session, p.PubAck(1), p.PubComp(2)) == [Acked(1), Acked(2)]


@pytest.mark.parametrize("present", [True, False])
def test_a_client_goes_on_or_starts_anew_as_the_server_says(present: bool) -> None:
    old = a_client(clean_start=False)
    old.publish("a", b"x", 1)
    session = a_client(clean_start=False, state=old.state, present=present)
    assert sent(session) == ([p.Publish("a", b"x", 1, False, 1, True)] if present else [])
    assert session.window == 65_535 - present
