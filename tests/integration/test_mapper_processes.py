"""Mappers in processes of their own: real child processes, made-up hardware."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

import edge.mappers.process as process_module
import edge.mappers.spawn as spawn_module
from edge.mappers.child import OOM_SCORE, be_ended_first
from edge.mappers.driver import DeviceUnreachable, Driver, KeepsWrites, Quality, TakenLater
from edge.mappers.link import DriverFailed
from edge.mappers.process import MapperProcesses
from gateway.config.edge_mappers import Mappers
from gateway.config.observe import Logs
from gateway.errors import BadRequest, InvalidSetting, NotFound, Rejected
from gateway.model.json import JsonObject
from gateway.observe.metrics import Metrics
from gateway.wire.cloudedge.devices import DeviceView
from tests.hono_rig import until


class Rig:
    """The processes, and what their families saw."""

    def __init__(self, folder: Path, settings: Mappers) -> None:
        self.metrics = Metrics()
        self.seen: list[str] = []
        self.noticed = asyncio.Event()
        self.processes = MapperProcesses(settings, Logs(), folder, self.metrics.mappers, self._take)

    def _take(self, family: str, found: Any, _lost: Any) -> None:
        self.seen += [f"{family} {each.address}" for each in found]
        self.noticed.set()

    def driver(self, name: str = "pump", **config: str) -> Driver:
        document: JsonObject = {
            "metadata": {"namespace": "default", "name": name},
            "spec": {
                "protocol": {"protocolName": "modbus", "configData": {**config}},
                "properties": [{"name": "speed"}],
            },
        }
        return self.processes.drivers()["modbus"](DeviceView.read(document), None)

    def facts(self) -> Mapping[str, Any]:
        return self.processes.facts()[0]


def is_alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def read_environment(pid: int) -> bytes:
    return Path(f"/proc/{pid}/environ").read_bytes()


def oom_score(pid: int | str) -> int:
    return int(Path(f"/proc/{pid}/oom_score_adj").read_text())


def open_things(pid: int | str) -> set[str]:
    """What a process has open beside the standard streams."""
    found = set()
    for each in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            if int(each.name) > 2:
                found.add(os.readlink(each))
    return found


@pytest.fixture
def families(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    known = {"modbus": "tests.mapper_families:make_family"}
    monkeypatch.setattr(process_module, "FAMILIES", known)
    monkeypatch.setattr(process_module, "family_name", lambda _maker: "modbus")
    return known


@asynccontextmanager
async def running(folder: Path, **settings: Any) -> AsyncIterator[Rig]:
    rig = Rig(folder, Mappers(**settings))
    task = asyncio.create_task(rig.processes.run(lambda: None))
    try:
        yield rig
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def test_a_disabled_protocol_has_no_driver_here(tmp_path: Path) -> None:
    names = set(Rig(tmp_path, Mappers(disabled=("modbus",))).processes.drivers())
    assert "modbus" not in names
    assert {"ble", "zigbee", "opcua"} <= names


@pytest.mark.usefixtures("families")
async def test_a_process_starts_with_its_first_device_and_serves_it(tmp_path: Path) -> None:
    async with running(tmp_path) as rig:
        assert rig.processes.facts() == []
        driver = rig.driver()
        await driver.connect()
        changes: list[int] = []
        driver.subscribe(lambda: changes.append(1))
        await driver.write("speed", "42")
        readings = await driver.read(["speed"])
        assert (readings["speed"].text, readings["speed"].quality) == ("42", Quality.GOOD)
        assert getattr(driver, "faults")() == {"ghost": "this device has no ghost"}  # noqa: B009
        await asyncio.wait_for(rig.noticed.wait(), 10)
        assert rig.seen == ["modbus unit 7"]
        await driver.close()
        assert (tmp_path / "modbus" / "closed").exists()


@pytest.mark.usefixtures("families")
async def test_errors_of_a_driver_reach_its_caller_as_what_they_are(tmp_path: Path) -> None:
    async with running(tmp_path) as rig:
        away, wrong, refusing, buggy = (
            rig.driver(mode=mode) for mode in ("away", "wrong", "refuse", "bug")
        )
        with pytest.raises(DeviceUnreachable, match="no such device in the air"):
            await away.connect()
        with pytest.raises(BadRequest, match="expected another one"):
            await wrong.connect()
        await refusing.connect()
        with pytest.raises(BadRequest, match="speed cannot be 9"):
            await refusing.write("speed", "9")
        await buggy.connect()
        with pytest.raises(DriverFailed):
            await buggy.read(["speed"])
        assert (await refusing.read(["speed"]))["speed"].text == "1"


@pytest.mark.usefixtures("families")
async def test_a_value_that_is_kept_for_later_can_be_withdrawn(tmp_path: Path) -> None:
    async with running(tmp_path) as rig:
        driver = rig.driver(mode="sleep")
        assert isinstance(driver, KeepsWrites)
        await driver.connect()
        with pytest.raises(Rejected) as kept:
            await driver.write("speed", "9")
        assert kept.value.code == TakenLater.code
        await driver.withdraw("speed")
        assert (await driver.read(["speed"]))["speed"].text == "speed withdrawn"
        await driver.close()


@pytest.mark.usefixtures("families")
async def test_a_device_that_hangs_holds_up_no_neighbour(tmp_path: Path) -> None:
    async with running(tmp_path) as rig:
        hanging, well = rig.driver(mode="hang"), rig.driver("other")
        await hanging.connect()
        await well.connect()
        stuck = asyncio.create_task(hanging.read(["speed"]))
        assert (await well.read(["speed"]))["speed"].text == "1"
        stuck.cancel()
        with pytest.raises(asyncio.CancelledError):
            await stuck
        await hanging.close()


@pytest.mark.usefixtures("families")
async def test_a_process_that_crashes_is_started_again(tmp_path: Path) -> None:
    async with running(tmp_path) as rig:
        well, crashing = rig.driver(), rig.driver("bad", mode="crash")
        await well.connect()
        told = asyncio.Event()
        well.subscribe(told.set)
        await crashing.connect()
        first = rig.facts()["pid"]
        with pytest.raises(DeviceUnreachable):
            await crashing.read(["speed"])
        await crashing.close()
        await asyncio.wait_for(told.wait(), 5)
        with pytest.raises(DeviceUnreachable, match="has ended"):
            await well.read(["speed"])
        await well.close()
        await until(lambda: rig.facts()["running"] and rig.facts()["pid"] != first)
        again = rig.driver()
        await again.connect()
        assert (await again.read(["speed"]))["speed"].text == "1"
        assert (rig.facts()["starts"], rig.facts()["ended_lately"]) == (2, 1)
        assert not is_alive(first)


@pytest.mark.usefixtures("families")
async def test_a_process_that_answers_no_pings_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_module, "PING_SECONDS", 0.1)
    monkeypatch.setattr(process_module, "SILENT_PINGS", 5)
    monkeypatch.setattr(process_module, "START_SECONDS", 20.0)
    async with running(tmp_path) as rig:
        blocking = rig.driver(mode="block")
        await blocking.connect()
        await until(lambda: bool(rig.facts()["hardware"]))  # it has answered a ping
        first = rig.facts()["pid"]
        with pytest.raises(DeviceUnreachable):
            await blocking.read(["speed"])
        await until(lambda: not is_alive(first))


@pytest.mark.usefixtures("families")
async def test_a_process_ends_a_while_after_its_last_device(tmp_path: Path) -> None:
    async with running(tmp_path, linger=0.1) as rig:
        driver = rig.driver()
        await driver.connect()
        pid = rig.facts()["pid"]
        await driver.close()
        await until(lambda: not is_alive(pid))
        assert rig.facts()["starts"] == 1
        again = rig.driver()
        await again.connect()
        assert rig.facts()["starts"] == 2


async def test_a_family_that_cannot_work_says_why(tmp_path: Path, families: dict[str, str]) -> None:
    families["modbus"] = "tests.mapper_families:make_missing"
    async with running(tmp_path) as rig:
        driver = rig.driver()
        with pytest.raises(Rejected, match=r"modbus: .*pip install 'twinspan\[made-up\]'"):
            await driver.connect()
        await driver.close()
        assert "pip install" in rig.facts()["broken"]


@pytest.mark.usefixtures("families")
async def test_a_protocol_that_runs_always_needs_no_device(tmp_path: Path) -> None:
    async with running(tmp_path, always=("modbus",)) as rig:
        await until(lambda: bool(rig.seen))
        assert await rig.processes.order("modbus", "echo", {"a": "1"}) == {"a": "1"}
        with pytest.raises(NotFound, match="it knows: echo"):
            await rig.processes.order("modbus", "dance", {})
        with pytest.raises(BadRequest, match="expected a number"):
            await rig.processes.order("modbus", "echo", {"seconds": "x"})
        with pytest.raises(NotFound, match="no mapper fax"):
            await rig.processes.order("fax", "echo", {})


@pytest.mark.usefixtures("families")
def test_an_unknown_protocol_that_shall_run_always_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidSetting, match=r"edge\.mappers\.always: no protocol fax"):
        Rig(tmp_path, Mappers(always=("fax",)))


@pytest.mark.usefixtures("families")
async def test_a_flood_of_notifications_comes_as_few_frames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_module, "PING_SECONDS", 0.1)
    async with running(tmp_path) as rig:
        driver = rig.driver(mode="flood")
        await driver.connect()
        told: list[int] = []
        driver.subscribe(lambda: told.append(1))
        taken = rig.metrics.mappers.notifications.labels("modbus", "taken")
        await until(lambda: taken._value.get() >= 10_000)
        assert 1 < len(told) < taken._value.get() / 100
        await driver.close()
        assert (await rig.processes.order("modbus", "echo", {"still": "there"})) == {
            "still": "there"
        }


@pytest.mark.usefixtures("families")
async def test_a_process_goes_with_its_link(tmp_path: Path) -> None:
    async with running(tmp_path) as rig:
        driver = rig.driver()
        await driver.connect()
        pid = rig.facts()["pid"]
    assert not is_alive(pid)


@pytest.mark.usefixtures("families")
async def test_an_answer_that_is_too_long_may_be_asked_for_in_parts(tmp_path: Path) -> None:
    async with running(tmp_path) as rig:
        driver = rig.driver(mode="long")
        await driver.connect()
        with pytest.raises(BadRequest, match="at most 1048576") as told:
            await driver.read(["a", "b", "c", "d"])
        assert told.value.status == 413
        assert len((await driver.read(["a"]))["a"].text) == 300_000


@pytest.mark.usefixtures("families")
async def test_a_process_survives_that_edgecore_stood_still(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_module, "PING_SECONDS", 0.02)
    monkeypatch.setattr(process_module, "SILENT_PINGS", 20)
    async with running(tmp_path) as rig:
        driver = rig.driver()
        await driver.connect()
        time.sleep(0.6)  # noqa: ASYNC251  as a machine that slept
        for _ in range(20):
            assert (await driver.read(["speed"]))["speed"].text == "1"
        assert rig.facts()["starts"] == 1


@pytest.mark.usefixtures("families")
async def test_a_machine_without_room_for_a_process_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spawn, failed = spawn_module.spawn, asyncio.Event()

    async def full() -> Any:
        if not failed.is_set():
            failed.set()
            raise BlockingIOError(errno.EAGAIN, "no process can be made")
        return await spawn()

    monkeypatch.setattr(process_module, "spawn", full)
    async with running(tmp_path) as rig:
        driver = rig.driver()
        await driver.connect()
        assert failed.is_set()
        assert (await driver.read(["speed"]))["speed"].text == "1"


@pytest.mark.usefixtures("families")
async def test_a_process_gets_no_secrets_of_other_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("TWINSPAN__EDGE__TOKEN", "PASSWORD", "TOKEN"):
        monkeypatch.setenv(name, "s3cret")
    async with running(tmp_path) as rig:
        driver = rig.driver()
        await driver.connect()
        got = read_environment(rig.facts()["pid"])
        assert b"PATH=" in got
        assert b"s3cret" not in got
        shared = open_things("self") & open_things(rig.facts()["pid"])
        assert not [each for each in shared if each.startswith("socket:")]


async def test_whoever_is_cancelled_while_a_process_ends_stays_cancelled() -> None:
    process = await asyncio.create_subprocess_exec("sleep", "3600")
    ending = asyncio.create_task(spawn_module.end(process))
    await asyncio.sleep(0)
    ending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await ending
    assert process.returncode == -signal.SIGKILL


@pytest.mark.usefixtures("families")
async def test_a_mapper_is_ended_before_edgecore_when_memory_is_short(tmp_path: Path) -> None:
    async with running(tmp_path) as rig:
        driver = rig.driver()
        await driver.connect()
        ours, theirs = oom_score("self"), oom_score(rig.facts()["pid"])
        assert theirs == max(ours, OOM_SCORE)
        await driver.close()


@pytest.mark.parametrize(
    ("before", "after"),
    [("0\n", str(OOM_SCORE)), ("900\n", "900\n"), ("odd", "odd"), (None, None)],
    ids=["lower", "higher", "odd", "none"],
)
def test_a_score_is_only_ever_raised_and_one_that_is_not_there_is_nobodys_fault(
    tmp_path: Path, before: str | None, after: str | None
) -> None:
    path = tmp_path / "score"
    if before is not None:
        path.write_text(before)
    be_ended_first(path)
    assert (path.read_text() if path.exists() else None) == after
