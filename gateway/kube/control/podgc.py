"""Pods that nobody ends any more: their node is gone, or out of service, or they never had one; and too many
that have ended.

A node that comes back under its name within the quarantine finds its Pods as they were. Source: Kubernetes,
"Pod Lifecycle", garbage collection of Pods.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator

from gateway.errors import GatewayError, NotFound
from gateway.kube.client import PatchType
from gateway.kube.control.context import Context
from gateway.kube.control.mirrors import metadata_of, uid_of
from gateway.model.json import JsonObject
from gateway.wire.kube.clock import rfc3339
from gateway.wire.kube.nodehealth import readiness
from gateway.wire.kube.parts import part, text
from gateway.wire.kube.podstate import is_deleting, is_ended
from gateway.wire.kube.taints import OUT_OF_SERVICE, taints_of

log = logging.getLogger(__name__)

PERIOD_SECONDS = 20.0
QUARANTINE_SECONDS = 40.0
"""How long a node must be gone."""
MAX_ENDED = 12_500
"""Pods that have ended and are kept, all namespaces together."""
_GONE = ("DeletionByPodGC", "PodGC: node no longer exists")


class PodCollector:
    """Looks at all Pods every few seconds."""

    def __init__(
        self,
        context: Context,
        *,
        clock: Callable[[], float] = time.monotonic,
        max_ended: int = MAX_ENDED,
    ) -> None:
        self._kube, self._now, self._clock = context.kube, context.now, clock
        self._max_ended = max_ended
        self._nodes = context.mirrors.of("v1", "nodes")
        self._pods = context.mirrors.of("v1", "pods")
        self._gone: dict[str, float] = {}
        """Nodes that Pods name and that are not there, since when."""

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(PERIOD_SECONDS)

    async def look(self) -> None:
        """Look at all Pods once."""
        pods = list(self._pods.objects.values())
        for pod in self._surplus(pods):
            await self._end(pod, "it had ended, and there are too many")
        for pod in self._out_of_service(pods):
            await self._end(pod, "its node is out of service")
        gone = await self._gone_nodes(pods)
        for pod in pods:
            if _node_of(pod) in gone:
                await self._end(pod, "its node is gone", *_GONE)
            elif is_deleting(pod) and not _node_of(pod):
                await self._end(pod, "it never had a node")

    def _surplus(self, pods: list[JsonObject]) -> list[JsonObject]:
        """Return the Pods that ended, but for the newest: evicted ones first, then by age."""
        ended = [pod for pod in pods if is_ended(pod)]
        count = len(ended) - self._max_ended
        return sorted(ended, key=_age_rank)[:count] if count > 0 else []

    def _out_of_service(self, pods: list[JsonObject]) -> Iterator[JsonObject]:
        for pod in pods:
            node = self._nodes.get(None, _node_of(pod)) if is_deleting(pod) else None
            if node is not None and _is_out_of_service(node):
                yield pod

    async def _gone_nodes(self, pods: list[JsonObject]) -> set[str]:
        """Return the nodes that have been gone for long, and are not there when asked for."""
        now = self._clock()
        missing = {name for pod in pods if (name := _node_of(pod)) and not self._is_there(name)}
        self._gone = {name: self._gone.get(name, now) for name in missing}
        overdue = [name for name, since in self._gone.items() if now - since >= QUARANTINE_SECONDS]
        return {name for name in overdue if await self._is_gone(name)}

    def _is_there(self, name: str) -> bool:
        return self._nodes.get(None, name) is not None

    async def _is_gone(self, name: str) -> bool:
        try:
            await self._kube.get("v1", "nodes", None, name)
        except NotFound:
            return True
        except GatewayError as error:
            log.info("a node must wait", extra={"node": name, "cause": error.message})
        return False

    async def _end(self, pod: JsonObject, why: str, reason: str = "", message: str = "") -> None:
        """Say that a Pod failed, then delete it at once: its watchers should see both."""
        meta = metadata_of(pod)
        if meta.get("deletionGracePeriodSeconds") == 0 and is_ended(pod):
            return  # its finalizers are somebody's work
        namespace, name = text(meta.get("namespace")), text(meta.get("name"))
        facts = {"pod": f"{namespace}/{name}", "node": _node_of(pod), "why": why}
        try:
            if not is_ended(pod):
                await self._kube.patch(
                    "v1", "pods", namespace, name, self._failed(pod, reason, message),
                    patch_type=PatchType.STRATEGIC, subresource="status",
                )  # fmt: skip
            await self._kube.delete("v1", "pods", namespace, name, uid=uid_of(pod), grace_seconds=0)
        except NotFound:
            return
        except GatewayError as error:
            log.warning("a lost pod stays", extra={**facts, "cause": error.message})
            return
        log.info("a pod was ended that nobody else ends", extra=facts)

    def _failed(self, pod: JsonObject, reason: str, message: str) -> JsonObject:
        status: JsonObject = {"phase": "Failed"}
        if reason:
            condition: JsonObject = {
                "type": "DisruptionTarget",
                "status": "True",
                "reason": reason,
                "message": message,
                "lastTransitionTime": rfc3339(self._now()),
            }
            status["conditions"] = [condition]
        return {"metadata": {"uid": uid_of(pod)}, "status": status}


def _is_out_of_service(node: JsonObject) -> bool:
    is_marked = any(taint.key == OUT_OF_SERVICE for taint in taints_of(node))
    return is_marked and readiness(node) != "True"


def _node_of(pod: JsonObject) -> str:
    return text(part(pod, "spec").get("nodeName"))


def _age_rank(pod: JsonObject) -> tuple[bool, str, str]:
    meta = metadata_of(pod)
    is_kept_longer = part(pod, "status").get("reason") != "Evicted"
    return is_kept_longer, text(meta.get("creationTimestamp")), text(meta.get("name"))
