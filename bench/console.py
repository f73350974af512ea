"""First paint and memory of the console's list with 10,000 devices, as ratios to an empty page.

Both pages are shown by the same browser in the same run. Answers come from the bench itself, so that the
page alone is measured. Goals: first paint within 0.5 s of an empty page's, a JavaScript heap under 40 MB,
under 80 rows in the document. Run: `python -m bench.console [--devices 10000] [--runs 3]`; needs node,
chromium and `scripts/console.sh --packages`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
MEGABYTE = 1_048_576


def measured(devices: int, runs: int) -> list[dict[str, Any]]:
    """Run the page; one entry a run, with `empty` and `list`."""
    chromium = shutil.which("chromium")
    if chromium is None or shutil.which("node") is None:
        raise SystemExit("node and chromium are needed: scripts/debian-packages.sh installs them")
    if not (ROOT / "console/node_modules/playwright-core").is_dir():
        raise SystemExit("playwright-core is needed: scripts/console.sh --packages gets it")
    script = str(ROOT / "bench/console_page.mjs")
    done = subprocess.run(
        ["node", script, str(ROOT / "gateway/console/web"), str(devices), str(runs)],
        env={**os.environ, "CHROMIUM": chromium},
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def main() -> None:
    """Print the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--devices", type=int, default=10_000)
    parser.add_argument("--runs", type=int, default=3)
    given = parser.parse_args()
    runs = measured(given.devices, given.runs)

    def median(pick: Callable[[dict[str, Any]], float]) -> float:
        return statistics.median(pick(run) for run in runs)

    empty, paint = median(lambda r: r["empty"]["paint"]), median(lambda r: r["list"]["paint"])
    bare, heap = median(lambda r: r["empty"]["heap"]), median(lambda r: r["list"]["heap"])
    print(f"first paint: {paint:.0f} ms, an empty page {empty:.0f} ms, {paint / empty:.1f} times")
    print(
        f"all {given.devices:,} devices in the list: {median(lambda r: r['list']['full']) / 1000:.1f} s"
    )
    print(f"heap: {heap / MEGABYTE:.1f} MB, an empty page {bare / MEGABYTE:.1f} MB")
    print(f"rows in the document: {median(lambda r: r['list']['rows']):.0f}")


if __name__ == "__main__":
    main()
