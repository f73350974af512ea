"""Who may do what at MetaServer; kubectl with the kubeconfig that the command line makes."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import sqlite3
import ssl
import stat
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gateway.cli.edge_kubeconfig import edge_kubeconfig
from gateway.config.edge import Edge
from gateway.config.edge_services import MetaServer
from gateway.config.tree import Settings
from gateway.errors import InvalidSetting
from gateway.wire.cloudedge.names import Operation
from tests.integration.api_cloud import ApiCloud, Refused, an_api_cloud
from tests.integration.edge_node import MODEL, Node, a_device, a_node, join_edge, linked
from tests.integration.edge_support import until
from tests.process import tool

PODS = "/api/v1/namespaces/default/pods"
MAPS = "/api/v1/namespaces/default/configmaps"
SECRETS = "/api/v1/namespaces/default/secrets"
AWAY = "127.0.0.1:1"
MAP = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c1"}, "data": {"a": "1"}}


@pytest.fixture
async def cloud(tmp_path: Path) -> AsyncIterator[ApiCloud]:
    async with an_api_cloud(tmp_path / "cloud") as running:
        yield running


@pytest.fixture
async def data_dir(cloud: ApiCloud, tmp_path: Path) -> Path:
    await join_edge(cloud, tmp_path / "edge")
    return tmp_path / "edge"


def serving(auth: str) -> MetaServer:
    return MetaServer(bind="127.0.0.1:0", auth=auth)


def a_token(seconds: float = 3_600, mark: str = "x") -> str:
    """A JWT that only the cloud can judge."""
    claims = json.dumps({"exp": time.time() + seconds, "mark": mark}).encode()
    return f"e30.{base64.urlsafe_b64encode(claims).decode().rstrip('=')}.c2ln"


def an_access(*rules: dict[str, Any]) -> dict[str, Any]:
    """What the policy controller pushes for the ServiceAccount `default/app`."""
    return {
        "apiVersion": "policy.kubeedge.io/v1alpha1",
        "kind": "ServiceAccountAccess",
        "spec": {
            "serviceAccount": {"metadata": {"name": "app", "namespace": "default"}},
            "accessRoleBinding": [
                {"roleBinding": {"metadata": {"namespace": "default"}}, "rules": list(rules)}
            ],
        },
    }


ACCOUNT = "system:serviceaccount:default:app"
READ_MAPS = {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "list"]}
MAKE_MAPS = {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["create"]}


@asynccontextmanager
async def http(node: Node) -> AsyncIterator[Any]:
    base = f"http://{node.endpoints.get('edge.metaserver')}"
    async with aiohttp.ClientSession() as session:

        async def ask(method: str, path: str, token: str = "", **more: Any) -> int:
            headers = {"Authorization": f"Bearer {token}"} if token else {}
            async with session.request(method, base + path, headers=headers, **more) as answer:
                document = await answer.json()
                assert answer.status < 400 or document["kind"] == "Status"
                return answer.status

        yield ask


async def test_anonymous_clients_read_all_but_secrets(cloud: ApiCloud, data_dir: Path) -> None:
    cloud.apply("secrets", "s1", data={})
    async with a_node(data_dir) as node, http(node) as ask:
        await linked(node, cloud)
        assert await ask("GET", PODS) == 200
        assert await ask("GET", "/version") == 200
        assert await ask("GET", SECRETS) == 403
        assert await ask("GET", f"{SECRETS}/s1") == 403
        assert await ask("GET", f"{SECRETS}?watch=1") == 403
        assert await ask("POST", MAPS, json=MAP) == 403
        assert await ask("DELETE", f"{MAPS}/c1") == 403
        assert not [app for app in cloud.asked if "secrets" in app.key or app.verb == "create"]


async def test_a_wrong_token_is_refused_even_for_what_is_open(
    cloud: ApiCloud, data_dir: Path
) -> None:
    async with a_node(data_dir) as node, http(node) as ask:
        await linked(node, cloud)
        assert await ask("GET", PODS, "wrong") == 401
        assert await ask("GET", PODS, a_token()) == 401
        assert await ask("GET", PODS, "x" * 15_000) == 401


async def test_a_service_account_does_what_it_has_rights_for(
    cloud: ApiCloud, data_dir: Path
) -> None:
    token = a_token()
    cloud.tokens[token] = ACCOUNT
    async with a_node(data_dir) as node, http(node) as ask:
        await linked(node, cloud)
        await cloud.push("serviceaccountaccess", "app", an_access(MAKE_MAPS))
        assert await ask("POST", MAPS, token, json=MAP) == 201
        assert await ask("DELETE", f"{MAPS}/c1", token) == 403
        assert await ask("POST", MAPS.replace("default", "other"), token, json=MAP) == 403
        assert await ask("GET", SECRETS, token) == 403
        reviews = [app for app in cloud.asked if "tokenreviews" in app.key]
        assert len(reviews) == 1  # a verdict counts for a while


async def test_methods_of_devices_need_a_right_of_their_own(
    cloud: ApiCloud, data_dir: Path
) -> None:
    token = a_token()
    cloud.tokens[token] = ACCOUNT
    group = "devices.kubeedge.io"
    devices = {"apiGroups": [group], "resources": ["devices"], "verbs": ["*"]}
    methods = {"apiGroups": [group], "resources": ["devices/methods"], "verbs": ["create"]}
    path = f"/apis/{group}/v1beta1/namespaces/default/devices/lamp/methods/dim"
    async with a_node(data_dir) as node, http(node) as ask:
        await linked(node, cloud)
        await cloud.push("serviceaccountaccess", "app", an_access(devices))
        assert await ask("POST", path, token, json={}) == 403
        await cloud.push("serviceaccountaccess", "app", an_access(methods), Operation.UPDATE)
        assert await ask("POST", path, token, json={}) == 404  # there is no such Device
        assert await ask("POST", path.replace("/default/", "/other/"), token, json={}) == 403
        assert await ask("POST", path, json={}) == 403
        assert not [
            app for app in cloud.asked if "devices" in app.key
        ]  # it is the edge's own matter


async def test_rbac_opens_plain_paths_alone(cloud: ApiCloud, data_dir: Path) -> None:
    token = a_token()
    cloud.tokens[token] = ACCOUNT
    async with a_node(data_dir, metaserver=serving("rbac")) as node, http(node) as ask:
        await linked(node, cloud)
        await cloud.push("serviceaccountaccess", "app", an_access(READ_MAPS))
        assert await ask("GET", "/version") == 200
        assert await ask("GET", PODS) == 403
        assert await ask("GET", MAPS, token) == 200
        assert await ask("GET", PODS, token) == 403


@pytest.mark.parametrize("auth", ["strict", "kubeedge"])
async def test_a_page_of_others_in_a_browser_here_reads_nothing(
    cloud: ApiCloud, data_dir: Path, auth: str
) -> None:
    async with a_node(data_dir, metaserver=serving(auth)) as node, http(node) as ask:
        await linked(node, cloud)
        assert await ask("GET", MAPS) == 200
        base = f"http://{node.endpoints.get('edge.metaserver')}"
        async with (
            aiohttp.ClientSession(headers={"Host": "evil.example:10550"}) as session,
            session.get(base + MAPS) as answer,
        ):
            assert answer.status == 403


async def test_kubeedge_mode_is_open(cloud: ApiCloud, data_dir: Path) -> None:
    async with a_node(data_dir, metaserver=serving("kubeedge")) as node, http(node) as ask:
        await linked(node, cloud)
        assert await ask("POST", MAPS, json=MAP) == 201
        assert await ask("GET", SECRETS) == 200


async def test_a_known_account_is_known_without_the_cloud_until_its_token_ends(
    cloud: ApiCloud, data_dir: Path
) -> None:
    token, short = a_token(), a_token(1.5, "short")
    cloud.tokens |= {token: ACCOUNT, short: ACCOUNT}
    rbac = serving("rbac")
    async with a_node(data_dir, metaserver=rbac) as node, http(node) as ask:
        await linked(node, cloud)
        await cloud.push("serviceaccountaccess", "app", an_access(READ_MAPS))
        assert await ask("GET", MAPS, token) == 200
        assert await ask("GET", MAPS, short) == 200
    async with a_node(data_dir, server=AWAY, metaserver=rbac) as node, http(node) as ask:
        assert await ask("GET", MAPS, token) == 200
        assert await ask("GET", MAPS, a_token(mark="never seen")) == 401
        await until(lambda: time.time() > json.loads(_claims(short))["exp"])
        assert await ask("GET", MAPS, short) == 401


async def test_a_token_that_the_cloud_refuses_now_is_forgotten(
    cloud: ApiCloud, data_dir: Path
) -> None:
    token = a_token()
    cloud.tokens[token] = ACCOUNT
    rbac = serving("rbac")
    async with a_node(data_dir, metaserver=rbac) as node, http(node) as ask:
        await linked(node, cloud)
        await cloud.push("serviceaccountaccess", "app", an_access(READ_MAPS))
        assert await ask("GET", MAPS, token) == 200
    del cloud.tokens[token]
    async with a_node(data_dir, metaserver=rbac) as node, http(node) as ask:
        await linked(node, cloud)
        assert await ask("GET", MAPS, token) == 401
    async with a_node(data_dir, server=AWAY, metaserver=rbac) as node, http(node) as ask:
        assert await ask("GET", MAPS, token) == 401


async def test_verdicts_of_tokens_that_ended_do_not_pile_up(
    cloud: ApiCloud, data_dir: Path
) -> None:
    gone, new = a_token(-1, "gone"), a_token(mark="new")
    cloud.tokens |= {gone: ACCOUNT, new: ACCOUNT}
    async with a_node(data_dir, metaserver=serving("rbac")) as node, http(node) as ask:
        await linked(node, cloud)
        await cloud.push("serviceaccountaccess", "app", an_access(READ_MAPS))
        for token in (gone, new):
            assert await ask("GET", MAPS, token) == 200
    with closing(sqlite3.connect(data_dir / "edge" / "edge.db")) as disk:
        kept = disk.execute("SELECT count(*) FROM meta WHERE type = 'tokenverdict'").fetchone()
        assert kept == (1,)


def _claims(token: str) -> bytes:
    part = token.split(".")[1]
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


async def test_a_token_that_the_edge_fetched_for_a_pod_is_known_here(
    cloud: ApiCloud, data_dir: Path
) -> None:
    token = a_token()
    cloud.objects["default/serviceaccounttoken/app"] = {
        "metadata": {"name": "app"},
        "status": {"token": token, "expirationTimestamp": "2126-01-01T00:00:00Z"},
    }
    async with a_node(data_dir) as node:
        await linked(node, cloud)
        await cloud.push("serviceaccountaccess", "app", an_access(READ_MAPS))
        await node.core.api.token("default", "app", {"spec": {"expirationSeconds": 600}})
    rbac = serving("rbac")
    async with a_node(data_dir, server=AWAY, metaserver=rbac) as node, http(node) as ask:
        assert await ask("GET", MAPS, token) == 200
        assert await ask("GET", PODS, token) == 403


async def test_a_token_that_a_pod_got_for_others_is_no_token_for_the_api(
    cloud: ApiCloud, data_dir: Path
) -> None:
    token = a_token()
    cloud.objects["default/serviceaccounttoken/app"] = {
        "metadata": {"name": "app"},
        "status": {"token": token, "expirationTimestamp": "2126-01-01T00:00:00Z"},
    }
    async with a_node(data_dir) as node:
        await linked(node, cloud)
        await cloud.push("serviceaccountaccess", "app", an_access(READ_MAPS))
        await node.core.api.token("default", "app", {"spec": {"audiences": ["vault"]}})
    rbac = serving("rbac")
    async with a_node(data_dir, server=AWAY, metaserver=rbac) as node, http(node) as ask:
        assert await ask("GET", MAPS, token) == 401


@pytest.mark.parametrize(
    ("metaserver", "named"),
    [
        (MetaServer(bind="0.0.0.0:0"), "edge.metaserver.bind"),
        (MetaServer(bind="10.0.0.1:10550"), "edge.metaserver.bind"),
        (MetaServer(bind="127.0.0.1:0", auth="none"), "edge.metaserver.auth"),
    ],
)
async def test_settings_that_cannot_be_are_named(
    data_dir: Path, metaserver: MetaServer, named: str
) -> None:
    with pytest.raises(InvalidSetting, match=named):
        async with a_node(data_dir, metaserver=metaserver):
            pass


async def test_switched_off_it_listens_nowhere(data_dir: Path) -> None:
    off = MetaServer(enabled=False, bind="0.0.0.0:0")
    async with a_node(data_dir, server=AWAY, metaserver=off) as node:
        assert "edge.metaserver" not in node.endpoints


# --- kubectl and TLS --------------------------------------------------------------------------------


async def kubectl(home: Path, *args: str, stdin: str = "") -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        tool("kubectl"),
        f"--cache-dir={home}/cache",
        *args,
        env={**os.environ, "HOME": str(home)},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await process.communicate(stdin.encode())
    assert process.returncode is not None
    return process.returncode, out.decode()


async def the_kubeconfig(node: Node, data_dir: Path, home: Path) -> str:
    """What `twinspan edge kubeconfig` prints, in a file; returns kubectl's option."""
    endpoints = {"edge.metaserver": node.endpoints.get("edge.metaserver")}
    text = await asyncio.to_thread(_write_kubeconfig, data_dir, home, endpoints)
    return f"--kubeconfig={text}"


def _write_kubeconfig(data_dir: Path, home: Path, endpoints: dict[str, str]) -> Path:
    (data_dir / "endpoints.json").write_text(json.dumps(endpoints))
    settings = Settings(data_dir=data_dir, edge=Edge(node_name="edge-1"))
    file = home / "kubeconfig"
    file.write_text(edge_kubeconfig(settings))
    assert edge_kubeconfig(settings) == file.read_text()  # the same at each call
    for secret in ("metaserver.token", "metaserver/server.key", "metaserver/ca.key"):
        assert stat.S_IMODE((data_dir / "edge" / secret).stat().st_mode) == 0o600
    return file


async def test_kubectl_reads_from_disk_without_any_configuration(
    cloud: ApiCloud, data_dir: Path, tmp_path: Path
) -> None:
    async with a_node(data_dir) as node:
        await linked(node, cloud)
        await cloud.push("devicemodel", "m1", MODEL)
        await cloud.push("device", "d1", a_device(temp="25"))
        await cloud.push("configmap", "settings", {"data": {"a": "1", "b": "2"}})
    async with a_node(data_dir, server=AWAY) as node:
        server = f"--server=http://{node.endpoints.get('edge.metaserver')}"
        code, table = await kubectl(tmp_path, server, "get", "devices")
        assert (code, table.split()[:3]) == (0, ["NAME", "AGE", "d1"]), table
        code, text = await kubectl(tmp_path, server, "get", "devices", "-A", "-o", "json")
        (device,) = json.loads(text)["items"]
        assert (device["kind"], device["spec"]["nodeName"]) == ("Device", "edge-1")
        code, table = await kubectl(tmp_path, server, "get", "cm")
        assert table.split()[:5] == ["NAME", "DATA", "AGE", "settings", "2"]


async def test_kubectl_writes_with_the_admin_token_over_tls(
    cloud: ApiCloud, data_dir: Path, tmp_path: Path
) -> None:
    def refused(app: Any) -> None:
        """Discovery is the edge's own here: the fake API tells of no kinds."""
        if app.key.startswith(("/api", "/openapi")):
            raise Refused(503, "ServiceUnavailable")

    cloud.refuse = refused
    async with a_node(data_dir) as node:
        await linked(node, cloud)
        config = await the_kubeconfig(node, data_dir, tmp_path)
        apply = ("apply", "--validate=false", "-f", "-")
        code, said = await kubectl(tmp_path, config, *apply, stdin=json.dumps(MAP))
        assert (code, said) == (0, "configmap/c1 created\n")
        changed = {**MAP, "data": {"a": "2"}}
        code, said = await kubectl(tmp_path, config, *apply, stdin=json.dumps(changed))
        assert code == 0, said
        assert said.endswith(
            "configmap/c1 configured\n"
        )  # after a warning: the fake keeps no annotations
        patch = ("patch", "cm", "c1", "--type=merge", "-p", '{"data":{"b":"3"}}')
        code, said = await kubectl(tmp_path, config, *patch)
        assert (code, said) == (0, "configmap/c1 patched\n")
        code, said = await kubectl(tmp_path, config, "get", "secrets")
        assert (code, said) == (0, "No resources found in default namespace.\n")
        code, said = await kubectl(tmp_path, config, "delete", "cm", "c1", "--wait=false")
        assert code == 0, said
        assert ("configmaps", "default", "c1") not in cloud.api


async def test_tls_needs_a_certificate_and_plain_clients_go_on(
    cloud: ApiCloud, data_dir: Path, tmp_path: Path
) -> None:
    async with a_node(data_dir, server=AWAY) as node, http(node) as ask:
        address = node.endpoints.get("edge.metaserver")
        context = ssl.create_default_context()
        async with aiohttp.ClientSession() as session:
            with pytest.raises(aiohttp.ClientError):
                await session.get(f"https://{address}/version", ssl=context)
            await the_kubeconfig(node, data_dir, tmp_path)
            trusted = ssl.create_default_context(cafile=data_dir / "edge/metaserver/ca.crt")
            async with session.get(f"https://{address}/version", ssl=trusted) as answer:
                assert answer.status == 200
        assert await ask("GET", "/version") == 200
        port = int(address.rpartition(":")[2])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"\x16garbage that is no hello" * 10)
        with suppress(ConnectionError):
            await reader.read()  # an alert, and the end
        writer.close()
        silent = await asyncio.open_connection("127.0.0.1", port)
        assert await ask("GET", "/version") == 200
        silent[1].close()
