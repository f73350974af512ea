"""How fast the northbound endpoint sends telemetry: to a bare receiver, and to python-qpid-proton.

The server process holds downstream messaging and the endpoint; it sends QoS 1 messages of 150 bytes whenever
the receiver has credit, and counts one when its outcome has come back. The figure to compare is messages per
second of the server's CPU time; wall-clock rates depend on the receiver and on what else the machine does.
Run: `python -m bench.amqp_northbound [--messages 100000] [--runs 3] [--json]`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import time
from dataclasses import asdict, dataclass
from typing import cast

from gateway.config.hono import Northbound as Settings
from gateway.errors import GatewayError
from gateway.hono.downstream import Messaging
from gateway.hono.northbound import ENDPOINT, ApplicationUser, Northbound
from gateway.model.message import Adapter, Kind, Message
from gateway.model.ports import CommandRouting
from gateway.observe.metrics import Metrics
from gateway.observe.tracing import new_context
from gateway.runtime.listener import Endpoints
from gateway.runtime.module import running
from gateway.store.memory_events import MemoryEvents

ADDRESS = "telemetry/bench"
USER = "bench:bench"
PAYLOAD = b'{"temperature": 20.5, "text": "' + b"x" * 117 + b'"}'
BURST = 200


@dataclass(frozen=True, slots=True)
class Rate:
    """Medians over the runs, per receiver."""

    receiver: str
    per_second: float
    per_server_cpu_second: float


async def serve(messages: int) -> None:
    """The server process: send `messages`, print what it took."""
    metrics, endpoints = Metrics(), Endpoints()
    messaging = Messaging(MemoryEvents(), metrics, timeout=30.0)
    users = {"bench": ApplicationUser("bench", "bench")}
    nobody = cast(CommandRouting, None)  # no command is sent here
    northbound = Northbound(
        Settings(bind="127.0.0.1:0"), endpoints, messaging, nobody, users, metrics
    )
    async with running(northbound):
        print(endpoints.port(ENDPOINT), flush=True)
        while not messaging.has_consumer("bench"):  # noqa: ASYNC110  nobody tells
            await asyncio.sleep(0.01)
        started, cpu = time.perf_counter(), time.process_time()
        await _pump(messaging, messages)
        result = {
            "seconds": time.perf_counter() - started,
            "cpu": time.process_time() - cpu,
            "messages": messages,
        }
        print(json.dumps(result), flush=True)
        await asyncio.sleep(0.2)


async def _pump(messaging: Messaging, messages: int) -> None:
    done = sent = 0
    failed: list[GatewayError] = []

    def outcome(error: GatewayError | None) -> None:
        nonlocal done
        done += 1
        if error is not None:
            failed.append(error)

    while done < messages and not failed:
        burst = 0
        while sent < messages and burst < BURST and messaging.has_consumer("bench"):
            messaging.send(_message(sent), outcome)
            sent, burst = sent + 1, burst + 1
        await asyncio.sleep(0 if burst else 0.0005)
    if failed:
        raise failed[0]


def _message(number: int) -> Message:
    return Message(
        tenant="bench",
        device=f"device-{number % 100}",
        kind=Kind.TELEMETRY,
        qos=1,
        payload=PAYLOAD,
        at=time.time(),
        trace=new_context(),
        content_type="application/json",
        adapter=Adapter.MQTT.value,
        address="telemetry",
    )


async def run_once(receiver: str, messages: int) -> dict[str, float]:
    """One server and one receiver, each a process; returns the server's figures."""
    server = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench.amqp_northbound", "--server", str(messages)),
        stdout=asyncio.subprocess.PIPE,
    )
    assert server.stdout is not None
    port = int(await server.stdout.readline())
    module = {"bare": "bench.amqp_sink", "proton": "bench.proton_sink"}[receiver]
    sink = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", module, ADDRESS, USER, "127.0.0.1", str(port), str(messages)),
        stdout=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(120):
            result: dict[str, float] = json.loads(await server.stdout.readline())
            await server.wait()
            await sink.wait()
    finally:
        for process in (server, sink):
            if process.returncode is None:
                process.kill()
                await process.wait()
    return result


def measure(messages: int = 100_000, runs: int = 3) -> list[Rate]:
    """Run each receiver `runs` times, in turn."""
    found: dict[str, list[dict[str, float]]] = {"bare": [], "proton": []}
    for _ in range(runs):
        for receiver, results in found.items():
            count = messages if receiver == "bare" else max(messages // 5, 1)
            results.append(asyncio.run(run_once(receiver, count)))
    return [
        Rate(
            receiver,
            round(statistics.median(each["messages"] / each["seconds"] for each in results)),
            round(statistics.median(each["messages"] / each["cpu"] for each in results)),
        )
        for receiver, results in found.items()
    ]


def main() -> None:
    """Print the table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=100_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--server", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.server:
        asyncio.run(serve(arguments.server))
        return
    rates = measure(arguments.messages, arguments.runs)
    if arguments.json:
        print(json.dumps([asdict(rate) for rate in rates]))
        return
    print(f"{'receiver':<10}{'messages/s':>12}{'per server CPU s':>20}")
    for rate in rates:
        print(f"{rate.receiver:<10}{rate.per_second:>12,.0f}{rate.per_server_cpu_second:>20,.0f}")


if __name__ == "__main__":
    main()
