"""Ways to a cluster: kubeconfigs, a Pod's ServiceAccount, and what is said of those that lead nowhere."""

from __future__ import annotations

import asyncio
import base64
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.config.kube import Kube
from gateway.errors import InvalidSetting, Undeliverable
from gateway.kube import remote
from gateway.kube.cluster import ClusterApi, install_definitions, is_cluster
from gateway.kube.credentials import Access, find_access, from_account, from_kubeconfig
from gateway.kube.remote import Connection, RemoteClient
from tests.cloud_rig import eventually
from tests.kube_server import KubeServer, kube_server


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[KubeServer]:
    async with kube_server(tmp_path) as running:
        yield running


def parts(server: KubeServer) -> dict[str, Any]:
    """The administrator's kubeconfig as a document."""
    found: dict[str, Any] = yaml.safe_load(server.kubeconfig.read_text())
    return found


def written(folder: Path, document: dict[str, Any]) -> Path:
    path = folder / "config"
    path.write_text(yaml.safe_dump(document))
    return path


async def admin_token(server: KubeServer) -> str:
    client = server.api.client("test")

    async def has_account() -> bool:
        return bool((await client.list("v1", "serviceaccounts", "default")).items)

    await eventually(has_account)
    body: Any = {"spec": {"expirationSeconds": 3_600}}
    found: Any = await client.create(
        "v1", "serviceaccounts", "default", body, name="default", subresource="token"
    )
    return str(found["status"]["token"])


async def whoami(access: Access) -> str:
    connection = Connection(access)
    async with connection.opened():
        client = RemoteClient(connection, "test")
        body: Any = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
        found: Any = await client.create(
            "authentication.k8s.io/v1", "selfsubjectreviews", None, body
        )
        return str(found["status"]["userInfo"]["username"])


async def test_certificates_may_be_in_files_beside_the_kubeconfig(
    server: KubeServer, tmp_path: Path
) -> None:
    document = parts(server)
    for entry, names in (
        (document["clusters"][0]["cluster"], ("certificate-authority",)),
        (document["users"][0]["user"], ("client-certificate", "client-key")),
    ):
        for name in names:
            (tmp_path / name).write_bytes(base64.b64decode(entry.pop(f"{name}-data")))
            entry[name] = name
    assert await whoami(from_kubeconfig(written(tmp_path, document))) == "kubernetes-admin"


async def test_the_context_can_be_named(server: KubeServer, tmp_path: Path) -> None:
    document = parts(server)
    document["users"].append({"name": "app", "user": {"token": await admin_token(server)}})
    cluster = document["clusters"][0]["name"]
    document["contexts"].append({"name": "other", "context": {"cluster": cluster, "user": "app"}})
    path = written(tmp_path, document)
    assert await whoami(from_kubeconfig(path)) == "kubernetes-admin"
    settings = Kube(kubeconfig=str(path), context="other")
    assert await whoami(find_access(settings)) == "system:serviceaccount:default:default"


async def test_a_program_that_logs_in_is_run(server: KubeServer, tmp_path: Path) -> None:
    credential = {
        "apiVersion": "client.authentication.k8s.io/v1",
        "kind": "ExecCredential",
        "status": {"token": await admin_token(server)},
    }
    (tmp_path / "credential").write_text(json.dumps(credential))
    program = {
        "apiVersion": "client.authentication.k8s.io/v1",
        "command": sys.executable,
        "args": ["-c", f"print(open({str(tmp_path / 'credential')!r}).read())"],
        "interactiveMode": "Never",
    }
    document = parts(server)
    document["users"][0]["user"] = {"exec": program}
    access = await asyncio.to_thread(from_kubeconfig, written(tmp_path, document))
    assert await whoami(access) == "system:serviceaccount:default:default"


async def test_a_pods_token_is_read_again_when_it_was_renewed(
    server: KubeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "RENEW_SECONDS", 0.02)
    authority = parts(server)["clusters"][0]["cluster"]["certificate-authority-data"]
    (tmp_path / "ca.crt").write_bytes(base64.b64decode(authority))
    (tmp_path / "token").write_text("of yesterday\n")
    host, port = server.endpoints.get("kube.https").rsplit(":", 1)
    environment = {"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": port}
    access = from_account(tmp_path, environment)
    assert access.headers == {"Authorization": "Bearer of yesterday"}
    connection = Connection(access)
    async with connection.opened():
        (tmp_path / "token").write_text(await admin_token(server))

        async def is_renewed() -> bool:
            return not access.headers["Authorization"].endswith("yesterday")

        await eventually(is_renewed)
        (tmp_path / "token").unlink()
        await asyncio.sleep(0.05)
    assert await whoami(access) == "system:serviceaccount:default:default"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "expected a kubeconfig"),
        ("clusters: {}", "current-context"),
        ("current-context: a\ncontexts: []\n", "no 'a'"),
        ("a: [", "expected a kubeconfig"),
        ("- 1", "expected a kubeconfig"),
    ],
)
def test_a_kubeconfig_that_leads_nowhere_is_named(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "config"
    path.write_text(text)
    with pytest.raises(InvalidSetting, match=said) as caught:
        from_kubeconfig(path)
    assert str(path) in str(caught.value)


def test_without_any_way_the_settings_are_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidSetting, match=r"kube\.kubeconfig"):
        find_access(Kube(), {"KUBECONFIG": str(tmp_path / "none")})
    with pytest.raises(InvalidSetting, match=r"kube\.mode: expected embedded or cluster"):
        is_cluster("remote")


async def test_requests_before_the_connection_is_open_can_be_repeated(server: KubeServer) -> None:
    api = ClusterApi(Kube(kubeconfig=str(server.kubeconfig)))
    with pytest.raises(Undeliverable, match="not connected"):
        await api.client("test").get("v1", "namespaces", None, "default")
    assert not api.is_well


async def test_definitions_keep_what_others_added(server: KubeServer) -> None:
    client = server.api.client("somebody")
    crds = ("apiextensions.k8s.io/v1", "customresourcedefinitions", None)
    name = "devices.devices.kubeedge.io"
    await client.patch(*crds, name, {"metadata": {"labels": {"team": "edge"}}})
    done: list[str] = []
    connection = Connection(from_kubeconfig(server.kubeconfig))
    async with connection.opened():
        await install_definitions(RemoteClient(connection, "twinspan"), done.append)
    assert name in done
    found: Any = await client.get(*crds, name)
    assert found["metadata"]["labels"]["team"] == "edge"
