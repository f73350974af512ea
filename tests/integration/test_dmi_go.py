"""A mapper on grpc-go and protobuf's Go code, the libraries of KubeEdge's own mappers."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from edge.twinrules import text_of
from gateway.config.edge_services import Dmi
from gateway.wire.cloudedge.subjects import DeviceKey
from gateway.wire.cloudedge.twins import MemberDevice
from tests.dmi_peer import PROTO
from tests.go_peers import GoPeer, go_peer, go_program
from tests.integration.edge_cloud import FakeCloud, a_cloud
from tests.integration.edge_node import MODEL, a_device, a_node, join_edge, linked
from tests.integration.edge_support import until


@pytest.fixture
async def cloud(tmp_path: Path) -> AsyncIterator[FakeCloud]:
    go_program("mapper")
    folder = tmp_path / "cloud"
    folder.mkdir()
    async with a_cloud(folder, FakeCloud) as running:
        running.members = [MemberDevice(id="default/d1", name="d1")]
        yield running


async def ask(mapper: GoPeer, method: str, request: dict[str, Any]) -> Any:
    """Let the mapper call EdgeCore; returns what it was answered."""
    before = sum(told["event"] == "answer" for told in mapper.told)
    await mapper.tell({"method": method, "request": request})
    await until(lambda: sum(told["event"] == "answer" for told in mapper.told) > before)
    return [told for told in mapper.told if told["event"] == "answer"][before]


async def test_a_go_mapper_registers_is_told_and_reports(cloud: FakeCloud, tmp_path: Path) -> None:
    data_dir = tmp_path / "e"
    await join_edge(cloud, data_dir)
    own = data_dir / "edge" / "mappers" / "go.sock"
    device = a_device(protocol="profinet", temp="20")
    device["spec"]["protocol"]["configData"] = {"slaveID": 1, "ip": "10.0.0.5"}
    async with a_node(data_dir, dmi=Dmi(enabled=True)) as node:
        await linked(node, cloud)
        await cloud.push("devicemodel", "m1", MODEL)
        await cloud.push("device", "d1", device)
        edge = data_dir / "edge" / "dmi.sock"
        arguments = ("-proto", str(PROTO), "-edge", str(edge), "-socket", str(own))
        async with go_peer("mapper", *arguments) as mapper:
            await mapper.event("listening")
            await it_registers(mapper, own)
            device["spec"]["properties"][0]["desired"]["value"] = "25"
            await cloud.push("device", "d1", device)
            told = await mapper.event("told", lambda t: t["method"] == "UpdateDevice")
            wanted = told["request"]["device"]["spec"]["properties"][0]["desired"]
            assert wanted == {"value": "25"}
            await it_reports(mapper)
            twin = node.core.twin.twins(DeviceKey("default", "d1"))["temp"]
            assert (text_of(twin.expected), text_of(twin.actual)) == ("25", "24")


async def it_registers(mapper: GoPeer, own: Path) -> None:
    info = {"name": "go", "protocol": "profinet", "address": b64(str(own))}
    answer = await ask(mapper, "MapperRegister", {"withData": True, "mapper": info})
    assert answer["status"] == "OK"
    (device,) = answer["answer"]["deviceList"]
    assert [model["name"] for model in answer["answer"]["modelList"]] == ["m1"]
    config = device["spec"]["protocol"]["configData"]["data"]
    kind = "type.googleapis.com/google.protobuf."
    assert config == {
        "slaveID": {"@type": f"{kind}FloatValue", "value": 1},
        "ip": {"@type": f"{kind}StringValue", "value": "10.0.0.5"},
    }


async def it_reports(mapper: GoPeer) -> None:
    twin = {
        "propertyName": "temp",
        "observedDesired": {"value": "25"},
        "reported": {"value": "24", "metadata": {"timestamp": "1795377600000"}},
    }
    request = {
        "deviceName": "d1",
        "deviceNamespace": "default",
        "reportedDevice": {"twins": [twin]},
    }
    assert (await ask(mapper, "ReportDeviceStatus", request))["status"] == "OK"
    request["deviceName"] = "none"
    refused = await ask(mapper, "ReportDeviceStatus", request)
    assert refused["status"] == "NotFound"
    assert "default/none" in refused["reason"]


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
