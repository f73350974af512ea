"""What EdgeCore promises when things go wrong: refusing disks, odd clouds, long absences, little memory."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from edge import devicetwin, eventbus, hub, reports, spool, spoolpump
from edge.spool import SpoolFull
from edge.store import MERGED, DeviceRow, EdgeStore, Report
from gateway.errors import GatewayError, NoConsumer, StoreUnavailable
from gateway.model.message import Kind
from gateway.runtime.backoff import Backoff
from gateway.store.database import Database
from gateway.store.disk import Disk
from gateway.wire.cloudedge.envelope import Envelope
from gateway.wire.cloudedge.names import Operation
from gateway.wire.cloudedge.subjects import Subject
from gateway.wire.cloudedge.to_edge import change_object
from gateway.wire.cloudedge.twins import MemberDevice
from tests.integration.edge_cloud import FakeCloud, a_cloud, stamp
from tests.integration.edge_node import MODEL, Node, a_device, a_node, join_edge, linked
from tests.integration.edge_support import until
from tests.integration.test_edge_spool import Bench, a_bench

FULL = StoreUnavailable("the edge store cannot write: disk is full")


@pytest.fixture
async def cloud(tmp_path: Path) -> AsyncIterator[FakeCloud]:
    folder = tmp_path / "cloud"
    folder.mkdir()
    async with a_cloud(folder) as running:
        running.members = [MemberDevice(id="default/d1", name="d1")]
        yield running


@pytest.fixture
async def data_dir(cloud: FakeCloud, tmp_path: Path) -> Path:
    await join_edge(cloud, tmp_path / "edge")
    return tmp_path / "edge"


async def with_device(cloud: FakeCloud, *, temp: str | None) -> None:
    await cloud.push("devicemodel", "m1", MODEL)
    await cloud.push("device", "d1", a_device(temp=temp))


async def twin_of(node: Node) -> Any:
    await node.publish("$hw/events/device/default/d1/twin/get", {})
    return node.heard("/twin/get/result")[-1]["twin"]["temp"]


# --- reports on disk -------------------------------------------------------------------------------


def a_report(resource: str, content: str) -> Report:
    return Report(0, "default/d1", f"id of {content}", f"device/default/d1/{resource}", content)


async def _put_state(store: EdgeStore, report: Report, limit: int) -> int | GatewayError:
    future: asyncio.Future[int | GatewayError] = asyncio.get_running_loop().create_future()
    store.put_state(DeviceRow("default/d1", "d1"), report, limit, future.set_result)
    return await future


async def test_states_beyond_the_limit_are_merged_and_twins_between_them_do_not_hinder(
    tmp_path: Path,
) -> None:
    database = Database(tmp_path / "edge.db", "edge")
    store = EdgeStore(database)
    async with database.running():
        results = [
            await _put_state(store, a_report(resource, content), 2)
            for resource, content in (
                ("state/update", '"s1"'),
                ("twin/edge_updated", '{"twin":{"a":1}}'),
                ("state/update", '"s2"'),
                ("twin/edge_updated", '{"twin":{"b":2}}'),
                ("state/update", '"s3"'),
            )
        ]
        assert results[3:] == [MERGED, MERGED]
        contents = [r.content for r in await store.reports("default/d1", 0, 10)]
        assert contents == ['"s1"', '{"twin":{"a":1,"b":2}}', '"s3"']


async def test_an_answered_report_goes_even_when_its_own_deletion_failed(tmp_path: Path) -> None:
    database = Database(tmp_path / "edge.db", "edge")
    store = EdgeStore(database)
    async with database.running():
        for at in range(3):
            await _put_state(store, a_report("state/update", f'"{at}"'), 10)
        rows = await store.reports("default/d1", 0, 10)
        store.reported("default/d1", rows[1].id)  # the deletion of rows[0] was lost
        await _put_state(store, a_report("state/update", '"3"'), 10)
        left = await store.reports("default/d1", 0, 10)
        assert [r.content for r in left] == ['"2"', '"3"']


# --- a disk that refuses ---------------------------------------------------------------------------


async def test_two_refused_changes_on_top_of_each_other_leave_what_is_on_disk(
    cloud: FakeCloud, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_node(data_dir) as node:
        await linked(node, cloud)
        await with_device(cloud, temp=None)
        await node.report("d1", temp="1")
        refused: list[Any] = []
        with monkeypatch.context() as patch:
            patch.setattr(Database, "submit", lambda _self, _work, done: refused.append(done))
            both = [asyncio.create_task(node.report("d1", temp=text)) for text in ("2", "3")]
            await until(lambda: len(refused) >= 2)
            for done in refused:
                done(FULL)
            assert await asyncio.gather(*both) == [FULL, FULL]
        assert (await twin_of(node))["actual"]["value"] == "1"
        await node.report("d1", temp="4")
        await until(lambda: cloud.reported("temp") == ["1", "4"])
        twin = (cloud.reports[-1].update.twin or {})["temp"]
        assert twin is not None
        assert twin.actual_version is not None
        assert twin.actual_version.edge == 2


async def test_a_device_whose_row_could_not_be_written_works_once_the_disk_does(
    cloud: FakeCloud, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cloud.members = []
    async with a_node(data_dir) as node:
        await linked(node, cloud)
        with monkeypatch.context() as patch:
            patch.setattr(EdgeStore, "put_device", lambda _self, _row, done: done(FULL))
            await cloud.push("devicemodel", "m1", MODEL)
            await cloud.push("device", "d1", a_device(temp=None))
        assert await node.report("d1", temp="1") is None
        await until(lambda: cloud.reported("temp") == ["1"])


async def test_a_desired_value_that_could_not_be_written_is_tried_again(
    cloud: FakeCloud, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devicetwin, "REBIND_SECONDS", 0.01)
    async with a_node(data_dir) as node:
        await linked(node, cloud)
        await with_device(cloud, temp="25")
        with monkeypatch.context() as patch:
            patch.setattr(EdgeStore, "change", lambda *cells: cells[-1](FULL))
            await cloud.push("device", "d1", a_device(temp="30"), Operation.UPDATE)
            assert (await twin_of(node))["expected"]["value"] == "25"
        await until(lambda: node.heard("/twin/update/delta")[-1]["delta"] == {"temp": "30"})


async def test_what_the_cloud_took_while_the_disk_failed_is_deleted_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_bench(tmp_path / "edge.db") as bench:
        bench.pump.link_up(has_spool=True)
        await bench.put("a", "1")
        await bench.sent(1)
        with monkeypatch.context() as patch:
            patch.setattr(Database, "submit", lambda _self, _work, done: done(FULL))
            bench.answer(0)
            await until(lambda: len(bench.pump) == 0)
            await asyncio.sleep(0)
        await bench.put("a", "2")
        await bench.sent(2)
        bench.answer(1)
        await until(lambda: bench.spool.depths[Kind.TELEMETRY].messages == 0)


async def test_an_answer_that_fails_does_not_silence_the_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    database = Database(tmp_path / "edge.db", "edge")
    heard: list[Any] = []

    def bad(_result: object) -> None:
        raise ZeroDivisionError

    async with database.running():
        database.submit(lambda _c: 1, bad)
        database.submit(lambda _c: 2, heard.append)
        await until(lambda: heard == [2])
    assert "was not taken" in caplog.text


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MB of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=24m", "none", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


async def _fill(bench: Bench, kind: Kind, limit: int = 2_000) -> GatewayError | None:
    """Put uploads in groups until one is refused; return the refusal."""
    text = "x" * 50_000
    for at in range(0, limit, 50):
        results = await asyncio.gather(*(bench.put(f"d{at % 3}", text, kind) for _ in range(50)))
        for result in results:
            if result is not None:
                return result
    return None


async def _drain(bench: Bench) -> int:
    """Answer everything; return how much there was."""
    bench.pump.link_up(has_spool=True)
    seen = 0
    while len(bench.pump):
        await asyncio.sleep(0)
        for at in range(seen, len(bench.link.sent)):
            bench.answer(at)
            seen = at + 1
    return seen


async def test_a_spool_that_filled_the_disk_empties_itself_into_the_cloud(small_disk: Path) -> None:
    async with a_bench(small_disk / "edge.db", disk=Disk(small_disk, 16_777_216)) as bench:
        refusal = await _fill(bench, Kind.EVENT)
        assert isinstance(refusal, SpoolFull)
        assert "disk is nearly full" in refusal.message
        waiting = bench.spool.depths[Kind.EVENT].messages
        assert waiting > 100
        assert await _drain(bench) == waiting
        await until(lambda: bench.spool.depths[Kind.EVENT].messages == 0)
        assert await bench.put("d1", "again", Kind.EVENT) is None


async def test_what_a_failing_disk_did_not_delete_goes_without_another_upload(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool, "DELETE_FIRST", 0.01)
    async with a_bench(tmp_path / "edge.db") as bench:
        await bench.put("d1", "an event", Kind.EVENT)
        with monkeypatch.context() as broken:
            broken.setattr(spool, "_remove", _disk_full)
            assert await _drain(bench) == 1
            await until(lambda: bool(bench.spool._undeleted))
        await until(lambda: bench.spool.depths[Kind.EVENT].messages == 0)


def _disk_full(_connection: sqlite3.Connection, _ids: list[int]) -> None:
    raise sqlite3.OperationalError("database or disk is full")


async def test_on_a_full_disk_new_telemetry_takes_the_place_of_old(small_disk: Path) -> None:
    async with a_bench(small_disk / "edge.db", disk=Disk(small_disk, 16_777_216)) as bench:
        assert await _fill(bench, Kind.TELEMETRY, limit=1_000) is None
        assert bench.spool.losses
        refusal = await bench.put("d1", "an event", Kind.EVENT)
        assert isinstance(refusal, SpoolFull)


async def test_a_disk_that_others_filled_is_told_and_mends_itself(
    small_disk: Path,
) -> None:
    async with a_bench(small_disk / "edge.db") as bench:
        await bench.put("a", "1")
        ballast = small_disk / "ballast"
        ballast.write_bytes(b"\0" * (shutil.disk_usage(small_disk).free - 16_384))
        refusal = await _fill(bench, Kind.EVENT)
        assert isinstance(refusal, StoreUnavailable)
        assert "full" in refusal.message
        ballast.unlink()
        assert await bench.put("a", "2") is None


# --- telemetry that nobody takes -------------------------------------------------------------------


async def test_telemetry_without_an_answer_leaves_room_for_events(tmp_path: Path) -> None:
    async with a_bench(tmp_path / "edge.db", window=8) as bench:
        bench.pump.link_up(has_spool=True)
        for at in range(20):
            await bench.put(f"d{at}", "t")
        await bench.sent(6)
        await bench.put("d1", "e", Kind.EVENT)
        await bench.sent(7)
        assert bench.link.payloads[-1] == "e"


async def test_telemetry_that_nobody_takes_stays_on_disk_not_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spoolpump, "ALL_MEMORY", 50_000)
    async with a_bench(tmp_path / "edge.db") as bench:
        bench.pump.link_up(has_spool=True)
        for at in range(40):
            await bench.put(f"d{at}", "x" * 10_000)
        await bench.sent(40)
        for at in range(40):
            bench.answer(at, NoConsumer())
        assert bench.pump._in_memory <= 50_000
        await bench.sent(80)
        firsts, agains = bench.link.uploads[:40], bench.link.uploads[40:]
        assert {i.spool for i in firsts} == {i.spool for i in agains}


async def test_a_full_link_keeps_the_order_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spoolpump, "FULL_SECONDS", 0.001)
    async with a_bench(tmp_path / "edge.db") as bench:
        refusals = iter([True, True, False, True, False, False])
        send = bench.link.send

        def full_now_and_then(envelope: Envelope) -> None:
            if next(refusals, False):
                raise hub.LinkFull
            send(envelope)

        bench.link.send = full_now_and_then  # type: ignore[method-assign]
        for text in ("1", "2", "3"):
            await bench.put(text, text)
        bench.pump.link_up(has_spool=True)
        await until(lambda: bench.link.payloads == ["1", "2", "3"])


# --- an odd cloud ----------------------------------------------------------------------------------


async def test_a_message_that_fails_does_not_end_the_link(
    cloud: FakeCloud,
    data_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with a_node(data_dir) as node:
        await linked(node, cloud)
        with monkeypatch.context() as patch:
            patch.setattr(node.core.meta, "_store", None)
            document: Any = {"metadata": {"name": "c"}}
            at = Subject("default", "configmap", "c")
            await cloud.send(change_object(stamp(), at, Operation.INSERT, document, version="1"))
            await until(lambda: "a message from the cloud failed" in caplog.text)
        await with_device(cloud, temp="25")
        assert cloud.connections == 1


async def test_a_device_without_a_name_is_kept_aside_and_the_edge_starts_again(
    cloud: FakeCloud, data_dir: Path
) -> None:
    async with a_node(data_dir) as node:
        await linked(node, cloud)
        await cloud.push("device", "odd", {"metadata": {"name": ""}})
        await with_device(cloud, temp=None)
        assert [m.id for m in node.core.twin.members()] == ["default/d1"]
    async with a_node(data_dir) as node:
        assert await node.report("d1", temp="1") is None


async def test_a_late_delete_of_an_earlier_device_leaves_the_new_one_alone(
    cloud: FakeCloud, data_dir: Path
) -> None:
    async with a_node(data_dir) as node:
        await linked(node, cloud)
        await with_device(cloud, temp=None)
        await cloud.push("device", "d1", {"metadata": {"uid": "earlier"}}, Operation.DELETE)
        assert [m.id for m in node.core.twin.members()] == ["default/d1"]


async def test_a_question_whose_answer_the_link_lost_is_answered_from_disk(
    cloud: FakeCloud, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = Subject("default", "configmap", "c1")
    cloud.objects[str(subject)] = {"metadata": {"name": "c1"}, "data": {"a": "1"}}
    async with a_node(data_dir) as node:
        await linked(node, cloud)
        await node.core.api.query(subject)
        monkeypatch.setattr(cloud, "_answer_resource", lambda *_: None)
        asked = asyncio.create_task(node.core.api.query(subject))
        await until(lambda: len([e for e, _ in cloud.got if e.route.resource == str(subject)]) > 1)
        await cloud.cut()
        assert (await asked)["data"] == {"a": "1"}


async def test_a_link_that_is_taken_away_at_once_does_not_come_back_faster_and_faster(
    cloud: FakeCloud, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resets: list[Backoff] = []

    def reset(backoff: Backoff) -> None:
        if backoff._first == hub.FIRST_RETRY:  # the hub's, not another loop's
            resets.append(backoff)

    monkeypatch.setattr(Backoff, "reset", reset)
    async with a_node(data_dir) as node:
        for count in range(1, 4):
            await until(lambda count=count: cloud.connections == count and cloud.socket)  # type: ignore[misc]
            await cloud.cut()
        assert resets == []
        monkeypatch.setattr(hub, "STABLE_SECONDS", 0.0)
        await linked(node, cloud)
        await cloud.cut()
        await until(lambda: resets)


async def test_a_clock_that_is_set_back_changes_neither_order_nor_versions(
    cloud: FakeCloud, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(2_000_000_000_000, 0, -3_600_000))
    async with a_node(data_dir) as node:
        await linked(node, cloud)
        await with_device(cloud, temp=None)
        for module in (devicetwin, spoolpump, reports, eventbus):
            monkeypatch.setattr(module, "now_ms", lambda: next(clock))
        for value in range(5):
            assert await node.report("d1", temp=str(value)) is None
            assert await node.publish("e//default:d1", str(value).encode()) is None
        await until(lambda: len(cloud.reports) == 5 and len(cloud.uploads) == 5)
    assert cloud.reported("temp") == ["0", "1", "2", "3", "4"]
    assert [u.payload for u in cloud.uploads] == [b"0", b"1", b"2", b"3", b"4"]
    reported = [(r.update.twin or {})["temp"] for r in cloud.reports]
    assert [t.actual_version.edge for t in reported if t and t.actual_version] == [1, 2, 3, 4, 5]


# --- odd clients -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "topic",
    [
        "telemetry//d/?" + "&".join(f"k{at}=v" for at in range(60)),
        "telemetry//d/?content-type=" + "x" * 300,
        "event//d/?hono-ttl=nan",
        "event//d/?hono-ttl=1e999",
        "event//d/?hono-ttl=soon",
    ],
)
async def test_an_upload_that_no_cloud_would_read_is_refused_at_the_edge(
    cloud: FakeCloud, data_dir: Path, topic: str
) -> None:
    async with a_node(data_dir) as node:
        error = await node.publish(topic, b"x")
        assert error is not None
        assert error.status == 400


async def test_metadata_that_grows_without_end_is_refused(cloud: FakeCloud, data_dir: Path) -> None:
    async with a_node(data_dir) as node:
        await linked(node, cloud)
        await with_device(cloud, temp=None)
        topic = "$hw/events/device/default/d1/twin/update"
        for at in range(3):
            metadata = {f"k{at}-{number}": "v" for number in range(15)}
            twin = {"temp": {"actual": {"value": "1"}, "metadata": metadata}}
            await node.publish(topic, {"twin": twin})
        assert node.heard("/twin/update/result")[-1]["code"] == 400
