"""What CloudCore knows of the cluster: Devices, models, statuses, namespaces, nodes, as typed views.

Mirrors of the API, read by everyone, changed by nobody but the watches. Tells listeners about changes
synchronously and in order.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from cloud.mapping import Layout, NotMappable, layout_of, tenant_of, thing_id
from cloud.statuses import belongs_to
from gateway.kube.client import KubeClient
from gateway.kube.informer import Change, Informer
from gateway.model.json import Json, JsonObject
from gateway.runtime.module import Module
from gateway.wire.cloudedge.devices import (
    DEVICES,
    GROUP_VERSION,
    MODELS,
    STATUSES,
    DeviceView,
    ObjectMeta,
    mapping,
)
from gateway.wire.cloudedge.models import ModelView
from gateway.wire.cloudedge.subjects import DeviceKey

INTERNAL = "InternalIP"
"""Type of the address of a node by which the cluster reaches it."""
STORE = "twinspan.io/edge-store"
"""Annotation of a Node: which store its edge had when it connected last; a new one holds nothing yet."""

K = TypeVar("K")
DeviceListener = Callable[["DeviceChange"], None]
NodeListener = Callable[[Change], None]
StatusListener = Callable[[DeviceKey, JsonObject], None]


@dataclass(frozen=True, slots=True)
class DeviceChange:
    """A Device before and after; `new` None: gone, `old` None: new. Equal ones: its model changed."""

    key: DeviceKey
    old: DeviceView | None
    new: DeviceView | None


class Catalog:
    """The mirrors. `modules` run before anyone who asks."""

    def __init__(self, kube: KubeClient, *, default_tenant: str, demo: bool = False) -> None:
        self._default_tenant = default_tenant
        self._demo = demo
        self._views: dict[DeviceKey, DeviceView] = {}
        self._models: dict[DeviceKey, ModelView] = {}
        self._by_node: defaultdict[str, set[DeviceKey]] = defaultdict(set)
        self._by_model: defaultdict[DeviceKey, set[DeviceKey]] = defaultdict(set)
        self._device_listeners: list[DeviceListener] = []
        self._node_listeners: list[NodeListener] = []
        self._status_listeners: list[StatusListener] = []
        self.namespaces = Informer(kube, "v1", "namespaces", _ignore)
        self.nodes = Informer(kube, "v1", "nodes", self._node_changed, trim=trimmed_node)
        self.models = Informer(kube, GROUP_VERSION, MODELS, self._model_changed)
        self.statuses = Informer(kube, GROUP_VERSION, STATUSES, self._status_changed)
        self.devices = Informer(kube, GROUP_VERSION, DEVICES, self._device_changed)

    @property
    def modules(self) -> list[Module]:
        """The watches, in the order in which they must be ready."""
        return [self.namespaces, self.nodes, self.models, self.statuses, self.devices]

    def on_device(self, listener: DeviceListener) -> None:
        self._device_listeners.append(listener)

    def on_node(self, listener: NodeListener) -> None:
        self._node_listeners.append(listener)

    def on_status(self, listener: StatusListener) -> None:
        self._status_listeners.append(listener)

    # --- questions --------------------------------------------------------------------------------

    def device(self, key: DeviceKey) -> DeviceView | None:
        return self._views.get(key)

    @property
    def device_keys(self) -> list[DeviceKey]:
        return list(self._views)

    def devices_of(self, node: str) -> list[DeviceView]:
        """Devices bound to a node, by name."""
        return [self._views[key] for key in sorted(self._by_node.get(node, ()))]

    def device_object(self, key: DeviceKey) -> JsonObject | None:
        return self.devices.objects.get((key.namespace, key.name))

    def model_key(self, device: DeviceView) -> DeviceKey:
        return DeviceKey(device.meta.namespace, device.model)

    def model_object(self, key: DeviceKey) -> JsonObject | None:
        return self.models.objects.get((key.namespace, key.name))

    def layout(self, device: DeviceView) -> Layout:
        """Where the Device's properties stand in its thing, and what they may hold."""
        return layout_of(device, self._models.get(self.model_key(device)))

    def thing_id(self, key: DeviceKey) -> str:
        """Return the id of a Device's thing. Errors: NotMappable."""
        return thing_id(key, self._namespace_annotations(key.namespace))

    def status_object(self, key: DeviceKey) -> JsonObject | None:
        """Return the DeviceStatus of a Device; that of its deleted namesake does not count."""
        status, device = self.statuses.objects.get((key.namespace, key.name)), self.device(key)
        if status is None or device is None or not belongs_to(status, device.meta.uid):
            return None
        return status

    def node_annotations(self, node: str) -> dict[str, str] | None:
        """Return a Node's annotations, None when there is no such Node."""
        item = self.nodes.objects.get(("", node))
        return None if item is None else dict(ObjectMeta.read(item).annotations)

    def store_of(self, node: str) -> str:
        """Return which store a node had when it connected last, "" where its Node does not say."""
        return (self.node_annotations(node) or {}).get(STORE, "")

    # --- tenants ----------------------------------------------------------------------------------

    def tenant_of(self, node: str, device: str) -> str | None:
        """Decide which tenant an edge node may send for (port `EdgeNames`).

        Shape:  `device` is `<ns>:<name>` of a Device bound to the node, or the id of a device in Hono's
                registry, which belongs to the Node's tenant. None: refused.
        """
        key = self.find_device(device)
        if key is not None:
            view = self._views[key]
            return self.tenant_of_namespace(key.namespace) if view.node == node else None
        annotations = self.node_annotations(node)
        if annotations is None:
            return None
        return annotations.get("twinspan.io/tenant") or self._default_tenant

    def find_device(self, device: str) -> DeviceKey | None:
        """Return the Device that `<ns>:<name>` (or `<ns>/<name>`) names."""
        for separator in (":", "/"):
            namespace, found, name = device.partition(separator)
            if found and (key := DeviceKey(namespace, name)) in self._views:
                return key
        return None

    def tenant_of_namespace(self, namespace: str) -> str:
        return tenant_of(namespace, self._namespace_annotations(namespace), demo=self._demo)

    def _namespace_annotations(self, namespace: str) -> dict[str, str]:
        item = self.namespaces.objects.get(("", namespace))
        return {} if item is None else dict(ObjectMeta.read(item).annotations)

    # --- changes ----------------------------------------------------------------------------------

    def _device_changed(self, change: Change) -> None:
        key = DeviceKey(*change.key)
        old = self._views.get(key)
        new = None if change.new is None else DeviceView.read(change.new)
        self._index(key, old, new)
        self._tell(DeviceChange(key, old, new))

    def _index(self, key: DeviceKey, old: DeviceView | None, new: DeviceView | None) -> None:
        if old is not None:
            _discard(self._by_node, old.node, key)
            _discard(self._by_model, self.model_key(old), key)
            self._views.pop(key, None)
        if new is not None:
            self._views[key] = new
            self._by_node[new.node].add(key)
            self._by_model[self.model_key(new)].add(key)

    def _model_changed(self, change: Change) -> None:
        key = DeviceKey(*change.key)
        if change.new is None:
            self._models.pop(key, None)
        else:
            self._models[key] = ModelView.read(change.new)
        for device in sorted(self._by_model.get(key, ())):
            view = self._views[device]
            self._tell(DeviceChange(device, view, view))

    def _status_changed(self, change: Change) -> None:
        if change.new is not None:
            for listener in self._status_listeners:
                listener(DeviceKey(*change.key), change.new)

    def _node_changed(self, change: Change) -> None:
        for listener in self._node_listeners:
            listener(change)

    def _tell(self, change: DeviceChange) -> None:
        for listener in self._device_listeners:
            listener(change)


def _discard(index: defaultdict[K, set[DeviceKey]], key: K, member: DeviceKey) -> None:
    index[key].discard(member)
    if not index[key]:
        del index[key]


def trimmed_node(node: JsonObject) -> JsonObject:
    """Return what is remembered of a Node: a fifth of it, and thousands of them are remembered.

    Its metadata, its spec, its conditions' types and states, internal addresses, what its machine runs on.
    """
    metadata, status = mapping(node.get("metadata")), mapping(node.get("status"))
    conditions = status.get("conditions")
    kept: list[Json] = [
        {key: _shared(each[key]) for key in ("type", "status") if key in each}
        for each in (conditions if isinstance(conditions, list) else [])
        if isinstance(each, dict)
    ]
    info: JsonObject = {k: _shared(v) for k, v in mapping(status.get("nodeInfo")).items()}
    named: JsonObject = {k: v for k, v in metadata.items() if k != "managedFields"}
    spec: JsonObject = {"spec": node["spec"]} if "spec" in node else {}
    listed = status.get("addresses")
    addresses: list[Json] = [
        {"type": INTERNAL, "address": each.get("address")}
        for each in (listed if isinstance(listed, list) else [])
        if isinstance(each, dict) and each.get("type") == INTERNAL
    ]
    said: JsonObject = {"conditions": kept, "addresses": addresses, "nodeInfo": info}
    return {"metadata": named, **spec, "status": said}


def _shared(value: Json) -> Json:
    """Return a text that equal ones share: most nodes say the same."""
    return sys.intern(value) if isinstance(value, str) else value


def _ignore(_: Change) -> None:
    """Nobody asks to be told."""


__all__ = ["Catalog", "DeviceChange", "NotMappable"]
