"""Commands to devices of each adapter and back: latency and cost, with mosquitto between clients beside it.

An application sends a command over AMQP 1.0, a device answers it, the application has the response. Devices
over MQTT and AMQP listen; those over HTTP and CoAP ask with a message and wait. Beside it, in turns, on the
same core: a request and its answer between two MQTT clients through mosquitto, which knows no devices.
Run: `python -m bench.commands [--commands 2000] [--rounds 3] [--json]`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass
from typing import Any

from bench.devices_rig import AMQP_TENANT, LOAD_SECONDS, USER, Gateway, mosquitto, the_gateway
from bench.things_rig import pinned

PROTOCOLS = ("mqtt", "amqp", "http", "coap")
DEVICES = (1, 50)


@dataclass(frozen=True, slots=True)
class Trip:
    """Round trips: times in milliseconds, and how many by the clock and by the server's CPU time."""

    p50: float
    p99: float
    per_second: float
    per_cpu_second: float

    @classmethod
    def median(cls, trips: Sequence[Trip]) -> Trip:
        """The middle of several runs, each figure by itself."""
        return cls(*map(statistics.median, zip(*map(astuple, trips), strict=True)))


def measured(spec: Mapping[str, Any], devices: int, commands: int) -> Trip:
    """One load."""
    command = [*pinned(-1), sys.executable, "-m", "bench.commands_load"]
    given = {**spec, "devices": devices, "commands": max(commands // devices, 20)}
    done = subprocess.run(
        command,
        input=json.dumps(given),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=LOAD_SECONDS,
    )
    found: dict[str, float] = json.loads(done.stdout)
    count = found["commands"]
    return Trip(found["p50"], found["p99"], count / found["seconds"], count / found["cpu"])


def spec_of(gateway: Gateway, protocol: str) -> dict[str, Any]:
    """What the load generator is to know of the gateway."""
    return {
        "protocol": protocol,
        "port": gateway.endpoints[f"hono.{protocol}"],
        "application": gateway.endpoints["northbound.amqp"],
        "tenant": AMQP_TENANT,
        "user": USER,
        "pids": [gateway.pid],
    }


def measure(commands: int, rounds: int) -> Iterator[tuple[str, int, Trip, Trip]]:
    """Measure in turns: (protocol, devices, gateway, mosquitto)."""
    with the_gateway(max(DEVICES)) as gateway, mosquitto() as broker:
        between = {**broker.spec, "application": None}
        for protocol in PROTOCOLS:
            spec = spec_of(gateway, protocol)
            for devices in DEVICES:
                pairs = [
                    (measured(spec, devices, commands), measured(between, devices, commands))
                    for _ in range(rounds)
                ]
                ours, theirs = (Trip.median(trips) for trips in zip(*pairs, strict=True))
                yield protocol, devices, ours, theirs


def main() -> None:
    """Print the table, or JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--commands", type=int, default=2_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = []
    for protocol, devices, ours, theirs in measure(options.commands, options.rounds):
        times = ours.p50 / theirs.p50, theirs.per_cpu_second / ours.per_cpu_second
        rows.append({"protocol": protocol, "devices": devices, "twinspan": asdict(ours)})
        rows[-1] |= {"mosquitto": asdict(theirs), "times_p50": times[0], "times_cpu": times[1]}
        if not options.json:
            print(
                f"{protocol:<5}{devices:>4} devices  p50 {ours.p50:>7.2f} ms  p99 {ours.p99:>7.2f} ms"
                f"{ours.per_cpu_second:>8,.0f}/CPU s   mosquitto p50 {theirs.p50:.2f} ms, p99"
                f" {theirs.p99:.2f} ms   {times[0]:.1f} times its p50, {times[1]:.1f} times its CPU",
                flush=True,
            )
    if options.json:
        print(json.dumps(rows))


if __name__ == "__main__":
    main()
