"""How budgets, autoscalers, classes of priority, quotas and limits are completed and judged.

Source: Kubernetes API reference, `policy/v1`, `autoscaling/v2`, `scheduling.k8s.io/v1`; texts seen on
version 1.36.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from gateway.model.json import Json, JsonObject
from gateway.wire.kube.amountrules import HUGE, is_of_containers
from gateway.wire.kube.amounts import shortest
from gateway.wire.kube.judging import (
    count_or_share,
    fixed,
    forbidden,
    known,
    named,
    selector_faults,
    unsupported,
)
from gateway.wire.kube.names import invalid_value, label_fault, qualified_fault, required
from gateway.wire.kube.parts import part, rows, text
from gateway.wire.kube.podspecs import fill, opened
from gateway.wire.kube.quantity import quantity
from gateway.wire.kube.status import Cause

# --- budgets --------------------------------------------------------------------------------------

_BUDGET_STATUS = ("disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods")


def prepare_budget(item: JsonObject, _old: JsonObject | None) -> None:
    opened(item, "spec")
    status = opened(item, "status")
    for name in _BUDGET_STATUS:
        status.setdefault(name, 0)


def budget_faults(item: JsonObject, _old: JsonObject | None) -> list[Cause]:
    """What is wrong with a PodDisruptionBudget."""
    return [*_budget(part(item, "spec"))]


def _budget(spec: JsonObject) -> Iterator[Cause]:
    least, most = spec.get("minAvailable"), spec.get("maxUnavailable")
    if least is not None and most is not None:
        yield _both_fault(spec)
    for name, value in (("minAvailable", least), ("maxUnavailable", most)):
        if value is not None:
            yield from count_or_share(f"spec.{name}", value)
    yield from selector_faults("spec.selector", spec.get("selector"))
    policies = ("AlwaysAllow", "IfHealthyBudget")
    wanted = spec.get("unhealthyPodEvictionPolicy")
    yield from known("spec.unhealthyPodEvictionPolicy", wanted, policies)


def _both_fault(spec: JsonObject) -> Cause:
    shown = ",".join(
        f'"{name[0].upper()}{name[1:]}":{_shown(spec.get(name))}'
        for name in ("minAvailable", "selector", "maxUnavailable", "unhealthyPodEvictionPolicy")
    )
    why = "minAvailable and maxUnavailable cannot be both set"
    return Cause("FieldValueInvalid", f"Invalid value: {{{shown}}}: {why}", "spec")


def _shown(value: Json) -> str:
    return "null" if value is None else f'"{value}"' if isinstance(value, str) else str(value)


# --- autoscalers ----------------------------------------------------------------------------------

_CPU: Final[JsonObject] = {
    "type": "Resource",
    "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}},
}
_METRICS = ("ContainerResource", "External", "Object", "Pods", "Resource")


def prepare_autoscaler(item: JsonObject, _old: JsonObject | None) -> None:
    """Fill in what a HorizontalPodAutoscaler does not say."""
    spec = opened(item, "spec")
    spec.setdefault("minReplicas", 1)
    if not spec.get("metrics"):
        resource = part(_CPU, "resource")
        spec["metrics"] = [
            {**_CPU, "resource": {**resource, "target": {**part(resource, "target")}}}
        ]
    behavior = spec.get("behavior")
    if isinstance(behavior, dict):
        _complete_behavior(behavior)
    status = opened(item, "status")
    status.setdefault("desiredReplicas", 0)
    status.setdefault("currentMetrics", None)


def _complete_behavior(behavior: JsonObject) -> None:
    up, down = opened(behavior, "scaleUp"), opened(behavior, "scaleDown")
    up.setdefault("stabilizationWindowSeconds", 0)
    for rules, policies in ((up, _up_policies()), (down, _down_policies())):
        fill(rules, {"selectPolicy": "Max"})
        if not rules.get("policies"):
            rules["policies"] = policies


def _up_policies() -> list[Json]:
    return [
        {"type": "Pods", "value": 4, "periodSeconds": 15},
        {"type": "Percent", "value": 100, "periodSeconds": 15},
    ]


def _down_policies() -> list[Json]:
    return [{"type": "Percent", "value": 100, "periodSeconds": 15}]


def autoscaler_faults(item: JsonObject, _old: JsonObject | None) -> list[Cause]:
    """What is wrong with a HorizontalPodAutoscaler."""
    return [*_autoscaler(part(item, "spec"))]


def _autoscaler(spec: JsonObject) -> Iterator[Cause]:
    least, most = spec.get("minReplicas"), spec.get("maxReplicas") or 0
    if isinstance(least, int) and least < 1:
        why = "must be greater than or equal to 1"
        yield invalid_value("spec.minReplicas", least, why)
    if isinstance(most, int) and most < 1:
        yield required("spec.maxReplicas", "must be set and greater than 0")
    elif isinstance(least, int) and isinstance(most, int) and most < least:
        why = "must be greater than or equal to `minReplicas`"
        yield invalid_value("spec.maxReplicas", most, why)
    target = part(spec, "scaleTargetRef")
    for name in ("kind", "name"):
        if not target.get(name):
            yield required(f"spec.scaleTargetRef.{name}")
    version = text(target.get("apiVersion"))
    if "/" not in version and target.get("kind") != "ReplicationController":
        why = "apiVersion must specify API group"
        yield invalid_value("spec.scaleTargetRef.apiVersion", version, why)
    for at, metric in enumerate(rows(spec.get("metrics"))):
        yield from _metric(f"spec.metrics[{at}]", metric)
    is_outer = any(row.get("type") in ("Object", "External") for row in rows(spec.get("metrics")))
    if least == 0 and not is_outer:
        why = "must specify at least one Object or External metric to support scaling to zero replicas"
        yield forbidden("spec.metrics", why)


def _metric(path: str, metric: JsonObject) -> Iterator[Cause]:
    kind = metric.get("type")
    if kind not in _METRICS:
        yield unsupported(f"{path}.type", kind or "", _METRICS)
        return
    name = f"{text(kind)[0].lower()}{text(kind)[1:]}"
    if name not in metric:
        yield required(f"{path}.{name}", "must populate information for the given metric source")
        return
    source, where = part(metric, name), f"{path}.{name}"
    if kind in ("Resource", "ContainerResource") and not source.get("name"):
        yield required(f"{where}.name", "must specify a resource name")
    if kind == "ContainerResource" and not source.get("container"):
        yield required(f"{where}.container", "must specify a container")
    yield from _target(where, part(source, "target"), text(kind))


_TARGETS = ("AverageValue", "Utilization", "Value")


def _target(path: str, target: JsonObject, kind: str) -> Iterator[Cause]:
    if not target.get("type"):
        yield required(f"{path}.target.type", "must specify a metric target type")
    else:
        yield from known(f"{path}.target.type", target["type"], _TARGETS)
    share, average = target.get("averageUtilization"), target.get("averageValue")
    if isinstance(share, int) and share < 1:
        yield invalid_value(f"{path}.target.averageUtilization", share, "must be greater than 0")
    if kind in ("Resource", "ContainerResource"):
        if share is None and average is None:
            why = "must set either a target raw value or a target utilization"
            yield required(f"{path}.target.averageUtilization", why)
        elif share is not None and average is not None:
            why = "may not set both a target raw value and a target utilization"
            yield forbidden(f"{path}.target.averageValue", why)


# --- classes --------------------------------------------------------------------------------------

SYSTEM_CLASSES: Final = {
    "system-node-critical": 2_000_001_000,
    "system-cluster-critical": 2_000_000_000,
}
MOST_PRIORITY = 1_000_000_000


def prepare_priority(item: JsonObject, _old: JsonObject | None) -> None:
    item.setdefault("value", 0)
    fill(item, {"preemptionPolicy": "PreemptLowerPriority"})


def priority_faults(item: JsonObject, old: JsonObject | None) -> list[Cause]:
    """What is wrong with a PriorityClass; its value stays."""
    found = [*_priority(item)]
    if old is not None:
        if old.get("value") != item.get("value"):
            found.append(forbidden("value", "may not be changed in an update."))
        found += fixed(
            "preemptionPolicy", old.get("preemptionPolicy"), item.get("preemptionPolicy")
        )
    return found


def _priority(item: JsonObject) -> Iterator[Cause]:
    name, value = text(part(item, "metadata").get("name")), item.get("value")
    if name.startswith("system-"):
        if SYSTEM_CLASSES.get(name) != value:
            why = (
                "priority class names with 'system-' prefix are reserved for system use only. error:"
                f" {name} is not a known system priority class"
            )
            yield forbidden("metadata.name", why)
    elif isinstance(value, int) and value > MOST_PRIORITY:
        why = f"maximum allowed value of a user defined priority is {MOST_PRIORITY}"
        yield forbidden("value", why)
    policies = ("PreemptLowerPriority", "Never")
    yield from known("preemptionPolicy", item.get("preemptionPolicy"), policies)


def runtime_faults(item: JsonObject, old: JsonObject | None) -> list[Cause]:
    """What is wrong with a RuntimeClass; its handler stays."""
    found = [*named("handler", item.get("handler") or "", label_fault)]
    return found + ([*fixed("handler", old.get("handler"), item.get("handler"))] if old else [])


# --- quotas and limits ----------------------------------------------------------------------------

_COUNTED = (
    "pods",
    "services",
    "replicationcontrollers",
    "resourcequotas",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "services.nodeports",
    "services.loadbalancers",
    "requests.storage",
)
_SCOPES = (
    "Terminating",
    "NotTerminating",
    "BestEffort",
    "NotBestEffort",
    "PriorityClass",
    "CrossNamespacePodAffinity",
    "VolumeAttributesClass",
)


def prepare_quota(item: JsonObject, _old: JsonObject | None) -> None:
    opened(item, "spec")
    item.setdefault("status", {})


def quota_faults(item: JsonObject, old: JsonObject | None) -> list[Cause]:
    """What is wrong with a ResourceQuota; its scopes stay."""
    spec = part(item, "spec")
    found = [*_quota(spec)]
    if old is not None:
        found += fixed("spec.scopes", part(old, "spec").get("scopes"), spec.get("scopes"))
    return found


def _quota(spec: JsonObject) -> Iterator[Cause]:
    for name, amount in part(spec, "hard").items():
        path, value = f"spec.hard[{name}]", quantity(amount)
        why = qualified_fault(name)
        if why:
            yield invalid_value(path, name, why)
        if "/" not in name and not _is_counted(name):
            if not why:
                yield invalid_value(
                    path, name, "must be a standard resource type or fully qualified"
                )
            yield invalid_value(path, name, "must be a standard resource for quota")
        if value is not None and value < 0:
            yield invalid_value(path, shortest(str(amount)), "must be greater than or equal to 0")
    scopes = spec.get("scopes")
    if isinstance(scopes, list) and any(scope not in _SCOPES for scope in scopes):
        yield invalid_value("spec.scopes", scopes, "unsupported scope")


def _is_counted(name: str) -> bool:
    plain = name.removeprefix("requests.").removeprefix("limits.")
    return name in _COUNTED or is_of_containers(plain) or plain.startswith(HUGE)


def prepare_limits(item: JsonObject, _old: JsonObject | None) -> None:
    """Fill in what a LimitRange does not say of containers: limits stand in for what is asked for."""
    spec = opened(item, "spec")
    spec.setdefault("limits", None)
    for row in rows(spec.get("limits")):
        if row.get("type") != "Container":
            continue
        default = {**part(row, "max"), **part(row, "default")}
        _set(row, "default", default)
        _set(row, "defaultRequest", _asked(row, default))


def _asked(row: JsonObject, default: JsonObject) -> JsonObject:
    return {**part(row, "min"), **default, **part(row, "defaultRequest")}


def _set(row: JsonObject, name: str, value: JsonObject) -> None:
    if value:
        row[name] = value


def limits_faults(item: JsonObject, _old: JsonObject | None) -> list[Cause]:
    """What is wrong with a LimitRange."""
    return [
        cause
        for at, row in enumerate(rows(part(item, "spec").get("limits")))
        for cause in _limits(f"spec.limits[{at}]", row)
    ]


_ORDER = (
    ("min", "defaultRequest", "min value {} is greater than default request value {}"),
    ("min", "default", "min value {} is greater than default value {}"),
)


def _limits(path: str, row: JsonObject) -> Iterator[Cause]:
    if row.get("type") == "Pod":
        for name in ("default", "defaultRequest"):
            if row.get(name):
                yield forbidden(f"{path}.{name}", "may not be specified when `type` is 'Pod'")
    parts = ("min", "max", "default", "defaultRequest")
    names = sorted({name for each in parts for name in part(row, each)})
    for name in names:
        least, most = part(row, "min").get(name), part(row, "max").get(name)
        if _exceeds(least, most):
            why = f"min value {least} is greater than max value {most}"
            yield invalid_value(f"{path}.min[{name}]", least, why)
        for lower, upper, words in _ORDER:
            low, high = part(row, lower).get(name), part(row, upper).get(name)
            if _exceeds(low, high):
                field = "defaultRequest" if upper == "defaultRequest" else "default"
                shown = high if field == "defaultRequest" else low
                yield invalid_value(f"{path}.{field}[{name}]", shown, words.format(low, high))


def _exceeds(low: Json, high: Json) -> bool:
    below, above = quantity(low), quantity(high)
    return below is not None and above is not None and below > above
