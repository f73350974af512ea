"""What a PodDisruptionBudget says of its Pods: how many there should be, how many must stay, how many serve.

Source: Kubernetes "Specifying a Disruption Budget for your Application", API `policy/v1`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from gateway.model.json import Json, JsonObject
from gateway.wire.kube.clock import parse_rfc3339, rfc3339
from gateway.wire.kube.conditions import condition_of, find
from gateway.wire.kube.parts import part, rows, text, whole
from gateway.wire.kube.podstate import is_deleting, is_ended, is_ready
from gateway.wire.kube.shares import share_of

ALLOWED, SUFFICIENT, INSUFFICIENT = "DisruptionAllowed", "SufficientPods", "InsufficientPods"
FAILED = "SyncFailed"
TARGETED = "DisruptionTarget"
BY_KUBELET = "TerminationByKubelet"
NOTED_SECONDS = 120.0
"""So long an eviction is believed to be about to happen; so long a Pod is believed to be about to go."""
_COUNTS = ("disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods")


@dataclass(frozen=True, slots=True)
class Demand:
    """Shape: `expected` Pods there should be, `healthy` of them have to be."""

    expected: int
    healthy: int


def needs_scale(budget: JsonObject) -> bool:
    """True for a budget that counts what the owners of its Pods want, not what is there."""
    spec = part(budget, "spec")
    return spec.get("maxUnavailable") is not None or isinstance(spec.get("minAvailable"), str)


def demand(budget: JsonObject, pods: int, scale: int) -> Demand:
    """Return how many Pods a budget wants.

    Shape:  `scale` is the sum of what their owners want, where `needs_scale`.
    """
    spec = part(budget, "spec")
    at_most, at_least = spec.get("maxUnavailable"), spec.get("minAvailable")
    if at_most is not None:
        return Demand(scale, max(scale - share_of(at_most, scale, up=True), 0))
    if isinstance(at_least, str):
        return Demand(scale, share_of(at_least, scale, up=True))
    return Demand(pods, whole(at_least)) if at_least is not None else Demand(0, 0)


@dataclass(frozen=True, slots=True)
class Noted:
    """The evictions that a budget has granted and that are yet to be seen.

    Shape:  `pods` by name, with the time of the grant; `expired` were granted and did not happen.
    Units:  `until` in seconds since the epoch: when the first of them expires, None for none.
    """

    pods: Mapping[str, str]
    expired: tuple[JsonObject, ...]
    until: float | None


def noted_evictions(budget: JsonObject, pods: Iterable[JsonObject], now: float) -> Noted:
    """Return which granted evictions still count."""
    granted = part(budget, "status", "disruptedPods")
    kept: dict[str, str] = {}
    expired: list[JsonObject] = []
    ends: list[float] = []
    for pod in pods:
        meta = part(pod, "metadata")
        name = text(meta.get("name"))
        if is_deleting(pod) or name not in granted:
            continue
        since = parse_rfc3339(granted[name]) or 0.0
        end = since + NOTED_SECONDS
        if end < now:
            expired.append(pod)
        elif (parse_rfc3339(meta.get("creationTimestamp")) or 0.0) < since:
            kept[name] = text(granted[name])
            ends.append(end)  # else it is another Pod of that name, made since by a StatefulSet
    return Noted(kept, tuple(expired), min(ends, default=None))


def healthy(pods: Iterable[JsonObject], noted: Noted) -> int:
    """Return how many Pods serve and are not about to go."""
    return sum(
        is_ready(pod)
        and not is_deleting(pod)
        and text(part(pod, "metadata").get("name")) not in noted.pods
        for pod in pods
    )


# --- status ---------------------------------------------------------------------------------------


def budget_status(
    budget: JsonObject, wanted: Demand, current: int, noted: Noted, now: float
) -> JsonObject:
    """Return the status of a budget. Nothing is allowed while no Pods are expected."""
    spare = current - wanted.healthy
    allowed = spare if wanted.expected > 0 and spare > 0 else 0
    generation = whole(part(budget, "metadata").get("generation"))
    condition: JsonObject = {
        "type": ALLOWED,
        "status": "True" if allowed else "False",
        "reason": SUFFICIENT if allowed else INSUFFICIENT,
        "message": "",
        "observedGeneration": generation,
    }
    status: JsonObject = {
        "observedGeneration": generation,
        "disruptionsAllowed": allowed,
        "currentHealthy": current,
        "desiredHealthy": wanted.healthy,
        "expectedPods": wanted.expected,
        "conditions": _with_condition(budget, condition, now),
    }
    return status | ({"disruptedPods": dict(noted.pods)} if noted.pods else {})


def failed_status(budget: JsonObject, why: str, now: float) -> JsonObject:
    """Return the status of a budget that could not be judged: nothing is allowed."""
    status = part(budget, "status")
    condition: JsonObject = {
        "type": ALLOWED,
        "status": "False",
        "reason": FAILED,
        "message": why,
    }
    if status.get("observedGeneration"):
        condition["observedGeneration"] = status["observedGeneration"]
    counts: JsonObject = {key: whole(status.get(key)) for key in _COUNTS}
    conditions = _with_condition(budget, condition, now)
    return {**status, **counts, "disruptionsAllowed": 0, "conditions": conditions}


def _with_condition(budget: JsonObject, condition: JsonObject, now: float) -> list[Json]:
    known = rows(part(budget, "status").get("conditions"))
    old = find(known, ALLOWED)
    is_same = old is not None and old.get("status") == condition["status"]
    stamp = old.get("lastTransitionTime") if old is not None and is_same else rfc3339(now)
    fresh: JsonObject = {**condition, "lastTransitionTime": stamp}
    if old is None:
        return [*known, fresh]
    return [fresh if entry is old else entry for entry in known]


def is_same_status(status: JsonObject, stored: JsonObject) -> bool:
    """True when the stored status says the same; what its condition says beside is not compared."""
    one, other = (find(rows(each.get("conditions")), ALLOWED) for each in (status, stored))
    return (
        all(whole(status.get(key)) == whole(stored.get(key)) for key in _COUNTS)
        and part(status, "disruptedPods") == part(stored, "disruptedPods")
        and status.get("observedGeneration") == stored.get("observedGeneration")
        and one is not None
        and other is not None
        and all(one.get(key) == other.get(key) for key in ("status", "reason"))
    )


# --- Pods that did not go -------------------------------------------------------------------------


def stale_target(pod: JsonObject, now: float) -> float | None:
    """After how many seconds a Pod is known to stay although it was said to go; None when it was not said."""
    said = condition_of(pod, TARGETED)
    if said is None or is_deleting(pod) or is_ended(pod):
        return None
    if said.get("status") != "True" or said.get("reason") == BY_KUBELET:
        return None
    since = parse_rfc3339(said.get("lastTransitionTime")) or 0.0
    return max(since + NOTED_SECONDS - now, 0.0)


def not_targeted(now: float) -> JsonObject:
    """Return the patch of the status of a Pod that stays."""
    condition: JsonObject = {
        "type": TARGETED,
        "status": "False",
        "lastTransitionTime": rfc3339(now),
        "reason": None,
        "message": None,
    }
    return {"status": {"conditions": [condition]}}


def selector_words(selector: JsonObject) -> str:
    """Write a selector as Events of budgets show it."""
    labels = part(selector, "matchLabels")
    pairs = "".join(f"{key}: {text(labels[key])}," for key in sorted(labels))
    terms = "".join(_term_words(row) for row in rows(selector.get("matchExpressions")))
    return (
        f"&LabelSelector{{MatchLabels:map[string]string{{{pairs}}},"
        f"MatchExpressions:[]LabelSelectorRequirement{{{terms}}},}}"
    )


def _term_words(row: JsonObject) -> str:
    values: Json = row.get("values")
    held: Sequence[Json] = values if isinstance(values, list) else []
    words = " ".join(text(value) for value in held)
    key, operator = text(row.get("key")), text(row.get("operator"))
    return f"LabelSelectorRequirement{{Key:{key},Operator:{operator},Values:[{words}],}},"
