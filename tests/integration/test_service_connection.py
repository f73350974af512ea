"""Our AMQP client against a foreign server: python-qpid-proton as a container that listens."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from queue import Queue
from typing import Any

from proton import Condition, Delivery, Message, Terminus
from proton.handlers import MessagingHandler
from proton.reactor import ApplicationEvent, Container, EventInjector

from gateway.config.hono_services import Peer
from gateway.errors import ConsumerTimeout, GatewayError, NoConsumer, NotProcessed, Rejected
from gateway.hono.remote_services.connection import ServiceConnection
from gateway.hono.remote_services.links import OutLinks
from gateway.runtime.module import running
from gateway.wire.amqp.link import Incoming, ReceiverLink
from gateway.wire.amqp.message import (
    AmqpMessage,
    Data,
    Properties,
    decode_message,
    encode_message,
    payload_of,
)
from gateway.wire.amqp.performatives import Error
from tests.hono_rig import until

OUTCOMES = {
    b"accepted": Delivery.ACCEPTED,
    b"rejected": Delivery.REJECTED,
    b"released": Delivery.RELEASED,
    b"modified": Delivery.MODIFIED,
}


class Server(MessagingHandler):
    """A container that takes any link but `refused`, and settles messages as their bodies say.

    Senders of `silent` get no outcomes, those of `nobody` no credit; what is sent to `echo` goes out on all
    receivers' links.
    """

    def __init__(self) -> None:
        super().__init__(prefetch=0, auto_accept=False, peer_close_is_error=False)
        self.got: Queue[tuple[str, bytes]] = Queue()
        self.port: Queue[int] = Queue()
        self.receivers: list[Any] = []
        self.connections: list[Any] = []
        self._injector = EventInjector()
        self._container = Container(self)
        self._container.selectable(self._injector)
        self._thread = threading.Thread(target=self._container.run, daemon=True)
        self._listener: Any = None

    def __enter__(self) -> Server:
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.do(self._container.stop)
        self._thread.join(10)
        self._injector.close()

    def do(self, work: Callable[[], Any]) -> None:
        event: Any = ApplicationEvent("work")
        event.work = work
        self._injector.trigger(event)

    def on_work(self, event: Any) -> None:
        event.work()

    def on_start(self, event: Any) -> None:
        self._listener = event.container.listen("127.0.0.1:0")
        self.port.put(self._listener._selectable._delegate.getsockname()[1])

    def on_connection_opening(self, event: Any) -> None:
        self.connections.append(event.connection)

    def on_link_opening(self, event: Any) -> None:
        link = event.link
        link.source.copy(link.remote_source)
        link.target.copy(link.remote_target)
        address = link.remote_target.address if link.is_receiver else link.remote_source.address
        if address == "refused":
            link.source.type = link.target.type = Terminus.UNSPECIFIED
            link.open()
            link.condition = Condition("amqp:not-found", "no such node")
            self.do(link.close)
            return
        link.open()
        if link.is_receiver and address != "nobody":
            link.flow(10)
        elif link.is_sender:
            self.receivers.append(link)

    def on_message(self, event: Any) -> None:
        body = bytes(event.message.body)
        address = event.receiver.remote_target.address
        self.got.put((address, body))
        if address == "echo":
            for link in self.receivers:
                link.send(Message(address="echo", body=body))
        if address != "silent":
            event.delivery.update(OUTCOMES.get(body[:8], Delivery.ACCEPTED))
            event.delivery.settle()
        event.receiver.flow(1)


class Owner:
    """A receiver's owner that keeps what arrives."""

    def __init__(self) -> None:
        self.got: list[AmqpMessage] = []
        self.ended: list[Error | None] = []
        self.is_attached = False

    def attached(self) -> None:
        self.is_attached = True

    def sendable(self) -> None:
        """Nothing is sent."""

    def arrived(self, link: ReceiverLink, delivery: Incoming) -> None:
        self.got.append(decode_message(delivery.payload))
        link.settle(delivery)

    def detached(self, error: Error | None) -> None:
        self.ended.append(error)


@asynccontextmanager
async def connected(server: Server) -> AsyncIterator[ServiceConnection]:
    port = await asyncio.to_thread(server.port.get, True, 10)
    connection = ServiceConnection(Peer(address=f"127.0.0.1:{port}"), container_id="test")
    async with running(connection):
        yield connection


def a_message(body: bytes) -> bytes:
    return encode_message(AmqpMessage(properties=Properties(to="x"), body=Data(body)))


async def sent(links: OutLinks, address: str, body: bytes, **options: Any) -> GatewayError | None:
    future: asyncio.Future[GatewayError | None] = asyncio.get_running_loop().create_future()

    def done(error: GatewayError | None) -> None:
        future.set_result(error)

    links.send(address, a_message(body), done, **options)
    return await future


async def test_messages_go_out_and_their_outcomes_come_back() -> None:
    with Server() as server:
        async with connected(server) as connection:
            links = OutLinks(connection, 10.0)
            outcomes = await asyncio.gather(
                *(sent(links, "telemetry/acme", body) for body in OUTCOMES for _ in range(10))
            )
            assert [type(outcome) for outcome in outcomes] == [
                kind
                for kind in (type(None), type(outcomes[10]), NotProcessed, NotProcessed)
                for _ in range(10)
            ]
            assert isinstance(outcomes[10], Rejected)
            assert server.got.qsize() == 40


async def test_more_messages_than_credit_wait_their_turn_in_order() -> None:
    with Server() as server:
        async with connected(server) as connection:
            links = OutLinks(connection, 30.0)
            bodies = [b"%05d" % number for number in range(500)]
            outcomes = await asyncio.gather(*(sent(links, "telemetry/acme", b) for b in bodies))
            assert set(outcomes) == {None}
            assert [server.got.get()[1] for _ in bodies] == bodies


async def test_large_messages_arrive_whole() -> None:
    with Server() as server:
        async with connected(server) as connection:
            assert await sent(OutLinks(connection, 10.0), "telemetry/acme", b"x" * 300_000) is None
            assert server.got.get()[1] == b"x" * 300_000


async def test_a_link_without_credit_has_nobody_behind_it() -> None:
    with Server() as server:
        async with connected(server) as connection:
            links = OutLinks(connection, 10.0)
            for options in ({}, {"at_most_once": True}):
                assert isinstance(await sent(links, "nobody", b"x", **options), NoConsumer)


async def test_a_link_that_is_refused_is_told_with_its_reason() -> None:
    with Server() as server:
        async with connected(server) as connection:
            error = await sent(OutLinks(connection, 10.0), "refused", b"x")
            assert error is not None
            assert "amqp:not-found" in error.message


async def test_what_has_no_outcome_in_time_is_taken_back() -> None:
    with Server() as server:
        async with connected(server) as connection:
            links = OutLinks(connection, 0.1)
            assert isinstance(await sent(links, "silent", b"x"), ConsumerTimeout)
            assert await sent(links, "silent", b"x", at_most_once=True) is None


async def test_messages_come_in_on_a_receiver() -> None:
    with Server() as server:
        async with connected(server) as connection:
            owner = Owner()
            connection.attach_receiver("echo", owner, credit=2, max_message_size=100_000)
            await until(lambda: bool(server.receivers))
            links = OutLinks(connection, 10.0)
            for number in range(20):
                assert await sent(links, "echo", b"%d" % number) is None
            await until(lambda: len(owner.got) == 20)
            assert payload_of(owner.got[-1]) == b"19"


async def test_a_connection_that_is_lost_is_made_again() -> None:
    with Server() as server:
        async with connected(server) as connection:
            owner, opened = Owner(), []
            connection.on_open(lambda: opened.append(True))
            connection.attach_receiver("a", owner, credit=1, max_message_size=100)
            await until(lambda: owner.is_attached)
            links = OutLinks(connection, 10.0)
            waiting = asyncio.create_task(sent(links, "silent", b"x"))
            await until(lambda: not server.got.empty())
            server.do(lambda: server.connections[0].close())
            assert isinstance(await waiting, NotProcessed)
            assert len(owner.ended) == 1
            await until(lambda: bool(opened))
            assert await sent(links, "telemetry/acme", b"again") is None
