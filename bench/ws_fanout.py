"""One change to 1,000 WebSocket subscribers, on one core: events a second, how late, memory of a subscriber.

The ceiling is an aiohttp server of the same run that sends each body to every WebSocket with `send_str`. The
load generator reads all events on the other core; how late one is counts from before the change was sent
until its event was read, its durable write included.
Run: `python -m bench.ws_fanout [--subscribers 1000] [--changes 100] [--pause 0.05] [--rounds 3]`.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from bench.things_rig import (
    AUTHORIZATION,
    Rate,
    filled,
    load,
    measured,
    report,
    scratch,
    the_ceiling,
    the_gateway,
    thing_id,
)


def spec_of(options: argparse.Namespace, method: str, path: str) -> dict[str, Any]:
    """What the load generator reads."""
    return {
        "kind": "fanout",
        "subscribers": options.subscribers,
        "changes": options.changes,
        "pause": options.pause,
        "change": [method, path],
        "authorization": AUTHORIZATION,
    }


def run(folder: Path, options: argparse.Namespace) -> str:
    """Measure gateway and ceiling in turns."""
    change = f"/api/2/things/{thing_id(1)}/features/motor/properties/rpm"
    ours_spec, bare_spec = spec_of(options, "PUT", change), spec_of(options, "POST", "/all")
    with the_gateway(filled(folder / "data", 100)) as ours, the_ceiling() as bare:
        first = load("ws_load", ours, {**ours_spec, "changes": 5})
        of_bare = load("ws_load", bare, {**bare_spec, "changes": 5})
        found = [
            (measured("ws_load", ours, ours_spec), measured("ws_load", bare, bare_spec))
            for _ in range(options.rounds)
        ]
    rate, ceiling = Rate.median([one for one, _ in found]), Rate.median([two for _, two in found])
    title = f"{options.changes} changes to {options.subscribers} subscribers, one each {options.pause} s"
    table = report(title, [("events", rate, ceiling, None), ("bare aiohttp", ceiling, None, None)])
    kilobytes, theirs = first["kilobytes"], of_bare["kilobytes"]
    return f"{table}\nmemory of a subscriber: {kilobytes:.1f} kB (bare aiohttp {theirs:.1f} kB)"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--subscribers", type=int, default=1_000)
    parser.add_argument("--changes", type=int, default=100)
    parser.add_argument("--pause", type=float, default=0.05)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with scratch() as folder:
        print(run(folder, options))


if __name__ == "__main__":
    main()
