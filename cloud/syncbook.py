"""Which version of which object each node holds, kept as ObjectSyncs in the cluster.

Answers come from memory; writing is coalesced and never waited for: an ObjectSync that lags behind means that
an object is sent once more, which edges take. Source: KubeEdge `reliablesyncs.kubeedge.io/v1alpha1`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace

from gateway.errors import GatewayError, NotFound, Rejected
from gateway.kube.client import KubeClient
from gateway.model.json import JsonObject
from gateway.runtime.backoff import Backoff
from gateway.wire.cloudedge.devices import ObjectMeta, mapping, text
from gateway.wire.kube.status import AlreadyExists

log = logging.getLogger(__name__)

GROUP_VERSION = "reliablesyncs.kubeedge.io/v1alpha1"
PLURAL = "objectsyncs"
NEVER = "0"
"""Version of an object that was promised to a node and not yet acknowledged."""


@dataclass(frozen=True, slots=True)
class Held:
    """An object as a node holds it; `type` is the token of the cloud-edge link (`device`)."""

    uid: str
    api_version: str
    kind: str
    namespace: str
    name: str
    version: str = NEVER

    @property
    def type(self) -> str:
        return self.kind.lower()


class SyncBook:
    """Module: the book and its writer."""

    name = "cloud.syncbook"

    def __init__(self, kube: KubeClient) -> None:
        self._kube = kube
        self._held: dict[str, dict[str, Held]] = {}
        self._stored: dict[tuple[str, str], Held] = {}
        self._dirty: dict[tuple[str, str], None] = {}
        self._wake = asyncio.Event()

    async def run(self, ready: Callable[[], None]) -> None:
        await self._load()
        ready()
        backoff = Backoff(0.5, 30.0)
        while True:
            await self._wake.wait()
            self._wake.clear()
            if await self._write_all():
                backoff.reset()
            else:
                await asyncio.sleep(backoff.next())
                self._wake.set()

    # --- questions and changes --------------------------------------------------------------------

    def held(self, node: str) -> dict[str, Held]:
        """Return what a node holds, by uid. Read only."""
        return self._held.get(node, {})

    def promise(self, node: str, item: Held) -> None:
        """Note that an object is to go to a node."""
        if item.uid not in self.held(node):
            self._held.setdefault(node, {})[item.uid] = item
            self._mark(node, item.uid)

    def acknowledge(self, node: str, uid: str, version: str) -> None:
        """Note that a node has stored a version."""
        item = self.held(node).get(uid)
        if item is not None:
            self._held[node][uid] = replace(item, version=version)
            self._mark(node, uid)

    def drop(self, node: str, uid: str) -> None:
        """Note that a node has deleted an object."""
        held = self._held.get(node, {})
        if held.pop(uid, None) is not None:
            self._mark(node, uid)
        if not held:
            self._held.pop(node, None)

    def doubt(self, node: str) -> None:
        """Note that a node may hold nothing of this any more: its store is new."""
        for uid, item in list(self.held(node).items()):
            if item.version != NEVER:
                self._held[node][uid] = replace(item, version=NEVER)
                self._mark(node, uid)

    def drop_node(self, node: str) -> None:
        """Forget a node that is gone."""
        for uid in list(self.held(node)):
            self.drop(node, uid)

    @property
    def nodes(self) -> list[str]:
        return list(self._held)

    def _mark(self, node: str, uid: str) -> None:
        self._dirty[(node, uid)] = None
        self._wake.set()

    # --- the cluster ------------------------------------------------------------------------------

    async def _load(self) -> None:
        try:
            found = await self._kube.list(GROUP_VERSION, PLURAL)
        except NotFound:
            log.warning("no ObjectSync resource in this cluster: nodes get everything at connect")
            return
        for document in found.items:
            node, item = _read(document)
            if node and item.uid:
                self._held.setdefault(node, {})[item.uid] = item
                self._stored[(node, item.uid)] = item

    async def _write_all(self) -> bool:
        while self._dirty:
            key = next(iter(self._dirty))
            del self._dirty[key]
            try:
                await self._write(*key)
            except Rejected as error:  # trying again would not help
                log.info("ObjectSync refused", extra={"node": key[0], "cause": error.message})
            except GatewayError as error:
                self._dirty[key] = None
                log.info("ObjectSync not written", extra={"node": key[0], "cause": error.message})
                return False
        return True

    async def _write(self, node: str, uid: str) -> None:
        item = self.held(node).get(uid)
        stored = self._stored.get((node, uid))
        if item is None:
            await self._delete(node, uid)
        elif stored is None:
            await self._create(node, item)
        elif stored.version != item.version:
            await self._set_status(node, item)

    async def _create(self, node: str, item: Held) -> None:
        with suppress(AlreadyExists):
            await self._kube.create(GROUP_VERSION, PLURAL, item.namespace, _document(node, item))
        await self._set_status(node, item)

    async def _set_status(self, node: str, item: Held) -> None:
        patch: JsonObject = {"status": {"objectResourceVersion": item.version}}
        name = f"{node}.{item.uid}"
        try:
            await self._kube.patch(
                GROUP_VERSION, PLURAL, item.namespace, name, patch, subresource="status"
            )
        except NotFound:  # somebody deleted it
            if self._stored.pop((node, item.uid), None) is not None:
                self._mark(node, item.uid)
            return
        self._stored[(node, item.uid)] = item

    async def _delete(self, node: str, uid: str) -> None:
        stored = self._stored.pop((node, uid), None)
        if stored is not None:
            with suppress(NotFound):
                await self._kube.delete(GROUP_VERSION, PLURAL, stored.namespace, f"{node}.{uid}")


def _document(node: str, item: Held) -> JsonObject:
    return {
        "apiVersion": GROUP_VERSION,
        "kind": "ObjectSync",
        "metadata": {"name": f"{node}.{item.uid}", "namespace": item.namespace},
        "spec": {
            "objectAPIVersion": item.api_version,
            "objectKind": item.kind,
            "objectName": item.name,
        },
        "status": {"objectResourceVersion": item.version},
    }


def _read(document: JsonObject) -> tuple[str, Held]:
    meta = ObjectMeta.read(document)
    spec, status = mapping(document.get("spec")), mapping(document.get("status"))
    node, _, uid = meta.name.rpartition(".")
    return node, Held(
        uid=uid,
        api_version=text(spec.get("objectAPIVersion")),
        kind=text(spec.get("objectKind")),
        namespace=meta.namespace,
        name=text(spec.get("objectName")),
        version=text(status.get("objectResourceVersion")) or NEVER,
    )
