"""Two CloudCores of one cluster: what is for a node goes to the one that has it. Curl, real ends."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from cloud.certificates import make_ca, make_peer
from cloud.peers import FORWARDED
from cloud.restrictions import TUNNEL
from cloud.streamport import CONFIG_MAP, RECORD
from gateway.config.cloud_services import Router, Stream
from gateway.config.edge_services import EdgeStream, ServiceBus
from gateway.model.json import JsonObject
from gateway.wire.cloudedge.names import Operation
from gateway.wire.cloudedge.subjects import Subject
from tests.cloud_pair import another_cloud
from tests.cloud_rig import FREE, CloudCore, a_cloud, an_edge, eventually, join
from tests.integration.edge_node import Node, a_node
from tests.integration.edge_support import until
from tests.integration.test_cloud_router import Rig as RouterRig
from tests.integration.test_cloud_router import Service, a_service, curl, pytestmark, to_service
from tests.integration.test_edge_real_cloud import join_cloud
from tests.integration.test_stream_tunnel import HELLO, Kubelet, a_client, a_kubelet
from tests.integration.test_stream_tunnel import Rig as StreamRig

__all__ = ["pytestmark"]

ONE, TWO = "127.0.0.1", "127.0.0.2"
TOKEN = "0123456789abcdef"
LOG = "/containerLogs/default/p1/c"
AWAY: Any = None
"""In place of a node that does not run."""


@dataclass
class Pair:
    """A node that is at the second of two CloudCores."""

    one: CloudCore
    two: CloudCore
    node: Node
    kubelet: Kubelet
    folder: Path

    def at(self, cloud: CloudCore) -> RouterRig:
        return RouterRig(cloud, self.node)

    async def stream_at(self, cloud: CloudCore) -> StreamRig:
        return StreamRig(cloud, self.node, self.kubelet, await a_client(self.one))


@asynccontextmanager
async def a_pair(
    tmp_path: Path, *, token: str = "", client_ca: str = "", hub_at: str = TWO
) -> AsyncIterator[Pair]:
    """Two CloudCores on one API, on the same ports of two addresses; the node is at the second."""
    access: dict[str, Any] = {"enabled": True, "timeout": 10.0}
    if token:
        file = tmp_path / "token"
        file.write_text(token)
        access["token_file"] = str(file)
    async with AsyncExitStack() as up:
        kubelet = await up.enter_async_context(a_kubelet())
        one = await up.enter_async_context(
            a_cloud(
                tmp_path / "one",
                router=Router(bind=FREE, **access),
                stream=Stream(bind=FREE, tunnel_bind=FREE, client_ca=client_ca),
            )
        )
        ports = one.process.endpoints
        two = await up.enter_async_context(
            another_cloud(
                one,
                tmp_path / "two",
                advertise=(TWO,),
                router=Router(bind=f"{TWO}:{ports.port('router.http')}", **access),
                stream=Stream(bind=f"{TWO}:{ports.port('stream.https')}", tunnel_bind=f"{TWO}:0"),
            )
        )
        await join_cloud(two, tmp_path / "edge")
        tunnel = EdgeStream(
            server=f"{TWO}:{two.process.endpoints.port('tunnel.wss')}", kubelet=kubelet.address
        )
        node = await up.enter_async_context(
            a_node(
                tmp_path / "edge",
                drivers={},
                server=f"localhost:{ports.port('cloudhub.wss')}" if hub_at == ONE else "",
                stream=tunnel,
                servicebus=ServiceBus(enabled=True, bind=FREE),
            )
        )
        await until(lambda: node.core.node.is_registered)
        await until(lambda: two.sample("twinspan_cloud_tunnels") == 1)
        await told(one, hub_at)
        yield Pair(one, two, node, kubelet, tmp_path)


async def told(cloud: CloudCore, address: str) -> None:
    """Wait until the Node says where it is."""

    async def is_told() -> bool:
        node = await cloud.object("v1", "nodes", None, "edge-1")
        return bool(node["metadata"]["annotations"].get("cloudcore") == address)

    await eventually(is_told, "the annotation")


async def record(cloud: CloudCore) -> Any:
    found = await cloud.object("v1", "configmaps", "kubeedge", CONFIG_MAP)
    return json.loads(found["metadata"]["annotations"][RECORD])


# --- the router ------------------------------------------------------------------------------------


async def test_a_request_goes_to_the_service_of_a_node_at_another_cloudcore(tmp_path: Path) -> None:
    with a_service() as port:
        async with a_pair(tmp_path) as pair:
            await to_service(pair.at(pair.two), port)
            url = pair.at(pair.one).url("/edge-1/default/api/a%20b/404?x=1%2F2")

            async def is_there() -> bool:
                return (await curl(url, "-d", "hello", "-H", "X-Kind: k", "-i"))[0] == 404

            await eventually(is_there)
            Service.asked.clear()
            status, text = await curl(url, "-d", "hello", "-H", "X-Kind: k", "-i")
            assert (status, text.endswith("got hello")) == (404, True)
            assert "x-kind: k\r\n" in text.lower()
            assert Service.asked == [("POST", "/v1/a%20b/404?x=1%2F2", "hello", None)]


async def test_a_forwarded_request_is_judged_and_is_not_forwarded_again(tmp_path: Path) -> None:
    with a_service() as port:
        async with a_pair(tmp_path, token=TOKEN) as pair:
            await to_service_with(pair, port)
            url = pair.at(pair.one).url("/edge-1/default/api/200")
            login = ("-H", f"Authorization: Bearer {TOKEN}")

            async def is_there() -> bool:
                return (await curl(url, *login))[0] == 200

            await eventually(is_there)
            assert (await curl(url))[0] == 401
            status, text = await curl(url, *login, "-H", f"{FORWARDED}: {TWO}")
            assert (status, "not connected here" in text) == (500, True)
            assert {authorization for *_, authorization in Service.asked} == {None}


async def to_service_with(pair: Pair, port: int) -> None:
    """As `to_service`, where callers must log in."""
    rig = pair.at(pair.two)
    await rig.ends("rest")
    properties: JsonObject = {"service_port": str(port)}
    end: JsonObject = {"ruleEndpointType": "servicebus", "properties": properties}
    await rig.apply("RuleEndpoint", "my-service", end)
    spec: JsonObject = {
        "source": "my-rest",
        "sourceResource": {"path": "/api"},
        "target": "my-service",
        "targetResource": {"path": "/v1/"},
    }
    await rig.apply("Rule", "call", spec)


async def test_what_is_said_of_a_node_counts_only_for_cloudcores_on_record(tmp_path: Path) -> None:
    asked = asyncio.Event()

    async def stranger(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.set()
        writer.close()

    with a_service() as port:
        async with a_cloud(tmp_path / "one", router=Router(enabled=True, bind=FREE)) as cloud:
            server = await asyncio.start_server(
                stranger, "127.0.0.3", cloud.process.endpoints.port("router.http")
            )
            async with server, an_edge(cloud, "edge-1", await join(cloud, "edge-1")) as edge:
                await edge.register()
            patch: JsonObject = {"metadata": {"annotations": {"cloudcore": "127.0.0.3"}}}
            await cloud.kube.patch("v1", "nodes", None, "edge-1", patch)
            rig = RouterRig(cloud, AWAY)
            await to_service(rig, port)

            async def is_refused() -> bool:
                status, text = await curl(rig.url("/edge-1/default/api/200"))
                return status == 503 and "no CloudCore known here" in text

            await eventually(is_refused)
            assert not asked.is_set()


async def test_a_cloudcore_that_is_away_is_a_bad_gateway(tmp_path: Path) -> None:
    with a_service() as port:
        async with a_cloud(tmp_path / "one", router=Router(enabled=True, bind=FREE)) as one:
            async with (
                another_cloud(one, tmp_path / "two", advertise=(TWO,)) as two,
                an_edge(two, "edge-1", await join(two, "edge-1")) as edge,
            ):
                await edge.register()
                await told(one, TWO)
            rig = RouterRig(one, AWAY)
            await to_service(rig, port)
            status, text = await curl(rig.url("/edge-1/default/api/200"))
            assert (status, f"CloudCore {TWO}" in text) == (502, True)


# --- the stream tunnel -----------------------------------------------------------------------------


async def log_of(rig: StreamRig, node: str = "edge-1") -> bytes:
    """Read a log, once the CloudCore asked has heard where the node is."""

    async def read() -> bytes:
        status, body = await rig.curl(LOG, node)
        return body if status == 200 else b""

    return await eventually(read, "a log")


async def test_logs_of_a_node_at_another_cloudcore(tmp_path: Path) -> None:
    async with a_pair(tmp_path) as pair:
        rig = await pair.stream_at(pair.one)
        assert await log_of(rig) == HELLO
        assert await rig.curl(f"{LOG}?tailLines=5&timestamps=true") == (200, HELLO)
        assert pair.kubelet.asked == [(LOG, ""), (LOG, "tailLines=5&timestamps=true")]
        forwarded = {"kind": "logs", "outcome": "forwarded"}
        assert pair.one.sample("twinspan_cloud_streams_total", **forwarded) == 2
        opened = {"kind": "logs", "outcome": "open"}
        assert pair.two.sample("twinspan_cloud_streams_total", **opened) == 2


async def test_api_servers_may_have_a_ca_of_their_own(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    ca = make_ca(now)
    client, file = make_peer(ca, now), tmp_path / "api.pem"
    (tmp_path / "api-ca.pem").write_text(ca.certificate_pem)
    file.write_bytes(client.key_pem + client.certificate_pem.encode())
    async with a_pair(tmp_path, client_ca=str(tmp_path / "api-ca.pem")) as pair:
        rig = await pair.stream_at(pair.one)
        rig.client = file
        assert await log_of(rig) == HELLO


async def test_logs_are_found_by_the_node_s_address_too(tmp_path: Path) -> None:
    async with a_pair(tmp_path) as pair:
        node = await pair.one.object("v1", "nodes", None, "edge-1")
        (address,) = [
            a["address"] for a in node["status"]["addresses"] if a["type"] == "InternalIP"
        ]
        rig = await pair.stream_at(pair.one)
        assert await log_of(rig, address) == HELLO


async def test_a_tunnel_may_be_at_another_cloudcore_than_the_hub_s_link(tmp_path: Path) -> None:
    async with a_pair(tmp_path, hub_at=ONE) as pair:
        rig = await pair.stream_at(pair.one)
        assert await log_of(rig) == HELLO
        node = await pair.one.object("v1", "nodes", None, "edge-1")
        assert node["metadata"]["annotations"][TUNNEL] == TWO
        assert node["metadata"]["annotations"]["cloudcore"] == ONE


async def test_a_log_that_is_followed_through_two_cloudcores_ends_with_its_client(
    tmp_path: Path,
) -> None:
    async with a_pair(tmp_path) as pair:
        rig = await pair.stream_at(pair.one)
        assert await log_of(rig) == HELLO
        client = await rig.start(f"{LOG}?follow=true")
        assert client.stdout is not None
        assert await asyncio.wait_for(client.stdout.readexactly(len(HELLO)), 10) == HELLO
        assert pair.kubelet.followers == 1
        client.terminate()
        await client.communicate()
        await until(lambda: pair.kubelet.followers == 0)


@pytest.mark.parametrize("verb", ["exec", "attach"])
async def test_a_shell_at_a_node_of_another_cloudcore_works_both_ways(
    tmp_path: Path, verb: str
) -> None:
    async with a_pair(tmp_path) as pair:
        rig = await pair.stream_at(pair.one)
        assert await log_of(rig) == HELLO
        async with rig.shell(f"/{verb}/default/p1/c?command=sh") as shell:
            for text in (b"one", b"two" * 30_000):
                await shell.send_bytes(text)
                assert await shell.receive_bytes(timeout=10) == text
            await shell.send_bytes(b"exit")
            await shell.receive(timeout=10)
        await until(lambda: pair.kubelet.followers == 0)


async def test_what_was_forwarded_once_is_not_forwarded_again(tmp_path: Path) -> None:
    async with a_pair(tmp_path) as pair:
        rig = await pair.stream_at(pair.one)
        assert await log_of(rig) == HELLO
        arguments = rig.arguments(LOG)
        arguments[1:1] = ["-H", f"{FORWARDED}: {TWO}"]
        run = await asyncio.create_subprocess_exec(*arguments, stdout=asyncio.subprocess.PIPE)
        out, _ = await run.communicate()
        assert out.endswith(b"503")
        assert b"no node has a tunnel here" in out


# --- the record ------------------------------------------------------------------------------------


async def test_each_cloudcore_has_a_port_and_nodes_say_theirs(tmp_path: Path) -> None:
    async with a_pair(tmp_path) as pair:
        assert await record(pair.one) == {
            "ipTunnelPort": {ONE: 10351, TWO: 10352},
            "port": {"10351": True, "10352": True},
        }

        async def port() -> int:
            node = await pair.one.object("v1", "nodes", None, "edge-1")
            return int(node["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"])

        async def is_two() -> bool:
            return await port() == 10352

        await eventually(is_two)
        async with an_edge(pair.one, "edge-1", await join(pair.one, "edge-1", replace=True)):
            await told(pair.one, ONE)

            async def is_one() -> bool:
                return await port() == 10351

            await eventually(is_one)


async def test_a_port_that_kubeedge_recorded_is_kept(tmp_path: Path) -> None:
    async with a_cloud(tmp_path, cloudcore=False) as base:
        text = '{"ipTunnelPort":{"127.0.0.1":10355,"192.0.2.1":10351},"port":{"10351":true}}'
        meta: JsonObject = {"name": CONFIG_MAP, "annotations": {RECORD: text}}
        await base.kube.create("v1", "configmaps", "kubeedge", {"metadata": meta})
        async with (
            another_cloud(base, tmp_path / "one"),
            another_cloud(base, tmp_path / "two", advertise=(TWO,)),
        ):
            assert (await record(base))["ipTunnelPort"] == {
                "127.0.0.1": 10355,
                "192.0.2.1": 10351,
                TWO: 10352,
            }


async def test_a_node_has_no_say_in_where_it_is(tmp_path: Path) -> None:
    async with (
        a_cloud(tmp_path) as cloud,
        an_edge(cloud, "edge-1", await join(cloud, "edge-1")) as edge,
    ):
        await edge.register()
        patch: JsonObject = {
            "metadata": {"annotations": {"cloudcore": "192.0.2.9", "mine": "1"}},
            "status": {"daemonEndpoints": {"kubeletEndpoint": {"Port": 1}}},
        }
        await edge.ask_object(Subject(None, "nodepatch", "edge-1"), Operation.PATCH, patch)
        node = await cloud.object("v1", "nodes", None, "edge-1")
        assert node["metadata"]["annotations"]["cloudcore"] == "127.0.0.1"
        assert node["metadata"]["annotations"]["mine"] == "1"
        assert node["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"] == 10351
