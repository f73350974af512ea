"""The Zigbee mapper: real zigpy over a pty, devices that answer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from edge.mappers.driver import DeviceUnreachable, Quality, TakenLater
from gateway.errors import NotFound, Rejected
from tests.integration.zigbee_rig import Rig, until, until_value, value_of
from tests.zigbee import kinds
from tests.zigbee.device import COLOUR, LEVEL, ON_OFF, ZONE
from tests.zigbee.lab import IEEE, laboratory
from tests.zigbee.stick import Memory

TEMPERATURE = 0x0402


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    with laboratory(memory=Memory.formed(IEEE)) as lab:
        rig = Rig(lab, tmp_path / "zigbee")
        async with rig.running():
            await rig.up()
            yield rig


async def test_a_lamp_is_offered_with_what_it_can(rig: Rig) -> None:
    lamp = await rig.joined("lamp")
    address = kinds.ieee_text(lamp.ieee)
    await until(lambda: len(rig.found[address].properties) == 5)
    found = rig.found[address]
    assert (found.manufacturer, found.model) == ("Twinspan Lab", "twinspan-lab-lamprgbw")
    assert found.config == {"ieee": address}
    assert [each.name for each in found.properties] == [
        "on",
        "brightness",
        "colourTemperature",
        "colourXy",
        "colourHs",
    ]
    assert {each.access for each in found.properties} == {"ReadWrite"}
    assert found.facts["power"] == "mains"


async def test_a_lamp_is_switched_dimmed_and_coloured(rig: Rig) -> None:
    lamp = await rig.joined("lamp")
    names = ("on", "brightness", "colourTemperature", "colourXy", "colourHs")
    driver = await rig.connected(lamp, *names)
    await until_value(driver, "on", "false")
    await driver.write("on", "true")
    await driver.write("brightness", "40")
    await driver.write("colourTemperature", "250")
    assert (lamp.value(ON_OFF, 0), lamp.value(LEVEL, 0), lamp.value(COLOUR, 7)) == (1, 102, 250)
    await until_value(driver, "brightness", "40")
    await driver.write("colourXy", "0.5,0.25")
    assert (lamp.value(COLOUR, 3), lamp.value(COLOUR, 4)) == (0x8000, 0x4000)
    await until_value(driver, "colourXy", "0.5,0.25")  # as it was wished
    await driver.write("colourHs", "180,50")
    assert (lamp.value(COLOUR, 0), lamp.value(COLOUR, 1)) == (127, 127)
    await driver.close()


async def test_what_a_lamp_reports_itself_is_read(rig: Rig) -> None:
    lamp = await rig.joined("lamp")
    driver = await rig.connected(lamp, "on", "brightness")
    await until(lambda: lamp.clusters[LEVEL].reporting and lamp.clusters[ON_OFF].is_bound)
    await until_value(driver, "on", "false")
    lamp.set(ON_OFF, 0, 1)
    lamp.set(LEVEL, 0, 1)
    await until_value(driver, "on", "true")
    await until_value(driver, "brightness", "1")
    await driver.close()


async def test_a_refused_command_names_the_status(rig: Rig) -> None:
    lamp = await rig.joined("lamp")
    driver = await rig.connected(lamp, "on", "brightness")
    lamp.refuses[ON_OFF] = 0x87
    with pytest.raises(Rejected, match="INVALID_VALUE"):
        await driver.write("on", "true")
    with pytest.raises(Rejected, match="0 to 100"):
        await driver.write("brightness", "101")
    await driver.close()


async def test_a_lamp_out_of_reach_is_unreachable_and_told_so(rig: Rig) -> None:
    lamp = await rig.joined("lamp")
    driver = await rig.connected(lamp, "on")
    await until_value(driver, "on", "false")
    lamp.is_lost = True
    with pytest.raises(DeviceUnreachable, match="NO_ACK"):
        await driver.write("on", "true")
    await driver.close()


async def test_a_silent_lamp_is_asked_for_a_sign_of_life(rig: Rig) -> None:
    lamp = await rig.joined("lamp")
    driver = await rig.connected(lamp, "on")
    await until_value(driver, "on", "false")
    lamp.is_lost = True
    rig.skew = 700_000
    driver.woken.set()  # type: ignore[attr-defined]
    await until(lambda: driver._gone)  # type: ignore[attr-defined]
    with pytest.raises(DeviceUnreachable):
        await driver.read(["on"])
    await driver.close()


async def test_a_sensor_tells_temperature_humidity_and_battery(rig: Rig) -> None:
    sensor = await rig.joined("thermometer")
    driver = await rig.connected(sensor, "temperature", "humidity", "battery")
    await until_value(driver, "temperature", "21.5")
    await until_value(driver, "battery", "85")
    await until_value(driver, "humidity", "46.3")
    sensor.is_awake = False
    sensor.set(TEMPERATURE, 0, -512)
    await until_value(driver, "temperature", "-5.12")
    await driver.close()


async def test_a_sensor_without_a_value_is_bad_and_says_why(rig: Rig) -> None:
    sensor = await rig.joined("thermometer")
    driver = await rig.connected(sensor, "temperature")
    await until_value(driver, "temperature", "21.5")
    sensor.set(TEMPERATURE, 0, -0x8000)
    await until_value(driver, "temperature", "")
    reading = (await driver.read(["temperature"]))["temperature"]
    assert reading.quality is Quality.BAD
    assert "no value" in reading.why
    await driver.close()


async def test_a_value_waits_for_a_sleeper_and_the_latest_wins(rig: Rig) -> None:
    sensor = await rig.joined("thermometer")
    visitor = {"cluster": 0x0201, "attribute": "0x12", "scale": 0.01}
    driver = await rig.connected(sensor, "temperature", setpoint=visitor)
    await until_value(driver, "setpoint", "20")
    sensor.is_awake = False
    for text in ("22", "23.5"):
        with pytest.raises(TakenLater, match="sleeps"):
            await driver.write("setpoint", text)
    assert sensor.value(0x0201, 0x12) == 2_000
    rig.lab.wake("thermometer")
    await until_value(driver, "setpoint", "23.5")
    assert sensor.value(0x0201, 0x12) == 2_350
    await driver.write("setpoint", "23.5")  # asked again: it is there
    await driver.close()


async def test_a_sleeper_silent_for_long_is_uncertain_then_offline(rig: Rig) -> None:
    sensor = await rig.joined("thermometer")
    driver = await rig.connected(sensor, "temperature")
    await until_value(driver, "temperature", "21.5")
    await until(lambda: driver._is_prepared)  # type: ignore[attr-defined]
    rig.skew = 3 * 3_600_000
    reading = (await driver.read(["temperature"]))["temperature"]
    assert (reading.quality, reading.text) == (Quality.UNCERTAIN, "21.5")
    rig.skew = 26 * 3_600_000
    with pytest.raises(DeviceUnreachable, match="26 h"):
        await driver.read(["temperature"])
    before = rig.clock()
    sensor.set(TEMPERATURE, 0, 2_200)
    await until(lambda: driver._heard >= before)  # type: ignore[attr-defined]
    await until_value(driver, "temperature", "22")
    await driver.close()


async def test_a_plug_is_measured_with_its_own_multipliers(rig: Rig) -> None:
    plug = await rig.joined("plug")
    driver = await rig.connected(plug, "power", "voltage", "current", "energy", "demand")
    await until_value(driver, "power", "39.8")
    await until_value(driver, "voltage", "230.1")
    await until_value(driver, "current", "0.173")
    await until_value(driver, "energy", "12.345")
    await until_value(driver, "demand", "40")
    await driver.close()


async def test_a_door_contact_enrolls_and_notifies(rig: Rig) -> None:
    contact = await rig.joined("contact")
    driver = await rig.connected(contact, "contact", "tamper", "battery")
    await until(lambda: (ZONE, 0) in [each[:2] for each in contact.heard])
    assert contact.value(ZONE, 0x10) == IEEE
    contact.zone_status(0b101)
    await until_value(driver, "contact", "false")
    await until_value(driver, "tamper", "true")
    contact.zone_status(0)
    await until_value(driver, "contact", "true")
    found = rig.found[kinds.ieee_text(contact.ieee)]
    assert [each.name for each in found.properties] == ["battery", "contact", "tamper"]
    await driver.close()


async def test_light_motion_and_pressure_are_read(rig: Rig) -> None:
    motion = await rig.joined("motion")
    driver = await rig.connected(motion, "illuminance", "occupancy", "pressure")
    await until_value(driver, "illuminance", "100")
    await until_value(driver, "pressure", "1013")
    motion.set(0x0406, 0, 1)
    await until_value(driver, "occupancy", "true")
    await driver.close()


async def test_heating_a_blind_and_air_are_served(rig: Rig) -> None:
    room = await rig.joined("climate")
    offered = rig.found[kinds.ieee_text(room.ieee)].properties
    names = [each.name for each in offered]
    assert {each.name for each in offered if each.access == "ReadWrite"} == {
        "coverPosition",
        "heatingSetpoint",
        "systemMode",
    }
    driver = await rig.connected(room, *names)
    values = ("0", "20.5", "20", "4", "31.5", "612", "7.25")
    for name, text in zip(names, values, strict=True):
        await until_value(driver, name, text)
    await driver.write("coverPosition", "40")
    await driver.write("heatingSetpoint", "21.337")
    await driver.write("systemMode", "0")
    found = [room.value(*spot) for spot in ((0x0102, 8), (0x0201, 0x12), (0x0201, 0x1C))]
    assert found == [40, 2_134, 0]
    await until_value(driver, "heatingSetpoint", "21.337")
    with pytest.raises(Rejected, match="only be read"):
        await driver.write("co2", "400")
    await until(lambda: room.clusters[0x040D].reporting)
    room.set(0x040D, 0, 0.0008)
    await until_value(driver, "co2", "800")
    await driver.close()


async def test_what_a_device_has_not_is_a_fault_of_its_property(rig: Rig) -> None:
    plug = await rig.joined("plug")
    driver = await rig.connected(
        plug, "temperature", "power", odd={"cluster": "0x0b04", "attribute": "no_such"}
    )
    faults = driver.faults()  # type: ignore[attr-defined]
    assert set(faults) == {"temperature", "odd"}
    assert "0x0402" in faults["temperature"]
    await until_value(driver, "power", "39.8")
    await driver.close()


async def test_a_device_that_never_joined_is_unreachable(rig: Rig) -> None:
    with pytest.raises(DeviceUnreachable, match="permit joining"):
        await rig.opened({"ieee": "00:11:22:33:44:55:66:77"}, "on")


async def test_a_device_comes_back_at_another_short_address(rig: Rig) -> None:
    lamp = await rig.joined("lamp")
    driver = await rig.connected(lamp, "on")
    await until(lambda: lamp.clusters[ON_OFF].reporting)
    lamp.clusters[ON_OFF].reporting.clear()
    before = lamp.nwk
    rig.lab.join("lamp")
    assert lamp.nwk != before
    await until(lambda: lamp.clusters[ON_OFF].reporting)
    await driver.write("on", "true")
    assert lamp.value(ON_OFF, 0) == 1
    await driver.close()


async def test_joining_is_permitted_by_a_property_once_for_each_wish(rig: Rig) -> None:
    names = ("permitJoin", "state", "channel", "panId", "devices")
    driver = await rig.opened({"kind": "coordinator"}, *names)
    assert rig.lab.stick is not None
    await driver.write("permitJoin", "60")
    assert rig.lab.stick.permit == 60
    assert await value_of(driver, "permitJoin") == "60"
    rig.lab.stick.permit = 0
    await driver.write("permitJoin", "60")
    assert rig.lab.stick.permit == 0
    rig.skew = 61_000
    assert await value_of(driver, "permitJoin") == "0"
    assert await value_of(driver, "state") == "up"
    assert await value_of(driver, "channel") == "15"
    assert await value_of(driver, "panId") == "0x1a62"
    await driver.write("permitJoin", "0")
    with pytest.raises(Rejected, match="254"):
        await driver.write("permitJoin", "255")
    with pytest.raises(Rejected, match="read"):
        await driver.write("channel", "20")


async def test_orders_permit_joining_and_remove_devices(rig: Rig) -> None:
    family, lamp = rig.family, await rig.joined("lamp")
    assert family is not None
    assert rig.lab.stick is not None
    assert await family.order("permit-join", {"seconds": "30"}) == {"permitJoin": 30}
    assert rig.lab.stick.permit == 30
    address = kinds.ieee_text(lamp.ieee)
    await family.order("remove", {"ieee": address})
    await until(lambda: address in rig.lost and lamp.is_lost)
    with pytest.raises(NotFound):
        await family.order("sing", {})
    with pytest.raises(Rejected, match="254"):
        await family.order("permit-join", {"seconds": "300"})
