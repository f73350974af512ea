"""Virtual devices on a hand-moved clock."""

from __future__ import annotations

import pytest

from edge.mappers.driver import Quality
from edge.mappers.virtual import make_virtual
from gateway.errors import BadRequest, NotFound
from gateway.model.json import Json
from gateway.wire.cloudedge.devices import DeviceView
from gateway.wire.cloudedge.models import ModelView

THERMOSTAT = ModelView.read(
    {
        "metadata": {"name": "thermostat", "namespace": "default"},
        "spec": {
            "properties": [
                {"name": "temperature", "type": "DOUBLE", "accessMode": "ReadOnly"},
                {"name": "target", "type": "DOUBLE", "accessMode": "ReadWrite"},
            ]
        },
    }
)


class Clock:
    """Milliseconds that a test moves."""

    def __init__(self) -> None:
        self.now = 1_000_000

    def __call__(self) -> int:
        return self.now


def a_device(config: dict[str, Json], *names: str) -> DeviceView:
    properties: list[Json] = [{"name": name} for name in names]
    return DeviceView.read(
        {
            "metadata": {"name": "d1", "namespace": "default"},
            "spec": {
                "protocol": {"protocolName": "virtual", "configData": config},
                "properties": properties,
            },
        }
    )


async def temperatures(seed: int) -> list[str]:
    clock = Clock()
    driver = make_virtual(clock)(a_device({"kind": "thermostat", "seed": seed}), THERMOSTAT)
    await driver.write("target", "25")
    out = []
    for _ in range(20):
        clock.now += 10_000
        out.append((await driver.read(["temperature"]))["temperature"].text)
    return out


async def test_a_thermostat_drifts_towards_its_target() -> None:
    readings = [float(text) for text in await temperatures(seed=7)]
    assert 19.0 < readings[0] < 24.0
    assert all(abs(value - 25.0) < 0.5 for value in readings[-5:])


async def test_the_same_seed_and_clock_give_the_same_readings() -> None:
    assert await temperatures(seed=7) == await temperatures(seed=7)
    assert await temperatures(seed=7) != await temperatures(seed=8)


async def test_a_reading_has_the_sources_time_and_canonical_text() -> None:
    clock = Clock()
    driver = make_virtual(clock)(a_device({"kind": "thermostat"}), THERMOSTAT)
    reading = (await driver.read(["target"]))["target"]
    assert (reading.text, reading.quality, reading.at) == ("19", Quality.GOOD, clock.now)


async def test_a_measured_temperature_cannot_be_set() -> None:
    driver = make_virtual(Clock())(a_device({"kind": "thermostat"}), THERMOSTAT)
    with pytest.raises(BadRequest, match="temperature cannot be set"):
        await driver.write("temperature", "30")


async def test_a_lamp_is_switched_and_dimmed_and_tells_that_it_changed() -> None:
    driver = make_virtual(Clock())(a_device({"kind": "lamp"}), None)
    told: list[bool] = []
    driver.subscribe(lambda: told.append(True))
    await driver.write("on", "true")
    await driver.write("brightness", "40")
    readings = await driver.read(["on", "brightness", "colour"])
    assert {name: reading.text for name, reading in readings.items()} == {
        "on": "true",
        "brightness": "40",
    }
    assert told == [True, True]


@pytest.mark.parametrize(("name", "text"), [("on", "maybe"), ("brightness", "101")])
async def test_a_lamp_refuses_what_it_cannot_do(name: str, text: str) -> None:
    driver = make_virtual(Clock())(a_device({"kind": "lamp"}), None)
    with pytest.raises(BadRequest):
        await driver.write(name, text)


async def test_a_property_that_the_device_has_not_is_not_found() -> None:
    driver = make_virtual(Clock())(a_device({"kind": "lamp"}), None)
    with pytest.raises(NotFound, match="colour"):
        await driver.write("colour", "red")


async def test_a_holder_gives_back_what_was_set_for_any_property() -> None:
    driver = make_virtual(Clock())(a_device({}, "a", "b", "target"), THERMOSTAT)
    await driver.write("target", "3.5")
    await driver.write("a", "x")
    readings = await driver.read(["a", "b", "target"])
    assert {name: reading.text for name, reading in readings.items()} == {"a": "x", "target": "3.5"}


def test_an_unknown_kind_is_refused_by_name() -> None:
    with pytest.raises(BadRequest, match="toaster"):
        make_virtual(Clock())(a_device({"kind": "toaster"}), None)
