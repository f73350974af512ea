"""A wish that a client at the edge said stays said until the Device wants something else."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from edge.identity import FOLDER
from edge.store import EdgeStore
from gateway.errors import StoreUnavailable
from gateway.wire.cloudedge.names import Operation
from gateway.wire.cloudedge.twins import MemberDevice
from tests.integration.edge_cloud import FakeCloud, a_cloud
from tests.integration.edge_node import MODEL, Node, a_device, a_node, join_edge, linked

AWAY = "127.0.0.1:1"


@pytest.fixture
async def cloud(tmp_path: Path) -> AsyncIterator[FakeCloud]:
    folder = tmp_path / "cloud"
    folder.mkdir()
    async with a_cloud(folder) as running:
        running.members = [MemberDevice(id="default/d1", name="d1")]
        yield running


@pytest.fixture
async def data_dir(cloud: FakeCloud, tmp_path: Path) -> Path:
    """Of a node whose Device wants 2 and of which a client wished 4."""
    home = tmp_path / "edge"
    await join_edge(cloud, home)
    async with a_node(home) as node:
        await linked(node, cloud)
        await cloud.push("devicemodel", "m1", MODEL)
        await cloud.push("device", "d1", device("a", temp="2"))
        await wish(node, "4")
        assert await expected(node) == "4"
    return home


def device(uid: str, **desired: str) -> dict[str, Any]:
    return {**a_device(**desired), "metadata": {"uid": uid}}


async def wish(node: Node, text: str) -> None:
    body = {"twin": {"temp": {"expected": {"value": text}}}}
    assert await node.publish("$hw/events/device/default/d1/twin/update", body) is None


async def expected(node: Node) -> str | None:
    await node.publish("$hw/events/device/default/d1/twin/get", {})
    twin = node.heard("/twin/get/result")[-1]["twin"].get("temp") or {}
    return (twin.get("expected") or {}).get("value")


async def test_an_acknowledged_wish_outlives_restarts_and_other_changes_of_the_device(
    cloud: FakeCloud, data_dir: Path
) -> None:
    for _ in range(2):
        async with a_node(data_dir, server=AWAY) as node:
            assert await expected(node) == "4"
    async with a_node(data_dir) as node:
        await linked(node, cloud)
        await cloud.push("device", "d1", device("a", temp="2", hum="1"), Operation.UPDATE)
        assert await expected(node) == "4"
        await cloud.push("device", "d1", device("a", temp="3", hum="1"), Operation.UPDATE)
        assert await expected(node) == "3"


async def test_a_desired_value_that_was_taken_but_not_bound_is_bound_at_the_start(
    cloud: FakeCloud, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = StoreUnavailable("the disk is full")
    async with a_node(data_dir) as node:
        await linked(node, cloud)
        with monkeypatch.context() as patch:
            patch.setattr(EdgeStore, "change", lambda *cells: cells[-1](full))
            await cloud.push("device", "d1", device("a", temp="5"), Operation.UPDATE)
            assert await expected(node) == "4"
    async with a_node(data_dir, server=AWAY) as node:
        assert await expected(node) == "5"


async def test_a_device_made_anew_begins_with_what_it_wants(
    cloud: FakeCloud, data_dir: Path
) -> None:
    async with a_node(data_dir) as node:
        await linked(node, cloud)
        await cloud.push("device", "d1", device("b", temp="2"))
        assert await expected(node) == "2"
        await wish(node, "6")
    async with a_node(data_dir, server=AWAY) as node:
        assert await expected(node) == "6"


async def test_a_store_of_an_earlier_version_is_bound_once_and_remembers_from_then_on(
    data_dir: Path,
) -> None:
    with closing(sqlite3.connect(data_dir / FOLDER / "edge.db", isolation_level=None)) as db:
        db.execute("DROP TABLE device_bound")
        db.execute("PRAGMA user_version=4")
    async with a_node(data_dir, server=AWAY) as node:
        assert await expected(node) == "2"
        await wish(node, "4")
    async with a_node(data_dir, server=AWAY) as node:
        assert await expected(node) == "4"
