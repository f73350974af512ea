"""Kinds that are a second view of what another kind stores: how one document becomes the other.

Source: Kubernetes API reference, `Event` of `events.k8s.io/v1` and of `v1`; `HorizontalPodAutoscaler` of
`autoscaling/v1` and `autoscaling/v2`. Every function leaves its input alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from gateway.model.json import Json, JsonObject
from gateway.wire.kube.resources import View

# --- events -----------------------------------------------------------------------------------------

_EVENT_NAMES: Final[Mapping[str, str]] = {
    "regarding": "involvedObject",
    "note": "message",
    "reportingController": "reportingComponent",
    "deprecatedSource": "source",
    "deprecatedFirstTimestamp": "firstTimestamp",
    "deprecatedLastTimestamp": "lastTimestamp",
    "deprecatedCount": "count",
}
"""Fields of `events.k8s.io/v1` -> fields of the core kind; all others have one name."""
_STORED_NAMES = {stored: shown for shown, stored in _EVENT_NAMES.items()}


def _renamed(names: Mapping[str, str], version: str) -> Callable[[JsonObject], JsonObject]:
    def convert(item: JsonObject) -> JsonObject:
        renamed: JsonObject = {names.get(key, key): value for key, value in item.items()}
        return renamed | {"apiVersion": version, "kind": "Event"}

    return convert


EVENTS: Final = View(
    home="v1",
    storage_key="events",
    shown=_renamed(_STORED_NAMES, "events.k8s.io/v1"),
    kept=_renamed(_EVENT_NAMES, "v1"),
)

# --- horizontal pod autoscalers ---------------------------------------------------------------------

AUTOSCALING = "autoscaling/v2"
_METRICS = "autoscaling.alpha.kubernetes.io/metrics"
_CURRENT = "autoscaling.alpha.kubernetes.io/current-metrics"
_CONDITIONS = "autoscaling.alpha.kubernetes.io/conditions"
_BEHAVIOR = "autoscaling.alpha.kubernetes.io/behavior"
_NOTES = (_METRICS, _CURRENT, _CONDITIONS, _BEHAVIOR)


def _table(value: Json) -> JsonObject:
    return value if isinstance(value, dict) else {}


def _rows(value: Json) -> list[JsonObject]:
    return [row for row in value if isinstance(row, dict)] if isinstance(value, list) else []


def _is_cpu_share(metric: JsonObject, part: str) -> bool:
    resource = _table(metric.get("resource"))
    return (
        metric.get("type") == "Resource"
        and resource.get("name") == "cpu"
        and _table(resource.get(part)).get("averageUtilization") is not None
    )


def _as_first(item: JsonObject) -> JsonObject:
    """Version 1 knows one metric; what else there is travels in annotations."""
    spec, status = dict(_table(item.get("spec"))), dict(_table(item.get("status")))
    notes: JsonObject = {}
    metrics = _rows(spec.pop("metrics", None))
    share = next((row for row in metrics if _is_cpu_share(row, "target")), None)
    if share is not None:
        target = _table(_table(share["resource"]).get("target"))
        spec["targetCPUUtilizationPercentage"] = target.get("averageUtilization")
    rest: list[Json] = [row for row in metrics if row is not share]
    _note(notes, _METRICS, rest)
    _note(notes, _BEHAVIOR, spec.pop("behavior", None))
    current = status.pop("currentMetrics", None)
    shown = next((row for row in _rows(current) if _is_cpu_share(row, "current")), None)
    if shown is not None:
        now = _table(_table(shown["resource"]).get("current"))
        status["currentCPUUtilizationPercentage"] = now.get("averageUtilization")
    _note(notes, _CURRENT, current)
    _note(notes, _CONDITIONS, status.pop("conditions", None))
    return _changed(item, "autoscaling/v1", spec, status, notes)


def _note(notes: JsonObject, key: str, value: Json) -> None:
    if value:
        notes[key] = msgspec.json.encode(value).decode()


def _changed(
    item: JsonObject, version: str, spec: JsonObject, status: JsonObject, notes: JsonObject
) -> JsonObject:
    metadata = dict(_table(item.get("metadata")))
    plain = {
        key: value
        for key, value in _table(metadata.pop("annotations", None)).items()
        if key not in _NOTES
    }
    if plain or notes:
        metadata["annotations"] = plain | notes
    done = {**item, "apiVersion": version, "metadata": metadata, "spec": spec}
    return done | ({"status": status} if "status" in item else {})


def _as_second(item: JsonObject) -> JsonObject:
    notes = _table(_table(item.get("metadata")).get("annotations"))
    spec, status = dict(_table(item.get("spec"))), dict(_table(item.get("status")))
    metrics = _read(notes.get(_METRICS))
    share = spec.pop("targetCPUUtilizationPercentage", None)
    metrics = [*(metrics if isinstance(metrics, list) else []), *_cpu("target", share)]
    if metrics:
        spec["metrics"] = metrics
    behavior = _read(notes.get(_BEHAVIOR))
    if behavior:
        spec["behavior"] = behavior
    status.pop("currentCPUUtilizationPercentage", None)
    for key, name in (("currentMetrics", _CURRENT), ("conditions", _CONDITIONS)):
        value = _read(notes.get(name))
        if value:
            status[key] = value
    return _changed(item, AUTOSCALING, spec, status, {})


def _cpu(part: str, share: Json) -> list[Json]:
    if share is None:
        return []
    value: JsonObject = {"type": "Utilization", "averageUtilization": share}
    return [{"type": "Resource", "resource": {"name": "cpu", part: value}}]


def _read(text: Json) -> Json:
    """What an annotation holds; nothing where somebody wrote nonsense into it."""
    if not isinstance(text, str):
        return None
    try:
        found: Json = msgspec.json.decode(text)
    except msgspec.DecodeError:
        return None
    return found


AUTOSCALERS: Final = View(
    home=AUTOSCALING,
    storage_key="horizontalpodautoscalers.autoscaling",
    shown=_as_first,
    kept=_as_second,
)
