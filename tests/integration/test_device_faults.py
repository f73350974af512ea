"""What breaks between devices and applications: outcomes stay exact, nothing acknowledged is lost."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from gateway.config.hono import AmqpAdapter as AmqpSettings
from gateway.config.hono import MqttAdapter as MqttSettings
from gateway.errors import GatewayError, NoConsumer, NotProcessed
from gateway.hono.adapters import amqp_device, mqtt_device
from gateway.hono.adapters.amqp import AmqpAdapter
from gateway.hono.adapters.mqtt import MqttAdapter
from gateway.model.message import Command
from gateway.runtime.module import running
from gateway.wire.amqp.connection import SASL_HEADER
from gateway.wire.mqtt.codec import encode
from gateway.wire.mqtt.packets import V3, Connect, PubAck, Subscribe, Subscription
from tests.hono_rig import FREE, Core, a_core, a_fleet, until
from tests.integration.northbound_rig import a_message, a_northbound, an_event
from tests.integration.proton_peer import Peer

STORM = 1_000


@asynccontextmanager
async def a_wire(address: str) -> AsyncIterator[tuple[str, Any]]:
    """A way to `address` that can be cut: yields its own address and the knife."""
    pairs: list[asyncio.StreamWriter] = []
    tasks: set[asyncio.Task[None]] = set()

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65_536):
                writer.write(data)

    async def join(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, _, port = address.rpartition(":")
        far_reader, far_writer = await asyncio.open_connection(host, int(port))
        pairs.extend((writer, far_writer))
        for source, target in ((reader, far_writer), (far_reader, writer)):
            tasks.add(asyncio.create_task(copy(source, target)))

    def cut() -> None:
        for writer in pairs:
            writer.transport.abort()

    server = await asyncio.start_server(join, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}", cut
    finally:
        cut()
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


# --- applications ---------------------------------------------------------------------------------------


async def test_an_event_comes_again_when_its_consumer_dies_before_it_answered() -> None:
    async with a_northbound() as rig, a_wire(rig.address) as (address, cut):
        url = f"amqp://consumer%40HONO:verysecret@{address}"
        async with rig.peer(url=url, accept=False) as dying:
            assert await rig.send(an_event(b"1")) is None
            dying.receive_from("event/acme")
            assert (await dying.expect("message"))[2].delivery_count == 0
            cut()
            async with rig.peer() as heir:
                heir.receive_from("event/acme")
                again = (await heir.expect("message"))[2]
                assert (again.body, again.delivery_count) == (b"1", 1)
                await until(lambda: not rig.events._rows)  # type: ignore[attr-defined]


async def test_telemetry_has_an_outcome_when_its_consumer_dies_before_it_answered() -> None:
    async with a_northbound(patience=20.0) as rig, a_wire(rig.address) as (address, cut):
        url = f"amqp://consumer%40HONO:verysecret@{address}"
        async with rig.peer(url=url, accept=False) as dying:
            dying.receive_from("telemetry/acme")
            await until(lambda: rig.messaging.has_consumer("acme"))
            outcomes: list[GatewayError | None] = []
            rig.messaging.send(a_message(), outcomes.append)
            await dying.expect("message")
            assert outcomes == []
            cut()
            await until(lambda: bool(outcomes))
            assert [type(outcome) for outcome in outcomes] == [NotProcessed]
            assert isinstance(await rig.send(a_message()), NoConsumer)


async def test_a_link_without_credit_gets_nothing_and_holds_up_nobody() -> None:
    async with a_northbound() as rig, rig.peer(prefetch=0) as idle:
        for address in ("event/acme", "telemetry/acme"):
            idle.receive_from(address)
            await idle.expect("attached")
        assert await rig.send(an_event(b"1")) is None
        assert isinstance(await rig.send(a_message()), NoConsumer)
        async with rig.peer() as eager:
            eager.receive_from("event/acme")
            assert (await eager.expect("message"))[2].body == b"1"
            await until(lambda: not rig.events._rows)  # type: ignore[attr-defined]
        assert await rig.send(an_event(b"2")) is None
        idle.receive_from("event/other", credit=5)
        assert not any(entry[0] == "message" for entry in list(idle.log.queue))


@pytest.mark.parametrize("said", [b"", SASL_HEADER[:3], SASL_HEADER])
async def test_half_a_login_is_let_go_and_gives_its_place_back(said: bytes) -> None:
    async with a_northbound(max_connections=3, idle_timeout=1.0) as rig:
        host, _, port = rig.address.rpartition(":")
        halves = [await asyncio.open_connection(host, int(port)) for _ in range(3)]
        for _, writer in halves:
            writer.write(said)
        async with asyncio.timeout(30):
            for reader, _ in halves:
                with contextlib.suppress(ConnectionError):
                    while await reader.read(100):
                        pass
        for _, writer in halves:
            writer.close()
        async with rig.peer() as peer:
            await peer.expect("opened")


# --- devices ----------------------------------------------------------------------------------------------


@pytest.fixture
async def core() -> AsyncIterator[Core]:
    async with a_core() as made:
        await a_fleet(made)
        yield made


@asynccontextmanager
async def both_adapters(core: Core, patience: float = 20.0) -> AsyncIterator[None]:
    rooms: dict[str, Any] = {
        "ingress": core.ingress,
        "commands": core.commands,
        "authenticator": core.authenticator,
        "admission": core.connections,
        "assertions": core.registry,
    }
    mqtt, amqp = mqtt_device.Rooms(**rooms), amqp_device.Rooms(**rooms)
    over_mqtt = MqttAdapter(
        MqttSettings(bind=FREE, send_to_device_timeout=patience), core.endpoints, core.metrics, mqtt
    )
    over_amqp = AmqpAdapter(AmqpSettings(bind=FREE), core.endpoints, core.metrics, amqp)
    async with running(over_mqtt), running(over_amqp):
        yield


class MqttDevice:
    """Bare MQTT 3.1.1: it acknowledges what the test says."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def connect(cls, core: Core, login: str = "sensor1") -> MqttDevice:
        host, _, port = core.endpoints.get("hono.mqtt").rpartition(":")
        device = cls(*await asyncio.open_connection(host, int(port)))
        packet = Connect(login, V3, username=f"{login}@acme", password=b"pw")
        device.writer.write(encode(packet, V3))
        assert await device.reader.readexactly(4) == b"\x20\x02\0\0"
        return device

    async def subscribe(self) -> None:
        wish = Subscribe(1, (Subscription("command///req/#", 1),))
        self.writer.write(encode(wish, V3))
        assert await self.reader.readexactly(5) == b"\x90\x03\0\x01\x01"

    async def command_id(self) -> int:
        """The packet id of the command that comes next."""
        first, length = await self.reader.readexactly(2)
        assert (first & 0xF6, length < 128) == (0x32, True)
        body = await self.reader.readexactly(length)
        at = 2 + int.from_bytes(body[:2], "big")
        return int.from_bytes(body[at : at + 2], "big")

    def abort(self) -> None:
        self.writer.transport.abort()


def a_command(name: str) -> Command:
    return Command(tenant="acme", device="d1", name=name, payload=b"")


def amqp_device_of(core: Core) -> Peer:
    return Peer(f"amqp://sensor1%40acme:pw@{core.endpoints.get('hono.amqp')}")


ENDS: dict[str, list[type]] = {
    "late": [type(None)],
    "lost": [NotProcessed],
    "never": [NotProcessed],
}
"""What became of the old connection's answer -> the one outcome."""


@pytest.mark.parametrize("fate", ENDS)
async def test_a_command_in_flight_while_its_device_changes_adapters_has_one_outcome(
    core: Core, fate: str
) -> None:
    outcomes: list[GatewayError | None] = []
    later: list[GatewayError | None] = []
    async with both_adapters(core, patience=0.1 if fate == "never" else 20.0):
        old = await MqttDevice.connect(core)
        await old.subscribe()
        core.commands.route(a_command("first"), outcomes.append)
        packet_id = await old.command_id()
        async with amqp_device_of(core) as new:
            new.receive_from("command")
            await new.expect("attached")
            await until(lambda: core.commands.is_listening("acme", "d1"))
            if fate == "late":
                old.writer.write(encode(PubAck(packet_id), V3))
                await until(lambda: bool(outcomes))
                assert outcomes == [None]
            if fate != "never":
                old.abort()
            await until(lambda: bool(outcomes))
            core.commands.route(a_command("second"), later.append)
            assert (await new.expect("message"))[2].subject == "second"
            await until(lambda: bool(later))
        old.abort()
        assert later == [None]
        assert [type(outcome) for outcome in outcomes] == ENDS[fate]
    assert len(outcomes) == 1


async def test_a_storm_of_reconnects_lets_everybody_in_and_forgets_who_left(core: Core) -> None:
    labels = {"tenant": "acme", "component_name": "hono-mqtt"}

    def connected() -> float:
        return core.sample("hono_connections_authenticated", **labels)

    names = [f"s{number}" for number in range(STORM)]
    await asyncio.gather(*(core.device("acme", name, auth_id=name) for name in names))
    async with both_adapters(core):
        devices: list[MqttDevice] = []
        for _ in range(3):
            for device in devices:
                device.abort()
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(MqttDevice.connect(core, name)) for name in names]
            devices = [task.result() for task in tasks]
            await until(lambda: connected() == STORM)
        assert core.connections.count("acme") == STORM
        for device in devices:
            device.abort()
        await until(lambda: connected() == 0)
        assert core.connections.count("acme") == 0
