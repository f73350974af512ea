"""Pods on a node that runs none: they are kept, and one that ends is confirmed at once.

Nothing of such a Pod was ever started, so nothing is to be stopped; without this word of the node a deleted
Pod would stay in Terminating for ever.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from edge.edgeapi import CloudOrDisk
from edge.metamanager import MetaManager
from gateway.errors import GatewayError, Undeliverable
from gateway.model.json import JsonObject
from gateway.model.trace import TraceContext
from gateway.runtime.backoff import Backoff
from gateway.wire.cloudedge.devices import ObjectMeta
from gateway.wire.cloudedge.names import Operation
from gateway.wire.cloudedge.subjects import Subject
from gateway.wire.cloudedge.to_edge import ObjectChanged

log = logging.getLogger(__name__)

POD = "pod"
RETRY_CAP = 30.0


class PodlessNode:
    """Module, and taker of Pods."""

    name = "edge.pods"

    def __init__(self, meta: MetaManager, api: CloudOrDisk) -> None:
        self._meta = meta
        self._api = api
        self._told: set[str] = set()
        self._ending: dict[Subject, str] = {}
        """What is to be confirmed: Pod -> uid."""
        self._wake = asyncio.Event()
        meta.on_kind(POD, self)

    def object_changed(self, change: ObjectChanged, _trace: TraceContext | None) -> None:
        if change.operation is Operation.DELETE:
            self._told.discard(change.uid)
            self._ending.pop(change.subject, None)
        elif isinstance(change.object, dict):
            self._take(change.subject, change.object)

    def _take(self, subject: Subject, pod: JsonObject) -> None:
        meta = ObjectMeta.read(pod)
        if meta.is_deleting:
            self._ending[subject] = meta.uid
            self._wake.set()
        elif meta.uid not in self._told:
            self._told.add(meta.uid)
            log.warning("kept, but not run: not built", extra={"resource": str(subject)})

    def link_up(self, *, has_spool: bool) -> None:  # noqa: ARG002  Pods need no spool
        """What waits for the cloud goes on."""
        self._wake.set()

    def link_down(self) -> None:
        """Nothing to do."""

    async def run(self, ready: Callable[[], None]) -> None:
        for pod in await self._meta.list(POD):
            meta = ObjectMeta.read(pod)
            self._take(Subject(meta.namespace, POD, meta.name), pod)
        ready()
        backoff = Backoff(1.0, RETRY_CAP)
        while True:
            if await self._confirm_all():
                backoff.reset()
            try:
                async with asyncio.timeout(backoff.next() if self._ending else None):
                    await self._wake.wait()
            except TimeoutError:
                continue
            self._wake.clear()

    async def _confirm_all(self) -> bool:
        """Confirm what ends; False where the cloud could not be told of all."""
        for subject, uid in list(self._ending.items()):
            options: JsonObject = {"gracePeriodSeconds": 0, "preconditions": {"uid": uid}}
            try:
                await self._api.delete(subject, options)
            except Undeliverable:
                return False
            except GatewayError as error:
                log.warning(
                    "the end of a Pod was not taken",
                    extra={"resource": str(subject), "cause": error.message},
                )
            if self._ending.get(subject) == uid:
                del self._ending[subject]
        return True
