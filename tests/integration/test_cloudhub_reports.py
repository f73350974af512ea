"""Reports that a thing cannot take: one of them holds up none of those behind it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from gateway.model.json import JsonObject
from gateway.wire.cloudedge.devices import mapping
from tests.cloud_rig import (
    CloudCore,
    a_cloud,
    an_edge,
    apply_device,
    apply_model,
    content_of,
    eventually,
    join,
)
from tests.cloud_samples import DEVICES, a_device
from tests.ditto_rig import a_ditto
from tests.remote_north import RemoteNorth, remote_settings

LAMP = "default:lamp"


@pytest.fixture(params=["here", "elsewhere"])
async def cloud(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[CloudCore]:
    async with AsyncExitStack() as up:
        if request.param == "here":
            running = await up.enter_async_context(a_cloud(tmp_path))
        else:
            ditto = await up.enter_async_context(a_ditto())
            settings, north = remote_settings(tmp_path, ditto.url), RemoteNorth(ditto.url)
            running = await up.enter_async_context(a_cloud(tmp_path, ditto=settings, north=north))
        await apply_model(running)
        yield running


async def entries(cloud: CloudCore) -> dict[str, JsonObject]:
    status = await cloud.object(DEVICES, "devicestatuses", "default", "lamp")
    twins = mapping(status.get("status"))["twins"]
    return {twin["propertyName"]: twin["reported"] for twin in twins}  # type: ignore[index, call-overload, misc, union-attr]


async def test_a_report_that_makes_the_thing_too_large_is_told_and_answered(
    cloud: CloudCore,
) -> None:
    await apply_device(cloud, a_device())

    async def has_thing() -> bool:
        return await cloud.thing(LAMP) is not None

    await eventually(has_thing)
    async with an_edge(cloud, "edge-1", await join(cloud, "edge-1")) as edge:
        await edge.object("default/device/lamp")
        for batch in range(3):
            many = {f"p{batch}x{number}": "x" * 500 for number in range(100)}
            assert content_of(await edge.report("lamp", 1, **many)) == "OK"
        assert content_of(await edge.report("lamp", 2, level="7")) == "OK"

    async def has_level() -> bool:
        return "level" in await entries(cloud)

    await eventually(has_level)
    assert len(await entries(cloud)) == 301
