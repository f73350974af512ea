"""A running northbound endpoint with events in memory and command routing that the test plays."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from gateway.config.hono import Northbound as NorthboundSettings
from gateway.errors import GatewayError
from gateway.hono.downstream import Messaging
from gateway.hono.northbound import ENDPOINT, ApplicationUser, Northbound
from gateway.model.message import Adapter, Command, CommandResponse, Kind, Message
from gateway.model.ports import DeviceLink, Done
from gateway.model.trace import TraceContext
from gateway.observe.metrics import Metrics
from gateway.runtime.listener import Endpoints
from gateway.runtime.module import running
from gateway.store.memory_events import MemoryEvents
from gateway.store.ports import EventStore
from tests.integration.proton_peer import Peer

TRACE = TraceContext("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331")
AT = 1_700_000_000.123


class Routing:
    """Command routing that keeps what it is asked and answers `verdict`."""

    def __init__(self) -> None:
        self.commands: list[Command] = []
        self.verdict: GatewayError | None = None

    def route(self, command: Command, done: Done) -> None:
        self.commands.append(command)
        done(self.verdict)

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
        raise AssertionError("the northbound side subscribes nobody")

    def respond(self, response: CommandResponse, done: Done) -> None:
        raise AssertionError("the northbound side answers nothing")


@dataclass
class Rig:
    messaging: Messaging
    northbound: Northbound
    routing: Routing
    metrics: Metrics
    address: str
    events: EventStore
    answers: list[Any] = field(default_factory=list)

    def url(self, user: str = "consumer%40HONO", password: str = "verysecret") -> str:
        return f"amqp://{user}:{password}@{self.address}"

    def peer(self, **options: Any) -> Peer:
        return Peer(options.pop("url", self.url()), **options)

    async def send(self, message: Message, seconds: float = 30.0) -> GatewayError | None:
        """Send a message downstream and wait for the device's outcome."""
        answer: asyncio.Future[GatewayError | None] = asyncio.get_running_loop().create_future()
        self.messaging.send(message, answer.set_result)
        async with asyncio.timeout(seconds):
            return await answer


def a_message(payload: bytes = b'{"temp": 5}', **more: Any) -> Message:
    given: dict[str, Any] = {
        "tenant": "acme",
        "device": "4711",
        "kind": Kind.TELEMETRY,
        "qos": 1,
        "at": AT,
        "trace": TRACE,
        "content_type": "application/json",
        "adapter": Adapter.MQTT,
        "address": "telemetry",
        **more,
    }
    return Message(payload=payload, **given)


def an_event(payload: bytes = b"{}", **more: Any) -> Message:
    return a_message(payload, kind=Kind.EVENT, address="event", **more)


@asynccontextmanager
async def a_northbound(
    events: EventStore | None = None, patience: float = 1.0, **settings: Any
) -> AsyncIterator[Rig]:
    store = MemoryEvents(clock=lambda: AT) if events is None else events
    metrics, endpoints, routing = Metrics(), Endpoints(), Routing()
    messaging = Messaging(store, metrics, timeout=patience)
    users = {
        "consumer@HONO": ApplicationUser("consumer@HONO", "verysecret"),
        "ann": ApplicationUser("ann", "secret", frozenset({"acme"})),
    }
    northbound = Northbound(
        NorthboundSettings(bind="127.0.0.1:0", **settings),
        endpoints,
        messaging,
        routing,
        users,
        metrics,
        response_timeout=patience,
    )
    async with running(northbound):
        yield Rig(messaging, northbound, routing, metrics, endpoints.get(ENDPOINT), store)
