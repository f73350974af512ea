"""Pods spread evenly over domains of nodes. Source: Kubernetes, "Pod Topology Spread Constraints"."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from math import log

from gateway.wire.kube.scheduling.cluster import Cluster, NodeInfo
from gateway.wire.kube.scheduling.pods import PodInfo, SpreadRule, Terms, meets
from gateway.wire.kube.taints import repels

HOST, ZONE = "kubernetes.io/hostname", "topology.kubernetes.io/zone"
DEFAULTS = ((ZONE, 3), (HOST, 5))
"""What Pods that say nothing, but serve one purpose, are spread over, and with which skew."""


@dataclass(frozen=True, slots=True)
class Spread:
    """How many Pods each domain of a rule has now."""

    rule: SpreadRule
    counts: Counter[str]
    least: int
    """In the emptiest domain; 0 where there are fewer domains than there should be."""
    own: int
    """1 when the Pod counts itself."""


def hard_spreads(pod: PodInfo, cluster: Cluster) -> tuple[Spread, ...]:
    """Count for the rules that must be kept."""
    rules = [rule for rule in pod.spread if rule.is_hard]
    if not rules:
        return ()
    keys = [rule.topology for rule in rules]
    nodes = [node for node in cluster.nodes.values() if _has_all(node, keys)]
    return tuple(_hard_spread(rule, pod, cluster, nodes) for rule in rules)


def _hard_spread(
    rule: SpreadRule, pod: PodInfo, cluster: Cluster, nodes: Iterable[NodeInfo]
) -> Spread:
    per_node = per_node_counts(pod.namespace, rule.selector, cluster)
    counts: Counter[str] = Counter()
    for node in nodes:
        if _counts_for(rule, pod, node):
            counts[node.labels[rule.topology]] += per_node[node.name]
    is_enough = len(counts) >= rule.min_domains
    least = min(counts.values(), default=0) if is_enough else 0
    return Spread(rule, counts, least, int(meets(rule.selector, pod.labels)))


def is_even(node: NodeInfo, spreads: tuple[Spread, ...]) -> bool | None:
    """True where a Pod keeps its rules; None on a node that belongs to no domain."""
    for spread in spreads:
        domain = node.labels.get(spread.rule.topology)
        if domain is None:
            return None
        if spread.counts[domain] + spread.own - spread.least > spread.rule.max_skew:
            return False
    return True


def per_node_counts(namespace: str, selector: Terms | None, cluster: Cluster) -> Counter[str]:
    """Count the Pods of a namespace that a selector names, by node; an empty one names none here."""
    if not selector:
        return Counter()
    return Counter(
        pod.node
        for pod in cluster.of_namespace(namespace).values()
        if not pod.is_deleting and meets(selector, pod.labels)
    )


def _has_all(node: NodeInfo, keys: Iterable[str]) -> bool:
    return all(key in node.labels for key in keys)


def _counts_for(rule: SpreadRule, pod: PodInfo, node: NodeInfo) -> bool:
    if rule.honors_affinity and not pod.wish.matches(node.name, node.labels):
        return False
    return not (rule.honors_taints and repels(node.taints, pod.tolerations))


def soft_rules(pod: PodInfo, cluster: Cluster) -> tuple[SpreadRule, ...]:
    """Return the rules that are to be kept if it can be: the Pod's, or those for Pods that have none."""
    if pod.spread:
        return tuple(rule for rule in pod.spread if not rule.is_hard)
    selector = cluster.facts.spread_selector(pod)
    if not selector:
        return ()
    return tuple(
        SpreadRule(
            skew,
            key,
            selector,
            min_domains=1,
            honors_affinity=True,
            honors_taints=False,
            is_hard=False,
        )
        for key, skew in DEFAULTS
    )


def crowding(pod: PodInfo, cluster: Cluster, nodes: list[NodeInfo]) -> list[int | None] | None:
    """Return how crowded the domains of these nodes are; None for a node that is left out of account.

    None as a whole when no rule applies.
    """
    rules = soft_rules(pod, cluster)
    if not rules:
        return None
    keys = [rule.topology for rule in rules] if pod.spread else []
    total = [0.0] * len(nodes)
    is_counted = [_has_all(node, keys) for node in nodes]
    for rule in rules:
        per_node = per_node_counts(pod.namespace, rule.selector, cluster)
        counts, size = _soft_counts(rule, pod, cluster, nodes, per_node)
        if rule.topology == HOST:
            size = sum(is_counted)
        weight = log(size + 2)
        for place, node in enumerate(nodes):
            domain = node.labels.get(rule.topology)
            if domain is not None:
                here = per_node[node.name] if rule.topology == HOST else counts[domain]
                total[place] += here * weight + rule.max_skew - 1
    return [
        round(crowd) if counted else None for crowd, counted in zip(total, is_counted, strict=True)
    ]


def _soft_counts(
    rule: SpreadRule,
    pod: PodInfo,
    cluster: Cluster,
    nodes: list[NodeInfo],
    per_node: Counter[str],
) -> tuple[Counter[str], int]:
    domains = {node.labels[rule.topology] for node in nodes if rule.topology in node.labels}
    counts: Counter[str] = Counter()
    for name, number in per_node.items():
        node = cluster.nodes.get(name)
        domain = None if node is None else node.labels.get(rule.topology)
        if node is not None and domain in domains and _counts_for(rule, pod, node):
            counts[domain or ""] += number
    return counts, len(domains)
