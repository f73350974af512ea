"""What the scheduler looks up beside nodes and Pods: claims and volumes, namespaces, owners, budgets."""

from __future__ import annotations

from collections.abc import Callable

from gateway.kube.control.mirrors import Mirrors
from gateway.kube.informer import Change
from gateway.model.json import JsonObject
from gateway.wire.kube.parts import labels_of, part, text
from gateway.wire.kube.scheduling.cluster import Facts
from gateway.wire.kube.scheduling.pods import Labels, PodInfo, Terms, selector_terms
from gateway.wire.kube.selectors import Requirement

_OWNERS = {
    "ReplicaSet": ("apps/v1", "replicasets"),
    "StatefulSet": ("apps/v1", "statefulsets"),
    "ReplicationController": ("v1", "replicationcontrollers"),
}
"""Kinds whose Pods serve one purpose."""


class SchedulerFacts:
    """Reads mirrors; `on_volumes` is told when claims, volumes or classes changed."""

    def __init__(self, mirrors: Mirrors, on_volumes: Callable[[], None]) -> None:
        self._claims = mirrors.of("v1", "persistentvolumeclaims")
        self._volumes = mirrors.of("v1", "persistentvolumes")
        self._classes = mirrors.of("storage.k8s.io/v1", "storageclasses")
        self._namespaces = mirrors.of("v1", "namespaces")
        self._services = mirrors.of("v1", "services")
        self._budgets = mirrors.of("policy/v1", "poddisruptionbudgets")
        self._owners = {kind: mirrors.of(*place) for kind, place in _OWNERS.items()}

        def changed(_: Change) -> None:
            on_volumes()

        for mirror in (self._claims, self._volumes, self._classes):
            mirror.on_change(changed)
        for mirror in (self._services, self._budgets):
            mirror.in_namespace("")  # from now on there is an index

    def facts(self) -> Facts:
        """Return them as placing asks for them."""
        return Facts(
            claim=self._claims.get,
            volume=lambda name: self._volumes.get(None, name),
            storage_class=lambda name: self._classes.get(None, name),
            namespace_labels=self._namespace_labels,
            spread_selector=self._spread_selector,
            budgets=self._budgets.in_namespace,
        )

    def _namespace_labels(self, name: str) -> Labels:
        found = self._namespaces.get(None, name)
        return {} if found is None else labels_of(found)

    def _spread_selector(self, pod: PodInfo) -> Terms | None:
        """Return what the Pods of the same Services and the same owner have in common."""
        terms: tuple[Requirement, ...] = ()
        for service in self._services.in_namespace(pod.namespace):
            wanted = _plain_terms(part(service, "spec", "selector"))
            if wanted and all(term.matches(pod.labels) for term in wanted):
                terms += wanted
        return terms + self._owner_terms(pod) or None

    def _owner_terms(self, pod: PodInfo) -> Terms:
        if pod.owner is None or pod.owner[0] not in self._owners:
            return ()
        kind, name = pod.owner
        owner = self._owners[kind].get(pod.namespace, name)
        if owner is None:
            return ()
        selector = part(owner, "spec", "selector")
        if kind == "ReplicationController":
            return _plain_terms(selector)
        return selector_terms(selector) or ()


def _plain_terms(labels: JsonObject) -> Terms:
    return tuple(Requirement(key, "in", frozenset({text(value)})) for key, value in labels.items())
