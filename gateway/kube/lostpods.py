"""Pods whose node is gone: nobody ends them there any more, so they are ended here.

A node that comes back under its name within the quarantine finds its Pods as they were. Source: Kubernetes,
"Pod Lifecycle", garbage collection of Pods.
"""

from __future__ import annotations

import logging
from typing import Final

from gateway.errors import GatewayError, NotFound
from gateway.kube.admission import WriteOptions
from gateway.kube.checks import DeleteOptions
from gateway.kube.client import PatchType
from gateway.kube.objects import Objects
from gateway.kube.strategies import table
from gateway.kube.watch import Stored
from gateway.model.json import JsonObject
from gateway.wire.kube.clock import rfc3339

log = logging.getLogger(__name__)

QUARANTINE_SECONDS = 40.0
"""How long a node must be gone."""
WRITER: Final = WriteOptions(manager="pod-garbage-collector")


class LostPods:
    """Looks at all Pods with each `sweep`."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self._gone: dict[str, float] = {}
        """Nodes that Pods name and that are not there, since when."""

    async def sweep(self, now: float) -> None:
        """End what is lost. Units: `now` in seconds of a clock that nobody sets."""
        lost = self._lost()
        nodes = {_node_of(pod) for pod in lost}
        self._gone = {node: self._gone.get(node, now) for node in nodes}
        for pod in lost:
            if now - self._gone[_node_of(pod)] >= QUARANTINE_SECONDS:
                await self._end(pod)

    def _lost(self) -> list[Stored]:
        nodes = {stored.key.name for stored in self._objects.storage.all("nodes")}
        return [
            stored
            for stored in self._objects.storage.all("pods")
            if _node_of(stored) and _node_of(stored) not in nodes
        ]

    async def _end(self, stored: Stored) -> None:
        """Say that a Pod failed, then delete it at once: its watchers should see both."""
        if table(stored.object, "metadata").get("deletionGracePeriodSeconds") == 0:
            return  # its finalizers are somebody's work
        pods = self._objects.resource("v1", "pods")
        namespace, name = stored.key.namespace, stored.key.name
        uid = str(table(stored.object, "metadata").get("uid"))
        try:
            if table(stored.object, "status").get("phase") not in ("Succeeded", "Failed"):
                await self._objects.patch(
                    pods, namespace, name, self._failed(uid), PatchType.STRATEGIC, WRITER,
                    subresource="status",
                )  # fmt: skip
            options = DeleteOptions(uid=uid, grace_seconds=0)
            await self._objects.delete(pods, namespace, name, options)
        except NotFound:
            return
        except GatewayError as error:
            facts = {"pod": f"{namespace}/{name}", "cause": error.message}
            log.warning("a pod of a lost node stays", extra=facts)
            return
        facts = {"pod": f"{namespace}/{name}", "node": _node_of(stored)}
        log.info("a pod of a lost node was ended", extra=facts)

    def _failed(self, uid: str) -> JsonObject:
        condition: JsonObject = {
            "type": "DisruptionTarget",
            "status": "True",
            "reason": "DeletionByPodGC",
            "message": "PodGC: node no longer exists",
            "lastTransitionTime": rfc3339(self._objects.now()),
        }
        return {
            "metadata": {"uid": uid},
            "status": {"phase": "Failed", "conditions": [condition]},
        }


def _node_of(stored: Stored) -> str:
    return str(table(stored.object, "spec").get("nodeName") or "")
