"""How Pods are completed, judged and ended. Source: Kubernetes "Pods", "Pod Lifecycle", "Configure QoS".

What every spec of a Pod obeys, in a Pod or in a template, is in `podspecs` and `podrules`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from gateway.model.json import Json, JsonObject
from gateway.wire.kube.judging import forbidden
from gateway.wire.kube.parts import annotations_of, part, rows
from gateway.wire.kube.podrefs import MIRROR
from gateway.wire.kube.podrules import no_ephemeral, spec_faults
from gateway.wire.kube.podspecs import (
    CONTAINERS,
    GRACE_SECONDS,
    complete_ports_of_host,
    complete_requests,
    complete_spec,
    containers,
    fill,
    opened,
)
from gateway.wire.kube.quantity import quantity
from gateway.wire.kube.status import Cause
from gateway.wire.kube.validate import canonical

ENDED = ("Succeeded", "Failed")
AWAY_SECONDS = 300
"""So long a Pod stays where its node is not heard of, when it does not say itself."""
_AWAY = ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")
_CHANGEABLE = (
    "activeDeadlineSeconds",
    "schedulingGates",
    "tolerations",
)
_GATED: Final[JsonObject] = {
    "type": "PodScheduled",
    "status": "False",
    "reason": "SchedulingGated",
    "message": "Scheduling is blocked due to non-empty scheduling gates",
}


# --- completing -----------------------------------------------------------------------------------


def prepare_pod(item: JsonObject, old: JsonObject | None) -> None:
    """Fill in what a Pod does not say; a new one is Pending."""
    spec = opened(item, "spec")
    complete_spec(spec)
    complete_ports_of_host(spec)
    complete_requests(spec)
    spec.setdefault("enableServiceLinks", True)
    if MIRROR not in annotations_of(item):  # such a Pod names nothing of the API
        fill(spec, {"serviceAccountName": "default"})
        spec["serviceAccount"] = spec["serviceAccountName"]
    _bear_absence(spec)
    if old is None:
        spec.setdefault("priority", 0)
        fill(spec, {"preemptionPolicy": "PreemptLowerPriority"})
        item["status"] = _first_status(item, spec)


def _first_status(item: JsonObject, spec: JsonObject) -> JsonObject:
    status: JsonObject = {"phase": "Pending", "qosClass": qos_class(spec)}
    if spec.get("schedulingGates"):
        since = part(item, "metadata").get("creationTimestamp")
        times: JsonObject = {"lastProbeTime": None, "lastTransitionTime": since}
        status["conditions"] = [_GATED | times]
    return status


def _bear_absence(spec: JsonObject) -> None:
    """A Pod bears for a while that its node is away, unless it says how it takes that."""
    own = rows(spec.get("tolerations"))
    added: list[Json] = [
        {"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": AWAY_SECONDS}
        for key in _AWAY
        if not any(_bears(row, key) for row in own)
    ]
    if added:
        spec["tolerations"] = [*own, *added]


def _bears(row: JsonObject, key: str) -> bool:
    return row.get("key") in (key, None, "") and row.get("effect") in ("NoExecute", None, "")


def qos_class(spec: JsonObject) -> str:
    """`Guaranteed`, `Burstable` or `BestEffort`, by what containers ask for and are limited to."""
    resources = [part(each, "resources") for each in containers(spec)]
    pairs = [(_amounts(each, "requests"), _amounts(each, "limits")) for each in resources]
    if not any(requests or limits for requests, limits in pairs):
        return "BestEffort"
    is_fixed = all(
        name in limits and requests.get(name, limits[name]) == limits[name]
        for requests, limits in pairs
        for name in _COMPUTED
    )
    return "Guaranteed" if is_fixed else "Burstable"


_COMPUTED = ("cpu", "memory")


def _amounts(resources: JsonObject, name: str) -> dict[str, object]:
    """The amounts of what is computed with; others and nothing at all do not count."""
    found = {key: quantity(value) for key, value in part(resources, name).items()}
    return {key: value for key, value in found.items() if key in _COMPUTED and value}


# --- judging --------------------------------------------------------------------------------------


def pod_faults(item: JsonObject, old: JsonObject | None) -> list[Cause]:
    """Return what is wrong with a Pod, and what may not change any more."""
    spec = part(item, "spec")
    found = [*spec_faults("spec", spec)]
    if old is None:
        return [*found, *no_ephemeral(spec)]
    return [*found, *_fixed_faults(spec, part(old, "spec"))]


def _fixed_faults(spec: JsonObject, before: JsonObject) -> Iterator[Cause]:
    """A Pod's spec is what was made, but for its images and a few times."""
    if rows(spec.get("ephemeralContainers")) == rows(before.get("ephemeralContainers")) and (
        canonical(_fixed(spec)) == canonical(_fixed(before))
    ):
        yield from _toleration_faults(spec, before)
        yield from _deadline_faults(spec, before)
        yield from _gate_faults(spec, before)
        return
    yield forbidden("spec", _FIXED)


_FIXED = (
    "pod updates may not change fields other than `spec.containers[*].image`,"
    "`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions"
    " to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it"
    " was previously negative)"
)


def _toleration_faults(spec: JsonObject, before: JsonObject) -> Iterator[Cause]:
    """Tolerations come, they do not go."""
    kept = [canonical(row) for row in rows(spec.get("tolerations"))]
    if any(canonical(row) not in kept for row in rows(before.get("tolerations"))):
        why = "existing toleration can not be modified except its tolerationSeconds"
        if len(kept) >= len(rows(before.get("tolerations"))) and _only_seconds(spec, before):
            return
        yield forbidden("spec.tolerations", why)


def _gate_faults(spec: JsonObject, before: JsonObject) -> Iterator[Cause]:
    """Gates go, they do not come."""
    known = [row.get("name") for row in rows(before.get("schedulingGates"))]
    for at, row in enumerate(rows(spec.get("schedulingGates"))):
        if row.get("name") not in known:
            why = f"only deletion is allowed, but found new scheduling gate '{row.get('name')}'"
            yield forbidden(f"spec.schedulingGates[{at}].name", why)


def _only_seconds(spec: JsonObject, before: JsonObject) -> bool:
    kept = [_timeless(row) for row in rows(spec.get("tolerations"))]
    return all(_timeless(row) in kept for row in rows(before.get("tolerations")))


def _timeless(row: JsonObject) -> bytes:
    return canonical({key: value for key, value in row.items() if key != "tolerationSeconds"})


def _deadline_faults(spec: JsonObject, before: JsonObject) -> Iterator[Cause]:
    """A deadline may come nearer, not go."""
    old, new = before.get("activeDeadlineSeconds"), spec.get("activeDeadlineSeconds")
    if isinstance(old, int) and not (isinstance(new, int) and new <= old):
        shown = "null" if new is None else new
        why = (
            "must not update from a positive integer to nil value"
            if new is None
            else f"must be less than or equal to previous value ({old})"
        )
        text_ = f"Invalid value: {shown}: {why}"
        yield Cause("FieldValueInvalid", text_, "spec.activeDeadlineSeconds")


def _fixed(spec: JsonObject) -> JsonObject:
    kept: JsonObject = {key: value for key, value in spec.items() if key not in _CHANGEABLE}
    for name in CONTAINERS:
        kept[name] = [
            {key: value for key, value in container.items() if key != "image"}
            for container in rows(spec.get(name))
        ]
    return kept


# --- ending ---------------------------------------------------------------------------------------


def pod_grace(item: JsonObject, asked: int | None) -> int:
    """Return the seconds that a Pod's deletion may take; 0 where nothing of it can be running."""
    spec, status = part(item, "spec"), part(item, "status")
    if not spec.get("nodeName") or status.get("phase") in ENDED:
        return 0
    own = spec.get("terminationGracePeriodSeconds")
    seconds = asked if asked is not None else own if isinstance(own, int) else GRACE_SECONDS
    return 1 if seconds < 0 else seconds
