"""Zigbee against the odds: counters after a restore, a full disk, devices that answer what nobody expects."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest
from zigpy import types
from zigpy_deconz.zigbee import application as deconz

from edge.mappers.zigbee import database, network
from edge.mappers.zigbee.radio import COUNTER_LEAP, Radio
from edge.mappers.zigbee.zigpyviews import plain
from tests.integration.zigbee_rig import Rig, until, until_value, value_of
from tests.zigbee import kinds
from tests.zigbee.lab import IEEE, laboratory
from tests.zigbee.stick import Memory

FRAME_COUNTER = 0x27
SENT = 5_000


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deconz, "CHANGE_NETWORK_STATE_DELAY", 0)
    monkeypatch.setattr(deconz, "CHANGE_NETWORK_POLL_TIME", 0.05)


def _formed() -> Memory:
    memory = Memory.formed(IEEE, pan=0x1111)
    memory.parameters[FRAME_COUNTER] = SENT.to_bytes(4, "little")
    return memory


async def test_a_restored_network_counts_on_far_beyond_what_was_sent(tmp_path: Path) -> None:
    """Frames with a number that was used already are dropped by every device: the network would be deaf."""
    with laboratory(memory=_formed()) as lab:
        rig = Rig(lab, tmp_path / "z")
        async with rig.running():
            await rig.up()
            await until((tmp_path / "z" / database.BACKUP).exists)
        lab.swap(Memory(IEEE + 1))
        async with rig.running():
            await rig.up()
        counter = int.from_bytes(lab.memory.parameters[FRAME_COUNTER], "little")
        assert counter >= SENT + COUNTER_LEAP
        kept = json.loads((tmp_path / "z" / database.BACKUP).read_text())
        assert kept["network_info"]["network_key"]["tx_counter"] >= SENT + COUNTER_LEAP


async def test_a_backup_that_cannot_be_written_does_not_stop_the_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = os.open

    def full(path: Any, *more: Any, **named: Any) -> int:
        if str(path).endswith(".part"):
            raise OSError(28, "No space left on device")
        return real(path, *more, **named)

    with laboratory(memory=_formed()) as lab:
        rig = Rig(lab, tmp_path / "z")
        monkeypatch.setattr(os, "open", full)
        async with rig.running():
            await rig.up()
            lamp = await rig.joined("lamp")
            driver = await rig.connected(lamp, "on")
            await until_value(driver, "on", "false")
            await driver.close()
    assert "the Zigbee network's settings are not kept" in caplog.text


async def test_what_one_device_answers_to_a_look_ends_nobody_elses_service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def odd(self: Radio, *_call: object) -> None:
        raise ValueError("no number at all")

    with laboratory(memory=_formed()) as lab:
        rig = Rig(lab, tmp_path / "z")
        async with rig.running():
            await rig.up()
            with monkeypatch.context() as patched:
                patched.setattr(Radio, "read", odd)
                await rig.joined("lamp")
                await until(lambda: "could not be looked at" in caplog.text)
            plug = await rig.joined("plug")
            driver = await rig.connected(plug, "power")
            await until_value(driver, "power", "39.8")
            await driver.close()


async def test_a_device_without_the_basic_cluster_gives_a_sign_of_life(tmp_path: Path) -> None:
    with laboratory(memory=_formed()) as lab:
        rig = Rig(lab, tmp_path / "z")
        async with rig.running():
            await rig.up()
            number = kinds.FIRST_IEEE + (list(kinds.KINDS).index("motion") << 16)
            bare = kinds.motion(number)
            del bare.clusters[0x0000]
            lab.devices["motion"] = bare
            device = await rig.joined("motion")
            assert 0x0000 not in device.clusters
            rig.skew = 120_000
            driver = await rig.connected(device, "illuminance")
            await until_value(driver, "illuminance", "100")
            await driver.close()


async def test_a_device_that_is_removed_leaves_nothing_behind(tmp_path: Path) -> None:
    with laboratory(memory=_formed()) as lab:
        rig = Rig(lab, tmp_path / "z")
        async with rig.running() as family:
            await rig.up()
            lamp = await rig.joined("lamp")
            address = kinds.ieee_text(lamp.ieee)
            driver = await rig.connected(lamp, "on")
            await until(lambda: family.told.get(address, "11/6") is not None)
            await driver.close()
            await family.order("remove", {"ieee": address})
            await until(lambda: address in rig.lost)
            assert family.told.get(address, "11/6") is None


async def test_a_stick_that_starts_again_lets_nobody_join(tmp_path: Path) -> None:
    with laboratory(memory=_formed()) as lab:
        rig = Rig(lab, tmp_path / "z")
        async with rig.running() as family:
            await rig.up()
            coordinator = await rig.opened({"kind": "coordinator"}, "permitJoin")
            await coordinator.write("permitJoin", "200")
            lab.unplug()
            await until(lambda: family.fact("state") == "away")
            lab.plug()
            await rig.up()
            assert await value_of(coordinator, "permitJoin") == "0"
            await coordinator.close()


def test_a_switch_that_says_neither_has_no_value() -> None:
    made = [types.Bool(number) for number in (0, 1, 0xFF)]  # type: ignore[no-untyped-call]
    assert [plain(each) for each in made] == [False, True, 0xFF]


async def test_devices_that_are_still_there_are_offered_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network, "OFFER_SECONDS", 0.05)
    with laboratory(memory=_formed()) as lab:
        rig = Rig(lab, tmp_path / "z")
        async with rig.running():
            await rig.up()
            lamp = await rig.joined("lamp")
            rig.found.clear()
            await until(lambda: kinds.ieee_text(lamp.ieee) in rig.found)
            rig.skew = 26 * 3_600_000
            await asyncio.sleep(0.1)
            rig.found.clear()  # silent for longer than a sleeper may be
            await asyncio.sleep(0.15)
            assert rig.found == {}


async def test_a_path_without_a_stick_is_told_before_the_database_is_read(tmp_path: Path) -> None:
    with laboratory(memory=_formed()) as lab:
        lab.unplug()
        rig = Rig(lab, tmp_path / "z")
        async with rig.running() as family:
            await until(lambda: "there is no such device" in str(family.fact("why")))
            assert not (tmp_path / "z" / database.NAME).exists()
            lab.plug()
            await rig.up()
