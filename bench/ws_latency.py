"""From a twin change to its WebSocket subscriber: latency beside a loopback echo of the same run.

One writer changes a property over HTTP at a steady rate; subscribers get the event over `/ws/2`. Measured are
from sending the request to reading the event (`change to event`), and from sending the request to its durable
answer (`change to answer`). The echo sends as many bytes over a bare loopback TCP connection, one at a time,
between the changes: what a round trip costs here anyway. Server and clients share this process. Use the
ratios.
Run: `python -m bench.ws_latency [--seconds 10] [--rate 100] [--subscribers 10] [--json]`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import statistics
import tempfile
import time
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import aiohttp

from gateway.config.ditto import DittoHttp, DittoWebSocket
from gateway.ditto.auth import Authentication
from gateway.ditto.endpoint import Endpoints
from gateway.ditto.fanout import Fanout
from gateway.ditto.http import DittoServer, fallback, routes
from gateway.ditto.passwords import PasswordChecks, hash_password
from gateway.ditto.service import PoliciesService, ThingsService
from gateway.ditto.sse import EventStreams
from gateway.ditto.tokens import Tokens
from gateway.ditto.websocket import WebSockets
from gateway.observe.metrics import Metrics
from gateway.observe.tracing import Tracer
from gateway.runtime.listener import Endpoints as Bound
from gateway.runtime.module import running
from gateway.store.database import Database
from gateway.store.things_sqlite import SqliteThingStore

THING = "org.acme:pump-1"
HEADERS = {"Authorization": "Basic " + b64encode(b"ditto:ditto").decode()}
ECHO_BYTES = 400
"""About one event."""


@dataclass(frozen=True, slots=True)
class Latency:
    """Times in milliseconds."""

    name: str
    samples: int
    p50: float
    p99: float

    @classmethod
    def of(cls, name: str, seconds: list[float]) -> Latency:
        ordered = sorted(seconds)
        return cls(
            name,
            len(ordered),
            statistics.median(ordered) * 1_000,
            ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))] * 1_000,
        )


@asynccontextmanager
async def a_server(folder: Path) -> AsyncIterator[str]:
    """The Ditto server with its store on disk; yields `host:port`."""
    http, websocket = DittoHttp(bind="127.0.0.1:0"), DittoWebSocket()
    metrics, tracer, bound = Metrics(), Tracer(), Bound()
    database = Database(folder / "gateway.db", "gateway")
    store = SqliteThingStore(database)
    policies = PoliciesService(store)
    things = ThingsService(store, policies, metrics=metrics, tracer=tracer)
    auth = Authentication({"ditto": hash_password("ditto")}, PasswordChecks(), Tokens(()))
    endpoints, fanout = Endpoints(auth, http, metrics, tracer), Fanout(things)
    streams = EventStreams(things, fanout, endpoints, websocket, metrics)
    sockets = WebSockets(things, policies, fanout, auth, websocket, metrics, http.max_body)
    table = [*routes(endpoints, things, policies, streams, sockets), *fallback(endpoints)]
    server = DittoServer(http, bound, table, auth, sockets, streams)
    async with database.running(), running(things), running(server):
        yield bound.get("ditto.http")


@asynccontextmanager
async def an_echo() -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection to a server that sends back what it gets."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                writer.write(await reader.readexactly(ECHO_BYTES))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()[:2]
    reader, writer = await asyncio.open_connection(host, port)
    try:
        yield reader, writer
    finally:
        writer.close()
        server.close()


class Subscriber:
    """Reads events and notes when each value came."""

    def __init__(self) -> None:
        self.came: dict[int, float] = {}

    async def read(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        async for message in socket:
            value = json.loads(message.data)["value"]
            self.came[int(value)] = time.perf_counter()


async def measure(address: str, seconds: float, rate: float, count: int) -> list[Latency]:
    """Run the load; returns the three latencies."""
    url = f"http://{address}/api/2/things/{THING}"
    sent: dict[int, float] = {}
    answered: list[float] = []
    echoed: list[float] = []
    subscribers = [Subscriber() for _ in range(count)]
    async with (
        aiohttp.ClientSession(headers=HEADERS) as client,
        an_echo() as echo,
        contextlib.AsyncExitStack() as sockets,
        asyncio.TaskGroup() as tasks,
    ):
        await client.put(url, json={"attributes": {"n": -1}})
        for subscriber in subscribers:
            socket = await sockets.enter_async_context(client.ws_connect(f"http://{address}/ws/2"))
            await socket.send_str("START-SEND-EVENTS")
            await socket.receive()
            tasks.create_task(subscriber.read(socket))
        started = time.perf_counter()
        for value in range(int(seconds * rate)):
            await asyncio.sleep(max(0.0, started + value / rate - time.perf_counter()))
            echoed.append(await echo_once(*echo))
            sent[value] = time.perf_counter()
            async with client.put(f"{url}/attributes/n", json=value) as response:
                response.raise_for_status()
            answered.append(time.perf_counter() - sent[value])
        await asyncio.sleep(0.2)
        await sockets.aclose()
    events = [came - sent[value] for s in subscribers for value, came in s.came.items()]
    if len(events) != len(sent) * count:
        raise RuntimeError(f"{len(sent) * count} events were due, {len(events)} came")
    return [
        Latency.of("loopback echo", echoed),
        Latency.of("change to answer", answered),
        Latency.of("change to event", events),
    ]


async def echo_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> float:
    """One round trip."""
    started = time.perf_counter()
    writer.write(b"x" * ECHO_BYTES)
    await reader.readexactly(ECHO_BYTES)
    return time.perf_counter() - started


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rate", type=float, default=100.0, help="changes per second")
    parser.add_argument("--subscribers", type=int, default=10)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        async with a_server(Path(folder)) as address:
            found = await measure(address, options.seconds, options.rate, options.subscribers)
    if options.json:
        print(json.dumps([asdict(one) for one in found]))
        return
    echo = found[0]
    for one in found:
        print(
            f"{one.name:18} p50 {one.p50:7.2f} ms  p99 {one.p99:7.2f} ms"
            f"  {one.p50 / echo.p50:6.1f} x echo  ({one.samples} samples)"
        )


if __name__ == "__main__":
    asyncio.run(main())
