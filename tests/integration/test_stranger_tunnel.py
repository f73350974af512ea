"""The stream tunnel with strangers in Go, on what KubeEdge uses: gorilla/websocket, encoding/json."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from gateway.config.edge_services import EdgeStream
from tests.cloud_rig import a_cloud, join
from tests.go_peers import GoPeer, go_peer, go_program
from tests.integration.edge_cloud import a_cloud as a_made_up_cloud
from tests.integration.edge_node import a_node, join_edge
from tests.integration.edge_support import until
from tests.integration.test_stream_tunnel import BIG, HELLO, Kubelet, Rig, a_client, a_kubelet

NODE = "go-edge"
LOGS, EXEC, METRICS, DATA, REMOVE, CLOSE = range(6)
NO_NODE: Any = None


# --- their edge at our cloud -------------------------------------------------------------------------


@asynccontextmanager
async def a_go_edge(folder: Path) -> AsyncIterator[tuple[Rig, GoPeer]]:
    """A node whose tunnel is written in Go, between our port 10003 and a made-up kubelet."""
    go_program("tunnel")
    async with a_cloud(folder) as cloud, a_kubelet() as kubelet:
        certificate, rig = (
            await join(cloud, NODE),
            Rig(cloud, NO_NODE, kubelet, await a_client(cloud)),
        )
        arguments = {
            "-role": "edge",
            "-cert": str(certificate.path),
            "-ca": str(folder / "ca.pem"),
            "-server": f"127.0.0.1:{cloud.process.endpoints.port('tunnel.wss')}",
            "-node": NODE,
            "-kubelet": kubelet.address,
        }
        async with go_peer("tunnel", *(a for pair in arguments.items() for a in pair)) as edge:
            await edge.event("connected")
            await until(lambda: rig.tunnels() == 1)
            yield rig, edge


async def test_curl_reads_logs_and_metrics_of_a_go_edge(tmp_path: Path) -> None:
    async with a_go_edge(tmp_path) as (rig, edge):
        path = "/containerLogs/default/p1/c"
        assert await rig.curl(f"{path}?tailLines=5&timestamps=true", NODE) == (200, HELLO)
        asked = await edge.event("asked")
        assert asked["id"] == asked["connection"]
        assert asked["url"] == f"http://127.0.0.1:10350{path}?tailLines=5&timestamps=true"
        assert rig.kubelet.asked == [(path, "tailLines=5&timestamps=true")]
        assert await rig.curl("/stats/summary", NODE) == (200, b'{\n "node": 1\n}\n')
        assert await rig.curl("/containerLogs/default/big/c", NODE) == (200, BIG)
        assert await rig.curl(path, "192.0.2.7") == (200, HELLO)


async def test_a_go_edge_is_told_when_the_client_of_a_followed_log_goes(tmp_path: Path) -> None:
    async with a_go_edge(tmp_path) as (rig, edge):
        client = await rig.start("/containerLogs/default/p1/c?follow=true", NODE)
        assert client.stdout is not None
        assert await asyncio.wait_for(client.stdout.readexactly(len(HELLO)), 10) == HELLO
        client.terminate()
        await client.communicate()
        await edge.event("ended")
        await until(lambda: rig.kubelet.followers == 0)


async def test_a_shell_through_a_go_edge_works_both_ways(tmp_path: Path) -> None:
    async with a_go_edge(tmp_path) as (rig, edge):
        async with rig.shell("/exec/default/p1/c?command=sh", NODE) as shell:
            for text in (b"one", b"two" * 30_000):
                await shell.send_bytes(text)
                assert await shell.receive_bytes(timeout=10) == text
            await shell.send_bytes(b"exit")
            await shell.receive(timeout=10)
        asked = await edge.event("asked")
        assert (asked["type"], asked["method"], asked["upgrade"]) == (EXEC, "GET", "websocket")
        await edge.event("ended")


# --- our edge at their cloud -------------------------------------------------------------------------


@dataclass
class GoCloud:
    """What a cloud in Go asked through the tunnel of our edge, and what it got."""

    peer: GoPeer
    kubelet: Kubelet

    async def ask(self, number: int, kind: int, path: str, query: str = "", **header: str) -> None:
        headers = {name.replace("_", "-"): [value] for name, value in header.items()}
        await self.peer.tell(
            {"connection": number, "type": kind, "path": path, "query": query}
            | {"header": headers, "method": "GET" if kind == EXEC else ""}
        )

    def frames(self, number: int) -> list[tuple[int, bytes]]:
        return [
            (told["type"], base64.b64decode(told["data"] or ""))
            for told in self.peer.told
            if told["event"] == "frame" and told["connection"] == number
        ]

    def said(self, number: int) -> bytes:
        return b"".join(data for kind, data in self.frames(number) if kind == DATA)

    async def end(self, number: int) -> bytes:
        """Wait for the end of a connection: all that came on it."""
        await until(lambda: any(kind == REMOVE for kind, _ in self.frames(number)))
        return self.said(number)


@asynccontextmanager
async def a_go_cloud(folder: Path) -> AsyncIterator[GoCloud]:
    go_program("tunnel")
    files = folder / "cloud"
    files.mkdir()
    async with a_made_up_cloud(files) as hub, a_kubelet() as kubelet:
        await join_edge(hub, folder / "edge")
        arguments = ("-cert", str(files / "server.pem"), "-ca", str(files / "ca.pem"))
        async with go_peer("tunnel", "-role", "cloud", *arguments) as peer:
            server = (await peer.event("listening"))["tunnel"]
            stream = EdgeStream(server=server, kubelet=kubelet.address)
            async with a_node(folder / "edge", drivers={}, stream=stream):
                connected = await peer.event("connected")
                assert (connected["node"], bool(connected["address"])) == ("edge-1", True)
                assert "system:node:edge-1" in connected["subject"]
                yield GoCloud(peer, kubelet)


async def test_a_go_cloud_reads_logs_and_metrics_of_our_edge(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.stream.PING_SECONDS", 0.05)
    async with a_go_cloud(tmp_path) as cloud:
        assert (await cloud.peer.event("ping"))["text"] == "ping you"
        await cloud.ask(1, LOGS, "/containerLogs/default/p1/c", "tailLines=5")
        assert await cloud.end(1) == HELLO
        await cloud.ask(2, METRICS, "/stats/summary", Accept="application/json")
        assert await cloud.end(2) == b'{\n "node": 1\n}\n'
        assert [data for kind, data in cloud.frames(2) if kind == DATA] == [
            b"{\n",
            b' "node": 1\n',
            b"}\n",
        ]
        await cloud.ask(300, LOGS, "/containerLogs/default/big/c")
        assert await cloud.end(300) == BIG
        assert max(len(data) for _, data in cloud.frames(300)) == 256


async def test_a_go_cloud_gets_a_raw_connection_and_ends_it(tmp_path: Path) -> None:
    async with a_go_cloud(tmp_path) as cloud:
        await cloud.ask(
            1,
            EXEC,
            "/exec/default/p1/c",
            "command=sh",
            Connection="Upgrade",
            Upgrade="websocket",
            Sec_WebSocket_Version="13",
            Sec_WebSocket_Key="dGhlIHNhbXBsZSBub25jZQ==",
        )
        await until(lambda: b"\r\n\r\n" in cloud.said(1))
        assert cloud.said(1).startswith(b"HTTP/1.1 101 ")
        await until(lambda: cloud.kubelet.followers == 1)
        await cloud.peer.tell({"connection": 1, "type": CLOSE})
        await cloud.end(1)
        await until(lambda: cloud.kubelet.followers == 0)
