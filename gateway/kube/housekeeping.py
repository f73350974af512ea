"""What an API server does by itself: old Events go, a definition takes the objects of its kind along.

All else that happens by itself is the work of control loops, ours (`gateway.kube.control`) or others'.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from gateway.errors import Conflict, GatewayError, NotFound
from gateway.kube.admission import WriteOptions
from gateway.kube.builtin import DEFINITIONS
from gateway.kube.checks import DeleteOptions
from gateway.kube.client import EventType, PatchType
from gateway.kube.crds import kinds_of
from gateway.kube.objects import Objects
from gateway.kube.strategies import CLEANUP, table
from gateway.kube.watch import Change, Key, Stored
from gateway.model.json import Json, JsonObject
from gateway.wire.kube.clock import parse_rfc3339
from gateway.wire.kube.resources import ResourceType

log = logging.getLogger(__name__)

RETRY_SECONDS = 1.0
SWEEP_SECONDS = 60.0
EVENT_SECONDS = 3_600.0
MAX_EVENTS = 10_000
"""Events that a sweep leaves; the oldest go first."""
STANDARD_NAMESPACES = ("default", "kube-system", "kube-public", "kube-node-lease", "kubeedge")
WRITER = WriteOptions(manager="kube-apiserver")


class Housekeeping:
    """The worker. Definitions that wait are bounded by their number."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self._leaving: dict[Key, None] = {}
        self._wake = asyncio.Event()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Look at everything once, then follow changes for the length of the block."""
        for stored in self._objects.storage.all(DEFINITIONS):
            self._judge(stored)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._work()), group.create_task(self._sweep())]
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()

    def on_change(self, change: Change) -> None:
        """Note what a committed change asks for."""
        if change.after.key.kind != DEFINITIONS:
            return
        if change.type is EventType.DELETED:
            self._objects.storage.end_watches(change.after.key.name)
        else:
            self._judge(change.after)

    def _judge(self, stored: Stored) -> None:
        metadata = table(stored.object, "metadata")
        if metadata.get("deletionTimestamp") and CLEANUP in _finalizers(stored.object):
            self._leaving[stored.key] = None
            self._wake.set()

    # --- definitions ------------------------------------------------------------------------------

    async def _work(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            for key in list(self._leaving):
                if await self._take_along(key):
                    self._leaving.pop(key, None)
            if self._leaving:
                await asyncio.sleep(RETRY_SECONDS)  # finalizers of objects are somebody's work
                self._wake.set()

    async def _take_along(self, key: Key) -> bool:
        """Delete the objects of a definition's kind, then let it go; True once that is done."""
        stored = self._objects.storage.get(key)
        if stored is None or CLEANUP not in _finalizers(stored.object):
            return True
        try:
            left = 0
            for resource in kinds_of(stored.object):
                for item in list(self._objects.storage.all(resource.storage_key)):
                    left += not await self._delete(resource, item)
            if left:
                return False
            await self._release(stored)
        except NotFound:
            return True
        except GatewayError as error:
            if not isinstance(error, Conflict):
                log.warning(
                    "a definition stays", extra={"definition": key.name, "cause": error.message}
                )
            return False
        return True

    async def _delete(self, resource: ResourceType, stored: Stored) -> bool:
        """Delete an object; True when it is gone."""
        uid = str(table(stored.object, "metadata").get("uid") or "")
        key = stored.key
        try:
            result = await self._objects.delete(
                resource, key.namespace, key.name, DeleteOptions(uid=uid)
            )
        except NotFound:
            return True
        return result.is_gone

    async def _release(self, stored: Stored) -> None:
        held = _finalizers(stored.object)
        uid = table(stored.object, "metadata").get("uid")
        patch: list[Json] = [
            {"op": "test", "path": "/metadata/uid", "value": uid},
            {"op": "test", "path": "/metadata/finalizers", "value": held},
            {
                "op": "replace",
                "path": "/metadata/finalizers",
                "value": [item for item in held if item != CLEANUP],
            },
        ]
        resource = self._objects.resource("apiextensions.k8s.io/v1", "customresourcedefinitions")
        await self._objects.patch(resource, None, stored.key.name, patch, PatchType.JSON, WRITER)

    # --- time -------------------------------------------------------------------------------------

    async def _sweep(self) -> None:
        """Forget old events."""
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            await self.forget_events()

    async def forget_events(self) -> None:
        """Delete Events that are an hour old, and the oldest beyond `MAX_EVENTS`."""
        resource = self._objects.resource("v1", "events")
        before = self._objects.now() - EVENT_SECONDS
        events = sorted(
            ((last_seen(item.object) or 0, item) for item in self._objects.storage.all("events")),
            key=lambda pair: pair[0],
        )
        surplus = len(events) - MAX_EVENTS
        for place, (seen, stored) in enumerate(events):
            if seen >= before and place >= surplus:
                return
            try:
                await self._delete(resource, stored)
            except GatewayError as error:
                log.warning("old events stay", extra={"cause": error.message})
                return


def last_seen(event: JsonObject) -> float | None:
    """When an event last happened, as far as it says."""
    stamps = (
        table(event, "series").get("lastObservedTime"),
        event.get("lastTimestamp"),
        event.get("eventTime"),
        table(event, "metadata").get("creationTimestamp"),
    )
    return max((when for when in map(parse_rfc3339, stamps) if when is not None), default=None)


def _finalizers(item: JsonObject) -> list[Json]:
    value = table(item, "metadata").get("finalizers")
    return value if isinstance(value, list) else []
