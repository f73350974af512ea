"""The Ditto service with its connections, on a thread of its own: for clients that block."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path

from gateway.config import Settings
from gateway.config.ditto import DittoHttp
from gateway.config.schema import plain
from gateway.connectivity.endpoints import Northbound
from gateway.connectivity.http import routes as connection_routes
from gateway.connectivity.hub import Connections
from gateway.connectivity.store import ConnectionStore
from gateway.ditto.operator_commands import piggybacks
from gateway.ditto.upkeep import Upkeep
from gateway.errors import NoConsumer
from gateway.hono.downstream import Messaging
from gateway.model.message import Command, CommandResponse
from gateway.model.ports import Done
from gateway.runtime.listener import Endpoints
from gateway.runtime.module import running
from gateway.store.memory_events import MemoryEvents
from tests.ditto_rig import FREE, Stack, a_service, serving

START_SECONDS = 30.0


class NoDevices:
    """Command routing without a device that listens."""

    def subscribe(self, *_where: object, **_how: object) -> Callable[[], None]:
        return lambda: None

    def route(self, _command: Command, done: Done) -> None:
        done(NoConsumer())

    def respond(self, _response: CommandResponse, done: Done) -> None:
        done(NoConsumer())


@asynccontextmanager
async def with_connections(http: DittoHttp | None = None) -> AsyncIterator[Stack]:
    """The Ditto service as the gateway serves it: things, policies, search and connections."""
    http = http or DittoHttp(bind=FREE)
    async with AsyncExitStack() as stack:
        ditto = await stack.enter_async_context(a_service(http))
        connections = Connections(
            ConnectionStore(ditto.database),
            ditto.things,
            ditto.policies,
            NoDevices(),
            Messaging(MemoryEvents(), ditto.metrics),
            Northbound(Endpoints(), {}),
            ditto.metrics,
        )
        await stack.enter_async_context(running(connections))
        upkeep = Upkeep(ditto.policies.store)
        settings = plain(Settings(data_dir=Path("/data")))
        commands = piggybacks(ditto.things, ditto.policies, upkeep, settings, ditto.metrics)
        table = connection_routes(ditto.endpoints, connections, commands)
        await stack.enter_async_context(serving(ditto, http, None, table))
        yield ditto


@contextmanager
def served() -> Iterator[str]:
    """The service's base URL; the service runs for the length of the block."""
    started: list[str] = []
    ready, stop = threading.Event(), threading.Event()

    async def serve() -> None:
        async with with_connections() as stack:
            started.append(stack.url)
            ready.set()
            await asyncio.to_thread(stop.wait)

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        assert ready.wait(START_SECONDS)
        yield started[0]
    finally:
        stop.set()
        thread.join()
