"""How much of the past is kept, by time and by number, in small steps that a crash does not hurt."""

from __future__ import annotations

import asyncio
import sqlite3
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from gateway.config.ditto import History
from gateway.ditto.service import PoliciesService, ThingsService
from gateway.ditto.upkeep import Upkeep
from gateway.errors import GatewayError
from gateway.model.json import parse_pointer
from gateway.model.policy import PolicyCommand
from gateway.model.thing import Action, ThingCommand
from gateway.observe.metrics import Metrics
from gateway.observe.tracing import Tracer
from gateway.runtime.module import running
from gateway.store.database import Database
from gateway.store.things import SNAPSHOT_EVERY, Keep
from gateway.store.things_sqlite import SqliteThingStore
from tests.ditto_rig import PUMP, a_ditto, curl, put

ME = ("nginx:me",)
START = datetime(2026, 3, 1, tzinfo=UTC)


class Clock:
    """Moves by hand."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now


class Rig:
    """Services over a file, with a clock moved by hand."""

    def __init__(self, database: Database) -> None:
        self.clock = Clock()
        self.database = database
        self.store = SqliteThingStore(database)
        self.policies = PoliciesService(self.store, clock=self.clock)
        self.things = ThingsService(
            self.store, self.policies, metrics=Metrics(), tracer=Tracer(), clock=self.clock
        )

    async def put(self, value: Any, path: str = "/attributes/n", name: str = "org.acme:t") -> None:
        self.clock.now += timedelta(hours=1)
        command = ThingCommand(
            thing_id=name,
            action=Action.MODIFY,
            path=parse_pointer(path),
            value=value,
            subjects=ME,
        )
        await self.things.execute(command)

    async def grow(self, revisions: int, name: str = "org.acme:t") -> None:
        """Revision r has n = r and comes at hour r."""
        await self.put({"attributes": {"n": 1}}, "/", name)
        for n in range(2, revisions + 1):
            await self.put(n, name=name)

    async def past(self, revision: int) -> Any:
        thing = await self.things.at_revision("org.acme:t", revision)
        return None if thing is None else thing.document["attributes"]

    async def kept(self, name: str = "org.acme:t") -> list[int]:
        return [event.revision for event in await self.things.history(name, 0, 10_000)]

    async def forget(self, **settings: Any) -> None:
        await Upkeep(self.store, History(**settings), self.clock).forget()


@pytest.fixture(name="rig")
async def a_rig(tmp_path: Path) -> AsyncIterator[Rig]:
    database = Database(tmp_path / "gateway.db", "gateway", gives_back=True)
    async with database.running():
        yield Rig(database)


async def test_what_lies_within_the_time_can_be_rebuilt_and_nothing_much_older_is_kept(
    rig: Rig,
) -> None:
    await rig.grow(100)
    await rig.forget(retention=20 * 3_600.0)
    kept = await rig.kept()
    assert kept == list(range(kept[0], 101))
    assert 81 - SNAPSHOT_EVERY <= kept[0] <= 80
    for revision in range(80, 101):
        assert await rig.past(revision) == {"n": revision}
    assert await rig.past(kept[0] - 1) is None
    at = await rig.things.at_time("org.acme:t", "2026-03-04T10:00:00.000000Z")
    assert at is not None
    assert at.document["attributes"] == {"n": 82}


async def test_so_many_revisions_are_kept_whatever_their_age(rig: Rig) -> None:
    await rig.grow(100)
    await rig.forget(retention=10**9, revisions=10)
    kept = await rig.kept()
    assert kept == list(range(kept[0], 101))
    assert 91 - SNAPSHOT_EVERY <= kept[0] <= 91
    for revision in range(91, 101):
        assert await rig.past(revision) == {"n": revision}
    await rig.forget(retention=10**9, revisions=10)
    assert await rig.kept() == kept


async def test_nothing_is_kept_but_what_the_newest_state_is_made_from(rig: Rig) -> None:
    await rig.grow(70)
    rig.clock.now += timedelta(hours=1)
    await rig.forget(retention=0.0)
    assert await rig.kept() == list(range(64, 71))
    assert await rig.past(70) == {"n": 70}


async def test_policies_have_a_retention_of_their_own(rig: Rig) -> None:
    await rig.grow(1)
    for n in range(80):
        rig.clock.now += timedelta(hours=1)
        entry: Any = {"subjects": {f"nginx:{n}": {"type": "x"}}, "resources": {}}
        await rig.policies.execute(
            PolicyCommand(
                policy_id="org.acme:t",
                action=Action.MODIFY,
                path=("entries", "guest"),
                value=entry,
                subjects=ME,
            )
        )
    await rig.forget(policy_retention=10 * 3_600.0)
    kept = [one.revision for one in await rig.policies.history("org.acme:t", 0, 1_000)]
    assert kept == list(range(kept[0], 82))
    assert kept[0] > 30
    await rig.forget(policy_retention=10**9, policy_revisions=1)
    with pytest.raises(GatewayError) as caught:
        await rig.policies.execute(
            PolicyCommand(
                policy_id="org.acme:t",
                action=Action.RETRIEVE,
                subjects=ME,
                headers={"at-historical-revision": "5"},
            )
        )
    assert (caught.value.status, caught.value.code) == (404, "policies:policy.history.notfound")


async def test_each_step_looks_at_a_bounded_number_and_leaves_a_whole_past(rig: Rig) -> None:
    for name in ("org.acme:t", "org.acme:u"):
        await rig.grow(80, name)
    keep, after, steps = Keep("2027-01-01T00:00:00Z"), 0, 0
    while True:
        step = await rig.store.forget(keep, after, 7)
        assert step.dropped <= 7
        steps += 1
        for name in ("org.acme:t", "org.acme:u"):
            kept = await rig.kept(name)
            assert kept == list(range(kept[0], 81))
        for revision in range(1, 81):
            assert await rig.past(revision) in (None, {"n": revision})
        if step.after is None:
            break
        after = step.after
    assert steps >= 20
    assert (await rig.kept())[0] == 64


async def test_deleted_things_leave_nothing_behind_but_their_revision(rig: Rig) -> None:
    await rig.grow(3)
    await rig.things.execute(ThingCommand(thing_id="org.acme:t", action=Action.DELETE, subjects=ME))
    await rig.grow(1, "org.acme:other")
    rig.clock.now += timedelta(days=30)
    await rig.forget()
    assert await rig.kept() == []
    await rig.put({"policyId": "org.acme:other", "attributes": {"n": 5}}, "/")
    assert await rig.kept() == [5]


def pages(connection: sqlite3.Connection) -> tuple[int, int]:
    (free,) = connection.execute("PRAGMA freelist_count").fetchone()
    (whole,) = connection.execute("PRAGMA page_count").fetchone()
    return free, whole


async def test_space_is_given_back_but_for_what_new_events_soon_take(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.store.history_sqlite.FREE_PAGES", 5)
    await rig.put({"attributes": {"n": 1}}, "/")
    for n in range(300):
        await rig.put(f"{n:06}" * 1_000)
    _, before = await rig.database.read(pages)
    rig.clock.now += timedelta(days=30)
    await rig.forget(retention=0.0)
    free, after = await rig.database.read(pages)
    assert after < before / 2
    assert free <= max(5, after // 10 + 1)


async def test_the_past_is_shortened_without_anybody_asking(rig: Rig) -> None:
    await rig.grow(70)
    rig.clock.now += timedelta(days=30)
    async with running(Upkeep(rig.store, History(interval=0.01), rig.clock)):
        async with asyncio.timeout(30):
            while len(await rig.kept()) > SNAPSHOT_EVERY:  # noqa: ASYNC110  no event to wait for
                await asyncio.sleep(0.01)
    assert await rig.past(70) == {"n": 70}


async def test_the_api_tells_that_a_state_is_not_kept_and_streams_what_is() -> None:
    async with a_ditto() as ditto:
        thing = f"{ditto.api}/things/{PUMP}"
        await put(thing, {})
        for n in range(2, 41):
            await put(f"{thing}/attributes/n", n)
        store = ditto.policies.store
        await Upkeep(store, History(retention=0.0, policy_retention=0.0)).forget()
        gone = await curl("-H", "at-historical-revision: 5", thing)
        assert (gone.status, gone.json["error"]) == (404, "things:thing.history.notfound")
        gone = await curl("-H", "at-historical-timestamp: 2020-01-01T00:00:00Z", thing)
        assert (gone.status, gone.json["error"]) == (404, "things:thing.history.notfound")
        there = await curl("-H", "at-historical-revision: 33", f"{thing}/attributes/n")
        assert there.json == 33
        stream = await curl(
            "-H",
            "Accept: text/event-stream",
            f"{thing}?from-historical-revision=0&fields=_revision",
        )
        told = [line for line in stream.body.splitlines() if line.startswith("data:{")]
        assert told == [f'data:{{"_revision":{n}}}' for n in range(32, 41)]


# --- crashes ------------------------------------------------------------------------------------

CHILD = """
import asyncio, sys
from pathlib import Path
from gateway.config.ditto import History
from gateway.ditto.service import PoliciesService, ThingsService
from gateway.ditto.upkeep import Upkeep
from gateway.model.thing import Action, ThingCommand
from gateway.observe.metrics import Metrics
from gateway.observe.tracing import Tracer
from gateway.store.database import Database
from gateway.store.things_sqlite import SqliteThingStore

async def main():
    database = Database(Path(sys.argv[1]), "gateway", gives_back=True)
    async with database.running():
        store = SqliteThingStore(database)
        things = ThingsService(store, PoliciesService(store), metrics=Metrics(), tracer=Tracer())
        upkeep = Upkeep(store, History(retention=10**9, revisions=5))

        async def write(name):
            for n in range(1, 100_000):
                path, value = (("attributes", "n"), n) if n > 1 else ((), {"attributes": {"n": 1}})
                await things.execute(ThingCommand(thing_id=name, action=Action.MODIFY, path=path,
                                                  value=value, subjects=("nginx:me",)))

        async def shorten():
            while True:
                print(await upkeep.forget_things(), flush=True)
                await store.give_back(10)

        await asyncio.gather(shorten(), *(write(f"crash:t{n}") for n in range(5)))

asyncio.run(main())
"""


async def test_kill_9_in_the_midst_of_forgetting_leaves_a_whole_past(tmp_path: Path) -> None:
    path = tmp_path / "gateway.db"
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", CHILD, str(path), stdout=asyncio.subprocess.PIPE
    )
    assert child.stdout is not None
    dropped = 0
    while dropped < 400:
        dropped += int((await child.stdout.readline()).decode())
    child.kill()
    await child.stdout.read()
    await child.wait()
    database = Database(path, "gateway", gives_back=True)
    async with database.running():
        checked = await database.read(lambda one: one.execute("PRAGMA integrity_check").fetchall())
        assert checked == [("ok",)]
        rig = Rig(database)
        for n in range(5):
            name = f"crash:t{n}"
            thing = await rig.things.load(name)
            assert thing is not None
            kept = await rig.kept(name)
            assert kept == list(range(kept[0], thing.revision + 1))
            for revision in range(max(kept[0], thing.revision - 4), thing.revision + 1):
                past = await rig.things.at_revision(name, revision)
                assert past is not None
                assert past.document["attributes"] == {"n": revision}
