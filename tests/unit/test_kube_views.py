"""Kinds that are a second view of another."""

from __future__ import annotations

from gateway.model.json import Json, JsonObject
from gateway.wire.kube.views import AUTOSCALERS, EVENTS

CORE_EVENT: JsonObject = {
    "apiVersion": "v1",
    "kind": "Event",
    "metadata": {"name": "e", "namespace": "n"},
    "involvedObject": {"kind": "Pod", "name": "p"},
    "reason": "Started",
    "message": "it runs",
    "source": {"component": "kubelet"},
    "firstTimestamp": "2026-11-22T20:00:00Z",
    "lastTimestamp": "2026-11-22T20:01:00Z",
    "count": 2,
    "type": "Normal",
    "reportingComponent": "kubelet",
    "reportingInstance": "node-1",
}

NEW_EVENT: JsonObject = {
    "apiVersion": "events.k8s.io/v1",
    "kind": "Event",
    "metadata": {"name": "e", "namespace": "n"},
    "regarding": {"kind": "Pod", "name": "p"},
    "reason": "Started",
    "note": "it runs",
    "deprecatedSource": {"component": "kubelet"},
    "deprecatedFirstTimestamp": "2026-11-22T20:00:00Z",
    "deprecatedLastTimestamp": "2026-11-22T20:01:00Z",
    "deprecatedCount": 2,
    "type": "Normal",
    "reportingController": "kubelet",
    "reportingInstance": "node-1",
}


def test_an_event_reads_the_same_in_both_groups() -> None:
    assert EVENTS.shown(CORE_EVENT) == NEW_EVENT
    assert EVENTS.kept(NEW_EVENT) == CORE_EVENT


def autoscaler(**spec: Json) -> JsonObject:
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "h"},
        "spec": {"maxReplicas": 3, **spec},
    }


CPU: JsonObject = {
    "type": "Resource",
    "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 70}},
}
MEMORY: JsonObject = {
    "type": "Resource",
    "resource": {"name": "memory", "target": {"type": "AverageValue", "averageValue": "1Gi"}},
}


def test_the_first_version_of_an_autoscaler_shows_its_share_of_cpu() -> None:
    shown = AUTOSCALERS.shown(autoscaler(metrics=[CPU]))
    assert shown["apiVersion"] == "autoscaling/v1"
    assert shown["spec"] == {"maxReplicas": 3, "targetCPUUtilizationPercentage": 70}
    assert shown["metadata"] == {"name": "h"}


def test_what_the_first_version_has_no_field_for_survives_it() -> None:
    whole = autoscaler(metrics=[MEMORY, CPU], behavior={"scaleUp": {"policies": []}})
    shown = AUTOSCALERS.shown(whole)
    assert AUTOSCALERS.kept(shown) == whole


def test_a_broken_note_of_metrics_is_passed_over() -> None:
    item = autoscaler() | {
        "apiVersion": "autoscaling/v1",
        "metadata": {"name": "h", "annotations": {"autoscaling.alpha.kubernetes.io/metrics": "{"}},
    }
    assert AUTOSCALERS.kept(item) == autoscaler()
