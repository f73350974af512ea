"""The Pods that a Job starts: its template, the finalizer of what is to be counted, and the index.

Source: Kubernetes, "Jobs" (completion mode Indexed, tracking with finalizers).
"""

from __future__ import annotations

from typing import Final

from gateway.model.json import Json, JsonObject
from gateway.wire.kube.jobpods import (
    FAILURES,
    IGNORED_FAILURES,
    INDEX,
    TRACKING,
    index_failures,
    judge_failure,
)
from gateway.wire.kube.parts import part, rows, text
from gateway.wire.kube.templates import pod_from

INDEX_VARIABLE: Final = "JOB_COMPLETION_INDEX"
MAX_PREFIX: Final = 58
"""What leaves room for five letters in a name of 63."""


def job_pod(
    job: JsonObject, reference: JsonObject, index: int | None, replaced: JsonObject | None = None
) -> JsonObject:
    """Return a new Pod of a Job; `replaced` is the failed one of this index in whose place it comes."""
    template = part(job, "spec", "template")
    pod = pod_from(template, job, reference)
    metadata = part(pod, "metadata")
    held = metadata.get("finalizers")
    kept: list[Json] = list(held) if isinstance(held, list) else []
    metadata["finalizers"] = kept if TRACKING in kept else [*kept, TRACKING]
    if index is not None:
        _index(pod, job, index)
    if index is not None and isinstance(part(job, "spec").get("backoffLimitPerIndex"), int):
        _count_failures(metadata, part(job, "spec", "podFailurePolicy"), replaced)
    return pod


def _index(pod: JsonObject, job: JsonObject, index: int) -> None:
    metadata, spec = part(pod, "metadata"), part(pod, "spec")
    for key in ("annotations", "labels"):
        metadata[key] = {**part(metadata, key), INDEX: str(index)}
    name = text(part(job, "metadata").get("name"))
    ending = f"-{index}-"
    prefix = name + ending
    metadata["generateName"] = (
        prefix if len(prefix) <= MAX_PREFIX else name[: MAX_PREFIX - len(ending)] + ending
    )
    spec["hostname"] = f"{name}-{index}"
    source: JsonObject = {"fieldRef": {"fieldPath": f"metadata.labels['{INDEX}']"}}
    for kind in ("initContainers", "containers"):
        for container in rows(spec.get(kind)):
            known = rows(container.get("env"))
            if all(entry.get("name") != INDEX_VARIABLE for entry in known):
                container["env"] = [*known, {"name": INDEX_VARIABLE, "valueFrom": source}]


def _count_failures(metadata: JsonObject, policy: JsonObject, replaced: JsonObject | None) -> None:
    counted = ignored = 0
    if replaced is not None:
        counted, ignored = index_failures(replaced)
        counts = judge_failure(policy, replaced).counts
        counted, ignored = counted + counts, ignored + (not counts)
    notes: JsonObject = {**part(metadata, "annotations"), FAILURES: str(counted)}
    if ignored:
        notes[IGNORED_FAILURES] = str(ignored)
    metadata["annotations"] = notes
