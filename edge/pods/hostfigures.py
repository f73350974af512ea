"""Figures of this machine from /proc: CPU, memory, network, processes. Readers are pure.

Source: proc(5).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from edge.pods.samples import FileSystem, Interface, Memory

PROC = Path("/proc")
_TICK = 1_000_000_000 // (os.sysconf("SC_CLK_TCK") or 100)
_BUSY = (0, 1, 2, 5, 6, 7)
"""Cells of a cpu line that count as used: user, nice, system, irq, softirq, steal."""


def cpu_total(stat: str) -> int | None:
    """Read /proc/stat: nanoseconds that all cores were busy."""
    for line in stat.splitlines():
        name, *cells = line.split()
        if name == "cpu" and len(cells) > max(_BUSY):
            return sum(int(cells[each]) for each in _BUSY) * _TICK
    return None


def boot_time(stat: str) -> int:
    """Read /proc/stat: when the machine booted, Unix nanoseconds; 0 where it does not say."""
    rows = (line.split() for line in stat.splitlines())
    return next((int(row[1]) * 10**9 for row in rows if row[:1] == ["btime"]), 0)


def memory(meminfo: str) -> tuple[int, Memory]:
    """Read /proc/meminfo: all there is, and its use as the kubelet counts it.

    The working set is all that is used less what the kernel could drop at once.
    """
    rows = (line.split() for line in meminfo.splitlines())
    found = {row[0].rstrip(":"): int(row[1]) * 1_024 for row in rows if len(row) == 3}
    total, free = found.get("MemTotal", 0), found.get("MemFree", 0)
    usage = max(0, total - free)
    working = max(0, usage - found.get("Inactive(file)", 0))
    return total, Memory(
        available=max(0, total - working),
        usage=usage,
        working_set=working,
        rss=found.get("AnonPages"),
    )


def interfaces(net_dev: str) -> tuple[Interface, ...]:
    """Read /proc/net/dev: interfaces that lead out, without loopback and those of Pods."""
    found = []
    for line in net_dev.splitlines():
        name, colon, rest = line.partition(":")
        cells, name = rest.split(), name.strip()
        if colon and len(cells) >= 11 and name != "lo" and not name.startswith("veth"):
            numbers = (int(cells[each]) for each in (0, 2, 8, 10))
            found.append(Interface(name, *numbers))
    return tuple(found)


def pids(loadavg: str, limits: Mapping[str, str]) -> tuple[int, int]:
    """Return how many processes there may be, and are."""
    numbers = [int(each) for each in limits.values() if each.strip().isdecimal()]
    cells = loadavg.split()
    running = cells[3].partition("/")[2] if len(cells) > 3 else ""
    return min(numbers, default=0), int(running or 0)


def file_system(folder: Path) -> FileSystem:
    """Ask the kernel of the file system of a folder; nothing is known where it is not there."""
    try:
        found = os.statvfs(folder)
    except OSError:
        return FileSystem()
    return FileSystem(
        available=found.f_bavail * found.f_frsize,
        capacity=found.f_blocks * found.f_frsize,
        used=(found.f_blocks - found.f_bfree) * found.f_frsize,
        inodes_free=found.f_favail,
        inodes=found.f_files,
        inodes_used=found.f_files - found.f_ffree,
    )


def is_same_disk(one: Path, other: Path) -> bool:
    """True when two folders lie on one file system, or one of them is not there."""
    try:
        return one.stat().st_dev == other.stat().st_dev
    except OSError:
        return True


def text(path: Path) -> str:
    """Read a file; "" where it cannot be read."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
