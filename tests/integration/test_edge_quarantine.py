"""An edge whose database is damaged puts it aside, begins anew as the same node, and tells what was lost."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from edge import status
from edge.identity import FOLDER, Identity
from edge.quarantine import KEEP, put_aside_if_damaged
from gateway.config.edge import Spool
from gateway.errors import StoreUnavailable
from gateway.store.damage import StoreDamaged
from gateway.store.database import Database
from gateway.wire.cloudedge.twins import MemberDevice
from tests.cloud_rig import a_cloud as a_real_cloud
from tests.cloud_rig import apply_device, apply_model
from tests.cloud_samples import a_device as a_lamp
from tests.damage import DAMAGES, garbage_pages, with_statement
from tests.integration.edge_cloud import FakeCloud, a_cloud
from tests.integration.edge_node import MODEL, Node, a_device, a_node, join_edge, linked
from tests.integration.edge_support import until
from tests.integration.test_edge_real_cloud import a_joined_node, has_lamp, level_is
from tests.integration.test_edge_status import shown


@pytest.fixture
async def cloud(tmp_path: Path) -> AsyncIterator[FakeCloud]:
    folder = tmp_path / "cloud"
    folder.mkdir()
    async with a_cloud(folder) as served:
        served.members = [MemberDevice(id="default/d1", name="d1")]
        yield served


@pytest.fixture
async def data_dir(cloud: FakeCloud, tmp_path: Path) -> Path:
    """Of a node that has a Device, and three events and a report that the cloud did not take."""
    await join_edge(cloud, tmp_path / "edge")
    cloud.outcome, cloud.answers_twins = None, False
    async with a_node(tmp_path / "edge") as node:
        await linked(node, cloud)
        await with_device(cloud)
        await node.report("d1", temp="20")
        for number in range(3):
            await node.publish("event//default:d1", str(number).encode())
    cloud.outcome, cloud.answers_twins = (lambda _item: None), True
    cloud.got.clear()
    return tmp_path / "edge"


async def with_device(cloud: FakeCloud) -> None:
    await cloud.push("devicemodel", "m1", MODEL)
    await cloud.push("device", "d1", a_device(temp="25"))


def store_of(data_dir: Path) -> Path:
    return data_dir / FOLDER / "edge.db"


def content(path: Path) -> bytes:
    return path.read_bytes()


def put_aside(data_dir: Path) -> list[Path]:
    return sorted((data_dir / FOLDER).glob("edge.db.damaged-*"))


async def works(node: Node, cloud: FakeCloud) -> None:
    """See that the node takes objects, twins and uploads again."""
    await linked(node, cloud)
    await with_device(cloud)
    assert await node.report("d1", temp="21") is None
    assert await node.publish("event//default:d1", b"after") is None
    await until(lambda: b"after" in [u.payload for u in cloud.uploads])
    await until(lambda: "21" in cloud.reported("temp"))


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
async def test_the_node_goes_on_with_a_fresh_store(
    cloud: FakeCloud, data_dir: Path, damage: Callable[[Path], None]
) -> None:
    identity = Identity(data_dir)
    certificate, before = identity.certificate, identity.load()
    damage(store_of(data_dir))
    broken = content(store_of(data_dir))
    async with a_node(data_dir) as node:
        assert node.core.twin.count == 0
        await works(node, cloud)
        case = node.core.store.set_aside
        assert case is not None
        assert case.cause
        assert node.metrics.registry.get_sample_value("twinspan_edge_stores_set_aside_total") == 1
    assert content(Path(case.file)) == broken
    assert (identity.certificate, identity.load()) == (certificate, before)
    async with a_node(data_dir) as node:  # once is enough
        await linked(node, cloud)
        assert node.core.twin.count == 1
        assert node.core.store.set_aside == case
    assert [p for p in put_aside(data_dir) if p.stat().st_size or p == Path(case.file)] == [
        Path(case.file)
    ]


async def test_what_waited_is_counted_as_lost_and_told(cloud: FakeCloud, data_dir: Path) -> None:
    with_statement("INSERT INTO loss VALUES ('unanswered', 2)")(store_of(data_dir))
    with_statement("PRAGMA user_version=999")(store_of(data_dir))
    async with a_node(data_dir) as node:
        await linked(node, cloud)
        running = status.of_core(node.core)
        assert node.metrics.edge_loss.labels("corrupt")._value.get() == 3
    stopped = status.of_disk(data_dir, Spool())
    for found in (running, stopped):
        case: Any = found["set_aside"]
        assert found["losses"] == {"corrupt": 3, "unanswered": 2}
        assert (case["messages"], case["reports"]) == (3, 1)
        assert "version 999" in case["cause"]
    text = await shown(data_dir)
    assert "begun anew" in text
    assert "3 messages waited in it" in text
    assert str(case["file"]) in text
    assert "corrupt 3" in text


async def test_a_loss_that_cannot_be_counted_is_said_to_be_unknown(
    cloud: FakeCloud, data_dir: Path
) -> None:
    DAMAGES["garbage header"](store_of(data_dir))
    async with a_node(data_dir) as node:
        await linked(node, cloud)
        case = node.core.store.set_aside
        assert case is not None
        assert case.messages is None
    assert "how much waited in it is not known" in await shown(data_dir)


async def test_the_log_of_a_killed_node_is_put_aside_too(
    cloud: FakeCloud, data_dir: Path, tmp_path: Path
) -> None:
    copies = {ending: tmp_path / f"copy{ending}" for ending in ("", "-wal")}
    async with a_node(data_dir) as node:
        await linked(node, cloud)
        for ending, copy in copies.items():
            await asyncio.to_thread(shutil.copy, f"{store_of(data_dir)}{ending}", copy)
    for ending, copy in copies.items():
        shutil.copy(copy, f"{store_of(data_dir)}{ending}")
    garbage_pages(store_of(data_dir))
    async with a_node(data_dir) as node:
        await works(node, cloud)
        case = node.core.store.set_aside
    assert case is not None
    assert content(Path(f"{case.file}-wal")) == content(copies["-wal"])


async def used_while_it_breaks(data_dir: Path, cloud: FakeCloud) -> None:
    """Run a node whose pages go bad, until it ends by itself."""
    async with a_node(data_dir) as node, asyncio.timeout(20):
        await linked(node, cloud)
        garbage_pages(store_of(data_dir))
        while True:  # until a page is read again that was not in memory
            with suppress(StoreUnavailable):
                await node.core.store.database.write(lambda c: c.execute("PRAGMA shrink_memory"))
            await node.publish("event//default:d1", b"more")
            await asyncio.sleep(0)  # a closed store refuses without a pause, and could never end


async def test_a_store_that_breaks_in_use_ends_the_node_and_is_put_aside_at_the_next_start(
    cloud: FakeCloud, data_dir: Path
) -> None:
    with pytest.raises(BaseExceptionGroup) as caught:
        await used_while_it_breaks(data_dir, cloud)
    ended = caught.value.subgroup(StoreDamaged)
    assert ended is not None
    async with a_node(data_dir) as node:
        await works(node, cloud)
        assert node.core.store.set_aside is not None


async def test_what_broke_in_use_is_put_aside_even_if_it_looks_sound(
    cloud: FakeCloud, data_dir: Path
) -> None:
    store_of(data_dir).with_name("edge.db-is-damaged").write_text("the card said no", "utf-8")
    async with a_node(data_dir) as node:
        await works(node, cloud)
        case = node.core.store.set_aside
        assert case is not None
        assert (case.cause, case.messages) == ("the card said no", 3)


async def test_files_put_aside_do_not_fill_the_disk(tmp_path: Path) -> None:
    path = tmp_path / "edge.db"
    names = []
    for number in range(KEEP + 2):
        path.write_text(f"garbage {number}", "utf-8")
        found = await put_aside_if_damaged(Database(path, "edge"))
        assert found is not None
        names.append(Path(found.file))
    assert [name.exists() for name in names] == [False, False, *[True] * KEEP]
    assert names[-1].read_text() == f"garbage {KEEP + 1}"


async def test_a_file_that_cannot_be_opened_now_is_no_damage(tmp_path: Path) -> None:
    path = tmp_path / "edge.db"
    path.mkdir()
    with pytest.raises(StoreUnavailable, match="cannot be opened"):
        await put_aside_if_damaged(Database(path, "edge"))
    assert path.is_dir()


@pytest.mark.parametrize("damage", [DAMAGES["garbage pages"], DAMAGES["newer version"]])
async def test_the_cloud_fills_the_fresh_store_also_if_it_was_down_meanwhile(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    home = tmp_path / "edge"
    async with a_real_cloud(tmp_path / "real") as real:
        await apply_model(real)
        await apply_device(real, a_lamp(level="7"))
        async with a_joined_node(real, home) as node:
            await has_lamp(node)
            for level in ("1", "2", "3"):
                await node.report("lamp", level=level)
            await level_is(real, 3)
            await until(lambda: node.core.node.is_registered)
    damage(store_of(home))
    async with a_real_cloud(tmp_path / "real") as real:
        hub = f"localhost:{real.process.endpoints.port('cloudhub.wss')}"
        async with a_node(home, server=hub, drivers={}) as node:
            assert node.core.store.set_aside is not None
            await until(lambda: node.core.twin.bound())  # a member comes before its Device
            await node.publish("$hw/events/device/default/lamp/twin/get", {})
            (answer,) = node.heard("/twin/get/result")
            assert answer["twin"]["level"]["expected"]["value"] == "7"
            await node.report("lamp", level="9")
            await level_is(real, 9)
