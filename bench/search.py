"""Searches over many things: the index against looking at every thing, in one run.

Fills a store with things (like a fleet of machines: a maker, a serial number, a few properties), then asks
each query some times by the index, and once or twice the way without one: read all things page by page and
hold each against the predicate. Run: `python -m bench.search [--things 100000] [--seconds 1.5] [--json]`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from gateway.ditto.clock import utc_now
from gateway.ditto.policies import PoliciesService
from gateway.ditto.search import Searcher, SearchQuery
from gateway.model.json import JsonObject
from gateway.model.policy import Policy, PolicyEvent
from gateway.model.thing import EventAction, Thing, ThingEvent
from gateway.store.database import Database
from gateway.store.search import Ask, Counted, Found
from gateway.store.things import Commit, PolicyWrite, ThingWrite
from gateway.store.things_sqlite import SqliteThingStore

SUBJECTS = ("nginx:ditto",)
THEN = "2026-01-01T00:00:00.000000Z"
POLICY_ID = "bench:fleet"
POLICY: JsonObject = {
    "entries": {
        "owner": {
            "subjects": {SUBJECTS[0]: {"type": "bench"}},
            "resources": {
                f"{kind}:/": {"grant": ["READ", "WRITE"], "revoke": []}
                for kind in ("thing", "message")
            },
        }
    }
}
QUERIES: tuple[tuple[str, str | None, str | None], ...] = (
    ("one of all", 'eq(attributes/serial,"s-777")', None),
    ("one in 500", "and(eq(attributes/maker,'ACME'),ge(attributes/n,994))", None),
    ("any feature", "gt(features/*/properties/value,99.9)", None),
    ("begins with", 'like(attributes/serial,"s-77*")', None),
    ("range, sorted", "gt(attributes/n,900)", "sort(-attributes/n)"),
    ("all, sorted", None, "sort(+features/motor/properties/rpm)"),
    ("first page", None, None),
)


@dataclass(frozen=True, slots=True)
class Rate:
    """What one query gave: median in ms by the index and without, and how many the index answers a second."""

    name: str
    indexed_ms: float
    scanned_ms: float
    per_second: float

    @property
    def ratio(self) -> float:
        return self.scanned_ms / self.indexed_ms


class ScannedStore(SqliteThingStore):
    """The same store, asked as if it had no index."""

    async def find(self, ask: Ask, skip: int, take: int) -> Found:  # noqa: ARG002
        """Nothing is certain."""
        return Found((), has_unsure=True)

    async def count(self, ask: Ask) -> Counted:  # noqa: ARG002
        """Nothing is certain."""
        return Counted(0, has_unsure=True)

    async def unsure(self, ask: Ask, after: str, limit: int) -> Sequence[Thing]:
        """All things."""
        return await self.page(after, limit, ask.namespaces)


def a_document(number: int, dice: random.Random) -> JsonObject:
    """A thing of about half a kilobyte with 17 values."""
    return {
        "policyId": POLICY_ID,
        "attributes": {
            "maker": dice.choice(["ACME", "Umbrella", "Initech"]),
            "serial": f"s-{number}",
            "n": dice.randrange(1_000),
            "location": {"lat": dice.uniform(-90, 90), "lon": dice.uniform(-180, 180)},
        },
        "features": {
            "motor": {"properties": {"rpm": dice.randrange(5_000), "load": dice.random()}},
            "temperature": {"properties": {"value": dice.uniform(0, 100), "unit": "celsius"}},
        },
    }


def a_policy() -> Commit:
    policy = Policy(POLICY_ID, 1, POLICY, THEN, THEN)
    event = PolicyEvent(
        policy_id=POLICY_ID,
        action=EventAction.CREATED,
        path=(),
        revision=1,
        timestamp=THEN,
        after=policy,
        value=POLICY,
    )
    return Commit(policy=PolicyWrite(event, msgspec.json.encode(POLICY)))


def a_thing(number: int, dice: random.Random) -> Commit:
    document = a_document(number, dice)
    thing = Thing(f"bench:t{number:07}", 1, document, THEN, THEN)
    event = ThingEvent(
        thing_id=thing.thing_id,
        action=EventAction.CREATED,
        path=(),
        revision=1,
        timestamp=THEN,
        after=thing,
        value=document,
    )
    return Commit(thing=ThingWrite(event, msgspec.json.encode(document)))


async def fill(store: SqliteThingStore, things: int) -> float:
    """Store the fleet through the store's own door; returns things per second."""
    dice = random.Random(1)
    started = time.perf_counter()
    commits = [a_policy()]
    for number in range(things):
        commits.append(a_thing(number, dice))
        if len(commits) >= 2_000:
            await written(store, commits)
            commits = []
    await written(store, commits)
    return things / (time.perf_counter() - started)


async def written(store: SqliteThingStore, commits: list[Commit]) -> None:
    """Wait until all are durable."""
    futures: list[asyncio.Future[Any]] = []
    for commit in commits:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        store.append(commit, future.set_result)
        futures.append(future)
    for answer in await asyncio.gather(*futures):
        if isinstance(answer, Exception):
            raise answer


async def median(ask: Callable[[], Awaitable[object]], seconds: float) -> tuple[float, float]:
    """Milliseconds of one call, and calls per second, one after the other."""
    taken: list[float] = []
    until = time.perf_counter() + seconds
    while not taken or time.perf_counter() < until:
        started = time.perf_counter()
        await ask()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken) * 1_000, len(taken) / sum(taken)


async def run(folder: Path, things: int, seconds: float) -> tuple[float, list[Rate]]:
    """Fill, then ask."""
    database = Database(folder / "search.db", "gateway")
    async with database.running():
        store, plain = SqliteThingStore(database), ScannedStore(database)
        stored = await fill(store, things)
        indexed = Searcher(store, PoliciesService(store))
        scanned = Searcher(plain, PoliciesService(plain))
        rates = []
        for name, text, options in QUERIES:
            query = SearchQuery(subjects=SUBJECTS, filter=text, options=options)
            one, other = (
                await indexed.search(query, utc_now()),
                await scanned.search(query, utc_now()),
            )
            if one.items != other.items:
                raise SystemExit(f"{name}: the index does not say what the scan says")
            fast, per_second = await median(lambda q=query: indexed.search(q, utc_now()), seconds)  # type: ignore[misc]
            slow, _ = await median(lambda q=query: scanned.search(q, utc_now()), 0.0)  # type: ignore[misc]
            rates.append(Rate(name, fast, slow, per_second))
        return stored, rates


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--things", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=1.5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="twinspan-bench-") as name:
        stored, rates = asyncio.run(run(Path(name), options.things, options.seconds))
    if options.json:
        print(json.dumps([msgspec.to_builtins(one) for one in rates]))
        return
    print(f"{options.things} things, stored with {stored:.0f} a second")
    print(f"{'query':16} {'index ms':>9} {'scan ms':>9} {'ratio':>8} {'index/s':>8}")
    for one in rates:
        print(
            f"{one.name:16} {one.indexed_ms:>9.2f} {one.scanned_ms:>9.1f} {one.ratio:>8.0f}"
            f" {one.per_second:>8.0f}"
        )


if __name__ == "__main__":
    main()
