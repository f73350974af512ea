"""Bluetooth Devices over real bleak and a real D-Bus, before Bumble's software controllers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from edge.mappers.driver import DeviceUnreachable, Quality
from gateway.errors import Rejected
from tests.ble import peripherals as parts
from tests.ble.bus import DAEMON
from tests.ble.lab import Lab, running_lab
from tests.ble.rig import Rig, read_until, running_family, until

pytestmark = pytest.mark.skipif(DAEMON is None, reason="dbus-daemon is not installed")

TEMPERATURE = {"characteristicUUID": "2A6E", "type": "DOUBLE"}


@pytest.fixture
async def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Lab]:
    async with running_lab(tmp_path) as lab:
        monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", lab.address)
        yield lab


@pytest.fixture
async def rig(lab: Lab, tmp_path: Path) -> AsyncIterator[Rig]:
    async with running_family(tmp_path) as rig:
        yield rig


async def test_standard_characteristics_are_read_by_their_uuid_alone(rig: Rig) -> None:
    driver = rig.driver(
        {"macAddress": parts.THERMO},
        temperature=TEMPERATURE,
        humidity={"characteristicUUID": "2a6f", "type": "FLOAT"},
        pressure={"characteristicUUID": "0x2A6D", "serviceUUID": "181A", "type": "DOUBLE"},
        battery={"characteristicUUID": "2A19", "type": "INT"},
        maker={"characteristicUUID": "2A29"},
        rssi={"advertisement": {"rssi": True}, "type": "INT"},
    )
    await driver.connect()
    found = await driver.read(["temperature", "humidity", "pressure", "battery", "maker", "rssi"])
    await driver.close()
    assert {name: each.text for name, each in found.items()} == {
        "temperature": "21.37",
        "humidity": "45.5",
        "pressure": "101325",
        "battery": "95",
        "maker": "Acme",
        "rssi": "-50",
    }
    assert {each.quality for each in found.values()} == {Quality.GOOD}


async def test_notifications_are_pushed_and_the_latest_counts(rig: Rig, lab: Lab) -> None:
    driver = rig.driver(
        {"macAddress": parts.HEART},
        rate={"characteristicUUID": "2A37", "type": "INT"},
        contact={"characteristicUUID": "2A37", "field": "contact", "type": "BOOLEAN"},
    )
    await driver.connect()
    told = asyncio.Event()
    driver.subscribe(told.set)
    assert await driver.read(["rate"]) == {}  # nothing said yet, and it cannot be asked
    await lab.devices["heart"].notify("2A37", b"\x06\x50")
    await lab.devices["heart"].notify("2A37", b"\x04\x51")
    await asyncio.wait_for(told.wait(), 5)
    found = await read_until(driver, "rate", lambda each: each.text == "81")
    assert found.quality is Quality.GOOD
    assert (await driver.read(["contact"]))["contact"].text == "false"
    await driver.close()


async def test_a_lamp_is_written_as_its_type_says(rig: Rig, lab: Lab) -> None:
    driver = rig.driver(
        {"macAddress": parts.LAMP},
        on={"characteristicUUID": parts.LAMP_ON, "decoder": "bool", "type": "BOOLEAN"},
        level={"characteristicUUID": parts.LAMP_LEVEL, "decoder": "uint8", "type": "INT"},
        scene={
            "characteristicUUID": parts.LAMP_SCENE,
            "dataWrite": {"party": [7, 1], "calm": "BQA="},
        },
    )
    await driver.connect()
    await driver.write("on", "true")
    await driver.write("level", "40")
    await driver.write("scene", "party")
    await driver.write("scene", "calm")
    lamp = lab.devices["lamp"]
    await until(lambda: len(lamp.written) == 4)
    assert lamp.written == [
        (parts.LAMP_ON, b"\x01"),
        (parts.LAMP_LEVEL, b"\x28"),
        (parts.LAMP_SCENE, b"\x07\x01"),
        (parts.LAMP_SCENE, b"\x05\x00"),
    ]
    found = await driver.read(["on", "level"])
    assert (found["on"].text, found["level"].text) == ("true", "40")
    with pytest.raises(Rejected, match="fit"):
        await driver.write("level", "300")
    with pytest.raises(Rejected, match="party, calm"):
        await driver.write("scene", "loud")
    await driver.close()


async def test_advertisements_are_decoded_without_a_connection(rig: Rig, lab: Lab) -> None:
    bthome = rig.driver(
        {"macAddress": parts.BTHOME, "kind": "passive"},
        temperature={"advertisement": {"bthome": "temperature"}, "type": "DOUBLE"},
        motion={"advertisement": {"bthome": "motion"}, "type": "BOOLEAN"},
    )
    secret = rig.driver(
        {"macAddress": parts.SECRET, "kind": "passive", "bindKey": parts.SECRET_KEY},
        temperature={"advertisement": {"bthome": "temperature"}, "type": "DOUBLE"},
        humidity={"advertisement": {"bthome": "humidity"}, "type": "DOUBLE"},
    )
    ibeacon = rig.driver(
        {"macAddress": parts.IBEACON, "kind": "passive"},
        uuid={"advertisement": {"ibeacon": "uuid"}},
        minor={"advertisement": {"ibeacon": "minor"}, "type": "INT"},
    )
    maker = rig.driver(
        {"manufacturerId": 0x0A5C, "kind": "passive"},
        temperature={
            "advertisement": {
                "manufacturerData": 0x0A5C, "length": 2, "decoder": "sint16le", "scale": 0.1,
            },
            "type": "DOUBLE",
        },
        load={
            "advertisement": {"manufacturerData": 0x0A5C, "start": 3, "decoder": "float32"},
            "type": "FLOAT",
        },
    )  # fmt: skip
    found = []
    for driver in (bthome, secret, ibeacon, maker):
        await driver.connect()
        names = ["temperature", "motion", "humidity", "uuid", "minor", "load"]
        found.append({name: r.text for name, r in (await driver.read(names)).items()})
        await driver.close()
    assert found == [
        {"temperature": "25.06", "motion": "true"},
        {"temperature": "25.06", "humidity": "50.55"},
        {"uuid": "f7826da6-4fa2-4e98-8024-bc5b71e0893e", "minor": "772"},
        {"temperature": "-12.5", "load": "1.5"},
    ]
    assert lab.facade.connects == []


async def test_a_beacon_that_sends_frames_by_turns_keeps_what_each_said(rig: Rig, lab: Lab) -> None:
    driver = rig.driver(
        {"macAddress": parts.EDDYSTONE, "kind": "passive"},
        namespace={"advertisement": {"eddystone": "namespace"}},
        url={"advertisement": {"eddystone": "url"}},
        voltage={"advertisement": {"eddystone": "voltage"}, "type": "DOUBLE"},
    )
    await driver.connect()
    await read_until(driver, "namespace", lambda each: each.text == "00112233445566778899")
    beacon = lab.devices["eddystone"]
    await beacon.advertise([parts.service_data(0xFEAA, parts.EDDYSTONE_URL)])
    await read_until(driver, "url", lambda each: each.text == "http://example.com/iot")
    await beacon.advertise([parts.service_data(0xFEAA, parts.EDDYSTONE_TLM)])
    await read_until(driver, "voltage", lambda each: each.text == "3")
    assert (await driver.read(["namespace"]))["namespace"].quality is Quality.GOOD
    await driver.close()


async def test_a_lost_link_is_told_and_the_device_comes_back(rig: Rig, lab: Lab) -> None:
    driver = rig.driver({"macAddress": parts.THERMO}, temperature=TEMPERATURE)
    await driver.connect()
    told = asyncio.Event()
    driver.subscribe(told.set)
    await lab.devices["thermo"].drop()
    await asyncio.wait_for(told.wait(), 5)
    with pytest.raises(DeviceUnreachable, match="link was lost"):
        await driver.read(["temperature"])
    await driver.close()
    again = rig.driver({"macAddress": parts.THERMO}, temperature=TEMPERATURE)
    await again.connect()
    assert (await again.read(["temperature"]))["temperature"].text == "21.37"
    await again.close()


@pytest.mark.parametrize("how", ["unplugged", "bluetoothd killed", "switched off"])
async def test_an_adapter_that_goes_and_comes_back_is_used_again(
    rig: Rig, lab: Lab, how: str
) -> None:
    facade = lab.facade
    driver = rig.driver({"macAddress": parts.THERMO}, temperature=TEMPERATURE)
    await driver.connect()
    told = asyncio.Event()
    driver.subscribe(told.set)
    room = rig.family._rooms["hci0"]
    if how == "unplugged":
        await facade.unplug()
    elif how == "switched off":
        await facade.power(False)
    else:
        await facade.kill()
    await asyncio.wait_for(told.wait(), 5)
    await until(lambda: not room.is_up)
    with pytest.raises(DeviceUnreachable):
        await driver.read(["temperature"])
    await driver.close()
    fresh = rig.driver({"macAddress": parts.THERMO}, temperature=TEMPERATURE)
    with pytest.raises(DeviceUnreachable, match=r"adapter hci0|bluetoothd does not run"):
        await fresh.connect()
    await fresh.close()
    if how == "unplugged":
        facade.plug()
    elif how == "switched off":
        await facade.power(True)
    else:
        await facade.start()
    await until(lambda: room.is_up and room.is_scanning)
    again = rig.driver({"macAddress": parts.THERMO}, temperature=TEMPERATURE)
    await again.connect()
    assert (await again.read(["temperature"]))["temperature"].text == "21.37"
    await again.close()


async def test_an_adapter_that_was_off_for_a_moment_scans_again(rig: Rig, lab: Lab) -> None:
    """BlueZ ends discovery with the power; both changes may be heard of at once."""
    room = rig.family._rooms["hci0"]
    await until(lambda: room.is_scanning)
    before = lab.facade.discoveries
    await lab.facade.power(False)
    await lab.facade.power(True)
    await until(lambda: lab.facade.discoveries > before)
