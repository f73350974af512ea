"""A disk that is nearly full: nothing is added, all that is there can still be read, settled and deleted."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.e2e.test_bad_input import small_disk
from tests.process import eventually, twinspan
from tests.walk import Device, Walk, curl, in_thread

pytestmark = pytest.mark.e2e

LEFT = 3_000_000
"""Bytes that the ballast leaves, of a disk of 24 MB whose floor is a quarter."""


def fill_but(folder: Path, left: int) -> Path:
    """Take all room but `left` bytes."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file:
        while (found := os.statvfs(folder)).f_bavail * found.f_frsize > left:
            file.write(bytes(65_536))
    return ballast


def statuses_of_growth(walk: Walk, device: Device) -> dict[str, int]:
    thing = "things/org.acme:4711/attributes/more"
    return {
        "event": walk.upload(device, "event", {"n": 1}).status,
        "thing": walk.ditto("PUT", thing, data="1").status,
        "new thing": walk.ditto("PUT", "things/org.acme:more", data={}).status,
        "device": walk.registry("POST", "devices/floor/more").status,
        "tenant": walk.registry("POST", "tenants/more").status,
    }


async def test_below_the_floor_nothing_is_added_and_everything_can_be_deleted(
    tmp_path: Path,
) -> None:
    with (
        small_disk(tmp_path / "disk") as disk,
        twinspan(disk / "data", "gateway", "--demo") as running,
    ):
        walk = Walk(running)
        device = walk.a_device("floor", "d")
        walk.a_device("floor", "doomed")
        assert walk.ditto("PUT", "things/org.acme:doomed", data={}).status == 201
        for number in range(3):
            assert walk.upload(device, "event", str(number)).status == 202
        ballast = fill_but(disk, LEFT)

        assert set(statuses_of_growth(walk, device).values()) == {503}
        assert walk.ditto("GET", "things/org.acme:4711").status == 200
        running.kill()
        await in_thread(running.start)
        assert set(statuses_of_growth(walk, device).values()) == {503}
        assert walk.registry("DELETE", "devices/floor/doomed").status == 204
        assert walk.ditto("DELETE", "things/org.acme:doomed").status == 204
        async with walk.application() as app:
            app.receive_from("event/floor")
            got = [bytes((await app.expect("message", 10.0))[2].body).decode() for _ in range(3)]
        assert [int(each.strip('"')) for each in got] == [0, 1, 2]
        metrics = (await in_thread(curl, "GET", running.url("ops.http", "/metrics"))).body
        assert 'twinspan_events_refused_total{reason="store",tenant="floor"}' in metrics

        ballast.unlink()
        eventually(
            lambda: walk.upload(device, "event", {"n": 1}).status == 202, what="events have room"
        )
        assert walk.registry("DELETE", "tenants/floor").status == 204
        assert "Traceback" not in running.log.read_text()
