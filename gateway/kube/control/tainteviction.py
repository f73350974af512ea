"""Pods on nodes whose taints (NoExecute) they do not tolerate, or not for ever: they are deleted in time.

The time that a Pod may stay runs from when this loop saw the taint: a restart lets it begin again, so that
nothing goes too early. Source: Kubernetes, "Taint based Evictions".
"""

from __future__ import annotations

import asyncio

from gateway.errors import Conflict, NotFound
from gateway.kube.client import PatchType
from gateway.kube.control.context import Context
from gateway.kube.control.loop import Loop
from gateway.kube.control.mirrors import metadata_of, uid_of
from gateway.kube.control.nodelifecycle import pods_by_node
from gateway.kube.informer import Change, Key
from gateway.model.json import JsonObject
from gateway.wire.kube.clock import rfc3339
from gateway.wire.kube.parts import part, text
from gateway.wire.kube.podstate import is_deleting
from gateway.wire.kube.taints import NO_EXECUTE, Taint, stay, taints_of, tolerations_of

COMPONENT = "taint-eviction-controller"
REASON = "TaintManagerEviction"


class TaintEviction:
    """Looks at a Pod when its tolerations or the taints of its node change, and when its time is up."""

    def __init__(self, context: Context) -> None:
        self._kube, self._events, self._now = context.kube, context.events, context.now
        self._nodes = context.mirrors.of("v1", "nodes")
        self._pods = context.mirrors.of("v1", "pods")
        self._of_node = self._pods.index("node", pods_by_node)
        self._loop: Loop[Key] = Loop(self._look)
        self._since: dict[Key, tuple[str, float]] = {}
        """Pods that stay for some time, with their uid, since when."""
        self._nodes.on_change(self._node_changed)
        self._pods.on_change(self._pod_changed)

    async def run(self) -> None:
        """Work until cancelled."""
        await self._loop.run()

    def _node_changed(self, change: Change) -> None:
        old = () if change.old is None else _evicting(change.old)
        new = () if change.new is None else _evicting(change.new)
        if old != new:
            for pod in self._of_node.get(change.key[1]):
                self._loop.poke(
                    (text(metadata_of(pod).get("namespace")), text(metadata_of(pod).get("name")))
                )

    def _pod_changed(self, change: Change) -> None:
        if change.new is None:
            self._forget(change.key)
        elif (change.old is None or _stance(change.old) != _stance(change.new)) and (
            change.key in self._since or self._taints_at(change.new)
        ):
            self._loop.poke(change.key)

    def _forget(self, key: Key) -> bool:
        self._loop.forget(key)
        return self._since.pop(key, None) is not None

    async def _look(self, key: Key) -> None:
        pod = self._pods.get(*key)
        if pod is None or is_deleting(pod):
            self._forget(key)
            return
        seconds = stay(self._taints_at(pod), tolerations_of(pod))
        if seconds is None:
            if self._forget(key):
                self._tell(pod, f"Cancelling deletion of Pod {'/'.join(key)}")
            return
        left = self._begun(key, uid_of(pod)) + seconds - asyncio.get_running_loop().time()
        if left > 0:
            self._loop.forget(key)
            self._loop.poke_after(key, left)
            return
        await self._evict(key, pod)

    def _taints_at(self, pod: JsonObject) -> tuple[Taint, ...]:
        """Return what drives Pods away from a Pod's node."""
        node = self._nodes.get(None, text(part(pod, "spec").get("nodeName")))
        return () if node is None else _evicting(node)

    def _begun(self, key: Key, uid: str) -> float:
        """Return since when a Pod's time runs."""
        known = self._since.get(key)
        if known is None or known[0] != uid:
            known = self._since[key] = (uid, asyncio.get_running_loop().time())
        return known[1]

    async def _evict(self, key: Key, pod: JsonObject) -> None:
        self._tell(pod, f"Marking for deletion Pod {'/'.join(key)}")
        namespace, name = key
        condition: JsonObject = {
            "type": "DisruptionTarget",
            "status": "True",
            "reason": "DeletionByTaintManager",
            "message": "Taint manager: deleting due to NoExecute taint",
            "lastTransitionTime": rfc3339(self._now()),
        }
        patch: JsonObject = {
            "metadata": {"uid": uid_of(pod)},
            "status": {"conditions": [condition]},
        }
        try:
            await self._kube.patch(
                "v1", "pods", namespace, name, patch,
                patch_type=PatchType.STRATEGIC, subresource="status",
            )  # fmt: skip
            await self._kube.delete("v1", "pods", namespace, name, uid=uid_of(pod))
        except (NotFound, Conflict):
            pass  # it is gone, or another one
        self._pods.doom(pod)
        self._since.pop(key, None)

    def _tell(self, pod: JsonObject, message: str) -> None:
        about: JsonObject = {"apiVersion": "v1", "kind": "Pod", **pod}
        self._events.record(about, REASON, message, component=COMPONENT)


def _evicting(node: JsonObject) -> tuple[Taint, ...]:
    return tuple(taint for taint in taints_of(node) if taint.effect == NO_EXECUTE)


def _stance(pod: JsonObject) -> tuple[object, ...]:
    """Return what decides whether a Pod may stay."""
    return uid_of(pod), part(pod, "spec").get("nodeName"), part(pod, "spec").get("tolerations")
