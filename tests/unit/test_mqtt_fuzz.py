"""MQTT sessions against hostile bytes: no crash, bounded memory, an error that names the fault."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.wire.mqtt import packets as p
from gateway.wire.mqtt.client import ClientSession
from gateway.wire.mqtt.codec import encode
from gateway.wire.mqtt.packets import V3, V5
from gateway.wire.mqtt.server import ServerSession
from gateway.wire.mqtt.session import Session
from gateway.wire.mqtt.state import Closed, Limits

LIMITS = Limits(max_packet=200, receive_maximum=5, topic_alias_maximum=3)
VERSIONS = st.sampled_from([V3, V5])
PACKETS: list[p.Packet] = [
    p.Publish("a/b", b"payload"),
    p.Publish("a/b", b"payload", 1, packet_id=1),
    p.Publish("a/c", b"payload", 2, packet_id=2),
    p.PubAck(1),
    p.PubRec(2),
    p.PubRel(2),
    p.PubComp(2),
    p.Subscribe(3, (p.Subscription("a/#", 1),)),
    p.SubAck(1, (1,)),
    p.Unsubscribe(4, ("a/#",)),
    p.UnsubAck(4, (0,)),
    p.PingReq(),
    p.PingResp(),
    p.ConnAck(),
    p.Connect("c", V5),
]


def opened(version: int, is_server: bool) -> Session:
    """A session that is past CONNECT."""
    session: Session
    if is_server:
        session = server = ServerSession(LIMITS, 0.0)
        server.receive(encode(p.Connect("c", version), version), 0.0)
        server.accept(0.0)
    else:
        session = ClientSession(p.Connect("c", version), LIMITS, 0.0)
        session.receive(encode(p.ConnAck(), version), 0.0)
    session.publish("a", b"x", 1)
    session.publish("a", b"x", 2)
    session.to_send()
    return session


def survives(session: Session, pieces: list[bytes]) -> None:
    """Feed pieces; the session either goes on or closes once, with a reason, and keeps little."""
    closed = 0
    for piece in pieces:
        events = session.receive(piece, 1.0) if piece else []
        for event in events:
            if isinstance(event, Closed):
                closed += 1
                assert event is events[-1]
                assert event.error is None or event.error.message
            elif isinstance(event, p.Publish) and event.qos == 1:
                session.acknowledge(event.packet_id)
        assert len(session._held) <= LIMITS.max_packet
        assert len(session._answers) <= max(LIMITS.receive_maximum, len(piece))
    assert closed == session.closed
    session.tick(1e9)
    assert isinstance(session.to_send(), bytes)


@given(VERSIONS, st.booleans(), st.lists(st.binary(max_size=60), max_size=8))
def test_noise_ends_a_session_or_not_but_never_breaks_it(
    version: int, is_server: bool, pieces: list[bytes]
) -> None:
    survives(opened(version, is_server), pieces)


@given(st.lists(st.binary(max_size=60), max_size=8))
def test_noise_before_connect_never_breaks_a_session(pieces: list[bytes]) -> None:
    survives(ServerSession(LIMITS, 0.0), pieces)


@given(VERSIONS, st.booleans(), st.lists(st.sampled_from(PACKETS), max_size=12), st.data())
def test_packets_in_any_order_with_noise_and_cuts_never_break_a_session(
    version: int, is_server: bool, packets: list[p.Packet], data: st.DataObject
) -> None:
    stream = bytearray(b"".join(encode(x, version) for x in packets))
    if stream and data.draw(st.booleans()):
        stream[data.draw(st.integers(0, len(stream) - 1))] = data.draw(st.integers(0, 255))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=5)))
    pieces = [bytes(stream[a:b]) for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    survives(opened(version, is_server), pieces)


@pytest.mark.parametrize("version", [V3, V5])
def test_a_packet_that_comes_byte_by_byte_costs_no_more_than_its_size(version: int) -> None:
    session = opened(version, is_server=True)
    whole = encode(p.Publish("a", bytes(150)), version)
    for at in range(len(whole) - 1):
        assert session.receive(whole[at : at + 1], 0.0) == []
        assert len(session._held) == at + 1
    assert session.receive(whole[-1:], 0.0) == [p.Publish("a", bytes(150))]
    assert session._held == b""


def test_topics_and_aliases_that_are_remembered_are_bounded() -> None:
    session = opened(V5, is_server=True)
    for number in range(1_000):
        session.receive(encode(p.Publish(f"topic/{number}", b"x"), V5), 0.0)
        session.publish(f"other/{number}", b"x")
    session.receive(encode(p.Publish("t" * 190, b""), V5), 0.0)
    assert len(session._topics) <= 64
    assert len(session._heads) <= 64
    assert not session.closed
