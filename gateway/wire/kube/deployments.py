"""Deployments: which ReplicaSet is the current one, what it notes, and the status that shows the rollout.

Source: Kubernetes "Deployment": revision history, progress deadline, conditions; API `apps/v1`
DeploymentStatus.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from gateway.model.json import Json, JsonObject
from gateway.wire.kube.clock import parse_rfc3339
from gateway.wire.kube.conditions import as_json, find, without
from gateway.wire.kube.names import MAX_SUBDOMAIN
from gateway.wire.kube.parts import annotations_of, part, rows, text, whole
from gateway.wire.kube.podstate import is_deleting
from gateway.wire.kube.replicas import REPLICA_FAILURE, wanted
from gateway.wire.kube.rollouts import (
    DESIRED,
    MOST,
    age_order,
    available,
    first_size,
    limits_of,
    size_annotations,
)
from gateway.wire.kube.templates import template_hash, without_label

HASH_LABEL = "pod-template-hash"
REVISION = "deployment.kubernetes.io/revision"
HISTORY = "deployment.kubernetes.io/revision-history"
ROLLBACK = "deprecated.deployment.rollback.rollback.to"
LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
NOT_COPIED = frozenset((LAST_APPLIED, REVISION, HISTORY, DESIRED, MOST, ROLLBACK))
MAX_HISTORY = 2_000
"""Characters of the list of former revisions; the oldest are left out."""
ENDLESS = 2**31 - 1
"""A deadline or a limit that stands for none."""

PROGRESSING, AVAILABLE = "Progressing", "Available"
PAUSED, RESUMED = "DeploymentPaused", "DeploymentResumed"
CREATED, FOUND, CREATE_ERROR = (
    "NewReplicaSetCreated",
    "FoundNewReplicaSet",
    "ReplicaSetCreateError",
)
UPDATED, COMPLETE, TIMED_OUT = (
    "ReplicaSetUpdated",
    "NewReplicaSetAvailable",
    "ProgressDeadlineExceeded",
)


# --- sets -----------------------------------------------------------------------------------------


def current_set(deployment: JsonObject, sets: Iterable[JsonObject]) -> JsonObject | None:
    """Return the set that was made by the template as it is now; the oldest one of several."""
    template = part(deployment, "spec", "template")
    for item in sorted(sets, key=age_order):
        if same_template(template, part(item, "spec", "template")):
            return item
    return None


def same_template(one: JsonObject, other: JsonObject) -> bool:
    """True when two templates differ in the label that names them at most."""
    first, second = without_label(one, HASH_LABEL), without_label(other, HASH_LABEL)
    return first == second or _pruned(first) == _pruned(second)


def _pruned(value: Json) -> Json:
    """A value without what is empty: an empty list and none are the same."""
    if isinstance(value, dict):
        held = {key: _pruned(entry) for key, entry in value.items()}
        return {key: entry for key, entry in held.items() if entry not in (None, [], {})}
    return [_pruned(entry) for entry in value] if isinstance(value, list) else value


def new_set(
    deployment: JsonObject, reference: JsonObject, olds: Sequence[JsonObject]
) -> JsonObject:
    """Return the ReplicaSet of a template that has none, named after the template."""
    template = part(deployment, "spec", "template")
    collisions = part(deployment, "status").get("collisionCount")
    name = template_hash(template, collisions if isinstance(collisions, int) else None)
    labels: dict[str, Json] = {**part(template, "metadata", "labels"), HASH_LABEL: name}
    selector = part(deployment, "spec", "selector")
    selected: dict[str, Json] = {**part(selector, "matchLabels"), HASH_LABEL: name}
    metadata: JsonObject = {
        "name": _set_name(text(part(deployment, "metadata").get("name")), name),
        "namespace": part(deployment, "metadata").get("namespace"),
        "labels": labels,
        "ownerReferences": [reference],
    }
    spec: JsonObject = {
        "replicas": first_size(deployment, olds),
        "selector": {**selector, "matchLabels": selected},
        "template": {
            **template,
            "metadata": {**part(template, "metadata"), "labels": dict(labels)},
        },
    }
    if part(deployment, "spec").get("minReadySeconds"):
        spec["minReadySeconds"] = part(deployment, "spec")["minReadySeconds"]
    fresh: JsonObject = {
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "metadata": metadata,
        "spec": spec,
    }
    noted = noted_set(deployment, fresh, next_revision(olds))
    sizes: dict[str, Json] = {**annotations_of(noted), **size_annotations(deployment)}
    return {**noted, "metadata": {**metadata, "annotations": sizes}}


def _set_name(deployment: str, name: str) -> str:
    return f"{deployment[: MAX_SUBDOMAIN - 1 - len(name)]}-{name}"


def next_revision(olds: Iterable[JsonObject]) -> int:
    """Return the revision of a set that comes after these."""
    return 1 + max((revision_of(item) or 0 for item in olds), default=0)


def revision_of(item: JsonObject) -> int | None:
    """Return the revision that an object notes; 0 when it notes none, None when it is no number."""
    said = annotations_of(item).get(REVISION, "")
    if not said:
        return 0
    return int(said) if said.isascii() and said.isdigit() and len(said) <= 18 else None


def noted_set(deployment: JsonObject, item: JsonObject, revision: int) -> JsonObject:
    """Return a set with what it is to note: the Deployment's annotations, and its place in history.

    The same object when nothing is new.
    """
    held = annotations_of(item)
    notes = held | {
        key: value for key, value in annotations_of(deployment).items() if key not in NOT_COPIED
    }
    known = revision_of(item)
    if known is not None and known < revision:
        notes[REVISION] = str(revision)
        if REVISION in held:
            notes[HISTORY] = _history(held.get(HISTORY, ""), held[REVISION])
    least = whole(part(deployment, "spec").get("minReadySeconds"))
    if notes == held and whole(part(item, "spec").get("minReadySeconds")) == least:
        return item
    annotations: dict[str, Json] = dict(notes)
    spec = {key: value for key, value in part(item, "spec").items() if key != "minReadySeconds"}
    if least:
        spec["minReadySeconds"] = least
    return {
        **item,
        "metadata": {**part(item, "metadata"), "annotations": annotations},
        "spec": spec,
    }


def _history(before: str, revision: str) -> str:
    """The list of former revisions with one more; the oldest make room."""
    revisions = [*filter(None, before.split(",")), revision]
    while len(",".join(revisions)) > MAX_HISTORY and len(revisions) > 1:
        revisions.pop(0)
    return ",".join(revisions)


def surplus_sets(deployment: JsonObject, olds: Iterable[JsonObject]) -> list[JsonObject]:
    """Return the sets that history does not keep: the oldest revisions, unless they have Pods."""
    limit = part(deployment, "spec").get("revisionHistoryLimit")
    if not isinstance(limit, int) or limit == ENDLESS:
        return []
    alive = [item for item in olds if not is_deleting(item)]
    alive.sort(key=lambda item: (revision_of(item) or 0, age_order(item)))
    oldest = alive[: max(0, len(alive) - limit)]
    return [item for item in oldest if _is_idle(item)]


def _is_idle(item: JsonObject) -> bool:
    status = part(item, "status")
    is_seen = whole(part(item, "metadata").get("generation")) <= whole(
        status.get("observedGeneration")
    )
    return is_seen and not wanted(item) and not whole(status.get("replicas"))


# --- conditions -----------------------------------------------------------------------------------


def has_deadline(deployment: JsonObject) -> bool:
    """True when a rollout is expected to progress within a time."""
    said = part(deployment, "spec").get("progressDeadlineSeconds")
    return isinstance(said, int) and said != ENDLESS


def progressing(status: str, reason: str, message: str, now: str) -> JsonObject:
    """Return a condition that says how the rollout goes."""
    return _condition(PROGRESSING, status, reason, message, now)


def _condition(type_: str, status: str, reason: str, message: str, now: str) -> JsonObject:
    return {
        "type": type_,
        "status": status,
        "lastUpdateTime": now,
        "lastTransitionTime": now,
        "reason": reason,
        "message": message,
    }


def with_condition(status: JsonObject, fresh: JsonObject) -> JsonObject:
    """Return a status with a condition, as it is when that one says nothing new."""
    held = rows(status.get("conditions"))
    known = find(held, text(fresh["type"]))
    if known is not None and known.get("status") == fresh["status"]:
        if known.get("reason") == fresh["reason"]:
            return status
        fresh = {**fresh, "lastTransitionTime": known.get("lastTransitionTime")}
    return {**status, "conditions": as_json([*without(held, text(fresh["type"])), fresh])}


def without_condition(status: JsonObject, type_: str) -> JsonObject:
    """Return a status without a condition."""
    left = as_json(without(rows(status.get("conditions")), type_))
    kept = {key: value for key, value in status.items() if key != "conditions"}
    return kept | ({"conditions": left} if left else {})


def pause_condition(deployment: JsonObject, now: str) -> JsonObject | None:
    """Return what is to be said of a pause that began or ended; None when it is said."""
    known = progress_of(part(deployment, "status"))
    reason = None if known is None else known.get("reason")
    if not has_deadline(deployment) or reason == TIMED_OUT:
        return None
    is_paused = part(deployment, "spec").get("paused") is True
    if is_paused == (reason == PAUSED):
        return None
    if is_paused:
        return progressing("Unknown", PAUSED, "Deployment is paused", now)
    return progressing("Unknown", RESUMED, "Deployment is resumed", now)


def progress_of(status: JsonObject) -> JsonObject | None:
    """Return the condition that says how the rollout goes."""
    return find(rows(status.get("conditions")), PROGRESSING)


# --- status ---------------------------------------------------------------------------------------


def deployment_status(
    deployment: JsonObject, sets: Sequence[JsonObject], new: JsonObject | None, now: str
) -> JsonObject:
    """Return the status of a Deployment with these sets, `new` among them."""
    serving = sum(available(item) for item in sets)
    counts: dict[str, int] = {
        "observedGeneration": whole(part(deployment, "metadata").get("generation")),
        "replicas": _sum(sets, "replicas"),
        "updatedReplicas": 0 if new is None else _sum([new], "replicas"),
        "readyReplicas": _sum(sets, "readyReplicas"),
        "availableReplicas": serving,
        "unavailableReplicas": max(0, sum(wanted(item) for item in sets) - serving),
    }
    status: JsonObject = {key: count for key, count in counts.items() if count}
    held = part(deployment, "status")
    terminating = _terminating(sets)
    if terminating is not None:
        status["terminatingReplicas"] = terminating
    for key in ("conditions", "collisionCount"):
        if key in held:
            status[key] = held[key]
    return with_condition(status, _availability(serving >= limits_of(deployment).least, now))


def _sum(sets: Iterable[JsonObject], key: str) -> int:
    return sum(whole(part(item, "status").get(key)) for item in sets)


def _terminating(sets: Iterable[JsonObject]) -> int | None:
    """How many Pods are going; None while a set does not say."""
    total = 0
    for item in sets:
        status = part(item, "status")
        if "terminatingReplicas" not in status and status.get("observedGeneration"):
            return None
        total += whole(status.get("terminatingReplicas"))
    return total


def _availability(is_enough: bool, now: str) -> JsonObject:
    if is_enough:
        said = "True", "MinimumReplicasAvailable", "Deployment has minimum availability."
    else:
        said = (
            "False",
            "MinimumReplicasUnavailable",
            "Deployment does not have minimum availability.",
        )
    return _condition(AVAILABLE, *said, now)


def rollout_status(
    deployment: JsonObject, sets: Sequence[JsonObject], new: JsonObject | None, now: str
) -> JsonObject:
    """Return the status in the middle of a rollout: with how it goes, and what its sets fail at."""
    status = deployment_status(deployment, sets, new, now)
    if not has_deadline(deployment):
        status = without_condition(status, PROGRESSING)
    elif not _was_complete(deployment, status):
        status = _progressed(deployment, status, new, now)
    failure = _failure(sets, new)
    if failure is None:
        return without_condition(status, REPLICA_FAILURE)
    return with_condition(status, failure)


def _was_complete(deployment: JsonObject, status: JsonObject) -> bool:
    known = progress_of(part(deployment, "status"))
    return (
        known is not None
        and known.get("reason") == COMPLETE
        and whole(status.get("replicas")) == whole(status.get("updatedReplicas"))
    )


def _progressed(
    deployment: JsonObject, status: JsonObject, new: JsonObject | None, now: str
) -> JsonObject:
    kind, item = ("Deployment", deployment) if new is None else ("ReplicaSet", new)
    who = f'{kind} "{text(part(item, "metadata").get("name"))}"'
    if is_complete(deployment, status):
        fresh = progressing("True", COMPLETE, f"{who} has successfully progressed.", now)
        return with_condition(status, fresh)
    if _is_progressing(part(deployment, "status"), status):
        fresh = progressing("True", UPDATED, f"{who} is progressing.", now)
        return _with_progress(status, fresh)
    if is_late(deployment, now):
        fresh = progressing("False", TIMED_OUT, f"{who} has timed out progressing.", now)
        return with_condition(status, fresh)
    return status


def _with_progress(status: JsonObject, fresh: JsonObject) -> JsonObject:
    """Progress is news each time: it moves the deadline."""
    known = progress_of(status)
    if known is not None and known.get("status") == fresh["status"]:
        fresh = {**fresh, "lastTransitionTime": known.get("lastTransitionTime")}
    return with_condition(without_condition(status, PROGRESSING), fresh)


def is_complete(deployment: JsonObject, status: Mapping[str, Json]) -> bool:
    """True when all wanted Pods are of the current template and serve, and no other is left."""
    replicas = wanted(deployment)
    generation = whole(part(deployment, "metadata").get("generation"))
    return (
        whole(status.get("updatedReplicas")) == replicas
        and whole(status.get("replicas")) == replicas
        and whole(status.get("availableReplicas")) == replicas
        and whole(status.get("observedGeneration")) >= generation
    )


def _is_progressing(before: JsonObject, after: JsonObject) -> bool:
    """True when there are more new Pods, fewer old ones, or more that serve."""
    return (
        _old(after) < _old(before)
        or whole(after.get("updatedReplicas")) > whole(before.get("updatedReplicas"))
        or whole(after.get("readyReplicas")) > whole(before.get("readyReplicas"))
        or whole(after.get("availableReplicas")) > whole(before.get("availableReplicas"))
    )


def _old(status: JsonObject) -> int:
    return whole(status.get("replicas")) - whole(status.get("updatedReplicas"))


def is_late(deployment: JsonObject, now: str) -> bool:
    """True when a rollout has not progressed within its time."""
    known = progress_of(part(deployment, "status"))
    if known is None or known.get("reason") == COMPLETE:
        return False
    left = _left(deployment, known, parse_rfc3339(now) or 0.0)
    return known.get("reason") == TIMED_OUT or (left is not None and left < 0)


def seconds_to_deadline(deployment: JsonObject, now: float) -> float | None:
    """Return when to look whether a rollout is late; None when it is over, or never late."""
    status = part(deployment, "status")
    known = progress_of(status)
    if known is None or not has_deadline(deployment) or is_complete(deployment, status):
        return None
    if known.get("reason") in (TIMED_OUT, COMPLETE):
        return None
    left = _left(deployment, known, now)
    return None if left is None else max(left, 0.0) + 1.0


def _left(deployment: JsonObject, known: JsonObject, now: float) -> float | None:
    since = parse_rfc3339(known.get("lastUpdateTime"))
    seconds = whole(part(deployment, "spec").get("progressDeadlineSeconds"))
    return None if since is None else since + seconds - now


def _failure(sets: Sequence[JsonObject], new: JsonObject | None) -> JsonObject | None:
    """What a set fails at; the new one's failure comes first."""
    for item in ([] if new is None else [new]) + [*sets]:
        found = find(rows(part(item, "status").get("conditions")), REPLICA_FAILURE)
        if found is not None:
            since = found.get("lastTransitionTime")
            return {
                "type": REPLICA_FAILURE,
                "status": found.get("status"),
                "lastUpdateTime": since,
                "lastTransitionTime": since,
                "reason": found.get("reason"),
                "message": found.get("message"),
            }
    return None
