"""Things over HTTP on one core: reads by id, durable changes of one property, searches; beside bare aiohttp.

The ceiling of reads and changes is an aiohttp server of the same run that answers constant bytes and stores
nothing; that of durable changes besides is SQLite with one transaction a change. Server and ceiling share a
core, the load generator has the other one. Published figures of Ditto (one instance, bigger machines): 2,800
reads, 800 changes, 1,700 searches a second.
Run: `python -m bench.things_http [--things 10000] [--seconds 4] [--rounds 3] [--only reads changes]`.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from bench.things_rig import (
    AUTHORIZATION,
    Rate,
    Server,
    filled,
    measured,
    report,
    scratch,
    the_ceiling,
    the_gateway,
    thing_id,
)
from bench.twin_updates import one_by_one

READS, CHANGES, SEARCHES = 2_800.0, 800.0, 1_700.0
REQUESTS = 5_000
Request = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class Load:
    """One kind of load: its requests, over how many connections, and what Ditto published."""

    name: str
    requests: list[Request]
    connections: int
    published: float | None
    has_ceiling: bool = True

    def spec(self, seconds: float) -> dict[str, Any]:
        """What the load generator reads."""
        return {
            "requests": self.requests,
            "connections": self.connections,
            "seconds": seconds,
            "authorization": AUTHORIZATION,
        }


def reads(things: int, below: str = "") -> list[Request]:
    """Reads of things, or of a part of them, at random."""
    dice = random.Random(2)
    return [
        ("GET", f"/api/2/things/{thing_id(dice.randrange(things))}{below}", "")
        for _ in range(REQUESTS)
    ]


def every_thing(things: int) -> dict[str, Any]:
    """A load that reads each thing once, so that all are in memory."""
    requests = [("GET", f"/api/2/things/{thing_id(number)}", "") for number in range(things)]
    return {
        "requests": requests,
        "connections": 16,
        "once": True,
        "authorization": AUTHORIZATION,
    }


def changes(things: int) -> list[Request]:
    """Changes of one property of things at random, each to another value."""
    dice = random.Random(3)
    where = "features/motor/properties/rpm"
    return [
        ("PUT", f"/api/2/things/{thing_id(dice.randrange(things))}/{where}", str(value))
        for value in range(REQUESTS)
    ]


def searches(filters: Iterable[str | None], option: str) -> list[Request]:
    """Searches for a page of 25."""
    found: list[Request] = []
    for text in filters:
        rql = f"filter={quote(text)}&" if text else ""
        found.append(("GET", f"/api/2/search/things?{rql}option={quote(option)}", ""))
    return found


def loads(things: int) -> list[Load]:
    """All kinds of load."""
    dice = random.Random(4)
    one = [f'eq(attributes/serial,"s-{dice.randrange(things)}")' for _ in range(REQUESTS)]
    some = [
        f'and(eq(attributes/maker,"ACME"),eq(attributes/n,{dice.randrange(1_000)}))'
        for _ in range(REQUESTS)
    ]
    above = [f"gt(attributes/n,{dice.randrange(900)})" for _ in range(REQUESTS)]
    return [
        Load("reads, whole thing", reads(things), 16, READS),
        Load("reads, one property", reads(things, "/features/motor/properties/rpm"), 16, READS),
        Load("changes, 1 connection", changes(things), 1, CHANGES),
        Load("changes, 16 connections", changes(things), 16, CHANGES),
        Load("changes, 64 connections", changes(things), 64, CHANGES),
        Load("searches, one hit", searches(one, "size(25)"), 16, SEARCHES),
        Load("searches, few hits", searches(some, "size(25)"), 16, SEARCHES),
        Load("searches, sorted page", searches(above, "sort(+attributes/n),size(25)"), 16, None),
    ]


def run(folder: Path, things: int, seconds: float, rounds: int, only: list[str]) -> str:
    """Measure gateway and ceiling in turns."""
    data = filled(folder / "data", things)
    wanted = [load for load in loads(things) if load.name.partition(",")[0] in only]
    rows: list[tuple[str, Rate, Rate | None, float | None]] = []
    with the_gateway(data) as ours, the_ceiling() as bare:
        measured("http_load", ours, every_thing(things))
        for load in wanted:
            rate, ceiling = in_turns(ours, bare, load, seconds, rounds)
            rows.append((load.name, rate, ceiling, load.published))
    text = report(f"{things} things, median of {rounds} runs of {seconds} s", rows)
    if "changes" in only:
        baseline = one_by_one(folder, seconds)
        text += f"\nSQLite, one transaction a change: {baseline.per_second:,.0f} /s"
    return text


def in_turns(
    ours: Server, bare: Server, load: Load, seconds: float, rounds: int
) -> tuple[Rate, Rate]:
    """One load on both, one after the other."""
    spec = load.spec(seconds)
    found = [
        (measured("http_load", ours, spec), measured("http_load", bare, spec))
        for _ in range(rounds)
    ]
    return Rate.median([one for one, _ in found]), Rate.median([other for _, other in found])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--things", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", default=["reads", "changes", "searches"])
    options = parser.parse_args()
    with scratch() as folder:
        print(run(folder, options.things, options.seconds, options.rounds, options.only))


if __name__ == "__main__":
    main()
