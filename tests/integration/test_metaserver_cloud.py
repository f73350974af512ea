"""MetaServer of a real edge and the dynamic controller of a real cloud: kubectl through the edge."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from edge.identity import Identity
from edge.join import JoinRequest
from edge.join import join as join_cloud
from edge.metakinds import gvr_of
from gateway.cli.edge_kubeconfig import edge_kubeconfig
from gateway.config.cloud_services import Authorization
from gateway.config.tree import Settings
from gateway.errors import NotFound
from tests.cloud_rig import CloudCore, a_cloud, apply_device, apply_model, eventually
from tests.cloud_samples import a_device
from tests.integration.edge_node import Node, a_node
from tests.integration.edge_support import until
from tests.kubectl import Kubectl, find_kubectls

DEVICES = "/apis/devices.kubeedge.io/v1beta1/namespaces/default/devices"
MAPS = "/api/v1/namespaces/default/configmaps"
OPEN = Authorization(enabled=False)


@asynccontextmanager
async def an_edge(cloud: CloudCore, data_dir: Path) -> AsyncIterator[Node]:
    """A real EdgeCore that has registered."""
    hub = cloud.wss.removeprefix("wss://")
    request = JoinRequest(cloud=cloud.https, token=await cloud.token(), node="edge-1", hub=hub)
    await asyncio.to_thread(join_cloud, request, Identity(data_dir))
    async with a_node(data_dir, server=hub) as node:
        await until(lambda: node.core.hub.is_connected)

        async def is_registered() -> bool:
            try:
                return bool(await cloud.kube.get("v1", "nodes", None, "edge-1"))
            except NotFound:
                return False

        await eventually(is_registered)
        yield node


@asynccontextmanager
async def asking(node: Node) -> AsyncIterator[Any]:
    base = f"http://{node.endpoints.get('edge.metaserver')}"
    async with aiohttp.ClientSession() as session:

        async def ask(method: str, path: str, **more: Any) -> tuple[int, Any, str]:
            async with session.request(method, base + path, **more) as answer:
                origin = answer.headers.get("X-Twinspan-From", "")
                return answer.status, await answer.json(), origin

        ask.session, ask.base = session, base  # type: ignore[attr-defined]
        yield ask


async def test_an_edge_reads_its_own_devices_and_node_from_the_cloud(tmp_path: Path) -> None:
    async with a_cloud(tmp_path / "cloud") as cloud:
        await apply_model(cloud)
        await apply_device(cloud, a_device("mine", node="edge-1"))
        await apply_device(cloud, a_device("other", node="edge-2"))
        async with an_edge(cloud, tmp_path / "edge") as node, asking(node) as ask:
            status, found, origin = await ask("GET", DEVICES)
            assert (status, origin, found["kind"]) == (200, "cloud", "DeviceList")
            assert [item["metadata"]["name"] for item in found["items"]] == ["mine"]
            status, found, origin = await ask("GET", f"{DEVICES}/mine")
            assert (status, origin, found["kind"]) == (200, "cloud", "Device")
            assert (await ask("GET", f"{DEVICES}/other"))[0] == 403
            status, found, origin = await ask("GET", "/api/v1/nodes/edge-1")
            assert (status, origin) == (200, "cloud")


async def test_what_a_node_may_not_write_is_refused_by_the_api(tmp_path: Path) -> None:
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c1"}}
    async with (
        a_cloud(tmp_path / "cloud") as cloud,
        an_edge(cloud, tmp_path / "edge") as node,
    ):
        kubectl = await a_kubectl(node, tmp_path / "edge", tmp_path)
        failed = await kubectl.fails("create", "-f", "-", stdin=json.dumps(body))
        assert 'User "system:node:edge-1" cannot create resource "configmaps"' in failed.err
        with pytest.raises(NotFound):
            await cloud.kube.get("v1", "configmaps", "default", "c1")


async def test_kubectl_applies_patches_and_deletes_through_the_edge(tmp_path: Path) -> None:
    body: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "c1", "namespace": "default"},
        "data": {"a": "1"},
    }
    async with (
        a_cloud(tmp_path / "cloud", authorization=OPEN) as cloud,
        an_edge(cloud, tmp_path / "edge") as node,
    ):
        kubectl = await a_kubectl(node, tmp_path / "edge", tmp_path)

        async def run(*arguments: str, stdin: str = "") -> str:
            return (await kubectl.ok(*arguments, stdin=stdin)).out

        assert "created" in await run("apply", "-f", "-", stdin=json.dumps(body))
        stored = await cloud.object("v1", "configmaps", "default", "c1")
        assert stored["data"] == {"a": "1"}
        body["data"]["a"] = "2"
        assert "configured" in await run("apply", "-f", "-", stdin=json.dumps(body))
        await run("patch", "configmap", "c1", "--type=merge", "-p", '{"data":{"b":"3"}}')
        await run("label", "configmap", "c1", "colour=red")
        stored = await cloud.object("v1", "configmaps", "default", "c1")
        assert stored["data"] == {"a": "2", "b": "3"}
        assert stored["metadata"]["labels"] == {"colour": "red"}
        assert "c1" in await run("get", "configmaps")
        assert "deleted" in await run("delete", "configmap", "c1")
        with pytest.raises(NotFound):
            await cloud.kube.get("v1", "configmaps", "default", "c1")


async def test_a_watch_at_the_edge_shows_what_happens_in_the_cloud(tmp_path: Path) -> None:
    async with (
        a_cloud(tmp_path / "cloud") as cloud,
        an_edge(cloud, tmp_path / "edge") as node,
        asking(node) as ask,
    ):
        await cloud.kube.create("v1", "services", "default", a_service("one"))
        async with ask.session.get(
            f"{ask.base}/api/v1/services", params={"watch": "true"}
        ) as stream:
            assert stream.status == 200
            lines = stream.content
            assert await next_line(lines) == ("ADDED", "kubernetes")  # the API's own
            assert await next_line(lines) == ("ADDED", "one")
            await cloud.kube.create("v1", "services", "default", a_service("two"))
            assert await next_line(lines) == ("ADDED", "two")
            labels: Any = {"metadata": {"labels": {"a": "b"}}}
            await cloud.kube.patch("v1", "services", "default", "two", labels)
            assert await next_line(lines) == ("MODIFIED", "two")
            await cloud.kube.delete("v1", "services", "default", "one")
            assert await next_line(lines) == ("DELETED", "one")


async def test_what_a_pod_named_stays_shown_at_the_edge_while_a_watch_shows_it(
    tmp_path: Path,
) -> None:
    body: Any = {"metadata": {"name": "named"}, "data": {"a": "1"}}
    async with (
        a_cloud(tmp_path / "cloud", authorization=OPEN) as cloud,
        an_edge(cloud, tmp_path / "edge") as node,
        asking(node) as ask,
    ):
        await cloud.kube.create("v1", "serviceaccounts", "default", {"metadata": {"name": "robot"}})
        await cloud.kube.create("v1", "configmaps", "default", body)
        query = {"watch": "true", "fieldSelector": "metadata.name=named"}
        async with ask.session.get(ask.base + MAPS, params=query) as stream:
            assert await next_line(stream.content) == ("ADDED", "named")
            await cloud.kube.create("v1", "pods", "default", a_pod(config="named"))

            async def kept() -> list[str]:
                found: list[Any] = await node.core.meta.list("configmap")
                return sorted(item["metadata"]["name"] for item in found)

            await eventually(lambda: equals(kept, ["kube-root-ca.crt", "named"]))
            await cloud.kube.delete("v1", "pods", "default", "p1", grace_seconds=0)
            await eventually(lambda: equals(kept, []))
            gvr = gvr_of("", "v1", "configmaps")
            shown = [record.name for record in await node.core.store.records(gvr)]
            assert "named" in shown, "MetaServer's own stays"
            change: Any = {"data": {"a": "2"}}
            await cloud.kube.patch("v1", "configmaps", "default", "named", change)
            kinds, data = [], ""
            while data != "2":
                event = await next_event(stream.content)
                kinds.append(event["type"])
                data = event["object"].get("data", {}).get("a", "")
            assert set(kinds) == {"MODIFIED"}
            await cloud.kube.delete("v1", "configmaps", "default", "named")
            assert await next_line(stream.content) == ("DELETED", "named")
            shown = [record.name for record in await node.core.store.records(gvr)]
            assert "named" not in shown


async def equals(found: Callable[[], Awaitable[Any]], wanted: Any) -> bool:
    return bool(await found() == wanted)


async def test_a_service_account_reads_at_the_edge_what_rbac_lets_it_read(tmp_path: Path) -> None:
    """Secrets need a right; the cloud lets the node read the one that its Pod names, and no other."""
    secrets = "/api/v1/namespaces/default/secrets"
    async with (
        a_cloud(tmp_path / "cloud") as cloud,
        an_edge(cloud, tmp_path / "edge") as node,
        asking(node) as ask,
    ):
        for name in ("named", "other"):
            body: Any = {"metadata": {"name": name}, "stringData": {"a": "1"}}
            await cloud.kube.create("v1", "secrets", "default", body)
        await cloud.kube.create("v1", "serviceaccounts", "default", {"metadata": {"name": "robot"}})
        await cloud.kube.create("v1", "pods", "default", a_pod("named"))
        request: Any = {"spec": {"expirationSeconds": 3600}}
        made: Any = await cloud.kube.create(
            "v1", "serviceaccounts", "default", request, name="robot", subresource="token"
        )
        headers = {"Authorization": f"Bearer {made['status']['token']}"}

        async def status_of(name: str) -> int:
            return int((await ask("GET", f"{secrets}/{name}", headers=headers))[0])

        assert await status_of("named") == 403
        await cloud.kube.create(RBAC, "roles", "default", ROLE)
        await cloud.kube.create(RBAC, "rolebindings", "default", BINDING)

        async def is_allowed() -> bool:
            return await status_of("named") == 200

        await eventually(is_allowed)
        assert await status_of("other") == 403


RBAC = "rbac.authorization.k8s.io/v1"
ROLE: Any = {
    "metadata": {"name": "reader"},
    "rules": [{"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]}],
}
BINDING: Any = {
    "metadata": {"name": "robot-reads"},
    "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "reader"},
    "subjects": [{"kind": "ServiceAccount", "name": "robot", "namespace": "default"}],
}


def a_pod(secret: str = "", *, config: str = "") -> Any:
    named = {"configMap": {"name": config}} if config else {"secret": {"secretName": secret}}
    return {
        "metadata": {"name": "p1"},
        "spec": {
            "nodeName": "edge-1",
            "serviceAccountName": "robot",
            "containers": [{"name": "c", "image": "reg/app:1"}],
            "volumes": [{"name": "v", **named}],
        },
    }


def a_service(name: str) -> Any:
    return {"metadata": {"name": name}, "spec": {"ports": [{"port": 80}]}}


async def next_line(lines: aiohttp.StreamReader) -> tuple[str, str]:
    event = await next_event(lines)
    return event["type"], event["object"]["metadata"]["name"]


async def next_event(lines: aiohttp.StreamReader) -> Any:
    async with asyncio.timeout(10):
        return json.loads(await lines.readline())


async def a_kubectl(node: Node, data_dir: Path, home: Path) -> Kubectl:
    """kubectl as the edge's administrator."""
    programs = find_kubectls()
    if not programs:
        pytest.skip("no kubectl on this machine")

    def prepare() -> Path:
        address = node.endpoints.get("edge.metaserver")
        (data_dir / "endpoints.json").write_text(json.dumps({"edge.metaserver": address}))
        file = home / "kubeconfig"
        file.write_text(edge_kubeconfig(Settings(data_dir=data_dir)))
        return file

    return Kubectl(next(iter(programs.values())), await asyncio.to_thread(prepare), home)
