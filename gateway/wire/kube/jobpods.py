"""What the Pods of a Job say: which index they are of, whether they failed, and what policies make of that.

Source: Kubernetes, "Jobs" (pod failure policy, success policy, back-off limit per index), batch/v1.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from gateway.model.json import Json, JsonObject
from gateway.wire.kube.clock import parse_rfc3339
from gateway.wire.kube.conditions import condition_of
from gateway.wire.kube.jobindexes import Indexes
from gateway.wire.kube.parts import part, rows, text, whole

TRACKING: Final = "batch.kubernetes.io/job-tracking"
"""The finalizer of a Pod that was not counted yet."""
INDEX: Final = "batch.kubernetes.io/job-completion-index"
FAILURES: Final = "batch.kubernetes.io/job-index-failure-count"
IGNORED_FAILURES: Final = "batch.kubernetes.io/job-index-ignored-failure-count"
BACKOFF_FIRST: Final = 10.0
BACKOFF_CAP: Final = 600.0
MAX_COUNT: Final = 2_147_483_647
COMPLETE, FAILED = "Complete", "Failed"


def uid(item: JsonObject) -> str:
    return text(part(item, "metadata").get("uid"))


def phase(pod: JsonObject) -> str:
    return text(part(pod, "status").get("phase"))


def is_tracked(pod: JsonObject) -> bool:
    """True until a Pod was counted."""
    held = part(pod, "metadata").get("finalizers")
    return isinstance(held, list) and TRACKING in held


def outcome_of(job: JsonObject) -> JsonObject | None:
    """Return the condition that ended a Job; None while it is not over."""
    for kind in (COMPLETE, FAILED):
        found = condition_of(job, kind)
        if found is not None and found.get("status") == "True":
            return found
    return None


def index_of(pod: JsonObject) -> int | None:
    """The completion index of a Pod."""
    said = text(part(pod, "metadata", "annotations").get(INDEX))
    return int(said) if said.isdecimal() and said.isascii() and len(said) < 11 else None


def index_failures(pod: JsonObject) -> tuple[int, int]:
    """How often Pods of this index failed before this one: counted, ignored."""
    notes = part(pod, "metadata", "annotations")
    return _count(notes.get(FAILURES)), _count(notes.get(IGNORED_FAILURES))


def _count(value: Json) -> int:
    said = text(value)
    is_number = said.isdecimal() and said.isascii() and len(said) < 11
    return int(said) if is_number and int(said) <= MAX_COUNT else 0


# --- time -----------------------------------------------------------------------------------------


def ended_at(pod: JsonObject) -> float:
    """When a Pod ended, as well as can be told."""
    found = _containers_ended(pod)
    if found is None:
        found = _unready_since(pod)
    if found is None:
        found = _deleted_at(pod)
    if found is None:
        found = parse_rfc3339(part(pod, "metadata").get("creationTimestamp"))
    return found or 0.0


def _containers_ended(pod: JsonObject) -> float | None:
    sidecars = {
        row.get("name")
        for row in rows(part(pod, "spec").get("initContainers"))
        if row.get("restartPolicy") == "Always"
    }
    status = part(pod, "status")
    beside = [
        row for row in rows(status.get("initContainerStatuses")) if row.get("name") in sidecars
    ]
    latest = None
    for row in (*rows(status.get("containerStatuses")), *beside):
        ended = parse_rfc3339(part(row, "state", "terminated").get("finishedAt"))
        if ended is None:
            return None
        latest = ended if latest is None else max(latest, ended)
    return latest


def _unready_since(pod: JsonObject) -> float | None:
    ready = condition_of(pod, "Ready")
    if ready is None or ready.get("status") != "False":
        return None
    return parse_rfc3339(ready.get("lastTransitionTime"))


def _deleted_at(pod: JsonObject) -> float | None:
    metadata = part(pod, "metadata")
    until = parse_rfc3339(metadata.get("deletionTimestamp"))
    return None if until is None else until - whole(metadata.get("deletionGracePeriodSeconds"))


@dataclass(frozen=True, slots=True)
class Backoff:
    """How often Pods failed since one succeeded, and when the last one did."""

    failures: int = 0
    last: float | None = None

    def after(self, succeeded: Iterable[JsonObject], failed: Iterable[JsonObject]) -> Backoff:
        """Return the record with Pods that ended."""
        failures = sorted(map(ended_at, failed))
        won = max(map(ended_at, succeeded), default=None)
        if won is not None:
            later = [when for when in failures if when > won]
            return Backoff(len(later), later[-1] if later else None)
        if not failures:
            return self
        return Backoff(self.failures + len(failures), failures[-1])

    def left(self, now: float) -> float:
        """Seconds until the next Pod may come."""
        if not self.failures or self.last is None:
            return 0.0
        pause = min(BACKOFF_FIRST * (1 << min(self.failures - 1, 30)), BACKOFF_CAP)
        return max(pause - (now - self.last), 0.0)


# --- policies -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a failed Pod means: whether it counts, what rule says so, why the Job fails."""

    counts: bool = True
    action: str = ""
    message: str = ""


PLAIN_FAILURE = Verdict()


def judge_failure(policy: JsonObject | None, pod: JsonObject) -> Verdict:
    """Return what a pod failure policy makes of a failed Pod; the first rule that fits decides."""
    for place, rule in enumerate(rows((policy or {}).get("rules"))):
        what = _fitting(rule, pod)
        if what is not None:
            action = str(rule.get("action"))
            said = f"{what} matching {action} rule at index {place}"
            message = said if action == "FailJob" else ""
            return Verdict(counts=action != "Ignore", action=action, message=message)
    return PLAIN_FAILURE


def _fitting(rule: JsonObject, pod: JsonObject) -> str | None:
    """Say what of a Pod fits a rule."""
    metadata = part(pod, "metadata")
    name = f"{metadata.get('namespace')}/{metadata.get('name')}"
    if isinstance(rule.get("onExitCodes"), dict):
        for container, code in _exits(pod):
            if _fits_exit(part(rule, "onExitCodes"), container, code):
                return f"Container {container} for pod {name} failed with exit code {code}"
        return None
    wanted = {(row.get("type"), row.get("status")) for row in rows(rule.get("onPodConditions"))}
    for row in rows(part(pod, "status").get("conditions")):
        if (row.get("type"), row.get("status")) in wanted:
            return f"Pod {name} has condition {row.get('type')}"
    return None


def _exits(pod: JsonObject) -> Iterator[tuple[str, int]]:
    """Containers that ended badly, with their exit codes."""
    status = part(pod, "status")
    for kind in ("containerStatuses", "initContainerStatuses"):
        for row in rows(status.get(kind)):
            code = whole(part(row, "state", "terminated").get("exitCode"))
            if code:
                yield str(row.get("name")), code


def _fits_exit(wanted: JsonObject, container: str, code: int) -> bool:
    if wanted.get("containerName") not in (None, container):
        return False
    values = wanted.get("values")
    is_in = isinstance(values, list) and code in values
    return {"In": is_in, "NotIn": not is_in}.get(str(wanted.get("operator")), False)


def judge_success(policy: JsonObject | None, completions: int, succeeded: Indexes) -> str | None:
    """Say which rule of a success policy is met, None when none is."""
    if not len(succeeded):
        return None
    for place, rule in enumerate(rows((policy or {}).get("rules"))):
        count, named = whole(rule.get("succeededCount"), -1), rule.get("succeededIndexes")
        if isinstance(named, str):
            wanted = Indexes.parse(named, completions)
            both = wanted.common(succeeded)
            is_met = bool(len(wanted)) and (both == len(wanted) or 0 <= count <= both)
        else:
            is_met = 0 <= count <= len(succeeded)
        if is_met:
            return f"Matched rules at index {place}"
    return None
