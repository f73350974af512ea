"""The picture of a cluster that placing goes by: nodes, what is on them, and what was promised to them.

Not safe to change while a decision is made. Whoever keeps it tells it of every change; a Pod that was placed
a moment ago counts at once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from gateway.model.json import JsonObject
from gateway.wire.kube.parts import labels_of, part, rows, text, whole
from gateway.wire.kube.scheduling.needs import PODS, Amounts, amounts
from gateway.wire.kube.scheduling.pods import Key, Labels, PodInfo, Port, Terms
from gateway.wire.kube.taints import Taint, taints_of


@dataclass(slots=True)
class NodeInfo:
    """One node and what is on it. Units: as in `needs`."""

    name: str
    labels: Labels = field(default_factory=dict)
    taints: tuple[Taint, ...] = ()
    is_closed: bool = False
    """True for a node that is cordoned."""
    allocatable: Amounts = field(default_factory=dict)
    images: Mapping[str, int] = field(default_factory=dict)
    """Image -> bytes."""
    pods: dict[Key, PodInfo] = field(default_factory=dict)
    requested: Counter[str] = field(default_factory=Counter)
    shown: Counter[str] = field(default_factory=Counter)
    ports: Counter[Port] = field(default_factory=Counter)

    @property
    def max_pods(self) -> int:
        return self.allocatable.get(PODS, 0)

    def free(self, resource: str) -> int:
        """Return how much of a resource is left; may be negative."""
        return self.allocatable.get(resource, 0) - self.requested[resource]

    def add(self, pod: PodInfo) -> None:
        """Count a Pod in."""
        self.remove(pod.key)
        self.pods[pod.key] = pod
        self.requested.update(pod.requests)
        self.shown.update(pod.shown)
        self.ports.update(pod.ports)

    def remove(self, key: Key) -> PodInfo | None:
        """Count a Pod out."""
        pod = self.pods.pop(key, None)
        if pod is not None:
            self.requested.subtract(pod.requests)
            self.shown.subtract(pod.shown)
            if pod.ports:
                self.ports -= Counter(pod.ports)
        return pod

    @contextmanager
    def without(self, pods: tuple[PodInfo, ...]) -> Iterator[None]:
        """Leave Pods out of account for the length of the block."""
        for pod in pods:
            self.remove(pod.key)
        try:
            yield
        finally:
            for pod in pods:
                self.add(pod)

    @contextmanager
    def along_with(self, pods: tuple[PodInfo, ...]) -> Iterator[None]:
        """Count further Pods in for the length of the block."""
        for pod in pods:
            self.add(pod)
        try:
            yield
        finally:
            for pod in pods:
                self.remove(pod.key)


@dataclass(frozen=True, slots=True)
class Facts:
    """What else placing asks about: each finds an object by name, or None.

    Shape:  `claim` by namespace and name; `volume`, `storage_class` by name; `spread_selector` returns the
            labels that Pods serving the same purpose share, None where nothing tells.
    """

    claim: Callable[[str, str], JsonObject | None] = lambda _namespace, _name: None
    volume: Callable[[str], JsonObject | None] = lambda _name: None
    storage_class: Callable[[str], JsonObject | None] = lambda _name: None
    namespace_labels: Callable[[str], Labels] = lambda _name: {}
    spread_selector: Callable[[PodInfo], Terms | None] = lambda _pod: None
    budgets: Callable[[str], list[JsonObject]] = lambda _namespace: []


class Cluster:
    """All nodes and all placed Pods."""

    def __init__(self, facts: Facts | None = None) -> None:
        self.facts = facts or Facts()
        self.nodes: dict[str, NodeInfo] = {}
        self.placed: dict[Key, PodInfo] = {}
        self.opinionated: dict[Key, PodInfo] = {}
        """Placed Pods that say something about their neighbours."""
        self.promised: dict[str, dict[Key, PodInfo]] = {}
        """Node -> Pods that wait for room that is being made there."""
        self.image_spread: Counter[str] = Counter()
        """Image -> on how many nodes it is."""
        self.turn = 0
        """At which node the next search begins: where not all are looked at, each has its turn."""
        self._namespaces: dict[str, dict[Key, PodInfo]] = {}
        self._homeless: dict[str, dict[Key, PodInfo]] = {}

    def of_namespace(self, namespace: str) -> Mapping[Key, PodInfo]:
        """Return the placed Pods of a namespace."""
        return self._namespaces.get(namespace, {})

    def labels_at(self, pod: PodInfo) -> Labels | None:
        """Return the labels of a Pod's node, None for a node that is not known."""
        node = self.nodes.get(pod.node)
        return None if node is None else node.labels

    # --- nodes ----------------------------------------------------------------------------------------

    def set_node(self, node: JsonObject) -> bool:
        """Take in a Node; True when something changed that placing looks at."""
        name = text(part(node, "metadata").get("name"))
        known = self.nodes.get(name)
        if known is None:
            known = self.nodes[name] = NodeInfo(name)
            for pod in self._homeless.pop(name, {}).values():
                known.add(pod)
        before = (known.labels, known.taints, known.is_closed, known.allocatable)
        self._set_images(known, _images(node))
        known.labels, known.taints = labels_of(node), taints_of(node)
        known.is_closed = part(node, "spec").get("unschedulable") is True
        known.allocatable = amounts(part(node, "status", "allocatable"))
        return before != (known.labels, known.taints, known.is_closed, known.allocatable)

    def drop_node(self, name: str) -> None:
        """Forget a Node; its Pods are remembered in case it comes back."""
        known = self.nodes.pop(name, None)
        if known is not None:
            self._set_images(known, {})
            if known.pods:
                self._homeless[name] = known.pods

    def _set_images(self, node: NodeInfo, images: Mapping[str, int]) -> None:
        if images != node.images:
            self.image_spread -= Counter(node.images.keys())
            self.image_spread.update(images.keys())
            node.images = images

    # --- pods -----------------------------------------------------------------------------------------

    def place(self, pod: PodInfo) -> None:
        """Count a Pod at its node, in place of what was known of it."""
        self.remove(pod.key)
        self.placed[pod.key] = pod
        self._namespaces.setdefault(pod.namespace, {})[pod.key] = pod
        if pod.has_neighbours:
            self.opinionated[pod.key] = pod
        node = self.nodes.get(pod.node)
        if node is None:
            self._homeless.setdefault(pod.node, {})[pod.key] = pod
        else:
            node.add(pod)

    def remove(self, key: Key) -> PodInfo | None:
        """Count a Pod out; None when it was not placed."""
        pod = self.placed.pop(key, None)
        if pod is None:
            return None
        self.opinionated.pop(key, None)
        mates = self._namespaces[pod.namespace]
        del mates[key]
        if not mates:
            del self._namespaces[pod.namespace]
        node = self.nodes.get(pod.node)
        if node is not None:
            node.remove(key)
        else:
            self._forget_homeless(pod)
        return pod

    def _forget_homeless(self, pod: PodInfo) -> None:
        held = self._homeless.get(pod.node, {})
        held.pop(pod.key, None)
        if not held:
            self._homeless.pop(pod.node, None)

    # --- promises -------------------------------------------------------------------------------------

    def promise(self, pod: PodInfo, node: str) -> None:
        """Keep room at a node for a Pod."""
        self.break_promise(pod.key)
        self.promised.setdefault(node, {})[pod.key] = pod

    def break_promise(self, key: Key) -> bool:
        """Keep no room for this Pod any more; True where some was kept."""
        for node, pods in self.promised.items():
            if pods.pop(key, None) is not None:
                if not pods:
                    del self.promised[node]
                return True
        return False

    def ahead_of(self, pod: PodInfo, node: str) -> tuple[PodInfo, ...]:
        """Return the Pods that have a promise of this node and matter at least as much."""
        pods = self.promised.get(node)
        if not pods:
            return ()
        return tuple(
            other
            for other in pods.values()
            if other.priority >= pod.priority and other.uid != pod.uid
        )


def _images(node: JsonObject) -> dict[str, int]:
    found: dict[str, int] = {}
    for row in rows(part(node, "status").get("images")):
        names = row.get("names")
        for name in names if isinstance(names, list) else []:
            found[text(name)] = whole(row.get("sizeBytes"))
    return found
