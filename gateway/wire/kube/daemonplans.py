"""What to do about the Pods of a DaemonSet: which to create, which to delete, what its status says.

Source: Kubernetes "DaemonSet", "Perform a Rolling Update on a DaemonSet"; API `apps/v1` DaemonSetStatus.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from gateway.model.json import JsonObject
from gateway.wire.kube.daemons import DaemonView, Fit
from gateway.wire.kube.parts import part, text, whole
from gateway.wire.kube.podstate import is_available, is_deleting, is_ready
from gateway.wire.kube.revisions import REVISION_LABEL

_COUNTS = (
    "currentNumberScheduled",
    "numberMisscheduled",
    "desiredNumberScheduled",
    "numberReady",
    "observedGeneration",
    "updatedNumberScheduled",
    "numberAvailable",
    "numberUnavailable",
)
_ALWAYS = frozenset(_COUNTS[:4])
"""These are written also when they are 0."""
_NOWHERE = Fit(runs=False, stays=False)


@dataclass(slots=True)
class DaemonPlan:
    """Shape: `create` are nodes that get a Pod; `failed` and `succeeded` are among `delete`; `held` are
    nodes whose failed Pod has to wait before it is replaced.
    """

    create: list[str] = field(default_factory=list)
    delete: list[JsonObject] = field(default_factory=list)
    failed: list[JsonObject] = field(default_factory=list)
    succeeded: list[JsonObject] = field(default_factory=list)
    held: list[str] = field(default_factory=list)

    @property
    def is_empty(self) -> bool:
        return not self.create and not self.delete


# --- every node has its Pod -----------------------------------------------------------------------


def plan_nodes(view: DaemonView, is_held: Callable[[str], bool]) -> DaemonPlan:
    """Give each node that fits its Pod, and take from the others what may not stay.

    Shape:  `is_held` says of a node that its Pods fail too often: the failed one stays for now.
    """
    plan = DaemonPlan()
    for node, fit in view.nodes.items():
        pods = view.pods.get(node)
        if pods is None:
            if fit.runs:
                plan.create.append(node)
        elif fit.stays:
            _tend(plan, view, node, _living(plan, node, pods, is_held), fit)
        else:
            plan.delete += [pod for pod in pods if not is_deleting(pod)]
    for node, pods in view.pods.items():
        if node not in view.nodes:  # no scheduler will ever bind these
            waiting = (pod for pod in pods if not part(pod, "spec").get("nodeName"))
            plan.delete += [pod for pod in waiting if not is_deleting(pod)]
    return plan


def _living(
    plan: DaemonPlan, node: str, pods: Sequence[JsonObject], is_held: Callable[[str], bool]
) -> list[JsonObject]:
    """Return the Pods that run or will run; those that ended go."""
    found: list[JsonObject] = []
    for pod in pods:
        phase = part(pod, "status").get("phase")
        if is_deleting(pod):
            continue
        if phase == "Failed" and is_held(node):
            plan.held.append(node)
        elif phase in ("Failed", "Succeeded"):
            (plan.failed if phase == "Failed" else plan.succeeded).append(pod)
            plan.delete.append(pod)
        else:
            found.append(pod)
    return found


def _tend(
    plan: DaemonPlan, view: DaemonView, node: str, living: list[JsonObject], fit: Fit
) -> None:
    if not view.surges:
        plan.delete += living[1:]
    elif not living:
        if fit.runs:
            plan.create.append(node)
    elif len(living) > 1:
        plan.delete += _pushed_out(view, living)


def _pushed_out(view: DaemonView, living: list[JsonObject]) -> list[JsonObject]:
    """Of several Pods the oldest old and the oldest new one stay, until one of them will do."""
    fresh = [pod for pod in living if _hash(pod) == view.short]
    stale = [pod for pod in living if _hash(pod) != view.short]
    gone = [pod for pod in living if pod not in (*fresh[:1], *stale[:1])]
    if fresh and stale and (not is_ready(stale[0]) or _serves(view, fresh[0])):
        gone.append(stale[0])
    return gone


def _hash(pod: JsonObject) -> str:
    return text(part(pod, "metadata", "labels").get(REVISION_LABEL))


def _serves(view: DaemonView, pod: JsonObject) -> bool:
    return is_available(pod, view.min_ready_seconds, view.now)


# --- rolling update -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Pair:
    """The old and the new Pod of a node; not `plain` where there are more."""

    node: str
    fresh: JsonObject | None
    stale: JsonObject | None
    plain: bool


def plan_update(view: DaemonView) -> DaemonPlan:
    """Replace old Pods within what the strategy allows; every node is tended to by then."""
    nodes = dict.fromkeys((*view.pods, *(name for name, fit in view.nodes.items() if fit.runs)))
    pairs = [_pair(view, node) for node in nodes]
    wanted = view.wanted
    surge, unavailable = view.max_surge(wanted), view.max_unavailable(wanted)
    if surge:
        return _surge(view, pairs, surge, wanted)
    return _replace(view, pairs, unavailable or 1)


def _pair(view: DaemonView, node: str) -> _Pair:
    living = [pod for pod in view.pods.get(node, ()) if not is_deleting(pod)]
    fresh = [pod for pod in living if view.is_updated(pod)]
    stale = [pod for pod in living if not view.is_updated(pod)]
    plain = len(fresh) <= 1 and len(stale) <= 1
    return _Pair(node, fresh[0] if fresh else None, stale[0] if stale else None, plain)


def _replace(view: DaemonView, pairs: Sequence[_Pair], limit: int) -> DaemonPlan:
    """Old Pods that do not serve go at once, of the others as many as may be missing."""
    broken: list[JsonObject] = []
    candidates: list[JsonObject] = []
    missing = 0
    for pair in pairs:
        if not pair.plain or (pair.fresh is None) is (pair.stale is None):
            missing += 1
        elif pair.fresh is not None:
            missing += not _serves(view, pair.fresh)
        elif pair.stale is not None and not _serves(view, pair.stale):
            broken.append(pair.stale)
            missing += 1
        elif pair.stale is not None:
            candidates.append(pair.stale)
    return DaemonPlan(delete=broken + candidates[: max(limit - missing, 0)])


def _surge(view: DaemonView, pairs: Sequence[_Pair], limit: int, wanted: int) -> DaemonPlan:
    """New Pods beside old ones; an old one goes when the new one serves."""
    plan = DaemonPlan()
    candidates: list[str] = []
    leaving: list[JsonObject] = []
    surging = serving = 0
    for pair in pairs:
        if not pair.plain:
            surging += 1
            continue
        first = pair.stale if pair.stale is not None else pair.fresh
        is_served = first is not None and _serves(view, first)
        serving += is_served
        if pair.stale is None:
            continue
        if pair.fresh is not None:
            if _serves(view, pair.fresh):
                plan.delete.append(pair.stale)
            else:
                surging += 1
        elif not view.nodes.get(pair.node, _NOWHERE).runs:
            (leaving if is_served else plan.delete).append(pair.stale)
        elif is_served:
            candidates.append(pair.node)
        else:
            plan.create.append(pair.node)
    plan.delete += leaving[: max(serving - wanted, 0)]
    plan.create += candidates[: max(limit - surging, 0)]
    return plan


# --- status ---------------------------------------------------------------------------------------


def daemon_status(view: DaemonView, generation: int, collisions: int | None) -> JsonObject:
    """Return the status of a DaemonSet as it is written; counts of 0 are left out where they may be."""
    counts = dict.fromkeys(_COUNTS, 0)
    counts["observedGeneration"] = generation
    min_ready = view.min_ready_seconds
    for node, fit in view.nodes.items():
        pods = view.pods.get(node, ())
        counts["desiredNumberScheduled"] += fit.runs
        if pods:
            counts["currentNumberScheduled" if fit.runs else "numberMisscheduled"] += 1
        if pods and fit.runs:
            serves = is_ready(pods[0])
            counts["numberReady"] += serves
            counts["numberAvailable"] += serves and (
                min_ready <= 0 or is_available(pods[0], min_ready, view.now)
            )
            counts["updatedNumberScheduled"] += view.is_updated(pods[0])
    counts["numberUnavailable"] = counts["desiredNumberScheduled"] - counts["numberAvailable"]
    status: JsonObject = {key: value for key, value in counts.items() if value or key in _ALWAYS}
    if collisions is not None:
        status["collisionCount"] = collisions
    kept = part(view.daemon_set, "status").get("conditions")
    return status | ({"conditions": kept} if kept else {})


def is_same_status(status: JsonObject, other: JsonObject) -> bool:
    """True when two statuses show the same."""
    return status.get("collisionCount") == other.get("collisionCount") and all(
        whole(status.get(key)) == whole(other.get(key)) for key in _COUNTS
    )
