"""Mappers over time: two for one protocol, leftovers, long lists, traces, too many calls."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

import edge.dmi
import edge.unarygrpc
from edge.store import EdgeStore, MetaObject
from edge.unarygrpc import CallFailed, GrpcClient, GrpcServer
from gateway.config.edge_services import Dmi
from gateway.errors import GatewayError, InvalidSetting, TooLarge, Undeliverable
from gateway.model.json import JsonObject
from gateway.wire.cloudedge.names import Operation
from gateway.wire.cloudedge.twins import MemberDevice
from gateway.wire.dmi.anyvalues import Numbers
from gateway.wire.dmi.messages import encode
from tests.dmi_peer import Mapper, a_mapper
from tests.integration.edge_cloud import FakeCloud, a_cloud
from tests.integration.edge_node import a_device, a_node, join_edge, linked
from tests.integration.edge_support import until
from tests.integration.test_dmi import is_served, refused, sockets, with_device

ON = Dmi(enabled=True)


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


async def test_of_two_mappers_of_a_protocol_the_later_serves(
    cloud: FakeCloud, data_dir: Path
) -> None:
    path, first = sockets(data_dir)
    second = first.with_name("second.sock")
    async with (
        a_node(data_dir, dmi=ON) as node,
        a_mapper(path, first) as old,
        a_mapper(path, second) as new,
    ):
        await linked(node, cloud)
        await old.register()
        await until(lambda: is_served(node))
        await new.register()
        await until(lambda: is_served(node))
        await with_device(cloud, temp="20")
        await until(lambda: new.heard("RegisterDevice"))
        assert old.told == []


async def test_a_device_that_went_while_the_edge_was_down_is_removed_when_it_is_reported(
    cloud: FakeCloud, data_dir: Path
) -> None:
    async with a_mapper(*sockets(data_dir)) as mapper:
        async with a_node(data_dir, dmi=ON) as node:
            await linked(node, cloud)
            await mapper.register()
        async with a_node(data_dir, dmi=ON) as node:
            await until(lambda: is_served(node))
            status, _ = await refused(mapper.report("left", temp=("1", "1")))
            assert status is grpc.StatusCode.NOT_FOUND
            await until(lambda: mapper.heard("RemoveDevice"))
            assert mapper.heard("RemoveDevice")[0].deviceName == "left"


async def test_a_mapper_that_left_is_told_what_went_in_the_meantime(
    cloud: FakeCloud, data_dir: Path
) -> None:
    async with a_node(data_dir, dmi=ON) as node:
        await linked(node, cloud)
        await with_device(cloud, temp="20")
        await until(lambda: node.core.twin.bound())
        async with a_mapper(*sockets(data_dir)) as mapper:
            await mapper.register()
            await until(lambda: is_served(node))
        await until(lambda: not is_served(node))
        device = a_device(protocol="profinet", temp="20")
        await cloud.push("device", "d1", device, Operation.DELETE)
        async with a_mapper(*sockets(data_dir)) as mapper:
            await until(lambda: mapper.heard("RemoveDevice"))
            assert mapper.heard("RegisterDevice") == []


async def test_lists_too_long_for_one_message_are_told_one_by_one(
    cloud: FakeCloud, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def narrow(message: str, value: JsonObject, numbers: Numbers) -> bytes:
        data = encode(message, value, numbers)
        if len(data) > 40:
            raise TooLarge("more than 40 bytes")
        return data

    monkeypatch.setattr(edge.dmi, "encode", narrow)
    async with a_node(data_dir, dmi=ON) as node, a_mapper(*sockets(data_dir)) as mapper:
        await linked(node, cloud)
        await with_device(cloud, temp="20")
        await until(lambda: node.core.twin.bound())
        assert list((await mapper.register()).deviceList) == []
        await until(lambda: mapper.heard("UpdateDevice"))
        assert mapper.heard("RegisterDevice")[0].device.name == "d1"


async def test_a_wish_can_be_followed_to_the_mapper(cloud: FakeCloud, data_dir: Path) -> None:
    async with a_node(data_dir, dmi=ON) as node, a_mapper(*sockets(data_dir)) as mapper:
        await linked(node, cloud)
        await mapper.register()
        await until(lambda: is_served(node))
        await with_device(cloud, temp="20")
        await until(lambda: mapper.heard("RegisterDevice"))
        assert all(len(trace.split("-")) == 4 for trace in mapper.traces)


async def test_numbers_can_keep_their_type(cloud: FakeCloud, data_dir: Path) -> None:
    exact = Dmi(enabled=True, numbers="exact")
    async with a_node(data_dir, dmi=exact) as node, a_mapper(*sockets(data_dir)) as mapper:
        await linked(node, cloud)
        await mapper.register()
        await until(lambda: is_served(node))
        device = a_device(protocol="profinet", temp="20")
        device["spec"]["protocol"]["configData"] = {"serial": 16_777_217}
        await cloud.push("device", "d1", device)
        await until(lambda: mapper.heard("RegisterDevice"))
        config: Any = mapper.heard("RegisterDevice")[0].device.spec.protocol.configData.data
        assert config["serial"].type_url.endswith(".Int64Value")


async def test_a_mapper_finds_its_place_below_a_relative_data_directory(
    cloud: FakeCloud, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(data_dir.parent)
    async with a_node(Path(data_dir.name), dmi=ON) as node, a_mapper(*sockets(data_dir)) as mapper:
        await mapper.register()
        await until(lambda: is_served(node))


@pytest.mark.parametrize(
    "settings",
    [
        Dmi(enabled=True, numbers="roman"),
        Dmi(enabled=True, burst=0),
        Dmi(enabled=True, calls_per_second=0.0),
    ],
)
async def test_a_bad_setting_is_named_at_the_start(
    cloud: FakeCloud, data_dir: Path, settings: Dmi
) -> None:
    with pytest.raises(InvalidSetting, match=r"edge\.dmi\."):
        async with a_node(data_dir, dmi=settings):
            pass


async def test_a_stored_mapper_that_cannot_be_read_is_left_out(
    cloud: FakeCloud, data_dir: Path
) -> None:
    async with a_node(data_dir, dmi=ON) as node:
        store = next(each for each in node.core.modules if isinstance(each, EdgeStore))
        kept: asyncio.Future[GatewayError | None] = asyncio.get_running_loop().create_future()
        store.put_meta(MetaObject("devicemapper/odd", "devicemapper", "{}"), kept.set_result)
        assert await kept is None
        await Mapper(*sockets(data_dir)).register()
    async with a_node(data_dir, dmi=ON) as node:
        assert node.core.dmi is not None
        facts: list[Any] = node.core.dmi.facts()
        assert [fact["protocol"] for fact in facts] == ["profinet"]


# --- calls by themselves -----------------------------------------------------------------------------


async def echo(request: bytes) -> bytes:
    return request


async def a_server(path: Path, calls: dict[str, Any]) -> GrpcServer:
    server = GrpcServer(calls)
    await server.listen(edge.dmi.open_socket(path))
    return server


async def test_our_client_and_server_understand_each_other(tmp_path: Path) -> None:
    path = tmp_path / "a.sock"
    server = await a_server(path, {"/x/Echo": echo})
    client = await GrpcClient.connect(str(path), 5)
    big = bytes(3 * 1024 * 1024)
    assert await client.call("/x/Echo", b"", 10) == b""
    assert await client.call("/x/Echo", big, 30) == big
    with pytest.raises(CallFailed, match="UNIMPLEMENTED: no such method"):
        await client.call("/x/Other", b"", 10)
    assert await client.call("/x/Echo", b"still", 10) == b"still"
    await server.close()
    await until(lambda: client.is_lost)
    with pytest.raises(Undeliverable):
        await client.call("/x/Echo", b"", 10)


async def test_calls_over_the_limit_are_refused_while_others_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edge.unarygrpc, "MAX_CALLS", 2)
    go, begun = asyncio.Event(), 0

    async def slow(request: bytes) -> bytes:
        nonlocal begun
        begun += 1
        await go.wait()
        return request

    path = tmp_path / "a.sock"
    server = await a_server(path, {"/x/Slow": slow})
    client = await GrpcClient.connect(str(path), 5)
    first = [asyncio.create_task(client.call("/x/Slow", b"1", 20)) for _ in range(2)]
    await until(lambda: begun == 2)
    with pytest.raises(CallFailed, match="RESOURCE_EXHAUSTED"):
        await client.call("/x/Slow", b"2", 10)
    go.set()
    assert await asyncio.gather(*first) == [b"1", b"1"]
    client.close()
    await server.close()


async def test_a_call_whose_connection_is_cut_is_undeliverable_and_can_be_cancelled(
    tmp_path: Path,
) -> None:
    begun = asyncio.Event()

    async def never(request: bytes) -> bytes:
        begun.set()
        await asyncio.Event().wait()
        return request

    path = tmp_path / "a.sock"
    server = await a_server(path, {"/x/Never": never})
    client = await GrpcClient.connect(str(path), 5)
    call = asyncio.create_task(client.call("/x/Never", b"", 20))
    await begun.wait()
    await server.close()
    with pytest.raises(Undeliverable):
        await call
    assert call.cancelling() == 0

    server = await a_server(path, {"/x/Never": never})
    client = await GrpcClient.connect(str(path), 5)
    begun.clear()
    call = asyncio.create_task(client.call("/x/Never", b"", 20))
    await begun.wait()
    call.cancel()
    client.close()  # both at once: the cancellation must not get lost
    with pytest.raises(asyncio.CancelledError):
        await call
    await server.close()


async def test_no_answer_in_time_is_undeliverable(tmp_path: Path) -> None:
    async def never(request: bytes) -> bytes:
        await asyncio.Event().wait()
        return request

    path = tmp_path / "a.sock"
    server = await a_server(path, {"/x/Never": never, "/x/Echo": echo})
    client = await GrpcClient.connect(str(path), 5)
    with pytest.raises(Undeliverable, match="no answer within"):
        await client.call("/x/Never", b"", 0.05)
    assert await client.call("/x/Echo", b"x", 10) == b"x"
    client.close()
    await server.close()
