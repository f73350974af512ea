"""Builders of MQTT sessions for tests, and what they send."""

from __future__ import annotations

from typing import Any

from gateway.wire.mqtt import packets as p
from gateway.wire.mqtt.client import ClientSession
from gateway.wire.mqtt.codec import decode, encode
from gateway.wire.mqtt.packets import V3
from gateway.wire.mqtt.properties import NONE, Properties
from gateway.wire.mqtt.server import ServerSession
from gateway.wire.mqtt.session import Session
from gateway.wire.mqtt.state import Closed, Event, Limits, SessionState

LIMITS = Limits(max_packet=1_000, receive_maximum=3, topic_alias_maximum=2)


def sent(session: Session) -> list[p.Packet]:
    """The packets that a session wants to send."""
    data, out = session.to_send(), []
    while data:
        size = data[1]
        body = 2
        if size >= 0x80:
            size, body = (size & 0x7F) | data[2] << 7, 3
        out.append(decode(data[0], data[body : body + size], session.version))
        data = data[body + size :]
    return out


def a_server(version: int = V3, limits: Limits = LIMITS, **connect: Any) -> ServerSession:
    """A server's session with an accepted client."""
    session = ServerSession(limits, 0.0)
    (event,) = session.receive(encode(p.Connect("c", version, **connect), version), 0.0)
    assert isinstance(event, p.Connect)
    assert session.accept(0.0) == []
    assert isinstance(sent(session)[0], p.ConnAck)
    return session


def a_client(
    version: int = V3,
    limits: Limits = LIMITS,
    answer: Properties = NONE,
    state: SessionState | None = None,
    present: bool = False,
    **connect: Any,
) -> ClientSession:
    """A client's session that the server has let in."""
    session = ClientSession(p.Connect("c", version, **connect), limits, 0.0, state)
    assert isinstance(sent(session)[0], p.Connect)
    events = session.receive(encode(p.ConnAck(0, present, answer), version), 0.0)
    assert isinstance(events[0], p.ConnAck)
    return session


def feed(session: Session, *packets: p.Packet, now: float = 0.0) -> list[Event]:
    return session.receive(b"".join(encode(x, session.version) for x in packets), now)


def the_fault(events: list[Event]) -> tuple[int, str]:
    closed = events[-1]
    assert isinstance(closed, Closed)
    assert closed.error is not None
    return closed.reason, closed.error.message
