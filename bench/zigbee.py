"""Zigbee: reports and reads a second through the mapper, its memory, and the same with bare zigpy.

A stick of our own (`tests.zigbee`) in this process, behind a pty; in a process of its own either zigpy alone
or the mapper on top of it. A thermometer reports as fast as it is heard, then a lamp's attribute is read
again and again. What is compared is the mapper's share: the stick and its pty are the same for both.
Run: `python -m bench.zigbee [--reports 2000] [--reads 200] [--rounds 3] [--json]`.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import statistics
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.edge_footprint import _resident_mb
from bench.things_rig import pinned
from tests.zigbee import kinds
from tests.zigbee.lab import IEEE, Lab, laboratory
from tests.zigbee.stick import Memory

if TYPE_CHECKING:
    from edge.mappers.zigbee.network import ZigbeeFamily

SENSOR, LAMP = (
    kinds.ieee_text(kinds.make("thermometer").ieee),
    kinds.ieee_text(kinds.make("lamp").ieee),
)
TEMPERATURE = 0x0402
WINDOW = 20
"""Reports that wait in the stick at most; a real one has less room."""
MAX_READS = 250
"""zigpy takes an answer for a repetition that has the number and the value of one ten seconds ago."""
SIDE_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Side:
    """One side's figures: a second by the clock and of its CPU time, megabytes resident at the end."""

    reports: float
    reads: float
    reports_cpu: float
    reads_cpu: float
    megabytes: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """Medians over the rounds."""

    mapper: Side
    bare: Side

    @property
    def reports_ratio(self) -> float:
        return self.mapper.reports_cpu / self.bare.reports_cpu

    @property
    def reads_ratio(self) -> float:
        return self.mapper.reads_cpu / self.bare.reads_cpu


def measure(reports: int, reads: int, rounds: int) -> Comparison:
    """Measure both sides in turns."""
    found: dict[str, list[Side]] = {"mapper": [], "bare": []}
    for _ in range(rounds):
        for name, sides in found.items():
            sides.append(asyncio.run(_measured(name, reports, reads)))
    return Comparison(**{name: _median(sides) for name, sides in found.items()})


def _median(sides: list[Side]) -> Side:
    columns = zip(*(asdict(each).values() for each in sides), strict=True)
    return Side(*(round(statistics.median(column), 2) for column in columns))


async def _measured(name: str, reports: int, reads: int) -> Side:
    with (
        laboratory(memory=Memory.formed(IEEE)) as lab,
        tempfile.TemporaryDirectory(prefix="twinspan-bench-") as folder,
    ):
        words = (name, str(lab.path), folder, str(reports), str(reads))
        process = await asyncio.create_subprocess_exec(
            *pinned(0),
            *(sys.executable, "-m", "bench.zigbee", "--side", *words),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None
        try:
            async with asyncio.timeout(SIDE_SECONDS):
                await process.stdout.readline()  # the network is up
                for device in ("thermometer", "lamp"):
                    lab.join(device)
                await process.stdout.readline()  # the devices are known and told
                await _report(lab, reports)
                found = json.loads(await process.stdout.readline())
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()
        return Side(**found)


async def _report(lab: Lab, reports: int) -> None:
    sensor, stick = lab.devices["thermometer"], lab.stick
    assert stick is not None
    for number in range(reports):
        while len(stick._indications) >= WINDOW:  # noqa: ASYNC110  the stick tells nobody
            await asyncio.sleep(0)
        sensor.set(TEMPERATURE, 0, 1_000 + number % 2_000)


# --- the other process ------------------------------------------------------------------------------


async def _side(name: str, path: str, folder: Path, reports: int, reads: int) -> None:
    if name == "bare":
        await _bare(path, folder, reports, reads)
    else:
        await _mapper(path, folder, reports, reads)


def _say(line: str) -> None:
    print(line, flush=True)


async def _figures(arrived: asyncio.Event, reports: int, reads: int, read: Any) -> None:
    """Wait for all reports, read, and say the figures."""
    _say("ready")
    marks = [_now()]
    await arrived.wait()
    marks.append(_now())
    for _ in range(reads):
        await read()
    marks.append(_now())
    (clock, cpu), (clock2, cpu2) = (
        (after[0] - before[0], after[1] - before[1]) for before, after in itertools.pairwise(marks)
    )
    own = _resident_mb(os.getpid())
    side = Side(reports / clock, reads / clock2, reports / cpu, reads / cpu2, own)
    _say(json.dumps(asdict(side)))


def _now() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


async def _bare(path: str, folder: Path, reports: int, reads: int) -> None:
    from zigpy.types import EUI64
    from zigpy.zcl import AttributeReportedEvent
    from zigpy_deconz.zigbee.application import ControllerApplication

    config = {
        "device": {"path": path},
        "database_path": str(folder / "bare.db"),
        "ota": {"enabled": False},
        "topology_scan_enabled": False,
    }
    app: Any = await ControllerApplication.new(config)
    _say("up")
    addresses = [EUI64.convert(each) for each in (SENSOR, LAMP)]
    while not all(at in app.devices and app.devices[at].is_initialized for at in addresses):  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    sensor, lamp = (app.devices[at] for at in addresses)
    cluster, heard, arrived = sensor.endpoints[1].in_clusters[TEMPERATURE], 0, asyncio.Event()

    def take(_event: AttributeReportedEvent) -> None:
        nonlocal heard
        heard += 1
        if heard >= reports:
            arrived.set()

    await cluster.bind()
    await cluster.configure_reporting(0, 10, 3_600, 10)
    cluster.on_event(AttributeReportedEvent.event_type, take)
    level = lamp.endpoints[11].in_clusters[8]
    await _figures(arrived, reports, reads, lambda: level.read_attributes([0]))
    await app.shutdown()


async def _mapper(path: str, folder: Path, reports: int, reads: int) -> None:
    from edge.clock import now_ms
    from edge.mappers.family import Surroundings
    from edge.mappers.zigbee.network import ZigbeeFamily

    counts: Counter[str] = Counter()
    arrived, known, found = asyncio.Event(), asyncio.Event(), set[str]()

    def count(name: str, by: int) -> None:
        counts[name] += by
        if counts["taken"] + counts["coalesced"] >= reports:
            arrived.set()

    def discovered(each: Any) -> None:
        found.add(each.address)
        if {SENSOR, LAMP} <= found:
            known.set()

    around = Surroundings({"device": path}, folder, now_ms, discovered, found.discard, count)
    family = ZigbeeFamily(around)
    task = asyncio.create_task(family.run(lambda: None))
    while family.fact("state") != "up":  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    _say("up")
    await known.wait()
    driver = await _driver(family)
    while not counts:  # noqa: ASYNC110  the first values: it was told what to report
        await asyncio.sleep(0.01)
    counts.clear()
    radio = family.radio()
    await _figures(arrived, reports, reads, lambda: radio.read(LAMP, 11, 8, [0]))
    await driver.close()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def _driver(family: ZigbeeFamily) -> Any:
    from gateway.wire.cloudedge.devices import DeviceView

    view = DeviceView.read(
        {
            "metadata": {"namespace": "bench", "name": "sensor"},
            "spec": {
                "protocol": {"protocolName": "zigbee", "configData": {"ieee": SENSOR}},
                "properties": [{"name": "temperature"}],
            },
        }
    )
    driver = family.driver(view, None)
    news = asyncio.Event()
    driver.subscribe(news.set)
    await driver.connect()
    return driver


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reports", type=int, default=2_000)
    parser.add_argument("--reads", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--side", nargs=5, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.side:
        name, path, folder, reports, reads = given.side
        asyncio.run(_side(name, path, Path(folder), int(reports), int(reads)))
        return 0
    found = measure(given.reports, min(given.reads, MAX_READS), given.rounds)
    if given.json:
        print(json.dumps(asdict(found)))
        return 0
    for name, side in (("mapper", found.mapper), ("bare zigpy", found.bare)):
        print(
            f"{name:12} {side.reports:6.0f} reports/s ({side.reports_cpu:6.0f} a CPU second)"
            f" {side.reads:6.0f} reads/s ({side.reads_cpu:6.0f}) {side.megabytes:6.1f} MB"
        )
    print(f"of CPU time  {found.reports_ratio:6.2f} {found.reads_ratio:6.2f}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
