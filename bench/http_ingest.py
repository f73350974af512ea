"""HTTP telemetry ingest of the Hono adapter, with a bare aiohttp server as the framework beside it.

The adapter does all of its work (password of each request, tenant, device, limits, metrics, traces) on the
real core for an application that accepts at once; aiohttp reads the body, answers 202 and does nothing else.
Devices have one request under way each; both servers run on the first core, in turns. Compare by CPU time.
Run: `python -m bench.http_ingest [--messages 20000] [--rounds 3] [--json]`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict

from bench.devices_rig import Rate, Target, bare, in_turns, plain
from bench.ingest_core import TENANT
from bench.things_rig import pinned

DEVICES = (1, 50, 500)
ALONE = 10
"""One device alone waits for each answer: it sends one part in so many of the messages."""


@contextmanager
def the_adapter() -> Iterator[Target]:
    """The HTTP adapter on the real core, in a process of its own."""
    with subprocess.Popen(
        [*pinned(0), sys.executable, "-m", "bench.ingest_core", "http"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        try:
            port = int(child.stdout.readline() if child.stdout else "")
            yield Target("adapter", plain("http", port, [child.pid], None) | {"tenant": TENANT})
        finally:
            child.terminate()


def measure(messages: int, rounds: int) -> Iterator[tuple[int, Rate, Rate]]:
    """Measure each number of devices in turns: (devices, adapter, aiohttp)."""
    with the_adapter() as adapter, bare("http") as framework:
        for devices in DEVICES:
            number = messages // ALONE if devices == 1 else messages
            ours, theirs = in_turns([adapter, framework], 1, devices, number, rounds)
            yield devices, ours, theirs


def main() -> None:
    """Print the table, or JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--messages", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = []
    for devices, ours, theirs in measure(options.messages, options.rounds):
        ratio = ours.per_cpu_second / theirs.per_cpu_second
        rows.append({"devices": devices, "adapter": asdict(ours), "aiohttp": asdict(theirs)})
        rows[-1]["ratio"] = round(ratio, 3)
        if not options.json:
            print(
                f"{devices:>4} devices  adapter {ours.per_second:>8,.0f}/s {ours.per_cpu_second:>8,.0f}/CPU s"
                f"  aiohttp {theirs.per_second:>8,.0f}/s {theirs.per_cpu_second:>8,.0f}/CPU s"
                f"  ratio {ratio:.2f}",
                flush=True,
            )
    if options.json:
        print(json.dumps(rows))


if __name__ == "__main__":
    main()
