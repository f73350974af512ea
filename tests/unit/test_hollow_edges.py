"""Hollow edges: shares, sums, spreads and the store in memory."""

from __future__ import annotations

import sqlite3

import pytest

from edge.hollow.fleet import added_up, shares
from edge.hollow.memory import MemoryDatabase
from edge.hollow.plan import Snapshot
from edge.hollow.spread import Spread
from edge.hollow.summary import HEADERS, Moment, steady
from gateway.errors import BadRequest, GatewayError, StoreUnavailable


@pytest.mark.parametrize("processes", [1, 2, 3, 7, 10])
def test_every_node_is_in_one_process(processes: int) -> None:
    cut = shares(10, processes)
    assert [n for first, count in cut for n in range(first, first + count)] == list(range(10))
    assert max(count for _, count in cut) - min(count for _, count in cut) <= 1


def test_more_processes_than_nodes_are_not_started() -> None:
    assert shares(2, 5) == [(0, 1), (1, 1)]


def test_a_spread_tells_percentiles_and_adds_up() -> None:
    one, two = Spread(), Spread()
    for value in range(1, 51):
        one.add(value)
        two.add(50 + value)
    one.merge(two.cells)
    assert one.count == 100
    assert one.at(0.5) == pytest.approx(50, rel=0.02)
    assert one.at(0.99) == pytest.approx(99, rel=0.02)
    assert one.at(1.0) == pytest.approx(100, rel=0.02)
    assert Spread().at(0.5) is None


def test_snapshots_of_processes_add_up() -> None:
    total = added_up(
        [
            Snapshot(up=2, cpu=0.5, renewals={1: 2}, errors={"x": 1}),
            Snapshot(up=3, cpu=0.25, renewals={1: 1, 5: 1}, errors={"x": 1, "y": 4}),
        ]
    )
    assert (total.up, total.cpu, total.renewals) == (5, 0.75, {1: 3, 5: 1})
    assert total.errors == {"x": 2, "y": 4}


def test_a_steady_time_is_told_for_one_node_and_hour() -> None:
    before = Moment(100.0, Snapshot(bytes_out=1_000, frames_in=10))
    after = Moment(
        110.0, Snapshot(bytes_out=3_000, bytes_in=500, segments=10, frames_in=30, lost=1)
    )
    found = steady(before, after, nodes=2)
    assert found["bytes_per_node_hour"] == {
        "up": 2_000 * 180,
        "down": 500 * 180,
        "headers": 10 * HEADERS * 180,
    }
    assert (found["links_lost"], found["frames_down_per_second"]) == (1, 2.0)


# --- the store in memory -------------------------------------------------------------------------


def _insert(connection: sqlite3.Connection) -> int:
    connection.execute("INSERT INTO sub_topics (topic) VALUES ('t')")
    return 1


def _insert_and_fail(connection: sqlite3.Connection) -> None:
    connection.execute("INSERT INTO sub_topics (topic) VALUES ('other')")
    raise BadRequest("no")


def _count(connection: sqlite3.Connection) -> int:
    (found,) = connection.execute("SELECT count(*) FROM sub_topics").fetchone()
    return int(found)


async def test_a_write_that_fails_undoes_its_own_changes_alone() -> None:
    database = MemoryDatabase("edge")
    async with database.running():
        assert await database.write(_insert) == 1
        with pytest.raises(BadRequest):
            await database.write(_insert_and_fail)
        assert await database.read(_count) == 1
        with pytest.raises(GatewayError, match="UNIQUE"):
            await database.write(_insert)  # the topic is there already


async def test_answers_come_later_and_in_order() -> None:
    told: list[str] = []
    database = MemoryDatabase("edge")

    def note(result: int | GatewayError) -> None:
        told.append(str(result))

    async with database.running():
        database.submit(_count, note)
        database.submit(_insert, note)
        assert told == []
        assert await database.write(_count) == 1
        assert told == ["0", "1"]


async def test_a_store_that_is_not_open_refuses() -> None:
    with pytest.raises(StoreUnavailable):
        await MemoryDatabase("edge").write(_insert)
