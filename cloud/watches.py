"""The watches of edges' MetaServers: each is followed here, and its changes go to the node reliably.

A watch outlives short cuts of the link; what its node has not acknowledged is sent again at the next
connection. Nothing of this is in the book of `cloud.delivery`: the end of a watch takes nothing away from the
node, and what a watch brings is not what the node is to work on. Kinds that come to the node unasked need no
watch of their own where the node may see no more of them. Source: KubeEdge reference, section 13.2.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable, Container
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from cloud.apikinds import ApiKinds
from cloud.apiverbs import Asked, list_page
from cloud.authorizer import Authorizer, View
from cloud.sessions import stamp
from cloud.slices import KINDS, Topology, as_seen
from gateway.errors import NotBuilt, QuotaExceeded, Undeliverable
from gateway.kube.informer import Change, Informer, Key
from gateway.model.json import JsonObject
from gateway.wire.cloudedge.devices import ObjectMeta
from gateway.wire.cloudedge.link import ObjectMessage
from gateway.wire.cloudedge.names import Operation, Source
from gateway.wire.cloudedge.subjects import Subject
from gateway.wire.cloudedge.to_edge import change_object

if TYPE_CHECKING:
    from cloud.hub import CloudHub
    from gateway.config.cloud_services import Dynamic
    from gateway.observe.metrics import Metrics

log = logging.getLogger(__name__)

PREFIX = "watch/"
"""Before the uid in the key of what is sent: the object itself may be under way for another reason."""
DELETED = "deleted"
TICK_SECONDS = 1.0


@dataclass(slots=True)
class _Watch:
    """One watch; `task` None where the node gets the objects anyway."""

    task: asyncio.Task[None] | None = None
    shown: dict[Key, str] = field(default_factory=dict)
    """The objects that the node was told of, by uid."""
    again: Callable[[], None] | None = None
    """Shows everything again: endpoints look different to the node."""


@dataclass(slots=True)
class _Node:
    watches: dict[str, _Watch] = field(default_factory=dict)
    owed: dict[str, ObjectMessage] = field(default_factory=dict)
    """What the node has not acknowledged, newest version of each."""
    unsent: dict[str, None] = field(default_factory=dict)
    """Keys of what is owed and not under way."""
    away_since: float | None = None

    def is_shown(self, uid: str) -> bool:
        return any(uid in watch.shown.values() for watch in self.watches.values())


class Watches:
    """Module and listener of the hub."""

    name = "cloud.watches"

    def __init__(
        self,
        hub: CloudHub,
        authorizer: Authorizer,
        kinds: ApiKinds,
        topology: Topology,
        settings: Dynamic,
        metrics: Metrics,
    ) -> None:
        self._hub = hub
        self._authorizer = authorizer
        self._kinds = kinds
        self._topology = topology
        self._views = itertools.count(1)
        self._settings = settings
        self._metrics = metrics
        self._nodes: dict[str, _Node] = {}
        self._group: asyncio.TaskGroup | None = None
        hub.add_listener(self)

    async def run(self, ready: Callable[[], None]) -> None:
        async with asyncio.TaskGroup() as group:
            self._group = group
            ready()
            try:
                while True:
                    await asyncio.sleep(TICK_SECONDS)
                    self._tick()
            finally:
                self._group = None

    def _tick(self) -> None:
        before = asyncio.get_running_loop().time() - self._settings.keep_watches
        for name, node in list(self._nodes.items()):
            if node.away_since is not None and node.away_since < before:
                self._forget(name)
            elif node.unsent:
                self._send(name, node)

    # --- watches ------------------------------------------------------------------------------

    async def start(self, asked: Asked) -> None:
        """Follow what a node watches, unless it is followed already.

        Errors: QuotaExceeded; those of the API, also for a kind or place that the node may not list.
        """
        node = self._nodes.setdefault(asked.node, _Node())
        if asked.app.id in node.watches:
            return
        if len(node.watches) >= self._settings.max_watches:
            raise QuotaExceeded(
                f"cloud.dynamic.max_watches: node {asked.node} has {len(node.watches)} watches"
            )
        if asked.subresource is not None or asked.key.raw:
            raise NotBuilt("a collection of objects can be watched, and nothing else")
        _, view = await self._authorizer.read(
            asked.node, asked.key, lambda client: list_page(client, asked, 1)
        )
        kind = await self._kinds.kind(asked.key.group_version, asked.key.resource)
        if self._group is None:
            raise Undeliverable("the cloud is stopping")
        node = self._nodes.setdefault(asked.node, _Node())
        if asked.app.id in node.watches:  # begun meanwhile, by a sync
            return
        if not self._hub.is_connected(asked.node):
            node.away_since = asyncio.get_running_loop().time()
        watch = _Watch()
        if not view.is_pushed:
            informer = self._informer(asked, view, watch, kind)
            if kind in KINDS:
                watch.again = partial(self._show_again, asked, kind, watch, informer)
            watch.task = self._group.create_task(_follow(informer, asked))
        self._nodes.setdefault(asked.node, node).watches[asked.app.id] = watch
        self._count()

    def shows(self, node: str, uid: str) -> bool:
        """True while a watch of the node's, followed here for itself, shows an object."""
        known = self._nodes.get(node)
        return known is not None and known.is_shown(uid)

    def _informer(self, asked: Asked, view: View, watch: _Watch, kind: str) -> Informer:
        key, selectors = asked.key, asked.selectors()
        return Informer(
            view.client,
            key.group_version,
            key.resource,
            partial(self._changed, asked, view, watch, kind),
            namespace=key.namespace,
            fields=selectors["fields"],
            labels=selectors["labels"],
            trim=None if kind in KINDS else _trimmed,
            is_needed=False,
        )

    def keep(self, node: str, live: Container[str]) -> None:
        """End the watches of a node whose ids are not in `live`."""
        known = self._nodes.get(node)
        for app_id in list(known.watches) if known else ():
            if app_id not in live:
                self._stop(node, app_id)

    def _stop(self, name: str, app_id: str) -> None:
        node = self._nodes[name]
        watch = node.watches.pop(app_id)
        if watch.task is not None:
            watch.task.cancel()
        if not node.watches:
            del self._nodes[name]
        self._count()

    def _forget(self, name: str) -> None:
        for app_id in list(self._nodes[name].watches):
            self._stop(name, app_id)
        self._nodes.pop(name, None)

    def _count(self) -> None:
        self._metrics.edge.watches.set(sum(len(node.watches) for node in self._nodes.values()))

    # --- changes ------------------------------------------------------------------------------

    def _changed(self, asked: Asked, view: View, watch: _Watch, kind: str, change: Change) -> None:
        node = self._nodes.get(asked.node)
        if node is None or node.watches.get(asked.app.id) is not watch:
            return
        before = watch.shown.get(change.key)
        item = change.new if change.new is not None and view.may_see(change.new) else None
        uid = "" if item is None else ObjectMeta.read(item).uid
        if before is not None and before != uid:
            del watch.shown[change.key]
            if not node.is_shown(before):
                gone = _identity(change.key, before)
                self._owe(asked, kind, gone, Operation.DELETE)
        if item is not None:
            watch.shown[change.key] = uid
            operation = Operation.UPDATE if before == uid else Operation.INSERT
            self._owe(asked, kind, item, operation)

    def topology_changed(self) -> None:
        """Send endpoints again: they may look different to some nodes now."""
        for node in list(self._nodes.values()):
            for watch in list(node.watches.values()):
                if watch.again is not None:
                    watch.again()

    def _show_again(self, asked: Asked, kind: str, watch: _Watch, informer: Informer) -> None:
        look = next(self._views)
        for key, item in informer.objects.items():
            if key in watch.shown and self._nodes[asked.node].watches.get(asked.app.id) is watch:
                self._owe(asked, kind, item, Operation.UPDATE, f"/{look}")

    def _owe(
        self, asked: Asked, kind: str, item: JsonObject, operation: Operation, look: str = ""
    ) -> None:
        """Note what the node must get. Shape: `look` tells apart what one version looks like."""
        meta, is_delete = ObjectMeta.read(item), operation is Operation.DELETE
        named: JsonObject = {"apiVersion": asked.key.group_version, "kind": kind, **item}
        if not is_delete:
            named = as_seen(kind, named, asked.node, self._topology)
        envelope = change_object(
            stamp(),
            Subject(meta.namespace or None, kind.lower(), meta.name),
            operation,
            named,
            version=meta.version,
            source=Source.DYNAMIC_CONTROLLER,
        )
        key, version = PREFIX + meta.uid, DELETED if is_delete else meta.version + look
        node = self._nodes[asked.node]
        node.owed[key] = ObjectMessage(key, version, envelope, is_delete)
        node.unsent[key] = None
        self._send(asked.node, node)

    def _send(self, name: str, node: _Node) -> None:
        """Hand over as much as the link takes."""
        while node.unsent:
            key = next(iter(node.unsent))
            item = node.owed[key]
            is_under_way = self._hub.is_sending(name, key, item.version)
            if not is_under_way and not self._hub.offer(name, item):
                return
            del node.unsent[key]

    # --- the hub's news -----------------------------------------------------------------------

    def node_connected(self, node: str) -> None:
        known = self._nodes.get(node)
        if known is not None:
            known.away_since = None
            known.unsent = dict.fromkeys(known.owed)
            self._send(node, known)

    def node_disconnected(self, node: str) -> None:
        known = self._nodes.get(node)
        if known is not None:
            known.away_since = asyncio.get_running_loop().time()

    def node_is_new(self, node: str) -> None:
        """It knows nothing of what was brought: it will say anew what it watches."""
        if node in self._nodes:
            self._forget(node)

    def delivered(self, node: str, item: ObjectMessage) -> None:
        known = self._nodes.get(node)
        if known is None or not item.key.startswith(PREFIX):
            return
        owed = known.owed.get(item.key)
        if owed is not None and owed.version == item.version:
            del known.owed[item.key]
            known.unsent.pop(item.key, None)
        if known.unsent:
            self._send(node, known)


async def _follow(informer: Informer, asked: Asked) -> None:
    try:
        await informer.run(_nothing)
    except Exception:  # top of a task: one odd object must not end all watches
        facts = {"node": asked.node, "resource": str(asked.key)[:200]}
        log.exception("a watch of an edge failed", extra=facts)


def _nothing() -> None:
    """Nobody waits for the first objects."""


def _trimmed(item: JsonObject) -> JsonObject:
    meta = ObjectMeta.read(item)
    return {
        "metadata": {
            "name": meta.name,
            "namespace": meta.namespace,
            "uid": meta.uid,
            "resourceVersion": meta.version,
        }
    }


def _identity(key: Key, uid: str) -> JsonObject:
    namespace, name = key
    metadata: JsonObject = {"name": name, "uid": uid}
    if namespace:
        metadata["namespace"] = namespace
    return {"metadata": metadata}
