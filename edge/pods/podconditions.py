"""The conditions of a Pod that its node answers for. Pure.

Source: Kubernetes, "Pod Lifecycle"; behaviour of kubelet 1.36.
"""

from __future__ import annotations

from collections.abc import Sequence

from edge.pods.containerstatuses import Facts, could_restart_all, is_restarting_all
from edge.pods.podplan import sandbox_needed
from edge.pods.podspec import Container, Pod
from gateway.model.json import Json, JsonObject
from gateway.wire.kube.clock import rfc3339
from gateway.wire.kube.parts import part, rows, text, whole

STARTABLE, INITIALIZED = "PodReadyToStartContainers", "Initialized"
READY, CONTAINERS_READY, SCHEDULED = "Ready", "ContainersReady", "PodScheduled"
DISRUPTION = "DisruptionTarget"
RESTARTING_ALL = "AllContainersRestarting"
RESIZE_PENDING = "PodResizePending"
OWN = frozenset({STARTABLE, INITIALIZED, READY, CONTAINERS_READY, SCHEDULED, RESTARTING_ALL,
                 "PodResizeInProgress", RESIZE_PENDING})  # fmt: skip
"""Types that only the node writes; all others are kept as the API has them."""
SUCCEEDED, FAILED = "Succeeded", "Failed"
_ENDED = {SUCCEEDED: "PodCompleted", FAILED: "PodFailed"}


def conditions(
    pod: Pod, facts: Facts, old: JsonObject, status: JsonObject, phase: str
) -> list[Json]:
    """Return all conditions: those of others as they are in the API, then the node's.

    Shape:  `old` is the last status (times stay while a condition does); `status` has the containers.
    """
    foreign = [row for row in rows(part(pod.raw, "status").get("conditions")) if not _is_own(row)]
    target = _disruption(facts, old, phase)
    if target is not None:
        foreign = [row for row in foreign if row.get("type") != DISRUPTION] + [target]
    every = [*rows(status.get("initContainerStatuses")), *rows(status.get("containerStatuses"))]
    ready = _containers_ready(pod, every, phase)
    found = [
        _condition(STARTABLE, is_true=not sandbox_needed(pod, facts.observed)[0]),
        _initialized(pod, every, old, phase),
        _pod_ready(pod, [*foreign], ready),
        ready,
        _condition(SCHEDULED, is_true=True),
    ]
    if could_restart_all(pod):
        found.append(_restarting_all(pod, facts, old, phase))
    if facts.resize is not None and phase not in _ENDED:
        why = facts.resize
        found.append(
            _condition(RESIZE_PENDING, is_true=True, reason=why.reason, message=why.message)
        )
    generation = whole(part(pod.raw, "metadata").get("generation"))
    return [*foreign, *(_timed(row, old, facts.now, generation) for row in found)]


def _is_own(row: JsonObject) -> bool:
    return text(row.get("type")) in OWN


def _condition(kind: str, *, is_true: bool, reason: str = "", message: str = "") -> JsonObject:
    row: JsonObject = {"type": kind, "status": "True" if is_true else "False"}
    row |= {"reason": reason} if reason else {}
    return row | ({"message": message} if message else {})


def _timed(row: JsonObject, old: JsonObject, now: float, generation: int) -> JsonObject:
    """Say since when: since the last change of the status itself."""
    before = find(rows(old.get("conditions")), text(row.get("type")))
    since = rfc3339(now)
    if before is not None and before.get("status") == row["status"]:
        since = text(before.get("lastTransitionTime")) or since
    timed: JsonObject = {**row, "lastProbeTime": None, "lastTransitionTime": since}
    return timed | ({"observedGeneration": generation} if generation else {})


def find(found: Sequence[JsonObject], kind: str) -> JsonObject | None:
    """Return the condition of a type."""
    return next((row for row in found if row.get("type") == kind), None)


def _restarting_all(pod: Pod, facts: Facts, old: JsonObject, phase: str) -> JsonObject:
    if phase in _ENDED:
        return _condition(RESTARTING_ALL, is_true=False, reason=_ENDED[phase])
    is_on = bool(facts.observed.containers) and is_restarting_all(pod, facts, old)
    if not is_on:
        return _condition(RESTARTING_ALL, is_true=False)
    return _condition(
        RESTARTING_ALL,
        is_true=True,
        reason="RestartAllContainersStarted",
        message="container exited with restart policy rule",
    )


def _disruption(facts: Facts, old: JsonObject, phase: str) -> JsonObject | None:
    """Say that this node ended the Pod; told with the end, not before."""
    kept = find(rows(old.get("conditions")), DISRUPTION)
    if facts.stop is None or not facts.stop.disruption or phase not in _ENDED:
        return kept
    row = _condition(
        DISRUPTION,
        is_true=True,
        reason="TerminationByKubelet",
        message=facts.stop.disruption,
    )
    return _timed(row, old, facts.now, 0)


# --- containers -------------------------------------------------------------------------------


def _containers_ready(pod: Pod, every: list[JsonObject], phase: str) -> JsonObject:
    by_name = {text(row.get("name")): row for row in every}
    lasting = [each for each in pod.spec.init_containers if each.is_sidecar]
    names = [each.name for each in [*lasting, *pod.spec.containers]]
    unknown = [name for name in names if name not in by_name]
    unready = [name for name in names if name in by_name and not by_name[name].get("ready")]
    if phase == FAILED or (phase == SUCCEEDED and not unknown):
        return _condition(CONTAINERS_READY, is_true=False, reason=_ENDED[phase])
    message = _told(("unknown", unknown), ("unready", unready))
    if message:
        return _condition(
            CONTAINERS_READY, is_true=False, reason="ContainersNotReady", message=message
        )
    return _condition(CONTAINERS_READY, is_true=True)


def _told(*lists: tuple[str, list[str]]) -> str:
    """`containers with unready status: [a b]`, in Go's form."""
    told = [f"containers with {what} status: [{' '.join(names)}]" for what, names in lists if names]
    return ", ".join(told)


def _pod_ready(pod: Pod, foreign: list[JsonObject], containers: JsonObject) -> JsonObject:
    if containers["status"] != "True":
        return {**containers, "type": READY}
    faults: list[str] = []
    for gate in pod.spec.readiness_gates:
        found = find(foreign, gate.condition_type)
        name = f'"{gate.condition_type}"'
        if found is None:
            faults.append(f"corresponding condition of pod readiness gate {name} does not exist.")
        elif found.get("status") != "True":
            told = text(found.get("status"))
            faults.append(f'the status of pod readiness gate {name} is not "True", but {told}')
    if faults:
        return _condition(
            READY, is_true=False, reason="ReadinessGatesNotReady", message=", ".join(faults)
        )
    return _condition(READY, is_true=True)


def _initialized(pod: Pod, every: list[JsonObject], old: JsonObject, phase: str) -> JsonObject:
    by_name = {text(row.get("name")): row for row in every}
    init = pod.spec.init_containers
    unknown = [each.name for each in init if each.name not in by_name]
    open_ = [e.name for e in init if e.name in by_name and not _is_through(e, by_name[e.name])]
    if phase == SUCCEEDED and not unknown:
        return _condition(INITIALIZED, is_true=True, reason="PodCompleted")
    message = _told(("unknown", unknown), ("incomplete", open_))
    if not message or has_run(pod, every) or _was_initialized(old):
        return _condition(INITIALIZED, is_true=True)
    return _condition(
        INITIALIZED, is_true=False, reason="ContainersNotInitialized", message=message
    )


def _is_through(container: Container, row: JsonObject) -> bool:
    return row.get("started" if container.is_sidecar else "ready") is True


def _was_initialized(old: JsonObject) -> bool:
    before = find(rows(old.get("conditions")), INITIALIZED)
    return before is not None and before.get("status") == "True"


def has_run(pod: Pod, every: list[JsonObject]) -> bool:
    """True when a plain container runs or has ended: nothing is initialized again."""
    plain = {each.name for each in pod.spec.containers}
    return any(
        row.get("name") in plain and {"running", "terminated"} & set(part(row, "state"))
        for row in every
    )
