"""Nodes that are there for the scheduler, and for nothing else: they are Ready and say so again and again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from gateway.kube.client import KubeClient, PatchType
from gateway.model.json import JsonObject
from gateway.wire.kube.clock import rfc3339, rfc3339_micro
from gateway.wire.kube.status import AlreadyExists

RENEW_SECONDS = 8.0
ROOM: JsonObject = {"cpu": "16", "memory": "32Gi", "pods": "110", "ephemeral-storage": "100Gi"}


@asynccontextmanager
async def fake_nodes(kube: KubeClient, *names: str) -> AsyncIterator[None]:
    """Keep nodes Ready for the length of the block."""
    for name in names:
        await _join(kube, name)
    async with asyncio.TaskGroup() as group:
        beating = group.create_task(_beat(kube, names))
        try:
            yield
        finally:
            beating.cancel()


async def _join(kube: KubeClient, name: str) -> None:
    labels: JsonObject = {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux"}
    node: JsonObject = {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": labels},
    }
    lease: JsonObject = {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": name, "namespace": "kube-node-lease"},
        "spec": {"holderIdentity": name, "leaseDurationSeconds": 40},
    }
    with suppress(AlreadyExists):  # it was here before
        await kube.create("v1", "nodes", None, node)
        await kube.create("coordination.k8s.io/v1", "leases", "kube-node-lease", lease)
    await _say_ready(kube, name)


async def _beat(kube: KubeClient, names: tuple[str, ...]) -> None:
    while True:
        for name in names:
            await _say_ready(kube, name)
        await asyncio.sleep(RENEW_SECONDS)


async def _say_ready(kube: KubeClient, name: str) -> None:
    ready: JsonObject = {
        "type": "Ready",
        "status": "True",
        "reason": "KubeletReady",
        "message": "kubelet is posting ready status",
        "lastHeartbeatTime": rfc3339(time.time()),
    }
    status: JsonObject = {
        "conditions": [ready],
        "capacity": ROOM,
        "allocatable": ROOM,
        "nodeInfo": {"kubeletVersion": "v1.36.3"},
        "addresses": [{"type": "InternalIP", "address": "10.0.0.7"}],
    }
    await kube.patch(
        "v1",
        "nodes",
        None,
        name,
        {"status": status},
        patch_type=PatchType.STRATEGIC,
        subresource="status",
    )
    renewal: JsonObject = {"spec": {"renewTime": rfc3339_micro(time.time())}}
    await kube.patch(
        "coordination.k8s.io/v1",
        "leases",
        "kube-node-lease",
        name,
        renewal,
        patch_type=PatchType.MERGE,
    )
