"""Which gateway a device was heard through last, over reconnects and restarts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gateway.errors import StoreUnavailable
from gateway.hono.last_gateways import DAY, LIFE_DAYS, LastGateways
from gateway.runtime.module import running
from gateway.store.database import Database
from tests.hono_rig import Core, a_core, until


class Clock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


async def a_fleet(core: Core) -> None:
    await core.tenant("acme")
    for device in ("d1", "d2"):
        await core.device("acme", device, {"via": ["gw-1", "gw-2"]})


def rows(db: Any) -> list[tuple[Any, ...]]:
    found: list[tuple[Any, ...]] = db.execute(
        "SELECT device, gateway FROM last_gateway ORDER BY device"
    ).fetchall()
    return found


async def saved(core: Core) -> list[tuple[Any, ...]]:
    """What is on disk once all is written that was handed over."""
    return await core.stored._database.write(rows)


@pytest.fixture
def clock() -> Clock:
    return Clock()


async def test_it_outlives_the_process(tmp_path: Path, clock: Clock) -> None:
    database = Database(tmp_path / "gateway.db", "gateway")
    async with a_core(database) as core:
        await a_fleet(core)
        first = LastGateways(database, clock=clock)
        async with running(first):
            first.note("acme", "d1", "gw-1")
            first.note("acme", "d1", "gw-2")
            first.note("acme", "d2", "gw-1")
            first.note("acme", "nobody", "gw-1")
        await saved(core)
        second = LastGateways(database, clock=clock)
        async with running(second):
            assert second.get("acme", "d1") == "gw-2"
            assert second.get("acme", "d2") == "gw-1"
            assert second.get("acme", "nobody") is None
            second.note("acme", "d2", None)
        await saved(core)
        third = LastGateways(database, clock=clock)
        async with running(third):
            assert third.get("acme", "d2") is None


async def test_it_is_on_disk_a_moment_later(tmp_path: Path, clock: Clock) -> None:
    database = Database(tmp_path / "gateway.db", "gateway")
    async with a_core(database) as core:
        await a_fleet(core)
        last = LastGateways(database, clock=clock)
        async with running(last):
            last.note("acme", "d1", "gw-1")
            await until(lambda: not last._unsaved)
            assert await saved(core) == [("d1", "gw-1")]


async def test_what_was_not_heard_for_long_goes_and_what_was_stays(
    tmp_path: Path, clock: Clock
) -> None:
    database = Database(tmp_path / "gateway.db", "gateway")
    async with a_core(database) as core:
        await a_fleet(core)
        last = LastGateways(database, clock=clock)
        async with running(last):
            last.note("acme", "d1", "gw-1")
            last.note("acme", "d2", "gw-1")
            clock.now += (LIFE_DAYS - 1) * DAY
            await until(lambda: last._today == last._day())
            last.note("acme", "d2", "gw-1")
            clock.now += 2 * DAY
            await until(lambda: last.get("acme", "d1") is None)
            assert last.get("acme", "d2") == "gw-1"
            await until(lambda: not last._unsaved)
        assert await saved(core) == [("d2", "gw-1")]
        clock.now += LIFE_DAYS * DAY
        late = LastGateways(database, clock=clock)
        async with running(late):
            assert late.get("acme", "d2") is None


async def test_a_device_that_is_deleted_is_forgotten(tmp_path: Path, clock: Clock) -> None:
    database = Database(tmp_path / "gateway.db", "gateway")
    async with a_core(database) as core:
        await a_fleet(core)
        last = LastGateways(database, clock=clock)
        core.registry.on_change(last.changed)
        async with running(last):
            for device in ("d1", "d2"):
                last.note("acme", device, "gw-1")
            await core.registry.delete_device("acme", "d1", None)
            assert last.get("acme", "d1") is None
            await until(lambda: not last._unsaved)
            assert await saved(core) == [("d2", "gw-1")]
            await core.registry.delete_devices("acme")
            assert last.get("acme", "d2") is None
            assert await saved(core) == []


async def test_what_could_not_be_saved_is_saved_later(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = Database(tmp_path / "gateway.db", "gateway")
    async with a_core(database) as core:
        await a_fleet(core)
        last = LastGateways(database, clock=clock)
        refused: list[object] = []

        def refuse(work: Any, done: Any, *, grows: bool = False) -> None:
            refused.append(work)
            done(StoreUnavailable("the disk is full"))

        async with running(last):
            monkeypatch.setattr(database, "submit", refuse)
            last.note("acme", "d1", "gw-1")
            await until(lambda: bool(refused))
            last.note("acme", "d1", "gw-2")
            monkeypatch.undo()
            await until(lambda: not last._unsaved)
            assert await saved(core) == [("d1", "gw-2")]
