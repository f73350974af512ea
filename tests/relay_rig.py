"""A relay for tests: its pump with a link that the test plays, or the whole against real adapters."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gateway.config.hono import AmqpAdapter as AmqpSettings
from gateway.config.hono import MqttAdapter as MqttSettings
from gateway.config.remote import Remote as RemoteSettings
from gateway.config.remote import RemoteGateway
from gateway.errors import GatewayError
from gateway.hono.adapters.amqp import AmqpAdapter
from gateway.hono.adapters.amqp_device import Rooms as AmqpRooms
from gateway.hono.adapters.mqtt import MqttAdapter
from gateway.hono.adapters.mqtt_device import Rooms as MqttRooms
from gateway.hono.remote.meters import RelayMeters
from gateway.hono.remote.pump import Pump
from gateway.hono.remote.relay import GatewayRelay, Relay
from gateway.hono.remote.setup import build_relay
from gateway.model.message import Adapter, Command, CommandResponse, Kind, Message
from gateway.model.ports import DeviceLink, Done
from gateway.model.trace import TraceContext
from gateway.observe.metrics import Metrics
from gateway.observe.tracing import Tracer
from gateway.runtime.module import running
from gateway.store.database import Database
from gateway.store.relay import RelayLimits, RelaySpool
from tests.hono_rig import Core, until

TRACE = TraceContext("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", 0)
ROOMY = RelayLimits(
    bytes={Kind.TELEMETRY: 10_000_000, Kind.EVENT: 10_000_000},
    age={Kind.TELEMETRY: 0.0, Kind.EVENT: 0.0},
)
PROTOCOLS = ("amqp", "mqtt")


def a_message(payload: bytes | str = b"1", device: str = "d1", **more: Any) -> Message:
    given: dict[str, Any] = {
        "tenant": "acme",
        "kind": Kind.TELEMETRY,
        "qos": 1,
        "at": time.time(),
        "trace": TRACE,
        "content_type": "text/plain",
        **more,
    }
    raw = payload.encode() if isinstance(payload, str) else payload
    return Message(device=device, payload=raw, **given)


def an_event(payload: bytes | str = b"1", device: str = "d1", **more: Any) -> Message:
    return a_message(payload, device, kind=Kind.EVENT, **more)


class Outcomes:
    """Callbacks that remember what they were told, by a name."""

    def __init__(self) -> None:
        self.told: dict[object, GatewayError | None] = {}

    def of(self, name: object) -> Done:
        def done(error: GatewayError | None) -> None:
            assert name not in self.told, f"{name} was answered twice"
            self.told[name] = error

        return done

    async def all(self, count: int) -> dict[object, GatewayError | None]:
        await until(lambda: len(self.told) >= count)
        return self.told


class PlayedLink:
    """The port `Uplink`, answered by the test or by a policy."""

    def __init__(self) -> None:
        self.sent: list[Message] = []
        self.waiting: list[tuple[Message, Done]] = []
        self.policy: Callable[[Message], GatewayError | None] | None = None
        self.can_send = True
        self.limit = 1_000_000
        self.ended = ""

    def fits(self, message: Message) -> bool:
        return len(message.payload) <= self.limit

    def send(self, message: Message, done: Done) -> None:
        self.sent.append(message)
        if not message.qos:
            done(None)
        elif self.policy is not None:
            done(self.policy(message))
        else:
            self.waiting.append((message, done))

    def respond(self, response: CommandResponse, done: Done) -> None:
        raise NotImplementedError

    def end(self, cause: str) -> None:
        self.ended = cause

    def answer(self, error: GatewayError | None = None) -> Message:
        """Tell the oldest message's outcome."""
        message, done = self.waiting.pop(0)
        done(error)
        return message

    @property
    def payloads(self) -> list[str]:
        return [message.payload.decode() for message in self.sent]


@dataclass
class PumpRig:
    """A running pump."""

    pump: Pump
    spool: RelaySpool
    metrics: Metrics
    outcomes: Outcomes = field(default_factory=Outcomes)

    def submit(self, message: Message, name: object = None) -> None:
        self.pump.submit(message, self.outcomes.of(message.payload if name is None else name))

    def sample(self, name: str, kind: str = "telemetry", **labels: str) -> float:
        labels = {"tenant": "acme", "type": kind, **labels}
        return self.metrics.registry.get_sample_value(name, labels) or 0.0

    def loss(self, cause: str, kind: str = "telemetry") -> float:
        return self.sample("twinspan_remote_loss_total", kind, cause=cause)

    @property
    def waiting(self) -> int:
        return sum(depth.messages for depth in self.spool.depths.values())


@asynccontextmanager
async def a_pump(
    path: Path | None = None,
    limits: RelayLimits = ROOMY,
    *,
    window: int = 100,
    answer_timeout: float = 30.0,
    clock: Callable[[], float] = time.time,
    gently: bool = True,
) -> AsyncIterator[PumpRig]:
    """A pump without a link; at the end it winds up, unless it is not treated `gently`."""
    database, metrics = Database(path, "relay"), Metrics()
    meters = RelayMeters(metrics, "acme")
    spool = RelaySpool(database, "acme", limits, on_lost=meters.lost, clock=clock)
    meters.watch(spool)
    pump = Pump(spool, meters, Tracer(), window=window, answer_timeout=answer_timeout)
    async with database.running():
        await pump.load()
        async with asyncio.TaskGroup() as group:
            task = group.create_task(pump.run())
            yield PumpRig(pump, spool, metrics)
            if gently:
                await pump.wind_up()
            task.cancel()


# --- the whole relay, and a remote ------------------------------------------------------------------


class Commands:
    """The command routing of our side, played by the test."""

    def __init__(self) -> None:
        self.commands: list[Command] = []
        self.held: list[Done] | None = None
        self.verdict: GatewayError | None = None

    def subscribe(
        self,
        tenant: str,
        device: str,
        link: DeviceLink,
        *,
        adapter: Adapter,
        gateway: str | None = None,
        announce: bool = True,
        for_its_devices: bool = True,
    ) -> Callable[[], None]:
        raise NotImplementedError

    def route(self, command: Command, done: Done) -> None:
        self.commands.append(command)
        if self.held is None:
            done(self.verdict)
        else:
            self.held.append(done)

    def respond(self, response: CommandResponse, done: Done) -> None:
        raise NotImplementedError


@asynccontextmanager
async def an_amqp_adapter(
    core: Core, tls_context: ssl.SSLContext | None = None, **settings: Any
) -> AsyncIterator[AmqpAdapter]:
    rooms = AmqpRooms(
        ingress=core.ingress,
        commands=core.commands,
        authenticator=core.authenticator,
        admission=core.connections,
        assertions=core.registry,
    )
    bind = {"bind": "127.0.0.1:0", "tls_bind": "127.0.0.1:0"} | settings
    adapter = AmqpAdapter(
        AmqpSettings(**bind), core.endpoints, core.metrics, rooms, tls_context=tls_context
    )
    async with running(adapter):
        yield adapter


@asynccontextmanager
async def an_mqtt_adapter(
    core: Core, tls_context: ssl.SSLContext | None = None, **settings: Any
) -> AsyncIterator[MqttAdapter]:
    rooms = MqttRooms(
        ingress=core.ingress,
        commands=core.commands,
        authenticator=core.authenticator,
        admission=core.connections,
        assertions=core.registry,
    )
    bind = {"bind": "127.0.0.1:0", "tls_bind": "127.0.0.1:0"} | settings
    adapter = MqttAdapter(
        MqttSettings(**bind), core.endpoints, core.metrics, rooms, tls_context=tls_context
    )
    async with running(adapter):
        yield adapter


def a_remote_adapter(protocol: str, core: Core, **more: Any) -> Any:
    """The remote's adapter for `protocol`."""
    return (an_amqp_adapter if protocol.startswith("amqp") else an_mqtt_adapter)(core, **more)


@dataclass
class RelayRig:
    """A running relay of tenant `acme`."""

    relay: Relay
    gateway: GatewayRelay
    commands: Commands
    metrics: Metrics
    outcomes: Outcomes = field(default_factory=Outcomes)

    def send(self, message: Message, name: object = None) -> None:
        self.relay.send(message, self.outcomes.of(message.payload if name is None else name))

    def waiting(self, kind: str) -> int:
        """How many messages of a kind are on disk."""
        return int(self.gateway.facts()[f"{kind}-waiting"])

    def accepted(self, kind: str) -> float:
        """How many the remote has accepted."""
        return self.sample("twinspan_remote_messages_total", type=kind, outcome="accepted")

    async def connected(self) -> None:
        await until(lambda: self.gateway.is_connected)

    def sample(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(name, {"tenant": "acme", **labels}) or 0.0


GATEWAY = RemoteGateway(tenant="acme", username="gw@acme", password="pw")


@asynccontextmanager
async def a_relay(
    address: str,
    path: Path | None = None,
    gateway: RemoteGateway = GATEWAY,
    **settings: Any,
) -> AsyncIterator[RelayRig]:
    """The relay of tenant `acme` to the gateway device `gw-1` of the remote at `address`."""
    database, metrics, commands = Database(path, "relay"), Metrics(), Commands()
    wanted = {"reconnect_cap": 0.2, "gateways": (gateway,), **settings}
    relay, (module,) = build_relay(
        RemoteSettings(address=address, **wanted), database, commands, metrics, Tracer()
    )
    async with database.running(), running(module):
        yield RelayRig(relay, module, commands, metrics)
