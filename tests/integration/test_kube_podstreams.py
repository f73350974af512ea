"""Logs, exec, attach and port-forward reach a node's kubelet as they are, with kubectl and by hand."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest

from gateway.kube.client import KubeClient
from gateway.model.json import Json, JsonObject
from gateway.runtime.certificates import issue, kept, make_authority, save
from tests.kube_server import KubeServer, kube_server
from tests.kubectl import Kubectl, find_kubectls

UPGRADED = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n"


@dataclass
class Kubelet:
    """A kubelet that tells a log and echoes upgraded bytes; WebSockets it refuses, as old runtimes do."""

    folder: Path
    heads: list[str] = field(default_factory=list)
    users: list[str] = field(default_factory=list)
    port: int = 0
    refusal: str = ""
    later: bytes = b""
    """What came on the connection after a refusal, which does not end it."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        self.heads.append(head)
        shown = writer.get_extra_info("peercert") or {}
        self.users += [
            value for rdn in shown["subject"] for key, value in rdn if key == "commonName"
        ]
        try:
            await self._answer(head, reader, writer)
        finally:
            writer.close()

    async def _answer(
        self, head: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        if self.refusal:
            text = self.refusal.encode()
            writer.write(
                f"HTTP/1.1 400 Bad Request\r\nContent-Length: {len(text)}\r\n\r\n".encode()
            )
            writer.write(text)
            self.later = await reader.read(65_536)
        elif "containerLogs" in head:
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            for line in (b"one\n", b"two\n"):
                writer.write(f"{len(line):x}\r\n".encode() + line + b"\r\n")
            writer.write(b"0\r\n\r\n")
        elif "websocket" in head.lower():
            writer.write(
                b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            )
        else:
            writer.write(UPGRADED.encode())
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()

    def context(self, client_ca: Path) -> ssl.SSLContext:
        pair = kept(self.folder, "kubelet") or save(
            self.folder, "kubelet", issue(make_authority("kubelets"), "node-1", hosts=["127.0.0.1"])
        )
        assert pair.key
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.folder / "kubelet.crt", self.folder / "kubelet.key")
        context.load_verify_locations(client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
        return context


@asynccontextmanager
async def a_kubelet(server: KubeServer, folder: Path) -> AsyncIterator[Kubelet]:
    """A kubelet that takes certificates of the API's authority, and its Node and a Pod on it."""
    kubelet = Kubelet(folder)
    tls = kubelet.context(server.folder / "kube" / "ca.crt")
    listener = await asyncio.start_server(kubelet.serve, "127.0.0.1", 0, ssl=tls)
    kubelet.port = listener.sockets[0].getsockname()[1]
    async with listener:
        await place(server.api.client("test"), kubelet.port)
        yield kubelet


async def place(kube: KubeClient, port: int) -> None:
    endpoint: JsonObject = {"kubeletEndpoint": {"Port": port}}
    addresses: list[Json] = [{"type": "InternalIP", "address": "127.0.0.1"}]
    node: JsonObject = {"metadata": {"name": "node-1"}}
    node["status"] = {"addresses": addresses, "daemonEndpoints": endpoint}
    await kube.create("v1", "nodes", None, node)
    containers: list[Json] = [{"name": "c", "image": "i"}, {"name": "d", "image": "i"}]
    spec: JsonObject = {"nodeName": "node-1", "containers": containers}
    await kube.create("v1", "pods", "default", {"metadata": {"name": "p"}, "spec": spec})
    status: JsonObject = {"status": {"phase": "Running"}}
    await kube.patch("v1", "pods", "default", "p", status, subresource="status")


def session(server: KubeServer) -> aiohttp.ClientSession:
    tls = ssl.create_default_context(cafile=server.folder / "kube" / "ca.crt")
    return aiohttp.ClientSession(
        server.url,
        headers={"Authorization": f"Bearer {server.token}"},
        connector=aiohttp.TCPConnector(ssl=tls),
    )


POD = "/api/v1/namespaces/default/pods/p"


async def test_a_log_is_told_with_its_options(tmp_path: Path) -> None:
    async with (
        kube_server(tmp_path) as server,
        a_kubelet(server, tmp_path) as kubelet,
        session(server) as http,
    ):
        async with http.get(f"{POD}/log?container=c&tailLines=2&follow=true") as answer:
            assert (answer.status, await answer.text()) == (200, "one\ntwo\n")
        (head,) = kubelet.heads
        assert head.startswith("GET /containerLogs/default/p/c?follow=true&tailLines=2 HTTP/1.1")
        assert kubelet.users == ["kube-apiserver-kubelet-client"]


@pytest.mark.parametrize(
    ("path", "status", "told"),
    [
        ("log", 400, "a container name must be specified for pod p, choose one of: [c d]"),
        ("log?container=x", 400, "container x is not valid for pod p"),
        (
            "log?container=c&tailLines=-1",
            422,
            "tailLines: Invalid value: -1: must be greater than or",
        ),
        ("exec?command=ls&stdout=1&container=c", 400, "Upgrade request required"),
    ],
)
async def test_what_makes_no_sense_is_refused_before_the_node_is_asked(
    tmp_path: Path, path: str, status: int, told: str
) -> None:
    async with (
        kube_server(tmp_path) as server,
        a_kubelet(server, tmp_path) as kubelet,
        session(server) as http,
        http.get(f"{POD}/{path}") as answer,
    ):
        assert answer.status == status
        assert told in (await answer.json())["message"]
        assert kubelet.heads == []


async def test_what_the_kubelet_says_against_it_is_told(tmp_path: Path) -> None:
    async with (
        kube_server(tmp_path) as server,
        a_kubelet(server, tmp_path) as kubelet,
        session(server) as http,
    ):
        kubelet.refusal = 'container "c" in pod "p" is waiting to start: ContainerCreating'
        async with http.get(f"{POD}/log?container=c") as answer:
            assert answer.status == 400
            assert (await answer.json())["message"] == kubelet.refusal


async def test_a_node_that_is_away_is_named(tmp_path: Path) -> None:
    async with kube_server(tmp_path) as server, session(server) as http:
        await place(server.api.client("test"), 1)
        async with http.get(f"{POD}/log?container=c") as answer:
            assert answer.status == 503
            assert (
                "the kubelet of node node-1 cannot be reached" in (await answer.json())["message"]
            )


async def upgraded(
    server: KubeServer, path: str
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    tls = ssl.create_default_context(cafile=server.folder / "kube" / "ca.crt")
    host, _, port = server.endpoints.get("kube.https").rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port), ssl=tls)
    writer.write(
        f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {server.token}\r\n"
        "Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: v4.channel.k8s.io\r\n"
        "X-Stream-Protocol-Version: v3.channel.k8s.io\r\nContent-Length: 0\r\n\r\n".encode()
    )
    return reader, writer


async def test_an_upgrade_is_the_kubelets_from_its_head_on(tmp_path: Path) -> None:
    async with kube_server(tmp_path) as server, a_kubelet(server, tmp_path) as kubelet:
        path = f"{POD}/exec?container=c&command=a&command=b%20c&stdin=true&stdout=true&tty=true"
        reader, writer = await upgraded(server, path)
        assert (await reader.readuntil(b"\r\n\r\n")).decode() == UPGRADED
        sent = bytes(range(256)) * 4_096
        writer.write(sent)
        assert await reader.readexactly(len(sent)) == sent
        writer.close()
        (head,) = kubelet.heads
        line, *rest = head.lower().splitlines()
        assert line.startswith(
            "post /exec/default/p/c?input=1&output=1&tty=1&command=a&command=b+c "
        )
        assert rest.count("x-stream-protocol-version: v3.channel.k8s.io") == 1
        assert not [each for each in rest if each.startswith("authorization")]


async def test_the_end_of_the_kubelets_side_ends_the_clients(tmp_path: Path) -> None:
    async with kube_server(tmp_path) as server, a_kubelet(server, tmp_path) as kubelet:
        kubelet.refusal = "no"
        reader, _ = await upgraded(server, f"{POD}/portforward?ports=80")
        assert (await reader.read()).startswith(b"HTTP/1.1 400 Bad Request")
        assert kubelet.heads[0].startswith("POST /portForward/default/p?ports=80 ")


async def test_a_client_that_goes_leaves_no_line_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with kube_server(tmp_path) as server, a_kubelet(server, tmp_path):
        reader, writer = await upgraded(server, f"{POD}/exec?container=c&command=a&stdin=1")
        await reader.readuntil(b"\r\n\r\n")
        writer.close()
        await writer.wait_closed()
        await asyncio.sleep(0.1)
    assert [each.message for each in caplog.records if each.name == "asyncio"] == []


async def test_after_a_refusal_nothing_of_the_client_reaches_the_kubelet(tmp_path: Path) -> None:
    async with kube_server(tmp_path) as server, a_kubelet(server, tmp_path) as kubelet:
        kubelet.refusal = "no"
        reader, writer = await upgraded(server, f"{POD}/exec?container=c&command=a&stdout=1")
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 400 Bad Request")
        writer.write(b"POST /run/kube-system/other/c?cmd=id HTTP/1.1\r\nHost: x\r\n\r\n")
        assert await reader.read() == b"no"
        assert kubelet.later == b""


@pytest.mark.parametrize("name", list(find_kubectls()))
async def test_kubectl_reads_logs_and_tries_spdy_where_the_runtime_has_no_websockets(
    tmp_path: Path, name: str
) -> None:
    async with kube_server(tmp_path) as server, a_kubelet(server, tmp_path) as kubelet:
        kubectl = Kubectl(find_kubectls()[name], server.kubeconfig, tmp_path)
        assert (await kubectl.ok("logs", "p", "-c", "d")).out.strip() == "one\ntwo"
        # The echo is no answer to kubectl's frames, so that the command fails; what counts is how it asks.
        ran = await kubectl.run("exec", "p", "-c", "c", "--", "true")
        assert ran.code != 0
        assert "Upgrade: SPDY/3.1" in kubelet.heads[-1]
        assert kubelet.heads[-1].startswith("POST /exec/default/p/c?")


async def test_a_reader_needs_more_than_reading_for_exec(tmp_path: Path) -> None:
    async with (
        kube_server(tmp_path) as server,
        a_kubelet(server, tmp_path) as kubelet,
        session(server) as http,
    ):
        kube = server.api.client("test")
        rules: list[Json] = [
            {"apiGroups": [""], "resources": ["pods", "pods/log", "pods/exec"], "verbs": ["get"]}
        ]
        role: JsonObject = {"metadata": {"name": "reader"}, "rules": rules}
        await kube.create("rbac.authorization.k8s.io/v1", "clusterroles", None, role)
        binding: JsonObject = {
            "metadata": {"name": "reader"},
            "roleRef": {
                "apiGroup": "rbac.authorization.k8s.io",
                "kind": "ClusterRole",
                "name": "reader",
            },
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "eve"}],
        }
        await kube.create("rbac.authorization.k8s.io/v1", "clusterrolebindings", None, binding)
        eve = {"Impersonate-User": "eve"}
        async with http.get(f"{POD}/log?container=c", headers=eve) as answer:
            assert answer.status == 200
        async with http.get(f"{POD}/exec?container=c&command=a&stdout=1", headers=eve) as answer:
            assert answer.status == 403
        assert len(kubelet.heads) == 1
