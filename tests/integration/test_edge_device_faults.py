"""What of a Device does not work at its node stands in its DeviceStatus."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from msgspec import UNSET

from edge import devicefaults, status
from edge.mappers import session
from gateway.config.edge import Spool
from gateway.model.message import Kind
from gateway.wire.cloudedge.names import Operation
from gateway.wire.cloudedge.twins import MemberDevice
from tests.integration.edge_cloud import FakeCloud, a_cloud
from tests.integration.edge_node import LAMP_MODEL, Node, a_device, a_node, join_edge, linked
from tests.integration.edge_support import until


@pytest.fixture
async def cloud(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FakeCloud]:
    monkeypatch.setattr(devicefaults, "SETTLE_SECONDS", 0.05)
    folder = tmp_path / "cloud"
    folder.mkdir()
    async with a_cloud(folder) as served:
        served.members = [MemberDevice(id="default/lamp", name="lamp")]
        yield served


@pytest.fixture
async def node(cloud: FakeCloud, tmp_path: Path) -> AsyncIterator[Node]:
    await join_edge(cloud, tmp_path / "edge")
    async with a_node(tmp_path / "edge") as served:
        await linked(served, cloud)
        await cloud.push("devicemodel", "m1", LAMP_MODEL)
        yield served


def told(cloud: FakeCloud) -> list[dict[str, str]]:
    """The faults of each report that says some, oldest first."""
    found = [state.update.device.faults for state in cloud.states]
    return [faults for faults in found if faults is not UNSET]


async def test_a_protocol_that_nobody_serves_is_told_and_taken_back(
    cloud: FakeCloud, node: Node
) -> None:
    await cloud.push("device", "lamp", a_device(protocol="profinet", on=None))
    await until(lambda: told(cloud))
    assert told(cloud) == [
        {"driver": "nobody serves the protocol 'profinet' here: no driver, no mapper over DMI"}
    ]
    assert cloud.states[-1].update.device.state == "unknown"
    assert node.core.devices.faults.facts() == {"default/lamp": told(cloud)[0]}
    await cloud.push("device", "lamp", a_device(protocol="virtual", on=None), Operation.UPDATE)
    await until(lambda: told(cloud)[-1] == {})


async def test_a_device_that_is_spoken_for_by_mqtt_needs_no_driver(
    cloud: FakeCloud, node: Node
) -> None:
    lamp = a_device(protocol="profinet", on=None)
    await cloud.push("device", "lamp", lamp)
    await until(lambda: told(cloud))
    assert await node.report("lamp", on="true") is None
    await until(lambda: told(cloud)[-1] == {})
    await cloud.push("device", "lamp", a_device(protocol="profibus", on=None), Operation.UPDATE)
    assert node.core.devices.faults.facts() == {}


async def test_all_that_a_device_names_and_is_not_there_is_told(
    cloud: FakeCloud, node: Node
) -> None:
    lamp = a_device(protocol="virtual", on=None, colour=None)
    lamp["spec"]["properties"][0]["pushMethod"] = {"anomalyDetection": {"any": 1}}
    lamp["spec"]["methods"] = [{"name": "paint", "propertyNames": ["paper"]}]
    await cloud.push("device", "lamp", lamp)
    await until(lambda: told(cloud))
    assert sorted(told(cloud)[-1]) == [
        "method paint",
        "model colour",
        "property colour",
        "push anomalyDetection of on",
    ]
    assert "EdgeCore detects nothing" in told(cloud)[-1]["push anomalyDetection of on"]
    lamp = a_device(protocol="virtual", on=None)
    await cloud.push("device", "lamp", lamp, Operation.UPDATE)
    await until(lambda: told(cloud)[-1] == {})
    await until(lambda: cloud.reported("on"))


async def test_a_configuration_that_cannot_work_and_a_refused_wish_are_told(
    cloud: FakeCloud, node: Node
) -> None:
    lamp = a_device(protocol="virtual", brightness="500")
    await cloud.push("device", "lamp", lamp)
    await until(lambda: told(cloud))
    assert "brightness cannot be 500" in told(cloud)[-1]["wish brightness"]
    lamp["spec"]["protocol"]["configData"] = {"kind": "toaster"}
    await cloud.push("device", "lamp", lamp, Operation.UPDATE)
    await until(lambda: "toaster" in told(cloud)[-1].get("connection", ""))
    assert list(told(cloud)[-1]) == ["connection"]


async def test_a_fault_that_a_restart_mends_is_taken_back(cloud: FakeCloud, tmp_path: Path) -> None:
    await join_edge(cloud, tmp_path / "edge")
    async with a_node(tmp_path / "edge", drivers={}) as node:
        await linked(node, cloud)
        await cloud.push("devicemodel", "m1", LAMP_MODEL)
        await cloud.push("device", "lamp", a_device(protocol="virtual", on=None))
        await until(lambda: told(cloud))
        assert list(told(cloud)[-1]) == ["driver"]
        await until(lambda: not len(node.core.reports))
    shown = status.of_disk(tmp_path / "edge", Spool())["faults"]
    assert shown == {"default/lamp": {"driver": told(cloud)[-1]["driver"]}}
    async with a_node(tmp_path / "edge") as node:
        await until(lambda: told(cloud)[-1] == {})
        assert status.of_core(node.core)["faults"] == {}


# --- states ----------------------------------------------------------------------------------------


def reporting(**report: Any) -> dict[str, Any]:
    lamp = a_device(protocol="virtual", on=None)
    lamp["spec"]["stateReport"] = report
    return lamp


def events(cloud: FakeCloud) -> list[bytes]:
    return [upload.payload for upload in cloud.uploads if upload.kind is Kind.EVENT]


async def test_a_state_is_said_again_each_cycle_and_its_event_once(
    cloud: FakeCloud, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "SHORTEST_STATE_MS", 100)
    await cloud.push("device", "lamp", reporting(reportToCloud=True, reportCycle=100))
    await until(lambda: len(cloud.states) >= 4)
    assert {state.update.device.state for state in cloud.states} == {"online"}
    assert events(cloud) == [b'{"state":"online"}']


async def test_a_state_that_is_not_for_the_cloud_is_no_event(cloud: FakeCloud, node: Node) -> None:
    await cloud.push("device", "lamp", reporting(reportToCloud=False, reportCycle=100))
    await until(lambda: cloud.reported("on") == ["false"] and cloud.states)
    assert [state.update.device.state for state in cloud.states] == ["online"]
    await until(lambda: cloud.uploads)  # the value's telemetry, which comes after the state
    assert events(cloud) == []


# --- load ------------------------------------------------------------------------------------------


async def test_a_load_reports_each_change_of_each_property_in_order(
    cloud: FakeCloud, node: Node
) -> None:
    names = [f"p{at}" for at in range(10)]
    model = {"spec": {"properties": [{"name": name, "type": "INT"} for name in names]}}
    await cloud.push("devicemodel", "m1", model, Operation.UPDATE)
    lamp = a_device(protocol="virtual")
    lamp["spec"]["properties"] = [{"name": name} for name in names]
    lamp["spec"]["protocol"]["configData"] = {"kind": "load", "rate": 20}
    await cloud.push("device", "lamp", lamp)
    await until(lambda: all(len(cloud.reported(name)) >= 8 for name in names))
    counts = [int(text or "") for text in cloud.reported("p3")]
    assert counts == sorted(set(counts))
