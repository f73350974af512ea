"""What a Node's conditions mean for its taints, and what is said of a Node that has fallen silent.

Source: Kubernetes, "Nodes", "Taint based Evictions"; the texts are those of its node lifecycle controller.
"""

from __future__ import annotations

from collections.abc import Collection

from gateway.model.json import Json, JsonObject
from gateway.wire.cloudedge.names import EDGE_LABEL
from gateway.wire.kube.clock import rfc3339
from gateway.wire.kube.conditions import condition_of
from gateway.wire.kube.parts import labels_of, part, rows, text
from gateway.wire.kube.taints import (
    NO_EXECUTE,
    NO_SCHEDULE,
    NOT_READY,
    PREFIX,
    UNREACHABLE,
    UNSCHEDULABLE,
)

READY = "Ready"
OWN_CONDITIONS = (READY, "MemoryPressure", "DiskPressure", "PIDPressure")
"""What the agent of a node reports, and is unknown without it."""
_TAINT_OF = {
    (READY, "False"): NOT_READY,
    (READY, "Unknown"): UNREACHABLE,
    ("MemoryPressure", "True"): f"{PREFIX}memory-pressure",
    ("DiskPressure", "True"): f"{PREFIX}disk-pressure",
    ("PIDPressure", "True"): f"{PREFIX}pid-pressure",
    ("NetworkUnavailable", "True"): f"{PREFIX}network-unavailable",
}
_KEYS = frozenset(_TAINT_OF.values()) | {UNSCHEDULABLE}
_LOST = (NOT_READY, UNREACHABLE)


def readiness(node: JsonObject) -> str:
    """Return `True`, `False` or `Unknown` as the Node says; empty where it never said."""
    found = condition_of(node, READY)
    return "" if found is None else text(found.get("status"))


def heartbeat(node: JsonObject) -> str:
    """When the Node last said how it is, by its own clock."""
    return text((condition_of(node, READY) or {}).get("lastHeartbeatTime"))


def is_edge(node: JsonObject) -> bool:
    """True for a Node that is expected to be away at times; what runs there stays there."""
    return EDGE_LABEL in labels_of(node)


def silence(node: JsonObject, now: float) -> list[Json]:
    """Return the conditions that are to be written for a Node that says nothing any more."""
    changed: list[Json] = []
    for type_ in OWN_CONDITIONS:
        known = condition_of(node, type_)
        if known is None:
            reason, message = "NodeStatusNeverUpdated", "Kubelet never posted node status."
        elif known.get("status") != "Unknown":
            reason, message = "NodeStatusUnknown", "Kubelet stopped posting node status."
        else:
            continue
        entry: JsonObject = {
            "type": type_,
            "status": "Unknown",
            "reason": reason,
            "message": message,
            "lastTransitionTime": rfc3339(now),
        }
        if known is None:
            entry["lastHeartbeatTime"] = part(node, "metadata").get("creationTimestamp")
        changed.append(entry)
    return changed


def settled_taints(node: JsonObject, now: float) -> list[Json] | None:
    """Return the taints a Node should have by what it says; None when it has them.

    Evicting taints for lost contact go when it is ready, and follow its readiness while they are there;
    they come by `evicting_taints` only. A Node that never said whether it is ready keeps what it has.
    """
    ready = readiness(node)
    wanted = dict.fromkeys(_no_schedule(node))
    held = rows(part(node, "spec").get("taints"))
    kept = [row for row in held if _stays(row, wanted, ready)]
    evicts = any(row.get("effect") == NO_EXECUTE and row.get("key") in _LOST for row in held)
    new = [key for key in wanted if not _has(kept, key, NO_SCHEDULE)]
    found: list[Json] = [*kept, *(_taint(key, NO_SCHEDULE, now) for key in new)]
    evicting = _TAINT_OF.get((READY, ready))
    if evicts and evicting is not None and not _has(kept, evicting, NO_EXECUTE):
        found.append(_taint(evicting, NO_EXECUTE, now))
    return None if found == held else found


def evicting_taints(node: JsonObject, now: float) -> list[Json] | None:
    """Return the taints with which Pods go from a lost Node; None when it has them, or is not lost."""
    key = _TAINT_OF.get((READY, readiness(node)))
    held = rows(part(node, "spec").get("taints"))
    if key is None or _has(held, key, NO_EXECUTE):
        return None
    return [*held, _taint(key, NO_EXECUTE, now)]


def sparing_taints(node: JsonObject) -> list[Json] | None:
    """Return the taints without those that send Pods away for lost contact; None where there are none."""
    held = rows(part(node, "spec").get("taints"))
    kept: list[Json] = [
        row for row in held if row.get("effect") != NO_EXECUTE or row.get("key") not in _LOST
    ]
    return None if len(kept) == len(held) else kept


def _no_schedule(node: JsonObject) -> list[str]:
    found = [
        _TAINT_OF[mark]
        for row in rows(part(node, "status").get("conditions"))
        if (mark := (text(row.get("type")), text(row.get("status")))) in _TAINT_OF
    ]
    if part(node, "spec").get("unschedulable") is True:
        found.append(UNSCHEDULABLE)
    return found


def _stays(row: JsonObject, wanted: Collection[str], ready: str) -> bool:
    key, effect = text(row.get("key")), row.get("effect")
    if effect == NO_SCHEDULE and key in _KEYS:
        return key in wanted or (not ready and key in _LOST)
    if effect == NO_EXECUTE and key in _LOST:
        return not ready or _TAINT_OF.get((READY, ready)) == key
    return True


def _has(held: list[JsonObject], key: str, effect: str) -> bool:
    return any(row.get("key") == key and row.get("effect") == effect for row in held)


def _taint(key: str, effect: str, now: float) -> JsonObject:
    return {"key": key, "effect": effect, "timeAdded": rfc3339(now)}
