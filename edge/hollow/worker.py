"""A process of hollow edges: a plan on standard input, a snapshot a second on standard output.

It ends when its input ends, so that no load outlives whoever started it. `python -m edge.hollow.worker`.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import random
import resource
import sys
import time
from collections import Counter as Counted
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
from prometheus_client import Counter

from edge import machine
from edge.hollow.node import HollowNode, Shared
from edge.hollow.plan import Order, Plan, Snapshot
from gateway.runtime import process

SNAPSHOT_SECONDS = 1.0
MEASURE_SECONDS = 30.0
JOINS_AT_ONCE = 8
_orders = msgspec.json.Decoder(Order)
_plans = msgspec.json.Decoder(Plan)


class Worker:
    """The nodes of one process."""

    def __init__(self, shared: Shared) -> None:
        plan = shared.plan
        self._shared = shared
        self._nodes = [
            HollowNode(shared, f"{plan.prefix}-{number:05d}")
            for number in range(plan.first, plan.first + plan.count)
        ]

    async def run(self, orders: asyncio.Queue[Order | None], tell: Callable[[bytes], None]) -> None:
        """Work until the orders end."""
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self._start(group)),
                group.create_task(self._tell_forever(tell)),
                group.create_task(self._churn()),
            ]
            self._running: list[asyncio.Task[None]] = []
            while (order := await orders.get()) is not None:
                self._obey(order)
            for task in (*tasks, *self._running):
                task.cancel()

    async def _start(self, group: asyncio.TaskGroup) -> None:
        """Start nodes at the pace of the plan, those that fell behind at once."""
        clock = asyncio.get_running_loop().time
        began, ramp = clock(), self._shared.plan.ramp
        for number, node in enumerate(self._nodes):
            await asyncio.sleep(max(0.0, began + number / ramp - clock()))
            self._running.append(group.create_task(node.run()))
        gc.collect()
        gc.freeze()

    async def _churn(self) -> None:
        rate = self._shared.plan.churn
        while rate > 0:
            await asyncio.sleep(random.expovariate(rate / 60))
            random.choice(self._nodes).drop()  # noqa: S311  no secret

    def _obey(self, order: Order) -> None:
        shared = self._shared
        if order.do == "drop":
            for node in self._nodes:
                node.drop()
        elif order.do == "mark":
            for spread in (
                shared.renewals,
                shared.lease_times,
                shared.node_times,
                shared.answer_times,
            ):
                spread.clear()

    async def _tell_forever(self, tell: Callable[[bytes], None]) -> None:
        while True:
            await asyncio.sleep(SNAPSHOT_SECONDS)
            tell(msgspec.json.encode(self._snapshot()))

    def _snapshot(self) -> Snapshot:
        shared = self._shared
        carried = [node.meter.read() for node in self._nodes]
        links = Counted(node.hub.last_error for node in self._nodes if not node.hub.is_connected)
        away = {f"link: {text}": count for text, count in links.most_common(5) if text}
        out, into, segments = (sum(column) for column in zip(*carried, strict=True))
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return msgspec.structs.replace(
            shared.told,
            errors={**shared.told.errors, **away},
            bytes_out=out,
            bytes_in=into,
            segments=segments,
            frames_in=_count(shared.metrics.edge_link_messages, "in"),
            frames_out=_count(shared.metrics.edge_link_messages, "out"),
            reports_waiting=sum(len(node.reports) for node in self._nodes),
            reports_answered=_count(shared.metrics.edge_reports_answered, "taken"),
            uploads_answered=_count(shared.metrics.edge_uploads_answered, "taken"),
            renewals=shared.renewals.cells,
            lease_times=shared.lease_times.cells,
            node_times=shared.node_times.cells,
            answer_times=shared.answer_times.cells,
            resident=_resident(),
            cpu=usage.ru_utime + usage.ru_stime,
        )


def _count(counter: Counter, label: str) -> int:
    for metric in counter.collect():
        for sample in metric.samples:
            if sample.name.endswith("_total") and label in sample.labels.values():
                return int(sample.value)
    return 0


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def measured_now_and_then() -> Callable[[Path], machine.Supplies]:
    """Return a measure of this machine that all nodes share, taken anew twice a minute."""
    known: tuple[float, machine.Supplies] | None = None

    def measure(folder: Path) -> machine.Supplies:
        nonlocal known
        now = time.monotonic()
        if known is None or now - known[0] > MEASURE_SECONDS:
            known = now, machine.measure(folder)
        return known[1]

    return measure


async def main() -> None:
    """Read the plan, then orders, until the end of the input."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    plan = _plans.decode(await reader.readline())
    orders: asyncio.Queue[Order | None] = asyncio.Queue()
    with ThreadPoolExecutor(JOINS_AT_ONCE) as joins:
        worker = Worker(Shared(plan, measured_now_and_then(), joins))
        async with asyncio.TaskGroup() as group:
            work = group.create_task(worker.run(orders, _tell))
            while line := await reader.readline():
                orders.put_nowait(_orders.decode(line))
            orders.put_nowait(None)
            await work


def _tell(line: bytes) -> None:
    sys.stdout.buffer.write(line + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)  # each node would tell of itself; the snapshots count
    process.run(main())
