"""One look at a Job: how far it is, whether it is over, and which Pods come and go.

The order of steps is `look`, `surplus` or `births`, then those of `jobtally`: `settle`, `tally`, and (status
written, finalizers taken away) `counted` and `finish`. Source: Kubernetes, "Jobs"; batch/v1.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from gateway.model.json import Json, JsonObject
from gateway.wire.kube.clock import parse_rfc3339, rfc3339
from gateway.wire.kube.conditions import find
from gateway.wire.kube.jobindexes import Indexes
from gateway.wire.kube.jobpods import (
    FAILED,
    Backoff,
    ended_at,
    index_failures,
    index_of,
    is_tracked,
    judge_failure,
    judge_success,
    phase,
    uid,
)
from gateway.wire.kube.parts import part, rows, text, whole
from gateway.wire.kube.podstate import (
    deletion_order,
    is_active,
    is_deleting,
    is_ready,
    is_terminating,
)

TARGET, MET, SUSPENDED = "FailureTarget", "SuccessCriteriaMet", "Suspended"
MAX_WRITES: Final = 500
"""Pods that come or go in one go."""
MAX_INT32: Final = 2_147_483_647
Telling: TypeAlias = "tuple[str, str, str]"
"""Type, reason and message of an Event."""


@dataclass(slots=True, kw_only=True)
class Look:
    """What is known of a Job in this round; `status` is the one to be written."""

    job: JsonObject
    status: JsonObject
    now: float
    pods: list[JsonObject]
    """With the Pods that were just deleted marked as such."""
    active: list[JsonObject] = field(default_factory=list)
    running: int = 0
    ready: int = 0
    terminating: int = 0
    succeeded: int = 0
    failed: int = 0
    record: Backoff = field(default_factory=Backoff)
    verdict: JsonObject | None = None
    """The condition that the Job is about to get."""
    before: Indexes = field(default_factory=Indexes)
    done: Indexes = field(default_factory=Indexes)
    lost: Indexes | None = None
    waiting: dict[int, JsonObject] = field(default_factory=dict)
    """Index -> failed Pod that stays until the one in its place knows its count."""
    events: list[Telling] = field(default_factory=list)
    again: float | None = None
    """Seconds after which another look is due."""

    @property
    def spec(self) -> JsonObject:
        return part(self.job, "spec")

    @property
    def is_indexed(self) -> bool:
        return self.spec.get("completionMode") == "Indexed"

    @property
    def completions(self) -> int | None:
        value = self.spec.get("completions")
        return value if isinstance(value, int) else None

    @property
    def limit(self) -> int:
        """The number of indexes."""
        return self.completions or 0

    @property
    def is_suspended(self) -> bool:
        return self.spec.get("suspend") is True

    @property
    def replaces_failed_only(self) -> bool:
        """True when a Pod that is being deleted is not replaced before it has ended."""
        policy = self.spec.get("podReplacementPolicy")
        return policy == "Failed" or bool(self.spec.get("podFailurePolicy"))

    @property
    def counts_per_index(self) -> bool:
        return isinstance(self.spec.get("backoffLimitPerIndex"), int)

    @property
    def conditions(self) -> list[JsonObject]:
        return rows(self.status.get("conditions"))

    def uncounted(self, kind: str) -> list[str]:
        """The uids that the status keeps as `succeeded` or `failed`."""
        found = part(self.status, "uncountedTerminatedPods").get(kind)
        return [text(entry) for entry in found] if isinstance(found, list) else []

    def has_failed(self, pod: JsonObject) -> bool:
        if phase(pod) == "Failed":
            return True
        if self.replaces_failed_only:
            return False
        return is_deleting(pod) and phase(pod) != "Succeeded"

    def fits(self, pod: JsonObject) -> bool:
        """True when a Pod is of an index of this Job, or none is needed."""
        index = index_of(pod)
        return not self.is_indexed or (index is not None and index < self.limit)

    def wait(self, seconds: float) -> None:
        """Have another look after so long at the latest."""
        self.again = seconds if self.again is None else min(self.again, seconds)


def look(job: JsonObject, pods: Iterable[JsonObject], record: Backoff, now: float) -> Look:
    """Count, and judge whether it is over. Shape: `record` is that of the round before."""
    status = dict(part(job, "status"))
    status["uncountedTerminatedPods"] = dict(part(status, "uncountedTerminatedPods"))
    found = Look(job=job, status=status, now=now, pods=list(pods))
    if found.is_indexed:
        found.pods.sort(key=lambda pod: -1 if (index := index_of(pod)) is None else index)
    _count(found, record)
    if not status.get("startTime") and not found.is_suspended:
        status["startTime"] = rfc3339(now)
    found.verdict = _known_verdict(found) or _policy_verdict(found) or _limit_verdict(found)
    if found.is_indexed:
        _judge_indexes(found)
    return found


def _count(found: Look, record: Backoff) -> None:
    found.active = [pod for pod in found.pods if is_active(pod)]
    found.running = len(found.active)
    found.ready = sum(map(is_ready, found.active))
    found.terminating = sum(map(is_terminating, found.pods))
    won = _news(found, "succeeded", lambda pod: phase(pod) == "Succeeded")
    lost = _news(found, "failed", found.has_failed)
    policy = part(found.spec, "podFailurePolicy")
    found.succeeded = (
        whole(found.status.get("succeeded")) + len(won) + len(found.uncounted("succeeded"))
    )
    found.failed = (
        whole(found.status.get("failed"))
        + sum(judge_failure(policy, pod).counts for pod in lost)
        + len(found.uncounted("failed"))
    )
    found.record = record.after(won, lost)


def _news(found: Look, kind: str, is_it: Callable[[JsonObject], bool]) -> list[JsonObject]:
    """Pods that ended so and are not in the status yet."""
    known = set(found.uncounted(kind))
    return [
        pod
        for pod in found.pods
        if is_tracked(pod) and uid(pod) not in known and found.fits(pod) and is_it(pod)
    ]


# --- is it over? ----------------------------------------------------------------------------------


def _known_verdict(found: Look) -> JsonObject | None:
    met = find(found.conditions, MET)
    if met is not None and met.get("status") == "True":
        return met
    target = find(found.conditions, TARGET)
    if target is None or target.get("status") != "True":
        return None
    return condition(FAILED, text(target.get("reason")), text(target.get("message")), found.now)


def _policy_verdict(found: Look) -> JsonObject | None:
    policy = part(found.spec, "podFailurePolicy")
    for pod in found.pods if policy else ():
        message = judge_failure(policy, pod).message if found.has_failed(pod) else ""
        if message:
            return condition(TARGET, "PodFailurePolicy", message, found.now)
    return None


def _limit_verdict(found: Look) -> JsonObject | None:
    limit = whole(found.spec.get("backoffLimit"), MAX_INT32 if found.counts_per_index else 6)
    if found.failed > limit or _restarted_too_often(found, limit):
        why = "Job has reached the specified backoff limit"
        return condition(TARGET, "BackoffLimitExceeded", why, found.now)
    deadline = found.spec.get("activeDeadlineSeconds")
    started = parse_rfc3339(found.status.get("startTime"))
    if not isinstance(deadline, int) or started is None or found.is_suspended:
        return None
    left = started + deadline - found.now
    if left > 0:
        found.wait(left)
        return None
    why = "Job was active longer than specified deadline"
    return condition(TARGET, "DeadlineExceeded", why, found.now)


def _restarted_too_often(found: Look, limit: int) -> bool:
    if part(found.spec, "template", "spec").get("restartPolicy") != "OnFailure":
        return False
    restarts = sum(
        whole(row.get("restartCount"))
        for pod in found.pods
        if phase(pod) in ("Running", "Pending")
        for kind in ("initContainerStatuses", "containerStatuses")
        for row in rows(part(pod, "status").get(kind))
    )
    return restarts > 0 if limit == 0 else restarts >= limit


def _judge_indexes(found: Look) -> None:
    found.before = Indexes.parse(text(found.status.get("completedIndexes")), found.limit)
    won = {
        index
        for pod in found.pods
        if phase(pod) == "Succeeded" and is_tracked(pod) and found.fits(pod)
        and (index := index_of(pod)) is not None
    }  # fmt: skip
    found.done = found.before.with_(Indexes.of(won))
    found.succeeded = len(found.done)
    if found.counts_per_index:
        _judge_lost_indexes(found)
    if found.verdict is None:
        message = judge_success(part(found.spec, "successPolicy"), found.limit, found.done)
        if message is not None:
            found.verdict = condition(MET, "SuccessPolicy", message, found.now)


def _judge_lost_indexes(found: Look) -> None:
    known = Indexes.parse(text(found.status.get("failedIndexes")), found.limit)
    lost = {
        index
        for pod in found.pods
        if is_tracked(pod) and found.fits(pod) and _has_lost_index(found, pod)
        and (index := index_of(pod)) is not None
    }  # fmt: skip
    found.lost = known.with_(Indexes.of(lost))
    most = found.spec.get("maxFailedIndexes")
    if found.verdict is None and isinstance(most, int) and len(found.lost) > most:
        why = "Job has exceeded the specified maximal number of failed indexes"
        found.verdict = condition(TARGET, "MaxFailedIndexesExceeded", why, found.now)
    elif found.verdict is None and len(found.lost) and _is_decided(found, found.lost):
        found.verdict = condition(TARGET, "FailedIndexes", "Job has failed indexes", found.now)
    found.waiting = _waiting(found)


def _is_decided(found: Look, lost: Indexes) -> bool:
    return len(lost) + len(found.done) >= found.limit


def _has_lost_index(found: Look, pod: JsonObject) -> bool:
    if not found.has_failed(pod):
        return False
    verdict = judge_failure(part(found.spec, "podFailurePolicy"), pod)
    if verdict.action == "FailIndex":
        return True
    return verdict.counts and index_failures(pod)[0] >= whole(
        found.spec.get("backoffLimitPerIndex")
    )


def _waiting(found: Look) -> dict[int, JsonObject]:
    taken = {index_of(pod) for pod in found.active}
    lost = found.lost or Indexes()
    kept: dict[int, JsonObject] = {}
    for pod in found.pods:
        index = index_of(pod)
        if index is None or not is_tracked(pod) or not found.fits(pod):
            continue
        if not found.has_failed(pod) or index in found.done or index in lost or index in taken:
            continue
        if index not in kept or _rank(kept[index]) <= _rank(pod):
            kept[index] = pod
    return kept


def _rank(pod: JsonObject) -> tuple[int, float]:
    return sum(index_failures(pod)), ended_at(pod)


# --- who comes and goes ---------------------------------------------------------------------------


def wanted(found: Look) -> int:
    """How many Pods should run."""
    parallel = whole(found.spec.get("parallelism"), 1)
    if found.completions is None:
        return found.running if found.succeeded else parallel
    return max(min(found.completions - found.succeeded, parallel), 0)


def surplus(found: Look) -> list[JsonObject]:
    """Return the running Pods that are too many."""
    least = found.running if found.is_suspended else max(found.running - wanted(found), 0)
    going, left = _double_indexes(found) if found.is_indexed else ([], found.active)
    if len(going) < least:
        going = going + deletion_order(left, (), found.now)[: least - len(going)]
    return going if found.is_suspended else going[:MAX_WRITES]


def _double_indexes(found: Look) -> tuple[list[JsonObject], list[JsonObject]]:
    """Split running Pods: those without an index or with one that is taken, and the others."""
    by_index: dict[int | None, list[JsonObject]] = {}
    for pod in found.active:
        by_index.setdefault(index_of(pod) if found.fits(pod) else None, []).append(pod)
    going, left = by_index.pop(None, []), []
    for pods in by_index.values():
        *too_many, kept = deletion_order(pods, (), found.now)
        going += too_many
        left.append(kept)
    return going, left


def births(found: Look) -> list[int | None]:
    """Return the indexes of the Pods that are missing (None for a Pod without one), at most `MAX_WRITES`.

    Where one has to wait for its back-off, `again` says for how long.
    """
    missing = 0 if found.is_suspended else wanted(found) - found.running
    if found.replaces_failed_only:
        missing -= found.terminating
    if missing <= 0:
        return []
    if not found.counts_per_index:
        left = found.record.left(found.now)
        if left > 0:
            found.wait(left)
            return []
    missing = min(missing, MAX_WRITES)
    return _free_indexes(found, missing) if found.is_indexed else [None] * missing


def _free_indexes(found: Look, count: int) -> list[int | None]:
    held = list(found.active)
    if found.replaces_failed_only:
        held += [pod for pod in found.pods if is_terminating(pod)]
    taken = found.done.with_(
        Indexes.of(index for pod in held if (index := index_of(pod)) is not None)
    ).with_(found.lost or Indexes())
    free = [index for index, _ in zip(taken.missing(found.limit), range(count), strict=False)]
    left = {index: _left(found, index) for index in free}
    now = [index for index in free if left[index] <= 0]
    if free and not now:
        found.wait(min(left.values()))
    return list(now)


def _left(found: Look, index: int) -> float:
    """Seconds until a Pod of this index may be replaced."""
    pod = found.waiting.get(index)
    if pod is None or not found.counts_per_index:
        return 0.0
    return Backoff(sum(index_failures(pod)) + 1, ended_at(pod)).left(found.now)


def removed(found: Look, pods: Collection[JsonObject]) -> None:
    """Take note that these running Pods were deleted."""
    found.running -= len(pods)
    found.ready -= sum(map(is_ready, pods))
    found.terminating += len(pods)


# --- words of a status ----------------------------------------------------------------------------


def condition(
    type_: str, reason: str, message: str, now: float, status: str = "True"
) -> JsonObject:
    """Return a condition of a Job as it is written."""
    return {
        "type": type_,
        "status": status,
        "lastProbeTime": rfc3339(now),
        "lastTransitionTime": rfc3339(now),
        "reason": reason,
        "message": message,
    }


def set_condition(found: Look, type_: str, status: str, reason: str, message: str) -> bool:
    """Set a condition; True when that changed it."""
    fresh = condition(type_, reason, message, found.now, status)
    known = find(found.conditions, type_)
    same = ("status", "reason", "message")
    if known is not None and all(known.get(key) == fresh[key] for key in same):
        return False
    written = [fresh if row is known else row for row in found.conditions]
    found.status["conditions"] = list[Json](written if known is not None else [*written, fresh])
    return True


def put(status: JsonObject, key: str, value: Json) -> None:
    """Write a field; nothing is left out."""
    if value:
        status[key] = value
    else:
        status.pop(key, None)
