"""Faults of Devices that an edge of ours tells stand in the DeviceStatus, and go from there."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from msgspec import UNSET

from cloud.statuses import Faults, faults_of, status_patch
from gateway.kube.client import PatchType
from gateway.wire.cloudedge import to_cloud
from gateway.wire.cloudedge.subjects import DeviceKey
from gateway.wire.cloudedge.twins import STATE_UPDATE, DeviceState, StateUpdate, write
from tests.cloud_rig import CloudCore, a_cloud, a_stamp, an_edge, apply_device, apply_model, join
from tests.cloud_samples import DEVICES, a_device

KEY = DeviceKey("default", "lamp")


@pytest.fixture
async def cloud(tmp_path: Path) -> AsyncIterator[CloudCore]:
    async with a_cloud(tmp_path) as running:
        await apply_model(running)
        yield running


async def shown(cloud: CloudCore) -> tuple[str, Any]:
    found: Any = await cloud.object(DEVICES, "devicestatuses", "default", "lamp")
    extensions = found["status"].get("extensions", {})
    own = {name: value for name, value in extensions.items() if name != "reports"}
    return found["status"]["state"], own or None


async def test_faults_are_written_changed_and_taken_back(cloud: CloudCore) -> None:
    await apply_device(cloud, a_device())
    async with an_edge(cloud, "edge-1", await join(cloud, "edge-1")) as edge:

        async def tell(state: str, faults: Any) -> None:
            update = StateUpdate("", 1, DeviceState("lamp", state, faults=faults))
            await edge.ask(to_cloud.report_state(a_stamp(), KEY, update))

        await tell("online", UNSET)
        assert await shown(cloud) == ("online", None)
        await tell("unknown", {"push redis of temp": "is not reached", "driver": "is not there"})
        listed = [
            {"part": "driver", "message": "is not there", "node": "edge-1"},
            {"part": "push redis of temp", "message": "is not reached", "node": "edge-1"},
        ]
        assert await shown(cloud) == ("unknown", {"faults": listed})
        await tell("offline", UNSET)  # a state alone says nothing of faults
        assert await shown(cloud) == ("offline", {"faults": listed})
        await tell("offline", {"driver": "is not there"})
        assert await shown(cloud) == ("offline", {"faults": listed[:1]})
        await tell("online", {})
        assert await shown(cloud) == ("online", {"faults": []})


@pytest.mark.parametrize("says", ["state", "value"])
async def test_faults_of_the_node_where_a_device_was_go_with_the_first_word_of_the_next(
    cloud: CloudCore, says: str
) -> None:
    device = a_device()
    await apply_device(cloud, device)
    async with an_edge(cloud, "edge-1", await join(cloud, "edge-1")) as edge:
        update = StateUpdate(
            "", 1, DeviceState("lamp", "online", faults={"driver": "is not there"})
        )
        await edge.ask(to_cloud.report_state(a_stamp(), KEY, update))
    move: Any = [{"op": "replace", "path": "/spec/nodeName", "value": "edge-2"}]
    await cloud.kube.patch(DEVICES, "devices", "default", "lamp", move, patch_type=PatchType.JSON)
    async with an_edge(cloud, "edge-2", await join(cloud, "edge-2")) as edge:
        await edge.object("default/device/lamp")
        state = StateUpdate("", 1, DeviceState("lamp", "online"))
        if says == "state":
            await edge.ask(to_cloud.report_state(a_stamp(), KEY, state))
        else:
            await edge.report("lamp", 1, level="3")
        assert await shown(cloud) == ("online", {"faults": []})


def test_a_state_of_another_edge_has_no_faults() -> None:
    known = b'{"event_id":"","timestamp":1,"device":{"name":"lamp","state":"online"}}'
    update = STATE_UPDATE.decode(known)
    assert update.device.faults is UNSET
    assert b"faults" not in write(update)


def test_faults_are_read_back_as_they_were_written() -> None:
    faults = Faults("edge-1", {"driver": "x", "model": "y"})
    assert faults_of({"status": status_patch({}, {}, faults)}) == faults
    assert faults_of({"status": status_patch({}, {})}) is None
    assert faults_of({"status": {"extensions": {"faults": "odd"}}}) is None
