"""Whether a Pod may be evicted: what its PodDisruptionBudget says, and what it says afterwards.

Source: Kubernetes "Disruptions", "API-initiated Eviction", API `policy/v1`.
"""

from __future__ import annotations

from collections.abc import Iterable

from gateway.errors import Forbidden, QuotaExceeded
from gateway.model.json import Json, JsonObject
from gateway.wire.kube.selectors import read_selector
from gateway.wire.kube.status import forbidden

MAX_DISRUPTED = 2_000
"""Evictions that a budget notes and nobody has confirmed yet."""
RETRY_SECONDS = 10
_FREE = ("Succeeded", "Failed", "Pending")
_DISALLOWED = "DisruptionAllowed"


def needs_no_budget(pod: JsonObject) -> bool:
    """True for a Pod that does no work whose loss a budget could count."""
    metadata, status = _table(pod, "metadata"), _table(pod, "status")
    return status.get("phase") in _FREE or bool(metadata.get("deletionTimestamp"))


def budgets_of(pod: JsonObject, budgets: Iterable[JsonObject]) -> list[JsonObject]:
    """The budgets of the Pod's namespace that select it; one without a selector selects nothing."""
    return [
        budget
        for budget in budgets
        if isinstance(selector := _table(budget, "spec").get("selector"), dict)
        and read_selector(selector).matches(pod)
    ]


def passes_as_unhealthy(pod: JsonObject, budget: JsonObject) -> bool:
    """True for a Pod that is not ready and that the budget does not hold for that reason."""
    if _is_ready(pod):
        return False
    if _table(budget, "spec").get("unhealthyPodEvictionPolicy") == "AlwaysAllow":
        return True
    status = _table(budget, "status")
    wanted = _number(status, "desiredHealthy")
    return wanted > 0 and _number(status, "currentHealthy") >= wanted


def after_eviction(budget: JsonObject, pod_name: str, now: str) -> JsonObject:
    """The budget with one disruption less, which it notes until the Pod is gone.

    Errors: QuotaExceeded (429) when it allows none now; Forbidden when it makes no sense.
    """
    metadata, status = _table(budget, "metadata"), _table(budget, "status")
    name = str(metadata.get("name"))
    if _number(status, "observedGeneration") < _number(metadata, "generation"):
        raise still_processed(name)
    allowed = _number(status, "disruptionsAllowed")
    disrupted = _table(status, "disruptedPods")
    if allowed < 0:
        raise _senseless(name, "pdb disruptions allowed is negative")
    if len(disrupted) > MAX_DISRUPTED:
        why = "DisruptedPods map too big - too many evictions not confirmed by PDB controller"
        raise _senseless(name, why)
    if allowed == 0:
        raise _refused(_why_not(name, status))
    left: JsonObject = {
        **status,
        "disruptionsAllowed": allowed - 1,
        "disruptedPods": {**disrupted, pod_name: now},
    }
    if allowed == 1:
        left["conditions"] = _conditions(status, now)
    return {**budget, "status": left}


def _conditions(status: JsonObject, now: str) -> list[Json]:
    rows = status.get("conditions")
    kept: list[Json] = [
        row
        for row in (rows if isinstance(rows, list) else [])
        if isinstance(row, dict) and row.get("type") != _DISALLOWED
    ]
    condition: JsonObject = {
        "type": _DISALLOWED,
        "status": "False",
        "reason": "InsufficientPods",
        "message": "",
        "lastTransitionTime": now,
        "observedGeneration": _number(status, "observedGeneration"),
    }
    return [*kept, condition]


def still_processed(name: str) -> QuotaExceeded:
    """429 for a budget whose status is of an earlier time; the client tries again."""
    return _refused(
        f"The disruption budget {name} is still being processed by the server.", RETRY_SECONDS
    )


def _refused(why: str, retry: int | None = None) -> QuotaExceeded:
    details: dict[str, object] = {"causes": [{"reason": "DisruptionBudget", "message": why}]}
    if retry is not None:
        details["retryAfterSeconds"] = retry
    text = "Cannot evict pod as it would violate the pod's disruption budget."
    return QuotaExceeded(text, status=429, details=details)


def _senseless(name: str, why: str) -> Forbidden:
    return forbidden("poddisruptionbudget", "policy", name, why)


def _why_not(name: str, status: JsonObject) -> str:
    condition = _condition(status)
    is_false = condition.get("status") == "False" and bool(condition.get("message"))
    reason, message = condition.get("reason"), condition.get("message")
    if is_false and reason == "SyncFailed":
        return (
            f"The disruption budget {name} does not allow evicting pods currently because it"
            f" failed sync: {message}"
        )
    wanted, current = _number(status, "desiredHealthy"), _number(status, "currentHealthy")
    if current <= wanted:
        return (
            f"The disruption budget {name} needs {wanted} healthy pods and has {current} currently"
        )
    text = f"The disruption budget {name} does not allow evicting pods currently"
    return f"{text} ({reason}): {message}" if is_false else text


def _condition(status: JsonObject) -> JsonObject:
    rows = status.get("conditions")
    for row in rows if isinstance(rows, list) else []:
        if isinstance(row, dict) and row.get("type") == _DISALLOWED:
            return row
    return {}


def _is_ready(pod: JsonObject) -> bool:
    rows = _table(pod, "status").get("conditions")
    return any(
        isinstance(row, dict) and row.get("type") == "Ready" and row.get("status") == "True"
        for row in (rows if isinstance(rows, list) else [])
    )


def _number(item: JsonObject, key: str) -> int:
    value = item.get(key)
    return value if isinstance(value, int) else 0


def _table(item: JsonObject, key: str) -> JsonObject:
    value = item.get(key)
    return value if isinstance(value, dict) else {}
