"""`twinspan edge status`: of a running node, and of one that does not run."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from edge import status
from edge.spool import RATE_SECONDS, Rate
from gateway.cli.edge import edge as edge_command
from gateway.config.edge import Spool
from gateway.config.observe import OpsHttp
from gateway.console.operations import Operations
from gateway.errors import InvalidSetting
from gateway.runtime.listener import ENDPOINTS_FILE
from gateway.runtime.module import Readiness, running
from gateway.wire.cloudedge.twins import MemberDevice
from tests.integration.edge_cloud import FakeCloud, a_cloud
from tests.integration.edge_node import MODEL, a_device, a_node, join_edge, linked
from tests.integration.edge_support import until


@pytest.fixture
async def cloud(tmp_path: Path) -> AsyncIterator[FakeCloud]:
    folder = tmp_path / "cloud"
    folder.mkdir()
    async with a_cloud(folder) as served:
        served.members = [MemberDevice(id="default/d1", name="d1")]
        yield served


@pytest.fixture
async def data_dir(cloud: FakeCloud, tmp_path: Path) -> Path:
    await join_edge(cloud, tmp_path / "edge")
    return tmp_path / "edge"


async def shown(data_dir: Path, *options: str) -> str:
    """What the command prints."""
    arguments = ["status", "--data-dir", str(data_dir), *options]
    done = await asyncio.to_thread(CliRunner().invoke, edge_command, arguments)
    assert done.exit_code == 0, done.output
    return done.output


async def as_json(data_dir: Path) -> Any:
    return json.loads(await shown(data_dir, "-o", "json"))


async def test_a_running_node_tells_link_spool_and_twins(cloud: FakeCloud, data_dir: Path) -> None:
    cloud.outcome = None
    async with a_node(data_dir) as node:
        await linked(node, cloud)
        await cloud.push("devicemodel", "m1", MODEL)
        await cloud.push("device", "d1", a_device(temp="25"))
        await node.report("d1", temp="1", label="x")
        for number in range(10):
            await node.publish("event//default:d1", str(number).encode())
        more = {status.PATH: partial(status.of_core, node.core)}
        port = OpsHttp(bind="127.0.0.1:0")
        module = Operations(port, node.endpoints, node.metrics, Readiness(()), more)
        async with running(module):
            (data_dir / ENDPOINTS_FILE).write_text(json.dumps(node.endpoints.as_dict()))
            found = await as_json(data_dir)
            assert found["node"] == "edge-1"
            assert found["running"]
            assert found["link"]["state"] == "up"
            assert found["link"]["since"].endswith("Z")
            assert (found["devices"], found["twins"]) == (1, 2)
            events = found["spool"]["event"]
            assert (events["messages"], events["limit_bytes"]) == (10, Spool().max_event_bytes)
            assert events["hours_left"] > 0
            assert found["spool"]["telemetry"]["hours_left"] is None
            text = await shown(data_dir)
            assert "up since" in text
            assert "HOURS_LEFT" in text
            await cloud.cut()
            cloud.refusal = "revoked"
            await until(lambda: "revoked" in node.core.hub.last_error)
            found = await as_json(data_dir)
            assert found["link"]["state"] == "down"
            assert "revoked" in found["link"]["last_error"]


async def test_a_node_that_does_not_run_is_read_from_disk(cloud: FakeCloud, data_dir: Path) -> None:
    cloud.outcome = None
    async with a_node(data_dir) as node:
        await linked(node, cloud)
        await cloud.push("devicemodel", "m1", MODEL)
        await cloud.push("device", "d1", a_device(temp="25"))
        for number in range(10):
            await node.publish("event//default:d1", str(number).encode())
            await asyncio.sleep(0.005)
    (data_dir / ENDPOINTS_FILE).write_text('{"ops.http": "127.0.0.1:1"}')  # of a killed process
    found = await as_json(data_dir)
    assert not found["running"]
    assert found["link"] == {"state": "down", "since": None, "last_error": None}
    assert (found["devices"], found["twins"]) == (1, 1)
    assert found["spool"]["event"]["messages"] == 10
    assert found["spool"]["event"]["hours_left"] > 0
    assert "EdgeCore does not run" in await shown(data_dir)


async def test_a_node_that_never_ran_has_an_empty_spool(data_dir: Path) -> None:
    found = await as_json(data_dir)
    assert found["spool"]["event"]["messages"] == 0


async def test_a_folder_that_has_not_joined_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidSetting, match="has not joined"):
        status.of_disk(tmp_path, Spool())


def test_a_rate_is_right_from_the_first_minute_and_fades_in_silence() -> None:
    rate = Rate()
    assert rate.at(0.0) == 0.0
    for second in range(60):
        rate.note(100, float(second))
    assert rate.at(60.0) == pytest.approx(100, rel=0.05)
    for second in range(60, 3_600):
        rate.note(100, float(second))
    assert rate.at(3_600.0) == pytest.approx(100, rel=0.05)
    assert rate.at(3_600.0 + 3 * RATE_SECONDS) < 10
