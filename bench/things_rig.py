"""The shipped gateway as benchmarks of the things service run it: filled, on one core, seen from outside.

The server and its ceiling are pinned to the first core, the load generator to the last one, so that a rate is
what one core gives. What a server costs is read from the kernel's books of all its threads.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

from bench.search import fill
from gateway.store.database import Database
from gateway.store.things_sqlite import SqliteThingStore
from tests import process

AUTHORIZATION = "Basic " + b64encode(b"ditto:ditto").decode()
LOAD_SECONDS = 600.0
"""The longest that a load may take."""


def thing_id(number: int) -> str:
    """The id of a thing that `fill` made."""
    return f"bench:t{number:07}"


@dataclass(frozen=True, slots=True)
class Server:
    """A running process and its port on loopback."""

    pid: int
    port: int

    def cpu(self) -> float:
        """CPU seconds of all its threads."""
        tasks = Path(f"/proc/{self.pid}/task").glob("*/schedstat")
        return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9

    def resident(self) -> float:
        """Resident memory in megabytes."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
        return int(line.split()[1]) / 1024


@dataclass(frozen=True, slots=True)
class Rate:
    """What one load gave.

    Units:  `per_second` by the clock, `per_cpu_second` of the server's CPU time; times in milliseconds.
    """

    per_second: float
    per_cpu_second: float
    p50: float
    p99: float

    @classmethod
    def median(cls, rates: Sequence[Rate]) -> Rate:
        """The middle of several runs, each figure by itself."""
        return cls(*map(statistics.median, zip(*map(astuple, rates), strict=True)))


class Meter:
    """Measures a load from inside its generator, from when all is connected until the last answer."""

    def __init__(self, spec: Mapping[str, Any]) -> None:
        self._server = Server(spec["pid"], spec["port"])
        self._cpu = self._server.cpu()
        self.started = time.perf_counter()

    def end(self, latencies: Sequence[float], **more: float) -> dict[str, float]:
        """What a load generator prints; `cpu` is the server's, how late answers came is in milliseconds."""
        seconds = time.perf_counter() - self.started
        found = statistics.quantiles(latencies, n=100)
        return {
            "answers": len(latencies),
            "seconds": seconds,
            "cpu": self._server.cpu() - self._cpu,
            "p50": found[49] * 1_000,
            "p99": found[98] * 1_000,
            **more,
        }


def filled(folder: Path, things: int) -> Path:
    """A data directory with so many things of about half a kilobyte, under one policy."""

    async def write() -> None:
        database = Database(folder / "gateway.db", "gateway")
        async with database.running():
            await fill(SqliteThingStore(database), things)

    folder.mkdir(parents=True, exist_ok=True)
    asyncio.run(write())
    return folder


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder for the length of the block."""
    with tempfile.TemporaryDirectory(prefix="twinspan-bench-") as name:
        yield Path(name)


def pinned(core: int) -> tuple[str, ...]:
    """What a command begins with to stay on one core; nothing where that cannot be."""
    cores = sorted(os.sched_getaffinity(0))
    path = shutil.which("taskset")
    return () if path is None or len(cores) < 2 else (path, "-c", str(cores[core]))


@contextmanager
def the_gateway(data_dir: Path, *sets: str) -> Iterator[Server]:
    """`twinspan gateway --demo` on its core."""
    arguments = ("gateway", "--demo")
    with process.twinspan(data_dir, *arguments, sets=sets, prefix=pinned(0)) as running:
        yield Server(running.pid, running.port("ditto.http"))


@contextmanager
def the_ceiling() -> Iterator[Server]:
    """`bench.bare_sink`, the same work without any of ours, on the same core."""
    command = [*pinned(0), sys.executable, "-m", "bench.bare_sink"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        try:
            line = child.stdout.readline() if child.stdout else ""
            yield Server(child.pid, int(line))
        finally:
            child.terminate()


def load(module: str, server: Server, spec: dict[str, Any]) -> dict[str, Any]:
    """Run a load generator on the other core and return what it printed.

    Shape:  the generator reads `spec` with `port` and `pid` as JSON from its standard input.
    """
    command = [*pinned(-1), sys.executable, "-m", f"bench.{module}"]
    done = subprocess.run(
        command,
        input=json.dumps({**spec, "port": server.port, "pid": server.pid}),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=LOAD_SECONDS,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def measured(module: str, server: Server, spec: dict[str, Any]) -> Rate:
    """One load: its rate by the clock and by the server's CPU time."""
    return rate_of(load(module, server, spec))


def rate_of(found: Mapping[str, float]) -> Rate:
    """What a load generator printed, as rates."""
    answers = found["answers"]
    return Rate(answers / found["seconds"], answers / found["cpu"], found["p50"], found["p99"])


def report(title: str, rows: Sequence[tuple[str, Rate, Rate | None, float | None]]) -> str:
    """A table: name, rate, ceiling in the same run, a published figure of Ditto."""
    lines = [title]
    lines.append(
        f"{'':28} {'/s':>8} {'/CPU s':>8} {'p50 ms':>7} {'p99 ms':>7} {'of ceiling':>10} {'x Ditto':>8}"
    )
    for name, rate, ceiling, published in rows:
        of_ceiling = f"{rate.per_cpu_second / ceiling.per_cpu_second:.2f}" if ceiling else ""
        times = f"{rate.per_second / published:.1f}" if published else ""
        lines.append(
            f"{name:28} {rate.per_second:>8,.0f} {rate.per_cpu_second:>8,.0f} {rate.p50:>7.2f}"
            f" {rate.p99:>7.2f} {of_ceiling:>10} {times:>8}"
        )
    return "\n".join(lines)
