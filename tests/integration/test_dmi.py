"""Mappers over DMI: a stranger on grpcio registers, gets Devices, is told what is wanted, and reports."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from edge import status
from edge.twinrules import text_of
from gateway.config.edge_services import Dmi
from gateway.wire.cloudedge.names import Operation
from gateway.wire.cloudedge.subjects import DeviceKey
from gateway.wire.cloudedge.twins import MemberDevice
from tests.dmi_peer import Mapper, a_mapper, message
from tests.integration.edge_cloud import FakeCloud, a_cloud
from tests.integration.edge_node import (
    LAMP_MODEL,
    MODEL,
    Node,
    a_device,
    a_node,
    join_edge,
    linked,
)
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


async def with_device(cloud: FakeCloud, *, temp: str | None, protocol: str = "profinet") -> None:
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
            told = {"name": "profinet-mapper", "protocol": "profinet", "connected": True}
            assert status.of_core(node.core)["mappers"] == [told]
            await cloud.push("device", "d1", a_device(protocol="profinet", temp="25"))
            await until(lambda: mapper.heard("UpdateDevice"))
            assert desired(mapper.heard("UpdateDevice")[-1].device) == {"temp": "25"}
            await mapper.report("d1", temp=("25", "24"))
            twin = node.core.twin.twins(D1)["temp"]
            assert (text_of(twin.expected), text_of(twin.actual)) == ("25", "24")


def sides(node: Node, name: str) -> tuple[str | None, str | None]:
    twin = node.core.twin.twins(D1)[name]
    return text_of(twin.expected), text_of(twin.actual)


async def refused(call: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), caught.value.details() or ""


# --- what a mapper is told ---------------------------------------------------------------------------


async def test_devices_that_come_change_and_go_are_told(cloud: FakeCloud, data_dir: Path) -> None:
    async with a_node(data_dir, dmi=ON) as node, a_mapper(*sockets(data_dir)) as mapper:
        await linked(node, cloud)
        answer = await mapper.register()
        assert (list(answer.modelList), list(answer.deviceList)) == ([], [])
        await until(lambda: is_served(node))
        await with_device(cloud, temp="20")
        await until(lambda: mapper.heard("RegisterDevice"))
        assert [name for name, _ in mapper.told] == ["CreateDeviceModel", "RegisterDevice"]
        assert mapper.heard("CreateDeviceModel")[0].model.name == "m1"
        device = mapper.heard("RegisterDevice")[0].device
        assert (device.namespace, device.name, desired(device)) == (
            "default",
            "d1",
            {"temp": "20"},
        )
        changed = {"spec": {"properties": [{"name": "temp", "type": "FLOAT"}]}}
        await cloud.push("devicemodel", "m1", changed)
        await until(lambda: mapper.heard("UpdateDeviceModel"))
        await cloud.push("device", "d1", a_device(protocol="profinet", temp="20"), Operation.DELETE)
        await until(lambda: mapper.heard("RemoveDevice"))
        gone = mapper.heard("RemoveDevice")[0]
        assert (gone.deviceNamespace, gone.deviceName) == ("default", "d1")
        await cloud.push("devicemodel", "m1", changed, Operation.DELETE)
        await until(lambda: mapper.heard("RemoveDeviceModel"))
        assert mapper.heard("RemoveDeviceModel")[0].modelName == "m1"


async def test_a_device_of_another_protocol_is_none_of_the_mappers(
    cloud: FakeCloud, data_dir: Path
) -> None:
    async with a_node(data_dir, dmi=ON) as node, a_mapper(*sockets(data_dir)) as mapper:
        await linked(node, cloud)
        await mapper.register()
        await until(lambda: is_served(node))
        await with_device(cloud, temp="20", protocol="profibus")
        await until(lambda: node.core.twin.members())
        await cloud.push("device", "d1", a_device(protocol="profinet", temp="20"))
        await until(lambda: mapper.heard("RegisterDevice"))
        await cloud.push("device", "d1", a_device(protocol="profibus", temp="20"))
        await until(lambda: mapper.heard("RemoveDevice"))
        assert len(mapper.heard("RegisterDevice")) == 1


async def test_a_wish_from_the_edges_own_broker_is_told_too(
    cloud: FakeCloud, data_dir: Path
) -> None:
    async with a_node(data_dir, dmi=ON) as node, a_mapper(*sockets(data_dir)) as mapper:
        await linked(node, cloud)
        await with_device(cloud, temp="20")
        await until(lambda: node.core.twin.bound())
        await mapper.register()
        await until(lambda: is_served(node))
        wish = {"event_id": "e", "twin": {"temp": {"expected": {"value": "30"}}}}
        assert await node.publish("$hw/events/device/default/d1/twin/update", wish) is None
        await until(lambda: mapper.heard("UpdateDevice"))
        assert desired(mapper.heard("UpdateDevice")[0].device) == {"temp": "30"}


async def test_an_event_that_changes_nothing_for_the_mapper_is_not_told(
    cloud: FakeCloud, data_dir: Path
) -> None:
    async with a_node(data_dir, dmi=ON) as node, a_mapper(*sockets(data_dir)) as mapper:
        await linked(node, cloud)
        await with_device(cloud, temp="20")
        await until(lambda: node.core.twin.bound())
        await mapper.register()
        await until(lambda: is_served(node))
        same = a_device(protocol="profinet", temp="20")
        await cloud.push("device", "d1", same)
        await cloud.push("device", "d1", a_device(protocol="profinet", temp="21"))
        await until(lambda: mapper.heard("UpdateDevice"))
        assert [desired(each.device) for each in mapper.heard("UpdateDevice")] == [{"temp": "21"}]


async def test_a_refusal_is_not_repeated_and_the_next_change_is_told(
    cloud: FakeCloud, data_dir: Path
) -> None:
    async with a_node(data_dir, dmi=ON) as node, a_mapper(*sockets(data_dir)) as mapper:
        await linked(node, cloud)
        await mapper.register()
        await until(lambda: is_served(node))
        mapper.refuses = dict.fromkeys(
            ("RegisterDevice", "UpdateDevice"), grpc.StatusCode.INVALID_ARGUMENT
        )
        await with_device(
            cloud, temp=None
        )  # a wish would be a change of its own, once it is on disk
        await until(lambda: mapper.heard("UpdateDevice"))
        mapper.refuses = {}
        await cloud.push("device", "d1", a_device(protocol="profinet", temp="21"))
        await until(lambda: len(mapper.heard("RegisterDevice")) == 2)
        assert desired(mapper.heard("RegisterDevice")[1].device) == {"temp": "21"}
        assert len(mapper.heard("UpdateDevice")) == 1


# --- away and back -----------------------------------------------------------------------------------


async def test_a_mapper_that_returns_is_told_everything(cloud: FakeCloud, data_dir: Path) -> None:
    async with a_node(data_dir, dmi=ON) as node:
        await linked(node, cloud)
        await with_device(cloud, temp="20")
        await until(lambda: node.core.twin.bound())
        async with a_mapper(*sockets(data_dir)) as mapper:
            await mapper.register()
            await until(lambda: is_served(node))
        await until(lambda: not is_served(node))
        await cloud.push("device", "d1", a_device(protocol="profinet", temp="22"))
        async with a_mapper(*sockets(data_dir)) as mapper:
            await until(lambda: mapper.heard("UpdateDevice"))
            names = [name for name, _ in mapper.told]
            assert names == [
                "CreateDeviceModel",
                "UpdateDeviceModel",
                "RegisterDevice",
                "UpdateDevice",
            ]
            assert desired(mapper.heard("UpdateDevice")[0].device) == {"temp": "22"}


async def test_an_edge_that_restarts_finds_its_mapper(cloud: FakeCloud, data_dir: Path) -> None:
    async with a_mapper(*sockets(data_dir)) as mapper:
        async with a_node(data_dir, dmi=ON) as node:
            await linked(node, cloud)
            await with_device(cloud, temp="20")
            await until(lambda: node.core.twin.bound())
            await mapper.register()
            await until(lambda: is_served(node))
        assert mapper.heard("RegisterDevice") == []
        async with a_node(data_dir, dmi=ON) as node:
            await until(lambda: mapper.heard("RegisterDevice"))
            await mapper.report("d1", temp=(None, "7"))
            assert sides(node, "temp") == ("20", "7")


async def test_a_mapper_may_register_before_it_listens(cloud: FakeCloud, data_dir: Path) -> None:
    async with a_node(data_dir, dmi=ON) as node:
        await linked(node, cloud)
        mapper = Mapper(*sockets(data_dir))
        await mapper.register()
        assert not is_served(node)
        await mapper.start()
        try:
            await until(lambda: is_served(node))
            await with_device(cloud, temp="20")
            await until(lambda: mapper.heard("RegisterDevice"))
        finally:
            await mapper.stop()


async def test_the_mapper_wins_over_the_driver_in_this_process_while_it_answers(
    cloud: FakeCloud, data_dir: Path
) -> None:
    def online() -> list[str]:
        return [each.state for each in node.core.twin.members()]

    async with a_node(data_dir, dmi=ON) as node:
        await linked(node, cloud)
        await cloud.push("devicemodel", "m1", LAMP_MODEL)
        await cloud.push("device", "d1", a_device(protocol="virtual", brightness="40"))
        await until(lambda: sides(node, "brightness") == ("40", "40"))
        async with a_mapper(*sockets(data_dir), protocol="virtual") as mapper:
            await mapper.register()
            await until(lambda: is_served(node))
            await cloud.push("device", "d1", a_device(protocol="virtual", brightness="60"))
            await until(lambda: mapper.heard("UpdateDevice"))
            await mapper.report("d1", brightness=("60", "11"))
            assert sides(node, "brightness") == ("60", "11")
        await until(lambda: sides(node, "brightness") == ("60", "60"))
        assert online() == ["online"]


# --- what a mapper reports ---------------------------------------------------------------------------


async def test_a_report_reaches_the_cloud_and_goes_north(cloud: FakeCloud, data_dir: Path) -> None:
    async with a_node(data_dir, dmi=ON) as node:
        await linked(node, cloud)
        await with_device(cloud, temp="20")
        await until(lambda: node.core.twin.bound())
        mapper = Mapper(*sockets(data_dir))
        await mapper.report("d1", temp=("20", "19"))
        await until(lambda: cloud.uploads)
        assert cloud.uploads[0].payload == b'{"temp":19}'
        assert (cloud.uploads[0].device, cloud.uploads[0].twin_owned) == ("default:d1", True)
        await until(lambda: cloud.reported("temp") == ["19"])


async def test_observed_values_become_wishes_only_when_they_are_new(
    cloud: FakeCloud, data_dir: Path
) -> None:
    def version() -> Any:
        return node.core.twin.twins(D1)["temp"].expected_version

    async with a_node(data_dir, dmi=ON) as node, a_mapper(*sockets(data_dir)) as mapper:
        await linked(node, cloud)
        await with_device(cloud, temp="20")
        await until(lambda: node.core.twin.bound())
        await mapper.register()
        await until(lambda: is_served(node))
        before = version()
        await mapper.report("d1", temp=("20", "1"))
        assert version() == before
        await cloud.push("device", "d1", a_device(protocol="profinet", temp="25"))
        await until(lambda: mapper.heard("UpdateDevice"))
        await mapper.report("d1", temp=("20", "2"))  # crosses the new wish
        assert sides(node, "temp") == ("25", "2")
        await mapper.report("d1", temp=("40", "3"))  # somebody turned a knob
        assert sides(node, "temp") == ("40", "3")


async def test_half_a_twin_leaves_the_other_half(cloud: FakeCloud, data_dir: Path) -> None:
    async with a_node(data_dir, dmi=ON) as node:
        await linked(node, cloud)
        await with_device(cloud, temp="20")
        await until(lambda: node.core.twin.bound())
        mapper = Mapper(*sockets(data_dir))
        await mapper.report("d1", temp=(None, "5"))
        assert sides(node, "temp") == ("20", "5")
        await mapper.report("d1", temp=("21", None))
        assert sides(node, "temp") == ("21", "5")


async def test_reports_of_no_use_are_refused_with_a_status(
    cloud: FakeCloud, data_dir: Path
) -> None:
    async with a_node(data_dir, dmi=ON) as node:
        await linked(node, cloud)
        await with_device(cloud, temp="20")
        await until(lambda: node.core.twin.bound())
        mapper = Mapper(*sockets(data_dir))
        code = grpc.StatusCode
        assert (await refused(mapper.report("d1")))[0] is code.INVALID_ARGUMENT
        assert (await refused(mapper.report("none", temp=("1", "1"))))[0] is code.NOT_FOUND
        assert (await refused(mapper.report("d1", temp=(None, "warm"))))[0] is code.INVALID_ARGUMENT
        assert (await refused(mapper.state("d1", "sleepy")))[0] is code.INVALID_ARGUMENT
        await refused(mapper.report("d1", label=(None, "kept"), temp=(None, "warm")))
        assert sides(node, "label") == (None, "kept")


async def test_a_state_is_kept_and_goes_to_the_cloud(cloud: FakeCloud, data_dir: Path) -> None:
    async with a_node(data_dir, dmi=ON) as node:
        await linked(node, cloud)
        await with_device(cloud, temp="20")
        await until(lambda: node.core.twin.bound())
        await Mapper(*sockets(data_dir)).state("d1", "unhealthy")
        assert [each.state for each in node.core.twin.members()] == ["unhealthy"]
        await until(lambda: b'{"state":"unhealthy"}' in [each.payload for each in cloud.uploads])


# --- who may register, and how often -----------------------------------------------------------------


async def test_a_mapper_without_data_or_with_a_foreign_socket_is_not_called(
    cloud: FakeCloud, data_dir: Path
) -> None:
    async with a_node(data_dir, dmi=ON) as node:
        mapper = Mapper(*sockets(data_dir))
        assert not (await mapper.register(with_data=False)).deviceList
        for address in ("/etc/passwd", "relative", "127.0.0.1:80", ""):
            if address:
                status, text = await refused(mapper.register(address=address))
                assert status is grpc.StatusCode.INVALID_ARGUMENT
                assert "mapper.address" in text
        assert node.core.dmi is not None
        assert node.core.dmi.facts() == []


async def test_calls_over_the_burst_are_refused(cloud: FakeCloud, data_dir: Path) -> None:
    few = Dmi(enabled=True, burst=3, calls_per_second=0.001)
    async with a_node(data_dir, dmi=few):
        mapper = Mapper(*sockets(data_dir))
        for _ in range(3):
            await mapper.register(with_data=False)
        status, _ = await refused(mapper.register(with_data=False))
        assert status is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_an_unknown_method_is_unimplemented(cloud: FakeCloud, data_dir: Path) -> None:
    async with a_node(data_dir, dmi=ON):
        path = "/v1beta1.DeviceManagerService/Other"
        async with grpc.aio.insecure_channel(f"unix:{sockets(data_dir)[0]}") as channel:
            call: Any = channel.unary_unary(path, bytes, bytes)
            assert (await refused(call(b"")))[0] is grpc.StatusCode.UNIMPLEMENTED


# --- bytes that no mapper should send ----------------------------------------------------------------

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\0" * 100,
        PREFACE + b"\xff" * 60,
        PREFACE + b"\0\0\4\1\4\0\0\0\1\xff\xff\xff\xff",  # headers that cannot be read
        PREFACE + b"\0\0\1\0\1\0\0\0\1x",  # data on a stream that is not open
        PREFACE[:10],
    ],
)
async def test_garbage_ends_its_own_connection_and_nothing_else(
    cloud: FakeCloud, data_dir: Path, data: bytes
) -> None:
    async with a_node(data_dir, dmi=ON):
        path = sockets(data_dir)[0]
        reader, writer = await asyncio.open_unix_connection(str(path))
        writer.write(data)
        writer.write_eof()
        async with asyncio.timeout(20):
            await reader.read()
        writer.close()
        await Mapper(*sockets(data_dir)).register(with_data=False)


async def test_a_message_that_says_it_is_huge_is_refused_unread(
    cloud: FakeCloud, data_dir: Path
) -> None:
    async with a_node(data_dir, dmi=ON):
        mapper = Mapper(*sockets(data_dir))
        huge = message("MapperRegisterRequest")()
        huge.mapper.name = "x" * (5 * 1024 * 1024)
        status, text = await refused(mapper.call("MapperRegister", huge))
        assert status is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "at most" in text


async def test_bytes_that_are_no_message_are_an_invalid_argument(
    cloud: FakeCloud, data_dir: Path
) -> None:
    path = "/v1beta1.DeviceManagerService/MapperRegister"
    async with (
        a_node(data_dir, dmi=ON),
        grpc.aio.insecure_channel(f"unix:{sockets(data_dir)[0]}") as channel,
    ):
        call: Any = channel.unary_unary(path, bytes, bytes)
        assert (await refused(call(b"\xff\xff")))[0] is grpc.StatusCode.INVALID_ARGUMENT


async def test_what_answers_in_place_of_a_mapper_and_is_none_does_no_harm(
    cloud: FakeCloud, data_dir: Path
) -> None:
    async with a_node(data_dir, dmi=ON) as node:
        await linked(node, cloud)
        seen: list[bytes] = []

        async def nonsense(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            seen.append(await reader.read(10))
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
            writer.close()

        server = await asyncio.start_unix_server(nonsense, sockets(data_dir)[1])
        mapper = Mapper(*sockets(data_dir))
        await mapper.register()
        await until(lambda: len(seen) >= 2)
        await with_device(cloud, temp="20")
        await mapper.report("d1", temp=(None, "6"))
        server.close()
        assert sides(node, "temp") == ("20", "6")


# --- life --------------------------------------------------------------------------------------------


async def test_the_socket_goes_with_the_edge_and_a_stale_one_is_replaced(
    cloud: FakeCloud, data_dir: Path
) -> None:
    path = sockets(data_dir)[0]
    async with a_node(data_dir, dmi=ON):
        assert path.is_socket()
    assert not path.exists()
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    async with a_node(data_dir, dmi=ON):
        await Mapper(*sockets(data_dir)).register(with_data=False)


def test_an_edge_without_dmi_loads_no_grpc() -> None:
    script = (
        "import sys, edge.core; print([m for m in ('grpclib', 'h2', 'hpack') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"
