"""Hollow edges in as many processes as it takes, and the sum of what they tell."""

from __future__ import annotations

import asyncio
import os
import resource
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from itertools import pairwise
from pathlib import Path

import msgspec

from edge.hollow.plan import Order, Plan, Snapshot
from edge.hollow.spread import Spread
from gateway.errors import GatewayError, InvalidSetting
from gateway.runtime.process import raise_file_limit

PER_PROCESS = 1_000
SPARE_FILES = 200
LINE = 1 << 20
STOP_SECONDS = 20.0
_snapshots = msgspec.json.Decoder(Snapshot)
_SPREADS = ("renewals", "lease_times", "node_times", "answer_times")
_SUMMED = tuple(field for field in Snapshot.__struct_fields__ if field not in (*_SPREADS, "errors"))


def shares(nodes: int, processes: int) -> list[tuple[int, int]]:
    """Cut nodes 0 to `nodes` into (first, count) for each process."""
    edges = [nodes * number // processes for number in range(processes + 1)]
    return [(a, b - a) for a, b in pairwise(edges) if b > a]


def check_files(nodes: int) -> None:
    """Allow a process as many open files as its nodes need. Errors: InvalidSetting."""
    raise_file_limit()
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if allowed < nodes + SPARE_FILES:
        raise InvalidSetting(
            f"{nodes} nodes in one process need {nodes + SPARE_FILES} open files;"
            f" this system allows {allowed}",
            description="Raise it (ulimit -Hn, /etc/security/limits.conf) or use more --processes.",
        )


class Fleet:
    """Worker processes that run."""

    def __init__(self, workers: Sequence[asyncio.subprocess.Process]) -> None:
        self._workers = workers
        self._latest: dict[int, Snapshot] = {}
        self._news = asyncio.Event()

    async def listen(self) -> None:
        """Take what the processes tell. Errors: GatewayError when one of them ends."""
        async with asyncio.TaskGroup() as group:
            for worker in self._workers:
                group.create_task(self._listen_to(worker))

    async def _listen_to(self, worker: asyncio.subprocess.Process) -> None:
        assert worker.stdout is not None  # noqa: S101  it is a pipe of ours
        while line := await worker.stdout.readline():
            self._latest[worker.pid] = _snapshots.decode(line)
            self._news.set()
        raise GatewayError(f"a process of hollow edges ended ({await worker.wait()})")

    def order(self, what: str) -> None:
        """Give all processes an order (`plan.Order`)."""
        for worker in self._workers:
            _tell(worker, Order(what))

    def total(self) -> Snapshot:
        """Return the sum of the latest snapshots."""
        return added_up(list(self._latest.values()))

    async def next(self) -> Snapshot:
        """Wait for news and return the sum."""
        self._news.clear()
        await self._news.wait()
        return self.total()

    async def until(
        self, check: Callable[[Snapshot], bool], seconds: float, tell: Callable[[Snapshot], None]
    ) -> bool:
        """Wait until the sum fits; False when it does not within `seconds`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not check(now := await self.next()):
                    tell(now)
                tell(now)
                return True
        return False


def added_up(snapshots: Sequence[Snapshot]) -> Snapshot:
    """Return one snapshot for several processes."""
    total = Snapshot()
    for name in _SUMMED:
        setattr(total, name, sum(getattr(each, name) for each in snapshots))
    for name in _SPREADS:
        spread = Spread()
        for each in snapshots:
            spread.merge(getattr(each, name))
        setattr(total, name, spread.cells)
    for each in snapshots:
        for text, count in each.errors.items():
            total.errors[text] = total.errors.get(text, 0) + count
    return total


@asynccontextmanager
async def running(plans: Sequence[Plan]) -> AsyncIterator[Fleet]:
    """Run a process for each plan, for the length of the block. Errors: GatewayError when one ends."""
    workers = [await _start() for _ in plans]
    fleet = Fleet(workers)
    for worker, plan in zip(workers, plans, strict=True):
        _tell(worker, plan)
    try:
        async with asyncio.TaskGroup() as group:
            listening = group.create_task(fleet.listen())
            yield fleet
            listening.cancel()
    finally:
        await asyncio.gather(*(_stop(worker) for worker in workers))


async def _start() -> asyncio.subprocess.Process:
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "edge.hollow.worker"), stdin=pipe, stdout=pipe, limit=LINE
    )


def _tell(worker: asyncio.subprocess.Process, what: msgspec.Struct) -> None:
    assert worker.stdin is not None  # noqa: S101  it is a pipe of ours
    worker.stdin.write(msgspec.json.encode(what) + b"\n")


async def _stop(worker: asyncio.subprocess.Process) -> None:
    """End the input, which ends the process; kill it when that takes too long."""
    assert worker.stdin is not None  # noqa: S101  it is a pipe of ours
    worker.stdin.close()
    try:
        async with asyncio.timeout(STOP_SECONDS):
            await worker.wait()
    except TimeoutError:
        worker.kill()
        await worker.wait()


class ProcessMeter:
    """Memory and CPU time of another process of this machine. Errors: InvalidSetting for none."""

    def __init__(self, pid: int) -> None:
        self._folder = Path(f"/proc/{pid}")
        if not self._folder.is_dir():
            raise InvalidSetting(f"--pid: there is no process {pid}")

    def resident(self) -> int:
        """Return bytes."""
        pages = int((self._folder / "statm").read_text("ascii").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def cpu(self) -> float:
        """Return seconds, of all its threads."""
        cells = (self._folder / "stat").read_text("utf-8").rpartition(")")[2].split()
        return (int(cells[11]) + int(cells[12])) / os.sysconf("SC_CLK_TCK")
