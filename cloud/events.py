"""Kubernetes Events: what an operator should see with `kubectl describe`.

Bounded: the same event of the same object is written at most once a minute, and when too many wait, newer
ones are dropped (they are in the log all the same).
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections import OrderedDict
from collections.abc import Callable

from gateway.errors import GatewayError
from gateway.kube.client import KubeClient
from gateway.model.json import JsonObject
from gateway.wire.cloudedge.devices import GROUP_VERSION, ObjectMeta, text
from gateway.wire.kube.clock import rfc3339
from gateway.wire.kube.status import AlreadyExists

log = logging.getLogger(__name__)

QUIET_SECONDS = 60.0
MAX_WAITING = 500
MAX_REMEMBERED = 5_000
COMPONENT = "twinspan-cloudcore"
DEVICE_COMPONENT = "twinspan-devicecontroller"
CLUSTER_NAMESPACE = "default"
"""Where Events about objects without a namespace go."""


class EventRecorder:
    """Module: writes Warning events, one after another."""

    name = "cloud.events"

    def __init__(self, kube: KubeClient) -> None:
        self._kube = kube
        self._queue: asyncio.Queue[JsonObject] = asyncio.Queue(MAX_WAITING)
        self._told: OrderedDict[tuple[str, str, str], float] = OrderedDict()

    async def run(self, ready: Callable[[], None]) -> None:
        ready()
        while True:
            event = await self._queue.get()
            try:
                await self._write(event)
            except GatewayError as error:
                log.debug("event not written", extra={"cause": error.message})

    async def _write(self, event: JsonObject) -> None:
        """One object per fault: what happens again is counted there."""
        meta = ObjectMeta.read(event)
        at = ("v1", "events", meta.namespace)
        try:
            await self._kube.create(*at, event)
        except AlreadyExists:
            count = (await self._kube.get(*at, meta.name)).get("count")
            again: JsonObject = {
                "count": (count if isinstance(count, int) else 1) + 1,
                "lastTimestamp": event["lastTimestamp"],
            }
            await self._kube.patch(*at, meta.name, again)

    def warn(self, document: JsonObject, reason: str, message: str) -> None:
        """Warn about an object; `reason` in CamelCase (`NotMappable`)."""
        meta = ObjectMeta.read(document)
        log.warning(
            "an object needs attention",
            extra={
                "kind": text(document.get("kind")) or "Device",
                "object": f"{meta.namespace}/{meta.name}",
                "reason": reason,
                "cause": message[:500],
            },
        )
        if self._is_told((meta.uid, reason, message)):
            return
        try:
            self._queue.put_nowait(_event(document, reason, message))
        except asyncio.QueueFull:
            log.debug("event dropped", extra={"reason": reason})

    async def write_once(self, document: JsonObject, reason: str, message: str) -> None:
        """Write a Warning about an object now, unless it stands there already. Errors: those of the API."""
        event = _event(document, reason, message)
        try:
            await self._kube.create("v1", "events", ObjectMeta.read(event).namespace, event)
        except AlreadyExists:
            return

    def _is_told(self, key: tuple[str, str, str]) -> bool:
        now = time.monotonic()
        if now - self._told.get(key, -QUIET_SECONDS) < QUIET_SECONDS:
            return True
        self._told[key] = now
        self._told.move_to_end(key)
        while len(self._told) > MAX_REMEMBERED:
            self._told.popitem(last=False)
        return False


def _event(document: JsonObject, reason: str, message: str) -> JsonObject:
    meta, now = ObjectMeta.read(document), rfc3339(time.time())
    version = text(document.get("apiVersion")) or GROUP_VERSION
    component = DEVICE_COMPONENT if version == GROUP_VERSION else COMPONENT
    namespace = meta.namespace or CLUSTER_NAMESPACE
    mark = hashlib.sha256(f"{meta.uid}{reason}{message}".encode()).hexdigest()[:16]
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{meta.name[:200]}.{mark}", "namespace": namespace},
        "involvedObject": {
            "apiVersion": version,
            "kind": text(document.get("kind")) or "Device",
            "namespace": meta.namespace,
            "name": meta.name,
            "uid": meta.uid,
            "resourceVersion": meta.version,
        },
        "type": "Warning",
        "reason": reason,
        "message": message[:1_000],
        "source": {"component": component},
        "reportingComponent": component,
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
    }
