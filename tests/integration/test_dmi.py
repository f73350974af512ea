"""Mappers over DMI: a stranger on grpcio registers, gets Devices, is told what is wanted, and reports."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from edge.twinrules import text_of
from gateway.config.edge_services import Dmi
from gateway.wire.cloudedge.subjects import DeviceKey
from gateway.wire.cloudedge.twins import MemberDevice
from tests.dmi_peer import a_mapper
from tests.integration.edge_cloud import FakeCloud, a_cloud
from tests.integration.edge_node import MODEL, Node, a_device, a_node, join_edge, linked
from tests.integration.edge_support import until

ON = Dmi(enabled=True)
D1 = DeviceKey("default", "d1")


@pytest.fixture
async def cloud(tmp_path: Path) -> AsyncIterator[FakeCloud]:
    folder = tmp_path / "cloud"
    folder.mkdir()
    async with a_cloud(folder, FakeCloud) as running:
        running.members = [MemberDevice(id="default/d1", name="d1")]
        yield running


@pytest.fixture
async def data_dir(cloud: FakeCloud, tmp_path: Path) -> Path:
    await join_edge(cloud, tmp_path / "e")
    return tmp_path / "e"


async def with_device(cloud: FakeCloud, *, temp: str | None, protocol: str = "modbus") -> None:
    await cloud.push("devicemodel", "m1", MODEL)
    await cloud.push("device", "d1", a_device(protocol=protocol, temp=temp))


def sockets(data_dir: Path) -> tuple[Path, Path]:
    return data_dir / "edge" / "dmi.sock", data_dir / "edge" / "mappers" / "m.sock"


def is_served(node: Node) -> bool:
    assert node.core.dmi is not None
    facts: list[Any] = node.core.dmi.facts()
    return [fact["connected"] for fact in facts] == [True]


def desired(device: Any) -> dict[str, str]:
    return {each.name: each.desired.value for each in device.spec.properties}


async def test_a_mapper_registers_is_told_what_is_wanted_and_reports(
    cloud: FakeCloud, data_dir: Path
) -> None:
    async with a_node(data_dir, dmi=ON) as node:
        await linked(node, cloud)
        await with_device(cloud, temp="20")
        async with a_mapper(*sockets(data_dir)) as mapper:
            answer = await mapper.register()
            assert [model.name for model in answer.modelList] == ["m1"]
            assert [device.name for device in answer.deviceList] == ["d1"]
            assert desired(answer.deviceList[0]) == {"temp": "20"}
            await until(lambda: is_served(node))
            await cloud.push("device", "d1", a_device(protocol="modbus", temp="25"))
            await until(lambda: mapper.heard("UpdateDevice"))
            assert desired(mapper.heard("UpdateDevice")[-1].device) == {"temp": "25"}
            await mapper.report("d1", temp=("25", "24"))
            twin = node.core.twin.twins(D1)["temp"]
            assert (text_of(twin.expected), text_of(twin.actual)) == ("25", "24")
