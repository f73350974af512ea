"""CloudCore killed while nodes acknowledge objects: no object is lost, none goes back to an older version."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest

from cloud.identity import create_join_token
from gateway.kube.client import KubeClient, PatchType
from gateway.kube.remote import connect
from gateway.model.json import Json
from gateway.wire.cloudedge.to_edge import ObjectChanged, read_to_edge
from tests.cloud_rig import Certificate, CloudCore, Edge, an_edge, content_of, eventually, join
from tests.cloud_samples import DEVICES, a_device, a_model
from tests.integration.test_cloudhub_lost_answers import all_synced
from tests.ports import free_port
from tests.process import Twinspan, twinspan

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

COUNT = 20
ROUNDS = 2
NODE, STORE = "edge-1", "the-one-store"


@dataclass(slots=True)
class FarCloud:
    """A CloudCore of another process, as the made-up edge sees it."""

    running: Twinspan
    kube: KubeClient

    @property
    def wss(self) -> str:
        return f"wss://localhost:{self.running.port('cloudhub.wss')}"

    @property
    def https(self) -> str:
        return f"https://localhost:{self.running.port('cloudhub.https')}"

    @property
    def data_dir(self) -> Path:
        return self.running.data_dir

    async def token(self) -> str:
        return await create_join_token(self.kube, now=time.time())

    async def versions(self) -> dict[str, int]:
        """Which version the API has of each Device."""
        found = await self.kube.list(DEVICES, "devices", "default")
        items = cast(list[Any], found.items)
        return {i["metadata"]["name"]: int(i["metadata"]["resourceVersion"]) for i in items}


@dataclass(slots=True)
class Stored:
    """What the node has on its disk, and every step back that it was told to take."""

    versions: dict[str, int] = field(default_factory=dict)
    steps_back: list[str] = field(default_factory=list)
    read: int = 0

    def take(self, edge: Edge) -> None:
        """Store what came since the last look."""
        for envelope in edge.received[self.read :]:
            message = read_to_edge(envelope)
            if isinstance(message, ObjectChanged) and message.subject.type == "device":
                self._put(message.subject.name, message.operation, content_of(envelope))
        self.read = len(edge.received)

    def _put(self, name: str, operation: str, document: Any) -> None:
        version = int(document["metadata"].get("resourceVersion", 0))
        held = self.versions.get(name, 0)
        if operation == "delete" or version < held:
            self.steps_back.append(f"{operation} {name}: {held} -> {version}")
        self.versions[name] = version


@asynccontextmanager
async def connected(running: Twinspan, certificate: Certificate | None) -> AsyncIterator[Any]:
    """The cloud and a connection of the node; a node without a certificate joins first."""
    async with AsyncExitStack() as up:
        config = running.data_dir / "kube" / "kubeconfig"
        cloud = FarCloud(running, await up.enter_async_context(connect(config, manager="test")))
        far = cast(CloudCore, cloud)
        certificate = certificate or await join(far, NODE)
        edge = await up.enter_async_context(an_edge(far, NODE, certificate, store=STORE))
        yield cloud, edge, certificate


async def write_all(cloud: FarCloud, value: str) -> None:
    """Want another level of each Device."""
    desired: Json = {"value": value}
    patch: Json = [{"op": "add", "path": "/spec/properties/1/desired", "value": desired}]
    for number in range(COUNT):
        where = (DEVICES, "devices", "default", f"lamp-{number}")
        await cloud.kube.patch(*where, patch, patch_type=PatchType.JSON)


async def test_what_was_acknowledged_when_cloudcore_died_is_neither_lost_nor_older(
    tmp_path: Path,
) -> None:
    stored = Stored()
    certificate: Certificate | None = None
    hub = f"cloud.hub.wss.bind=127.0.0.1:{free_port()}"
    with twinspan(tmp_path / "cloud", "cloud", "--demo", sets=(hub,)) as running:
        for number in range(ROUNDS):
            async with connected(running, certificate) as (cloud, edge, certificate):
                stored.read = 0
                if number == 0:
                    await edge.register()
                    await cloud.kube.create(DEVICES, "devicemodels", "default", a_model())
                    for lamp in range(COUNT):
                        device = a_device(f"lamp-{lamp}", level="0")
                        await cloud.kube.create(DEVICES, "devices", "default", device)
                writing = asyncio.create_task(write_all(cloud, str(number + 1)))
                enough = 8 + 5 * number
                await edge.wait_for(lambda _e, e=edge, n=enough: len(e.received) > n)
                await asyncio.to_thread(
                    running.kill
                )  # some were acknowledged, some were on their way
                await asyncio.gather(writing, return_exceptions=True)
                stored.take(edge)
            await asyncio.to_thread(running.start)
        async with connected(running, certificate) as (cloud, edge, _):
            stored.read = 0
            await write_all(cloud, str(ROUNDS + 1))

            async def holds_all() -> bool:
                stored.take(edge)
                return bool(stored.versions == await cloud.versions())

            await eventually(holds_all)
            await eventually(lambda: all_synced(cast(CloudCore, cloud), COUNT + 1))
            assert len(stored.versions) == COUNT
            assert stored.steps_back == []
