"""Durable twin updates per second: the things service against one transaction per update, in one run.

Each writer changes one property of its own thing of about 1 kB and waits for the durable answer before the
next change. Run: `python -m bench.twin_updates [--seconds 3] [--writers 1 50 500]`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from gateway.ditto.service import PoliciesService, ThingsService
from gateway.model.json import JsonObject
from gateway.model.thing import Action, ThingCommand
from gateway.observe.metrics import Metrics
from gateway.observe.tracing import Tracer
from gateway.store.database import Database
from gateway.store.things_sqlite import SqliteThingStore

SUBJECTS = ("nginx:ditto",)
PATH = ("features", "motor", "properties", "rpm")


@dataclass(frozen=True, slots=True)
class Rate:
    """What one run gave: updates per second, and the time from command to durable answer in ms."""

    name: str
    writers: int
    per_second: float
    p50: float
    p99: float


def a_document() -> JsonObject:
    """A thing of about 1 kB."""
    return {
        "attributes": {"manufacturer": "ACME", "location": {"lat": 47.1, "lon": 9.2}},
        "features": {
            "motor": {"properties": {"rpm": 0, "load": 0.5}},
            **{
                f"sensor-{n}": {
                    "properties": {"value": n * 1.5, "unit": "celsius", "ok": True},
                    "desiredProperties": {"interval": 10},
                }
                for n in range(9)
            },
        },
    }


class Writers:
    """N writers on the things service, each with one update under way, by callback."""

    def __init__(self, things: ThingsService, count: int, until: float) -> None:
        self._things = things
        self._until = until
        self._running = count
        self.done = asyncio.Event()
        self.latencies: list[float] = []
        self._starts: list[Callable[[], None]] = [self._writer(f"bench:t{n}") for n in range(count)]

    def start(self) -> None:
        """Begin all writers."""
        for start in self._starts:
            start()

    def _writer(self, thing_id: str) -> Callable[[], None]:
        value = 0

        def send() -> None:
            nonlocal value
            value += 1
            started = time.perf_counter()

            def answered(answer: object) -> None:
                if isinstance(answer, Exception):
                    raise answer
                now = time.perf_counter()
                self.latencies.append(now - started)
                if now < self._until:
                    send()
                else:
                    self._finish()

            command = ThingCommand(
                thing_id=thing_id,
                action=Action.MODIFY,
                path=PATH,
                value=value,
                subjects=SUBJECTS,
            )
            self._things.submit(command, answered)

        return send

    def _finish(self) -> None:
        self._running -= 1
        if not self._running:
            self.done.set()


async def through_the_service(folder: Path, writers: int, seconds: float) -> Rate:
    """The whole walk: policy, decision, event journal, group commit, answer."""
    database = Database(folder / f"grouped-{writers}.db", "gateway")
    async with database.running():
        store = SqliteThingStore(database)
        things = ThingsService(store, PoliciesService(store), metrics=Metrics(), tracer=Tracer())
        await asyncio.gather(
            *(
                things.execute(
                    ThingCommand(
                        thing_id=f"bench:t{n}",
                        action=Action.MODIFY,
                        value=a_document(),
                        subjects=SUBJECTS,
                    )
                )
                for n in range(writers)
            )
        )
        started = time.perf_counter()
        crowd = Writers(things, writers, started + seconds)
        crowd.start()
        await crowd.done.wait()
        return rate("things service", writers, crowd.latencies, time.perf_counter() - started)


def one_by_one(folder: Path, seconds: float) -> Rate:
    """The bare minimum without grouping: read, change, write, commit with `synchronous=FULL`, per update."""
    connection = sqlite3.connect(folder / "one.db", isolation_level=None)
    connection.executescript(
        "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;"
        "CREATE TABLE things (thing_id TEXT PRIMARY KEY, revision INTEGER, document BLOB);"
        "CREATE TABLE events (thing_id TEXT, revision INTEGER, value BLOB);"
    )
    document = a_document()
    connection.execute("INSERT INTO things VALUES ('t', 1, ?)", (msgspec.json.encode(document),))
    latencies: list[float] = []
    started = time.perf_counter()
    now, revision = started, 1
    while now < started + seconds:
        revision += 1
        document["features"]["motor"]["properties"]["rpm"] = revision  # type: ignore[index, call-overload]
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(
            "UPDATE things SET revision = ?, document = ? WHERE thing_id = 't'",
            (revision, msgspec.json.encode(document)),
        )
        connection.execute("INSERT INTO events VALUES ('t', ?, ?)", (revision, b"1"))
        connection.execute("COMMIT")
        latencies.append(time.perf_counter() - now)
        now = time.perf_counter()
    connection.close()
    return rate("one transaction per update", 1, latencies, now - started)


def rate(name: str, writers: int, latencies: list[float], elapsed: float) -> Rate:
    """Sum a run up."""
    cuts = statistics.quantiles(latencies, n=100)
    return Rate(name, writers, len(latencies) / elapsed, cuts[49] * 1_000, cuts[98] * 1_000)


def run(seconds: float, writers: list[int]) -> list[Rate]:
    """All runs, the baseline first and last so that a busy machine shows."""
    with tempfile.TemporaryDirectory(prefix="twinspan-bench-") as name:
        folder = Path(name)
        (folder / "a").mkdir()
        (folder / "b").mkdir()
        rates = [one_by_one(folder / "a", seconds)]
        rates += [asyncio.run(through_the_service(folder, n, seconds)) for n in writers]
        return [*rates, one_by_one(folder / "b", seconds)]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--writers", type=int, nargs="+", default=[1, 50, 500])
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rates = run(options.seconds, options.writers)
    baseline = statistics.mean(one.per_second for one in (rates[0], rates[-1]))
    if options.json:
        print(json.dumps([msgspec.to_builtins(one) for one in rates]))
        return
    print(f"{'what':28} {'writers':>7} {'updates/s':>10} {'p50 ms':>8} {'p99 ms':>8} {'ratio':>6}")
    for one in rates:
        ratio = one.per_second / baseline
        print(
            f"{one.name:28} {one.writers:>7} {one.per_second:>10.0f} {one.p50:>8.2f}"
            f" {one.p99:>8.2f} {ratio:>6.1f}"
        )


if __name__ == "__main__":
    main()
