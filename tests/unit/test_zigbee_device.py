"""One Zigbee device's driver, before a radio that is played: what it sends, and when it reads it back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from edge.mappers.driver import DeviceUnreachable, Quality, TakenLater
from edge.mappers.zigbee.codecs import Raw
from edge.mappers.zigbee.device import ZigbeeDriver
from edge.mappers.zigbee.places import place_of
from edge.mappers.zigbee.plan import Plan
from edge.mappers.zigbee.reporting import Told
from edge.mappers.zigbee.seen import Seen
from edge.mappers.zigbee.waiting import Waiting
from gateway.errors import Rejected
from gateway.wire.cloudedge.devices import DeviceProperty
from gateway.wire.cloudedge.values import PropertyType, ValueRule

IEEE = "00:12:4b:00:00:00:00:01"
Answers = dict[tuple[int, int], Raw | str]
"""Cluster and attribute -> a value, or the name of the status that it fails with."""


class PlayedRadio:
    """Answers reads from a table, keeps what was sent."""

    def __init__(self, answers: Answers, *, is_sleepy: bool = False) -> None:
        self.answers = answers
        self.failures: dict[tuple[int, int], str] = {}
        self.kinds: dict[tuple[int, int], str] = {}
        self.reads: list[tuple[int, tuple[int, ...]]] = []
        self.sent: list[tuple[int, int, Any]] = []
        self.refusal: Exception | None = None
        self.obeys = 0
        """Commands that are obeyed before one is refused."""
        clusters = tuple({cluster for cluster, _attribute in answers})
        self.picture = Seen(
            IEEE, 1, is_ready=True, is_sleepy=is_sleepy, last_seen=1_000, endpoints={1: clusters}
        )

    def seen(self, _ieee: str) -> Seen:
        return self.picture

    def cached(self, *_spot: object) -> None:
        return None

    def attribute(self, cluster: int, name: int) -> tuple[int, str]:
        return name, self.kinds[cluster, name]

    async def ping(self, _ieee: str) -> None: ...

    async def configure(
        self, _ieee: str, _endpoint: int, _cluster: int, wanted: Mapping[int, Any]
    ) -> set[int]:
        return set(wanted)

    async def read(
        self, _ieee: str, _endpoint: int, cluster: int, attributes: Sequence[int]
    ) -> tuple[dict[int, Raw], dict[int, str]]:
        self.reads.append((cluster, tuple(attributes)))
        failed = {n: self.failures[cluster, n] for n in attributes if (cluster, n) in self.failures}
        found = {
            n: self.answers[cluster, n]
            for n in attributes
            if n not in failed and (cluster, n) in self.answers
        }
        return found, failed

    async def command(
        self, _ieee: str, _endpoint: int, cluster: int, number: int, arguments: Sequence[int]
    ) -> None:
        if self.refusal is not None and not self.obeys:
            raise self.refusal
        self.obeys = max(self.obeys - 1, 0)
        self.sent.append((cluster, number, tuple(arguments)))

    async def write(
        self, _ieee: str, _endpoint: int, cluster: int, attribute: int, value: Any
    ) -> None:
        self.sent.append((cluster, attribute, value))


class PlayedNetwork:
    def __init__(self, radio: PlayedRadio, folder: Path, **settings: Any) -> None:
        self.plan = Plan.read({"device": "/dev/x", **settings})
        self.told = Told(folder)
        self.now = 1_000
        self.clock: Callable[[], int] = lambda: self.now
        self._radio = radio
        self._waits: dict[tuple[str, str], Waiting] = {}

    def radio(self) -> Any:
        return self._radio

    def count(self, name: str, by: int) -> None: ...

    def waiting(self, ieee: str, owner: str) -> Waiting:
        return self._waits.setdefault((ieee, owner), Waiting())

    def attach(self, driver: ZigbeeDriver) -> None: ...

    def detach(self, driver: ZigbeeDriver) -> None: ...


def driver_of(
    net: PlayedNetwork, owner: str = "default/d", **properties: tuple[PropertyType, dict[str, Any]]
) -> ZigbeeDriver:
    places = {
        name: place_of(DeviceProperty(name, 0, visitor=visitor))
        for name, (_kind, visitor) in properties.items()
    }
    rules = {name: ValueRule(kind) for name, (kind, _visitor) in properties.items()}
    return ZigbeeDriver(IEEE, owner, places, {}, rules, net)


async def text_of(driver: ZigbeeDriver, name: str) -> str | None:
    found = (await driver.read([name])).get(name)
    return None if found is None else found.text


INT, DOUBLE, STRING = PropertyType.INT, PropertyType.DOUBLE, PropertyType.STRING


async def test_a_wish_that_the_wire_cannot_say_is_reached_all_the_same(tmp_path: Path) -> None:
    radio = PlayedRadio(
        {(0x300, 7): 250, (0x300, 3): 1, (0x300, 4): 1, (0x300, 0): 1, (0x300, 1): 1}
    )
    net = PlayedNetwork(radio, tmp_path)
    driver = driver_of(
        net,
        colourTemperatureKelvin=(INT, {}),
        colourXy=(STRING, {}),
        colourHs=(STRING, {}),
    )
    await driver.connect()
    await driver.attend()
    wishes = {"colourTemperatureKelvin": "2700", "colourXy": "0.3,0.31", "colourHs": "2,50"}
    for name, text in wishes.items():
        await driver.write(name, text)
    driver.take((1, 0x300, 7), 370, 2_000)
    driver.take((1, 0x300, 3), round(0.3 * 65_536) + 40, 2_000)  # as near as the lamp can show it
    driver.take((1, 0x300, 4), round(0.31 * 65_536) - 9, 2_000)
    driver.take((1, 0x300, 0), 1, 2_000)
    driver.take((1, 0x300, 1), 127, 2_000)
    assert {name: await text_of(driver, name) for name in wishes} == wishes
    driver.take((1, 0x300, 7), 250, 3_000)  # somebody else's wish
    assert await text_of(driver, "colourTemperatureKelvin") == "4000"


async def test_a_wish_that_is_refused_is_not_taken_for_the_value(tmp_path: Path) -> None:
    radio = PlayedRadio({(0x300, 7): 370})
    driver = driver_of(PlayedNetwork(radio, tmp_path), colourTemperatureKelvin=(INT, {}))
    await driver.connect()
    radio.refusal = Rejected("no")
    with pytest.raises(Rejected):
        await driver.write("colourTemperatureKelvin", "2700")
    driver.take((1, 0x300, 7), 370, 2_000)
    assert await text_of(driver, "colourTemperatureKelvin") == "2703"


async def test_a_lamp_is_read_when_it_has_come_to_its_brightness(tmp_path: Path) -> None:
    radio = PlayedRadio({(8, 0): 10})
    net = PlayedNetwork(radio, tmp_path, transition=5)
    driver = driver_of(net, brightness=(INT, {}))
    await driver.connect()
    await driver.attend()
    await driver.write("brightness", "100")
    assert radio.sent == [(8, 4, (254, 50))]
    radio.reads.clear()
    await driver.attend()  # it was woken
    assert radio.reads == []
    assert driver.wakes_in == 5.2
    net.now += 5_200
    await driver.attend()
    assert radio.reads == [(8, (0,))]
    assert driver.wakes_in == net.plan.poll


async def test_a_number_waits_for_its_divisor(tmp_path: Path) -> None:
    radio = PlayedRadio({(0x702, 0): 12_345})
    driver = driver_of(PlayedNetwork(radio, tmp_path), energy=(DOUBLE, {}))
    await driver.connect()
    driver.take((1, 0x702, 0), 12_345, 1_000)  # reported before it was asked for anything
    assert await text_of(driver, "energy") is None
    driver.take((1, 0x702, 0x302), 1_000, 1_000)
    assert await text_of(driver, "energy") is None
    driver.take((1, 0x702, 0x301), 1, 1_000)
    assert await text_of(driver, "energy") == "12.345"


@pytest.mark.parametrize("status", ["UNSUPPORTED_ATTRIBUTE", "NOT_FOUND", ""])
async def test_a_divisor_that_the_device_has_not_is_one(tmp_path: Path, status: str) -> None:
    radio = PlayedRadio({(0x702, 0): 12_345, (0x702, 0x301): 1})
    if status:
        radio.failures[0x702, 0x302] = status
    driver = driver_of(PlayedNetwork(radio, tmp_path), energy=(DOUBLE, {}))
    await driver.connect()
    await driver.attend()
    assert await text_of(driver, "energy") == "12345"


async def test_a_divisor_that_cannot_be_read_now_gives_no_number(tmp_path: Path) -> None:
    radio = PlayedRadio({(0x702, 0): 12_345, (0x702, 0x301): 1})
    radio.failures[0x702, 0x302] = "HARDWARE_FAILURE"
    driver = driver_of(PlayedNetwork(radio, tmp_path), energy=(DOUBLE, {}))
    await driver.connect()
    await driver.attend()
    found = (await driver.read(["energy"]))["energy"]
    assert (found.quality, found.why) == (Quality.BAD, "the device says HARDWARE_FAILURE")


async def test_an_attribute_of_real_numbers_takes_fractions(tmp_path: Path) -> None:
    radio = PlayedRadio({(0x0D, 0x55): 1.0, (0x0D, 0x56): 1.0, (0x0D, 0x57): 1})
    radio.kinds = {(0x0D, 0x55): "single", (0x0D, 0x56): "single", (0x0D, 0x57): "uint8"}
    driver = driver_of(
        PlayedNetwork(radio, tmp_path),
        plain=(DOUBLE, {"cluster": 0x0D, "attribute": 0x55}),
        scaled=(DOUBLE, {"cluster": 0x0D, "attribute": 0x56, "scale": 0.5}),
        whole=(DOUBLE, {"cluster": 0x0D, "attribute": 0x57}),
    )
    await driver.connect()
    await driver.write("plain", "21.7")
    await driver.write("scaled", "21.7")
    await driver.write("whole", "21")
    assert radio.sent == [(0x0D, 0x55, 21.7), (0x0D, 0x56, 43.4), (0x0D, 0x57, 21)]
    with pytest.raises(Rejected, match="whole number"):
        await driver.write("whole", "21.7")
    driver.take((1, 0x0D, 0x55), 1.2000000476837158, 2_000)  # as a single is on the wire
    assert await text_of(driver, "plain") == "1.2"


async def test_two_devices_of_one_sleeper_keep_their_wishes_apart(tmp_path: Path) -> None:
    radio = PlayedRadio({(6, 0): True, (8, 0): 1}, is_sleepy=True)
    net = PlayedNetwork(radio, tmp_path)
    first = driver_of(net, "default/first", it=(PropertyType.BOOLEAN, {"property": "on"}))
    second = driver_of(net, "default/second", it=(INT, {"property": "brightness"}))
    for driver in (first, second):
        await driver.connect()
    with pytest.raises(TakenLater):
        await second.write("it", "50")
    await first.attend()
    assert radio.sent == []
    await second.attend()
    assert radio.sent == [(8, 4, (127, 4))]


async def test_a_sleeper_that_falls_asleep_again_is_left_alone_until_it_is_heard(
    tmp_path: Path,
) -> None:
    """One of two values came through: that it is to be read back must not keep the radio busy."""
    radio = PlayedRadio({(6, 0): True, (8, 0): 1}, is_sleepy=True)
    boolean = PropertyType.BOOLEAN
    driver = driver_of(PlayedNetwork(radio, tmp_path), on=(boolean, {}), brightness=(INT, {}))
    await driver.connect()
    await driver.attend()
    for name, text in (("on", "false"), ("brightness", "50")):
        with pytest.raises(TakenLater):
            await driver.write(name, text)
    radio.refusal, radio.obeys = DeviceUnreachable("MAC_NO_ACK"), 1
    with pytest.raises(DeviceUnreachable):
        await driver.attend()
    driver.woken.clear()
    assert driver.wakes_in is None
    radio.refusal = None
    radio.reads.clear()
    driver.heard(2_000)
    assert driver.woken.is_set()
    await driver.attend()
    assert radio.sent == [(6, 0, ()), (8, 4, (127, 4))]
    assert {cluster for cluster, _attributes in radio.reads} == {6, 8}


async def test_what_another_device_had_configured_is_not_forgotten(tmp_path: Path) -> None:
    radio = PlayedRadio({(0x300, 7): 1, (0x300, 0): 1, (0x300, 1): 1})
    net = PlayedNetwork(radio, tmp_path)
    for owner, names in (("default/a", ["colourTemperature"]), ("default/b", ["colourHs"])):
        driver = driver_of(net, owner, **{name: (STRING, {}) for name in names})
        await driver.connect()
        await driver.attend()
    assert net.told.get(IEEE, "1/768") == {0, 1, 7}


async def test_a_wish_that_is_taken_back_is_not_sent(tmp_path: Path) -> None:
    radio = PlayedRadio({(6, 0): True}, is_sleepy=True)
    driver = driver_of(PlayedNetwork(radio, tmp_path), on=(PropertyType.BOOLEAN, {}))
    await driver.connect()
    with pytest.raises(TakenLater):
        await driver.write("on", "false")
    await driver.withdraw("on")
    await driver.attend()
    assert radio.sent == []


async def test_a_device_in_deep_sleep_is_not_there(tmp_path: Path) -> None:
    radio = PlayedRadio({(6, 0): True}, is_sleepy=True)
    net = PlayedNetwork(radio, tmp_path, battery_silence=10)
    net.now += 20_000
    with pytest.raises(DeviceUnreachable, match="20 s"):
        await driver_of(net, on=(PropertyType.BOOLEAN, {})).connect()
