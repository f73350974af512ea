"""What an edge does alone: without its cloud, started again without it, and when it is back."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from gateway.config.edge_services import EdgeStream
from gateway.model.message import Kind
from gateway.wire.cloudedge.envelope import Envelope, Route, make
from gateway.wire.cloudedge.names import Group, Operation, Source
from gateway.wire.cloudedge.twins import MemberDevice
from tests.cloud_rig import a_cloud as a_real_cloud
from tests.dmi_peer import a_mapper
from tests.integration.edge_cloud import FakeCloud, a_cloud, stamp
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
from tests.integration.test_dmi import ON, desired, is_served, sockets
from tests.integration.test_edge_real_cloud import join_cloud
from tests.integration.test_mapper_push import a_lamp, a_sink
from tests.integration.test_stream_tunnel import HELLO, Rig, a_client, a_kubelet
from tests.tcp_proxy import a_proxy

AWAY = "127.0.0.1:1"
"""Where no cloud is."""


@pytest.fixture
async def cloud(tmp_path: Path) -> AsyncIterator[FakeCloud]:
    folder = tmp_path / "cloud"
    folder.mkdir()
    async with a_cloud(folder, FakeCloud) as served:
        served.members = [
            MemberDevice(id="default/lamp", name="lamp"),
            MemberDevice(id="default/d1", name="d1"),
        ]
        yield served


@pytest.fixture
async def data_dir(cloud: FakeCloud, tmp_path: Path) -> Path:
    await join_edge(cloud, tmp_path / "e")
    return tmp_path / "e"


def twin_of(node: Node, device: str) -> dict[str, tuple[str | None, str | None]]:
    """What is wanted and reported of each property, as a local client is told it."""
    document = node.heard(f"{device}/twin/get/result")[-1]["twin"]

    def side(twin: dict[str, dict[str, str]], name: str) -> str | None:
        return (twin.get(name) or {}).get("value")

    return {name: (side(t, "expected"), side(t, "actual")) for name, t in document.items()}


async def asked(node: Node, device: str) -> dict[str, tuple[str | None, str | None]]:
    await node.publish(f"$hw/events/device/default/{device}/twin/get", {})
    return twin_of(node, device)


async def test_drivers_and_pushes_work_after_a_restart_without_the_cloud(
    cloud: FakeCloud, data_dir: Path
) -> None:
    async with a_sink() as sink:
        http = {"hostName": "http://127.0.0.1", "port": sink.port, "requestPath": "/v"}
        async with a_node(data_dir) as node:
            await linked(node, cloud)
            await cloud.push("devicemodel", "m1", LAMP_MODEL)
            await cloud.push("device", "lamp", a_lamp({"http": http}, brightness="42"))
            await until(lambda: "42" in cloud.reported("brightness"))
        cloud.got.clear()
        sink.got.clear()
        async with a_node(data_dir, server=AWAY) as node:
            await until(lambda: any(body.startswith(b"brightness=42&") for *_, body in sink.got))
            assert await asked(node, "lamp") == {"brightness": ("42", "42")}
            await until(lambda: node.core.spool.depths[Kind.TELEMETRY].messages)
            waiting = node.core.spool.depths[Kind.TELEMETRY].messages
        assert cloud.got == []
        async with a_node(data_dir) as node:
            await linked(node, cloud)
            await until(lambda: len(telemetry(cloud)) >= waiting)


def telemetry(cloud: FakeCloud) -> list[bytes]:
    return [u.payload for u in cloud.uploads if u.kind is Kind.TELEMETRY]


async def test_mappers_over_dmi_work_after_a_restart_without_the_cloud(
    cloud: FakeCloud, data_dir: Path
) -> None:
    async with a_mapper(*sockets(data_dir)) as mapper:
        async with a_node(data_dir, dmi=ON) as node:
            await linked(node, cloud)
            await cloud.push("devicemodel", "m1", MODEL)
            await cloud.push("device", "d1", a_device(protocol="profinet", temp="20"))
            await mapper.register()
            await until(lambda: is_served(node))
        cloud.got.clear()
        async with a_node(data_dir, dmi=ON, server=AWAY) as node:
            await until(lambda: mapper.heard("RegisterDevice"))
            assert desired(mapper.heard("RegisterDevice")[-1].device) == {"temp": "20"}
            await mapper.report("d1", temp=(None, "7"))
            assert await asked(node, "d1") == {"temp": ("20", "7")}
        assert cloud.reported("temp") == []
        async with a_node(data_dir, dmi=ON) as node:
            await linked(node, cloud)
            await until(lambda: cloud.reported("temp") == ["7"])


async def test_local_wishes_and_reports_outlive_a_restart_without_the_cloud(
    cloud: FakeCloud, data_dir: Path
) -> None:
    async with a_node(data_dir) as node:
        await linked(node, cloud)
        await cloud.push("devicemodel", "m1", MODEL)
        await cloud.push("device", "d1", a_device(temp="20"))
    for said in ("1", "2"):
        async with a_node(data_dir, server=AWAY) as node:
            assert await node.report("d1", temp=said) is None
            assert await asked(node, "d1") == {"temp": ("20", said)}
    cloud.got.clear()
    async with a_node(data_dir) as node:
        await linked(node, cloud)
        await until(lambda: cloud.reported("temp") == ["1", "2"])


async def test_a_stream_tunnel_that_broke_is_opened_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.stream.RETRY_SECONDS", 0.1)
    async with AsyncExitStack() as up:
        there = await up.enter_async_context(a_real_cloud(tmp_path / "there"))
        kubelet = await up.enter_async_context(a_kubelet())
        target = f"127.0.0.1:{there.process.endpoints.port('tunnel.wss')}"
        line = await up.enter_async_context(a_proxy(target))
        await join_cloud(there, tmp_path / "edge")
        server = f"localhost:{line.address.rpartition(':')[2]}"
        stream = EdgeStream(server=server, kubelet=kubelet.address)
        node = await up.enter_async_context(a_node(tmp_path / "edge", drivers={}, stream=stream))
        rig = Rig(there, node, kubelet, await a_client(there))
        await until(lambda: rig.tunnels() == 1)
        line.refuses = True
        line.cut()
        await until(lambda: rig.tunnels() == 0)
        status, _ = await rig.curl("/containerLogs/default/p1/c")
        assert status == 503
        line.refuses = False
        await until(lambda: rig.tunnels() == 1)
        assert await rig.curl("/containerLogs/default/p1/c") == (200, HELLO)


def of_the_router(operation: Operation, topic: str, content: str | None = None) -> Envelope:
    route = Route(Source.ROUTER_EVENT_BUS, "", Group.USER, operation, topic)
    return make(stamp(), route, content)


async def test_messages_for_rules_are_lost_without_the_cloud_and_pass_when_it_is_back(
    cloud: FakeCloud, data_dir: Path
) -> None:
    async with a_node(data_dir) as node:
        await linked(node, cloud)
        await cloud.send(of_the_router(Operation.SUBSCRIBE, "default/up"))
        await cloud.send(of_the_router(Operation.PUBLISH, "after", "it"))
        await until(lambda: ("after", b"it") in node.told)
    async with a_node(data_dir, server=AWAY) as node:
        assert await node.publish("default/up", b"lost") is None
    async with a_node(data_dir) as node:
        await linked(node, cloud)
        await node.publish("default/up", b"passes")
        await until(lambda: cloud.for_router)
        assert [u.payload for u in cloud.for_router] == [b"passes"]
