"""Rollouts under hardship: loops that are killed and start again, writes that fail, news that comes late."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from gateway.errors import Conflict, Undeliverable
from gateway.kube.client import KubeClient
from gateway.kube.control.manager import ControllerManager
from gateway.kube.informer import Change, Informer
from gateway.model.json import Json, JsonObject
from gateway.runtime.module import running
from gateway.wire.kube.parts import part, rows, text, whole
from gateway.wire.kube.podstate import is_active, is_ready
from tests.kube_server import KubeServer
from tests.workload_rig import Workloads, eventually, workloads

DEPLOYMENTS = "apps/v1", "deployments"
LOOPS = ("deployment", "replicaset")
REPLICAS, SURGE, UNAVAILABLE = 6, 2, 1


class Troubled:
    """A client whose writes fail now and then, some after they were made, and whose watches are late."""

    def __init__(self, kube: KubeClient, dice: random.Random) -> None:
        self._kube = kube
        self._dice = dice

    def __getattr__(self, name: str) -> Any:
        return getattr(self._kube, name)

    async def _write(self, verb: str, *at: Any, **how: Any) -> Any:
        throw = self._dice.random()
        if throw < 0.1:
            raise Undeliverable("the server is away")
        if throw < 0.2 and verb == "update":
            raise Conflict("somebody was first")
        answer = await getattr(self._kube, verb)(*at, **how)
        if throw > 0.95 and verb != "create":
            raise Undeliverable("the answer was lost")
        return answer

    async def create(self, *at: Any, **how: Any) -> Any:
        return await self._write("create", *at, **how)

    async def update(self, *at: Any, **how: Any) -> Any:
        return await self._write("update", *at, **how)

    async def patch(self, *at: Any, **how: Any) -> Any:
        return await self._write("patch", *at, **how)

    async def delete(self, *at: Any, **how: Any) -> Any:
        return await self._write("delete", *at, **how)

    async def watch(self, *at: Any, **how: Any) -> AsyncIterator[Any]:
        async for event in self._kube.watch(*at, **how):
            await asyncio.sleep(self._dice.random() * 0.02)
            yield event


class Census:
    """Counts Pods with each change: how many there were at most, how few served."""

    def __init__(self, kube: KubeClient) -> None:
        self.most, self.fewest = 0, REPLICAS
        self._pods = Informer(kube, "v1", "pods", self._count)

    def _count(self, _change: Change) -> None:
        pods = [pod for pod in self._pods.objects.values() if is_active(pod)]
        self.most = max(self.most, len(pods))
        self.fewest = min(self.fewest, sum(map(is_ready, pods)))

    @asynccontextmanager
    async def taken(self) -> AsyncIterator[Census]:
        """Count for the length of the block."""
        async with asyncio.TaskGroup() as group:
            known = asyncio.Event()
            task = group.create_task(self._pods.run(known.set))
            await known.wait()
            self.most, self.fewest = 0, REPLICAS
            yield self
            task.cancel()


def a_deployment(image: str = "web:1") -> JsonObject:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web"},
        "spec": {
            "replicas": REPLICAS,
            "selector": {"matchLabels": {"app": "web"}},
            "progressDeadlineSeconds": 600,
            "revisionHistoryLimit": 10,
            "strategy": {
                "type": "RollingUpdate",
                "rollingUpdate": {"maxSurge": SURGE, "maxUnavailable": UNAVAILABLE},
            },
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "web", "image": image}]},
            },
        },
    }


async def set_image(rig: Workloads, image: str) -> None:
    template = part(a_deployment(image), "spec", "template")
    await rig.kube.patch(*DEPLOYMENTS, "default", "web", {"spec": {"template": template}})


async def until_all_serve(rig: Workloads, image: str) -> None:
    """Wait until all Pods are of an image and serve; the sets are seen where that never comes."""

    async def seen() -> tuple[list[tuple[str, bool]], list[tuple[Json, JsonObject]]]:
        pods = [(image_of(pod), is_ready(pod)) for pod in await rig.pods()]
        sets = (await rig.kube.list("apps/v1", "replicasets", "default")).items
        return pods, [(part(item, "spec")["replicas"], part(item, "status")) for item in sets]

    await eventually(seen, lambda seen: seen[0] == [(image, True)] * REPLICAS)


def image_of(pod: JsonObject) -> str:
    return text(rows(part(pod, "spec")["containers"])[0]["image"])


def some_loops(server: KubeServer, dice: random.Random | None = None) -> ControllerManager:
    def client(manager: str) -> KubeClient:
        kube = server.api.client(manager)
        return kube if dice is None else cast(KubeClient, Troubled(kube, dice))

    return ControllerManager(client, LOOPS)


@pytest.mark.parametrize("seed", [1, 2])
async def test_loops_that_are_killed_again_and_again_keep_the_limits(
    tmp_path: Path, seed: int
) -> None:
    dice = random.Random(seed)
    async with workloads(tmp_path) as rig:
        async with running(some_loops(rig.server)):
            await rig.kube.create(*DEPLOYMENTS, "default", a_deployment())
            await until_all_serve(rig, "web:1")
        async with Census(rig.server.api.client("census")).taken() as census:
            await set_image(rig, "web:2")
            for number in range(12):
                async with running(some_loops(rig.server)):
                    await asyncio.sleep(dice.random() * 0.06)
                # what was on its way to the store is there before somebody else looks
                await rig.kube.create("v1", "configmaps", "default", _mark(number))
            async with running(some_loops(rig.server)):
                await until_all_serve(rig, "web:2")
        assert census.most <= REPLICAS + SURGE
        assert census.fewest >= REPLICAS - UNAVAILABLE


def _mark(number: int) -> JsonObject:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": f"mark-{number}"}}


@pytest.mark.parametrize("seed", [1, 2])
async def test_failing_writes_and_late_news_only_cost_time(tmp_path: Path, seed: int) -> None:
    async with workloads(tmp_path) as rig, running(some_loops(rig.server, random.Random(seed))):
        await rig.kube.create(*DEPLOYMENTS, "default", a_deployment())
        await until_all_serve(rig, "web:1")
        async with Census(rig.server.api.client("census")).taken() as census:
            await set_image(rig, "web:2")
            await until_all_serve(rig, "web:2")
        assert census.most <= REPLICAS + SURGE

        async def status() -> JsonObject:
            return part(await rig.kube.get(*DEPLOYMENTS, "default", "web"), "status")

        await eventually(status, lambda status: whole(status.get("availableReplicas")) == REPLICAS)
