"""Things over WebSocket on one core: reads, durable changes, live messages with answer; beside bare aiohttp.

The ceiling is an aiohttp WebSocket of the same run that answers each frame with a constant one. A live
message goes from a session to a consumer's session, and its answer back: four frames. Published figure of
Ditto (one instance, a bigger machine): 600 live messages a second.
Run: `python -m bench.things_ws [--things 10000] [--seconds 4] [--rounds 3] [--only reads changes messages]`.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.things_http import CHANGES, READS, every_thing
from bench.things_rig import (
    AUTHORIZATION,
    Rate,
    filled,
    measured,
    report,
    scratch,
    the_ceiling,
    the_gateway,
    thing_id,
)

MESSAGES = 600.0
ENVELOPES = 5_000
RPM = "/features/motor/properties/rpm"


@dataclass(frozen=True, slots=True)
class Load:
    """One kind of load, and what Ditto published of its like."""

    name: str
    spec: dict[str, Any]
    published: float
    has_ceiling: bool = True


def envelope(action: str, path: str, number: int, thing: int, **members: Any) -> dict[str, Any]:
    """A command of the Ditto Protocol."""
    topic = f"{thing_id(thing).replace(':', '/')}/things/twin/commands/{action}"
    return {"topic": topic, "headers": {"correlation-id": f"c{number}"}, "path": path, **members}


def loads(things: int) -> Iterator[Load]:
    """All kinds of load."""
    dice = random.Random(5)
    chosen = [dice.randrange(things) for _ in range(ENVELOPES)]
    reads = [envelope("retrieve", "/", number, thing) for number, thing in enumerate(chosen)]
    changes = [
        envelope("modify", RPM, number, thing, value=number) for number, thing in enumerate(chosen)
    ]
    for connections, window in ((1, 1), (4, 16)):
        said = {"kind": "commands", "connections": connections, "window": window}
        load = f"{connections} x {window}"
        yield Load(f"reads, {load}", {**said, "envelopes": reads}, READS)
        yield Load(f"changes, {load}", {**said, "envelopes": changes}, CHANGES)
    ids = [thing_id(thing) for thing in chosen]
    for senders, window in ((1, 1), (4, 8)):
        spec = {"kind": "messages", "senders": senders, "window": window, "thing_ids": ids}
        yield Load(f"messages, {senders} x {window}", spec, MESSAGES, has_ceiling=False)


def run(folder: Path, things: int, seconds: float, rounds: int, only: list[str]) -> str:
    """Measure gateway and ceiling in turns."""
    data = filled(folder / "data", things)
    wanted = [load for load in loads(things) if load.name.partition(",")[0] in only]
    rows: list[tuple[str, Rate, Rate | None, float | None]] = []
    with the_gateway(data) as ours, the_ceiling() as bare:
        measured("http_load", ours, every_thing(things))
        for load in wanted:
            spec = {**load.spec, "seconds": seconds, "authorization": AUTHORIZATION}
            found = [
                (
                    measured("ws_load", ours, spec),
                    measured("ws_load", bare, spec) if load.has_ceiling else None,
                )
                for _ in range(rounds)
            ]
            rate = Rate.median([one for one, _ in found])
            ceilings = [other for _, other in found if other is not None]
            ceiling = Rate.median(ceilings) if ceilings else None
            rows.append((load.name, rate, ceiling, load.published))
    return report(f"{things} things, median of {rounds} runs of {seconds} s", rows)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--things", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", default=["reads", "changes", "messages"])
    options = parser.parse_args()
    with scratch() as folder:
        print(run(folder, options.things, options.seconds, options.rounds, options.only))


if __name__ == "__main__":
    main()
