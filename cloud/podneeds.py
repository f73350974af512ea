"""The ConfigMaps and Secrets that Pods of edge nodes name, in memory; of all others nothing is kept.

Both collections are watched as a whole, which costs no memory for what nobody names; what becomes needed is
read once by itself, and the watch keeps it up to date from then on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from functools import partial

from cloud.nodepods import Need, NodePods
from gateway.errors import GatewayError, NotFound
from gateway.kube.client import KubeClient
from gateway.kube.informer import Change, Informer, Key
from gateway.model.json import JsonObject
from gateway.runtime.backoff import Backoff

log = logging.getLogger(__name__)

PLURALS = {"configmap": "configmaps", "secret": "secrets"}
READERS = 8


class PodNeeds:
    """Module: reads what becomes needed. Its `modules` run before it."""

    name = "cloud.podneeds"

    def __init__(
        self, kube: KubeClient, pods: NodePods, changed: Callable[[Iterable[str]], None]
    ) -> None:
        self._kube = kube
        self._pods = pods
        self._changed = changed
        self._known: set[Need] = set()
        self._reading: dict[Need, None] = {}
        self._wake = asyncio.Event()
        self._informers = {kind: self._informer(kube, kind) for kind in PLURALS}
        pods.on_need(self._need_changed)

    def _informer(self, kube: KubeClient, kind: str) -> Informer:
        return Informer(
            kube,
            "v1",
            PLURALS[kind],
            partial(self._object_changed, kind),
            keep=lambda key: self._is_needed(kind, key),
        )

    @property
    def modules(self) -> list[Informer]:
        return list(self._informers.values())

    # --- questions --------------------------------------------------------------------------------

    def is_known(self, need: Need) -> bool:
        """True when it is known how the object is, or that there is none."""
        return need in self._known or need.type not in PLURALS

    def find(self, need: Need) -> JsonObject | None:
        informer = self._informers.get(need.type)
        return None if informer is None else informer.objects.get((need.namespace, need.name))

    def _is_needed(self, kind: str, key: Key) -> bool:
        return bool(self._pods.users(Need(kind, *key)))

    # --- changes ----------------------------------------------------------------------------------

    def _need_changed(self, need: Need) -> None:
        if need.type not in PLURALS:
            return
        if self._pods.users(need):
            self._reading[need] = None
            self._wake.set()
            return
        self._known.discard(need)
        self._reading.pop(need, None)
        self._informers[need.type].forget((need.namespace, need.name))

    def _object_changed(self, kind: str, change: Change) -> None:
        need = Need(kind, *change.key)
        self._reading.pop(need, None)
        self._known.add(need)
        self._changed(self._pods.users(need))

    # --- reading ----------------------------------------------------------------------------------

    async def run(self, ready: Callable[[], None]) -> None:
        """Read what is needed: first all that is needed now, as far as it can be had."""
        await self._read_all()
        ready()
        backoff = Backoff(0.2, 30.0)
        while True:
            await self._wake.wait()
            self._wake.clear()
            if await self._read_all():
                backoff.reset()
            else:
                await asyncio.sleep(backoff.next())
                self._wake.set()

    async def _read_all(self) -> bool:
        """Read, some at a time; True when nothing is left to read again."""
        while self._reading:
            batch = list(self._reading)[:READERS]
            done = await asyncio.gather(*map(self._read, batch))
            if not all(done):
                return False
        return True

    async def _read(self, need: Need) -> bool:
        """Read one object; whatever the watch brought meanwhile is at least as new."""
        try:
            item = await self._kube.get("v1", PLURALS[need.type], need.namespace, need.name)
        except NotFound:
            self._settle(need, None)
        except GatewayError as error:
            log.info("object of a Pod not read", extra={"cause": error.message})
            return False
        else:
            self._settle(need, item)
        return True

    def _settle(self, need: Need, item: JsonObject | None) -> None:
        if need not in self._reading:
            return  # the watch was first, or nobody needs it any more
        del self._reading[need]
        self._known.add(need)
        if item is not None:
            self._informers[need.type].put(item)
        else:
            self._changed(self._pods.users(need))
