"""Start time and resident memory of whole commands: `twinspan up --demo`, and `twinspan edge run` at a cloud.

Goals: `edge run` under 60 MB and one second; `up` under 150 MB. The ceiling beside them is a Python that does
nothing but start. Run: `python -m bench.startup [--runs 3]`.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests import process

SETTLE_SECONDS = 2.0


def resident_mb(pid: int) -> float:
    """Return the resident memory of a process in megabytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


def timed(start: Callable[[], process.Twinspan]) -> tuple[float, float]:
    """Start a command; return seconds until its addresses are written, and megabytes a moment later."""
    began = time.perf_counter()
    running = start()
    seconds = time.perf_counter() - began
    time.sleep(SETTLE_SECONDS)
    return seconds, resident_mb(running.pid)


def bare_python() -> float:
    """Return the seconds that an interpreter takes to start and end."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", "pass"], check=True)
    return time.perf_counter() - began


def measure_up(folder: Path) -> tuple[float, float]:
    """Measure `twinspan up --demo` on a data directory that was used before."""
    up = process.Twinspan(folder / "up", ("up", "--demo"), ())
    up.start()
    up.stop()
    try:
        return timed(up.start)
    finally:
        up.stop()


def measure_edge(folder: Path) -> tuple[float, float]:
    """Measure `twinspan edge run` on a node that has joined a cloud of its own."""
    with process.twinspan(folder / "cloud", "cloud", "--demo") as cloud:
        program = (sys.executable, "-m", "gateway.cli")
        token = process.run(*program, "token", "--data-dir", str(cloud.data_dir)).strip()
        process.run(
            *(*program, "edge", "join", f"https://{cloud.endpoints['cloudhub.https']}"),
            *("--token", token, "--node-name", "bench-edge"),
            *("--hub", cloud.endpoints["cloudhub.wss"], "--data-dir", str(folder / "edge")),
        )
        edge = process.Twinspan(folder / "edge", ("edge", "run"), ())
        try:
            return timed(edge.start)
        finally:
            edge.stop()


def main() -> None:
    """Print a table of medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    runs = parser.parse_args().runs
    rows: dict[str, list[tuple[float, float]]] = {"up --demo": [], "edge run": []}
    for _ in range(runs):
        with tempfile.TemporaryDirectory() as folder:
            rows["up --demo"].append(measure_up(Path(folder)))
            rows["edge run"].append(measure_edge(Path(folder)))
    bare = statistics.median(bare_python() for _ in range(5))
    print(f"{'command':<12} {'start s':>8} {'x bare python':>14} {'resident MB':>12}")
    for name, found in rows.items():
        seconds = statistics.median(s for s, _ in found)
        megabytes = statistics.median(m for _, m in found)
        print(f"{name:<12} {seconds:>8.2f} {seconds / bare:>14.1f} {megabytes:>12.1f}")


if __name__ == "__main__":
    main()
