"""Start with 100,000 things; what a thing costs in memory and on disk.

The start is timed from the command until its addresses are written, beside a start with nothing stored. A
thing in memory is measured by reading all of them once with a cache that takes them; beside it stands what
the same documents cost as plain Python objects, and their JSON text.
Run: `python -m bench.things_start [--things 100000] [--rounds 3]`.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from bench.search import a_document
from bench.things_http import every_thing
from bench.things_rig import Server, filled, load, scratch, the_gateway

MEGABYTE = 1_048_576


def started(data_dir: Path) -> tuple[float, float]:
    """Seconds until the gateway is ready, and its resident megabytes then."""
    began = time.perf_counter()
    with the_gateway(data_dir) as server:
        return time.perf_counter() - began, server.resident()


def medians(measure: Callable[[], tuple[float, float]], rounds: int) -> tuple[float, float]:
    """The middle of several starts."""
    found = [measure() for _ in range(rounds)]
    return statistics.median(s for s, _ in found), statistics.median(m for _, m in found)


def read_all(server: Server, things: int) -> dict[str, Any]:
    """Read each thing once; none is in memory before."""
    return load("http_load", server, every_thing(things))


def as_objects(things: int) -> tuple[float, float]:
    """Bytes of a document as Python objects, and as JSON."""
    dice = random.Random(1)
    texts = [msgspec.json.encode(a_document(number, dice)) for number in range(things)]
    myself = Server(os.getpid(), 0)
    before = myself.resident()
    kept = [msgspec.json.decode(text) for text in texts]
    after = myself.resident()
    return (after - before) * MEGABYTE / len(kept), sum(map(len, texts)) / len(texts)


def on_disk(data_dir: Path) -> float:
    """Bytes of the database."""
    return float(sum(file.stat().st_size for file in data_dir.glob("gateway.db*")))


def run(folder: Path, things: int, rounds: int) -> str:
    """Measure all."""
    objects, text = as_objects(things)
    full = filled(folder / "full", things)
    empty_s, empty_mb = medians(lambda: started(folder / "empty"), rounds)
    full_s, full_mb = medians(lambda: started(full), rounds)
    with the_gateway(full, f"ditto.things.cache={2 * things}") as server:
        before = server.resident()
        found = read_all(server, things)
        kept = (server.resident() - before) * MEGABYTE / things
    disk = on_disk(full) / things
    return "\n".join(
        [
            f"{'':26} {'start s':>8} {'resident MB':>12}",
            f"{'nothing stored':26} {empty_s:>8.2f} {empty_mb:>12.1f}",
            f"{f'{things} things':26} {full_s:>8.2f} {full_mb:>12.1f}",
            "",
            f"{'one thing':26} {'bytes':>8} {'x JSON':>8}",
            f"{'JSON text':26} {text:>8.0f} {1:>8.1f}",
            f"{'as Python objects':26} {objects:>8.0f} {objects / text:>8.1f}",
            f"{'in memory, once read':26} {kept:>8.0f} {kept / text:>8.1f}",
            f"{'on disk, with its indices':26} {disk:>8.0f} {disk / text:>8.1f}",
            "",
            f"first reads, from disk: {found['answers'] / found['seconds']:,.0f} /s,"
            f" {found['answers'] / found['cpu']:,.0f} /CPU s",
        ]
    )


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--things", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with scratch() as folder:
        print(run(folder, options.things, options.rounds))


if __name__ == "__main__":
    main()
