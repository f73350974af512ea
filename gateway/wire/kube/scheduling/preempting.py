"""Room for a Pod that matters more: which Pods have to go, and at which node the fewest that matter least.

Source: Kubernetes, "Pod Priority and Preemption".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from gateway.model.json import JsonObject
from gateway.wire.kube.parts import part, whole
from gateway.wire.kube.scheduling.cluster import Cluster, NodeInfo
from gateway.wire.kube.scheduling.filters import Cycle, Refusal
from gateway.wire.kube.scheduling.placing import Refused, refusal_with_promises, unavailable
from gateway.wire.kube.scheduling.pods import PodInfo, meets, selector_terms

LEAST_NODES, SHARE = 100, 10
"""At how many nodes, or percent of them, a way is looked for."""
_SHIFT = 2**31
NO_HELP = "Preemption is not helpful for scheduling"
NO_VICTIMS = "No preemption victims found for incoming pod"
NEVER = "not eligible due to preemptionPolicy=Never."
ENDING = "not eligible due to a terminating pod on the nominated node."


@dataclass(frozen=True, slots=True)
class Way:
    """A node and the Pods that have to leave it, those that matter most first; `violations` of budgets."""

    node: str
    victims: tuple[PodInfo, ...]
    violations: int


@dataclass(frozen=True, slots=True)
class NoWay:
    """Why nobody has to go. `keeps_promise`: room is being made already."""

    message: str
    keeps_promise: bool = False


def make_room(pod: PodInfo, cluster: Cluster, refused: Refused) -> Way | NoWay:
    """Find out who has to go."""
    if not pod.may_preempt:
        return NoWay(f"preemption: {NEVER}")
    if _is_being_made(pod, cluster, refused):
        return NoWay(f"preemption: {ENDING}", keeps_promise=True)
    ways: list[Way] = []
    reasons: Counter[str] = Counter()
    open_nodes = [name for name, found in refused.by_node.items() if not found.is_final]
    limit = max(LEAST_NODES, refused.total * SHARE // 100)
    for name in open_nodes[:limit]:
        found = _way(pod, cluster, cluster.nodes[name])
        if isinstance(found, Way):
            ways.append(found)
        else:
            reasons.update(found.reasons)
    if ways:
        return min(ways, key=_harm)
    others = refused.total - min(len(open_nodes), limit)
    return NoWay(f"preemption: {unavailable(refused.total, reasons, NO_HELP, others)}")


def _is_being_made(pod: PodInfo, cluster: Cluster, refused: Refused) -> bool:
    node = cluster.nodes.get(pod.nominated) if pod.nominated else None
    found = refused.by_node.get(pod.nominated)
    if node is None or (found is not None and found.is_final):
        return False
    return any(other.is_deleting and other.priority < pod.priority for other in node.pods.values())


def _way(pod: PodInfo, cluster: Cluster, node: NodeInfo) -> Way | Refusal:
    """Take away all that matter less, then give back whom there is room for: the most important first."""
    lesser = sorted(
        (other for other in node.pods.values() if other.priority < pod.priority), key=_rank
    )
    if not lesser:
        return Refusal((NO_VICTIMS,))
    gone = {other.key: other for other in lesser}

    def fits() -> Refusal | None:
        """Ask anew without those that are gone: who is where has changed."""
        return refusal_with_promises(Cycle(pod, cluster), node)

    for other in lesser:
        cluster.remove(other.key)
    try:
        found = fits()
        if found is not None:
            return found
        violating, fine = _by_budget(lesser, cluster)
        violations = 0
        for is_violating, group in ((True, violating), (False, fine)):
            for other in group:
                cluster.place(other)
                if fits() is None:
                    del gone[other.key]
                else:
                    cluster.remove(other.key)
                    violations += is_violating
        return Way(node.name, tuple(sorted(gone.values(), key=_rank)), violations)
    finally:
        for other in lesser:
            cluster.place(other)


def _rank(pod: PodInfo) -> tuple[int, float]:
    """Sort by importance: priority, then age."""
    return -pod.priority, pod.started


def _by_budget(pods: Iterable[PodInfo], cluster: Cluster) -> tuple[list[PodInfo], list[PodInfo]]:
    """Split Pods into those whose disruption budget would be overdrawn, and others."""
    left: dict[tuple[str, str], int] = {}
    violating: list[PodInfo] = []
    fine: list[PodInfo] = []
    for pod in pods:
        is_violating = False
        for budget in cluster.facts.budgets(pod.namespace):
            if not _covers(budget, pod):
                continue
            key = (pod.namespace, str(part(budget, "metadata").get("name")))
            allowed = whole(part(budget, "status").get("disruptionsAllowed"))
            left[key] = left.get(key, allowed) - 1
            is_violating = is_violating or left[key] < 0
        (violating if is_violating else fine).append(pod)
    return violating, fine


def _covers(budget: JsonObject, pod: PodInfo) -> bool:
    terms = selector_terms(part(budget, "spec").get("selector"))
    is_known = pod.key[1] in part(budget, "status", "disruptedPods")
    return bool(terms) and bool(pod.labels) and not is_known and meets(terms, pod.labels)


def _harm(way: Way) -> tuple[int, int, int, int, float]:
    """Sort ways: broken budgets, the greatest and the sum of priorities, how many, how long they ran."""
    most = way.victims[0].priority if way.victims else 0
    total = sum(pod.priority + _SHIFT for pod in way.victims)
    oldest = min((pod.started for pod in way.victims if pod.priority == most), default=0.0)
    return way.violations, most, total, len(way.victims), -oldest
