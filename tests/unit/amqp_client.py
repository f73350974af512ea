"""A client without I/O for tests of the AMQP server session: writes frames, reads frames."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Any

from gateway.wire.amqp.connection import AMQP_HEADER, SASL_HEADER, SASL_OK, Connection
from gateway.wire.amqp.decode import decode
from gateway.wire.amqp.events import Event, LinkRequested, OpenRequested, SaslRequested
from gateway.wire.amqp.limits import Limits
from gateway.wire.amqp.link import ReceiverLink, SenderLink
from gateway.wire.amqp.performatives import (
    RECEIVER,
    SASL,
    SENDER,
    TRANSPORT,
    Attach,
    Begin,
    Flow,
    Open,
    SaslInit,
    Source,
    Target,
    Transfer,
)


def frame(performative: object, payload: bytes = b"", channel: int = 0, kind: int = 0) -> bytes:
    """One whole frame; kind 1 is SASL."""
    body = (SASL if kind else TRANSPORT).write(performative) + payload
    return struct.pack(">IBBH", len(body) + 8, 2, kind, channel) + body


def frames_of(data: bytes) -> list[tuple[int, Any, bytes]]:
    """Everything in `data` as (channel, performative, payload); headers and empty frames as None."""
    found: list[tuple[int, Any, bytes]] = []
    at = 0
    while at < len(data):
        if data[at : at + 4] == b"AMQP":
            found.append((0, data[at : at + 8], b""))
            at += 8
            continue
        size, offset, kind, channel = struct.unpack_from(">IBBH", data, at)
        body = data[at + offset * 4 : at + size]
        if body:
            value, end = decode(body)
            found.append((channel, (SASL if kind else TRANSPORT).read(value), body[end:]))
        else:
            found.append((channel, None, b""))
        at += size
    return found


PLAIN = SASL_HEADER + frame(SaslInit("PLAIN", b"\0ann\0secret", "host"), kind=1)
OPEN = AMQP_HEADER + frame(Open("client", max_frame_size=1_024, idle_time_out=30_000))
BEGIN = frame(Begin(next_outgoing_id=0, incoming_window=100, outgoing_window=100))


def attach_receiver(handle: int = 0, address: str = "telemetry/acme", **more: Any) -> bytes:
    """The client wants to receive."""
    return frame(
        Attach(
            name=f"r{handle}",
            handle=handle,
            role=RECEIVER,
            source=Source(address=address),
            target=Target(),
            **more,
        )
    )


def attach_sender(handle: int = 0, address: str | None = None, **more: Any) -> bytes:
    """The client wants to send."""
    return frame(
        Attach(
            name=f"s{handle}",
            handle=handle,
            role=SENDER,
            source=Source(),
            target=Target(address=address),
            initial_delivery_count=0,
            **more,
        )
    )


def credit(handle: int, credits_: int, **more: Any) -> bytes:
    """The client grants credit."""
    given: dict[str, Any] = {
        "next_incoming_id": 0,
        "incoming_window": 100,
        "next_outgoing_id": 0,
        "outgoing_window": 100,
        "delivery_count": 0,
        **more,
    }
    return frame(Flow(handle=handle, link_credit=credits_, **given))


def transfer(handle: int, number: int, payload: bytes, **more: Any) -> bytes:
    """The client sends a message, or a part of one."""
    head = Transfer(
        handle=handle,
        delivery_id=number,
        delivery_tag=str(number).encode(),
        message_format=0,
        **more,
    )
    return frame(head, payload)


class Server:
    """A server session that lets everyone in and every link attach."""

    def __init__(self, **limits: Any) -> None:
        self.connection = Connection(Limits(container_id="server", **limits), 0.0)
        self.events: list[Event] = []
        self.sasl_code = SASL_OK
        self.link_credit = 10
        self.max_message_size = 10_000

    def receive(self, data: bytes, now: float = 0.0) -> list[Event]:
        """Feed bytes; answers requests at once. Returns the events."""
        seen = len(self.events)
        self.handle(self.connection.receive(data, now), now)
        return self.events[seen:]

    def handle(self, events: Iterable[Event], now: float = 0.0) -> None:
        for event in events:
            self.events.append(event)
            if isinstance(event, SaslRequested):
                self.handle(self.connection.answer_sasl(self.sasl_code, now), now)
            elif isinstance(event, OpenRequested):
                self.handle(self.connection.accept(now), now)
            elif isinstance(event, LinkRequested):
                self.attach(event.link)

    def attach(self, link: SenderLink | ReceiverLink) -> None:
        if isinstance(link, SenderLink):
            link.accept()
        else:
            link.accept(credit=self.link_credit, max_message_size=self.max_message_size)

    def sent(self) -> list[Any]:
        """What the server wants to send, as performatives."""
        return [performative for _, performative, _ in frames_of(self.connection.to_send())]

    def link(self, handle: int = 0) -> Any:
        return self.connection._sessions[0].links[handle]


def opened(**limits: Any) -> Server:
    """A server with an open connection and one session, its answers read."""
    server = Server(**limits)
    server.receive(PLAIN + OPEN + BEGIN)
    server.sent()
    return server
