"""The relay against remotes that refuse, break off, or talk nonsense."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from gateway.config.remote import Remote as RemoteSettings
from gateway.config.remote import RemoteGateway
from gateway.hono.amqp_shell import AmqpProtocol
from gateway.hono.remote.setup import build_relay
from gateway.observe.metrics import Metrics
from gateway.observe.tracing import Tracer
from gateway.runtime.module import running
from gateway.store.database import Database
from gateway.wire.amqp.connection import SASL_OK
from gateway.wire.amqp.events import (
    Event,
    LinkRequested,
    MessageArrived,
    OpenRequested,
    SaslRequested,
)
from gateway.wire.amqp.limits import Limits
from gateway.wire.amqp.link import ReceiverLink
from gateway.wire.amqp.performatives import ACCEPTED, Error, Modified, Rejected
from gateway.wire.mqtt import codec
from gateway.wire.mqtt import packets as p
from gateway.wire.mqtt.packets import V5
from tests.hono_rig import a_core, a_fleet, until
from tests.relay_rig import (
    PROTOCOLS,
    Commands,
    Outcomes,
    RelayRig,
    a_message,
    a_relay,
    a_remote_adapter,
    an_event,
)

REASON = "twinspan_remote_connections_ended_total"


class PlayedAmqp:
    """An AMQP server that lets everybody in; what it does with links and messages is the test's."""

    def __init__(self, protocol: AmqpProtocol, owner: Played) -> None:
        self._protocol = protocol
        self._owner = owner

    def on_writable(self) -> None:
        """Nothing is queued."""

    def on_event(self, event: Event) -> None:
        protocol = self._protocol
        match event:
            case SaslRequested():
                protocol.handle(protocol.connection.answer_sasl(SASL_OK, protocol.now))
            case OpenRequested():
                protocol.handle(protocol.connection.accept(protocol.now))
            case LinkRequested(link=link) if isinstance(link, ReceiverLink):
                self._owner.on_link(link)
            case LinkRequested(link=link):
                link.refuse(Error("amqp:not-found", "no commands here"))
            case MessageArrived(link=link, delivery=delivery):
                self._owner.messages += 1
                answer = self._owner.on_message(self._owner.messages)
                if isinstance(answer, Error):
                    link.detach(answer)
                elif answer is not None:
                    link.settle(delivery, answer)
            case _:
                pass
        protocol.flush_soon()


class Played:
    """What a played remote does."""

    def __init__(self) -> None:
        self.messages = 0
        self.on_link: Callable[[ReceiverLink], None] = lambda link: link.accept(
            credit=10, max_message_size=0
        )
        self.on_message: Callable[[int], object] = lambda _number: None


@asynccontextmanager
async def a_played_remote() -> AsyncIterator[tuple[Played, str]]:
    played, sockets = Played(), set[AmqpProtocol]()

    def joined(protocol: AmqpProtocol) -> PlayedAmqp:
        sockets.add(protocol)
        return PlayedAmqp(protocol, played)

    limits = Limits(container_id="played")
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: AmqpProtocol(limits, joined, sockets.discard), "127.0.0.1", 0
    )
    try:
        yield played, f"amqp://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for protocol in list(sockets):
            protocol.abort()
        await server.wait_closed()


async def test_a_remote_that_refuses_the_link_for_uploads_is_tried_again() -> None:
    async with a_played_remote() as (played, address):
        played.on_link = lambda link: link.refuse(Error("amqp:not-allowed", "not you"))
        async with a_relay(address, reconnect_cap=0.02) as rig:
            await until(lambda: rig.sample(REASON, reason="refused") >= 2)
            assert rig.gateway.facts()["cause"] == "amqp:not-allowed: not you"
            rig.send(an_event(b"a"))
            await rig.outcomes.all(1)
            assert rig.waiting("event") == 1


async def test_a_remote_that_detaches_the_link_under_way_loses_no_message() -> None:
    async with a_played_remote() as (played, address):
        played.on_message = lambda number: (
            ACCEPTED if number > 2 else Error("amqp:internal-error", "oops")
        )
        async with a_relay(address, reconnect_cap=0.02) as rig:
            for number in range(5):
                rig.send(an_event(str(number), f"d{number}"), number)
            await until(lambda: rig.accepted("event") == 5)
            assert rig.sample(REASON, reason="lost") >= 1


async def test_a_remote_without_commands_takes_uploads_all_the_same() -> None:
    async with a_played_remote() as (played, address):
        played.on_message = lambda _number: ACCEPTED
        async with a_relay(address) as rig:
            rig.send(an_event(b"a"))
            await until(lambda: rig.accepted("event") == 1)
            assert rig.gateway.is_connected


@pytest.mark.parametrize(
    ("state", "is_final"),
    [
        (Modified(delivery_failed=True), False),
        (Modified(undeliverable_here=True), True),
        (Rejected(), True),
        (Rejected(Error("amqp:internal-error", "?")), False),
        (Rejected(Error("amqp:resource-limit-exceeded", "quota")), False),
    ],
)
async def test_outcomes_that_our_own_adapter_does_not_give(state: object, is_final: bool) -> None:
    async with a_played_remote() as (played, address):
        played.on_message = lambda _number: state
        async with a_relay(address) as rig:
            rig.send(an_event(b"a"))
            name = "twinspan_remote_messages_total"
            outcome = "rejected" if is_final else "released"
            await until(lambda: rig.sample(name, type="event", outcome=outcome) >= 1)
            await until(lambda: rig.waiting("event") == (0 if is_final else 1))


# --- nonsense -----------------------------------------------------------------------------------------


@asynccontextmanager
async def a_talker(*says: bytes) -> AsyncIterator[str]:
    """A server that answers each chunk with the next of `says`, then hangs up."""
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            for said in says:
                if not await reader.read(65_536):
                    break
                writer.write(said)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.transport.abort()
            tasks.discard(task)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        if tasks:
            await asyncio.wait(tasks, timeout=5)
        await server.wait_closed()


CONNACK = codec.encode(p.ConnAck(), V5)
NONSENSE = [
    ("amqp", [b"HTTP/1.1 400 Bad Request\r\n\r\n"]),
    ("amqp", [b""]),
    ("amqp", [b"AMQP\x03\x01\x00\x00" + b"\xff" * 64]),
    ("amqp", [b"AMQP\x03\x01\x00\x00\x00\x00\x00\x1c\x02\x01\x00\x00\x00S@\xc0\x0f\x01\xa3\x05PLAIN"]),
    ("mqtt", [b"HTTP/1.1 400 Bad Request\r\n\r\n"]),
    ("mqtt", [b""]),
    ("mqtt", [b"\x20\x03\x00\x87\x00"]),
    ("mqtt", [CONNACK, b"\xff\xff\xff\xff\xff"]),
    ("mqtt", [CONNACK, codec.encode(p.SubAck(1, (0x80, 0x80)), V5), b"\x00\x00"]),
    ("mqtt", [CONNACK, codec.encode(p.Disconnect(0x8B), V5)]),
]  # fmt: skip


@pytest.mark.parametrize(("protocol", "says"), NONSENSE)
async def test_a_remote_that_talks_nonsense_is_left_and_tried_again(
    protocol: str, says: list[bytes]
) -> None:
    async with (
        a_talker(*says) as address,
        a_relay(f"{protocol}://{address}", reconnect_cap=0.02, connect_timeout=2.0) as rig,
    ):
        rig.send(a_message(b"a"))
        await rig.outcomes.all(1)

        def tries() -> float:
            reasons = ("refused", "lost", "unreachable")
            return sum(rig.sample(REASON, reason=reason) for reason in reasons)

        await until(lambda: tries() >= 3)
        assert rig.waiting("telemetry") == 1


# --- several, and for long ----------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_tenants_have_gateways_and_shares_of_their_own(protocol: str) -> None:
    async with a_core() as core:
        await a_fleet(core)
        await core.tenant("other")
        await core.device("other", "gw-9", auth_id="gw9")
        await core.device("other", "d2", {"via": ["gw-9"]})
        async with a_remote_adapter(protocol, core):
            settings = RemoteSettings(
                address=f"{protocol}://{core.endpoints.get(f'hono.{protocol}')}",
                gateways=(
                    RemoteGateway(tenant="here", username="gw@acme", password="pw"),
                    RemoteGateway(tenant="there", username="gw9@other", password="pw"),
                ),
            )
            database, metrics, outcomes = Database(None, "relay"), Metrics(), Outcomes()
            relay, modules = build_relay(settings, database, Commands(), metrics, Tracer())
            assert [m.name for m in modules] == ["hono.remote.here", "hono.remote.there"]
            assert relay.carries("here")
            assert not relay.carries("acme")
            async with database.running(), running(modules[0]), running(modules[1]):
                relay.send(an_event(b"1", "d2", tenant="here"), outcomes.of(1))
                relay.send(an_event(b"2", "d2", tenant="there"), outcomes.of(2))
                await until(lambda: len(core.consumer.uploads) == 2)
                arrived = {(m.tenant, m.payload) for m in core.consumer.uploads}
                assert arrived == {("acme", b"1"), ("other", b"2")}


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_connections_that_are_over_leave_nothing_behind(protocol: str) -> None:
    async with a_core() as core:
        await a_fleet(core)
        async with a_remote_adapter(protocol, core):
            address = f"{protocol}://{core.endpoints.get(f'hono.{protocol}')}"
            async with a_relay(address, reconnect_cap=0.01) as rig:
                ended = [await _end_one(rig) for _ in range(5)]
                gc.collect()
                assert [link() for link in ended[:-1]] == [None] * 4


async def _end_one(rig: RelayRig) -> weakref.ref[object]:
    await rig.connected()
    link = rig.gateway._link
    assert link is not None
    link.end("the test wants it")
    await until(lambda: rig.gateway._link is not link)
    return weakref.ref(link)
