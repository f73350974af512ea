"""Pods, and the ConfigMaps and Secrets that they name, as what their nodes should hold.

A Pod goes as it is, also one that is to end: its node ends it, deletes it, and is told so. ConfigMaps
and Secrets come before their Pods and go when no Pod of the node names them any more. Source: KubeEdge,
cloud-to-edge catalogue of EdgeController (a Secret that is new travels as an update).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

from cloud.nodepods import NodePods, node_of, uid_of
from cloud.podneeds import PodNeeds
from cloud.syncbook import Held
from cloud.wanted import FIRST, LATER, WantedObject
from gateway.model.json import JsonObject
from gateway.wire.cloudedge.devices import ObjectMeta
from gateway.wire.cloudedge.names import Operation, Source

if TYPE_CHECKING:
    from cloud.catalog import Catalog
    from cloud.delivery import Delivery
    from cloud.hub import CloudHub
    from cloud.syncbook import SyncBook
    from gateway.kube.client import KubeClient
    from gateway.runtime.module import Module
    from gateway.wire.cloudedge.link import ObjectMessage


class PodObjects:
    """What nodes should hold of Pods and for them (`WantedObjects`)."""

    def __init__(self, pods: NodePods, needs: PodNeeds, book: SyncBook) -> None:
        self._pods = pods
        self._needs = needs
        self._book = book

    def wanted(self, node: str) -> Iterator[WantedObject]:
        unknown: set[tuple[str, str, str]] = set()
        for need in self._pods.needs(node):
            if not self._needs.is_known(need):
                unknown.add((need.type, need.namespace, need.name))
                continue
            item = self._needs.find(need)
            if item is not None:
                yield _of_need(need.type, item)
        yield from self._kept(node, unknown)
        for pod in self._pods.pods(node):
            yield _of_pod(pod)

    def _kept(self, node: str, unknown: set[tuple[str, str, str]]) -> Iterator[WantedObject]:
        """Leave at the node what the cluster has not been asked about yet."""
        if not unknown:
            return
        for held in self._book.held(node).values():
            if (held.type, held.namespace, held.name) in unknown:
                yield WantedObject(held, {}, Source.EDGE_CONTROLLER, is_known=False)

    # --- the hub's news -----------------------------------------------------------------------------

    def node_connected(self, node: str) -> None:
        self._pods.is_edge(node)

    def node_disconnected(self, node: str) -> None:
        """It is an edge node still."""

    def node_is_new(self, node: str) -> None:
        """What it should hold is the same."""

    def delivered(self, node: str, item: ObjectMessage) -> None:
        """The book knows."""

    def last_state(self, pod: JsonObject) -> JsonObject | None:
        """Return the last state of a Pod that is gone, where its node holds it."""
        return pod if uid_of(pod) in self._book.held(node_of(pod)) else None


def build_pod_objects(
    kube: KubeClient,
    pods: NodePods,
    catalog: Catalog,
    hub: CloudHub,
    delivery: Delivery,
    book: SyncBook,
) -> list[Module]:
    """Bring Pods and what they name to their nodes; returns the modules in starting order."""
    needs = PodNeeds(kube, pods, delivery.changed)
    objects = PodObjects(pods, needs, book)
    catalog.on_node(pods.node_changed)
    hub.add_listener(objects)
    delivery.add(objects)
    pods.on_gone(lambda pod: delivery.remember_last(objects.last_state(pod)))
    pods.on_change(lambda node: delivery.changed((node,)))
    return [*pods.modules, *needs.modules, needs]


_KINDS = {"configmap": "ConfigMap", "secret": "Secret"}


def _of_need(type_: str, item: JsonObject) -> WantedObject:
    additions = Operation.UPDATE if type_ == "secret" else Operation.INSERT
    return _wanted(_KINDS[type_], item, additions, FIRST)


def _of_pod(pod: JsonObject) -> WantedObject:
    is_ending = ObjectMeta.read(pod).is_deleting
    return _wanted("Pod", pod, Operation.UPDATE if is_ending else Operation.INSERT, LATER)


def _wanted(kind: str, item: JsonObject, additions: Operation, rank: int) -> WantedObject:
    meta = ObjectMeta.read(item)
    held = Held(meta.uid, "v1", kind, meta.namespace, meta.name, meta.version)
    return WantedObject(held, item, Source.EDGE_CONTROLLER, additions, rank, partial(_named, kind))


def _named(kind: str, item: JsonObject) -> JsonObject:
    """Say the kind; lists leave it out."""
    return {"apiVersion": "v1", "kind": kind, **item}
