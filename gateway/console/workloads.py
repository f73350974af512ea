"""Workloads in short: what is wanted, what is ready, and how it goes. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from gateway.console.fleet import cut, rows, seconds
from gateway.model.json import Json, JsonObject
from gateway.wire.cloudedge.devices import mapping, text

APPS: Final = "apps/v1"
BATCH: Final = "batch/v1"
GROUPS: Final = "apps.kubeedge.io/v1alpha1"
KINDS: Final[Mapping[str, tuple[str, str]]] = {
    "Deployment": (APPS, "deployments"),
    "StatefulSet": (APPS, "statefulsets"),
    "DaemonSet": (APPS, "daemonsets"),
    "Job": (BATCH, "jobs"),
    "CronJob": (BATCH, "cronjobs"),
    "EdgeApplication": (GROUPS, "edgeapplications"),
    "NodeGroup": (GROUPS, "nodegroups"),
}
"""Kind -> group version and plural."""
CLUSTER_SCOPED: Final = frozenset({"NodeGroup"})
SCALED: Final = frozenset({"Deployment", "StatefulSet"})
RESTARTED: Final = frozenset({"Deployment", "StatefulSet", "DaemonSet"})
RESTARTED_AT: Final = "kubectl.kubernetes.io/restartedAt"
MAX_IMAGES: Final = 20


def workload_row(kind: str, item: JsonObject) -> JsonObject:
    """One workload in short."""
    meta = mapping(item.get("metadata"))
    ready, wanted = _COUNTS[kind](item)
    state, message = _state(kind, item, ready, wanted)
    return {
        "kind": kind,
        "namespace": text(meta.get("namespace")),
        "name": text(meta.get("name")),
        "ready": ready,
        "wanted": wanted,
        "images": [*_images(item)],
        "created": seconds(meta.get("creationTimestamp")),
        "state": state,
        "message": cut(message),
    }


def restart_patch(now: str) -> JsonObject:
    """What `kubectl rollout restart` writes. Shape: `now` in RFC 3339."""
    return {"spec": {"template": {"metadata": {"annotations": {RESTARTED_AT: now}}}}}


def _number(value: Json, default: int = 0) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else default


def _replicated(item: JsonObject) -> tuple[int, int]:
    spec, status = mapping(item.get("spec")), mapping(item.get("status"))
    return _number(status.get("readyReplicas")), _number(spec.get("replicas"), 1)


def _daemons(item: JsonObject) -> tuple[int, int]:
    status = mapping(item.get("status"))
    return _number(status.get("numberReady")), _number(status.get("desiredNumberScheduled"))


def _job(item: JsonObject) -> tuple[int, int]:
    spec, status = mapping(item.get("spec")), mapping(item.get("status"))
    return _number(status.get("succeeded")), _number(spec.get("completions"), 1)


def _cron_job(item: JsonObject) -> tuple[int, int]:
    active = len(rows(mapping(item.get("status")).get("active")))
    return active, active


def _edge_application(item: JsonObject) -> tuple[int, int]:
    told = rows(mapping(item.get("status")).get("workloadStatus"))
    return sum(each.get("condition") == "Available" for each in told), len(told)


def _node_group(item: JsonObject) -> tuple[int, int]:
    nodes = rows(mapping(item.get("status")).get("nodeStatuses"), 10_000)
    return sum(each.get("readyStatus") == "Ready" for each in nodes), len(nodes)


_COUNTS: Final[Mapping[str, Callable[[JsonObject], tuple[int, int]]]] = {
    "Deployment": _replicated,
    "StatefulSet": _replicated,
    "DaemonSet": _daemons,
    "Job": _job,
    "CronJob": _cron_job,
    "EdgeApplication": _edge_application,
    "NodeGroup": _node_group,
}


def _state(kind: str, item: JsonObject, ready: int, wanted: int) -> tuple[str, str]:
    spec, status = mapping(item.get("spec")), mapping(item.get("status"))
    conditions = {text(each.get("type")): each for each in rows(status.get("conditions"), 100)}
    if kind == "Job":
        return _job_state(conditions, ready, wanted)
    if spec.get("paused") is True or spec.get("suspend") is True:
        return "paused", ""
    if kind == "CronJob":
        return "ok", text(spec.get("schedule"))
    progress = conditions.get("Progressing", {})
    if progress.get("status") == "False":
        return "degraded", text(progress.get("message"))
    meta = mapping(item.get("metadata"))
    is_seen = _number(status.get("observedGeneration")) >= _number(meta.get("generation"))
    updated = status.get("updatedReplicas")
    is_new = kind not in ("Deployment", "StatefulSet") or _number(updated) >= wanted
    if ready >= wanted and ((is_new and is_seen) or kind not in _COUNTED):
        return "ok", ""
    if kind == "NodeGroup":
        return "degraded", f"{wanted - ready} nodes are not ready"
    return "progressing", text(progress.get("message"))


_COUNTED: Final = frozenset({"Deployment", "StatefulSet", "DaemonSet"})


def _job_state(conditions: Mapping[str, JsonObject], ready: int, wanted: int) -> tuple[str, str]:
    for name, state in (("Failed", "degraded"), ("Complete", "done"), ("Suspended", "paused")):
        found = conditions.get(name, {})
        if found.get("status") == "True":
            return state, text(found.get("message"))
    return "progressing", f"{ready} of {wanted} done"


def _images(item: JsonObject) -> list[str]:
    spec = mapping(item.get("spec"))
    inner = mapping(mapping(spec.get("jobTemplate")).get("spec")) or spec
    containers = mapping(mapping(inner.get("template")).get("spec")).get("containers")
    found = [cut(text(each.get("image")), 512) for each in rows(containers, MAX_IMAGES)]
    return list(dict.fromkeys(image for image in found if image))
