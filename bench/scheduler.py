"""How fast Pods get their nodes: decisions alone, and on a running API up to the last binding.

    python -m bench.scheduler [--nodes 100] [--pods 1000]

Prints decisions and bindings per second, and how even the result is. The ratio at the end compares placing
with creating the same Pods.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from gateway.config.kube import Kube, KubeHttps
from gateway.kube.client import KubeClient
from gateway.kube.control.manager import ControllerManager
from gateway.kube.module import KubeApi
from gateway.model.json import JsonObject
from gateway.observe.metrics import Metrics
from gateway.runtime.listener import Endpoints
from gateway.runtime.module import running
from gateway.store.database import Database
from gateway.wire.kube.scheduling.cluster import Cluster
from gateway.wire.kube.scheduling.placing import Placed, place
from gateway.wire.kube.scheduling.pods import read_pod

GOAL_SECONDS = 10.0
SPREAD: JsonObject = {
    "maxSkew": 1,
    "topologyKey": "kubernetes.io/hostname",
    "whenUnsatisfiable": "DoNotSchedule",
    "labelSelector": {"matchLabels": {"app": "web"}},
}


def a_node(at: int) -> JsonObject:
    """A node with room for 110 Pods."""
    labels: JsonObject = {
        "kubernetes.io/hostname": f"n{at}",
        "topology.kubernetes.io/zone": f"z{at % 3}",
    }
    amounts: JsonObject = {"cpu": "16", "memory": "64Gi", "pods": "110"}
    return {
        "metadata": {"name": f"n{at}", "labels": labels},
        "status": {"allocatable": amounts, "capacity": amounts},
    }


def a_pod(at: int, *, spread: bool = False) -> JsonObject:
    """A Pod that asks for a little."""
    requests: JsonObject = {"cpu": "100m", "memory": "128Mi"}
    container: JsonObject = {"name": "c", "image": "app", "resources": {"requests": requests}}
    spec: JsonObject = {"containers": [container]}
    if spread:
        spec["topologySpreadConstraints"] = [SPREAD]
    return {
        "metadata": {"name": f"p{at}", "namespace": "default", "labels": {"app": "web"}},
        "spec": spec,
    }


def decide(nodes: int, pods: int, *, spread: bool) -> float:
    """Place Pods one after another without an API; return decisions per second."""
    cluster = Cluster()
    for at in range(nodes):
        cluster.set_node(a_node(at))
    waiting = [read_pod(a_pod(at, spread=spread)) for at in range(pods)]
    begun = time.perf_counter()
    for pod in waiting:
        found = place(pod, cluster, random.choice)
        if isinstance(found, Placed):
            cluster.place(replace(pod, node=found.node))
    seconds = time.perf_counter() - begun
    counts = [len(node.pods) for node in cluster.nodes.values()]
    kind = "spread" if spread else "plain"
    print(
        f"decisions, {kind}: {pods / seconds:.0f}/s; {min(counts)} to {max(counts)} Pods on a node"
    )
    return pods / seconds


async def bind(nodes: int, pods: int) -> None:
    """Create Pods on a running API and wait until each has its node."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        api = KubeApi(
            Kube(https=KubeHttps(bind="127.0.0.1:0")),
            Endpoints(),
            Database(folder / "kube.db", "kube"),
            Metrics(),
            folder,
        )
        async with running(api):
            kube = api.client("bench")
            await create_all(kube, "nodes", None, [a_node(at) for at in range(nodes)])
            begun = time.perf_counter()
            await create_all(kube, "pods", "default", [a_pod(at) for at in range(pods)])
            creating = time.perf_counter() - begun
            begun = time.perf_counter()
            async with running(ControllerManager(api.client, ("scheduler",))):
                await all_placed(kube, pods)
            placing = time.perf_counter() - begun
    print(f"created in {creating:.2f} s, all placed {placing:.2f} s later: {pods / placing:.0f}/s")
    print(f"ratio placing to creating: {placing / creating:.2f}")
    print(f"goal {GOAL_SECONDS:.0f} s: {'met' if placing <= GOAL_SECONDS else 'missed'}")


async def all_placed(kube: KubeClient, pods: int) -> None:
    """Wait until so many Pods have a node."""
    seen: set[str] = set()
    async for event in kube.watch("v1", "pods"):
        meta, spec = event.object.get("metadata"), event.object.get("spec")
        if isinstance(meta, dict) and isinstance(spec, dict) and spec.get("nodeName"):
            seen.add(str(meta.get("name")))
        if len(seen) == pods:
            return


async def create_all(
    kube: KubeClient, plural: str, namespace: str | None, bodies: list[JsonObject]
) -> None:
    """Create objects, some at a time."""
    slots = asyncio.Semaphore(32)

    async def create(body: JsonObject) -> None:
        async with slots:
            await kube.create("v1", plural, namespace, body)

    async with asyncio.TaskGroup() as group:
        for body in bodies:
            group.create_task(create(body))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--nodes", type=int, default=100)
    parser.add_argument("--pods", type=int, default=1_000)
    asked = parser.parse_args()
    for spread in (False, True):
        decide(asked.nodes, asked.pods, spread=spread)
    asyncio.run(bind(asked.nodes, asked.pods))


if __name__ == "__main__":
    main()
