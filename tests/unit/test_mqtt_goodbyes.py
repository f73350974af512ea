"""MQTT sessions: requests, good-byes, and that no cut of the stream changes anything."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from gateway.wire.mqtt import packets as p
from gateway.wire.mqtt.client import ClientSession
from gateway.wire.mqtt.codec import encode
from gateway.wire.mqtt.packets import V3, V5
from gateway.wire.mqtt.properties import Properties
from gateway.wire.mqtt.reasons import Reason
from gateway.wire.mqtt.server import ServerSession
from gateway.wire.mqtt.state import Closed, Event, SessionState, WindowFull
from tests.mqtt_sessions import LIMITS, a_client, a_server, feed, sent, the_fault

# --- requests, good-bye -------------------------------------------------------------------------------------


def test_subscribe_and_unsubscribe_are_answered() -> None:
    client, server = a_client(V5), a_server(V5)
    assert client.subscribe(p.Subscription("a", 1), p.Subscription("b")) == 1
    (asked,) = server.receive(client.to_send(), 0.0)
    assert isinstance(asked, p.Subscribe)
    server.suback(asked.packet_id, (1, 0x87))
    assert client.receive(server.to_send(), 0.0) == [p.SubAck(1, (1, 0x87))]
    client.unsubscribe("a")
    server.receive(client.to_send(), 0.0)
    server.unsuback(2, (0,))
    assert client.receive(server.to_send(), 0.0) == [p.UnsubAck(2, (0,))]


def test_3_1_1_knows_one_failure_of_a_subscription() -> None:
    session = a_server(V3)
    session.suback(1, (1, 0x87))
    assert session.to_send() == b"\x90\x04\0\1\1\x80"


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (p.SubAck(5, (0,)), "SUBACK: nothing was asked with 5"),
        (p.SubAck(1, (0, 0)), "SUBACK: expected 1 codes, got 2"),
        (p.UnsubAck(1, (0,)), "UNSUBACK: nothing was asked with 1"),
        (p.Subscribe(1, (p.Subscription("a"),)), "SUBSCRIBE may not be sent by this side"),
        (p.ConnAck(), "CONNACK: a second one"),
        (p.Auth(), "AUTH: no authentication method"),
    ],
)
def test_a_client_wants_the_answer_to_its_question(answer: p.Packet, told: str) -> None:
    session = a_client(V5)
    session.subscribe(p.Subscription("a"))
    assert told in the_fault(feed(session, answer))[1]


def test_good_bye_ends_both_sides() -> None:
    client, server = a_client(V5), a_server(V5)
    assert client.disconnect(Reason.DISCONNECT_WITH_WILL) == [Closed(4)]
    assert server.receive(client.to_send(), 0.0) == [p.Disconnect(4), Closed(4)]
    assert server.closed
    assert client.closed
    assert server.receive(b"more", 0.0) == []


def test_a_server_says_why_it_goes() -> None:
    client, server = a_client(V5), a_server(V5)
    server.disconnect(Reason.SERVER_SHUTTING_DOWN)
    assert client.receive(server.to_send(), 0.0) == [p.Disconnect(0x8B), Closed(0x8B)]
    old = a_server(V3)
    old.disconnect(Reason.SERVER_SHUTTING_DOWN)
    assert old.to_send() == b""


def test_a_session_expiry_cannot_be_raised_from_nothing() -> None:
    session = a_server(V5)
    events = feed(session, p.Disconnect(0, Properties(session_expiry=5)))
    assert the_fault(events)[0] == Reason.PROTOCOL_ERROR


def test_a_peer_that_goes_closes_without_fault() -> None:
    for session in (a_server(), a_client()):
        assert session.receive(b"", 0.0) == [Closed()]
        assert session.closed


def test_a_refused_client_is_told_why() -> None:
    session = ClientSession(p.Connect("c", V5), LIMITS, 0.0)
    events = feed(session, p.ConnAck(Reason.BAD_USER_NAME_OR_PASSWORD))
    assert events == [p.ConnAck(0x86), Closed(0x86)]


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda s: feed(s, p.Publish("a")), "PUBLISH before CONNACK"),
        (lambda s: feed(s, p.ConnAck(0, True)), "session present after a clean start"),
        (lambda s: s.tick(10.0), "no CONNACK in time"),
    ],
)
def test_a_client_wants_connack_first(make: Callable[[Any], list[Event]], told: str) -> None:
    assert told in the_fault(make(ClientSession(p.Connect("c", V5), LIMITS, 0.0)))[1]


def test_extended_authentication_passes_through() -> None:
    said = Properties(authentication_method="m", authentication_data=b"1")
    session = ServerSession(LIMITS, 0.0)
    session.receive(encode(p.Connect("c", V5, properties=said), V5), 0.0)
    session.accept(0.0)
    session.to_send()
    step = p.Auth(Reason.REAUTHENTICATE, said)
    assert feed(session, step) == [step]
    session.auth(0, said)
    assert sent(session) == [p.Auth(0, said)]
    assert the_fault(feed(session, p.Auth()))[0] == Reason.PROTOCOL_ERROR


def test_a_known_topic_takes_the_short_way_with_qos_1_too() -> None:
    session = a_server(V5)
    feed(session, p.Publish("a", b"makes it known"))
    first, again = (p.Publish("a", b"payload", 1, packet_id=1, dup=dup) for dup in (False, True))
    assert feed(session, first, again) == [first]
    session.acknowledge(1)
    assert sent(session) == [p.PubAck(1)]
    assert feed(session, first) == [first]
    assert "0 is not allowed" in the_fault(session.receive(b"\x32\x0a\0\1a\0\0\0load", 0.0))[1]


def test_a_closed_session_answers_nothing() -> None:
    for session in (a_server(V5), a_client(V5)):
        assert session.close() == [Closed()]
        assert session.close() == []
        assert session.disconnect() == []
        assert session.receive(b"x", 0.0) == []
        assert session.to_send() == b""
    server = a_server()
    assert server.refuse(Reason.SERVER_BUSY) == []


def test_a_farewell_fits_the_peers_packets() -> None:
    session = a_server(V5, properties=Properties(maximum_packet=10))
    the_fault(session.receive(b"\x00\x00", 0.0))
    assert sent(session) == [p.Disconnect(Reason.MALFORMED_PACKET)]


def test_a_shell_that_did_not_read_vouches_for_its_peer() -> None:
    session = a_server(keep_alive=10)
    session.heard(100.0)
    assert session.tick(110.0) == []
    assert session.wake_at == 115.0


def test_a_client_may_authenticate_in_steps() -> None:
    said = Properties(authentication_method="m")
    session = ClientSession(p.Connect("c", V5, properties=said), LIMITS, 0.0)
    session.to_send()
    step = p.Auth(Reason.CONTINUE_AUTHENTICATION, said)
    assert feed(session, step) == [step]
    session.auth(Reason.CONTINUE_AUTHENTICATION, said)
    assert sent(session) == [step]


def test_a_3_1_1_server_may_not_say_good_bye() -> None:
    assert "does not send it" in the_fault(feed(a_client(V3), p.Disconnect()))[1]


def test_packet_identifiers_run_out_and_round() -> None:
    state = SessionState()
    assert [state.take_id() for _ in range(65_536)][-2:] == [65_535, 1]
    state.outbound = dict.fromkeys(range(1, 65_536))
    with pytest.raises(WindowFull, match="all packet identifiers"):
        state.take_id()


def test_the_first_user_property_of_a_name_counts() -> None:
    said = Properties(user=(("a", "1"), ("b", "2"), ("a", "3")))
    assert (said.user_value("a"), said.user_value("b"), said.user_value("c")) == ("1", "2", None)


# --- any cut, any bytes ----------------------------------------------------------------------------

STREAM_3: list[p.Packet] = [
    p.Publish("telemetry", b"0"),
    p.Publish("telemetry", b"x" * 300),
    p.Publish("event", b"1", 1, packet_id=1),
    p.Publish("event", b"2", 2, packet_id=2),
    p.PubRel(2),
    p.Subscribe(3, (p.Subscription("command///req/#", 1),)),
    p.PingReq(),
    p.Unsubscribe(4, ("command///req/#",)),
    p.PubAck(1),
    p.Disconnect(),
]
STREAM_5: list[p.Packet] = [
    p.Publish("t", b"0", properties=Properties(content_type="x", user=(("a", "b"),))),
    p.Publish("t", b"1", 1, packet_id=1, properties=Properties(topic_alias=1)),
    p.Publish("", b"2", 1, packet_id=2, properties=Properties(topic_alias=1)),
    *STREAM_3[4:],
]


def talk(version: int, pieces: list[bytes]) -> tuple[list[Event], bytes]:
    """All events and answers of a server's session that gets `pieces`."""
    session = ServerSession(LIMITS, 0.0)
    events: list[Event] = []
    sends = bytearray()

    def note(new: list[Event]) -> None:
        for event in new:
            events.append(event)
            if isinstance(event, p.Connect):
                state = SessionState()
                state.outbound[1] = p.Publish("command///req//x", b"", 1, packet_id=1)
                note(session.accept(0.0, state=state))
            elif isinstance(event, p.Publish) and event.qos:
                session.acknowledge(event.packet_id)
        sends.extend(session.to_send())

    for piece in pieces:
        if piece:
            note(session.receive(piece, 0.0))
    return events, bytes(sends)


@pytest.mark.parametrize(("version", "packets"), [(V3, STREAM_3), (V5, STREAM_5)])
def test_every_cut_of_the_stream_gives_the_same_events(
    version: int, packets: list[p.Packet]
) -> None:
    stream = encode(p.Connect("c", version), version)
    stream += b"".join(encode(x, version) for x in packets)
    whole = talk(version, [stream])
    assert isinstance(whole[0][-1], Closed)
    assert len(whole[0]) >= len(packets)
    for cut in range(1, len(stream)):
        assert talk(version, [stream[:cut], stream[cut:]])[0] == whole[0]
    single = talk(version, [stream[at : at + 1] for at in range(len(stream))])
    assert single[0] == whole[0]
