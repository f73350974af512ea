"""Which version of which object each node holds, kept as ObjectSyncs and ClusterObjectSyncs in the cluster.

Answers come from memory; writing is coalesced and never waited for: a sync that lags behind means that an
object is sent once more, which edges take. Several CloudCores share a cluster: of nodes that are connected
here this book is the truth and is written; of all others the cluster is, and is followed. What another
CloudCore wrote late about a node that is here now is put right; where it says something new, the object is
sent, or deleted, once more. Source: KubeEdge `reliablesyncs.kubeedge.io/v1alpha1`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TypeAlias

from gateway.errors import GatewayError, NotFound, Rejected
from gateway.kube.client import KubeClient
from gateway.kube.informer import Change, Informer, number_of
from gateway.model.json import JsonObject
from gateway.runtime.backoff import Backoff
from gateway.wire.cloudedge.devices import ObjectMeta, mapping, text
from gateway.wire.kube.status import AlreadyExists

log = logging.getLogger(__name__)

GROUP_VERSION = "reliablesyncs.kubeedge.io/v1alpha1"
NAMESPACED, CLUSTER = ("objectsyncs", "ObjectSync"), ("clusterobjectsyncs", "ClusterObjectSync")
NEVER = "0"
"""Version of an object that was promised to a node and not yet acknowledged."""

Place: TypeAlias = "tuple[str, str]"
"""Node and uid."""


@dataclass(frozen=True, slots=True)
class Held:
    """An object as a node holds it; `type` is the token of the cloud-edge link (`device`).

    Shape:  `namespace` is "" for objects without one.
    """

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
    """Module: the book and its writer. Its `modules` run before it."""

    name = "cloud.syncbook"

    def __init__(self, kube: KubeClient) -> None:
        self._kube = kube
        self._held: dict[str, dict[str, Held]] = {}
        self._stored: dict[Place, Held] = {}
        self._written: dict[Place, int] = {}
        """resourceVersion of the sync that our last write made."""
        self._dirty: dict[Place, None] = {}
        self._deleted: set[Place] = set()
        """Syncs that were deleted here and may still show up in the watch."""
        self._own: set[str] = set()
        self._wake = asyncio.Event()
        self._on_found: list[Callable[[str], None]] = []
        self.modules = [self._informer(plural) for plural, _ in (NAMESPACED, CLUSTER)]

    def _informer(self, plural: str) -> Informer:
        return Informer(
            self._kube, GROUP_VERSION, plural, self._changed, trim=_trimmed, is_needed=False
        )

    async def run(self, ready: Callable[[], None]) -> None:
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

    def own(self, node: str) -> None:
        """A node is connected here: what this book says of it counts from now on."""
        self._own.add(node)

    def release(self, node: str) -> None:
        """A node is connected here no more: another CloudCore may know better."""
        self._own.discard(node)

    def on_found(self, listener: Callable[[str], None]) -> None:
        """Tell `listener` a node of ours about which another CloudCore knew more; before `run`."""
        self._on_found.append(listener)

    def promise(self, node: str, item: Held) -> None:
        """Note that an object is to go to a node."""
        if item.uid not in self.held(node):
            self._put(node, item)
            self._deleted.discard((node, item.uid))
            self._mark(node, item.uid)

    def acknowledge(self, node: str, uid: str, version: str) -> None:
        """Note that a node has stored a version."""
        item = self.held(node).get(uid)
        if item is not None:
            self._put(node, replace(item, version=version))
            self._mark(node, uid)

    def drop(self, node: str, uid: str) -> None:
        """Note that a node has deleted an object."""
        if self._take(node, uid) is not None:
            self._deleted.add((node, uid))
            self._mark(node, uid)

    def doubt(self, node: str) -> None:
        """Note that a node may hold nothing of this any more: its store is new."""
        for uid in list(self.held(node)):
            self.suspect(node, uid)

    def suspect(self, node: str, uid: str) -> None:
        """Note that a node may hold an object no more, e.g. as its deletion is on the way."""
        item = self.held(node).get(uid)
        if item is not None and item.version != NEVER:
            self._put(node, replace(item, version=NEVER))
            self._mark(node, uid)

    def drop_node(self, node: str) -> None:
        """Forget a node that is gone."""
        for uid in list(self.held(node)):
            self.drop(node, uid)

    @property
    def nodes(self) -> list[str]:
        return list(self._held)

    def _put(self, node: str, item: Held) -> None:
        self._held.setdefault(node, {})[item.uid] = item

    def _take(self, node: str, uid: str) -> Held | None:
        held = self._held.get(node, {})
        item = held.pop(uid, None)
        if not held:
            self._held.pop(node, None)
        return item

    def _mark(self, node: str, uid: str) -> None:
        self._dirty[(node, uid)] = None
        self._wake.set()

    # --- what the cluster says ----------------------------------------------------------------------

    def _changed(self, change: Change) -> None:
        document = change.new or change.old
        node, uid = place_of(ObjectMeta.read(document or {}).name)
        if not node or not uid:
            return
        if change.new is None:
            self._vanished(node, uid)
        else:
            self._seen(node, _read(uid, change.new), _number(change.new))

    def _seen(self, node: str, item: Held, version: int) -> None:
        place = (node, item.uid)
        if place in self._deleted or version <= self._written.get(place, -1):
            return  # our own doing
        self._stored[place] = item
        mine = self.held(node).get(item.uid)
        if node not in self._own:
            if place not in self._dirty:
                self._put(node, item)
        elif mine is None:
            self._put(node, item)
            self._tell_found(node)
        elif mine.version != NEVER and _is_later(item.version, mine.version):
            self._put(
                node, item
            )  # delivered by another CloudCore: two that insist would write for ever
        elif mine.version != item.version:
            self._mark(node, item.uid)

    def _vanished(self, node: str, uid: str) -> None:
        place = (node, uid)
        self._stored.pop(place, None)
        self._written.pop(place, None)
        mine = self.held(node).get(uid)
        if place in self._deleted:
            self._deleted.discard(place)
        elif mine is not None and node in self._own:
            self._put(
                node, replace(mine, version=NEVER)
            )  # the node may have been told to delete it
            self._mark(node, uid)
            self._tell_found(node)
        elif place not in self._dirty:
            self._take(node, uid)

    def _tell_found(self, node: str) -> None:
        for listener in self._on_found:
            listener(node)

    # --- what the cluster is told -------------------------------------------------------------------

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
        plural, _ = _form(item)
        with suppress(AlreadyExists):
            await self._kube.create(
                GROUP_VERSION, plural, item.namespace or None, _document(node, item)
            )
        await self._set_status(node, item)

    async def _set_status(self, node: str, item: Held) -> None:
        patch: JsonObject = {"status": {"objectResourceVersion": item.version}}
        name, place = f"{node}.{item.uid}", (node, item.uid)
        plural, _ = _form(item)
        try:
            after = await self._kube.patch(
                GROUP_VERSION, plural, item.namespace or None, name, patch, subresource="status"
            )
        except NotFound:  # somebody deleted it
            if self._stored.pop(place, None) is not None:
                self._mark(*place)
            return
        self._stored[place] = item
        self._written[place] = _number(after)

    async def _delete(self, node: str, uid: str) -> None:
        place = (node, uid)
        stored = self._stored.pop(place, None)
        self._written.pop(place, None)
        if stored is None:
            self._deleted.discard(place)
            return
        plural, _ = _form(stored)
        try:
            await self._kube.delete(
                GROUP_VERSION, plural, stored.namespace or None, f"{node}.{uid}"
            )
        except NotFound:
            self._deleted.discard(place)
        except GatewayError:
            self._stored[place] = stored
            raise


def _form(item: Held) -> tuple[str, str]:
    """Plural and kind of an object's sync."""
    return NAMESPACED if item.namespace else CLUSTER


def place_of(name: str) -> Place:
    """Read node and uid from a sync's name; node names may contain dots, uids do not."""
    node, _, uid = name.rpartition(".")
    return node, uid


def _is_later(version: str, than: str) -> bool:
    return (number_of(version) or 0) > (number_of(than) or 0)


def _number(document: JsonObject) -> int:
    return number_of(ObjectMeta.read(document).version) or 0


def _trimmed(document: JsonObject) -> JsonObject:
    meta = ObjectMeta.read(document)
    return {
        "metadata": {
            "name": meta.name,
            "namespace": meta.namespace,
            "uid": meta.uid,
            "resourceVersion": meta.version,
        }
    }


def _document(node: str, item: Held) -> JsonObject:
    _, kind = _form(item)
    metadata: JsonObject = {"name": f"{node}.{item.uid}"}
    if item.namespace:
        metadata["namespace"] = item.namespace
    return {
        "apiVersion": GROUP_VERSION,
        "kind": kind,
        "metadata": metadata,
        "spec": {
            "objectAPIVersion": item.api_version,
            "objectKind": item.kind,
            "objectName": item.name,
        },
        "status": {"objectResourceVersion": item.version},
    }


def _read(uid: str, document: JsonObject) -> Held:
    spec, status = mapping(document.get("spec")), mapping(document.get("status"))
    return Held(
        uid=uid,
        api_version=text(spec.get("objectAPIVersion")),
        kind=text(spec.get("objectKind")),
        namespace=ObjectMeta.read(document).namespace,
        name=text(spec.get("objectName")),
        version=text(status.get("objectResourceVersion")) or NEVER,
    )
