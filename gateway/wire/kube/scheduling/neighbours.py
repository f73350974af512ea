"""Pods that must be near each other, or must not. Source: Kubernetes, "Inter-pod affinity"."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TypeAlias

from gateway.wire.kube.scheduling.cluster import Cluster, NodeInfo
from gateway.wire.kube.scheduling.pods import AffinityTerm, Labels, PodInfo, Weighted

Domain: TypeAlias = "tuple[str, str]"
"""A topology key and the value that a domain's nodes have."""


@dataclass(frozen=True, slots=True)
class Requirements:
    """How many Pods there are in each domain: that refuse this one, that it wants, that it refuses."""

    refusing: Counter[Domain]
    wanted: Counter[Domain]
    refused: Counter[Domain]


def requirements(pod: PodInfo, cluster: Cluster) -> Requirements | None:
    """Count once for all nodes; None when neither this Pod nor another asks for anything."""
    refusing = _refusing(pod, cluster)
    if not refusing and not pod.near.required and not pod.far.required:
        return None
    wanted: Counter[Domain] = Counter()
    refused: Counter[Domain] = Counter()
    if pod.near.required or pod.far.required:
        for other in cluster.placed.values():
            _count(pod, other, cluster, wanted, refused)
    return Requirements(refusing, wanted, refused)


def _refusing(pod: PodInfo, cluster: Cluster) -> Counter[Domain]:
    found: Counter[Domain] = Counter()
    own = cluster.facts.namespace_labels(pod.namespace)
    for other in cluster.opinionated.values():
        labels = cluster.labels_at(other) or {}
        for term in other.far.required:
            if term.topology in labels and term.matches(pod, own):
                found[term.topology, labels[term.topology]] += 1
    return found


def _count(
    pod: PodInfo,
    other: PodInfo,
    cluster: Cluster,
    wanted: Counter[Domain],
    refused: Counter[Domain],
) -> None:
    labels = cluster.labels_at(other)
    if labels is None:
        return
    namespace = cluster.facts.namespace_labels(other.namespace)
    if pod.near.required and _matches_all(pod.near.required, other, namespace):
        for term in pod.near.required:
            if term.topology in labels:
                wanted[term.topology, labels[term.topology]] += 1
    for term in pod.far.required:
        if term.topology in labels and term.matches(other, namespace):
            refused[term.topology, labels[term.topology]] += 1


def _matches_all(terms: tuple[AffinityTerm, ...], pod: PodInfo, namespace: Labels) -> bool:
    return all(term.matches(pod, namespace) for term in terms)


def is_near(pod: PodInfo, node: NodeInfo, found: Requirements, cluster: Cluster) -> bool:
    """True where all that a Pod wants near is near; the first of a family that wants itself may begin."""
    terms = pod.near.required
    if any(term.topology not in node.labels for term in terms):
        return False
    if all(found.wanted[term.topology, node.labels[term.topology]] > 0 for term in terms):
        return True
    own = cluster.facts.namespace_labels(pod.namespace)
    return not found.wanted and _matches_all(terms, pod, own)


def is_far(pod: PodInfo, node: NodeInfo, found: Requirements) -> bool:
    """True where nothing is near that a Pod refuses."""
    return not any(
        term.topology in node.labels and found.refused[term.topology, node.labels[term.topology]]
        for term in pod.far.required
    )


def is_welcome(node: NodeInfo, found: Requirements) -> bool:
    """True where no Pod refuses this one."""
    if not found.refusing:
        return True
    return not any(found.refusing[domain] for domain in node.labels.items())


def preferences(pod: PodInfo, cluster: Cluster) -> Counter[Domain]:
    """Return how much domains are liked: by this Pod for who is there, and by them for this Pod."""
    liked: Counter[Domain] = Counter()
    own = cluster.facts.namespace_labels(pod.namespace)
    is_choosy = bool(pod.near.preferred or pod.far.preferred)
    for other in (cluster.placed if is_choosy else cluster.opinionated).values():
        labels = cluster.labels_at(other)
        if not labels:
            continue
        if is_choosy:
            theirs = cluster.facts.namespace_labels(other.namespace)
            _like(liked, pod.near.preferred, other, theirs, labels, 1)
            _like(liked, pod.far.preferred, other, theirs, labels, -1)
        if other.has_neighbours:
            hard = tuple((1, term) for term in other.near.required)
            _like(liked, hard + other.near.preferred, pod, own, labels, 1)
            _like(liked, other.far.preferred, pod, own, labels, -1)
    return liked


def _like(
    liked: Counter[Domain],
    terms: Weighted,
    pod: PodInfo,
    namespace: Labels,
    labels: Labels,
    sign: int,
) -> None:
    for weight, term in terms:
        if term.topology in labels and term.matches(pod, namespace):
            liked[term.topology, labels[term.topology]] += sign * weight
