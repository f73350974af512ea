"""Logs and metrics of a node through the stream tunnel: curl, CloudCore, EdgeCore, a made-up kubelet."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from cloud.identity import read_ca
from gateway.config.edge_services import EdgeStream
from gateway.wire.cloudedge.tunnel import NODE_NAME, TUNNEL_PATH
from tests.cloud_rig import Certificate, CloudCore, a_cloud, fetch_ca, join
from tests.integration.edge_node import Node, a_node
from tests.integration.edge_support import until
from tests.integration.test_edge_real_cloud import join_cloud

HELLO = b"hello from pod\n"
BIG = bytes(range(256)) * 20_000


@dataclass
class Kubelet:
    """What answers behind the edge, and what it was asked."""

    address: str = ""
    asked: list[tuple[str, str]] = field(default_factory=list)
    encodings: list[str] = field(default_factory=list)
    followers: int = 0
    more: asyncio.Event = field(default_factory=asyncio.Event)

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/containerLogs/default/p1/c", self._logs)
        app.router.add_get("/containerLogs/default/big/c", self._big)
        app.router.add_get("/containerLogs/default/endless/c", self._endless)
        app.router.add_get("/stats/summary", self._stats)
        app.router.add_get("/exec/default/p1/c", self._exec)
        app.router.add_get("/attach/default/p1/c", self._exec)
        app.router.add_get("/pods", self._stats)
        return app

    def _note(self, request: web.Request) -> None:
        self.asked.append((request.path, request.query_string))
        self.encodings.append(request.headers.get("Accept-Encoding", ""))

    async def _logs(self, request: web.Request) -> web.StreamResponse:
        self._note(request)
        answer = web.StreamResponse()
        await answer.prepare(request)
        await answer.write(HELLO)
        if "follow" in request.query:
            self.followers += 1
            try:
                await self.more.wait()
            finally:
                self.followers -= 1
            await answer.write(b"and more\n")
        return answer

    async def _big(self, _request: web.Request) -> web.Response:
        return web.Response(body=BIG)

    async def _endless(self, request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        self.followers += 1
        try:
            while True:
                await answer.write(b"x" * 16_384)
        finally:
            self.followers -= 1

    async def _exec(self, request: web.Request) -> web.StreamResponse:
        """A shell that says everything again."""
        self._note(request)
        socket = web.WebSocketResponse(protocols=("v5.channel.k8s.io",))
        await socket.prepare(request)
        self.followers += 1
        try:
            async for message in socket:
                if message.data == b"exit":
                    break
                await socket.send_bytes(message.data)
        finally:
            self.followers -= 1
        return socket

    async def _stats(self, request: web.Request) -> web.Response:
        self._note(request)
        return web.Response(body=b'{\n "node": 1\n}')


@asynccontextmanager
async def a_kubelet() -> AsyncIterator[Kubelet]:
    kubelet = Kubelet()
    runner = web.AppRunner(
        kubelet.app(), access_log=None, shutdown_timeout=0.2, handler_cancellation=True
    )
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        kubelet.address = f"127.0.0.1:{runner.addresses[0][1]}"
        yield kubelet
    finally:
        await runner.cleanup()


async def a_client(cloud: CloudCore, common: str = "kube-apiserver") -> Path:
    """A client certificate of the cluster's CA, as API servers have one; PEM with its key."""
    pair = await read_ca(cloud.kube)
    ca = x509.load_der_x509_certificate(pair.certificate)
    signer = serialization.load_pem_private_key(pair.key_pem, None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)]))
        .issuer_name(ca.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(days=1))
        .sign(signer, hashes.SHA256())
    )
    path = cloud.data_dir / "client.pem"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        )
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    (cloud.data_dir / "ca.pem").write_bytes(ca.public_bytes(serialization.Encoding.PEM))
    return path


@dataclass
class Rig:
    """All that stands between a client and a kubelet."""

    cloud: CloudCore
    node: Node
    kubelet: Kubelet
    client: Path

    def arguments(self, path: str, node: str = "edge-1") -> list[str]:
        port = self.cloud.process.endpoints.port("stream.https")
        return [
            *("curl", "-sS", "-N", "--cert", str(self.client)),
            *("--cacert", str(self.cloud.data_dir / "ca.pem")),
            *("-H", f"Host: {node}:10351", "-w", "%{http_code}"),
            f"https://127.0.0.1:{port}{path}",
        ]

    async def curl(self, path: str, node: str = "edge-1") -> tuple[int, bytes]:
        """Status and body."""
        run = await self.start(path, node)
        out, _ = await asyncio.wait_for(run.communicate(), 30)
        return int(out[-3:]), out[:-3]

    async def start(self, path: str, node: str = "edge-1") -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *self.arguments(path, node), stdout=asyncio.subprocess.PIPE
        )

    @asynccontextmanager
    async def shell(
        self, path: str, node: str = "edge-1"
    ) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
        """A terminal as kubectl opens one since 1.31, by WebSocket."""
        context = Certificate(self.client).context(await fetch_ca(self.cloud))
        port = self.cloud.process.endpoints.port("stream.https")
        async with (
            aiohttp.ClientSession() as http,
            http.ws_connect(
                f"wss://localhost:{port}{path}",
                ssl=context,
                headers={"Host": f"{node}:10351"},
                protocols=("v5.channel.k8s.io",),
            ) as socket,
        ):
            yield socket

    def tunnels(self) -> float:
        return self.cloud.sample("twinspan_cloud_tunnels")


@asynccontextmanager
async def a_rig(folder: Path) -> AsyncIterator[Rig]:
    async with a_cloud(folder / "cloud") as cloud, a_kubelet() as kubelet:
        await join_cloud(cloud, folder / "edge")
        server = f"localhost:{cloud.process.endpoints.port('tunnel.wss')}"
        stream = EdgeStream(server=server, kubelet=kubelet.address)
        async with a_node(folder / "edge", drivers={}, stream=stream) as node:
            rig = Rig(cloud, node, kubelet, await a_client(cloud))
            await until(lambda: rig.tunnels() == 1)
            yield rig


async def test_curl_reads_a_log_and_metrics_of_a_node(tmp_path: Path) -> None:
    async with a_rig(tmp_path) as rig:
        path = "/containerLogs/default/p1/c"
        assert await rig.curl(f"{path}?tailLines=5&timestamps=true") == (200, HELLO)
        assert await rig.curl("/stats/summary") == (200, b'{\n "node": 1\n}\n')
        assert rig.kubelet.asked == [
            (path, "tailLines=5&timestamps=true"),
            ("/stats/summary", ""),
        ]
        assert rig.kubelet.encodings == ["identity", "identity"]


async def test_bytes_that_are_no_text_come_whole(tmp_path: Path) -> None:
    async with a_rig(tmp_path) as rig:
        assert await rig.curl("/containerLogs/default/big/c") == (200, BIG)


async def test_a_followed_log_comes_while_it_grows_and_ends_with_its_client(tmp_path: Path) -> None:
    async with a_rig(tmp_path) as rig:
        path = "/containerLogs/default/p1/c?follow=true"
        first, second = await rig.start(path), await rig.start(path)
        assert first.stdout is not None
        assert second.stdout is not None
        assert await asyncio.wait_for(first.stdout.readline(), 30) == HELLO
        assert await asyncio.wait_for(second.stdout.readline(), 30) == HELLO
        first.kill()
        await first.wait()
        await until(lambda: rig.kubelet.followers == 1)
        rig.kubelet.more.set()
        assert await asyncio.wait_for(second.stdout.readline(), 30) == b"and more\n"
        await second.communicate()


async def test_an_endless_log_ends_at_the_kubelet_when_its_client_goes(tmp_path: Path) -> None:
    async with a_rig(tmp_path) as rig:
        run = await rig.start("/containerLogs/default/endless/c")
        assert run.stdout is not None
        await asyncio.wait_for(run.stdout.readexactly(500_000), 30)
        run.kill()
        await run.communicate()
        await until(lambda: rig.kubelet.followers == 0)
        assert await rig.curl("/containerLogs/default/p1/c") == (200, HELLO)


@pytest.mark.parametrize(
    ("path", "node", "status"),
    [
        ("/containerLogs/default/missing/c", "edge-1", 404),
        ("/containerLogs/default/p1/c", "edge-9", 503),
        ("/containerLogs/%2e%2e/pods/x", "edge-1", 404),
        ("/run/default/p1/c", "edge-1", 404),
        ("/exec/default/p1/c", "edge-9", 503),
    ],
)
async def test_what_cannot_be_had_is_refused(
    tmp_path: Path, path: str, node: str, status: int
) -> None:
    async with a_rig(tmp_path) as rig:
        got, text = await rig.curl(path, node)
        assert (got, rig.kubelet.asked) == (status, [])
        assert text


async def test_a_node_may_not_ask_another_nodes_kubelet(tmp_path: Path) -> None:
    async with a_rig(tmp_path) as rig:
        rig.client = (await join(rig.cloud, "edge-2")).path
        got, text = await rig.curl("/containerLogs/default/p1/c")
        assert got == 403
        assert b"a node's does not do" in text
        assert rig.kubelet.asked == []


async def test_a_tunnel_is_opened_by_the_node_of_its_certificate_only(tmp_path: Path) -> None:
    async with a_rig(tmp_path) as rig:
        context = (await join(rig.cloud, "edge-2")).context(await fetch_ca(rig.cloud))
        port = rig.cloud.process.endpoints.port("tunnel.wss")
        async with aiohttp.ClientSession() as http:
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                await http.ws_connect(
                    f"wss://localhost:{port}{TUNNEL_PATH}",
                    ssl=context,
                    headers={NODE_NAME: "edge-1"},
                )
        assert refused.value.status == 403
        assert await rig.curl("/containerLogs/default/p1/c") == (200, HELLO)


@pytest.mark.parametrize("verb", ["exec", "attach"])
async def test_a_shell_works_both_ways_and_ends_from_either_end(tmp_path: Path, verb: str) -> None:
    async with a_rig(tmp_path) as rig:
        path = f"/{verb}/default/p1/c?command=sh&stdin=true"
        async with rig.shell(path) as socket:
            assert socket.protocol == "v5.channel.k8s.io"
            for said in (b"\x00ls\n", bytes(range(256)) * 2_000, b"\xff"):
                await socket.send_bytes(said)
                assert await asyncio.wait_for(socket.receive_bytes(), 30) == said
            await socket.send_bytes(b"exit")
            assert (await asyncio.wait_for(socket.receive(), 30)).type is aiohttp.WSMsgType.CLOSE
        async with rig.shell(path):
            await until(lambda: rig.kubelet.followers == 1)
        await until(lambda: rig.kubelet.followers == 0)
        assert rig.kubelet.asked[0] == (f"/{verb}/default/p1/c", "command=sh&stdin=true")


async def test_many_shells_share_a_tunnel(tmp_path: Path) -> None:
    async with a_rig(tmp_path) as rig, AsyncExitStack() as stack:
        shells = [
            await stack.enter_async_context(rig.shell("/exec/default/p1/c")) for _ in range(20)
        ]
        for number, shell in enumerate(shells):
            await shell.send_bytes(bytes([number]) * 5_000)
        for number, shell in enumerate(shells):
            assert await asyncio.wait_for(shell.receive_bytes(), 30) == bytes([number]) * 5_000


async def test_a_refused_shell_is_no_way_to_other_paths_of_the_kubelet(tmp_path: Path) -> None:
    async with a_rig(tmp_path) as rig:
        context = Certificate(rig.client).context(await fetch_ca(rig.cloud))
        port = rig.cloud.process.endpoints.port("stream.https")
        reader, writer = await asyncio.open_connection("localhost", port, ssl=context)
        writer.write(b"POST /exec/default/missing/c HTTP/1.1\r\nHost: edge-1\r\n\r\n")
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 30)
        assert head.startswith(b"HTTP/1.1 404 ")
        writer.write(b"GET /pods HTTP/1.1\r\nHost: edge-1\r\n\r\n")
        rest = await asyncio.wait_for(reader.read(), 30)
        writer.transport.abort()
        assert b"200 OK" not in rest
        assert rig.kubelet.asked == []
