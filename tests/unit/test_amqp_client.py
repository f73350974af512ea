"""The client's end of AMQP against our own server's end, both without I/O."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from gateway.errors import Undeliverable
from gateway.wire.amqp.client import ClientConnection, SaslLogin
from gateway.wire.amqp.connection import SASL_AUTH, Connection
from gateway.wire.amqp.events import (
    ConnectionEnded,
    ConnectionOpened,
    Disposed,
    Event,
    LinkAttached,
    LinkDetached,
    LinkRequested,
    MessageArrived,
    OpenRequested,
    SaslRequested,
    SendPossible,
)
from gateway.wire.amqp.limits import Limits
from gateway.wire.amqp.link import ReceiverLink, SenderLink
from gateway.wire.amqp.performatives import (
    ACCEPTED,
    RECEIVER,
    RELEASED,
    Attach,
    Begin,
    End,
    Error,
    Flow,
    Rejected,
    Source,
    Target,
)
from tests.unit.amqp_client import frame, frames_of

Link = SenderLink | ReceiverLink


class Pair:
    """A client and a server that hand each other their bytes."""

    def __init__(self, *, login: SaslLogin | None = None, **server: Any) -> None:
        self.server = Connection(Limits(container_id="server", **server), 0.0)
        self.client = ClientConnection(
            Limits(container_id="client"),
            0.0,
            login or SaslLogin.plain("ann", "secret"),
            hostname="hono",
        )
        self.seen: list[Event] = []
        self.served: list[Event] = []
        self.on_link: Callable[[Link], None] = accept
        self.sasl_code = 0

    def talk(self) -> Pair:
        """Exchange bytes until both are silent."""
        while True:
            up, down = self.client.to_send(), self.server.to_send()
            if not up and not down:
                return self
            if up:
                self._serve(self.server.receive(up, 0.0))
            if down:
                self.seen += self.client.receive(down, 0.0)

    def _serve(self, events: Any) -> None:
        for event in events:
            self.served.append(event)
            match event:
                case SaslRequested():
                    self._serve(self.server.answer_sasl(self.sasl_code, 0.0))
                case OpenRequested():
                    self._serve(self.server.accept(0.0))
                case LinkRequested(link=link):
                    self.on_link(link)

    def events(self, kind: type) -> list[Any]:
        return [event for event in self.seen if isinstance(event, kind)]

    def arrivals(self) -> list[Any]:
        return [event for event in self.served if isinstance(event, MessageArrived)]


def accept(link: Link) -> None:
    if isinstance(link, SenderLink):
        link.accept()
    else:
        link.accept(credit=10, max_message_size=10_000)


def refuse(link: Link) -> None:
    link.refuse(Error("amqp:not-found", "no such node"))


def test_a_client_logs_in_and_opens() -> None:
    pair = Pair().talk()
    (opened,) = pair.events(ConnectionOpened)
    assert opened.open.container_id == "server"
    (asked,) = [event for event in pair.served if isinstance(event, SaslRequested)]
    assert (asked.mechanism, asked.response, asked.hostname) == ("PLAIN", b"\0ann\0secret", "hono")


def test_wrong_credentials_end_the_connection_with_a_reason() -> None:
    pair = Pair()
    pair.sasl_code = SASL_AUTH
    pair.talk()
    (ended,) = pair.events(ConnectionEnded)
    assert ended.error.condition == "amqp:unauthorized-access"
    assert pair.client.closed


def test_a_mechanism_that_is_not_offered_is_named() -> None:
    pair = Pair(login=SaslLogin()).talk()
    (ended,) = pair.events(ConnectionEnded)
    assert "PLAIN" in ended.error.description


def test_a_foreign_protocol_is_told_apart_at_once() -> None:
    client = ClientConnection(Limits(container_id="c"), 0.0, SaslLogin())
    (ended,) = list(client.receive(b"HTTP/1.1 400", 0.0))
    assert isinstance(ended, ConnectionEnded)
    assert client.closed


def test_messages_go_out_with_credit_and_outcomes_come_back() -> None:
    pair = Pair().talk()
    link = pair.client.attach_sender("telemetry/acme")
    pair.talk()
    assert pair.events(LinkAttached)[0].link is link
    assert pair.events(SendPossible)
    assert link.sendable == 10
    link.send(b"one", "first")
    link.send(b"two", "second")
    pair.talk()
    first, second = pair.arrivals()
    assert [first.delivery.payload, second.delivery.payload] == [b"one", b"two"]
    first.link.settle(first.delivery, ACCEPTED)
    second.link.settle(second.delivery, Rejected(Error("hono:bad-request", "why")))
    pair.talk()
    found = {
        sent.context: event.state for event in pair.events(Disposed) for sent in event.deliveries
    }
    assert found == {"first": ACCEPTED, "second": Rejected(Error("hono:bad-request", "why"))}


def test_large_messages_are_cut_and_joined() -> None:
    pair = Pair(max_frame_size=512).talk()
    link = pair.client.attach_sender("telemetry/acme")
    pair.talk()
    link.send(b"x" * 5_000)
    pair.talk()
    assert pair.arrivals()[0].delivery.payload == b"x" * 5_000


def test_a_receiver_grants_credit_and_settles() -> None:
    pair = Pair()
    theirs: list[Link] = []

    def note(link: Link) -> None:
        theirs.append(link)
        accept(link)

    pair.on_link = note
    pair.talk()
    pair.client.attach_receiver("command_internal/me", credit=4, max_message_size=1_000)
    pair.talk()
    sender = theirs[0]
    assert isinstance(sender, SenderLink)
    assert sender.source is not None
    assert sender.source.address == "command_internal/me"
    assert sender.sendable == 4
    sender.send(b"command", "tag")
    pair.talk()
    (arrived,) = pair.events(MessageArrived)
    arrived.link.settle(arrived.delivery, RELEASED)
    pair.talk()
    (disposed,) = [event for event in pair.served if isinstance(event, Disposed)]
    assert disposed.state == RELEASED


def test_a_refused_link_is_told_with_its_reason() -> None:
    pair = Pair()
    pair.on_link = refuse
    pair.talk()
    sender = pair.client.attach_sender("nowhere")
    receiver = pair.client.attach_receiver("nowhere", credit=1, max_message_size=0)
    pair.talk()
    assert not pair.events(LinkAttached)
    lost = {event.link: event.error.condition for event in pair.events(LinkDetached)}
    assert lost == {sender: "amqp:not-found", receiver: "amqp:not-found"}


def test_a_begin_that_nobody_asked_for_ends_the_connection() -> None:
    pair = Pair().talk()
    link = pair.client.attach_sender("telemetry/acme")
    begin = Begin(remote_channel=1, next_outgoing_id=0, incoming_window=5, outgoing_window=5)
    events = list(pair.client.receive(frame(begin), 0.0))
    assert [type(event) for event in events] == [LinkDetached, ConnectionEnded]
    assert link.is_gone


def test_a_server_that_picks_its_own_numbers_is_understood() -> None:
    client = ClientConnection(Limits(container_id="c"), 0.0, SaslLogin())
    server = Connection(Limits(container_id="s", mechanisms=("ANONYMOUS",)), 0.0)
    heard: list[Any] = []
    for _ in range(5):
        for event in server.receive(client.to_send(), 0.0):
            if isinstance(event, SaslRequested):
                heard += server.answer_sasl(0, 0.0)
            elif isinstance(event, OpenRequested):
                heard += server.accept(0.0)
        answers = server.to_send()
        answers = answers.partition(frame(Begin(0, 2_048, 0xFFFF_FFFF, 0, 255)))[0]
        if answers:
            list(client.receive(answers, 0.0))
    begin = Begin(remote_channel=0, next_outgoing_id=0, incoming_window=5, outgoing_window=5)
    (opened,) = list(client.receive(frame(begin, channel=7), 0.0))
    assert isinstance(opened, ConnectionOpened)
    link = client.attach_sender("telemetry/acme")
    (asked,) = [p for _, p, _ in frames_of(client.to_send()) if isinstance(p, Attach)]
    reply = Attach(asked.name, 33, RECEIVER, source=Source(), target=Target("telemetry/acme"))
    flow = Flow(
        next_incoming_id=0,
        incoming_window=5,
        next_outgoing_id=0,
        outgoing_window=5,
        handle=33,
        delivery_count=0,
        link_credit=3,
    )
    events = list(client.receive(frame(reply, channel=7) + frame(flow, channel=7), 0.0))
    assert [type(event) for event in events] == [LinkAttached, SendPossible]
    assert link.sendable == 3
    link.send(b"x")
    assert [channel for channel, _, _ in frames_of(client.to_send())] == [0]


def test_a_session_that_ends_takes_the_connection_with_it() -> None:
    pair = Pair().talk()
    link = pair.client.attach_sender("telemetry/acme")
    pair.talk()
    events = list(pair.client.receive(frame(End()), 0.0))
    assert [type(event) for event in events] == [LinkDetached, ConnectionEnded]
    assert link.is_gone


def test_links_beyond_one_session_get_another() -> None:
    pair = Pair(handle_max=3).talk()
    for number in range(9):
        pair.client.attach_sender(f"telemetry/t{number}")
        pair.talk()
    assert len(pair.events(LinkAttached)) == 9
    assert len({event.link.session for event in pair.events(LinkAttached)}) == 3


def test_a_server_without_room_is_told_apart() -> None:
    pair = Pair(handle_max=1, channel_max=0).talk()
    for number in range(2):
        pair.client.attach_sender(f"telemetry/t{number}")
        pair.talk()
    with pytest.raises(Undeliverable):
        pair.client.attach_sender("telemetry/more")


def test_a_handle_is_free_again_after_a_detach() -> None:
    pair = Pair(handle_max=1, channel_max=0).talk()
    for number in range(10):
        link = pair.client.attach_sender(f"telemetry/t{number}")
        pair.talk()
        assert link.is_open
        link.detach()
        pair.talk()
    assert pair.client.is_open


@pytest.mark.parametrize("size", [1, 3, 7])
def test_events_do_not_depend_on_where_the_network_cut(size: int) -> None:
    whole, cut = Pair(), Pair()
    whole.talk()
    for _ in range(6):
        cut._serve(cut.server.receive(cut.client.to_send(), 0.0))
        data = cut.server.to_send()
        for at in range(0, len(data), size):
            cut.seen += cut.client.receive(data[at : at + size], 0.0)
    assert [type(event) for event in cut.seen] == [type(event) for event in whole.seen]
