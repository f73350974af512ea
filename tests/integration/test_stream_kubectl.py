"""`kubectl logs` and exec of a Pod at an edge: embedded API, stream tunnel, EdgeCore, a made-up kubelet."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import aiohttp
import pytest

from gateway.model.json import JsonObject
from tests.integration.edge_support import until
from tests.integration.test_stream_tunnel import BIG, HELLO, Rig, a_rig
from tests.kubectl import Kubectl, find_kubectls


async def a_pod(rig: Rig, name: str, node: str = "edge-1") -> None:
    async with asyncio.timeout(20):
        while not (  # noqa: ASYNC110  the edge makes its Node after it is linked
            await rig.cloud.kube.list("v1", "nodes", fields=f"metadata.name={node}")
        ).items:
            await asyncio.sleep(0.05)
    spec: JsonObject = {"nodeName": node, "containers": [{"name": "c", "image": "i"}]}
    body: JsonObject = {"metadata": {"name": name}, "spec": spec}
    await rig.cloud.kube.create("v1", "pods", "default", body)


def kubectl(rig: Rig, home: Path) -> Kubectl:
    found = find_kubectls()
    if not found:
        pytest.skip("NOT RUN: no kubectl, neither of the wheels nor here")
    return Kubectl(next(iter(found.values())), rig.cloud.data_dir / "kube" / "kubeconfig", home)


async def test_kubectl_reads_the_log_of_a_pod_at_an_edge(tmp_path: Path) -> None:
    async with a_rig(tmp_path) as rig:
        await a_pod(rig, "p1")
        await a_pod(rig, "big")
        client = kubectl(rig, tmp_path)
        assert (await client.ok("logs", "p1", "--tail=5", "--timestamps")).out.encode() == HELLO
        assert rig.kubelet.asked[-1] == (
            "/containerLogs/default/p1/c",
            "timestamps=true&tailLines=5",
        )
        process = await client.start("logs", "-f", "p1")
        assert process.stdout is not None
        assert await process.stdout.readline() == HELLO
        rig.kubelet.more.set()
        assert await process.stdout.readline() == b"and more\n"
        assert await process.wait() == 0
        big = await client.start("logs", "big")
        out, _ = await big.communicate()
        assert out == BIG


async def test_a_shell_at_an_edge_by_websocket(tmp_path: Path) -> None:
    async with a_rig(tmp_path) as rig:
        await a_pod(rig, "p1")
        folder = rig.cloud.data_dir / "kube"
        tls = ssl.create_default_context(cafile=folder / "ca.crt")
        token = (folder / "admin.token").read_text()
        url = f"wss://{rig.cloud.process.endpoints.get('kube.https')}"
        path = "/api/v1/namespaces/default/pods/p1/exec?container=c&command=sh&stdin=1&stdout=1"
        async with (
            aiohttp.ClientSession(headers={"Authorization": f"Bearer {token}"}) as http,
            http.ws_connect(url + path, ssl=tls, protocols=("v5.channel.k8s.io",)) as socket,
        ):
            assert socket.protocol == "v5.channel.k8s.io"
            await socket.send_bytes(b"\x00ls\n")
            assert (await socket.receive()).data == b"\x00ls\n"
            assert rig.kubelet.asked == [("/exec/default/p1/c", "input=1&output=1&command=sh")]
        await until(lambda: rig.kubelet.followers == 0)


async def test_an_edge_without_its_tunnel_is_named(tmp_path: Path) -> None:
    async with a_rig(tmp_path) as rig:
        labels: JsonObject = {"node-role.kubernetes.io/edge": ""}
        node: JsonObject = {"metadata": {"name": "edge-2", "labels": labels}}
        await rig.cloud.kube.create("v1", "nodes", None, node)
        await a_pod(rig, "p2", "edge-2")
        ran = await kubectl(rig, tmp_path).fails("logs", "p2")
        assert "node edge-2: its stream tunnel is not connected" in ran.err
