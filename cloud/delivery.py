"""What each node should hold, what it holds, and the messages that make them the same.

Rooms say what a node should hold (`WantedObjects`). Compared when something changes, when a node connects and
every few seconds for connected nodes; so an update that was lost on any way is sent again. A pure `plan`
decides; ObjectSyncs remember (see `cloud.syncbook`).
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

from cloud.catalog import Catalog, DeviceChange
from cloud.devicepatch import with_types
from cloud.hub import CloudHub
from cloud.sessions import Inbound, stamp
from cloud.syncbook import NEVER, Held, SyncBook
from cloud.wanted import (
    FIRST,
    SECOND,
    Step,
    WantedObject,
    WantedObjects,
    is_later,
    plan,
    source_of_deletion,
)
from gateway.model.json import JsonObject
from gateway.model.trace import TraceContext
from gateway.observe.tracing import Tracer
from gateway.wire.cloudedge.devices import GROUP_VERSION, DeviceView, ObjectMeta, mapping
from gateway.wire.cloudedge.devices_v1alpha2 import as_v1beta1, model_as_v1beta1
from gateway.wire.cloudedge.envelope import Envelope
from gateway.wire.cloudedge.link import ObjectMessage
from gateway.wire.cloudedge.names import STILL_SHOWN, Operation, Source
from gateway.wire.cloudedge.subjects import DeviceKey, Subject
from gateway.wire.cloudedge.to_cloud import MembershipAsked
from gateway.wire.cloudedge.to_edge import (
    answer_membership,
    change_membership,
    change_object,
)
from gateway.wire.cloudedge.twins import MemberDevice, MembershipList, MembershipUpdate

MAX_TRACES = 10_000
MAX_LAST = 1_000


class Delivery:
    """Module: keeps nodes' objects as they should be."""

    name = "cloud.delivery"

    def __init__(
        self, catalog: Catalog, hub: CloudHub, book: SyncBook, tracer: Tracer, interval: float
    ) -> None:
        self._catalog = catalog
        self._hub = hub
        self._book = book
        self._tracer = tracer
        self._interval = interval
        self._traces: OrderedDict[str, TraceContext] = OrderedDict()
        self._sources: list[WantedObjects] = [_Devices(catalog, book)]
        self._soon: dict[str, None] = {}
        self._last: OrderedDict[str, JsonObject] = OrderedDict()
        self._untold: dict[str, dict[str, tuple[MemberDevice, bool]]] = {}
        """Node -> devices that came (True) or went, and the link had no room to say so."""
        self._resting: Counter[str] = Counter()
        self.is_shown: Callable[[str, str], bool] = _nowhere
        """Whether a watch of a node's MetaServer shows an object (uid) that the node itself is done with."""
        hub.add_listener(self)
        hub.on(MembershipAsked, self.on_membership_asked, lambda _: "membership")
        catalog.on_device(self.device_changed)
        book.on_found(lambda node: self.changed((node,)))

    async def run(self, ready: Callable[[], None]) -> None:
        ready()
        while True:
            await asyncio.sleep(self._interval)
            for node in self._hub.nodes:
                self._tell_members(node)
                self.reconcile(node)
                await asyncio.sleep(0)  # thousands of nodes must not hold up the loop in one go

    def add(self, source: WantedObjects) -> None:
        """Also bring what `source` wants; before `run`. Of two that want one object the first sends it."""
        self._sources.append(source)

    def echoed(self, node: str, uid: str, version: str) -> None:
        """Count a version as delivered that only the node's own write made."""
        held = self._book.held(node).get(uid)
        if held is not None and held.version != NEVER and is_later(version, held.version):
            self._book.acknowledge(node, uid, version)

    def has(self, node: str, uid: str, version: str) -> bool:
        """True when a node has acknowledged exactly this version."""
        held = self._book.held(node).get(uid)
        return held is not None and held.version == version != NEVER

    @contextmanager
    def resting(self, node: str, uid: str) -> Iterator[None]:
        """Send nothing of an object while its node's own write is under way; compare afterwards."""
        self._resting[uid] += 1
        try:
            yield
        finally:
            self._resting[uid] -= 1
            self._resting = +self._resting
            self.changed((node,))

    def remember_last(self, document: JsonObject | None) -> None:
        """Send this state along when the object's deletion goes to a node."""
        if document is None:
            return
        self._last[ObjectMeta.read(document).uid] = document
        while len(self._last) > MAX_LAST:
            self._last.popitem(last=False)

    def remember_trace(self, uid: str, trace: TraceContext | None) -> None:
        """Go on with `trace` when the next version of this object is sent."""
        if trace is None:
            return
        self._traces[uid] = trace
        self._traces.move_to_end(uid)
        while len(self._traces) > MAX_TRACES:
            self._traces.popitem(last=False)

    # --- triggers ---------------------------------------------------------------------------------

    def node_connected(self, node: str) -> None:
        self._book.own(node)
        self.reconcile(node)

    def node_disconnected(self, node: str) -> None:
        """What was not acknowledged is still owed, by whom the node connects to next."""
        self._book.release(node)
        self._untold.pop(node, None)  # it asks for the whole list when it is back

    def node_is_new(self, node: str) -> None:
        self._book.doubt(node)

    def delivered(self, node: str, item: ObjectMessage) -> None:
        if item.is_delete:
            self._book.drop(node, item.key)
            self._last.pop(item.key, None)
            self.reconcile(node)  # an object of the same name may wait
        else:
            self._book.acknowledge(node, item.key, item.version)

    def device_changed(self, change: DeviceChange) -> None:
        old = change.old.node if change.old else ""
        new = change.new.node if change.new else ""
        if old != new or _is_other(change):
            self._tell_members(old, removed=change.old)
            self._tell_members(new, added=change.new)
        for node in dict.fromkeys((old, new)):
            self.reconcile(node)

    async def on_membership_asked(self, inbound: Inbound, _: MembershipAsked) -> None:
        """Answer with all Devices of the node; the answer replaces the edge's list."""
        at = stamp()
        members = [device.member for device in self._catalog.devices_of(inbound.node)]
        inbound.reply(
            answer_membership(inbound.envelope, at, MembershipList("", at.millis, members))
        )

    def _tell_members(
        self, node: str, *, added: DeviceView | None = None, removed: DeviceView | None = None
    ) -> None:
        """Say which devices came or went; where there is no room on the link, again with the next look."""
        if not self._hub.is_connected(node):
            return
        changed = self._untold.pop(node, {})
        for device, has_come in ((removed, False), (added, True)):
            if device is not None:
                changed[str(device.key)] = device.member, has_come
        if changed and not self._hub.push(node, _membership(changed.values())):
            self._untold[node] = changed

    # --- sending ----------------------------------------------------------------------------------

    def changed(self, nodes: Iterable[str]) -> None:
        """Compare these nodes soon; many calls in one go are one comparison."""
        is_first = not self._soon
        self._soon.update(dict.fromkeys(nodes))
        if is_first and self._soon:
            asyncio.get_running_loop().call_soon(self._reconcile_soon)

    def _reconcile_soon(self) -> None:
        nodes, self._soon = self._soon, {}
        for node in nodes:
            self.reconcile(node)

    def reconcile(self, node: str) -> None:
        """Send a connected node what it lacks."""
        if not self._hub.is_connected(node):
            return
        wanted: dict[str, WantedObject] = {}
        for source in self._sources:
            for entry in source.wanted(node):
                wanted.setdefault(entry.held.uid, entry)
        for step in plan(wanted, self._book.held(node)):
            if step.item.uid not in self._resting and not self._send(node, step):
                return

    def _send(self, node: str, step: Step) -> bool:
        item, is_delete = step.item, step.operation is Operation.DELETE
        version = "deleted" if is_delete else item.version
        if not self._hub.is_sending(node, item.uid, version):
            message = ObjectMessage(item.uid, version, self._envelope(node, step), is_delete)
            if not self._hub.offer(node, message):
                return False
        if (
            is_delete
        ):  # its answer may be lost: who wants the object again must not rely on the old one
            self._book.suspect(node, item.uid)
        else:
            self._book.promise(node, replace(item, version=NEVER))
        return True

    def _envelope(self, node: str, step: Step) -> Envelope:
        item, wanted = step.item, step.wanted
        content, version = self._content(node, step)
        trace = self._traces.pop(item.uid, None)
        facts = {"node": node, "object": f"{item.namespace}/{item.name}"}
        with self._tracer.start_frequent(
            f"cloudhub {step.operation} {item.type}", trace, "producer", facts
        ) as span:
            return change_object(
                stamp(),
                Subject(item.namespace or None, item.type, item.name),
                step.operation,
                content,
                version=version,
                source=source_of_deletion(item) if wanted is None else wanted.source,
                trace=span.context,
            )

    def _content(self, node: str, step: Step) -> tuple[JsonObject, str]:
        """Return an object as it is sent, and its version; a deletion brings the last state if known."""
        item = step.item
        if step.wanted is not None:
            return step.wanted.content, item.version
        last = self._last.get(item.uid)
        if last is None:
            identity = _identity(item)
            is_shown = self.is_shown(node, item.uid)
            return _still_shown(identity) if is_shown else identity, ""
        return {"apiVersion": item.api_version, "kind": item.kind, **last}, ObjectMeta.read(
            last
        ).version


class _Devices:
    """The Devices of a node, and their models."""

    def __init__(self, catalog: Catalog, book: SyncBook) -> None:
        self._catalog = catalog
        self._book = book

    def wanted(self, node: str) -> Iterator[WantedObject]:
        held, seen = self._book.held(node), set()
        for device in self._catalog.devices_of(node):
            key = self._catalog.model_key(device)
            model = self._catalog.model_object(key)
            if model is None and device.meta.uid not in held:
                continue  # its wishes have no types yet, and an edge would take them for text
            if model is not None and key not in seen:
                seen.add(key)
                yield replace(_wanted("DeviceModel", model, FIRST), finish=model_as_v1beta1)
            document = self._catalog.device_object(device.key)
            if document is not None and device.meta.uid:
                yield replace(
                    _wanted("Device", document, SECOND), finish=partial(self._typed, device.key)
                )

    def _typed(self, key: DeviceKey, document: JsonObject) -> JsonObject:
        device, current = self._catalog.device(key), as_v1beta1(document)
        return current if device is None else with_types(current, self._catalog.layout(device))


def _is_other(change: DeviceChange) -> bool:
    """True when another Device of the same name took the place between two looks."""
    return bool(change.old and change.new and change.old.meta.uid != change.new.meta.uid)


def _wanted(kind: str, document: JsonObject, rank: int) -> WantedObject:
    """Return an object as a node would hold it; lists leave kind and apiVersion out."""
    meta = ObjectMeta.read(document)
    named: JsonObject = {"apiVersion": GROUP_VERSION, "kind": kind, **document}
    held = Held(meta.uid, GROUP_VERSION, kind, meta.namespace, meta.name, meta.version)
    return WantedObject(held, named, Source.DEVICE_CONTROLLER, rank=rank)


def _identity(item: Held) -> JsonObject:
    metadata: JsonObject = {"name": item.name, "namespace": item.namespace, "uid": item.uid}
    if not item.namespace:
        del metadata["namespace"]
    return {"metadata": metadata}


def _membership(changed: Iterable[tuple[MemberDevice, bool]]) -> Envelope:
    at, members = stamp(), list(changed)
    added = [member for member, has_come in members if has_come]
    removed = [member for member, has_come in members if not has_come]
    return change_membership(at, MembershipUpdate("", at.millis, added or None, removed or None))


def _still_shown(document: JsonObject) -> JsonObject:
    """Tell the node to keep what its MetaServer shows: the watch itself will say when that ends."""
    metadata: JsonObject = {**mapping(document["metadata"]), "annotations": {STILL_SHOWN: "true"}}
    return {"metadata": metadata}


def _nowhere(_node: str, _uid: str) -> bool:
    """There are no watches."""
    return False
