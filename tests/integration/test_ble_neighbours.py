"""Bluetooth devices that want to be paired, that two look at, that others could be taken for."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from edge.mappers.ble import adapter, connected, radio
from edge.mappers.ble.heard import Heard, kind_of
from edge.mappers.ble.uuids import sig
from edge.mappers.driver import DeviceUnreachable, Quality
from gateway.errors import Rejected
from gateway.runtime.backoff import Backoff
from tests.ble import peripherals as parts
from tests.ble.bus import DAEMON
from tests.ble.lab import Lab, running_lab
from tests.ble.objects import failed
from tests.ble.rig import Rig, read_until, running_family, until

pytestmark = pytest.mark.skipif(DAEMON is None, reason="dbus-daemon is not installed")

TEMPERATURE = {"characteristicUUID": "2A6E", "type": "DOUBLE"}
BATTERY = {"characteristicUUID": "2A19", "type": "INT"}
COUNT = {"advertisement": {"bthome": "count"}, "type": "INT"}


@pytest.fixture
async def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Lab]:
    async with running_lab(tmp_path, ("thermo", "lamp")) as lab:
        monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", lab.address)
        yield lab


async def test_what_needs_pairing_is_a_fault_of_its_property_alone(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    facade, read, notify = lab.facade, lab.facade.read, lab.facade.notify

    def is_closed(path: str) -> bool:
        return lab.facade.known[path[:37]].characteristics[path]._uuid == sig(0x2A19)

    async def refused(path: str, *more: Any) -> Any:
        if is_closed(path):
            raise failed("Not paired", "NotPermitted")
        return await (notify(path, *more) if more else read(path))

    monkeypatch.setattr(facade, "read", refused)
    monkeypatch.setattr(facade, "notify", refused)
    async with running_family(tmp_path) as rig:
        driver = rig.driver({"macAddress": parts.THERMO}, temperature=TEMPERATURE, battery=BATTERY)
        await driver.connect()
        found = await driver.read(["temperature", "battery"])
        assert found["temperature"].text == "21.37"
        assert found["battery"].quality is Quality.BAD
        assert "wants to be paired" in found["battery"].why
        await driver.close()


async def test_two_devices_of_one_address_are_both_served(lab: Lab, tmp_path: Path) -> None:
    async with running_family(tmp_path) as rig:
        first = rig.driver({"macAddress": parts.THERMO}, temperature=TEMPERATURE)
        second = rig.driver({"macAddress": parts.THERMO}, temperature=TEMPERATURE)
        await first.connect()
        await second.connect()
        for driver in (first, second):
            assert (await driver.read(["temperature"]))["temperature"].text == "21.37"
        await first.close()
        with pytest.raises(DeviceUnreachable):  # BlueZ has one connection for both
            await read_until(second, "temperature", lambda _each: False, 5)
        await second.close()
        again = rig.driver({"macAddress": parts.THERMO}, temperature=TEMPERATURE)
        await again.connect()
        assert (await again.read(["temperature"]))["temperature"].text == "21.37"
        await again.close()


async def test_a_look_into_a_device_leaves_its_connection_alone(lab: Lab, tmp_path: Path) -> None:
    async with running_family(tmp_path) as rig:
        driver = rig.driver({"macAddress": parts.THERMO}, temperature=TEMPERATURE)
        await driver.connect()
        answer = await rig.family.order("probe", {"address": parts.THERMO})
        assert "temperature" in answer["properties"]  # type: ignore[operator]
        assert lab.facade.connects == [parts.THERMO]
        assert (await driver.read(["temperature"]))["temperature"].text == "21.37"
        await driver.close()


async def test_an_idle_device_is_let_go_once_whatever_was_read_meanwhile(
    lab: Lab, tmp_path: Path
) -> None:
    """A timer that was forgotten would end the next connection in the middle of a read."""
    async with running_family(tmp_path) as rig:
        driver = rig.driver(
            {"macAddress": parts.THERMO, "idleDisconnect": 60},
            temperature=TEMPERATURE,
            rssi={"advertisement": {"rssi": True}, "type": "INT"},
        )
        assert isinstance(driver, connected.ConnectedDriver)
        await driver.connect()
        timers = [driver._idle]
        for _ in range(3):
            await driver.read(["rssi"])
            timers.append(driver._idle)
        running = [each for each in timers if each is not None and not each.cancelled()]
        assert running == [driver._idle]
        await driver.close()


async def test_a_device_without_an_address_is_not_mixed_up_with_its_neighbour(
    lab: Lab, tmp_path: Path
) -> None:
    """A static address does not change: who is silent for a moment is not the other one that fits."""
    async with running_family(tmp_path) as rig:
        await until(lambda: rig.family._rooms["hci0"].is_up)
        first, second = "C0:00:00:00:00:01", "C0:00:00:00:00:02"
        _say(rig, first, 1)
        driver = rig.driver({"name": "ATC*", "kind": "passive"}, count=COUNT)
        await driver.connect()
        await read_until(driver, "count", lambda each: each.text == "1")
        rig.ahead_ms = 15_000
        _say(rig, second, 2)
        assert (await driver.read(["count"]))["count"].text == "1"
        rig.ahead_ms = 400_000
        _say(rig, second, 2)  # the first one has gone for good: somebody has changed it
        assert (await driver.read(["count"]))["count"].text == "2"
        await driver.close()


async def test_a_private_address_that_changes_is_followed(lab: Lab, tmp_path: Path) -> None:
    async with running_family(tmp_path) as rig:
        await until(lambda: rig.family._rooms["hci0"].is_up)
        _say(rig, "4F:00:00:00:00:01", 1)
        driver = rig.driver({"name": "ATC*", "kind": "passive"}, count=COUNT)
        await driver.connect()
        rig.ahead_ms = 15_000
        _say(rig, "4F:00:00:00:00:02", 2)
        assert (await driver.read(["count"]))["count"].text == "2"
        await driver.close()


def _say(rig: Rig, address: str, count: int) -> None:
    """Let a device advertise a count."""
    data = b"\x40\x09" + struct.pack("<B", count)
    room = rig.family._rooms["hci0"]
    room._heard(
        Heard(address, kind_of(address, "random"), None, "ATC_1", service_data={sig(0xFCD2): data})
    )


async def test_scanning_that_the_settings_switch_off_cannot_be_wished(
    lab: Lab, tmp_path: Path
) -> None:
    async with running_family(tmp_path, {"scan": "off"}) as rig:
        driver = rig.driver({"kind": "adapter"}, scanning={"type": "BOOLEAN"})
        await driver.connect()
        with pytest.raises(Rejected, match=r"edge\.mappers\.ble\.scan"):
            await driver.write("scanning", "true")
        await driver.write("scanning", "false")
        await driver.close()


async def test_a_connection_that_is_broken_off_leaves_its_place(lab: Lab, tmp_path: Path) -> None:
    """A session gives up in the middle of a call: the next one finds room."""
    async with running_family(tmp_path, {"max_connections": 1}) as rig:
        await until(lambda: len(rig.family._rooms["hci0"].air) == 2)
        for seconds in (0.0, 0.005, 0.02):
            hasty = rig.driver({"macAddress": parts.THERMO}, temperature=TEMPERATURE)
            with pytest.raises((TimeoutError, DeviceUnreachable)) as gave_up:
                async with asyncio.timeout(seconds):
                    await hasty.connect()
            assert "in use" not in str(gave_up.value)
            await hasty.close()
        room = rig.family._rooms["hci0"]
        assert (room._places.locked(), room._one_at_a_time.locked(), room.connected) == (
            False,
            False,
            0,
        )


async def test_a_scan_that_hears_nobody_is_begun_anew(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_family(tmp_path) as rig:
        await until(lambda: len(rig.family._rooms["hci0"].air) == 2)
        monkeypatch.setattr(adapter, "DEAF_SECONDS", 0.3)
        await until(lambda: lab.facade.discoveries == 1)  # as long as somebody is heard
        rig.family._rooms["hci0"]._say_turn()
        for device in lab.devices.values():
            await device.vanish()
        await until(lambda: lab.facade.discoveries > 2)


async def test_a_device_that_ends_idle_connections_itself_is_not_lost(
    lab: Lab, tmp_path: Path
) -> None:
    async with running_family(tmp_path) as rig:
        config = {"macAddress": parts.THERMO, "idleDisconnect": 60}
        driver = rig.driver(config, temperature=TEMPERATURE)
        news: list[int] = []
        driver.subscribe(lambda: news.append(1))
        await driver.connect()
        await driver.read(["temperature"])
        news.clear()
        await lab.devices["thermo"].drop()
        await until(lambda: not rig.family._rooms["hci0"].connected)
        assert news == []
        assert (await driver.read(["temperature"]))["temperature"].text == "21.37"
        await lab.facade.unplug()
        await until(lambda: not rig.family._rooms["hci0"].is_up)
        with pytest.raises(DeviceUnreachable, match="no Bluetooth adapter"):
            await driver.read(["temperature"])
        await driver.close()


async def test_a_scan_that_fails_again_and_again_is_logged_once(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tries: list[int] = []

    def failing(*_call: object) -> None:
        tries.append(1)
        raise DeviceUnreachable("scanning: no passive scanning here")

    monkeypatch.setattr(radio, "scanning", failing)
    monkeypatch.setattr(adapter, "Backoff", lambda *_bounds: Backoff(0.01, 0.02))
    async with running_family(tmp_path) as rig:
        await until(lambda: len(tries) > 3)
        assert "no passive scanning" in rig.family._rooms["hci0"].trouble
    assert caplog.text.count("Bluetooth scanning fails") == 1
