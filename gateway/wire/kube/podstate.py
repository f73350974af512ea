"""What the state of a Pod means to those who own it, and which one they give up first.

Source: Kubernetes "Pod Lifecycle"; "ReplicaSet", how Pods to delete are chosen.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cmp_to_key
from math import log2

from gateway.model.json import JsonObject
from gateway.wire.kube.clock import parse_rfc3339
from gateway.wire.kube.conditions import condition_of
from gateway.wire.kube.parts import annotations_of, part, rows, text, whole

ENDED = ("Succeeded", "Failed")
DELETION_COST = "controller.kubernetes.io/pod-deletion-cost"
_COST = re.compile(r"-?(0|[1-9]\d{0,9})")
_MAX_COST = 2**31
_PHASES = {"Pending": 0, "Unknown": 1, "Running": 2}


def is_ended(pod: JsonObject) -> bool:
    """True when all containers stopped for good."""
    return part(pod, "status").get("phase") in ENDED


def is_deleting(item: JsonObject) -> bool:
    """True for an object that is being deleted."""
    return bool(part(item, "metadata").get("deletionTimestamp"))


def is_active(pod: JsonObject) -> bool:
    """True for a Pod that runs or will run."""
    return not is_ended(pod) and not is_deleting(pod)


def is_terminating(pod: JsonObject) -> bool:
    """True for a Pod that is being deleted and has not ended."""
    return is_deleting(pod) and not is_ended(pod)


def is_ready(pod: JsonObject) -> bool:
    """True for a Pod that serves."""
    found = condition_of(pod, "Ready")
    return found is not None and found.get("status") == "True"


def ready_since(pod: JsonObject) -> float | None:
    """Since when a Pod serves; None when it does not, or does not say."""
    found = condition_of(pod, "Ready")
    if found is None or found.get("status") != "True":
        return None
    return parse_rfc3339(found.get("lastTransitionTime"))


def is_available(pod: JsonObject, min_ready_seconds: int, now: float) -> bool:
    """True for a Pod that has served for so long."""
    if not is_ready(pod):
        return False
    since = ready_since(pod)
    return min_ready_seconds <= 0 or (since is not None and since + min_ready_seconds <= now)


def seconds_to_available(
    pods: Iterable[JsonObject], min_ready_seconds: int, now: float
) -> float | None:
    """After how long the next of these becomes available by just going on; None when none will."""
    if min_ready_seconds <= 0:
        return None
    since = [moment for pod in pods if (moment := ready_since(pod)) is not None]
    left = [moment + min_ready_seconds - now for moment in since]
    return min((seconds for seconds in left if seconds > 0), default=None)


def deletion_order(
    pods: Sequence[JsonObject], related: Iterable[JsonObject], now: float
) -> list[JsonObject]:
    """Sort Pods: what goes first comes first.

    Shape:  `related` are the Pods of all that serve the same purpose (each ReplicaSet of a Deployment):
            where many of them share a node, one of those goes before one that is alone.
    """
    crowd = Counter(_node(pod) for pod in related if is_active(pod))

    def compared(one: JsonObject, other: JsonObject) -> int:
        return _compare(one, other, crowd, now)

    return sorted(pods, key=cmp_to_key(compared))


def _compare(one: JsonObject, other: JsonObject, crowd: Counter[str], now: float) -> int:
    for difference in (
        _compare_stage(one, other),
        deletion_cost(one) - deletion_cost(other),
        crowd[_node(other)] - crowd[_node(one)],
        _compare_ready(one, other, now),
        _compare_restarts(one, other),
    ):
        if difference:
            return difference
    return _compare_time(_created(one), _created(other), _uids(one, other), now)


def _compare_stage(one: JsonObject, other: JsonObject) -> int:
    """Without a node first, then what has not started, then what does not serve."""
    return (
        bool(_node(one)) - bool(_node(other))
        or _phase(one) - _phase(other)
        or is_ready(one) - is_ready(other)
    )


def _compare_ready(one: JsonObject, other: JsonObject, now: float) -> int:
    if not is_ready(one) or not is_ready(other):
        return 0
    return _compare_time(ready_since(one), ready_since(other), _uids(one, other), now)


def _compare_time(one: float | None, other: float | None, uids: tuple[str, str], now: float) -> int:
    """What happened last first, on a logarithmic scale: among those of about one age chance decides."""
    if one == other:
        return 0
    if one is None or other is None:
        return -1 if one is None else 1
    scaled = _magnitude(now - one) - _magnitude(now - other)
    return scaled or (-1 if uids[0] < uids[1] else 1)


def _magnitude(seconds: float) -> int:
    return int(log2(seconds * 1e9)) if seconds > 0 else -1


def _compare_restarts(one: JsonObject, other: JsonObject) -> int:
    mine, theirs = _restarts(one), _restarts(other)
    return (mine < theirs) - (mine > theirs)


def _restarts(pod: JsonObject) -> tuple[int, int]:
    """The most restarts of a container, and of a sidecar."""
    status = part(pod, "status")
    sidecars = {
        text(entry.get("name"))
        for entry in rows(part(pod, "spec").get("initContainers"))
        if entry.get("restartPolicy") == "Always"
    }
    plain = (whole(entry.get("restartCount")) for entry in rows(status.get("containerStatuses")))
    beside = (
        whole(entry.get("restartCount"))
        for entry in rows(status.get("initContainerStatuses"))
        if entry.get("name") in sidecars
    )
    return max(plain, default=0), max(beside, default=0)


def deletion_cost(pod: JsonObject) -> int:
    """How much a Pod minds being deleted, as its annotation says; 0 for what is no 32-bit number."""
    said = annotations_of(pod).get(DELETION_COST, "")
    cost = int(said) if _COST.fullmatch(said) else 0
    return cost if -_MAX_COST <= cost < _MAX_COST else 0


def _node(pod: JsonObject) -> str:
    return text(part(pod, "spec").get("nodeName"))


def _phase(pod: JsonObject) -> int:
    return _PHASES.get(text(part(pod, "status").get("phase")), 0)


def _created(pod: JsonObject) -> float | None:
    return parse_rfc3339(part(pod, "metadata").get("creationTimestamp"))


def _uids(one: JsonObject, other: JsonObject) -> tuple[str, str]:
    return text(part(one, "metadata").get("uid")), text(part(other, "metadata").get("uid"))
