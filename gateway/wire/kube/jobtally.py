"""What the status of a Job says after Pods came and went: `settle`, `tally`, `counted`, `finish`.

A Pod counts exactly once: first its uid stands in the status, then it loses its finalizer, then it is a
number. Source: Kubernetes, "Jobs"; batch/v1 JobStatus, uncountedTerminatedPods.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from gateway.model.json import Json, JsonObject
from gateway.wire.kube.clock import rfc3339
from gateway.wire.kube.conditions import find
from gateway.wire.kube.jobindexes import Indexes
from gateway.wire.kube.jobplan import MET, SUSPENDED, TARGET, Look, condition, put, set_condition
from gateway.wire.kube.jobpods import (
    COMPLETE,
    FAILED,
    index_of,
    is_tracked,
    judge_failure,
    phase,
    uid,
)
from gateway.wire.kube.parts import part, text, whole
from gateway.wire.kube.podstate import is_deleting

MAX_UNCOUNTED: Final = 500


def settle(found: Look, *, is_managed: bool = True) -> None:
    """Judge completion after Pods came and went (`is_managed`); say that it is suspended, or goes on."""
    needed = found.completions
    enough = found.succeeded > 0 if needed is None else found.succeeded >= needed
    if enough and found.running == 0:
        why = "Reached expected number of succeeded pods"
        found.verdict = condition(MET, "CompletionsReached", why, found.now)
    elif not is_managed:
        return
    elif found.is_suspended:
        if set_condition(found, SUSPENDED, "True", "JobSuspended", "Job suspended"):
            found.events.append(("Normal", "Suspended", "Job suspended"))
            found.status.pop("startTime", None)
    elif find(found.conditions, SUSPENDED) is not None and set_condition(
        found, SUSPENDED, "False", "JobResumed", "Job resumed"
    ):
        found.events.append(("Normal", "Resumed", "Job resumed"))
        found.status["startTime"] = rfc3339(found.now)


def tally(found: Look) -> tuple[list[JsonObject], bool]:
    """Bring the status up to date; return the Pods that lose their finalizer then, and whether all could.

    `found.verdict` is afterwards the condition that `finish` sets.
    """
    status = found.status
    counted(found, {uid(pod) for pod in found.pods if is_tracked(pod)})
    put(status, "active", found.running)
    status["ready"], status["terminating"] = found.ready, found.terminating
    stripped, won, is_whole = _tally_pods(found)
    if found.is_indexed:
        found.done = found.before.with_(Indexes.of(won))
        put(status, "succeeded", len(found.done))
        put(status, "completedIndexes", str(found.done))
        if found.lost is not None:
            status["failedIndexes"] = str(found.lost)
    _announce(found)
    return stripped, is_whole


def _tally_pods(found: Look) -> tuple[list[JsonObject], list[int], bool]:
    """Write down which Pods ended; returns them, the new indexes, and whether there was room for all."""
    known = {kind: set(found.uncounted(kind)) for kind in ("succeeded", "failed")}
    fresh: dict[str, list[str]] = {kind: found.uncounted(kind) for kind in known}
    stripped: list[JsonObject] = []
    won: list[int] = []
    is_whole = True
    for pod in found.pods:
        if not is_tracked(pod) or not _may_go(found, pod):
            continue
        stripped.append(pod)
        index = index_of(pod)
        if phase(pod) == "Succeeded" and uid(pod) not in known["failed"]:
            if not found.is_indexed and uid(pod) not in known["succeeded"]:
                fresh["succeeded"].append(uid(pod))
            elif found.is_indexed and index is not None and found.fits(pod):
                won += [] if index in found.before else [index]
        elif _counts_as_failed(found, pod) and uid(pod) not in known["failed"]:
            fresh["failed"].append(uid(pod))
        if len(won) + sum(map(len, fresh.values())) >= MAX_UNCOUNTED:
            is_whole = False
            break
    _write_uncounted(found.status, fresh)
    return stripped, won, is_whole


def _may_go(found: Look, pod: JsonObject) -> bool:
    if is_deleting(found.job) or found.verdict is not None or phase(pod) == "Succeeded":
        return True
    if not found.has_failed(pod):
        return False
    index = index_of(pod)
    kept = None if index is None else found.waiting.get(index)
    return kept is None or uid(kept) != uid(pod)


def _counts_as_failed(found: Look, pod: JsonObject) -> bool:
    """Once a Job has failed every Pod that has not ended failed with it."""
    is_lost = found.verdict is not None and found.verdict.get("type") != MET
    if not (found.has_failed(pod) or is_lost) or not found.fits(pod):
        return False
    return judge_failure(part(found.spec, "podFailurePolicy"), pod).counts


def _write_uncounted(status: JsonObject, lists: dict[str, list[str]]) -> None:
    status["uncountedTerminatedPods"] = {
        kind: list[Json](uids) for kind, uids in lists.items() if uids
    }


def counted(found: Look, tracked: Collection[str]) -> None:
    """Turn uids whose Pods have lost their finalizer into numbers. Shape: `tracked` are the others."""
    left: dict[str, list[str]] = {}
    for kind in ("succeeded", "failed"):
        known = found.uncounted(kind)
        left[kind] = [entry for entry in known if entry in tracked]
        gone = len(known) - len(left[kind])
        put(found.status, kind, whole(found.status.get(kind)) + gone)
    _write_uncounted(found.status, left)


def _announce(found: Look) -> None:
    """Show the condition that comes before the last one."""
    verdict = found.verdict
    if verdict is None:
        return
    reason, message = text(verdict.get("reason")), text(verdict.get("message"))
    final = {TARGET: FAILED, MET: COMPLETE}.get(text(verdict.get("type")))
    if final is None:
        return
    if find(found.conditions, text(verdict.get("type"))) is None:
        found.status["conditions"] = [*found.conditions, verdict]
    found.verdict = condition(final, reason, message, found.now)


def finish(found: Look) -> bool:
    """Set the last condition, once each Pod is counted and none is ending any more."""
    verdict = found.verdict
    if verdict is None or found.terminating > 0:
        return False
    if found.uncounted("succeeded") or found.uncounted("failed"):
        return False
    type_, reason = text(verdict.get("type")), text(verdict.get("reason"))
    message = text(verdict.get("message"))
    set_condition(found, type_, "True", reason, message)
    if type_ == COMPLETE:
        found.status["completionTime"] = verdict["lastTransitionTime"]
        if found.completions is not None and whole(found.status.get("succeeded")) > found.limit:
            too_many = "Too many succeeded pods running after completion count reached"
            found.events.append(("Warning", "TooManySucceededPods", too_many))
        found.events.append(("Normal", "Completed", "Job completed"))
    else:
        found.events.append(("Warning", reason, message))
    return True
