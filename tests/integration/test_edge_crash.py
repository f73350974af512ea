"""EdgeCore killed without warning: what was acknowledged is still there and arrives, in order."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from paho.mqtt.enums import MQTTProtocolVersion

from gateway.wire.cloudedge.twins import MemberDevice
from tests.integration.edge_cloud import FakeCloud, a_cloud
from tests.integration.edge_node import MODEL, a_device, join_edge
from tests.integration.edge_support import until
from tests.integration.test_edge_mqtt import DEVICE, Local


@asynccontextmanager
async def an_edge_process(data_dir: Path) -> AsyncIterator[int]:
    """Start an edge; gives its broker's port; at the end it is killed, not stopped."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.integration.edge_process", str(data_dir)),
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        yield int(await process.stdout.readline())
    finally:
        process.kill()
        await process.wait()


@pytest.fixture
async def cloud(tmp_path: Path) -> AsyncIterator[FakeCloud]:
    folder = tmp_path / "cloud"
    folder.mkdir()
    async with a_cloud(folder) as running:
        running.members = [MemberDevice(id="default/d1", name="d1")]
        yield running


async def test_a_killed_edge_loses_nothing_that_it_acknowledged(
    cloud: FakeCloud, tmp_path: Path
) -> None:
    data_dir = tmp_path / "edge"
    await join_edge(cloud, data_dir)
    async with an_edge_process(data_dir):
        await cloud.push("devicemodel", "m1", MODEL)
        await cloud.push("device", "d1", a_device(temp="25"))
        await until(lambda: "edge-1" in cloud.leases)
    cloud.outcome, cloud.answers_twins = None, False  # from now on nothing is taken
    async with an_edge_process(data_dir) as port:
        client = Local(port, MQTTProtocolVersion.MQTTv5)
        await client.start(f"{DEVICE}/twin/#")
        for at in range(30):
            await client.publish("telemetry//default:d1", f"t{at}".encode())
            body = {"twin": {"temp": {"actual": {"value": str(at)}}}}
            await client.publish(f"{DEVICE}/twin/update", json.dumps(body).encode())
        assert client.heard("/delta")[0]["delta"] == {"temp": "25"}
        await client.stop()
    cloud.got.clear()
    cloud.outcome, cloud.answers_twins = (lambda _item: None), True
    async with an_edge_process(data_dir):
        await until(lambda: len(cloud.uploads) == 30 and len(cloud.reported("temp")) == 30)
        assert [u.payload.decode() for u in cloud.uploads] == [f"t{at}" for at in range(30)]
        assert cloud.reported("temp") == [str(at) for at in range(30)]
        places = [u.spool for u in cloud.uploads if u.spool]
        assert len({place.edge for place in places}) == 1
        sequences = [place.sequence for place in places]
        assert sequences == sorted(set(sequences))
