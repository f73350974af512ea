"""Bluetooth with little room, and devices that lie: slots, idle devices, floods, tables without end."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from edge.mappers.ble.family import make_ble
from edge.mappers.driver import DeviceUnreachable, Driver, Quality
from edge.mappers.family import Surroundings
from gateway.errors import InvalidSetting, NotFound, Rejected
from tests.ble import peripherals as parts
from tests.ble.bus import DAEMON
from tests.ble.lab import Lab, running_lab
from tests.ble.peripherals import NOTIFY, READ
from tests.ble.rig import read_until, running_family, until

pytestmark = pytest.mark.skipif(DAEMON is None, reason="dbus-daemon is not installed")

TEMPERATURE = {"characteristicUUID": "2A6E", "type": "DOUBLE"}


@pytest.fixture
async def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Lab]:
    async with running_lab(tmp_path, ("thermo", "heart", "lamp", "bthome")) as lab:
        monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", lab.address)
        yield lab


async def test_an_idle_device_is_let_go_and_connected_again_to_be_read(
    lab: Lab, tmp_path: Path
) -> None:
    async with running_family(tmp_path) as rig:
        config = {"macAddress": parts.THERMO, "idleDisconnect": 0.05}
        driver = rig.driver(config, temperature=TEMPERATURE)
        await driver.connect()
        thermo = lab.devices["thermo"].device
        await until(lambda: not thermo.connections)
        lab.devices["thermo"].values["2A6E"] = struct.pack("<h", 1900)
        assert (await driver.read(["temperature"]))["temperature"].text == "19"
        await until(lambda: not thermo.connections)
        assert lab.facade.connects == [parts.THERMO] * 2
        await driver.close()


async def connect_at_last(driver: Driver) -> None:
    """Try as a session does: what a killed process left may be in the way of the first attempts."""
    for _ in range(15):
        with contextlib.suppress(DeviceUnreachable):
            return await driver.connect()
        await asyncio.sleep(0.1)
    pytest.fail("the device is not reached")


async def test_a_connection_that_a_killed_process_left_over_is_ended_and_made_anew(
    lab: Lab, tmp_path: Path
) -> None:
    path = f"/org/bluez/hci0/dev_{parts.THERMO.replace(':', '_')}"
    heart = f"/org/bluez/hci0/dev_{parts.HEART.replace(':', '_')}"
    async with running_family(tmp_path):
        await until(lambda: {path, heart} <= lab.facade.known.keys())
    for one in (path, heart):
        await lab.facade.connect_device(one)  # who asked for it is not there any more
    async with running_family(tmp_path) as rig:
        driver = rig.driver({"macAddress": parts.THERMO}, temperature=TEMPERATURE)
        await connect_at_last(driver)
        assert (await driver.read(["temperature"]))["temperature"].text == "21.37"
        assert lab.devices["heart"].device.connections  # a stranger's is left alone
        await driver.close()
    await lab.facade.disconnect_device(heart)


async def test_connections_are_bounded_and_a_device_that_goes_makes_room(
    lab: Lab, tmp_path: Path
) -> None:
    async with running_family(tmp_path, {"max_connections": 1}) as rig:
        first = rig.driver({"macAddress": parts.THERMO}, temperature=TEMPERATURE)
        await first.connect()
        hasty = rig.driver(
            {"macAddress": parts.LAMP, "connectTimeout": 0.2},
            on={"characteristicUUID": parts.LAMP_ON},
        )
        with pytest.raises(DeviceUnreachable, match="all 1 connections of hci0 are in use"):
            await hasty.connect()
        waiting = rig.driver({"name": "Lam*"}, on={"characteristicUUID": parts.LAMP_ON})
        async with asyncio.TaskGroup() as group:
            task = group.create_task(waiting.connect())
            await asyncio.sleep(0.05)
            assert not task.done()
            await first.close()
        assert (await waiting.read(["on"]))["on"].text == "00"
        await waiting.close()


async def test_devices_that_connect_at_once_do_it_one_after_another(
    lab: Lab, tmp_path: Path
) -> None:
    """The facade refuses a second attempt, as BlueZ does."""
    async with running_family(tmp_path, {"pause_scan_to_connect": True}) as rig:
        drivers = [
            rig.driver({"macAddress": parts.THERMO}, temperature=TEMPERATURE),
            rig.driver({"macAddress": parts.HEART}, place={"characteristicUUID": "2A38"}),
            rig.driver({"macAddress": parts.LAMP}, on={"characteristicUUID": parts.LAMP_ON}),
        ]
        await asyncio.gather(*(each.connect() for each in drivers))
        assert sorted(lab.facade.connects) == [parts.THERMO, parts.HEART, parts.LAMP]
        await until(lambda: rig.family._rooms["hci0"].is_scanning)
        assert lab.facade.discoveries > 1  # it paused for them
        for each in drivers:
            await each.close()


async def test_a_characteristic_that_floods_is_read_instead_of_listened_to(
    lab: Lab, tmp_path: Path
) -> None:
    async with running_family(tmp_path, {"max_notifications": 50}) as rig:
        driver = rig.driver({"macAddress": parts.THERMO}, temperature=TEMPERATURE)
        await driver.connect()
        driver.subscribe(lambda: None)
        thermo = lab.devices["thermo"]
        for number in range(400):
            await thermo.notify("2A6E", struct.pack("<h", number))
        await read_until(driver, "temperature", lambda each: each.text == "3.99")
        before = rig.counts["taken"] + rig.counts["coalesced"]
        assert rig.counts["coalesced"] > rig.counts["taken"]
        for _ in range(100):
            await thermo.notify("2A6E", struct.pack("<h", 500))
        assert (await driver.read(["temperature"]))["temperature"].text == "5"  # asked for
        assert rig.counts["taken"] + rig.counts["coalesced"] <= before + 2
        rig.ahead_ms = 31_000
        await driver.read(["temperature"])
        quiet = rig.counts.total()
        await thermo.notify("2A6E", struct.pack("<h", 600))
        await until(lambda: rig.counts.total() > quiet)
        await driver.close()


async def test_a_device_that_lies_gives_bad_readings_and_stays_connected(
    lab: Lab, tmp_path: Path
) -> None:
    thermo = lab.devices["thermo"]
    thermo.values.update({"2A6E": b"\x01", "2A6F": b"\xff\xff", "2A29": b"\xff" * 400})
    async with running_family(tmp_path) as rig:
        driver = rig.driver(
            {"macAddress": parts.THERMO},
            temperature=TEMPERATURE,
            humidity={"characteristicUUID": "2A6F", "type": "DOUBLE"},
            maker={"characteristicUUID": "2A29"},
            battery={"characteristicUUID": "2A19", "type": "INT"},
            missing={"characteristicUUID": "2A77", "type": "DOUBLE"},
            wrong={"characteristicUUID": "nonsense"},
        )
        await driver.connect()
        found = await driver.read(
            ["temperature", "humidity", "maker", "battery", "missing", "wrong"]
        )
        whys = {name: each.why for name, each in found.items() if each.quality is Quality.BAD}
        assert set(whys) == {"temperature", "humidity", "maker", "missing", "wrong"}
        assert "expected 2 bytes, got 1" in whys["temperature"]
        assert "no characteristic" in whys["missing"]
        assert found["battery"].text == "95"
        assert set(driver.faults()) == {"missing", "wrong"}  # type: ignore[attr-defined]
        await driver.close()


async def test_a_table_without_end_is_looked_at_up_to_a_limit(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.mappers.ble.radio.MAX_CHARACTERISTICS", 30)
    huge = parts.Peripheral(
        parts.new_device(lab.link, "C0:DE:00:00:00:0A", "Huge"), parts.named("Huge")
    )
    for service in range(10):
        table = [(f"{0x7000 + service * 20 + at:04X}", READ, b"\x01") for at in range(20)]
        huge.add_service(f"{0x6000 + service:04X}", table)
    await lab.add("huge", huge)
    async with running_family(tmp_path) as rig:
        driver = rig.driver(
            {"macAddress": "C0:DE:00:00:00:0A"},
            near={"characteristicUUID": "7000"},
            far={"characteristicUUID": "70C7"},
        )
        await driver.connect()
        found = await driver.read(["near", "far"])
        assert found["near"].text == "01"
        assert "too many" in found["far"].why
        await driver.close()


async def test_characteristics_of_one_uuid_are_told_apart(lab: Lab, tmp_path: Path) -> None:
    twice = parts.Peripheral(
        parts.new_device(lab.link, "C0:DE:00:00:00:0B", "Two"), parts.named("Two")
    )
    twice.add_service("181A", [("2A6E", READ, struct.pack("<h", 100))])
    twice.add_service("1809", [("2A6E", READ | NOTIFY, struct.pack("<h", 200))])
    await lab.add("two", twice)
    async with running_family(tmp_path) as rig:
        driver = rig.driver(
            {"macAddress": "C0:DE:00:00:00:0B"},
            second=TEMPERATURE | {"instance": 1},
            health=TEMPERATURE | {"serviceUUID": "1809"},
            third=TEMPERATURE | {"instance": 2},
        )
        await driver.connect()
        assert set(driver.faults()) == {"third"}  # type: ignore[attr-defined]
        assert "2 times" in driver.faults()["third"]  # type: ignore[attr-defined]
        await driver.close()


async def test_a_filter_that_fits_two_devices_says_so(lab: Lab, tmp_path: Path) -> None:
    async with running_family(tmp_path) as rig:
        await until(lambda: len(rig.family._rooms["hci0"].air) == 4)
        driver = rig.driver({"name": "*"}, temperature=TEMPERATURE)
        with pytest.raises(DeviceUnreachable, match="say which by macAddress"):
            await driver.connect()
        await driver.close()


async def test_a_device_that_falls_silent_is_uncertain_then_gone(lab: Lab, tmp_path: Path) -> None:
    async with running_family(tmp_path, {"stale_after": 10, "lost_after": 100}) as rig:
        driver = rig.driver(
            {"macAddress": parts.BTHOME, "kind": "passive"},
            temperature={"advertisement": {"bthome": "temperature"}, "type": "DOUBLE"},
        )
        await driver.connect()
        await lab.devices["bthome"].vanish()
        rig.ahead_ms = 20_000
        found = await read_until(
            driver, "temperature", lambda each: each.quality is Quality.UNCERTAIN
        )
        assert "not heard for" in found.why
        rig.ahead_ms = 200_000
        with pytest.raises(DeviceUnreachable, match="was not heard for"):
            await driver.read(["temperature"])
        await driver.close()
        await until(lambda: parts.BTHOME in rig.gone, 5)


async def test_what_is_heard_is_offered_and_a_probe_looks_inside(lab: Lab, tmp_path: Path) -> None:
    async with running_family(tmp_path) as rig:
        await until(lambda: len(rig.found) == 4)
        found = rig.found[parts.BTHOME]
        assert (found.protocol, found.config["kind"], found.signal) == ("bluetooth", "passive", -50)
        answer = await rig.family.order("probe", {"address": parts.LAMP.lower()})
        lamp = rig.found[parts.LAMP]
        assert answer["address"] == lamp.address
        accesses = {each.access for each in lamp.properties[:-1]}
        assert accesses == {"ReadWrite"}
        assert len(lamp.properties) == 4
        await until(lambda: not lab.devices["lamp"].device.connections)
        with pytest.raises(NotFound):
            await rig.family.order("dance", {})
        with pytest.raises(Rejected):
            await rig.family.order("probe", {"address": "lamp"})


async def test_the_adapter_is_a_device_whose_scanning_can_be_set(lab: Lab, tmp_path: Path) -> None:
    async with running_family(tmp_path) as rig:
        driver = rig.driver(
            {"kind": "adapter"},
            state={},
            scanning={"type": "BOOLEAN"},
            seen={"type": "INT"},
            address={},
            colour={},
        )
        await driver.connect()
        await read_until(driver, "scanning", lambda each: each.text == "true")
        await read_until(driver, "seen", lambda each: each.text == "4")
        assert (await driver.read(["address"]))["address"].text == "00:11:22:33:44:55"
        await driver.write("scanning", "false")
        await read_until(driver, "scanning", lambda each: each.text == "false")
        told = asyncio.Event()
        driver.subscribe(told.set)
        await lab.facade.unplug()
        await asyncio.wait_for(told.wait(), 5)
        await read_until(driver, "state", lambda each: each.text == "absent")
        assert set(driver.faults()) == {"colour"}  # type: ignore[attr-defined]
        with pytest.raises(Rejected):
            await driver.write("state", "up")
        await driver.close()


@pytest.mark.parametrize(
    ("settings", "seen"),
    [
        ({"scan": "passive"}, 4),
        ({"services": ["181A"]}, 1),
        ({"min_rssi": -60}, 3),
    ],
    ids=["passive", "service", "strength"],
)
async def test_scanning_hears_what_the_settings_let_it(
    lab: Lab, tmp_path: Path, settings: dict[str, object], seen: int
) -> None:
    lab.facade.rssi[parts.LAMP] = -80
    async with running_family(tmp_path, settings) as rig:
        air = rig.family._rooms["hci0"].air
        await until(lambda: len(air) == seen)
        await asyncio.sleep(0.15)  # two more rounds of advertisements
        assert len(air) == seen


async def test_without_a_bus_the_fault_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", f"unix:path={tmp_path}/none")
    async with running_family(tmp_path) as rig:
        driver = rig.driver({"macAddress": parts.THERMO}, temperature=TEMPERATURE)
        with pytest.raises(DeviceUnreachable, match="no system D-Bus"):
            await driver.connect()
        await driver.close()
        facts = rig.family.facts()
        assert facts["is_up"] is False


@pytest.mark.parametrize(
    "settings",
    [{"scan": "loud"}, {"services": ["x"]}, {"max_connections": 0}, {"stale_after": "soon"}],
    ids=["scan", "services", "bound", "type"],
)
def test_a_setting_that_cannot_be_is_refused_by_its_path(
    tmp_path: Path, settings: dict[str, object]
) -> None:
    around = Surroundings(settings, tmp_path, lambda: 0, lambda _found: None, lambda _gone: None)  # type: ignore[arg-type]
    with pytest.raises(InvalidSetting, match=r"edge\.mappers\.ble"):
        make_ble(around)


async def test_a_flood_from_one_device_does_not_hold_up_another(lab: Lab, tmp_path: Path) -> None:
    async with running_family(tmp_path) as rig:
        loud = rig.driver({"macAddress": parts.THERMO}, temperature=TEMPERATURE)
        calm = rig.driver({"macAddress": parts.LAMP}, on={"characteristicUUID": parts.LAMP_ON})
        await loud.connect()
        await calm.connect()
        told = asyncio.Event()
        loud.subscribe(told.set)
        known = lab.facade.known[f"{lab.facade.path}/dev_{parts.THERMO.replace(':', '_')}"]
        flooding = next(
            each for path, each in known.characteristics.items() if each.UUID.startswith("00002a6e")
        )

        async def flood() -> None:
            for number in range(5_000):
                flooding.emit_properties_changed({"Value": struct.pack("<h", number)})
                if number % 100 == 0:
                    await lab.facade.settle()

        async with asyncio.TaskGroup() as group:
            task = group.create_task(flood())
            await asyncio.wait_for(told.wait(), 10)
            reads = 0
            while not task.done() or reads < 3:
                await loud.read(["temperature"])
                found = await asyncio.wait_for(calm.read(["on"]), 5)
                assert found["on"].text == "00"
                reads += 1
        heard = rig.counts["taken"] + rig.counts["coalesced"]
        assert heard < 5_000  # it is not listened to any more
        await loud.close()
        await calm.close()


async def test_hundreds_of_made_up_devices_are_bounded_and_the_real_ones_stay(
    lab: Lab, tmp_path: Path
) -> None:
    async with running_family(tmp_path, {"max_seen": 50, "max_offered": 20}) as rig:
        driver = rig.driver({"macAddress": parts.THERMO}, temperature=TEMPERATURE)
        await driver.connect()
        air = rig.family._rooms["hci0"].air
        name = "\x1b[2J" + "A" * 10_000
        for number in range(400):
            address = f"4F:00:00:00:{number >> 8:02X}:{number & 255:02X}"
            lab.facade.seen(address, [(9, name.encode()), (0xFF, b"\x01\x00" + bytes(250))], -60)
            if number % 5 == 0:
                await lab.facade.settle()
        await until(lambda: air.dropped >= 350, 20)
        assert len(air) == 50
        assert max(len(each.heard.name) for each in air.all()) <= 64
        assert (await driver.read(["temperature"]))["temperature"].text == "21.37"
        assert len(rig.found) <= 20
        await driver.close()
