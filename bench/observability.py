"""What metrics and traces cost on the telemetry path: the same MQTT ingest with and without them.

Servers run side by side in processes of their own, each on the real core: one as shipped (metrics, and
traces at
default sampling), one without spans, one without metrics, one with neither. Without means that what the
path calls
is replaced by calls that do nothing. They get the same messages in turns; the cost is CPU time per message
as shipped
over that with neither, pair by pair, and the median of the pairs counts.
Run: `python -m bench.observability [--messages 100000] [--rounds 5] [--json]`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from bench.ingest_core import an_mqtt_adapter, fill
from bench.mqtt_ingest import Server, measure_one
from bench.mqtt_sender import Load
from gateway.hono.amqp_messages import MessageEncoder
from gateway.model.message import Message
from gateway.model.ports import Done
from gateway.model.trace import TraceContext
from gateway.observe.histograms import Tally
from gateway.observe.tracing import AttributeValue, Span, Tracer, new_context
from gateway.runtime import process
from gateway.runtime.memory import settle_memory
from tests.hono_rig import Consumer, Core, a_core

LOADS = (
    Load("single", 0, 10, 200, 1),
    Load("coalesced", 0, 10, 200, 20),
    Load("single", 1, 10, 20, 1),
)
VARIANTS = ("shipped", "no-traces", "no-metrics", "neither")
GOAL = 1.05


class Nowhere(list[float]):
    """Keeps nothing."""

    def append(self, value: float, /) -> None:
        """Take it."""


class NoTally(Tally):
    """Counts nothing."""

    def __init__(self) -> None:
        super().__init__(())
        self.pending = Nowhere()


class Application(Consumer):
    """Takes all; each message is written as AMQP 1.0, as for a receiver, and sent nowhere."""

    def __init__(self) -> None:
        super().__init__()
        self._encode = MessageEncoder("bench").encode

    def send(self, message: Message, done: Done) -> None:
        self._encode(message)
        done(None)


class NoMeter:
    """The meter of uploads that has no meters."""

    def __init__(self) -> None:
        self._both = NoTally(), NoTally()

    def meters(self, *_labels: object) -> tuple[Tally, Tally]:
        return self._both


class NoTracer(Tracer):
    """Makes one span, once, and new ids for each message: applications of Hono are promised a trace
    context."""

    def __init__(self) -> None:
        super().__init__()
        self._one = Span("none", new_context(sampled=False), None, "internal", 0, None)

    def start_frequent(
        self,
        name: str,
        parent: TraceContext | None,
        kind: str,
        attributes: Mapping[str, AttributeValue],
    ) -> Span:
        del name, parent, kind, attributes
        self._one.context = new_context(sampled=False)
        return self._one


def without(core: Core, variant: str) -> None:
    """Take away what a variant has not."""
    ingress: Any = core.ingress
    if variant in ("no-traces", "neither"):
        ingress._tracer = NoTracer()
    if variant in ("no-metrics", "neither"):
        ingress._meter = NoMeter()


async def serve(variant: str) -> None:
    """Serve one variant until standard input ends."""
    async with a_core() as core:
        core.consumer.send = Application().send  # type: ignore[method-assign]
        await fill(core)
        without(core, variant)
        async with an_mqtt_adapter(core):
            settle_memory()
            print(core.endpoints.port("hono.mqtt"), flush=True)
            await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


@contextmanager
def a_server(variant: str) -> Iterator[Server]:
    """A variant in a process of its own."""
    command = [sys.executable, "-m", "bench.observability", "--serve", variant]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        try:
            line = child.stdout.readline() if child.stdout else ""
            yield Server(variant, child.pid, int(line))
        finally:
            child.terminate()


def run(messages: int = 100_000, rounds: int = 5) -> dict[str, Any]:
    """Measure every load in turns.

    Shape:  {"messages", "rounds", "goal", "loads": [{"load", "qos", "microseconds": {variant: CPU per
    message},
            "ratios": {variant: over neither}, "all_ratios": [shipped over neither, pair by pair]}]}.
    """
    with ExitStack() as up:
        servers = [up.enter_context(a_server(variant)) for variant in VARIANTS]
        loads = [_load(servers, load, messages, rounds) for load in LOADS]
    return {"messages": messages, "rounds": rounds, "goal": GOAL, "loads": loads}


def _load(servers: list[Server], load: Load, messages: int, rounds: int) -> dict[str, Any]:
    for server in servers:
        measure_one(server, load, messages // 5)  # warm
    found: dict[str, list[float]] = {variant: [] for variant in VARIANTS}
    for number in range(rounds):
        for server in servers if number % 2 else reversed(servers):
            found[server.name].append(1e6 / measure_one(server, load, messages)[0])
    pairs = {
        variant: [one / none for one, none in zip(found[variant], found["neither"], strict=True)]
        for variant in VARIANTS
    }
    return {
        "load": load.name,
        "qos": load.qos,
        "microseconds": {v: round(statistics.median(found[v]), 2) for v in VARIANTS},
        "ratios": {v: round(statistics.median(pairs[v]), 3) for v in VARIANTS},
        "all_ratios": [round(ratio, 3) for ratio in pairs["shipped"]],
    }


def report(found: dict[str, Any]) -> str:
    """Return what `run` found as a table."""
    lines = [f"load        QoS  {'':<11}" + "".join(f"{name:>12}" for name in VARIANTS)]
    for row in found["loads"]:
        for what in ("microseconds", "ratios"):
            cells = "".join(f"{row[what][name]:>12}" for name in VARIANTS)
            lines.append(f"{row['load']:<11} {row['qos']:>3}  {what[:11]:<12}{cells}")
    return "\n".join([*lines, f"goal: shipped over neither below {found['goal']}"])


def main() -> None:
    parser = argparse.ArgumentParser(description="Cost of metrics and traces on telemetry")
    parser.add_argument("--messages", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--serve", choices=VARIANTS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        process.run(serve(options.serve))
    else:
        found = run(options.messages, options.rounds)
        print(json.dumps(found, indent=2) if options.json else report(found))


if __name__ == "__main__":
    main()
