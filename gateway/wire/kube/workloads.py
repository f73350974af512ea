"""How sets of Pods are completed and judged: `apps`, replication controllers, templates of Pods.

Source: Kubernetes API reference, `apps/v1`; defaults and texts seen on version 1.36.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from gateway.model.json import Json, JsonObject
from gateway.wire.kube.judging import (
    count_or_share,
    fixed,
    forbidden,
    is_nothing,
    is_readable,
    known,
    label_faults,
    none_negative,
    not_negative,
    selector_faults,
    unsupported,
)
from gateway.wire.kube.names import invalid_value, required
from gateway.wire.kube.parts import part, rows, text
from gateway.wire.kube.podrules import spec_faults
from gateway.wire.kube.podspecs import complete_claim_spec, complete_template, fill, opened
from gateway.wire.kube.selectors import read_selector
from gateway.wire.kube.status import Cause
from gateway.wire.kube.validate import canonical

GENERATION = "deprecated.daemonset.template.generation"
_QUARTER: Final = "25%"


def _is_set(value: Json) -> bool:
    return isinstance(value, dict) and bool(value)


# --- completing -----------------------------------------------------------------------------------


def prepare_deployment(item: JsonObject, _old: JsonObject | None) -> None:
    """Fill in what a Deployment does not say."""
    spec = opened(item, "spec")
    spec.setdefault("replicas", 1)
    spec.setdefault("revisionHistoryLimit", 10)
    spec.setdefault("progressDeadlineSeconds", 600)
    strategy = opened(spec, "strategy")
    fill(strategy, {"type": "RollingUpdate"})
    if strategy["type"] == "RollingUpdate":
        rolling = opened(strategy, "rollingUpdate")
        rolling.setdefault("maxUnavailable", _QUARTER)
        rolling.setdefault("maxSurge", _QUARTER)
    complete_template(opened(spec, "template"))
    item.setdefault("status", {})


def prepare_replicaset(item: JsonObject, _old: JsonObject | None) -> None:
    """Fill in what a ReplicaSet does not say."""
    spec = opened(item, "spec")
    spec.setdefault("replicas", 1)
    complete_template(opened(spec, "template"))
    opened(item, "status").setdefault("replicas", 0)


def prepare_statefulset(item: JsonObject, _old: JsonObject | None) -> None:
    """Fill in what a StatefulSet does not say."""
    spec = opened(item, "spec")
    spec.setdefault("replicas", 1)
    spec.setdefault("revisionHistoryLimit", 10)
    spec.setdefault("serviceName", "")
    fill(spec, {"podManagementPolicy": "OrderedReady"})
    update = opened(spec, "updateStrategy")
    fill(update, {"type": "RollingUpdate"})
    if update["type"] == "RollingUpdate":
        opened(update, "rollingUpdate").setdefault("partition", 0)
    kept = opened(spec, "persistentVolumeClaimRetentionPolicy")
    fill(kept, {"whenDeleted": "Retain", "whenScaled": "Retain"})
    complete_template(opened(spec, "template"))
    for claim in rows(spec.get("volumeClaimTemplates")):
        fill(claim, {"apiVersion": "v1", "kind": "PersistentVolumeClaim"})
        opened(claim, "metadata")
        complete_claim_spec(opened(claim, "spec"))
        fill(opened(claim, "status"), {"phase": "Pending"})
    status = opened(item, "status")
    for name in ("replicas", "availableReplicas"):
        status.setdefault(name, 0)


_DAEMON_STATUS: Final[JsonObject] = {
    "currentNumberScheduled": 0,
    "numberMisscheduled": 0,
    "desiredNumberScheduled": 0,
    "numberReady": 0,
}


def prepare_daemonset(item: JsonObject, old: JsonObject | None) -> None:
    """Fill in what a DaemonSet does not say; its template has a number of its own, in an annotation."""
    spec = opened(item, "spec")
    spec.setdefault("revisionHistoryLimit", 10)
    update = opened(spec, "updateStrategy")
    fill(update, {"type": "RollingUpdate"})
    if update["type"] == "RollingUpdate":
        rolling = opened(update, "rollingUpdate")
        rolling.setdefault("maxUnavailable", 1)
        rolling.setdefault("maxSurge", 0)
    complete_template(opened(spec, "template"))
    notes = opened(opened(item, "metadata"), "annotations")
    notes[GENERATION] = str(_template_number(spec, old))
    for name, value in _DAEMON_STATUS.items():
        opened(item, "status").setdefault(name, value)


def _template_number(spec: JsonObject, old: JsonObject | None) -> int:
    if old is None:
        return 1
    noted = text(part(old, "metadata", "annotations").get(GENERATION))
    number = int(noted) if noted.isdigit() else 1
    before = part(old, "spec").get("template")
    return number + (canonical(before) != canonical(spec.get("template")))


def prepare_replicationcontroller(item: JsonObject, _old: JsonObject | None) -> None:
    """Fill in what a ReplicationController does not say; its labels are those of its Pods."""
    spec = opened(item, "spec")
    if isinstance(spec.get("template"), dict):
        complete_template(opened(spec, "template"))
        labels = part(spec, "template", "metadata").get("labels")
        if _is_set(labels):
            fill(opened(item, "metadata"), {"labels": labels})
            fill(spec, {"selector": labels})
    opened(item, "status").setdefault("replicas", 0)


def prepare_podtemplate(item: JsonObject, _old: JsonObject | None) -> None:
    complete_template(opened(item, "template"))


# --- judging --------------------------------------------------------------------------------------


def template_faults(path: str, template: JsonObject) -> Iterator[Cause]:
    """What is wrong with a template of Pods."""
    metadata = part(template, "metadata")
    yield from label_faults(f"{path}.metadata.labels", metadata.get("labels"))
    yield from spec_faults(f"{path}.spec", part(template, "spec"))


def _set_faults(item: JsonObject, kind: str) -> Iterator[Cause]:
    """The selector and the template of something that keeps Pods running."""
    spec = part(item, "spec")
    selector, template = spec.get("selector"), part(spec, "template")
    yield from selector_faults("spec.selector", selector)
    if selector is None:
        yield required("spec.selector")
    elif not selector:
        why = f"empty selector is invalid for {kind}"
        yield invalid_value("spec.selector", selector, why)
    elif not is_readable(part(spec, "selector")):
        yield invalid_value("spec.selector", selector, "invalid label selector")
    labels = part(template, "metadata").get("labels")
    is_said = selector is None or (selector and is_readable(part(spec, "selector")))
    if is_said and not _selects(selector, template):
        why = "`selector` does not match template `labels`"
        yield invalid_value("spec.template.metadata.labels", labels, why)
    yield from template_faults("spec.template", template)
    yield from _lasting_faults(
        part(template, "spec"), "ReplicaSet" if kind != "daemonset" else "DaemonSet"
    )


def _selects(selector: Json, template: JsonObject) -> bool:
    return isinstance(selector, dict) and read_selector(selector).matches(template)


def _lasting_faults(spec: JsonObject, kind: str) -> Iterator[Cause]:
    """Pods that are kept running do not end by themselves."""
    policy = spec.get("restartPolicy")
    if policy not in (None, "Always") and policy in ("OnFailure", "Never"):
        yield unsupported("spec.template.spec.restartPolicy", policy, ("Always",))
    if spec.get("activeDeadlineSeconds") is not None:
        why = f"activeDeadlineSeconds in {kind} is not Supported"
        yield forbidden("spec.template.spec.activeDeadlineSeconds", why)


def deployment_faults(item: JsonObject, old: JsonObject | None) -> list[Cause]:
    """What is wrong with a Deployment, and what may not change of it."""
    return [*_deployment(item), *_selector_fixed(item, old)]


def _deployment(item: JsonObject) -> Iterator[Cause]:
    spec = part(item, "spec")
    yield from none_negative(spec, "spec", "replicas")
    yield from _set_faults(item, "deployment")
    yield from _strategy_faults(part(spec, "strategy"))
    yield from none_negative(spec, "spec", "minReadySeconds", "revisionHistoryLimit")
    deadline, ready = spec.get("progressDeadlineSeconds"), spec.get("minReadySeconds") or 0
    if isinstance(deadline, int) and isinstance(ready, int):
        yield from not_negative("spec.progressDeadlineSeconds", deadline)
        if deadline <= ready:
            why = "must be greater than minReadySeconds"
            yield invalid_value("spec.progressDeadlineSeconds", deadline, why)


def _strategy_faults(strategy: JsonObject) -> Iterator[Cause]:
    kind, rolling = strategy.get("type"), part(strategy, "rollingUpdate")
    if kind == "Recreate":
        if strategy.get("rollingUpdate") is not None:
            why = "may not be specified when strategy `type` is 'Recreate'"
            yield forbidden("spec.strategy.rollingUpdate", why)
    elif kind == "RollingUpdate":
        yield from _rolling_faults("spec.strategy.rollingUpdate", rolling)
    else:
        shown: JsonObject = {"Type": kind, "RollingUpdate": strategy.get("rollingUpdate")}
        yield _unsupported_shown("spec.strategy", shown, ("Recreate", "RollingUpdate"))


def _unsupported_shown(path: str, shown: JsonObject, allowed: tuple[str, ...]) -> Cause:
    """A part that has the wrong type, with the fields in the order of the type."""
    kind, rolling = shown["Type"], shown["RollingUpdate"]
    inner = "null" if rolling is None else "{}"
    words = ", ".join(f'"{word}"' for word in allowed)
    value = f'{{"Type":"{kind}","RollingUpdate":{inner}}}'
    return Cause(
        "FieldValueNotSupported", f"Unsupported value: {value}: supported values: {words}", path
    )


def _rolling_faults(path: str, rolling: JsonObject) -> Iterator[Cause]:
    missing, surge = rolling.get("maxUnavailable"), rolling.get("maxSurge")
    yield from count_or_share(f"{path}.maxUnavailable", missing, most=False)
    yield from count_or_share(f"{path}.maxSurge", surge, most=False)
    if is_nothing(missing) and is_nothing(surge):
        yield invalid_value(f"{path}.maxUnavailable", missing, "may not be 0 when `maxSurge` is 0")
    yield from (
        cause
        for cause in count_or_share(f"{path}.maxUnavailable", missing)
        if "100%" in cause.message
    )


def _selector_fixed(item: JsonObject, old: JsonObject | None) -> Iterator[Cause]:
    if old is not None:
        before, after = part(old, "spec").get("selector"), part(item, "spec").get("selector")
        yield from fixed("spec.selector", before, after)


def replicaset_faults(item: JsonObject, old: JsonObject | None) -> list[Cause]:
    """What is wrong with a ReplicaSet, and what may not change of it."""
    spec = part(item, "spec")
    return [
        *none_negative(spec, "spec", "replicas", "minReadySeconds"),
        *_set_faults(item, "replicaset"),
        *_selector_fixed(item, old),
    ]


_STATEFUL_CHANGEABLE = (
    "replicas",
    "ordinals",
    "template",
    "updateStrategy",
    "revisionHistoryLimit",
    "persistentVolumeClaimRetentionPolicy",
    "minReadySeconds",
)
_STATEFUL_FIXED = (
    "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template',"
    " 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and"
    " 'minReadySeconds' are forbidden"
)


def statefulset_faults(item: JsonObject, old: JsonObject | None) -> list[Cause]:
    """What is wrong with a StatefulSet, and what may not change of it."""
    found = [*_statefulset(item)]
    if old is not None:
        before, after = (
            canonical(
                {
                    key: value
                    for key, value in part(each, "spec").items()
                    if key not in _STATEFUL_CHANGEABLE
                }
            )
            for each in (old, item)
        )
        if before != after:
            found.append(forbidden("spec", _STATEFUL_FIXED))
    return found


def _statefulset(item: JsonObject) -> Iterator[Cause]:
    spec = part(item, "spec")
    policy, update = spec.get("podManagementPolicy"), part(spec, "updateStrategy")
    if policy not in ("OrderedReady", "Parallel"):
        why = "must be 'OrderedReady' or 'Parallel'"
        yield invalid_value("spec.podManagementPolicy", policy, why)
    yield from _stateful_update_faults(update)
    kept = part(spec, "persistentVolumeClaimRetentionPolicy")
    for name in ("whenDeleted", "whenScaled"):
        path = f"spec.persistentVolumeClaimRetentionPolicy.{name}"
        yield from known(path, kept.get(name), ("Retain", "Delete"), must=True)
    yield from none_negative(spec, "spec", "replicas", "minReadySeconds", "revisionHistoryLimit")
    yield from none_negative(part(spec, "ordinals"), "spec.ordinals", "start")
    yield from _set_faults(item, "statefulset")


def _stateful_update_faults(update: JsonObject) -> Iterator[Cause]:
    path, kind = "spec.updateStrategy", update.get("type")
    rolling = part(update, "rollingUpdate")
    if kind == "OnDelete" and update.get("rollingUpdate") is not None:
        why = "only allowed for updateStrategy 'RollingUpdate'"
        yield invalid_value(f"{path}.rollingUpdate", rolling, why)
    elif kind == "RollingUpdate":
        yield from none_negative(rolling, f"{path}.rollingUpdate", "partition")
        missing = rolling.get("maxUnavailable")
        yield from count_or_share(f"{path}.rollingUpdate.maxUnavailable", missing)
        if missing is not None and is_nothing(missing):
            yield invalid_value(f"{path}.rollingUpdate.maxUnavailable", missing, "cannot be 0")
    elif kind != "OnDelete":
        why = "must be 'RollingUpdate' or 'OnDelete'"
        text_ = f'Invalid value: {{"Type":"{kind}","RollingUpdate":null}}: {why}'
        yield Cause("FieldValueInvalid", text_, path)


def daemonset_faults(item: JsonObject, old: JsonObject | None) -> list[Cause]:
    """What is wrong with a DaemonSet, and what may not change of it."""
    return [*_daemonset(item), *_selector_fixed(item, old)]


def _daemonset(item: JsonObject) -> Iterator[Cause]:
    spec = part(item, "spec")
    yield from _set_faults(item, "daemonset")
    yield from none_negative(spec, "spec", "minReadySeconds")
    yield from _daemon_update_faults(part(spec, "updateStrategy"))
    yield from none_negative(spec, "spec", "revisionHistoryLimit")


def _daemon_update_faults(update: JsonObject) -> Iterator[Cause]:
    path, kind = "spec.updateStrategy.rollingUpdate", update.get("type")
    if kind not in ("RollingUpdate", "OnDelete"):
        shown: JsonObject = {"Type": kind, "RollingUpdate": update.get("rollingUpdate")}
        yield _unsupported_shown("spec.updateStrategy", shown, ("RollingUpdate", "OnDelete"))
    if kind != "RollingUpdate":
        return
    rolling = part(update, "rollingUpdate")
    missing, surge = rolling.get("maxUnavailable"), rolling.get("maxSurge")
    yield from count_or_share(f"{path}.maxUnavailable", missing)
    yield from count_or_share(f"{path}.maxSurge", surge)
    if not is_nothing(missing) and not is_nothing(surge):
        why = "may not be set when maxUnavailable is non-zero"
        yield invalid_value(f"{path}.maxSurge", surge, why)
    elif is_nothing(missing) and is_nothing(surge):
        yield required(f"{path}.maxUnavailable", "cannot be 0 when maxSurge is 0")


def replicationcontroller_faults(item: JsonObject, _old: JsonObject | None) -> list[Cause]:
    """What is wrong with a ReplicationController."""
    return [*_replicationcontroller(part(item, "spec"))]


def _replicationcontroller(spec: JsonObject) -> Iterator[Cause]:
    yield from none_negative(spec, "spec", "minReadySeconds")
    selector, template = spec.get("selector"), spec.get("template")
    if not selector:
        yield required("spec.selector")
    yield from none_negative(spec, "spec", "replicas")
    if not isinstance(template, dict):
        yield required("spec.template")
        return
    labels = part(template, "metadata").get("labels")
    if selector and not _selects({"matchLabels": selector}, template):
        why = "`selector` does not match template `labels`"
        yield invalid_value("spec.template.metadata.labels", labels, why)
    yield from template_faults("spec.template", template)
    yield from _lasting_faults(part(template, "spec"), "ReplicationController")


def podtemplate_faults(item: JsonObject, _old: JsonObject | None) -> list[Cause]:
    """What is wrong with a template of Pods that is kept by itself."""
    return [*template_faults("template", part(item, "template"))]


def revision_faults(item: JsonObject, old: JsonObject | None) -> list[Cause]:
    """What is wrong with a ControllerRevision; its data stay."""
    found = [*not_negative("revision", item.get("revision"))]
    if item.get("data") is None:
        found.append(required("data", "data is mandatory"))
    return found + ([*fixed("data", old.get("data"), item.get("data"))] if old is not None else [])
