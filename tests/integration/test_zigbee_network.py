"""The Zigbee coordinator through its troubles: empty, foreign, replaced, unplugged, mute, damaged."""

from __future__ import annotations

import builtins
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from zigpy_deconz.zigbee import application as deconz

from edge.mappers.driver import DeviceUnreachable
from edge.mappers.zigbee import database
from edge.mappers.zigbee.family import make_zigbee
from gateway.errors import InvalidSetting
from tests.integration.zigbee_rig import Rig, until, until_value, value_of
from tests.zigbee import kinds
from tests.zigbee.device import ON_OFF
from tests.zigbee.lab import IEEE, Lab, laboratory
from tests.zigbee.stick import CHANNEL, PAN, Memory

KEY = "000102030405060708090a0b0c0d0e0f"


@pytest.fixture
def lab(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(deconz, "CHANGE_NETWORK_STATE_DELAY", 0)
    monkeypatch.setattr(deconz, "CHANGE_NETWORK_POLL_TIME", 0.05)
    return laboratory


async def test_an_empty_stick_gets_a_network_as_settings_say(tmp_path: Path, lab: Any) -> None:
    (tmp_path / "key").write_text(KEY)
    with lab() as there:
        rig = Rig(there, tmp_path / "z")
        chosen = {"channel": 20, "pan_id": 0x2B01, "key_file": str(tmp_path / "key")}
        async with rig.running(**chosen) as family:
            await rig.up()
            assert (family.fact("channel"), family.fact("panId")) == (20, 0x2B01)
        assert there.memory.network_key == bytes.fromhex(KEY)
        assert ((tmp_path / "z" / database.BACKUP).stat().st_mode & 0o777) == 0o600


async def test_an_empty_stick_stays_empty_when_told_so(tmp_path: Path, lab: Any) -> None:
    with lab() as there:
        rig = Rig(there, tmp_path / "z")
        async with rig.running(form=False) as family:
            await until(lambda: family.fact("state") == "refused")
            assert "form" in str(family.fact("why"))
            coordinator = await rig.opened({"kind": "coordinator"}, "state", "channel")
            assert await value_of(coordinator, "state") == "refused"
            reading = (await coordinator.read(["channel"]))["channel"]
            assert "form" in reading.why
        assert there.memory.parameters[PAN] == b"\xff\xff"


async def test_a_stick_that_has_a_network_is_used_as_it_is(tmp_path: Path, lab: Any) -> None:
    memory = Memory.formed(IEEE, pan=0x1234, channel=25)
    before = dict(memory.parameters)
    with lab(memory=memory) as there:
        rig = Rig(there, tmp_path / "z")
        async with rig.running(channel=11, pan_id=0x5555) as family:
            await rig.up()
            assert (family.fact("channel"), family.fact("panId")) == (25, 0x1234)
        assert there.memory.parameters[PAN] == before[PAN]
        assert there.memory.parameters[CHANNEL] == before[CHANNEL]


async def _with_a_lamp(rig: Rig) -> None:
    async with rig.running():
        await rig.up()
        await rig.joined("lamp")


async def test_another_sticks_network_is_never_touched_unasked(tmp_path: Path, lab: Any) -> None:
    with lab(memory=Memory.formed(IEEE, pan=0x1111)) as there:
        rig = Rig(there, tmp_path / "z")
        await _with_a_lamp(rig)
        other = Memory.formed(IEEE + 1, pan=0x2222)
        key = other.network_key
        there.swap(other)
        async with rig.running() as family:
            await until(lambda: family.fact("state") == "refused")
            assert "0x2222" in str(family.fact("why"))
            assert "0x1111" in str(family.fact("why"))
            with pytest.raises(DeviceUnreachable, match="another network"):
                await rig.opened({"ieee": "00:12:4b:00:00:00:00:00"}, "on")
        assert (other.pan, other.network_key) == (0x2222, key)


async def test_another_sticks_network_is_adopted_or_replaced_on_request(
    tmp_path: Path, lab: Any
) -> None:
    with lab(memory=Memory.formed(IEEE, pan=0x1111)) as there:
        rig = Rig(there, tmp_path / "z")
        await _with_a_lamp(rig)
        key = there.memory.network_key
        there.swap(Memory.formed(IEEE + 1, pan=0x2222))
        async with rig.running(foreign="replace") as family:
            await rig.up()
            assert family.fact("panId") == 0x1111
        assert there.memory.network_key == key
        there.swap(Memory.formed(IEEE + 2, pan=0x3333))
        async with rig.running(foreign="adopt") as family:
            await rig.up()
            assert family.fact("panId") == 0x3333


async def test_a_new_empty_stick_gets_the_network_of_the_old_one(tmp_path: Path, lab: Any) -> None:
    with lab(memory=Memory.formed(IEEE, pan=0x1111)) as there:
        rig = Rig(there, tmp_path / "z")
        await _with_a_lamp(rig)
        key, lamp = there.memory.network_key, there.devices["lamp"]
        there.swap(Memory(IEEE + 1))
        async with rig.running():
            await rig.up()
            driver = await rig.connected(lamp, "on")
            await driver.write("on", "true")
            await driver.close()
        assert (there.memory.pan, there.memory.network_key) == (0x1111, key)
        assert lamp.value(ON_OFF, 0) == 1


async def test_a_damaged_database_is_set_aside_and_the_network_lives_on(
    tmp_path: Path, lab: Any
) -> None:
    with lab(memory=Memory.formed(IEEE, pan=0x1111)) as there:
        rig = Rig(there, tmp_path / "z")
        await _with_a_lamp(rig)
        key = there.memory.network_key
        path = tmp_path / "z" / database.NAME
        path.write_bytes(b"this is no database at all" * 200)
        there.swap(Memory(IEEE + 1))
        async with rig.running() as family:
            await rig.up()
            assert "damaged" in str(family.fact("why"))
            assert "damaged" in str(family.facts()["database"])
        aside = list((tmp_path / "z").glob("zigbee.db.corrupt-*"))
        assert [each.read_bytes()[:4] for each in aside] == [b"this"]
        assert (there.memory.pan, there.memory.network_key) == (0x1111, key)


async def test_a_stick_that_is_unplugged_comes_back_at_another_path(
    tmp_path: Path, lab: Any
) -> None:
    with lab(memory=Memory.formed(IEEE)) as there:
        rig = Rig(there, tmp_path / "z")
        async with rig.running() as family:
            await rig.up()
            lamp = await rig.joined("lamp")
            driver = await rig.connected(lamp, "on")
            await until_value(driver, "on", "false")
            before = there.path.readlink()
            there.unplug()
            await until(lambda: family.fact("state") == "away")
            assert family.facts()["is_up"] is False
            with pytest.raises(DeviceUnreachable):
                await driver.read(["on"])
            await driver.close()
            blocker = Lab(tmp_path)
            blocker.plug()
            there.plug()
            blocker.unplug()
            assert there.path.readlink() != before
            await rig.up()
            driver = await rig.connected(lamp, "on")
            await driver.write("on", "true")
            assert lamp.value(ON_OFF, 0) == 1
            await driver.close()


async def test_a_stick_that_is_not_there_yet_is_waited_for(tmp_path: Path, lab: Any) -> None:
    with lab(memory=Memory.formed(IEEE), plugged=False) as there:
        rig = Rig(there, tmp_path / "z")
        async with rig.running() as family:
            await until(lambda: family.fact("state") == "away")
            there.plug()
            await rig.up()


async def test_a_mute_stick_and_one_that_babbles_are_told_and_tried_again(
    tmp_path: Path, lab: Any
) -> None:
    with lab(memory=Memory.formed(IEEE)) as there:
        rig = Rig(there, tmp_path / "z")
        there.stick.is_mute = True
        async with rig.running() as family:
            there.say(bytes(range(256)) * 20 + b"\xc0\xc0\xc0\x07\x01\xc0")
            await until(lambda: family.fact("state") == "away")
            assert str(there.path) in str(family.fact("why"))
            there.stick.is_mute = False
            await rig.up()
            there.say(
                b"\xc0" + bytes(range(200)) + b"\xc0\x0e\x01\x00\xff\xff\xc0" + b"\xdb" * 3_000
            )
            lamp = await rig.joined("lamp")
            driver = await rig.connected(lamp, "on")
            await driver.write("on", "true")
            assert lamp.value(ON_OFF, 0) == 1
            await driver.close()


async def test_a_stick_that_falls_silent_is_noticed(
    tmp_path: Path, lab: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deconz.ControllerApplication, "_watchdog_period", 0.1)
    with lab(memory=Memory.formed(IEEE)) as there:
        rig = Rig(there, tmp_path / "z")
        async with rig.running() as family:
            await rig.up()
            there.stick.is_mute = True
            await until(lambda: family.fact("state") == "away")
            there.stick.is_mute = False
            await rig.up()


async def test_after_a_restart_devices_are_known_and_sleepers_keep_their_values(
    tmp_path: Path, lab: Any
) -> None:
    with lab(memory=Memory.formed(IEEE)) as there:
        rig = Rig(there, tmp_path / "z")
        async with rig.running():
            await rig.up()
            sensor = await rig.joined("thermometer")
            driver = await rig.connected(sensor, "temperature")
            await until_value(driver, "temperature", "21.5")
            await driver.close()
        rig.found.clear()
        sensor.is_awake = False
        sensor.clusters[0x0402].reporting.clear()
        async with rig.running():
            await rig.up()
            await until(lambda: kinds.ieee_text(sensor.ieee) in rig.found)
            driver = await rig.connected(sensor, "temperature")
            assert await value_of(driver, "temperature") == "21.5"
            await driver.close()
        assert not sensor.clusters[0x0402].reporting  # it was told once, and is not woken up again


async def test_a_wish_for_joining_is_not_obeyed_again_after_a_restart(
    tmp_path: Path, lab: Any
) -> None:
    with lab(memory=Memory.formed(IEEE)) as there:
        rig = Rig(there, tmp_path / "z")
        for expected in (60, 0):
            async with rig.running():
                await rig.up()
                driver = await rig.opened({"kind": "coordinator"}, "permitJoin")
                await driver.write("permitJoin", "60")
                assert there.stick.permit == expected
            there.stick.permit = 0


@pytest.mark.parametrize("radio", ["ezsp", "znp"])
async def test_other_kinds_of_sticks_fail_clearly_at_this_one(
    tmp_path: Path, lab: Any, radio: str
) -> None:
    with lab(memory=Memory.formed(IEEE)) as there:
        rig = Rig(there, tmp_path / "z")
        async with rig.running(radio=radio) as family:
            await until(lambda: family.fact("state") == "away", 40)
            assert str(there.path) in str(family.fact("why"))


def test_a_missing_library_names_the_extra(
    tmp_path: Path, lab: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name.startswith("bellows"):
            raise ModuleNotFoundError("no bellows", name="bellows")
        return real(name, *rest, **more)

    for name in [each for each in sys.modules if each.startswith("bellows")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "bellows", None)
    monkeypatch.setattr(builtins, "__import__", without)
    with lab(plugged=False) as there:
        rig = Rig(there, tmp_path / "z", {"radio": "ezsp"})
        with pytest.raises(InvalidSetting, match=r"twinspan\[zigbee-ezsp\]"):
            make_zigbee(rig.surroundings())


async def test_a_database_that_another_process_holds_is_waited_for_not_thrown_away(
    tmp_path: Path, lab: Any
) -> None:
    with lab(memory=Memory.formed(IEEE)) as there:
        rig = Rig(there, tmp_path / "z")
        await _with_a_lamp(rig)
        rig.found.clear()
        with closing(sqlite3.connect(tmp_path / "z" / database.NAME)) as holder:
            holder.execute("pragma locking_mode = exclusive")
            holder.execute("begin exclusive")
            async with rig.running() as family:
                await until(lambda: family.fact("state") == "away")
                assert "cannot be used" in str(family.fact("why"))
                holder.rollback()
                holder.close()
                await rig.up()
                await until(lambda: rig.found)
        assert not list((tmp_path / "z").glob("*corrupt*"))
