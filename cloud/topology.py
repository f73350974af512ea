"""Which Services stay within a group of nodes, and which nodes belong together, from memory."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from cloud.groupmembers import group_of
from cloud.slices import RANGE_GROUP, TOPOLOGY
from gateway.kube.client import KubeClient
from gateway.kube.informer import Change, Informer
from gateway.model.json import JsonObject
from gateway.wire.cloudedge.devices import ObjectMeta

if TYPE_CHECKING:
    from cloud.catalog import Catalog

log = logging.getLogger(__name__)


class NodeTopology:
    """Port `cloud.slices.Topology`. `modules` run before anyone who asks."""

    def __init__(self, kube: KubeClient, catalog: Catalog) -> None:
        self._nodes = catalog.nodes
        self._services = Informer(
            kube, "v1", "services", self._service_changed, trim=_trimmed, is_needed=False
        )
        self._listeners: list[Callable[[], None]] = []
        catalog.on_node(self._node_changed)

    @property
    def modules(self) -> list[Informer]:
        return [self._services]

    def on_change(self, listener: Callable[[], None]) -> None:
        """Tell `listener` when endpoints may look different to some edge."""
        self._listeners.append(listener)

    def is_ranged(self, namespace: str, service: str) -> bool:
        return _is_ranged(self._services.objects.get((namespace, service)))

    def are_together(self, node: str, other: str) -> bool:
        if node == other:
            return True
        one, two = self._nodes.objects.get(("", node)), self._nodes.objects.get(("", other))
        return one is not None and two is not None and group_of(one) == group_of(two)

    def _service_changed(self, change: Change) -> None:
        if _is_ranged(change.old) != _is_ranged(change.new):
            self._tell()

    def _node_changed(self, change: Change) -> None:
        is_other = (change.old is None) != (change.new is None)
        if (is_other or group_of(change.old) != group_of(change.new)) and self._has_ranged():
            self._tell()

    def _has_ranged(self) -> bool:
        return any(_is_ranged(service) for service in self._services.objects.values())

    def _tell(self) -> None:
        for listener in self._listeners:
            listener()


def _is_ranged(service: JsonObject | None) -> bool:
    return service is not None and (
        ObjectMeta.read(service).annotations.get(TOPOLOGY) == RANGE_GROUP
    )


def _trimmed(service: JsonObject) -> JsonObject:
    meta = ObjectMeta.read(service)
    return {
        "metadata": {
            "name": meta.name,
            "namespace": meta.namespace,
            "uid": meta.uid,
            "resourceVersion": meta.version,
            "annotations": {TOPOLOGY: meta.annotations.get(TOPOLOGY, "")},
        }
    }
