"""Lists of kubectl calls, nearly all that kubectl does, against one server with all its control loops."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio

from tests.command_lists import FOLDER, Player
from tests.kube_server import KubeServer
from tests.kube_stage import NODES, kube_stage
from tests.kubectl import Kubectl, find_kubectls

KUBECTLS = find_kubectls()
NEWEST = next(iter(KUBECTLS), "")
OTHERS = [name for name in KUBECTLS if name.startswith("v") and name != NEWEST]
LISTS = sorted(FOLDER.glob("*.txt"))
SHORT = FOLDER / "short"

pytestmark = [
    pytest.mark.skipif(not KUBECTLS, reason="no kubectl: install the group `peers`"),
    pytest.mark.asyncio(loop_scope="module"),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[KubeServer]:
    async with kube_stage(tmp_path_factory.mktemp("cloud")) as running:
        yield running


@pytest.mark.parametrize("path", LISTS, ids=lambda path: path.stem)
async def test_kubectl_does_and_says_what_is_expected(
    path: Path, server: KubeServer, tmp_path: Path
) -> None:
    faults = await Player(KUBECTLS[NEWEST], server.kubeconfig, tmp_path).play(path)
    assert not faults, "\n\n".join(faults)


@pytest.fixture
def kubectl(server: KubeServer, tmp_path: Path) -> Kubectl:
    return Kubectl(KUBECTLS[NEWEST], server.kubeconfig, tmp_path)


async def test_a_proxy_lets_plain_http_in(kubectl: Kubectl) -> None:
    proxy = await kubectl.start("proxy", "--port=0")
    try:
        assert proxy.stdout is not None
        said = (await proxy.stdout.readline()).decode()
        address = said.rpartition(" ")[2].strip()
        async with aiohttp.ClientSession(f"http://{address}") as session:
            async with session.get("/api/v1/namespaces/default") as answer:
                assert (await answer.json())["metadata"]["name"] == "default"
            body = {"metadata": {"name": "by-proxy"}, "data": {"a": "1"}}
            async with session.post("/api/v1/namespaces/default/configmaps", json=body) as answer:
                assert answer.status == 201
    finally:
        proxy.kill()
        await proxy.communicate()
    assert "by-proxy" in (await kubectl.ok("get", "configmaps", "-o", "name")).out


async def test_a_watch_tells_what_happens_as_it_happens(kubectl: Kubectl) -> None:
    watch = await kubectl.start(
        "get", "configmaps", "-l", "seen=yes", "-w", "--output-watch-events", "--no-headers"
    )
    assert watch.stdout is not None
    try:
        await kubectl.ok("create", "configmap", "w", "--from-literal=a=1")
        await kubectl.ok("label", "configmap", "w", "seen=yes")
        await kubectl.ok("annotate", "configmap", "w", "note=1")
        await kubectl.ok("label", "configmap", "w", "seen-")
        async with asyncio.timeout(20):
            lines = [(await watch.stdout.readline()).decode().split() for _ in range(3)]
    finally:
        watch.kill()
        await watch.communicate()
    assert [line[0] for line in lines] == ["ADDED", "MODIFIED", "DELETED"]


async def test_rights_are_brought_in_line(kubectl: Kubectl, tmp_path: Path) -> None:
    text = (FOLDER / "files" / "rights.yaml").read_text()
    file = tmp_path / "rights.yaml"
    file.write_text(text.replace("{name: reader}", "{name: reader, namespace: default}"))
    said = (await kubectl.ok("auth", "reconcile", "-f", str(file))).text
    assert "role.rbac.authorization.k8s.io/reader reconciled" in said
    assert "missing rules added:" in said
    assert "rolebinding.rbac.authorization.k8s.io/reader reconciled" in said
    assert (await kubectl.ok("auth", "can-i", "list", "pods", "--as=jane")).out == "yes\n"
    again = (await kubectl.ok("auth", "reconcile", "-f", str(file))).text
    assert "missing" not in again


async def test_a_dump_writes_down_what_there_is(kubectl: Kubectl, tmp_path: Path) -> None:
    target = tmp_path / "dump"
    await kubectl.ok("cluster-info", "dump", f"--output-directory={target}")
    nodes = json.loads((target / "nodes.json").read_text())
    assert {each["metadata"]["name"] for each in nodes["items"]} == set(NODES)
    assert (target / "default" / "pods.json").exists()


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("path", sorted(SHORT.glob("*.txt")), ids=lambda path: path.stem)
async def test_older_and_newer_kubectls_do_the_daily_work(
    path: Path, name: str, server: KubeServer, tmp_path: Path
) -> None:
    faults = await Player(KUBECTLS[name], server.kubeconfig, tmp_path).play(path)
    assert not faults, "\n\n".join(faults)
