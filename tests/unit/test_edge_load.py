"""The virtual device for load tests, on a hand-moved clock."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from edge.mappers.load import value_at
from edge.mappers.virtual import make_virtual
from gateway.errors import BadRequest, NotFound
from gateway.model.json import Json
from gateway.wire.cloudedge.devices import DeviceView
from gateway.wire.cloudedge.models import ModelView
from gateway.wire.cloudedge.values import (
    PropertyType,
    ValueRule,
    canonical,
    check_typed,
    parse_text,
)

TYPES = ("INT", "FLOAT", "DOUBLE", "BOOLEAN", "STRING", "BYTES", "STREAM")
MODEL = ModelView.read({"spec": {"properties": [{"name": t.lower(), "type": t} for t in TYPES]}})


def a_driver(now: list[int], **config: Json) -> Any:
    properties: list[Json] = [{"name": t.lower()} for t in TYPES]
    document = {
        "metadata": {"name": "d1", "namespace": "default"},
        "spec": {
            "properties": properties,
            "protocol": {"protocolName": "virtual", "configData": {"kind": "load", **config}},
        },
    }
    return make_virtual(lambda: now[0])(DeviceView.read(document), MODEL)  # type: ignore[arg-type]


async def texts(driver: Any) -> dict[str, str]:
    return {name: r.text for name, r in (await driver.read([t.lower() for t in TYPES])).items()}


async def test_every_property_changes_at_the_rate_and_not_in_between() -> None:
    now = [1_795_377_600_000]
    driver = a_driver(now, rate=10, spread="")
    first = await texts(driver)
    assert sorted(first) == ["boolean", "bytes", "double", "float", "int", "string"]
    now[0] += 50
    assert await texts(driver) == first
    now[0] += 50
    second = await texts(driver)
    assert all(second[name] != first[name] for name in first)
    assert int(second["int"]) == int(first["int"]) + 1


async def test_a_listener_is_told_of_each_change_until_the_end() -> None:
    time = asyncio.get_running_loop().time
    began = time()
    told: list[float] = []
    driver = a_driver([0], rate=1_000, spread="")
    driver._clock = lambda: int((time() - began) * 1_000)
    enough = asyncio.Event()

    def changed() -> None:
        told.append(time())
        if len(told) == 5:
            enough.set()

    driver.subscribe(changed)
    async with asyncio.timeout(20):
        await enough.wait()
    await driver.close()
    before = len(told)
    await asyncio.sleep(0.01)
    assert len(told) == before


async def test_what_was_written_stays() -> None:
    now = [1_795_377_600_000]
    driver = a_driver(now, rate=10)
    await driver.write("int", "7")
    now[0] += 1_000
    assert (await texts(driver))["int"] == "7"
    with pytest.raises(NotFound):
        await driver.write("other", "7")


@pytest.mark.parametrize("config", [{"rate": 0}, {"rate": 1e9}, {"rate": "x"}, {"spread": 1}])
def test_a_load_that_cannot_be_is_refused(config: dict[str, Json]) -> None:
    with pytest.raises(BadRequest):
        a_driver([0], **config)


@given(
    st.sampled_from([t for t in PropertyType if t is not PropertyType.STREAM]),
    st.integers(0, 2**50),
    st.integers(-1_000, 1_000),
    st.integers(0, 1_000),
)
@example(PropertyType.BYTES, 10**12, 0, 0)
@example(PropertyType.INT, 2**50, -1, 0)
@example(PropertyType.BYTES, 2**50, 1_000, 0)
def test_every_value_is_one_that_the_model_allows(
    kind: PropertyType, count: int, low: int, width: int
) -> None:
    rule = ValueRule(kind, minimum=float(low), maximum=float(low + width))
    value = value_at(rule, count)
    assert check_typed(rule, value) == value
    assert parse_text(kind, canonical(kind, value)) == value
