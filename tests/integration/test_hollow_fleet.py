"""Many hollow edges on one CloudCore: they join, are registered, follow wishes, and all come back at once."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edge.hollow.cluster import TARGET
from edge.hollow.plan import Snapshot
from edge.hollow.run import Run, run
from gateway.errors import InvalidSetting
from tests.cloud_rig import CloudCore, a_cloud, eventually

NODES = 24


async def a_run(cloud: CloudCore, folder: Path, **options: Any) -> Run:
    options.setdefault("nodes", NODES)
    return Run(
        cloud=cloud.https,
        hub=cloud.wss.removeprefix("wss://"),
        token=await cloud.token(),
        folder=folder,
        ramp=200.0,
        duration=1.0,
        settle=0.2,
        processes=2,
        **options,
    )


def _quiet(_phase: str, _now: Snapshot) -> None:
    """Nobody looks."""


async def test_all_nodes_come_back_at_once_after_their_links_broke(tmp_path: Path) -> None:
    async with a_cloud(tmp_path) as cloud:
        wanted = await a_run(cloud, tmp_path / "keys", storm=True)
        found: Any = await run(wanted, cloud.kube, _quiet)
        assert found["complete"]
        assert found["registered"] == NODES
        assert found["errors"] == {}
        storm = found["storm"]
        assert storm["registered_seconds"] >= storm["connected_seconds"]
        assert NODES <= storm["tries"] <= 2 * NODES
        assert (await cloud.kube.list("v1", "nodes")).items == []  # it tidied up


async def test_nodes_with_a_key_of_an_earlier_run_do_not_join_again(tmp_path: Path) -> None:
    async with a_cloud(tmp_path) as cloud:
        wanted = await a_run(cloud, tmp_path / "keys", keeps=True)
        for _ in range(2):
            found: Any = await run(wanted, cloud.kube, _quiet)
            assert found["complete"]
        assert cloud.sample("twinspan_edge_certificates_total", action="issued") == NODES
        assert len((await cloud.kube.list("v1", "nodes")).items) == NODES


async def test_hollow_devices_report_and_do_what_is_wanted(tmp_path: Path) -> None:
    async with a_cloud(tmp_path) as cloud:
        wanted = await a_run(cloud, tmp_path / "keys", nodes=4, devices=1, reports=2.0)
        stop = asyncio.Event()
        phases: set[str] = set()
        wanted = replace(wanted, duration=0.0)
        work = run(wanted, cloud.kube, lambda phase, _: phases.add(phase), stop)
        running = asyncio.create_task(work)
        name = f"{wanted.names[3]}-d0"

        async def reported() -> bool:
            status = await cloud.kube.list("devices.kubeedge.io/v1beta1", "devicestatuses")
            return len(status.items) == wanted.nodes

        await eventually(reported)
        patch: Any = {
            "spec": {
                "properties": [
                    {"name": "reading", "reportToCloud": True},
                    {"name": TARGET, "reportToCloud": True, "desired": {"value": "42"}},
                ]
            }
        }
        await cloud.kube.patch("devices.kubeedge.io/v1beta1", "devices", "default", name, patch)

        async def followed() -> bool:
            thing: Any = await cloud.thing(f"default:{name}")
            feature = thing["features"].get(TARGET, {}) if thing else {}
            return bool(feature.get("properties", {}).get("value") == 42)

        await eventually(followed)

        async def holds() -> bool:
            return "holding" in phases

        await eventually(holds)
        stop.set()
        found: Any = await running
        assert found["complete"]
        assert found["steady"]["reports_per_second"] > 0


async def test_a_process_that_is_not_there_is_named(tmp_path: Path) -> None:
    wanted = Run(nodes=1, cloud="", hub="", token="", folder=tmp_path, pid=2**22 + 1)
    with pytest.raises(InvalidSetting, match="--pid"):
        await run(wanted, None, _quiet)
