"""A server with all control loops, three Nodes and a kubelet that runs nothing: a cluster for strangers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from gateway.model.json import JsonObject
from gateway.wire.kube.parts import part, rows, text
from tests.fake_kubelet import FakeKubelet, Fate
from tests.fake_nodes import fake_nodes
from tests.kube_server import KubeServer, kube_server

NODES = ("node-1", "node-2", "node-3")


def fate(pod: JsonObject) -> Fate:
    """Containers whose image is called `once` end at once; all others serve."""
    images = [text(row.get("image")) for row in rows(part(pod, "spec").get("containers"))]
    return "succeeded" if images[0].startswith("once") else "ready"


@asynccontextmanager
async def kube_stage(folder: Path) -> AsyncIterator[KubeServer]:
    """Run the cluster for the length of the block."""
    async with kube_server(folder, controllers=("*",)) as running:
        kube = running.api.client("kubelet")
        async with fake_nodes(kube, *NODES), FakeKubelet(kube, fate, node="").running():
            yield running
