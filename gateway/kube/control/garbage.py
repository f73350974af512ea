"""The garbage collector: dependents go after, or before, their owners; or are set free.

It follows all kinds that can be deleted, those of CustomResourceDefinitions too, and judges by what the
server says at that moment, never by what it remembers. Source: Kubernetes, "Garbage Collection".
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from typing import TypeAlias

from gateway.errors import Conflict, GatewayError, NotFound
from gateway.kube.control.context import Context
from gateway.kube.control.discovered import Discovered, Kind, discover
from gateway.kube.control.follower import Follower
from gateway.kube.control.loop import Loop
from gateway.kube.control.mirrors import key_of, uid_of
from gateway.kube.events import WARNING
from gateway.model.json import Json, JsonObject
from gateway.wire.kube.owners import (
    FOREGROUND,
    ORPHAN,
    Graph,
    Node,
    node_of,
    references_of,
    waits_for_dependents,
    without_owners,
)
from gateway.wire.kube.parts import part, text

log = logging.getLogger(__name__)

AT_ONCE = 64
"""Deletions side by side: a store takes many in one go."""
DISCOVERY_SECONDS = 30.0
MAX_GONE = 4_096
"""Owners that are remembered as gone."""
PAGE = 500
COMPONENT = "garbage-collector-controller"
IGNORED = frozenset({("", "events"), ("events.k8s.io", "events")})
DEFINITIONS = "apiextensions.k8s.io/v1", "customresourcedefinitions"
Where: TypeAlias = "tuple[tuple[str, str], str]"
"""Group version and plural; namespace, empty for what has none."""
POLICIES = {ORPHAN: "Orphan", FOREGROUND: "Foreground"}


class GarbageCollector:
    """Follows everything that has owners."""

    def __init__(self, context: Context) -> None:
        self._kube = context.kube
        self._events = context.events
        self._graph = Graph()
        self._alive: dict[str, Where] = {}
        """uid -> where an owner was found to be; bounded by those that have dependents."""
        self._gone: OrderedDict[str, None] = OrderedDict()
        self._found = Discovered(())
        self._following: dict[Kind, asyncio.Task[None]] = {}
        self._waiting: set[Kind] = set()
        """Kinds that were not listed yet."""
        self._first: dict[str, Where] = {}
        """What lists showed until all of them were there: who of it owns something is known then."""
        self._in_sync = asyncio.Event()
        self._puzzling: set[str] = set()
        """Objects whose owners are of kinds that nobody serves; bounded by dependents."""
        self._loop: Loop[str] = Loop(self._work, at_once=AT_ONCE)
        self._look = asyncio.Event()
        definitions = context.mirrors.of(*DEFINITIONS)
        definitions.on_change(lambda _change: self._look.set())

    async def run(self) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._loop.run())
            while True:
                self._look.clear()
                await self._discover(group)
                try:
                    async with asyncio.timeout(DISCOVERY_SECONDS):
                        await self._look.wait()
                        await asyncio.sleep(0.5)  # definitions come in numbers
                except TimeoutError:
                    continue

    # --- what there is ----------------------------------------------------------------------------

    async def _discover(self, group: asyncio.TaskGroup) -> None:
        try:
            found = await discover(self._kube)
        except GatewayError as error:
            log.info("discovery failed", extra={"cause": error.message})
            return
        wanted = {
            kind
            for kind in found.kinds
            if kind.may("list", "watch", "delete") and (kind.group, kind.plural) not in IGNORED
        }
        is_news = found.kinds != self._found.kinds
        self._found = found
        if not found.failed:
            for kind in [kind for kind in self._following if kind not in wanted]:
                self._unfollow(kind)
        for kind in wanted.difference(self._following):
            self._follow(group, kind)
        self._settle_sync()
        for uid in list(self._puzzling) if is_news else ():
            self._puzzling.discard(uid)
            self._loop.poke(uid)

    def _follow(self, group: asyncio.TaskGroup, kind: Kind) -> None:
        self._waiting.add(kind)
        self._in_sync.clear()
        follower = Follower(
            self._kube,
            kind.place,
            seen=lambda item: self._seen(kind.place, item),
            gone=self._take_away,
            listed=lambda found: self._listed(kind.place, found),
        )
        self._following[kind] = group.create_task(follower.run(lambda: self._known(kind)))

    def _unfollow(self, kind: Kind) -> None:
        self._following.pop(kind).cancel()
        self._waiting.discard(kind)
        for node in self._graph.of(kind.place):
            self._graph.drop(node.uid)
            for dependent in self._graph.dependents(node.uid):
                self._loop.poke(dependent.uid)

    def _known(self, kind: Kind) -> None:
        self._waiting.discard(kind)
        self._settle_sync()

    def _settle_sync(self) -> None:
        if self._waiting or not self._following:
            return
        self._alive |= {
            uid: where for uid, where in self._first.items() if self._graph.is_owner(uid)
        }
        self._first.clear()
        self._in_sync.set()

    def _listed(self, place: tuple[str, str], found: dict[str, str]) -> None:
        """Note what went while nobody watched, and which owners are there."""
        gone = [node.uid for node in self._graph.of(place) if node.uid not in found]
        gone += [
            uid for uid, (where, _) in self._alive.items() if where == place and uid not in found
        ]
        for uid in gone:
            self._take_away(uid)
        if self._waiting:
            self._first |= {uid: (place, namespace) for uid, namespace in found.items()}

    # --- what changes -----------------------------------------------------------------------------

    def _seen(self, place: tuple[str, str], item: JsonObject) -> None:
        node = node_of(place, item)
        if node is None:
            old = self._graph.drop(uid_of(item))
            if old is not None:
                self._poke_waiting_owners(old)
            return
        old = self._graph.put(node)
        if old is not None and old.owners | old.blocks != node.owners | node.blocks:
            self._poke_waiting_owners(old)
        if node.waits_for:
            self._loop.poke(node.uid)
            if old is None or old.waits_for != node.waits_for:
                for dependent in self._graph.dependents(node.uid):
                    self._loop.poke(dependent.uid)
        elif self._is_to_judge(node):
            self._loop.poke(node.uid)

    def _is_to_judge(self, node: Node) -> bool:
        return not node.is_deleting and any(self._is_in_doubt(node, one) for one in node.owners)

    def _is_in_doubt(self, node: Node, owner: str) -> bool:
        """True for an owner of which it is not known that it is there, may own this, and stays."""
        known = self._graph.get(owner)
        if known is not None:
            return known.waits_for == FOREGROUND or known.namespace not in ("", node.namespace)
        where = self._alive.get(owner)
        return where is None or where[1] not in ("", node.namespace)

    def _take_away(self, uid: str) -> None:
        self._alive.pop(uid, None)
        self._puzzling.discard(uid)
        self._gone[uid] = None
        while len(self._gone) > MAX_GONE:
            self._gone.popitem(last=False)
        old = self._graph.drop(uid)
        for dependent in self._graph.dependents(uid):
            self._loop.poke(dependent.uid)
        if old is not None:
            self._poke_waiting_owners(old)

    def _poke_waiting_owners(self, node: Node) -> None:
        for owner in node.owners:
            known = self._graph.get(owner)
            if known is not None and known.waits_for == FOREGROUND:
                self._loop.poke(owner)
            elif known is None and not self._graph.is_owner(owner):
                self._alive.pop(owner, None)

    # --- one object -------------------------------------------------------------------------------

    async def _work(self, uid: str) -> None:
        await self._in_sync.wait()
        node = self._graph.get(uid)
        if node is None or not (node.waits_for or self._is_to_judge(node)):
            return
        item = await self._get(node.place, node.namespace, node.name, uid)
        if item is None:
            self._take_away(uid)
        elif node.waits_for == ORPHAN:
            await self._set_free(node)
        elif node.waits_for == FOREGROUND:
            await self._go_last(node)
        elif references_of(item):
            await self._judge(node, item)

    async def _get(
        self, place: tuple[str, str], namespace: str, name: str, uid: str
    ) -> JsonObject | None:
        """Return an object as it is now, None when it is gone."""
        try:
            found = await self._kube.get(*place, namespace or None, name)
        except NotFound:
            return None
        return found if uid_of(found) == uid else None

    async def _go_last(self, node: Node) -> None:
        """Foreground: those who block it are deleted first."""
        blocking = self._graph.blocking(node.uid)
        if not blocking:
            await self._drop_finalizer(node, FOREGROUND)
        for dependent in blocking:
            if dependent.waits_for != FOREGROUND:
                self._loop.poke(dependent.uid)

    async def _set_free(self, node: Node) -> None:
        """Orphan: nothing names this owner any more, then it goes."""
        only = frozenset((node.uid,))
        for dependent in await self._all_dependents(node):
            await self._drop_owners(*dependent, only)
        await self._drop_finalizer(node, ORPHAN)

    async def _all_dependents(self, node: Node) -> list[tuple[tuple[str, str], JsonObject]]:
        """Ask the server: what came a moment ago is to be set free, too."""
        found = []
        places = {
            kind.place for kind in self._following if kind.is_namespaced or not node.namespace
        }
        for place in sorted(places):
            page: str | None = None
            while page != "":
                try:
                    answer = await self._kube.list(
                        *place, node.namespace or None, limit=PAGE, page=page
                    )
                except NotFound:
                    break
                found += [(place, item) for item in answer.items if _names(item, node.uid)]
                page = answer.next_page or ""
        return found

    async def _drop_owners(
        self, place: tuple[str, str], item: JsonObject, uids: frozenset[str]
    ) -> None:
        """Errors: Conflict when the object has changed: look again."""
        namespace, name = key_of(item)
        metadata: JsonObject = {
            "uid": uid_of(item),
            "resourceVersion": part(item, "metadata").get("resourceVersion"),
            "ownerReferences": without_owners(item, uids) or None,
        }
        try:
            await self._kube.patch(*place, namespace or None, name, {"metadata": metadata})
        except NotFound:
            return

    async def _drop_finalizer(self, node: Node, finalizer: str) -> None:
        item = await self._get(node.place, node.namespace, node.name, node.uid)
        held = part(item or {}, "metadata").get("finalizers")
        if item is None or not isinstance(held, list) or finalizer not in held:
            return
        left: list[Json] = [name for name in held if name != finalizer]
        metadata: JsonObject = {
            "uid": node.uid,
            "resourceVersion": part(item, "metadata").get("resourceVersion"),
            "finalizers": left,
        }
        where = node.namespace or None
        try:
            await self._kube.patch(*node.place, where, node.name, {"metadata": metadata})
        except NotFound:
            return

    # --- owners -----------------------------------------------------------------------------------

    async def _judge(self, node: Node, item: JsonObject) -> None:
        """Delete an object without owners; have it name only those that it keeps."""
        absent, waiting, solid = set[str](), set[str](), set[str]()
        for reference in references_of(item):
            owner = text(reference.get("uid"))
            verdict = await self._ask(node, reference)
            if verdict is None:
                return
            {"absent": absent, "waits": waiting, "solid": solid}[verdict].add(owner)
        if solid:
            if absent or waiting:
                await self._drop_owners(node.place, item, frozenset(absent | waiting))
        elif waiting and self._graph.is_owner(node.uid):
            await self._unblock_circle(node, item)
            await self._delete(node, item, "Foreground")
        else:
            held = part(item, "metadata").get("finalizers")
            names = held if isinstance(held, list) else []
            policy = next((word for name, word in POLICIES.items() if name in names), "Background")
            await self._delete(node, item, policy)

    async def _ask(self, node: Node, reference: JsonObject) -> str | None:
        """Say of an owner `absent`, `waits` (for this one to go) or `solid`; None when it cannot be told."""
        uid = text(reference.get("uid"))
        if uid in self._gone:
            return "absent"
        kind = self._found.of(text(reference.get("apiVersion")), text(reference.get("kind")))
        if kind is None:
            self._puzzling.add(node.uid)
            return None
        if kind.is_namespaced and not node.namespace:
            self._tell_misplaced(node, reference)
            return None
        name = text(reference.get("name"))
        where = kind.place, node.namespace if kind.is_namespaced else ""
        owner = await self._get(*where, name, uid)
        if owner is None:
            if kind.is_namespaced and await self._is_elsewhere(kind, name, uid):
                self._tell_misplaced(node, reference)
            return "absent"
        if uid in self._gone:  # it went while we asked
            return "absent"
        self._alive[uid] = where
        return "waits" if waits_for_dependents(owner) else "solid"

    async def _is_elsewhere(self, kind: Kind, name: str, uid: str) -> bool:
        """True when an owner lives in another namespace: that is no owner."""
        found = await self._kube.list(*kind.place, fields=f"metadata.name={name}", limit=PAGE)
        return any(uid_of(item) == uid for item in found.items)

    async def _unblock_circle(self, node: Node, item: JsonObject) -> None:
        """Where a dependent of this waits for this to go, nobody is to wait for it in turn."""
        if all(one.waits_for != FOREGROUND for one in self._graph.dependents(node.uid)):
            return
        references: list[Json] = [
            {**reference, "blockOwnerDeletion": False} for reference in references_of(item)
        ]
        metadata: JsonObject = {"uid": node.uid, "ownerReferences": references}
        where = node.namespace or None
        await self._kube.patch(*node.place, where, node.name, {"metadata": metadata})

    async def _delete(self, node: Node, item: JsonObject, policy: str) -> None:
        """Delete an object whose owners are as they were judged. Errors: Conflict: judge again."""
        where = node.namespace or None
        version = text(part(item, "metadata").get("resourceVersion"))
        try:
            await self._kube.delete(
                *node.place, where, node.name,
                uid=node.uid, resource_version=version, propagation=policy,
            )  # fmt: skip
        except NotFound:
            self._take_away(node.uid)
        except Conflict:
            fresh = await self._get(node.place, node.namespace, node.name, node.uid)
            if fresh is None or references_of(fresh) != references_of(item):
                raise
            await self._kube.delete(*node.place, where, node.name, uid=node.uid, propagation=policy)

    def _tell_misplaced(self, node: Node, reference: JsonObject) -> None:
        kind = self._found_kind(node.place)
        about: JsonObject = {
            "apiVersion": node.place[0],
            "kind": kind,
            "metadata": {"name": node.name, "namespace": node.namespace, "uid": node.uid},
        }
        owner = (
            f"[{reference.get('apiVersion')}/{reference.get('kind')}, namespace: {node.namespace},"
            f" name: {reference.get('name')}, uid: {reference.get('uid')}]"
        )
        told = f'ownerRef {owner} does not exist in namespace "{node.namespace}"'
        self._events.record(
            about, "OwnerRefInvalidNamespace", told, type_=WARNING, component=COMPONENT
        )

    def _found_kind(self, place: tuple[str, str]) -> str:
        return next((kind.kind for kind in self._following if kind.place == place), "")


def _names(item: JsonObject, uid: str) -> bool:
    return any(reference.get("uid") == uid for reference in references_of(item))
