"""A cluster of one process: workloads of kubectl, and the process killed while they roll out."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gateway.errors import Undeliverable
from gateway.kube.client import KubeClient
from gateway.kube.remote import connect
from gateway.model.json import JsonObject
from gateway.wire.kube.parts import part, rows, text
from tests.fake_kubelet import FakeKubelet, Fate
from tests.fake_nodes import fake_nodes
from tests.kube_stage import fate
from tests.kubectl import Kubectl, find_kubectls
from tests.ports import free_port
from tests.process import Twinspan, twinspan
from tests.workload_rig import eventually, names

KUBECTLS = find_kubectls()
TIMEOUT = "--timeout=60s"
REPLICAS, JOBS = 6, 4

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(240),
    pytest.mark.skipif(not KUBECTLS, reason="no kubectl: install the group `peers`"),
]


def kubeconfig(running: Twinspan) -> Path:
    return running.data_dir / "kube" / "kubeconfig"


@asynccontextmanager
async def cluster(
    running: Twinspan, says: Callable[[JsonObject], Fate] = fate
) -> AsyncIterator[KubeClient]:
    """A client, Nodes that stay Ready, and their kubelet, all over the network."""
    async with (
        connect(kubeconfig(running), manager="kubelet") as kube,
        fake_nodes(kube, "node-1", "node-2"),
        FakeKubelet(kube, says, node="").running(),
    ):
        yield kube


def stalls(pod: JsonObject) -> Fate:
    """The new version does not get ready: a rollout to it stands still half way."""
    return "running" if images([pod])["web:2"] else fate(pod)


async def pods_of(kube: KubeClient, app: str) -> list[JsonObject]:
    found = (await kube.list("v1", "pods", "default")).items
    return [
        pod
        for pod in found
        if part(pod, "metadata", "labels").get("app") == app
        and not part(pod, "metadata").get("deletionTimestamp")
    ]


def images(pods: list[JsonObject]) -> Counter[str]:
    return Counter(text(rows(part(pod, "spec")["containers"])[0]["image"]) for pod in pods)


async def make_maps(kubectl: Kubectl, acknowledged: set[str]) -> None:
    """Make objects one after another until the server goes, and note those that it took."""
    number = 0
    while (await kubectl.run("create", "configmap", f"note-{number}")).code == 0:
        acknowledged.add(f"note-{number}")
        number += 1


async def _made(acknowledged: set[str]) -> int:
    return len(acknowledged)


async def test_a_rollout_goes_on_where_the_process_was_killed(tmp_path: Path) -> None:
    acknowledged: set[str] = set()
    https = f"kube.https.bind=127.0.0.1:{free_port()}"
    with twinspan(tmp_path / "cloud", "cloud", sets=(https,)) as running:
        kubectl = Kubectl(next(iter(KUBECTLS.values())), kubeconfig(running), tmp_path)
        try:
            async with cluster(running, stalls) as kube:
                await kubectl.ok(
                    "create", "deployment", "web", "--image=web:1", f"--replicas={REPLICAS}"
                )
                await kubectl.ok("rollout", "status", "deployment/web", TIMEOUT)
                for number in range(JOBS):
                    await kubectl.ok("create", "job", f"job-{number}", "--image=once:1")
                making = asyncio.create_task(make_maps(kubectl, acknowledged))
                await kubectl.ok("set", "image", "deployment/web", "web=web:2")
                await eventually(
                    lambda: pods_of(kube, "web"), lambda pods: images(pods)["web:2"] >= 1
                )
                await eventually(lambda: _made(acknowledged), bool)
                await asyncio.to_thread(running.kill)
                await making
        except* Undeliverable:  # the kubelet goes on where the server has gone
            pass

        await asyncio.to_thread(running.start)
        async with cluster(running) as kube:
            await kubectl.ok("rollout", "status", "deployment/web", TIMEOUT)
            done = await eventually(
                lambda: pods_of(kube, "web"),
                lambda pods: images(pods) == Counter({"web:2": REPLICAS}),
            )
            assert len({text(part(pod, "metadata")["uid"]) for pod in done}) == REPLICAS
            for number in range(JOBS):
                await kubectl.ok("wait", "--for=condition=complete", f"job/job-{number}", TIMEOUT)
            made = Counter(
                text(part(pod, "metadata", "labels").get("job-name"))
                for pod in (await kube.list("v1", "pods", "default")).items
            )
            assert {name: made[name] for name in made if name} == {
                f"job-{number}": 1 for number in range(JOBS)
            }
            assert acknowledged
            assert acknowledged <= names((await kube.list("v1", "configmaps", "default")).items)
            sets = (await kube.list("apps/v1", "replicasets", "default")).items
            assert sorted(part(each, "spec").get("replicas") for each in sets) == [0, REPLICAS]  # type: ignore[type-var]
            said = await kubectl.ok("get", "deployment", "web")
            assert f"{REPLICAS}/{REPLICAS}" in said.out
