"""The AMQP 1.0 server session against python-qpid-proton as an independent peer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from proton import Condition, Delivery, Message

from gateway.hono.amqp_shell import AmqpProtocol
from gateway.wire.amqp.events import (
    Disposed,
    Event,
    LinkDetached,
    LinkRequested,
    MessageArrived,
    OpenRequested,
    SaslRequested,
    SendPossible,
)
from gateway.wire.amqp.limits import Limits
from gateway.wire.amqp.link import ReceiverLink, SenderLink
from gateway.wire.amqp.message import AmqpMessage, Data, Properties, decode_message, encode_message
from gateway.wire.amqp.performatives import Accepted, Error, Modified, Rejected, Released
from tests.integration.proton_peer import Peer, until


class Server:
    """A test server: keeps what comes, sends what it is told to, answers as `verdict` says."""

    def __init__(self, protocol: AmqpProtocol) -> None:
        self.protocol = protocol
        self.events: list[Event] = []
        self.to_send: list[bytes] = []
        self.messages: list[AmqpMessage] = []
        self.verdict: object = Accepted()
        self.senders: list[SenderLink] = []
        self.receivers: list[ReceiverLink] = []
        self.credit = 10
        self.refuse: Error | None = None

    def on_writable(self) -> None:
        self.pump()

    def on_event(self, event: Event) -> None:
        self.events.append(event)
        connection, now = self.protocol.connection, self.protocol.now
        match event:
            case SaslRequested(response=response):
                good = response == b"\0ann\0secret"
                self.protocol.handle(connection.answer_sasl(0 if good else 1, now))
            case OpenRequested():
                self.protocol.handle(connection.accept(now))
            case LinkRequested(link=link):
                self.on_link(link)
            case SendPossible():
                self.pump()
            case MessageArrived(link=link, delivery=delivery):
                self.messages.append(decode_message(delivery.payload))
                link.settle(delivery, self.verdict)

    def on_link(self, link: SenderLink | ReceiverLink) -> None:
        if self.refuse is not None:
            link.refuse(self.refuse)
        elif isinstance(link, SenderLink):
            link.accept()
            self.senders.append(link)
        else:
            link.accept(credit=self.credit, max_message_size=100_000)
            self.receivers.append(link)

    def pump(self) -> None:
        for link in self.senders:
            while self.to_send and link.sendable > 0 and self.protocol.is_writable:
                link.send(self.to_send.pop(0), context=len(self.to_send))
            link.drained()
        self.protocol.flush_soon()

    def disposed(self) -> list[object]:
        return [
            event.state
            for event in self.events
            if isinstance(event, Disposed)
            for _ in event.deliveries
        ]


@asynccontextmanager
async def serving(**limits: Any) -> AsyncIterator[tuple[str, list[Server]]]:
    servers: list[Server] = []

    def make(protocol: AmqpProtocol) -> Server:
        servers.append(Server(protocol))
        return servers[-1]

    settings = Limits(container_id="test", **limits)
    server = await asyncio.get_running_loop().create_server(
        lambda: AmqpProtocol(settings, make, lambda _protocol: None), "127.0.0.1", 0
    )
    async with server:
        port = server.sockets[0].getsockname()[1]
        yield f"amqp://ann:secret@127.0.0.1:{port}", servers
        for each in servers:
            each.protocol.abort()


async def test_proton_sends_messages_of_all_sizes() -> None:
    async with serving(max_frame_size=1_024) as (url, servers):
        async with Peer(url) as peer:
            for size in (0, 1, 255, 256, 1_000, 5_000, 60_000):
                peer.send("anywhere", Message(body=b"x" * size, inferred=True), f"t{size}")
            for size in (0, 1, 255, 256, 1_000, 5_000, 60_000):
                entry = await peer.expect("outcome")
                assert entry[1:3] == (f"t{size}", "accepted")
        bodies = [message.body for message in servers[0].messages]
        assert [len(body.payload) for body in bodies if isinstance(body, Data)] == [
            0, 1, 255, 256, 1_000, 5_000, 60_000,
        ]  # fmt: skip


async def test_a_wrong_password_is_a_sasl_failure() -> None:
    async with serving() as (url, _), Peer(url.replace("secret", "wrong")) as peer:
        entry = await peer.expect("failed")
        assert entry[1] == "amqp:unauthorized-access"


@pytest.mark.parametrize(
    ("verdict", "state", "condition", "text"),
    [
        (Accepted(), "accepted", None, None),
        (Released(), "released", None, None),
        (Modified(delivery_failed=True), "modified", None, None),
        (Rejected(Error("hono:bad-request", "no")), "rejected", "hono:bad-request", "no"),
    ],
)
async def test_each_outcome_reaches_the_sender(
    verdict: object, state: str, condition: str | None, text: str | None
) -> None:
    async with serving() as (url, servers), Peer(url) as peer:
        await peer.expect("opened")
        servers[0].verdict = verdict
        peer.send(None, Message(address="a", body=b"x", inferred=True), "1")
        assert (await peer.expect("outcome"))[2:] == (state, condition, text)


async def test_proton_receives_large_and_small_messages() -> None:
    async with (
        serving(max_frame_size=1_024) as (url, servers),
        Peer(url, max_frame_size=512, prefetch=3) as peer,
    ):
        await peer.expect("opened")
        sizes = [0, 10, 447, 448, 449, 3_000, 20_000]
        servers[0].to_send = [
            encode_message(
                AmqpMessage(
                    properties=Properties(to="t", message_id=f"m{size}"), body=Data(b"y" * size)
                )
            )
            for size in sizes
        ]
        peer.receive_from("t")
        for size in sizes:
            received = (await peer.expect("message"))[2]
            assert (received.id, received.body) == (f"m{size}", b"y" * size)
        await until(lambda: len(servers[0].disposed()) == len(sizes))
        assert set(map(type, servers[0].disposed())) == {Accepted}


async def test_outcomes_of_a_proton_receiver_come_through() -> None:
    def answer(received: Any, delivery: Delivery) -> None:
        if received.body == b"reject":
            delivery.local.condition = Condition("my:error", "why")
            delivery.update(Delivery.REJECTED)
        elif received.body == b"modify":
            delivery.local.failed = True
            delivery.local.undeliverable = True
            delivery.update(Delivery.MODIFIED)
        else:
            delivery.update(Delivery.RELEASED)
        delivery.settle()

    async with serving() as (url, servers), Peer(url) as peer:
        await peer.expect("opened")
        peer.answer = answer
        bodies = [b"reject", b"modify", b"release"]
        servers[0].to_send = [encode_message(AmqpMessage(body=Data(body))) for body in bodies]
        peer.receive_from("t")
        await until(lambda: len(servers[0].disposed()) == 3)
        assert servers[0].disposed() == [
            Rejected(Error("my:error", "why")),
            Modified(delivery_failed=True, undeliverable_here=True),
            Released(),
        ]


async def test_a_refused_link_shows_its_error() -> None:
    async with serving() as (url, servers), Peer(url) as peer:
        await peer.expect("opened")
        servers[0].refuse = Error("amqp:not-found", "no such node")
        peer.receive_from("nowhere")
        assert await peer.expect("link-error") == (
            "link-error", "nowhere", "amqp:not-found", "no such node",
        )  # fmt: skip


async def test_a_message_over_the_limit_detaches_its_link_alone() -> None:
    async with serving() as (url, servers), Peer(url) as peer:
        peer.send("big", Message(body=b"x" * 200_000, inferred=True), "big")
        assert (await peer.expect("detached"))[2] == "amqp:link:message-size-exceeded"
        peer.send("small", Message(body=b"x", inferred=True), "small")
        assert (await peer.expect("outcome"))[1] == "small"
        assert not servers[0].protocol.connection.closed


async def test_both_ends_keep_a_silent_connection_alive() -> None:
    async with serving(idle_timeout=0.4) as (url, _servers), Peer(url, heartbeat=0.4) as peer:
        await peer.expect("opened")
        await asyncio.sleep(0.15)
        for _ in range(8):
            await asyncio.sleep(0.15)
        peer.send("s", Message(body=b"x", inferred=True), "alive")
        assert (await peer.expect("outcome"))[1] == "alive"


async def test_loss_of_the_socket_names_the_unsettled_deliveries() -> None:
    async with serving() as (url, servers):
        async with Peer(url, accept=False) as peer:
            await peer.expect("opened")
            servers[0].to_send = [encode_message(AmqpMessage(body=Data(b"x"))) for _ in range(3)]
            peer.receive_from("t")
            for _ in range(3):
                await peer.expect("message")
        await until(lambda: any(isinstance(event, LinkDetached) for event in servers[0].events))
        lost = next(event for event in servers[0].events if isinstance(event, LinkDetached))
        assert [sent.context for sent in lost.unsettled] == [2, 1, 0]
