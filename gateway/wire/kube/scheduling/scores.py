"""How much a node that will do is liked: 0 to 100 from each row of `SCORES`, times its weight.

Source: Kubernetes, "Scheduler Configuration" (default plugins and weights), "Resource Bin Packing".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from gateway.wire.kube.scheduling.cluster import Cluster, NodeInfo
from gateway.wire.kube.scheduling.needs import CPU, MEMORY
from gateway.wire.kube.scheduling.neighbours import preferences
from gateway.wire.kube.scheduling.pods import PodInfo
from gateway.wire.kube.scheduling.spread import crowding
from gateway.wire.kube.taints import PREFER_NOT, is_tolerated

TOP = 100
_COMPARED = (CPU, MEMORY)
_MIB = 1024 * 1024
SMALL_IMAGE, LARGE_IMAGE = 23 * _MIB, 1_000 * _MIB
"""Images below do not count, above no more than this, for each container."""


def free_room(pod: PodInfo, _cluster: Cluster, nodes: list[NodeInfo]) -> list[int]:
    """More is left of what there is."""
    return [_free_room(pod, node) for node in nodes]


def _free_room(pod: PodInfo, node: NodeInfo) -> int:
    found: list[int] = []
    for resource in _COMPARED:
        there = node.allocatable.get(resource, 0)
        if there:
            used = node.shown[resource] + pod.shown.get(resource, 0)
            found.append(max(there - used, 0) * TOP // there)
    return sum(found) // len(found) if found else 0


def balance(pod: PodInfo, _cluster: Cluster, nodes: list[NodeInfo]) -> list[int]:
    """Memory and processors are used up evenly; better the more this Pod helps."""
    if not any(pod.requests.get(resource, 0) for resource in _COMPARED):
        return [0] * len(nodes)
    found: list[int] = []
    for node in nodes:
        gain = _evenness(node, pod.requests) - _evenness(node, {})
        found.append(TOP // 2 + int((TOP // 2 + gain) / 2))
    return found


def _evenness(node: NodeInfo, more: Mapping[str, int]) -> int:
    cpu, memory = node.allocatable.get(CPU, 0), node.allocatable.get(MEMORY, 0)
    if not cpu or not memory:
        return TOP
    one = min((node.requested[CPU] + more.get(CPU, 0)) / cpu, 1.0)
    other = min((node.requested[MEMORY] + more.get(MEMORY, 0)) / memory, 1.0)
    return int((1 - abs(one - other) / 2) * TOP)


def few_taints(pod: PodInfo, _cluster: Cluster, nodes: list[NodeInfo]) -> list[int]:
    """Fewer taints that would rather not have this Pod."""
    used = tuple(entry for entry in pod.tolerations if entry.effect in ("", PREFER_NOT))
    counts = [
        sum(taint.effect == PREFER_NOT and not is_tolerated(taint, used) for taint in node.taints)
        for node in nodes
    ]
    return [TOP - share for share in _shares(counts)]


def wanted_labels(pod: PodInfo, _cluster: Cluster, nodes: list[NodeInfo]) -> list[int]:
    """Preferred node affinity."""
    if not pod.preferred:
        return [0] * len(nodes)
    return _shares(
        [
            sum(w for w, term in pod.preferred if term.matches(node.name, node.labels))
            for node in nodes
        ]
    )


def emptier_domains(pod: PodInfo, cluster: Cluster, nodes: list[NodeInfo]) -> list[int]:
    """Topology spread that is to be kept if it can be."""
    crowds = crowding(pod, cluster, nodes)
    if crowds is None:
        return [0] * len(nodes)
    counted = [crowd for crowd in crowds if crowd is not None]
    least, most = min(counted, default=0), max(counted, default=0)
    return [
        0 if crowd is None else TOP * (most + least - crowd) // most if most else TOP
        for crowd in crowds
    ]


def liked_neighbours(pod: PodInfo, cluster: Cluster, nodes: list[NodeInfo]) -> list[int]:
    """Preferred affinity and anti-affinity between Pods, in both directions."""
    liked = preferences(pod, cluster)
    if not liked:
        return [0] * len(nodes)
    sums = [sum(liked[domain] for domain in node.labels.items()) for node in nodes]
    least, most = min(sums), max(sums)
    return [int(TOP * (value - least) / (most - least)) if most > least else 0 for value in sums]


def local_images(pod: PodInfo, cluster: Cluster, nodes: list[NodeInfo]) -> list[int]:
    """Images that are there already; less so where few nodes have them, lest those are overrun."""
    if not any(image in cluster.image_spread for image in pod.images):
        return [0] * len(nodes)
    total = len(cluster.nodes)
    most = LARGE_IMAGE * pod.containers
    found: list[int] = []
    for node in nodes:
        size = sum(
            int(node.images[image] * (cluster.image_spread[image] / total))
            for image in pod.images
            if image in node.images
        )
        held = min(max(size, SMALL_IMAGE), most)
        found.append(TOP * (held - SMALL_IMAGE) // (most - SMALL_IMAGE))
    return found


def _shares(values: list[int]) -> list[int]:
    """Scale to the largest."""
    most = max(values, default=0)
    return [value * TOP // most for value in values] if most else values


SCORES: tuple[tuple[int, Callable[[PodInfo, Cluster, list[NodeInfo]], list[int]]], ...] = (
    (3, few_taints),
    (2, wanted_labels),
    (1, free_room),
    (2, emptier_domains),
    (2, liked_neighbours),
    (1, balance),
    (1, local_images),
)


def scores(pod: PodInfo, cluster: Cluster, nodes: list[NodeInfo]) -> list[int]:
    """Return the sum of all scores for each of these nodes."""
    total = [0] * len(nodes)
    for weight, score in SCORES:
        for place, value in enumerate(score(pod, cluster, nodes)):
            total[place] += weight * value
    return total
