"""What each node should hold, what it holds, and the messages that make them the same.

Compared when a Device changes, when a node connects and every few seconds for connected nodes; so an update
that was lost on any way is sent again. A pure `plan` decides; ObjectSyncs remember (see `cloud.syncbook`).
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from cloud.catalog import Catalog, DeviceChange
from cloud.devicepatch import with_types
from cloud.hub import CloudHub
from cloud.sessions import Inbound, stamp
from cloud.syncbook import NEVER, Held, SyncBook
from gateway.model.json import JsonObject
from gateway.model.trace import TraceContext
from gateway.observe.tracing import Tracer
from gateway.wire.cloudedge.devices import GROUP_VERSION, DeviceView, ObjectMeta
from gateway.wire.cloudedge.envelope import Envelope
from gateway.wire.cloudedge.link import ObjectMessage
from gateway.wire.cloudedge.names import Operation, Source
from gateway.wire.cloudedge.subjects import DeviceKey, Subject
from gateway.wire.cloudedge.to_cloud import MembershipAsked
from gateway.wire.cloudedge.to_edge import (
    answer_membership,
    change_membership,
    change_object,
)
from gateway.wire.cloudedge.twins import MembershipList, MembershipUpdate

MAX_TRACES = 10_000
_RANK = {"devicemodel": 0, "device": 1}


@dataclass(frozen=True, slots=True)
class Step:
    """One message to send: bring `item` (with the version wanted) to the node, or take it away."""

    operation: Operation
    item: Held


def plan(wanted: Mapping[str, Held], held: Mapping[str, Held]) -> list[Step]:
    """Return what makes `held` become `wanted`, models before Devices, deletions in reverse and last.

    A new object whose name an old one still takes waits until the old one is gone.
    """
    gone = [item for uid, item in held.items() if uid not in wanted]
    taken = {(item.type, item.namespace, item.name) for item in gone}
    steps = [
        Step(_operation(held.get(uid)), item)
        for uid, item in wanted.items()
        if _is_newer(item, held.get(uid)) and (item.type, item.namespace, item.name) not in taken
    ]
    steps.sort(key=lambda step: _RANK.get(step.item.type, 2))
    gone.sort(key=lambda item: -_RANK.get(item.type, 2))
    return steps + [Step(Operation.DELETE, item) for item in gone]


def _operation(held: Held | None) -> Operation:
    return Operation.INSERT if held is None or held.version == NEVER else Operation.UPDATE


def _is_newer(wanted: Held, held: Held | None) -> bool:
    if held is None or held.version == NEVER:
        return True
    if wanted.version.isdigit() and held.version.isdigit():
        return int(wanted.version) > int(held.version)
    return wanted.version != held.version


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
        hub.add_listener(self)
        hub.on(MembershipAsked, self.on_membership_asked, lambda _: "membership")
        catalog.on_device(self.device_changed)

    async def run(self, ready: Callable[[], None]) -> None:
        ready()
        while True:
            await asyncio.sleep(self._interval)
            for node in self._hub.nodes:
                self.reconcile(node)
                await asyncio.sleep(0)  # thousands of nodes must not hold up the loop in one go

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
        self.reconcile(node)

    def node_disconnected(self, node: str) -> None:
        """Nothing to do: what was not acknowledged is still owed."""

    def node_is_new(self, node: str) -> None:
        self._book.doubt(node)

    def delivered(self, node: str, item: ObjectMessage) -> None:
        if item.is_delete:
            self._book.drop(node, item.key)
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
        if not self._hub.is_connected(node):
            return
        at = stamp()
        update = MembershipUpdate(
            "",
            at.millis,
            [added.member] if added else None,
            [removed.member] if removed else None,
        )
        if added or removed:
            self._hub.push(node, change_membership(at, update))

    # --- sending ----------------------------------------------------------------------------------

    def reconcile(self, node: str) -> None:
        """Send a connected node what it lacks."""
        if not self._hub.is_connected(node):
            return
        wanted = self._wanted(node)
        for step in plan({uid: held for uid, (held, _) in wanted.items()}, self._book.held(node)):
            document = wanted[step.item.uid][1] if step.item.uid in wanted else None
            if not self._send(node, step, document):
                return

    def _wanted(self, node: str) -> dict[str, tuple[Held, JsonObject]]:
        documents: list[tuple[str, JsonObject | None]] = []
        held = self._book.held(node)
        for device in self._catalog.devices_of(node):
            model = self._catalog.model_object(self._catalog.model_key(device))
            if model is None and device.meta.uid not in held:
                continue  # its wishes have no types yet, and an edge would take them for text
            documents.append(("DeviceModel", model))
            documents.append(("Device", self._catalog.device_object(device.key)))
        pairs = [_held(kind, document) for kind, document in documents if document]
        return {held.uid: (held, document) for held, document in pairs if held.uid}

    def _send(self, node: str, step: Step, document: JsonObject | None) -> bool:
        item, is_delete = step.item, step.operation is Operation.DELETE
        version = "deleted" if is_delete else item.version
        if self._hub.is_sending(node, item.uid, version):
            return True
        envelope = self._envelope(node, step, self._content(item, document))
        if not self._hub.offer(node, ObjectMessage(item.uid, version, envelope, is_delete)):
            return False
        if not is_delete:
            self._book.promise(node, replace(item, version=NEVER))
        return True

    def _content(self, item: Held, document: JsonObject | None) -> JsonObject:
        if document is None:
            return _identity(item)
        device = self._catalog.device(DeviceKey(item.namespace, item.name))
        if item.kind != "Device" or device is None:
            return document
        return with_types(document, self._catalog.layout(device))

    def _envelope(self, node: str, step: Step, document: JsonObject) -> Envelope:
        item = step.item
        trace = self._traces.pop(item.uid, None)
        facts = {"node": node, "object": f"{item.namespace}/{item.name}"}
        with self._tracer.start(
            f"cloudhub {step.operation} {item.type}", trace, "producer", facts
        ) as span:
            return change_object(
                stamp(),
                Subject(item.namespace, item.type, item.name),
                step.operation,
                document,
                version="" if step.operation is Operation.DELETE else item.version,
                source=Source.DEVICE_CONTROLLER,
                trace=span.context,
            )


def _is_other(change: DeviceChange) -> bool:
    """True when another Device of the same name took the place between two looks."""
    return bool(change.old and change.new and change.old.meta.uid != change.new.meta.uid)


def _held(kind: str, document: JsonObject) -> tuple[Held, JsonObject]:
    """Return an object as a node would hold it; lists leave kind and apiVersion out."""
    meta = ObjectMeta.read(document)
    named: JsonObject = {"apiVersion": GROUP_VERSION, "kind": kind, **document}
    return Held(meta.uid, GROUP_VERSION, kind, meta.namespace, meta.name, meta.version), named


def _identity(item: Held) -> JsonObject:
    return {"metadata": {"name": item.name, "namespace": item.namespace, "uid": item.uid}}
