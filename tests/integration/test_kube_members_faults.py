"""DaemonSets, StatefulSets and budgets over a bad line: late news, refused writes, lost answers."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, cast

import pytest

from gateway.errors import Conflict, Undeliverable
from gateway.kube.client import KubeClient, WatchEvent
from gateway.kube.control.manager import ControllerManager
from gateway.model.json import JsonObject
from gateway.runtime.module import running
from gateway.wire.kube.daemons import target_node
from gateway.wire.kube.parts import labels_of, part, rows, text
from tests.workload_rig import Workloads, eventually, name_of, workloads

SETS, DAEMONS = ("apps/v1", "statefulsets"), ("apps/v1", "daemonsets")
BUDGETS = "policy/v1", "poddisruptionbudgets"
LOOPS = "daemonset", "statefulset", "disruption"
WRITES = "create", "update", "patch", "delete"


class BadLine:
    """A client whose watches are late and of whose writes some fail, before or after they are done."""

    def __init__(self, kube: KubeClient, chance: random.Random, share: float) -> None:
        self._kube = kube
        self._chance = chance
        self._share = share

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._kube, name)
        return self._flaky(found) if name in WRITES else found

    def _flaky(self, write: Callable[..., Any]) -> Callable[..., Any]:
        async def attempt(*arguments: Any, **named: Any) -> Any:
            luck = self._chance.random()
            if luck < self._share:
                raise Conflict("somebody was first")
            answer = await write(*arguments, **named)
            if luck > 1 - self._share:
                raise Undeliverable("the answer was lost")
            return answer

        return attempt

    async def watch(self, *arguments: Any, **named: Any) -> AsyncIterator[WatchEvent]:
        async for event in self._kube.watch(*arguments, **named):
            await asyncio.sleep(self._chance.random() * 0.05)
            yield event


def a_workload(kind: str, name: str, image: str = "i:1", **spec: Any) -> JsonObject:
    template: JsonObject = {
        "metadata": {"labels": {"app": name}},
        "spec": {"containers": [{"name": "c", "image": image}]},
    }
    selector: JsonObject = {"matchLabels": {"app": name}}
    return {
        "apiVersion": "apps/v1",
        "kind": kind,
        "metadata": {"name": name},
        "spec": {"selector": selector, "template": template, **spec},
    }


def images(pods: list[JsonObject], app: str) -> list[tuple[str, str]]:
    return sorted(
        (
            name_of(pod) if app == "web" else str(target_node(pod)),
            text(rows(part(pod, "spec").get("containers"))[0]["image"]),
        )
        for pod in pods
        if labels_of(pod).get("app") == app
    )


async def set_up(rig: Workloads) -> None:
    for number in range(4):
        metadata: JsonObject = {"name": f"n{number}"}
        node: JsonObject = {"apiVersion": "v1", "kind": "Node", "metadata": metadata}
        await rig.kube.create("v1", "nodes", None, node)
    await rig.kube.create(*DAEMONS, "default", a_workload("DaemonSet", "agent"))
    members = a_workload("StatefulSet", "web", replicas=3, serviceName="web")
    await rig.kube.create(*SETS, "default", members)
    budget: JsonObject = {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {"name": "web"},
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": {"app": "web"}}},
    }
    await rig.kube.create(*BUDGETS, "default", budget)


async def settled(rig: Workloads, image: str, members: int) -> None:
    """Wait until Pods, statuses and the budget say that all is done, and nothing is there twice."""

    async def seen() -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
        pods = await rig.pods()
        return images(pods, "web"), images(pods, "agent")

    wanted = (
        [(f"web-{n}", image) for n in range(members)],
        [(f"n{n}", image) for n in range(4)],
    )
    await eventually(seen, lambda found: found == wanted)
    await rig.until(SETS, "web", lambda it: it.get("availableReplicas") == members)
    await rig.until(DAEMONS, "agent", lambda it: it.get("numberAvailable") == 4)
    allowed: JsonObject = {"currentHealthy": members, "disruptionsAllowed": 1}
    await rig.until(BUDGETS, "web", lambda it: {**it, **allowed} == it)


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_all_is_done_in_the_end_and_nothing_twice(seed: int, tmp_path: Path) -> None:
    async with workloads(tmp_path) as rig, AsyncExitStack() as up:
        await set_up(rig)
        chance = random.Random(seed)

        def client(manager: str) -> KubeClient:
            return cast("KubeClient", BadLine(rig.server.api.client(manager), chance, 0.1))

        await up.enter_async_context(running(ControllerManager(client, LOOPS)))
        await settled(rig, "i:1", 3)
        template: JsonObject = {"spec": {"containers": [{"name": "c", "image": "i:2"}]}}
        change: JsonObject = {"spec": {"template": template}}
        await rig.kube.patch(*DAEMONS, "default", "agent", change)
        await rig.kube.patch(
            *SETS, "default", "web", {"spec": {"template": template, "replicas": 4}}
        )
        await settled(rig, "i:2", 4)
        revisions = (await rig.kube.list("apps/v1", "controllerrevisions", "default")).items
        assert sorted(str(each["revision"]) for each in revisions) == ["1", "1", "2", "2"]
