"""What to do about the members of a StatefulSet: in order, one after the other, unless it says otherwise.

Source: Kubernetes "StatefulSets": deployment and scaling guarantees, pod management policies, update
strategies, partitions; API `apps/v1` StatefulSetStatus.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from gateway.model.json import JsonObject
from gateway.wire.kube.parts import labels_of, part, text, whole
from gateway.wire.kube.podstate import is_available, is_deleting, is_ended, is_ready
from gateway.wire.kube.revisions import REVISION_LABEL, restored
from gateway.wire.kube.statefulsets import member_pod, name_of, ordinal_of, ordinals

ROLLING, ON_DELETE, PARALLEL = "RollingUpdate", "OnDelete", "Parallel"
_COUNTS = (
    "replicas",
    "readyReplicas",
    "currentReplicas",
    "updatedReplicas",
    "availableReplicas",
    "observedGeneration",
)
MAX_BIRTHS = 500
"""New Pods of one look: a set side by side may want more than fit into memory. The next look goes on."""
_ALWAYS = frozenset(("replicas", "availableReplicas"))
"""These are written also when they are 0."""


class Deed(enum.Enum):
    """What is done about one member."""

    CREATE = "create"
    CLAIMS = "claims"
    """Make the claims of a Pod that waits."""
    REPAIR = "repair"
    """Mend its name label, its volumes, the owners of its claims."""
    RELEASE = "release"
    """Mend the owners of the claims of a Pod that is to go."""
    DELETE = "delete"


@dataclass(frozen=True, slots=True)
class Step:
    """One thing to do; the Pod of a CREATE is a new one."""

    deed: Deed
    pod: JsonObject


@dataclass(slots=True)
class StatefulPlan:
    """Shape: `stages` are done one after the other; within one, in order (or side by side, `in_order`
    false).
    """

    stages: list[list[Step]] = field(default_factory=list)
    in_order: bool = True


@dataclass(frozen=True, slots=True)
class StatefulView:
    """What is known when a StatefulSet is looked at.

    Shape:  `pods` belong to it; `current` and `update` are its revisions: what it has, what it is to have.
    Units:  `now` in seconds since the epoch.
    """

    stateful_set: JsonObject
    current: JsonObject
    update: JsonObject
    pods: Sequence[JsonObject]
    now: float

    @property
    def spec(self) -> JsonObject:
        return part(self.stateful_set, "spec")

    @property
    def in_order(self) -> bool:
        return self.spec.get("podManagementPolicy") != PARALLEL

    @property
    def strategy(self) -> str:
        return text(part(self.spec, "updateStrategy").get("type")) or ROLLING

    @property
    def partition(self) -> int:
        """How many of the first ordinals stay as they are."""
        return whole(part(self.spec, "updateStrategy", "rollingUpdate").get("partition"))

    def members(self) -> dict[int, JsonObject]:
        """Return the Pods by ordinal, of those that the set wants."""
        wanted = ordinals(self.stateful_set)
        return {ordinal_of(pod): pod for pod in self.pods if ordinal_of(pod) in wanted}

    def condemned(self) -> list[JsonObject]:
        """Return the Pods beyond what the set wants, the highest ordinal first."""
        wanted = ordinals(self.stateful_set)
        found = [pod for pod in self.pods if ordinal_of(pod) >= 0 and ordinal_of(pod) not in wanted]
        return sorted(found, key=ordinal_of, reverse=True)

    def serves(self, pod: JsonObject) -> bool:
        return is_available(pod, whole(self.spec.get("minReadySeconds")), self.now)

    def new_pod(self, ordinal: int) -> JsonObject:
        """Return the Pod of an ordinal that has none, by the revision that it is to have."""
        revision = self.current if self._is_held(ordinal) else self.update
        return member_pod(restored(self.stateful_set, revision), ordinal, name_of(revision))

    def _is_held(self, ordinal: int) -> bool:
        """True for an ordinal that keeps the current revision."""
        place = ordinal - ordinals(self.stateful_set).start
        if part(self.spec, "updateStrategy").get("rollingUpdate") is not None:
            return place < self.partition
        kept = whole(part(self.stateful_set, "status").get("currentReplicas"))
        return self.strategy == ROLLING and place < kept


def revision_of(pod: JsonObject) -> str:
    """Return the name of the revision that a Pod was made by."""
    return labels_of(pod).get(REVISION_LABEL, "")


def is_running(pod: JsonObject) -> bool:
    """True for a Pod that runs and is ready."""
    return part(pod, "status").get("phase") == "Running" and is_ready(pod)


# --- the plan -------------------------------------------------------------------------------------


def plan(view: StatefulView) -> StatefulPlan:
    """Say what to do next. What comes after something that has to be waited for is not planned yet."""
    found = StatefulPlan(in_order=view.in_order)
    if is_deleting(view.stateful_set):
        return found
    steps, is_waiting = _plan_members(view)
    found.stages.append(steps)
    if is_waiting:
        return found
    condemned = view.condemned()
    found.stages.append([Step(Deed.RELEASE, pod) for pod in condemned])
    steps, is_waiting = _plan_condemned(view, condemned)
    found.stages.append(steps)
    if is_waiting or view.strategy == ON_DELETE:
        return found
    outdated = _outdated(view)
    if outdated is not None:
        found.stages.append([Step(Deed.DELETE, outdated)])
    return found


def _plan_members(view: StatefulView) -> tuple[list[Step], bool]:
    """Bring every member to life. True when the rest has to wait."""
    steps: list[Step] = []
    members, births = view.members(), 0
    for ordinal in ordinals(view.stateful_set):
        pod = members.get(ordinal)
        births += pod is None
        is_blocked = _plan_member(view, steps, ordinal, pod)
        if is_blocked and (view.in_order or births >= MAX_BIRTHS):
            return steps, True
    return steps, False


def _plan_member(
    view: StatefulView, steps: list[Step], ordinal: int, pod: JsonObject | None
) -> bool:
    if pod is None:
        steps.append(Step(Deed.CREATE, view.new_pod(ordinal)))
        return True
    if is_ended(pod):
        if not is_deleting(pod):
            steps.append(Step(Deed.DELETE, pod))
        return True
    if part(pod, "status").get("phase") == "Pending":
        steps.append(Step(Deed.CLAIMS, pod))
    is_blocked = is_deleting(pod) or not is_running(pod) or not view.serves(pod)
    if not (is_blocked and view.in_order):
        steps.append(Step(Deed.REPAIR, pod))
    return is_blocked


def _plan_condemned(view: StatefulView, condemned: Sequence[JsonObject]) -> tuple[list[Step], bool]:
    """Take away what is too much, the highest ordinal first. True when the rest has to wait."""
    if not view.in_order:
        return [Step(Deed.DELETE, pod) for pod in condemned if not is_deleting(pod)], False
    if not condemned:
        return [], False
    last = condemned[0]
    is_sound = is_running(last) and view.serves(last)
    if is_deleting(last) or not (is_sound or last is _first_missing(view, condemned)):
        return [], True
    return [Step(Deed.DELETE, last)], True


def _first_missing(view: StatefulView, condemned: Sequence[JsonObject]) -> JsonObject | None:
    """Return the first member that does not serve, those that are to go coming after the others."""
    members = view.members()
    ordered = [members.get(ordinal) for ordinal in ordinals(view.stateful_set)]
    for pod in (*ordered, *reversed(condemned)):
        if pod is None or is_deleting(pod) or not view.serves(pod):
            return pod
    return None


def _outdated(view: StatefulView) -> JsonObject | None:
    """Return the next member to replace by the update revision: the highest ordinal, one at a time."""
    members = view.members()
    wanted = ordinals(view.stateful_set)
    for ordinal in reversed(wanted[view.partition :]):
        pod = members.get(ordinal)
        if pod is None:  # just made by the update revision
            return None
        if revision_of(pod) != name_of(view.update) and not is_deleting(pod):
            return pod
        if is_deleting(pod) or not view.serves(pod):
            return None
    return None


# --- status ---------------------------------------------------------------------------------------


def stateful_status(view: StatefulView, collisions: int) -> JsonObject:
    """Return the status of a StatefulSet as it is written; counts of 0 are left out where they may be."""
    status = part(view.stateful_set, "status")
    counts = _counts(view, view.pods)
    counts["observedGeneration"] = whole(part(view.stateful_set, "metadata").get("generation"))
    current, update = name_of(view.current), name_of(view.update)
    wanted = len(ordinals(view.stateful_set))
    if view.strategy == ROLLING and all(
        counts[key] == wanted for key in ("updatedReplicas", "readyReplicas", "replicas")
    ):
        counts["currentReplicas"], current = counts["updatedReplicas"], update
    found: JsonObject = {key: value for key, value in counts.items() if value or key in _ALWAYS}
    found |= {"currentRevision": current, "updateRevision": update, "collisionCount": collisions}
    kept = status.get("conditions")
    return found | ({"conditions": kept} if kept else {})


def _counts(view: StatefulView, pods: Iterable[JsonObject]) -> dict[str, int]:
    counts = dict.fromkeys(_COUNTS, 0)
    for pod in pods:
        counts["replicas"] += 1
        if is_running(pod):
            counts["readyReplicas"] += 1
            counts["availableReplicas"] += view.serves(pod)
        if not is_deleting(pod):
            counts["currentReplicas"] += revision_of(pod) == name_of(view.current)
            counts["updatedReplicas"] += revision_of(pod) == name_of(view.update)
    return counts


def is_news(status: JsonObject, stored: JsonObject) -> bool:
    """True when a status is to be written over the stored one."""
    return any(whole(status.get(key)) != whole(stored.get(key)) for key in _COUNTS) or any(
        status.get(key) != stored.get(key)
        for key in ("currentRevision", "updateRevision", "collisionCount")
    )
