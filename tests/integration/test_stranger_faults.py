"""Peers of the AMQP endpoints that freeze, stop half way in their login, or come all at once."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest

from gateway.config.hono import AmqpAdapter as AmqpSettings
from gateway.errors import GatewayError, NoConsumer
from gateway.hono.adapters import amqp as amqp_adapter
from gateway.hono.adapters.amqp import AmqpAdapter
from gateway.hono.adapters.amqp_device import Rooms
from gateway.hono.amqp_shell import HIGH_WATER
from gateway.runtime.module import running
from gateway.wire.amqp.connection import AMQP_HEADER, SASL_HEADER
from gateway.wire.amqp.performatives import (
    RECEIVER,
    Attach,
    Begin,
    Flow,
    Open,
    SaslInit,
    Source,
    Target,
)
from tests.hono_rig import FREE, Core, a_core, a_fleet, until
from tests.integration.northbound_rig import a_message, a_northbound
from tests.integration.proton_peer import Peer
from tests.unit.amqp_client import frame

STORM = 300
MANY = 100_000
OPENED = b"\x00\x53\x10"
"""How the body of an open frame begins."""


def a_login(user: str, password: str) -> bytes:
    init = SaslInit("PLAIN", f"\0{user}\0{password}".encode())
    return SASL_HEADER + frame(init, kind=1)


OPEN = AMQP_HEADER + frame(Open("raw"))
DEVICE = a_login("sensor1@acme", "pw")


def a_consumer(address: str) -> bytes:
    """All that an application says to get messages without end."""
    begin = Begin(next_outgoing_id=0, incoming_window=MANY, outgoing_window=MANY)
    attach = Attach(
        name="r", handle=0, role=RECEIVER, source=Source(address=address), target=Target()
    )
    credit = Flow(MANY, 0, MANY, next_incoming_id=0, handle=0, delivery_count=0, link_credit=MANY)
    login = a_login("consumer@HONO", "verysecret")
    return login + OPEN + frame(begin) + frame(attach) + frame(credit)


@contextlib.contextmanager
def a_socket(address: str) -> Iterator[socket.socket]:
    """A connection that nobody reads from unless the test does, with little room for what comes."""
    host, _, port = address.rpartition(":")
    with socket.socket() as made:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        made.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            made.connect((host, int(port)))
        yield made


async def test_a_frozen_consumer_costs_bounded_memory_and_keeps_nothing_from_others() -> None:
    async with a_northbound(patience=20.0, idle_timeout=1.0) as rig:
        with a_socket(rig.address) as frozen:
            loop = asyncio.get_running_loop()
            await loop.sock_sendall(frozen, a_consumer("telemetry/acme"))
            await until(lambda: rig.messaging.has_consumer("acme"))
            outcomes: list[GatewayError | None] = []
            sent = 0
            while not any(isinstance(outcome, NoConsumer) for outcome in outcomes):
                rig.messaging.send(a_message(b"x" * 16_000), outcomes.append)
                sent += 1
                await asyncio.sleep(0)
            assert sent < MANY / 10
            (protocol,) = rig.northbound._protocols
            assert protocol._transport is not None
            assert protocol._transport.get_write_buffer_size() < HIGH_WATER + 64_000
            async with rig.peer() as eager:
                eager.receive_from("telemetry/acme")
                await eager.expect("attached")
                assert await rig.send(a_message(b"next")) is None
                await until(lambda: len(outcomes) == sent)
                assert None not in outcomes
                await until(lambda: protocol not in rig.northbound._protocols)


@asynccontextmanager
async def an_adapter(core: Core, **settings: object) -> AsyncIterator[AmqpAdapter]:
    rooms = Rooms(
        ingress=core.ingress,
        commands=core.commands,
        authenticator=core.authenticator,
        admission=core.connections,
        assertions=core.registry,
    )
    made = AmqpSettings(bind=FREE, **settings)  # type: ignore[arg-type]
    adapter = AmqpAdapter(made, core.endpoints, core.metrics, rooms)
    async with running(adapter):
        yield adapter


@pytest.fixture
async def core() -> AsyncIterator[Core]:
    async with a_core() as made:
        await a_fleet(made)
        yield made


HALVES = {
    "nothing": b"",
    "header": SASL_HEADER,
    "part of the login": DEVICE[:-3],
    "login without open": DEVICE + AMQP_HEADER,
}


@pytest.mark.parametrize("half", HALVES)
async def test_half_a_login_of_a_device_is_let_go_and_gives_its_place_back(
    core: Core, half: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(amqp_adapter, "STRANGERS", 2)
    async with an_adapter(core, max_connections=1, idle_timeout=1.0) as adapter:
        address = core.endpoints.get("hono.amqp")
        host, _, port = address.rpartition(":")
        halves = [await asyncio.open_connection(host, int(port)) for _ in range(3)]
        for _, writer in halves:
            writer.write(HALVES[half])
        await until(lambda: len(adapter._sockets) == 3)
        reader, writer = await asyncio.open_connection(host, int(port))
        with contextlib.suppress(ConnectionError):
            assert await reader.read(100) == b"", "one more is hung up on"
        async with asyncio.timeout(30):
            for reader, _ in halves:
                with contextlib.suppress(ConnectionError):
                    while await reader.read(100):
                        pass
        await until(lambda: not adapter._sockets)
        assert core.connections.count("acme") == 0
        async with Peer(f"amqp://sensor1%40acme:pw@{address}") as peer:
            await peer.expect("opened")
        for _, ended in [*halves, (reader, writer)]:
            ended.close()


async def test_a_storm_of_amqp_devices_lets_everybody_in_and_forgets_who_left(core: Core) -> None:
    labels = {"tenant": "acme", "component_name": "hono-amqp"}

    def connected() -> float:
        return core.sample("hono_connections_authenticated", **labels)

    async def connect(name: str) -> asyncio.StreamWriter:
        host, _, port = core.endpoints.get("hono.amqp").rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(a_login(f"{name}@acme", "pw") + OPEN)
        await reader.readuntil(OPENED)
        return writer

    names = [f"s{number}" for number in range(STORM)]
    await asyncio.gather(*(core.device("acme", name, auth_id=name) for name in names))
    async with an_adapter(core) as adapter:
        devices: list[asyncio.StreamWriter] = []
        for _ in range(3):
            for device in devices:
                device.transport.abort()
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(connect(name)) for name in names]
            devices = [task.result() for task in tasks]
            await until(lambda: connected() == STORM)
        assert core.connections.count("acme") == STORM
        for device in devices:
            device.transport.abort()
        await until(lambda: connected() == 0)
        assert core.connections.count("acme") == 0
        await until(lambda: not adapter._sockets)
