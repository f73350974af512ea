"""What worker processes cost and bring: one against two, with the same devices and the same application.

On a machine with few cores the clock cannot tell: load, application, main process and workers share them. So
two things are measured. What a message costs the main process and a worker, in CPU time: `bound` is the
second divided by the first, the number of workers with which the main process becomes the limit where each
has a core of its own. And what one and two workers carry when each may use a fixed part of a core
(`--share`), with enough left for the others: a slow core for each worker. The parts are set with Linux'
control groups (version 1), so this needs root; without, only the costs are measured. `single` is the gateway
without workers.
Run: `python -m bench.workers [--messages 20000] [--rounds 3] [--share 0.2] [--json]`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.devices_rig import AMQP_TENANT, USER, Rate, Target, _provision, scratch
from tests import process

GROUPS = Path("/sys/fs/cgroup/cpu")
SLICE_US = 1_000
"""The shortest slice that control groups give, so that waiting for the next one is little."""
WINDOW = 400
"""Messages between devices and application, few enough for the application's socket never to be full."""
LOAD_SECONDS = 150.0
DEVICES = 200
"""So many that the kernel spreads them evenly."""
TRIES = 3
PROTOCOLS = ("mqtt", "http", "amqp")
PART = {"mqtt": 1.0, "amqp": 1.0, "http": 0.3}
"""Messages of a run, as a part of those asked for."""


@dataclass(frozen=True, slots=True)
class Row:
    """One load. Units: `worker_us`, `main_us` CPU time per message; rates in messages per second."""

    protocol: str
    qos: int
    single_us: float
    worker_us: float
    main_us: float
    one: float | None
    two: float | None

    @property
    def ratio(self) -> float | None:
        """What two workers carry, divided by what one does."""
        return None if not self.one or not self.two else self.two / self.one

    @property
    def bound(self) -> float:
        """With how many workers the main process becomes the limit, all cores alike."""
        return self.worker_us / self.main_us


class Gateway:
    """The shipped program with some workers."""

    def __init__(self, running: process.Twinspan) -> None:
        self.main = running.pid
        self.workers = children(running.pid)
        self.ports = {name: int(at.rpartition(":")[2]) for name, at in running.endpoints.items()}

    def target(self, protocol: str, pids: Sequence[int]) -> Target:
        sink = {
            "kind": "amqp",
            "port": self.ports["northbound.amqp"],
            "user": USER,
            "address": f"telemetry/{AMQP_TENANT}",
        }
        spec: dict[str, Any] = {
            "protocol": protocol,
            "port": self.ports[f"hono.{protocol}"],
            "pids": list(pids),
            "tenant": AMQP_TENANT,
            "topic": "telemetry" if protocol == "mqtt" else None,
            "sink": sink,
        }
        return Target("twinspan", spec)


def children(pid: int) -> list[int]:
    """The processes that a process has started."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has ended
        if int(fields[1]) == pid:
            found.append(int(stat.parent.name))
    return sorted(found)


@contextmanager
def the_gateway(workers: int) -> Iterator[Gateway]:
    """`twinspan gateway --demo` with tenant and devices."""
    with (
        scratch() as folder,
        process.twinspan(
            folder / "data", "gateway", "--demo", sets=(f"hono.workers={workers}",)
        ) as running,
    ):
        gateway = Gateway(running)
        _provision(gateway.ports["hono.registry"], DEVICES, with_kafka=False)
        yield gateway


@contextmanager
def slow_cores(pids: Sequence[int], share: float) -> Iterator[None]:
    """Let each process use a part of one core."""
    with ExitStack() as undo:
        for pid in pids:
            group = GROUPS / f"twinspan-bench-{pid}"
            group.mkdir()
            undo.callback(_release, group, pid)
            (group / "cpu.shares").write_text(
                "65536"
            )  # the part is to be had, however busy the rest
            (group / "cpu.cfs_period_us").write_text(str(int(SLICE_US / share)))
            (group / "cpu.cfs_quota_us").write_text(str(SLICE_US))
            (group / "cgroup.procs").write_text(str(pid))
        yield


def _release(group: Path, pid: int) -> None:
    (GROUPS / "cgroup.procs").write_text(str(pid))
    group.rmdir()


def can_slow_down() -> bool:
    """True where control groups of processor time are there and may be made."""
    probe = GROUPS / "twinspan-bench-probe"
    try:
        probe.mkdir()
        probe.rmdir()
    except OSError:
        return False
    return True


def cost(gateway: Gateway, protocol: str, qos: int, messages: int, pids: Sequence[int]) -> float:
    """Microseconds of CPU time of some processes for one message."""
    rate = _measured(gateway.target(protocol, pids), qos, messages)
    return 1e6 / rate.per_cpu_second


def carried(gateway: Gateway, protocol: str, qos: int, messages: int, share: float) -> float:
    """Messages per second with slow cores for the workers."""
    with slow_cores(gateway.workers, share):
        return _measured(gateway.target(protocol, gateway.workers), qos, messages).per_second


def _measured(target: Target, qos: int, messages: int) -> Rate:
    """One load; again when messages of QoS 0 were lost, which the load waits for in vain."""
    for _ in range(TRIES - 1):
        with suppress(subprocess.SubprocessError):
            return _load(target, qos, messages)
    return _load(target, qos, messages)


def _load(target: Target, qos: int, messages: int) -> Rate:
    spec = {**target.spec, "qos": qos, "devices": DEVICES, "messages": messages, "window": WINDOW}
    spec["sink"] = {**spec["sink"], "qos": qos}
    done = subprocess.run(
        [sys.executable, "-m", "bench.devices_load"],
        input=json.dumps(spec),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=LOAD_SECONDS,
    )
    found: dict[str, float] = json.loads(done.stdout)
    return Rate(messages / found["seconds"], messages / max(found["cpu"], 1e-6))


def measure(
    messages: int, rounds: int, share: float, protocols: Sequence[str] = PROTOCOLS
) -> Iterator[Row]:
    """Measure each protocol at both QoS, everything in turns."""
    slows = can_slow_down()
    with the_gateway(0) as none, the_gateway(1) as one, the_gateway(2) as two:
        for protocol in protocols:
            number = int(messages * PART[protocol])
            for qos in (0, 1):
                rows = [
                    (
                        cost(none, protocol, qos, number, [none.main]),
                        cost(two, protocol, qos, number, two.workers),
                        cost(two, protocol, qos, number, [two.main]),
                        carried(one, protocol, qos, number, share) if slows else None,
                        carried(two, protocol, qos, number, share) if slows else None,
                    )
                    for _ in range(rounds)
                ]
                yield Row(protocol, qos, *(_median(column) for column in zip(*rows, strict=True)))  # type: ignore[arg-type]


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def line(row: Row) -> str:
    """One row of the table."""
    text = (
        f"{row.protocol:<5}{row.qos:>4}{row.single_us:>11.1f}{row.worker_us:>11.1f}"
        f"{row.main_us:>9.1f}{row.bound:>8.1f}"
    )
    if row.ratio is not None:
        text += f"{row.one:>12,.0f}{row.two:>12,.0f}{row.ratio:>8.2f}"
    return text


def main() -> None:
    """Print a line for each load, or JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--messages", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--share", type=float, default=0.2, help="part of a core for each worker")
    parser.add_argument("--protocols", nargs="+", choices=PROTOCOLS, default=PROTOCOLS)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = measure(options.messages, options.rounds, options.share, options.protocols)
    if options.json:
        print(json.dumps([asdict(row) | {"ratio": row.ratio} for row in rows], indent=2))
        return
    print("      QoS  single us  worker us  main us  bound  one slow/s  two slow/s   ratio")
    for row in rows:
        print(line(row), flush=True)


if __name__ == "__main__":
    main()
