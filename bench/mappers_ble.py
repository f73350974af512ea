"""Bluetooth: reads per second of a Device's driver and memory of its process, as a ratio to bare bleak.

Both read the temperature of one device over the same D-Bus, read by read, in processes of their own;
the device is one of the lab (`tests.ble.lab`), whose software controllers answer and take most time.
So the ratio that counts is that of reads per second of the reader's CPU time.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

from tests.ble.peripherals import HEART, LAMP, THERMO

WARM_UP = 50


def resident() -> float:
    """Megabytes of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


async def timed(read: Callable[[], Awaitable[Any]], count: int) -> dict[str, float]:
    """Read so often; returns rates."""
    for _ in range(WARM_UP):
        await read()
    started, cpu = time.perf_counter(), time.process_time()
    for _ in range(count):
        await read()
    seconds, used = time.perf_counter() - started, time.process_time() - cpu
    return {"rate": count / seconds, "per_cpu": count / used, "resident": resident()}


async def read_bare(count: int) -> dict[str, float]:
    """Only bleak: find, connect, read."""
    from bleak import BleakClient, BleakScanner

    device = await BleakScanner.find_device_by_address(THERMO, timeout=10)
    if device is None:
        raise RuntimeError("the lab's thermometer is not heard")
    async with BleakClient(device) as client:
        return await timed(lambda: client.read_gatt_char("2a6e"), count)


async def read_driver(count: int) -> dict[str, float]:
    """The family with three Devices connected and scanning going on, as it is at an edge."""
    from tests.ble.rig import running_family

    with tempfile.TemporaryDirectory() as folder:
        async with running_family(Path(folder)) as rig:
            visitor = {"characteristicUUID": "2A6E", "notify": "false", "type": "DOUBLE"}
            driver = rig.driver({"macAddress": THERMO}, temperature=visitor)
            others = [
                rig.driver({"macAddress": address}, name={"characteristicUUID": "2A00"})
                for address in (HEART, LAMP)
            ]
            for each in (driver, *others):
                await each.connect()
            found = await timed(lambda: driver.read(["temperature"]), count)
            for each in (driver, *others):
                await each.close()
            return found


READERS = {"bleak": read_bare, "driver": read_driver}


@contextlib.contextmanager
def the_lab() -> Iterator[str]:
    """The lab in a process of its own; yields the address of its bus."""
    command = [sys.executable, "-m", "tests.ble.lab"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        try:
            yield (child.stdout.readline() if child.stdout else "").strip()
        finally:
            if child.stdin is not None:
                child.stdin.close()
            child.wait(20)


def measured(name: str, bus: str, count: int) -> dict[str, float]:
    """Run one reader in a process of its own."""
    command = [sys.executable, "-m", "bench.mappers_ble", "--read", name, "--reads", str(count)]
    done = subprocess.run(
        command,
        env={**os.environ, "DBUS_SYSTEM_BUS_ADDRESS": bus},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=120,
    )
    found: dict[str, float] = json.loads(done.stdout)
    return found


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--read", choices=READERS)
    parser.add_argument("--reads", type=int, default=2_000)
    parser.add_argument("--runs", type=int, default=3)
    given = parser.parse_args()
    if given.read:
        print(json.dumps(asyncio.run(READERS[given.read](given.reads))))
        return
    found: dict[str, list[dict[str, float]]] = {name: [] for name in READERS}
    with the_lab() as bus:
        for _ in range(given.runs):
            for name, runs in found.items():
                runs.append(measured(name, bus, given.reads))
    middle = {
        name: {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        for name, runs in found.items()
    }
    print(f"{'reader':<8} {'reads/s':>9} {'per CPU second':>15} {'ratio':>6} {'resident MB':>12}")
    for name, row in middle.items():
        ratio = row["per_cpu"] / middle["bleak"]["per_cpu"]
        print(
            f"{name:<8} {row['rate']:>9,.0f} {row['per_cpu']:>15,.0f} {ratio:>6.2f} {row['resident']:>12.1f}"
        )


if __name__ == "__main__":
    main()
