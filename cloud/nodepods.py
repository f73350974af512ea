"""The Pods of every node, and what the Pods of edge nodes name, from memory.

A node counts as an edge node once its Node says so or it connects here, until its Node is gone: taking the
label away must not take its ConfigMaps away.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from cloud.references import Reference, account_of, references
from gateway.kube.client import KubeClient
from gateway.kube.informer import Change, Informer, Key
from gateway.model.json import JsonObject
from gateway.wire.cloudedge.devices import ObjectMeta, mapping, text
from gateway.wire.cloudedge.names import EDGE_LABEL

BOUND = "spec.nodeName!="
"""Field selector: Pods that have a node."""


@dataclass(frozen=True, slots=True, order=True)
class Need:
    """An object that Pods name; `type` as on the cloud-edge link (`configmap`)."""

    type: str
    namespace: str
    name: str


class NodePods:
    """Port `PodsOfNodes`. `modules` run before anyone who asks."""

    def __init__(self, kube: KubeClient) -> None:
        self._informer = Informer(kube, "v1", "pods", self._changed, fields=BOUND)
        self._by_node: defaultdict[str, dict[Key, JsonObject]] = defaultdict(dict)
        self._accounts: defaultdict[str, Counter[Key]] = defaultdict(Counter)
        """Node -> the ServiceAccounts of its Pods, with how many run as each."""
        self._needs: dict[Key, frozenset[Need]] = {}
        self._users: defaultdict[Need, Counter[str]] = defaultdict(Counter)
        self._edges: set[str] = set()
        self._listeners: list[Callable[[str], None]] = []
        self._need_listeners: list[Callable[[Need], None]] = []
        self._gone_listeners: list[Callable[[JsonObject], None]] = []

    @property
    def modules(self) -> list[Informer]:
        return [self._informer]

    def on_change(self, listener: Callable[[str], None]) -> None:
        self._listeners.append(listener)

    def on_need(self, listener: Callable[[Need], None]) -> None:
        """Tell `listener` what becomes needed, and what is needed no more."""
        self._need_listeners.append(listener)

    def on_gone(self, listener: Callable[[JsonObject], None]) -> None:
        """Tell `listener` the last state of a Pod that is gone, before its node."""
        self._gone_listeners.append(listener)

    # --- questions --------------------------------------------------------------------------------

    def pods(self, node: str) -> Iterable[JsonObject]:
        return list(self._by_node.get(node, {}).values())

    def pod(self, namespace: str, name: str) -> JsonObject | None:
        return self._informer.objects.get((namespace, name))

    def uses(self, node: str, reference: Reference, namespace: str) -> bool:
        need = Need(reference[0], namespace, reference[1])
        return any(need in needs_of(pod) for pod in self._by_node.get(node, {}).values())

    def service_accounts(self, node: str) -> frozenset[tuple[str, str]]:
        return frozenset(self._accounts.get(node, ()))

    def needs(self, node: str) -> Iterator[Need]:
        """Yield what the Pods of a node name, each once, by name."""
        found: set[Need] = set()
        for key, pod in self._by_node.get(node, {}).items():
            found |= self._needs[key] if key in self._needs else needs_of(pod)
        yield from sorted(found)

    def users(self, need: Need) -> list[str]:
        """Return the edge nodes whose Pods name this."""
        return list(self._users.get(need, ()))

    # --- changes ----------------------------------------------------------------------------------

    def node_changed(self, change: Change) -> None:
        """Learn which nodes are edge nodes."""
        name = change.key[1]
        if change.new is None:
            self._edges.discard(name)
            self._index_again(name)
        elif EDGE_LABEL in ObjectMeta.read(change.new).labels:
            self.is_edge(name)

    def is_edge(self, node: str) -> None:
        """Note that a node is an edge node."""
        if node not in self._edges:
            self._edges.add(node)
            self._index_again(node)

    def _index_again(self, node: str) -> None:
        for key, pod in self._by_node.get(node, {}).items():
            self._set_needs(key, node, pod if node in self._edges else None)

    def _changed(self, change: Change) -> None:
        before, after = node_of(change.old), node_of(change.new)
        self._count_account(before, change.key, change.old, -1)
        self._count_account(after, change.key, change.new, 1)
        if before and before != after:
            self._set_needs(change.key, before, None)
            self._by_node[before].pop(change.key, None)
            if not self._by_node[before]:
                del self._by_node[before]
        if after and change.new is not None:
            self._by_node[after][change.key] = change.new
            self._set_needs(change.key, after, change.new if after in self._edges else None)
        self._tell(change, [node for node in dict.fromkeys((before, after)) if node])

    def _count_account(self, node: str, key: Key, pod: JsonObject | None, by: int) -> None:
        account = "" if pod is None or not node else account_of(pod)
        if not account:
            return
        counts, mark = self._accounts[node], (key[0], account)
        counts[mark] += by
        if not counts[mark]:
            del counts[mark]
        if not counts:
            del self._accounts[node]

    def _tell(self, change: Change, nodes: Iterable[str]) -> None:
        if change.old is not None and uid_of(change.old) != uid_of(change.new):
            for told in self._gone_listeners:
                told(change.old)
        for node in nodes:
            for listener in self._listeners:
                listener(node)

    def _set_needs(self, key: Key, node: str, pod: JsonObject | None) -> None:
        """Count what a Pod names for its node; None: nothing any more."""
        old = self._needs.pop(key, frozenset())
        new = frozenset[Need]() if pod is None else needs_of(pod)
        if pod is not None:
            self._needs[key] = new
        for need in new - old:
            self._users[need][node] += 1
            if self._users[need].total() == 1:
                self._tell_need(need)
        for need in old - new:
            self._users[need][node] -= 1
            self._users[need] = +self._users[need]
            if not self._users[need]:
                del self._users[need]
                self._tell_need(need)

    def _tell_need(self, need: Need) -> None:
        for listener in self._need_listeners:
            listener(need)


def needs_of(pod: JsonObject) -> frozenset[Need]:
    """Return what a Pod names, in its namespace."""
    namespace = ObjectMeta.read(pod).namespace
    return frozenset(Need(kind, namespace, name) for kind, name in references(pod))


def node_of(pod: JsonObject | None) -> str:
    return "" if pod is None else text(mapping(pod.get("spec")).get("nodeName"))


def uid_of(item: JsonObject | None) -> str:
    return "" if item is None else ObjectMeta.read(item).uid
