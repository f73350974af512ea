"""From MQTT devices to the application: our MQTT adapter and northbound AMQP, against thingsboard-gateway.

Both relays get the same messages (150 bytes of JSON) from the same ten publishers in the same closed loop
(at most `WINDOW` messages between publisher and application), one after the other in the same run:
  ours    publishers -> MQTT adapter -> AMQP 1.0 receiver that accepts each message
  theirs  publishers -> mosquitto -> thingsboard-gateway -> mosquitto (its platform's place) -> subscriber
At QoS 1 every hop acknowledges. The relays have the first core, all else is on the last one. Needs mosquitto,
and thingsboard-gateway as scripts/bench-peers.sh gets it.
Run: `python -m bench.relay [--messages 20000] [--runs 3] [--json]`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import socket
import statistics
import sys
import tempfile
import time
import urllib.request
from base64 import b64encode
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

from bench.amqp_sink import Sink
from bench.mqtt_load import Client, connect, subscribe
from bench.things_rig import pinned

PEER = Path(".peers/thingsboard-gateway/bin/python")
PEER_PATH = str(PEER.absolute())
ON_FIRST_CORE = pinned(0)
PUBLISHERS = 10
WINDOW = 500
BURST = 50
SECONDS = 120.0
START_SECONDS = 60.0
PAD = "x" * 105
SESSION_LIMITS = json.dumps(
    {
        "maxPayloadSize": 65_536,
        "maxInflightMessages": 1_000,
        "rateLimits": {},
        "gatewayRateLimits": {},
    }
).encode()
ROOMS = ("http", "mqtt", "amqp", "coap", "northbound")
"""What listens with and without TLS."""
PROBE = "n-1"
"""The key of the messages that only ask whether the relay is up."""


@dataclass(frozen=True, slots=True)
class Relay:
    """Medians: messages per second from publisher to application, and per second of the relay's CPU time.

    Units:  megabytes resident after the run.
    Theirs counts the CPU time and memory of thingsboard-gateway alone, not of the two brokers it needs.
    """

    relay: str
    qos: int
    per_second: float
    per_cpu_second: float
    resident_mb: float


Rates: TypeAlias = tuple[float, float]
"""Per second, and per second of CPU time."""
Run: TypeAlias = tuple[float, float, float]
"""Rates, and megabytes resident."""


class Flow:
    """The closed loop: how many went in and came out."""

    def __init__(self, messages: int) -> None:
        self.messages = messages
        self.sent = 0
        self.seen = 0
        self._moved = asyncio.Event()

    def saw(self, count: int) -> None:
        self.seen = count
        self._moved.set()

    async def run(self, pid: int, publish: Callable[[int, list[bytes]], None]) -> Rates:
        """Publish all, wait for all; returns the rates of the relay with process `pid`."""
        started, cpu = time.perf_counter(), _cpu(pid)
        async with asyncio.timeout(SECONDS):
            while self.seen < self.messages:
                room = min(WINDOW - (self.sent - self.seen), self.messages - self.sent)
                while room > 0:
                    count = min(BURST, room)
                    publish(self.sent // BURST, [_payload(self.sent + n) for n in range(count)])
                    self.sent, room = self.sent + count, room - count
                self._moved.clear()
                await self._moved.wait()
        seconds = time.perf_counter() - started
        return self.messages / seconds, self.messages / max(_cpu(pid) - cpu, 0.01)


def _payload(number: int) -> bytes:
    return f'{{"temperature": 20.5, "n": {number:>8}, "text": "{PAD}"}}'.encode()


@asynccontextmanager
async def _process(*command: str, folder: Path, **environment: str) -> AsyncIterator[int]:
    """Run a command for the length of the block; yields its process id."""
    with (folder / "log").open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            *command, stdout=log, stderr=log, cwd=folder, env={**os.environ, **environment}
        )
    try:
        yield process.pid
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            async with asyncio.timeout(10):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


def _cpu(pid: int) -> float:
    """Seconds of CPU time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _resident(pid: int) -> float:
    """Megabytes of memory."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


async def _client(
    port: int, greeting: bytes, on_publish: Callable[[str, bytes], None] | None = None
) -> Client:
    """Connect, waiting for a server that is still starting."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(20):
        while True:
            with contextlib.suppress(ConnectionRefusedError):
                _, client = await loop.create_connection(
                    lambda: Client(greeting, on_publish), "127.0.0.1", port
                )
                await client.connected
                return client
            await asyncio.sleep(0.1)


# --- ours ----------------------------------------------------------------------------------------------


async def ours(qos: int, messages: int) -> Run:
    """One run of our gateway, a process of its own with a tenant that only applications listen to."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        settings = [
            f"{part}=127.0.0.1:0"
            for part in (
                *(f"hono.{room}.bind" for room in ("registry", *ROOMS)),
                *(f"hono.{room}.tls_bind" for room in ROOMS),
                "ditto.http.bind",
                "observe.http.bind",
            )
        ]
        program = str(Path(sys.executable).parent / "twinspan")
        command = [*ON_FIRST_CORE, program, "gateway", "--demo"]
        command += ["--data-dir", str(folder / "data")]
        command += [word for setting in settings for word in ("--set", setting)]
        async with _process(*command, folder=folder) as pid:
            endpoints = await _endpoints(folder / "data" / "endpoints.json")
            await asyncio.to_thread(_provision, endpoints["hono.registry"])
            rates = await _through_ours(pid, endpoints, qos, messages)
            return *rates, _resident(pid)


async def _endpoints(file: Path) -> dict[str, int]:
    async with asyncio.timeout(START_SECONDS):
        while True:
            with contextlib.suppress(FileNotFoundError, ValueError):
                found = json.loads(await asyncio.to_thread(file.read_text))
                return {name: int(at.rpartition(":")[2]) for name, at in found.items()}
            await asyncio.sleep(0.1)


def _provision(port: int) -> None:
    """A tenant, ten devices with passwords."""
    _call(port, "POST", "tenants/bench", {})
    for number in range(PUBLISHERS):
        device = f"d{number}"
        secret = {"type": "hashed-password", "auth-id": device, "secrets": [{"pwd-plain": "pw"}]}
        _call(port, "POST", f"devices/bench/{device}", {})
        _call(port, "PUT", f"credentials/bench/{device}", [secret])


def _call(port: int, method: str, path: str, body: Any) -> None:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/{path}",
        json.dumps(body).encode(),
        {
            "Content-Type": "application/json",
            "Authorization": "Basic " + b64encode(b"hono-client:secret").decode(),
        },
        method=method,
    )
    urllib.request.urlopen(request, timeout=10).close()


async def _through_ours(pid: int, endpoints: dict[str, int], qos: int, messages: int) -> Rates:
    flow = Flow(messages)
    stream = await asyncio.open_connection("127.0.0.1", endpoints["northbound.amqp"], limit=1 << 20)
    sink = Sink(*stream, "consumer@HONO:verysecret", flow.saw)
    await sink.attach("telemetry/bench")
    clients = [
        await _client(endpoints["hono.mqtt"], connect(f"d{n}", f"d{n}@bench", "pw"))
        for n in range(PUBLISHERS)
    ]
    async with asyncio.TaskGroup() as group:
        receiving = group.create_task(sink.run(messages))
        rates = await flow.run(
            pid,
            lambda burst, payloads: clients[burst % PUBLISHERS].publish("telemetry", payloads, qos),
        )
        await receiving
    for client in clients:
        client.transport.close()
    stream[1].close()
    return rates


# --- theirs --------------------------------------------------------------------------------------------


async def theirs(qos: int, messages: int) -> Run:
    """One run of thingsboard-gateway between two brokers."""
    mosquitto = shutil.which("mosquitto") or "/usr/sbin/mosquitto"
    south, north = _free_port(), _free_port()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for port in (south, north):
            _broker_settings(folder, port)
        _configure(folder, south, north, qos)
        environment = {"TB_GW_CONFIG_DIR": str(folder / "config")}
        async with (
            _process(mosquitto, "-c", str(folder / f"{south}.conf"), folder=folder),
            _process(mosquitto, "-c", str(folder / f"{north}.conf"), folder=folder),
            _process(
                *(*ON_FIRST_CORE, PEER_PATH, "-m", "thingsboard_gateway.tb_gateway"),
                folder=folder,
                **environment,
            ) as pid,
        ):
            rates = await _through_theirs(pid, south, north, qos, messages)
            return *rates, _resident(pid)


def _broker_settings(folder: Path, port: int) -> None:
    text = f"listener {port} 127.0.0.1\nallow_anonymous true\nmax_queued_messages 0\n"
    (folder / f"{port}.conf").write_text(text)


def _configure(folder: Path, south: int, north: int, qos: int) -> None:
    """Their own example configuration, with rate limits and statistics off."""
    library = next(PEER.parents[1].glob("lib/python3*/site-packages/thingsboard_gateway/config"))
    config = folder / "config"
    config.mkdir()
    (folder / "logs").mkdir()
    logs = (library / "logs.json").read_text().replace('"INFO"', '"WARNING"')
    (config / "logs.json").write_text(logs)
    main = json.loads((library / "tb_gateway.json").read_text())
    off = {name: "0:0," for name in main["thingsboard"] if name.lower().endswith("ratelimits")}
    main["thingsboard"] |= off | {"host": "127.0.0.1", "port": north, "qos": qos}
    main["thingsboard"]["remoteConfiguration"] = False
    main["thingsboard"]["statistics"]["enable"] = False
    main["connectors"] = [{"name": "mqtt", "type": "mqtt", "configuration": "mqtt.json"}]
    (config / "tb_gateway.json").write_text(json.dumps(main))
    connector = json.loads((library / "mqtt.json").read_text())
    connector["broker"] |= {"port": south}
    mapping = next(m for m in connector["mapping"] if m["topicFilter"] == "sensor/+/data")
    mapping["subscriptionQos"] = qos
    mapping["converter"] |= {
        "attributes": [],
        "timeseries": [
            {"type": "double", "key": "n${n}", "value": "${temperature}"},
            {"type": "string", "key": "text", "value": "${text}"},
        ],
    }
    connector["mapping"] = [mapping]
    (config / "mqtt.json").write_text(json.dumps(connector))


class Platform:
    """Stands in for their platform: grants no rate limits, counts messages.

    What comes from one device in one millisecond is merged there, so each message has a key of its own.
    """

    def __init__(self, saw: Callable[[int], None]) -> None:
        self._saw = saw
        self.numbers: set[str] = set()
        self.client: Client

    async def connect(self, port: int, qos: int) -> None:
        """Subscribe to what the gateway asks and sends."""
        self.client = await _client(port, connect("application"), self._take)
        for topic in ("v1/gateway/telemetry", "v1/devices/me/rpc/request/+"):
            self.client.transport.write(subscribe(topic, qos))
        await self.client.subscribed

    def _take(self, topic: str, payload: bytes) -> None:
        if topic == "v1/gateway/telemetry":
            for rows in json.loads(payload).values():
                for row in rows:
                    self.numbers.update(key for key in row["values"] if key.startswith("n"))
            self._saw(len(self.numbers - {PROBE}))
        else:
            self.client.publish(topic.replace("request", "response"), [SESSION_LIMITS], 1)


async def _through_theirs(pid: int, south: int, north: int, qos: int, messages: int) -> Rates:
    flow = Flow(messages)
    platform = Platform(flow.saw)
    await platform.connect(north, qos)
    clients = [await _client(south, connect(f"d{n}")) for n in range(PUBLISHERS)]
    await _until_it_relays(clients[0], platform)
    rates = await flow.run(
        pid,
        lambda burst, payloads: clients[burst % PUBLISHERS].publish(
            f"sensor/d{burst % PUBLISHERS}/data", payloads, qos
        ),
    )
    for client in (*clients, platform.client):
        client.transport.close()
    return rates


async def _until_it_relays(client: Client, platform: Platform) -> None:
    """It takes seconds to start: send until something comes through, then let the rest come."""
    async with asyncio.timeout(60):
        while not platform.numbers:
            client.publish("sensor/probe/data", [b'{"temperature": 1.5, "n": -1, "text": ""}'], 1)
            await asyncio.sleep(0.5)
    await asyncio.sleep(3.0)


def measure(messages: int = 20_000, runs: int = 3) -> list[Relay]:
    """Run both relays in turn; theirs gets a tenth of the messages."""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    found: dict[tuple[str, int], list[Run]] = {}
    for _ in range(runs):
        for qos in (0, 1):
            found.setdefault(("twinspan", qos), []).append(asyncio.run(ours(qos, messages)))
            run = asyncio.run(theirs(qos, max(messages // 10, 1)))
            found.setdefault(("thingsboard-gateway", qos), []).append(run)
    return [
        Relay(relay, qos, *(round(statistics.median(column)) for column in zip(*all_, strict=True)))
        for (relay, qos), all_ in found.items()
    ]


def main() -> None:
    """Print the table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=20_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if not PEER.exists():
        parser.exit(1, f"{PEER} is not there; see `python -m bench.relay --help`\n")
    relays = measure(arguments.messages, arguments.runs)
    if arguments.json:
        print(json.dumps([asdict(relay) for relay in relays]))
        return
    print(f"{'relay':<22}{'QoS':>4}{'messages/s':>12}{'per CPU s':>12}{'MB':>6}")
    for relay in relays:
        print(
            f"{relay.relay:<22}{relay.qos:>4}{relay.per_second:>12,.0f}{relay.per_cpu_second:>12,.0f}"
            f"{relay.resident_mb:>6.0f}"
        )


if __name__ == "__main__":
    main()
