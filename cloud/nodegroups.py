"""NodeGroups: labels their members, says in their status who is one, and lets nodes go.

The CloudCore that leads does it. A node that leaves loses the Pods that ask for its group. A NodeGroup goes
when no Node carries its label any more. Source: KubeEdge reference, section 20.1.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from cloud.groupmembers import (
    BELONGING,
    FINALIZER,
    ZONE_BEFORE,
    Group,
    Nodes,
    NodeView,
    assigned,
    group_of,
    newly_failed,
    node_patch,
    node_statuses,
)
from cloud.identity import ready_condition
from gateway.errors import GatewayError, NotFound
from gateway.kube.client import KubeClient
from gateway.kube.informer import Change, Informer
from gateway.model.json import Json, JsonObject
from gateway.runtime.backoff import Backoff
from gateway.wire.cloudedge.devices import ObjectMeta, mapping

if TYPE_CHECKING:
    from cloud.catalog import Catalog
    from cloud.events import EventRecorder
    from cloud.ports import Leadership, PodsOfNodes

log = logging.getLogger(__name__)

APPS = "apps.kubeedge.io/v1alpha1"
GROUPS, KIND = "nodegroups", "NodeGroup"
MAX_REASONS = 10
"""Nodes that one Event names."""
GATHER_SECONDS = 0.1
"""How long changes are gathered: a fleet that joins is not looked at for each node."""
Step = Callable[[], Awaitable[None]]


class NodeGroups:
    """Module: one worker that looks at all groups whenever something changed."""

    name = "cloud.nodegroups"

    def __init__(
        self,
        kube: KubeClient,
        catalog: Catalog,
        pods: PodsOfNodes,
        events: EventRecorder,
        leadership: Leadership,
    ) -> None:
        self._kube = kube
        self._nodes = catalog.nodes
        self._pods = pods
        self._events = events
        self._leadership = leadership
        self._informer = Informer(kube, APPS, GROUPS, self._group_changed, is_needed=False)
        self._failures: dict[str, str] = {}
        self._listeners: list[Callable[[], None]] = []
        self._wake = asyncio.Event()
        self.is_known = False
        """True once all groups are known."""
        catalog.on_node(self._node_changed)
        leadership.on_change(lambda _: self._wake.set())

    def has(self, name: str) -> bool:
        """True when there is such a group, and it is not going."""
        group = self._informer.objects.get(("", name))
        return group is not None and not ObjectMeta.read(group).is_deleting

    def on_change(self, listener: Callable[[], None]) -> None:
        """Tell `listener` when a group came or went, and when all are known."""
        self._listeners.append(listener)

    # --- what is to be looked at ------------------------------------------------------------------

    def _group_changed(self, change: Change) -> None:
        self._wake.set()
        if _is_there(change.old) != _is_there(change.new):
            self._tell()

    def _node_changed(self, change: Change) -> None:
        if _facts(change.old) != _facts(change.new):
            self._wake.set()

    def _tell(self) -> None:
        for listener in self._listeners:
            listener()

    # --- module -----------------------------------------------------------------------------------

    async def run(self, ready: Callable[[], None]) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._informer.run(self._known))
            ready()
            backoff = Backoff(0.5, 30.0)
            while True:
                await self._wake.wait()
                await asyncio.sleep(GATHER_SECONDS)
                self._wake.clear()
                if not self.is_known or await self._round():
                    backoff.reset()
                else:
                    await asyncio.sleep(backoff.next())
                    self._wake.set()

    def _known(self) -> None:
        if not self.is_known:
            self.is_known = True
            self._wake.set()
            self._tell()

    async def _round(self) -> bool:
        """Bring all Nodes and groups up to date; False when something must be tried again."""
        is_done = True
        for step in self._steps():
            if not self._leadership.leads:
                return True
            is_done = await self._try(step) and is_done
        return is_done

    async def _try(self, step: Step) -> bool:
        try:
            await step()
        except NotFound:
            return True  # the watch brings that it went
        except GatewayError as error:
            log.info("a node group must wait", extra={"cause": error.message})
            return False
        return True

    def _steps(self) -> Iterator[Step]:
        """Yield what is to do, each step from what is known once those before are done."""
        for document in self._documents().values():
            if not ObjectMeta.read(document).is_deleting:
                yield partial(self._hold, document)
        groups = {name: Group.read(item) for name, item in self._documents().items()}
        wanted = assigned(groups.values(), self._views())
        self._failures.clear()
        for name, node in self._nodes_by_name().items():
            group = wanted.get(name, "")
            patch = node_patch(node, groups.get(group), group)
            if patch is not None:
                yield partial(self._move, name, node, patch)
        views = self._views()
        for name, document in self._documents().items():
            each = groups.get(name)
            if each is not None and each.is_deleting:
                yield partial(self._let_go, document)
            elif each is not None:
                yield partial(self._write_status, document, each, wanted, views)

    def _documents(self) -> dict[str, JsonObject]:
        return {key[1]: item for key, item in self._informer.objects.items()}

    def _nodes_by_name(self) -> dict[str, JsonObject]:
        return {key[1]: node for key, node in self._nodes.objects.items()}

    def _views(self) -> dict[str, NodeView]:
        return {name: NodeView.read(node) for name, node in self._nodes_by_name().items()}

    # --- steps ------------------------------------------------------------------------------------

    async def _hold(self, document: JsonObject) -> None:
        """Make sure that a group cannot go before its labels."""
        if FINALIZER not in finalizers_of(document):
            await self._set_finalizers(document, [*finalizers_of(document), FINALIZER])

    async def _set_finalizers(self, document: JsonObject, finalizers: list[Json]) -> None:
        meta = ObjectMeta.read(document)
        patch: JsonObject = {
            "metadata": {"resourceVersion": meta.version, "finalizers": finalizers}
        }
        written = await self._kube.patch(APPS, GROUPS, None, meta.name, patch)
        if finalizers:
            self._informer.put(written)

    async def _move(self, name: str, node: JsonObject, patch: JsonObject) -> None:
        """Write a Node's group; from the one that it leaves it takes no Pods along."""
        left = group_of(node)
        is_leaving = BELONGING in mapping(mapping(patch["metadata"]).get("labels")) and bool(left)
        try:
            if is_leaving:
                await self._end_pods(name, left)
            self._nodes.put(await self._kube.patch("v1", "nodes", None, name, patch))
            if is_leaving:  # also those that came meanwhile
                await self._end_pods(name, left)
        except GatewayError as error:
            self._failures[name] = error.message
            raise
        log.info("node group changed", extra={"node": name, "left": left})

    async def _end_pods(self, node: str, group: str) -> None:
        for pod in self._pods.pods(node):
            meta = ObjectMeta.read(pod)
            wanted = mapping(mapping(pod.get("spec")).get("nodeSelector")).get(BELONGING)
            if wanted == group and not meta.is_deleting:
                with suppress(NotFound):
                    await self._kube.delete("v1", "pods", meta.namespace, meta.name, uid=meta.uid)

    async def _let_go(self, document: JsonObject) -> None:
        """Let a group go once no Node carries its label."""
        name = ObjectMeta.read(document).name
        if any(group_of(node) == name for node in self._nodes.objects.values()):
            return  # it was told why
        left = [each for each in finalizers_of(document) if each != FINALIZER]
        if len(left) != len(finalizers_of(document)):
            await self._set_finalizers(document, left)

    async def _write_status(
        self, document: JsonObject, group: Group, wanted: Mapping[str, str], nodes: Nodes
    ) -> None:
        before = mapping(document.get("status")).get("nodeStatuses")
        after = node_statuses(group, wanted, nodes, self._failures)
        if after == (before or []):
            return
        patch: JsonObject = {"status": {"nodeStatuses": after}}
        written = await self._kube.patch(
            APPS, GROUPS, None, group.name, patch, subresource="status"
        )
        self._informer.put(written)
        reasons = newly_failed(before, after)
        if reasons:
            named: JsonObject = {"apiVersion": APPS, "kind": KIND, **document}
            self._events.warn(named, "NodeNotSelected", "; ".join(reasons[:MAX_REASONS]))


def finalizers_of(document: JsonObject) -> list[Json]:
    found = mapping(document.get("metadata")).get("finalizers")
    return found if isinstance(found, list) else []


def _is_there(document: JsonObject | None) -> bool:
    return document is not None and not ObjectMeta.read(document).is_deleting


def _facts(node: JsonObject | None) -> Json:
    """Return what groups ask of a Node."""
    if node is None:
        return None
    meta = mapping(node.get("metadata"))
    note = mapping(meta.get("annotations")).get(ZONE_BEFORE)
    return [meta.get("uid"), meta.get("labels"), note, ready_condition(node)]
