"""Where a Pod goes, or why it goes nowhere."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from gateway.wire.kube.nodeterms import NAME_FIELD, NodeTerm
from gateway.wire.kube.scheduling.cluster import Cluster, NodeInfo
from gateway.wire.kube.scheduling.filters import Cause, Cycle, Refusal, refusal
from gateway.wire.kube.scheduling.pods import PodInfo
from gateway.wire.kube.scheduling.scores import scores

ENOUGH_NODES, LEAST_SHARE = 100, 5
"""Of clusters with more nodes a share (in percent, at least this) is looked at for each Pod."""
NO_NODES = "no nodes available to schedule pods"
ANOTHER_NAME = "node(s) didn't satisfy plugin(s) [NodeAffinity]"
CONFLICT = "pod affinity terms conflict"


@dataclass(frozen=True, slots=True)
class Placed:
    """The node for a Pod."""

    node: str


@dataclass(frozen=True, slots=True)
class Refused:
    """Why there is no node for a Pod.

    Shape:  `fault` where no node was asked; `by_node` for those that were; `unasked` tells why not others.
    """

    total: int
    fault: str = ""
    by_node: Mapping[str, Refusal] = field(default_factory=dict)
    unasked: str = ""
    causes: Cause = Cause.ANY

    @property
    def message(self) -> str:
        """As Events and conditions show it."""
        if not self.total:
            return NO_NODES
        if self.fault:
            return f"0/{self.total} nodes are available: {self.fault}."
        reasons: Counter[str] = Counter()
        for found in self.by_node.values():
            reasons.update(found.reasons)
        left = self.total - len(self.by_node)
        return unavailable(self.total, reasons, self.unasked, left)


def unavailable(total: int, reasons: Counter[str], others: str = "", left: int = 0) -> str:
    """Say how many nodes are out for which reason."""
    if left and others:
        reasons[others] += left
    told = ", ".join(sorted(f"{number} {reason}" for reason, number in reasons.items()))
    return f"0/{total} nodes are available:" + (f" {told}." if told else "")


def place(
    pod: PodInfo, cluster: Cluster, pick: Callable[[list[str]], str] = lambda names: names[0]
) -> Placed | Refused:
    """Choose a node. `pick` chooses among those that are liked most."""
    total = len(cluster.nodes)
    if not total:
        return Refused(0, causes=Cause.NODE)
    cycle = Cycle(pod, cluster)
    if cycle.volumes is not None and cycle.volumes.fault:
        return Refused(total, cycle.volumes.fault, causes=Cause.VOLUME)
    names = _only(pod.wish.terms)
    if names is not None and not names:
        return Refused(total, CONFLICT, causes=Cause.NODE)
    fitting, by_node = _search(cycle, _candidates(cluster, names), enough(total))
    if not fitting:
        causes = Cause.NODE
        for found in by_node.values():
            causes |= found.causes
        return Refused(total, "", by_node, ANOTHER_NAME if names is not None else "", causes)
    return Placed(_best(pod, cluster, fitting, pick))


def enough(total: int) -> int:
    """How many nodes that will do are enough to choose among."""
    if total < ENOUGH_NODES:
        return total
    return max(total * max(50 - total // 125, LEAST_SHARE) // 100, ENOUGH_NODES)


def _only(terms: tuple[NodeTerm, ...] | None) -> frozenset[str] | None:
    """Return the names of the only nodes that can match, None when others can, too."""
    if not terms:
        return None
    found: set[str] = set()
    for term in terms:
        named = [
            entry.values
            for entry in term.fields
            if entry.key == NAME_FIELD and entry.operator == "in"
        ]
        if not named:
            return None
        found |= frozenset.intersection(*named)
    return frozenset(found)


def _candidates(cluster: Cluster, names: frozenset[str] | None) -> list[NodeInfo]:
    """Return the nodes to look at, each time from another one on."""
    if names is not None:
        return [cluster.nodes[name] for name in sorted(names) if name in cluster.nodes]
    nodes = list(cluster.nodes.values())
    if len(nodes) < ENOUGH_NODES:
        return nodes
    start = cluster.turn % len(nodes)
    return nodes[start:] + nodes[:start]


def _search(
    cycle: Cycle, nodes: list[NodeInfo], wanted: int
) -> tuple[list[NodeInfo], dict[str, Refusal]]:
    fitting: list[NodeInfo] = []
    by_node: dict[str, Refusal] = {}
    for node in nodes:
        found = refusal_with_promises(cycle, node)
        if found is None:
            fitting.append(node)
            if len(fitting) >= wanted:
                break
        else:
            by_node[node.name] = found
    cycle.cluster.turn += len(fitting) + len(by_node)
    return fitting, by_node


def refusal_with_promises(cycle: Cycle, node: NodeInfo) -> Refusal | None:
    """Ask all filters, also as if those were there for whom room is being made."""
    ahead = cycle.cluster.ahead_of(cycle.pod, node.name)
    if ahead:
        with node.along_with(ahead):
            found = refusal(cycle, node)
        if found is not None:
            return found
    return refusal(cycle, node)


def _best(
    pod: PodInfo, cluster: Cluster, nodes: list[NodeInfo], pick: Callable[[list[str]], str]
) -> str:
    if pod.nominated and any(node.name == pod.nominated for node in nodes):
        return pod.nominated
    if len(nodes) == 1:
        return nodes[0].name
    found = scores(pod, cluster, nodes)
    most = max(found)
    return pick([node.name for node, score in zip(nodes, found, strict=True) if score == most])
