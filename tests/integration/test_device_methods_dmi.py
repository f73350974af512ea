"""Methods of Devices that a mapper over DMI serves: it gets the values as wishes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from edge import devicefaults
from gateway.config.edge_services import Dmi
from gateway.errors import Undeliverable
from gateway.wire.cloudedge.subjects import DeviceKey
from gateway.wire.cloudedge.twins import MemberDevice
from tests.dmi_peer import a_mapper
from tests.integration.edge_cloud import FakeCloud, a_cloud
from tests.integration.edge_node import MODEL, Node, a_device, a_node, join_edge, linked
from tests.integration.edge_support import until

KEY = DeviceKey("default", "d1")


@pytest.fixture
async def cloud(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FakeCloud]:
    monkeypatch.setattr(devicefaults, "SETTLE_SECONDS", 0.05)
    folder = tmp_path / "c"
    folder.mkdir()
    async with a_cloud(folder) as served:
        served.members = [MemberDevice(id="default/d1", name="d1")]
        yield served


@pytest.fixture
async def node(cloud: FakeCloud, tmp_path: Path) -> AsyncIterator[Node]:
    await join_edge(cloud, tmp_path / "e")
    async with a_node(tmp_path / "e", dmi=Dmi(enabled=True)) as served:
        await linked(served, cloud)
        await cloud.push("devicemodel", "m1", MODEL)
        device = a_device(protocol="profinet", temp=None, label=None)
        device["spec"]["methods"] = [{"name": "heat", "propertyNames": ["temp"]}]
        await cloud.push("device", "d1", device)
        yield served


def wanted(device: Any) -> dict[str, str]:
    return {each.name: each.desired.value for each in device.spec.properties}


async def test_a_mapper_gets_what_a_method_writes_and_its_fault_goes_when_it_comes(
    cloud: FakeCloud, node: Node, tmp_path: Path
) -> None:
    faults, methods = node.core.devices.faults, node.core.devices.methods
    await until(lambda: faults.of(KEY))
    assert "nobody serves the protocol 'profinet'" in faults.of(KEY)["driver"]
    with pytest.raises(Undeliverable, match="no mapper is connected"):
        await methods.call(KEY, "heat", {"temp": 30}, way="http")
    folder = tmp_path / "e" / "edge"
    async with a_mapper(folder / "dmi.sock", folder / "mappers" / "m.sock") as mapper:
        await mapper.register()
        await until(lambda: not faults.of(KEY))
        answer = await methods.call(KEY, "heat", {"temp": "30"}, way="http")
        assert answer["properties"] == {"temp": {"value": "30", "state": "wanted"}}
        await until(lambda: mapper.heard("UpdateDevice"))
        assert wanted(mapper.heard("UpdateDevice")[-1].device)["temp"] == "30"
        await mapper.report("d1", temp=("30", "30"))
        await until(lambda: cloud.reported("temp")[-1:] == ["30"])
        told = {
            m.name: list(m.propertyNames)
            for m in mapper.heard("UpdateDevice")[-1].device.spec.methods
        }
        assert told == {"heat": ["temp"]}  # it may serve them itself, too
    await until(lambda: faults.of(KEY))  # the mapper is away again
