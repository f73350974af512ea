"""Searches over many things: the index against looking at every thing, and against bare SQLite, in one run.

Fills a store with things (like a fleet of machines: a maker, a serial number, a few properties) under a
policy that imports the rights of its reader from another one. Then asks each query some times by the index,
and once or twice the way without one: read all things page by page and hold each against the predicate. The
peer is one table of documents in SQLite, asked with `json_extract`: it knows neither rights nor namespaces.
Pages deep in an order, counts and a search just after the imported policy has changed follow.
Run: `python -m bench.search [--things 100000] [--seconds 1.5] [--json]`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sqlite3
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
from gateway.ditto.search import Searcher, SearchQuery, following
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
BASE_ID = "bench:rights"
BASE: JsonObject = {
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
POLICY: JsonObject = {"imports": {BASE_ID: {}}, "entries": {}}


@dataclass(frozen=True, slots=True)
class Query:
    """A search, and the same in SQL over documents `d`."""

    name: str
    filter: str | None
    sort: str | None
    sql: str


def _json(path: str) -> str:
    return f"json_extract(d, '$.{path}')"


QUERIES = (
    Query(
        "one of all",
        'eq(attributes/serial,"s-777")',
        None,
        f"WHERE {_json('attributes.serial')} = 's-777' ORDER BY id",
    ),
    Query(
        "one in 500",
        "and(eq(attributes/maker,'ACME'),ge(attributes/n,994))",
        None,
        f"WHERE {_json('attributes.maker')} = 'ACME' AND {_json('attributes.n')} >= 994 ORDER BY id",
    ),
    Query(
        "any feature",
        "gt(features/*/properties/value,99.9)",
        None,
        f"WHERE {_json('features.temperature.properties.value')} > 99.9 ORDER BY id",
    ),
    Query(
        "begins with",
        'like(attributes/serial,"s-77*")',
        None,
        f"WHERE {_json('attributes.serial')} GLOB 's-77*' ORDER BY id",
    ),
    Query(
        "range, sorted",
        "gt(attributes/n,900)",
        "sort(-attributes/n)",
        f"WHERE {_json('attributes.n')} > 900 ORDER BY {_json('attributes.n')} DESC, id",
    ),
    Query(
        "all, sorted",
        None,
        "sort(+features/motor/properties/rpm)",
        f"ORDER BY {_json('features.motor.properties.rpm')}, id",
    ),
    Query("first page", None, None, "ORDER BY id"),
)


@dataclass(frozen=True, slots=True)
class Rate:
    """Median milliseconds of one search: by the index, looking at each thing, and by bare SQLite."""

    name: str
    indexed_ms: float
    scanned_ms: float
    json_ms: float
    per_second: float


@dataclass(frozen=True, slots=True)
class Single:
    """Median milliseconds of what has no counterpart."""

    name: str
    milliseconds: float


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
        return await self.page(after, limit, ask.namespaces or ())


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


def a_policy(policy_id: str, document: JsonObject, revision: int = 1) -> Commit:
    policy = Policy(policy_id, revision, document, THEN, THEN)
    event = PolicyEvent(
        policy_id=policy_id,
        action=EventAction.MODIFIED if revision > 1 else EventAction.CREATED,
        path=(),
        revision=revision,
        timestamp=THEN,
        after=policy,
        value=document,
    )
    return Commit(policy=PolicyWrite(event, msgspec.json.encode(document)))


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
    commits = [a_policy(BASE_ID, BASE), a_policy(POLICY_ID, POLICY)]
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


def documents(file: Path, things: int) -> sqlite3.Connection:
    """The same documents in one table of bare SQLite."""
    dice = random.Random(1)
    connection = sqlite3.connect(file, check_same_thread=False)
    connection.execute("CREATE TABLE things (id TEXT PRIMARY KEY, d TEXT) WITHOUT ROWID")
    connection.executemany(
        "INSERT INTO things VALUES (?, ?)",
        ((f"bench:t{number:07}", json.dumps(a_document(number, dice))) for number in range(things)),
    )
    connection.commit()
    return connection


async def compared(
    query: Query, indexed: Searcher, scanned: Searcher, raw: sqlite3.Connection, seconds: float
) -> Rate:
    """One query by all three; they must say the same."""
    asked = SearchQuery(subjects=SUBJECTS, filter=query.filter, options=query.sort)
    sql = f"SELECT d FROM things {query.sql} LIMIT 25"

    async def by_json() -> list[Any]:
        return [json.loads(row[0]) for row in raw.execute(sql)]

    one, other = await indexed.search(asked, utc_now()), await scanned.search(asked, utc_now())
    plain = [{k: v for k, v in item.items() if k != "thingId"} for item in one.items]  # type: ignore[union-attr]
    if one.items != other.items or plain != await by_json():
        raise SystemExit(f"{query.name}: the three do not say the same")
    fast, per_second = await median(lambda: indexed.search(asked, utc_now()), seconds)
    slow, _ = await median(lambda: scanned.search(asked, utc_now()), 0.0)
    bare, _ = await median(by_json, 0.2)
    return Rate(query.name, fast, slow, bare, per_second)


async def deep(searcher: Searcher, sort: str, pages: int) -> Single:
    """Pages of 200 by cursor, one after the other."""
    query = SearchQuery(subjects=SUBJECTS, options=f"{sort},size(200)", fields="thingId")
    taken: list[float] = []
    for _ in range(pages):
        started = time.perf_counter()
        page = await searcher.search(query, utc_now())
        taken.append(time.perf_counter() - started)
        if page.cursor is None:
            break
        query = following(query, page.cursor)
    return Single(f"page {len(taken)} of 200, {sort}", statistics.median(taken[-20:]) * 1_000)


async def counted(searcher: Searcher, text: str | None, seconds: float) -> Single:
    """How many there are."""
    query = SearchQuery(subjects=SUBJECTS, filter=text)
    taken, _ = await median(lambda: searcher.count(query, utc_now()), seconds)
    return Single(f"count {text or 'all'}", taken)


async def after_a_change(store: SqliteThingStore, searcher: Searcher) -> Single:
    """From writing the imported policy to the answer of a search that sees it."""
    query = SearchQuery(subjects=SUBJECTS, filter='eq(attributes/serial,"s-777")')
    taken: list[float] = []
    for revision in range(2, 12):
        allowed = revision % 2 == 1
        started = time.perf_counter()
        await written(store, [a_policy(BASE_ID, BASE if allowed else {"entries": {}}, revision)])
        if await searcher.count(query, utc_now()) != int(allowed):
            raise SystemExit("a search does not see the change of an imported policy")
        taken.append(time.perf_counter() - started)
    return Single("change of the import, then search", statistics.median(taken) * 1_000)


async def run(folder: Path, things: int, seconds: float) -> tuple[float, list[Rate], list[Single]]:
    """Fill, then ask."""
    database = Database(folder / "search.db", "gateway")
    async with database.running():
        store, plain = SqliteThingStore(database), ScannedStore(database)
        stored = await fill(store, things)
        raw = documents(folder / "raw.db", things)
        indexed = Searcher(store, PoliciesService(store))
        scanned = Searcher(plain, PoliciesService(plain))
        rates = [await compared(query, indexed, scanned, raw, seconds) for query in QUERIES]
        raw.close()
        singles = [
            await deep(indexed, "sort(+attributes/serial)", things // 200),
            await deep(indexed, "sort(-attributes/maker)", things // 200),
            await deep(indexed, "sort(+thingId)", things // 200),
            await counted(indexed, None, seconds),
            await counted(indexed, "eq(attributes/maker,'ACME')", seconds),
            await counted(indexed, "gt(attributes/n,900)", seconds),
            await after_a_change(store, indexed),
        ]
        return stored, rates, singles


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--things", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=1.5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="twinspan-bench-") as name:
        stored, rates, singles = asyncio.run(run(Path(name), options.things, options.seconds))
    if options.json:
        print(json.dumps([msgspec.to_builtins(one) for one in (*rates, *singles)]))
        return
    print(f"{options.things} things, stored with {stored:.0f} a second")
    print(
        f"{'query':16} {'index ms':>9} {'scan ms':>9} {'json ms':>9} {'json/index':>10} {'index/s':>8}"
    )
    for one in rates:
        print(
            f"{one.name:16} {one.indexed_ms:>9.2f} {one.scanned_ms:>9.1f} {one.json_ms:>9.1f}"
            f" {one.json_ms / one.indexed_ms:>10.1f} {one.per_second:>8.0f}"
        )
    for single in singles:
        print(f"{single.name:45} {single.milliseconds:>9.2f} ms")


if __name__ == "__main__":
    main()
