"""Reports that a thing cannot take: one of them holds up none of those behind it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from cloud.statusbook import KnownStatus, StatusBook, Work
from gateway.model.json import JsonObject
from gateway.wire.cloudedge.devices import DeviceView, mapping
from gateway.wire.cloudedge.envelope import Envelope
from gateway.wire.cloudedge.subjects import DeviceKey
from gateway.wire.cloudedge.to_cloud import report_twin
from gateway.wire.cloudedge.twins import (
    Twin,
    TwinUpdate,
    TwinValue,
    TwinVersion,
    ValueMetadata,
)
from tests.cloud_pair import another_cloud
from tests.cloud_rig import (
    CloudCore,
    a_cloud,
    a_stamp,
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


async def test_quality_and_source_time_stand_beside_the_value(cloud: CloudCore) -> None:
    await apply_device(cloud, a_device())
    said: list[object] = []

    async def is_said() -> bool:
        thing = await cloud.thing(LAMP) or {}
        properties = mapping(mapping(thing.get("_metadata")).get("features"))
        said[:] = [mapping(mapping(properties.get("temp")).get("properties")).get("value")]
        return said != [None]

    def a_temp(version: int, quality: str) -> Envelope:
        metadata = ValueMetadata(1_795_377_600_000 + version, quality)
        twin = Twin(actual=TwinValue("21.5", metadata), actual_version=TwinVersion(0, version))
        update = TwinUpdate("e", version, {"temp": twin})
        return report_twin(a_stamp(), DeviceKey("default", "lamp"), update)

    async with an_edge(cloud, "edge-1", await join(cloud, "edge-1")) as edge:
        await edge.object("default/device/lamp")
        await edge.ask(a_temp(1, "uncertain"))
        await eventually(is_said)
        assert said == [{"quality": "uncertain", "sourceTime": "2026-11-22T20:00:00.001Z"}]
        assert (await entries(cloud))["temp"]["metadata"] == {
            "timestamp": "1795377600001",
            "type": "float",
            "quality": "uncertain",
        }
        await edge.ask(a_temp(2, ""))

        async def is_good() -> bool:
            return await is_said() and mapping(said[0]).get("quality") == "good"  # type: ignore[arg-type]

        await eventually(is_good)
        assert (await entries(cloud))["temp"]["metadata"] == {
            "timestamp": "1795377600002",
            "type": "float",
        }


async def test_a_late_write_of_an_old_report_undoes_no_newer_one_of_another_cloudcore(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, change = StatusBook._write, StatusBook.change
    begun, goes_on, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()
    lates: list[asyncio.Task[object] | None] = []

    async def slow_once(self: StatusBook, device: DeviceView, status: KnownStatus) -> KnownStatus:
        level = mapping(status.entries.get("level", {}).get("reported")).get("value")
        if level == "5" and not begun.is_set():
            lates.append(asyncio.current_task())
            begun.set()
            await goes_on.wait()
        return await write(self, device, status)

    async def watched(
        self: StatusBook, device: DeviceView, work: Work
    ) -> tuple[KnownStatus, KnownStatus]:
        try:
            return await change(self, device, work)
        finally:
            if asyncio.current_task() in lates:
                ended.set()

    async def level_is(cloud: CloudCore, value: str) -> bool:
        return (await entries(cloud))["level"]["value"] == value

    monkeypatch.setattr(StatusBook, "_write", slow_once)
    monkeypatch.setattr(StatusBook, "change", watched)
    async with (
        a_cloud(tmp_path) as one,
        another_cloud(one, tmp_path / "two", has_own_things=True) as two,
    ):
        await apply_model(one)
        await apply_device(one, a_device())
        certificate = await join(one, "edge-1")
        async with an_edge(one, "edge-1", certificate, store="s1") as edge:
            await edge.object("default/device/lamp")
            assert content_of(await edge.report("lamp", 1, level="4")) == "OK"
            late = asyncio.create_task(edge.report("lamp", 2, level="5"))
            await begun.wait()
            async with an_edge(two, "edge-1", certificate, store="s1") as moved:
                assert content_of(await moved.report("lamp", 2, level="5")) == "OK"
                assert content_of(await moved.report("lamp", 3, level="6")) == "OK"
                goes_on.set()
                late.cancel()
                async with asyncio.timeout(20):
                    await ended.wait()
                assert await level_is(two, "6")
