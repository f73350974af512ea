"""A kubelet (and a scheduler) that runs nothing: Pods come up, serve and go as a test says.

It speaks through a `KubeClient` alone, so it works beside any API server.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from gateway.errors import GatewayError, NotFound
from gateway.kube.client import KubeClient, PatchType
from gateway.kube.informer import Change, Informer, Key
from gateway.model.json import Json, JsonObject
from gateway.runtime.keyworker import KeyWorker
from gateway.wire.kube.clock import rfc3339
from gateway.wire.kube.daemons import target_node
from gateway.wire.kube.parts import part, rows, text

Fate: TypeAlias = Literal["waiting", "running", "ready", "succeeded", "failed"]
PHASES = {
    "waiting": "Pending",
    "running": "Running",
    "ready": "Running",
    "succeeded": "Succeeded",
    "failed": "Failed",
}


def ready(_pod: JsonObject) -> Fate:
    """Every Pod serves."""
    return "ready"


@dataclass
class FakeKubelet:
    """Does with each Pod what `fate` says of it; asks again with `review`.

    Shape:  Pods without a Node are bound to the one they are pinned to, else to `node`, unless that is
            empty; deleted Pods go at once while `lets_go`, and stay Terminating otherwise.
    """

    kube: KubeClient
    fate: Callable[[JsonObject], Fate] = ready
    node: str = "node-1"
    lets_go: bool = True
    now: Callable[[], float] = time.time
    _worker: KeyWorker[Key] | None = field(default=None, init=False)
    pods: Informer = field(init=False)

    def __post_init__(self) -> None:
        self.pods = Informer(self.kube, "v1", "pods", self._on_change)

    def review(self) -> None:
        """Look at all Pods again: `fate`, or `lets_go`, has changed."""
        for key in self.pods.objects:
            self._poke(key)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[FakeKubelet]:
        """Work for the length of the block."""
        async with asyncio.TaskGroup() as group:
            self._worker = KeyWorker(group, self._settle, pause=0.0)
            known = asyncio.Event()
            task = group.create_task(self.pods.run(known.set))
            await known.wait()
            self.review()
            try:
                yield self
            finally:
                task.cancel()
                self._worker = None

    def _on_change(self, change: Change) -> None:
        self._poke(change.key)

    def _poke(self, key: Key) -> None:
        if self._worker is not None:
            self._worker.poke(key)

    async def _settle(self, key: Key) -> None:
        pod = self.pods.objects.get(key)
        if pod is None:
            return
        with suppress(NotFound):
            await self._act(key, pod)

    async def _act(self, key: Key, pod: JsonObject) -> None:
        if part(pod, "metadata").get("deletionTimestamp"):
            if self.lets_go:
                await self._remove(key, pod)
        elif part(pod, "spec").get("nodeName"):
            await self._report(key, pod)
        elif self.node:
            await self._bind(key, target_node(pod) or self.node)

    async def _remove(self, key: Key, pod: JsonObject) -> None:
        uid = text(part(pod, "metadata").get("uid"))
        with suppress(GatewayError):
            await self.kube.delete("v1", "pods", *key, uid=uid, grace_seconds=0)

    async def _bind(self, key: Key, node: str) -> None:
        target: JsonObject = {"apiVersion": "v1", "kind": "Node", "name": node}
        body: JsonObject = {
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": key[1], "namespace": key[0]},
            "target": target,
        }
        with suppress(GatewayError):  # somebody else was first
            await self.kube.create("v1", "pods", key[0], body, name=key[1], subresource="binding")

    async def _report(self, key: Key, pod: JsonObject) -> None:
        fate = self.fate(pod)
        if _shown(pod) == _wanted(fate):
            return
        patch: JsonObject = {
            "metadata": {"uid": part(pod, "metadata").get("uid")},
            "status": self._status(pod, fate),
        }
        await self.kube.patch(
            "v1", "pods", *key, patch, patch_type=PatchType.STRATEGIC, subresource="status"
        )

    def _status(self, pod: JsonObject, fate: Fate) -> JsonObject:
        serves = "True" if fate == "ready" else "False"
        conditions: list[Json] = [
            {"type": type_, "status": serves, "lastTransitionTime": rfc3339(self.now())}
            for type_ in ("Ready", "ContainersReady")
        ]
        containers: list[Json] = [
            {
                "name": container.get("name"),
                "image": container.get("image"),
                "imageID": "",
                "ready": fate == "ready",
                "restartCount": 0,
                "state": self._state(fate),
            }
            for container in rows(part(pod, "spec").get("containers"))
        ]
        return {
            "phase": PHASES[fate],
            "conditions": conditions,
            "containerStatuses": containers,
            "podIP": "10.0.0.1",
        }

    def _state(self, fate: Fate) -> JsonObject:
        if fate == "waiting":
            return {"waiting": {"reason": "ContainerCreating"}}
        if fate in ("running", "ready"):
            return {"running": {"startedAt": rfc3339(self.now())}}
        ended: JsonObject = {"exitCode": 0 if fate == "succeeded" else 1}
        return {"terminated": ended}


def _wanted(fate: Fate) -> tuple[str, bool]:
    return PHASES[fate], fate == "ready"


def _shown(pod: JsonObject) -> tuple[str, bool]:
    conditions = rows(part(pod, "status").get("conditions"))
    serves = any(row.get("type") == "Ready" and row.get("status") == "True" for row in conditions)
    return text(part(pod, "status").get("phase")), serves
