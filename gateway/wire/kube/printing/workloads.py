"""What `kubectl get` prints of sets of pods: `apps`, `batch`, `autoscaling`, replication controllers."""

from __future__ import annotations

from collections.abc import Mapping

from gateway.model.json import Json, JsonObject
from gateway.wire.kube.clock import age as span
from gateway.wire.kube.clock import age_since, parse_rfc3339
from gateway.wire.kube.parts import part, rows, text
from gateway.wire.kube.printing.cells import (
    NONE,
    UNKNOWN,
    UNSET,
    Printed,
    age,
    columns,
    containers,
    count,
    counted,
    flag,
    labels_text,
    name_of,
    selector_cell,
    word,
)


def _template(item: JsonObject) -> JsonObject:
    return part(item, "spec", "template")


def _deployment(item: JsonObject, now: float) -> list[Json]:
    ready, wanted = count(item, "status", "readyReplicas"), count(item, "spec", "replicas")
    return [
        name_of(item),
        f"{ready}/{wanted}",
        count(item, "status", "updatedReplicas"),
        count(item, "status", "availableReplicas"),
        age(item, now),
        *containers(_template(item)),
        selector_cell(part(item, "spec").get("selector"), ""),
    ]


def _replicas(item: JsonObject, now: float) -> list[Json]:
    return [
        name_of(item),
        count(item, "spec", "replicas"),
        count(item, "status", "replicas"),
        count(item, "status", "readyReplicas"),
        age(item, now),
        *containers(_template(item)),
    ]


def _replicaset(item: JsonObject, now: float) -> list[Json]:
    return [*_replicas(item, now), selector_cell(part(item, "spec").get("selector"))]


def _replicationcontroller(item: JsonObject, now: float) -> list[Json]:
    return [*_replicas(item, now), labels_text(part(item, "spec").get("selector"))]


def _statefulset(item: JsonObject, now: float) -> list[Json]:
    ready, wanted = count(item, "status", "readyReplicas"), count(item, "spec", "replicas")
    return [name_of(item), f"{ready}/{wanted}", age(item, now), *containers(_template(item))]


_DAEMON_COUNTS = (
    "desiredNumberScheduled",
    "currentNumberScheduled",
    "numberReady",
    "updatedNumberScheduled",
    "numberAvailable",
)


def _daemonset(item: JsonObject, now: float) -> list[Json]:
    return [
        name_of(item),
        *(count(item, "status", field) for field in _DAEMON_COUNTS),
        labels_text(part(_template(item), "spec").get("nodeSelector")),
        age(item, now),
        *containers(_template(item)),
        selector_cell(part(item, "spec").get("selector")),
    ]


def _controllerrevision(item: JsonObject, now: float) -> list[Json]:
    owners = rows(part(item, "metadata").get("ownerReferences"))
    owner = next((each for each in owners if each.get("controller") is True), None)
    return [name_of(item), _owner(owner), count(item, "revision"), age(item, now)]


def _owner(owner: JsonObject | None) -> str:
    if owner is None:
        return NONE
    group = text(owner.get("apiVersion")).rpartition("/")[0]
    kind = text(owner.get("kind")) + (f".{group}" if group else "")
    return f"{kind.lower()}/{text(owner.get('name'))}"


_JOB_STATES = (
    ("Complete", "Complete"),
    ("Failed", "Failed"),
    ("", "Terminating"),
    ("Suspended", "Suspended"),
    ("FailureTarget", "FailureTarget"),
    ("SuccessCriteriaMet", "SuccessCriteriaMet"),
)
"""(condition that is true, word), the first that holds; "" stands for a job that is being deleted."""


def _job(item: JsonObject, now: float) -> list[Json]:
    return [
        name_of(item),
        _job_state(item),
        _completions(item),
        _duration(part(item, "status"), now),
        age(item, now),
        *containers(_template(item)),
        selector_cell(part(item, "spec").get("selector")),
    ]


def _job_state(item: JsonObject) -> str:
    true = {
        row.get("type")
        for row in rows(part(item, "status").get("conditions"))
        if row.get("status") == "True"
    }
    if part(item, "metadata").get("deletionTimestamp"):
        true.add("")
    return next((shown for kind, shown in _JOB_STATES if kind in true), "Running")


def _completions(item: JsonObject) -> str:
    done, wanted = count(item, "status", "succeeded"), part(item, "spec").get("completions")
    if wanted is not None:
        return f"{done}/{wanted}"
    at_once = count(item, "spec", "parallelism")
    return f"{done}/1 of {at_once}" if at_once > 1 else f"{done}/1"


def _duration(status: JsonObject, now: float) -> str:
    begun, ended = (parse_rfc3339(status.get(key)) for key in ("startTime", "completionTime"))
    return "" if begun is None else span((now if ended is None else ended) - begun)


def _cronjob(item: JsonObject, now: float) -> list[Json]:
    spec, status = part(item, "spec"), part(item, "status")
    last = status.get("lastScheduleTime")
    return [
        name_of(item),
        text(spec.get("schedule")),
        word(spec.get("timeZone")),
        "True" if flag(spec.get("suspend")) else "False",
        len(rows(status.get("active"))),
        age_since(last, now) if last else NONE,
        age(item, now),
        *containers(part(spec, "jobTemplate", "spec", "template")),
        selector_cell(part(spec, "jobTemplate", "spec").get("selector")),
    ]


# --- autoscalers ----------------------------------------------------------------------------------

_SOURCES = {
    "External": "external",
    "Object": "object",
    "Pods": "pods",
    "Resource": "resource",
    "ContainerResource": "containerResource",
}


def _autoscaler(item: JsonObject, now: float) -> list[Json]:
    spec = part(item, "spec")
    target = part(spec, "scaleTargetRef")
    wanted, seen = rows(spec.get("metrics")), rows(part(item, "status").get("currentMetrics"))
    targets = (_metric(row, seen[at] if at < len(seen) else {}) for at, row in enumerate(wanted))
    return [
        name_of(item),
        f"{text(target.get('kind'))}/{text(target.get('name'))}",
        counted(targets, NONE, 2, ", "),
        word(spec.get("minReplicas"), UNSET),
        count(item, "spec", "maxReplicas"),
        count(item, "status", "currentReplicas"),
        age(item, now),
    ]


def _metric(wanted: JsonObject, seen: JsonObject) -> str:
    kind = text(wanted.get("type"))
    source = _SOURCES.get(kind)
    if source is None:
        return "<unknown type>"
    target, now = part(wanted, source, "target"), part(seen, source, "current")
    average = target.get("averageValue")
    if kind in ("Resource", "ContainerResource"):
        name = text(part(wanted, source).get("name"))
        if average is not None:
            return f"{name}: {word(now.get('averageValue'), UNKNOWN)}/{average}"
        wanted_share = _share(target, "<auto>")
        return f"{name}: {_share(now, UNKNOWN)}/{wanted_share}"
    if kind == "Pods":
        return f"{word(now.get('averageValue'), UNKNOWN)}/{average}"
    if average is not None:
        return f"{word(now.get('averageValue'), UNKNOWN)}/{average} (avg)"
    return f"{word(now.get('value'), UNKNOWN)}/{word(target.get('value'), '0')}"


def _share(part_: JsonObject, absent: str) -> str:
    value = part_.get("averageUtilization")
    return absent if value is None else f"{value}%"


_LAYOUT = ("Containers*", "Images*", "Selector*")
_SET = ("Desired:integer", "Current:integer", "Ready:integer", "Age", *_LAYOUT)
_DAEMON = (
    "Desired:integer",
    "Current:integer",
    "Ready:integer",
    "Up-to-date:integer",
    "Available:integer",
    "Node Selector",
    "Age",
    *_LAYOUT,
)
_CRON = ("Schedule", "Timezone", "Suspend:boolean", "Active:integer", "Last Schedule", "Age")
_SCALER = ("Reference", "Targets", "MinPods", "MaxPods", "Replicas", "Age")

PRINTED: Mapping[str, Printed] = {
    "deployments.apps": Printed(
        columns("Ready", "Up-to-date", "Available", "Age", *_LAYOUT), _deployment
    ),
    "replicasets.apps": Printed(columns(*_SET), _replicaset),
    "replicationcontrollers": Printed(columns(*_SET), _replicationcontroller),
    "statefulsets.apps": Printed(columns("Ready", "Age", "Containers*", "Images*"), _statefulset),
    "daemonsets.apps": Printed(columns(*_DAEMON), _daemonset),
    "controllerrevisions.apps": Printed(
        columns("Controller", "Revision", "Age"), _controllerrevision
    ),
    "jobs.batch": Printed(columns("Status", "Completions", "Duration", "Age", *_LAYOUT), _job),
    "cronjobs.batch": Printed(columns(*_CRON, *_LAYOUT), _cronjob),
    "horizontalpodautoscalers.autoscaling": Printed(columns(*_SCALER), _autoscaler),
}
