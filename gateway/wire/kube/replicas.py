"""ReplicaSets and ReplicationControllers: how many Pods are missing, and the status that shows what is there.

Source: Kubernetes "ReplicaSet"; API `apps/v1` ReplicaSetStatus, `v1` ReplicationControllerStatus.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gateway.model.json import Json, JsonObject
from gateway.wire.kube.conditions import as_json, find, without
from gateway.wire.kube.parts import labels_of, part, rows, whole
from gateway.wire.kube.podstate import is_available, is_ready
from gateway.wire.kube.selectors import LabelSelector, read_selector

REPLICA_FAILURE = "ReplicaFailure"
BURST = 500
"""At most so many Pods are created or deleted in one go."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why the number of Pods is not what it should be: a reason and a text."""

    reason: str
    message: str


def wanted(owner: JsonObject) -> int:
    """Return how many Pods there should be."""
    return whole(part(owner, "spec").get("replicas"), 1)


def min_ready_seconds(owner: JsonObject) -> int:
    """Return how long a Pod must have served to count as available."""
    return whole(part(owner, "spec").get("minReadySeconds"))


def selector_of(owner: JsonObject) -> LabelSelector | None:
    """Return what an owner selects, also where it is a plain table of labels; None when it is everything."""
    said = part(owner, "spec", "selector")
    is_plain = not said.keys() & {"matchLabels", "matchExpressions"}
    found = read_selector({"matchLabels": dict(said)} if is_plain else said)
    return found if found.terms else None


def missing(owner: JsonObject, active: int) -> int:
    """Return how many Pods to create; negative: to delete. Never more than `BURST`."""
    return max(-BURST, min(BURST, wanted(owner) - active))


def replica_status(
    owner: JsonObject,
    active: Sequence[JsonObject],
    terminating: int | None,
    failure: Failure | None,
    *,
    now: str,
    seconds: float,
) -> JsonObject:
    """Return the status of a ReplicaSet.

    Shape:  `terminating` is None where the kind does not count what is going.
    Units:  `seconds` is `now` since the epoch.
    """
    least = min_ready_seconds(owner)
    labels = labels_of(part(owner, "spec", "template"))
    counts: dict[str, int] = {
        "fullyLabeledReplicas": sum(_carries(pod, labels) for pod in active),
        "readyReplicas": sum(is_ready(pod) for pod in active),
        "availableReplicas": sum(is_available(pod, least, seconds) for pod in active),
        "observedGeneration": whole(part(owner, "metadata").get("generation")),
    }
    status: JsonObject = {"replicas": len(active)}
    status.update({key: count for key, count in counts.items() if count})
    if terminating is not None:
        status["terminatingReplicas"] = terminating
    conditions = _conditions(owner, failure, now)
    if conditions:
        status["conditions"] = conditions
    return status


def _carries(pod: JsonObject, labels: Mapping[str, str]) -> bool:
    return labels.items() <= labels_of(pod).items()


def _conditions(owner: JsonObject, failure: Failure | None, now: str) -> list[Json]:
    """A failure is told from its first time on, until the numbers are right."""
    held = rows(part(owner, "status").get("conditions"))
    known = find(held, REPLICA_FAILURE)
    if failure is None:
        return as_json(without(held, REPLICA_FAILURE))
    if known is not None:
        return as_json(held)
    fresh: JsonObject = {
        "type": REPLICA_FAILURE,
        "status": "True",
        "lastTransitionTime": now,
        "reason": failure.reason,
        "message": failure.message,
    }
    return as_json([*held, fresh])
