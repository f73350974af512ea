"""How kinds beside Pods are completed and judged. Expectations were read off a real server, 1.36."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest

from gateway.model.json import Json, JsonObject
from gateway.wire.kube.amounts import shortest, with_shortest
from gateway.wire.kube.kindrules import RULES
from gateway.wire.kube.schema import Schema

TEMPLATE: JsonObject = {
    "metadata": {"labels": {"a": "b"}},
    "spec": {"containers": [{"name": "c", "image": "nginx:1"}]},
}
TASK: JsonObject = {
    "spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "x:1"}]}
}
SELECTOR: JsonObject = {"matchLabels": {"a": "b"}}


def made(kind: str, old: Any = None, **parts: Any) -> JsonObject:
    """An object as it is stored; templates are copied, since objects are completed in place."""
    item: JsonObject = deepcopy({"metadata": {"name": "x", "uid": "u"}, **parts})
    RULES[kind].prepare(item, old)
    return item


def faults(kind: str, old: Any = None, **parts: Any) -> list[tuple[str, str]]:
    found = RULES[kind].faults(made(kind, old, **parts), old)
    return [(cause.field, cause.message) for cause in found]


def a_set(**spec: Json) -> JsonObject:
    return {"selector": SELECTOR, "template": TEMPLATE, **spec}


# --- completing -----------------------------------------------------------------------------------


def test_a_deployment_is_completed() -> None:
    spec: Any = made("deployments.apps", spec=a_set())["spec"]
    template = spec.pop("template")
    assert spec == {
        "selector": SELECTOR,
        "replicas": 1,
        "revisionHistoryLimit": 10,
        "progressDeadlineSeconds": 600,
        "strategy": {
            "type": "RollingUpdate",
            "rollingUpdate": {"maxUnavailable": "25%", "maxSurge": "25%"},
        },
    }
    assert template["spec"]["restartPolicy"] == "Always"
    assert not template["spec"].keys() & {"enableServiceLinks", "serviceAccountName", "priority"}


def test_no_replicas_are_a_number_too() -> None:
    spec: Any = made("deployments.apps", spec=a_set(replicas=0, revisionHistoryLimit=0))["spec"]
    assert (spec["replicas"], spec["revisionHistoryLimit"]) == (0, 0)


def test_a_claim_template_is_a_whole_claim() -> None:
    claim: JsonObject = {"metadata": {"name": "d"}, "spec": {"accessModes": ["ReadWriteOnce"]}}
    spec: Any = made("statefulsets.apps", spec=a_set(volumeClaimTemplates=[claim]))["spec"]
    assert spec["volumeClaimTemplates"] == [
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": "d"},
            "spec": {"accessModes": ["ReadWriteOnce"], "volumeMode": "Filesystem", "resources": {}},
            "status": {"phase": "Pending"},
        }
    ]
    assert spec["persistentVolumeClaimRetentionPolicy"] == {
        "whenDeleted": "Retain",
        "whenScaled": "Retain",
    }


def test_the_template_of_a_daemonset_is_numbered() -> None:
    key = "deprecated.daemonset.template.generation"
    first = made("daemonsets.apps", spec=a_set())
    same = made("daemonsets.apps", first, spec=first["spec"], metadata=first["metadata"])
    other = made("daemonsets.apps", first, spec=a_set(template={"spec": {"containers": []}}))
    numbers = [item["metadata"]["annotations"][key] for item in (first, same, other)]  # type: ignore[index, call-overload]
    assert numbers == ["1", "1", "2"]


def test_a_job_finds_its_pods_by_its_uid() -> None:
    item: Any = made("jobs.batch", spec={"template": TASK})
    labels = {
        "batch.kubernetes.io/controller-uid": "u",
        "batch.kubernetes.io/job-name": "x",
        "controller-uid": "u",
        "job-name": "x",
    }
    assert item["spec"]["selector"] == {"matchLabels": {"batch.kubernetes.io/controller-uid": "u"}}
    assert item["spec"]["template"]["metadata"]["labels"] == labels
    assert item["metadata"]["labels"] == labels
    assert item["spec"]["completions"] == 1


def test_a_job_that_is_a_queue_has_no_number_of_completions() -> None:
    spec: Any = made("jobs.batch", spec={"template": TASK, "parallelism": 3})["spec"]
    assert "completions" not in spec


@pytest.mark.parametrize(
    ("rules", "kinds"), [({}, ["Ingress"]), ({"egress": [{}]}, ["Ingress", "Egress"])]
)
def test_a_network_policy_rules_what_it_has_rules_for(rules: JsonObject, kinds: list[str]) -> None:
    spec: Any = made("networkpolicies.networking.k8s.io", spec={"podSelector": {}, **rules})["spec"]
    assert spec["policyTypes"] == kinds


def test_an_autoscaler_watches_the_cpu() -> None:
    spec: Any = made("horizontalpodautoscalers.autoscaling", spec={"maxReplicas": 3})["spec"]
    assert spec["minReplicas"] == 1
    assert spec["metrics"][0]["resource"]["target"] == {
        "type": "Utilization",
        "averageUtilization": 80,
    }


def test_limits_of_containers_stand_in_for_defaults() -> None:
    row: JsonObject = {"type": "Container", "max": {"cpu": "1"}, "default": {"memory": "1Gi"}}
    spec: Any = made("limitranges", spec={"limits": [row]})["spec"]
    both = {"cpu": "1", "memory": "1Gi"}
    assert (spec["limits"][0]["default"], spec["limits"][0]["defaultRequest"]) == (both, both)


# --- judging --------------------------------------------------------------------------------------

NEGATIVE = "Invalid value: -1: must be greater than or equal to 0"
MISMATCH = 'Invalid value: {"a":"b"}: `selector` does not match template `labels`'
CASES: list[tuple[str, JsonObject, list[tuple[str, str]]]] = [
    ("deployments.apps", {"spec": a_set(selector={"matchLabels": {"x": "y"}})},
     [("spec.template.metadata.labels", MISMATCH)]),
    ("deployments.apps", {"spec": a_set(selector={})},
     [("spec.selector", "Invalid value: {}: empty selector is invalid for deployment")]),
    ("deployments.apps", {"spec": a_set(replicas=-1, minReadySeconds=-1)},
     [("spec.replicas", NEGATIVE), ("spec.minReadySeconds", NEGATIVE)]),
    ("deployments.apps", {"spec": a_set(strategy={"type": "Recreate", "rollingUpdate": {}})},
     [("spec.strategy.rollingUpdate",
       "Forbidden: may not be specified when strategy `type` is 'Recreate'")]),
    ("deployments.apps",
     {"spec": a_set(strategy={"rollingUpdate": {"maxSurge": 0, "maxUnavailable": "0%"}})},
     [("spec.strategy.rollingUpdate.maxUnavailable",
       'Invalid value: "0%": may not be 0 when `maxSurge` is 0')]),
    ("deployments.apps", {"spec": a_set(template={**TEMPLATE, "spec": {"restartPolicy": "Never",
        "containers": [{"name": "c", "image": "x"}]}})},
     [("spec.template.spec.restartPolicy",
       'Unsupported value: "Never": supported values: "Always"')]),
    ("daemonsets.apps", {"spec": a_set(updateStrategy={"rollingUpdate": {"maxUnavailable": 0}})},
     [("spec.updateStrategy.rollingUpdate.maxUnavailable",
       "Required value: cannot be 0 when maxSurge is 0")]),
    ("statefulsets.apps", {"spec": a_set(podManagementPolicy="X")},
     [("spec.podManagementPolicy", "Invalid value: \"X\": must be 'OrderedReady' or 'Parallel'")]),
    ("controllerrevisions.apps", {"revision": -1},
     [("revision", NEGATIVE), ("data", "Required value: data is mandatory")]),
    ("jobs.batch", {"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "x"}]}}}},
     [("spec.template.spec.restartPolicy", 'Required value: valid values: "OnFailure", "Never"')]),
    ("jobs.batch", {"spec": {"template": TASK, "backoffLimitPerIndex": 1}},
     [("spec.backoffLimitPerIndex", "Invalid value: 1: requires indexed completion mode")]),
    ("cronjobs.batch", {"spec": {"schedule": "x", "jobTemplate": {"spec": {"template": TASK}}}},
     [("spec.schedule", 'Invalid value: "x": expected exactly 5 fields, found 1: [x]')]),
    ("cronjobs.batch", {"spec": {"schedule": "* * * * *", "timeZone": "No/Where",
                                 "jobTemplate": {"spec": {"template": TASK}}}},
     [("spec.timeZone", 'Invalid value: "No/Where": unknown time zone No/Where')]),
    ("poddisruptionbudgets.policy", {"spec": {"maxUnavailable": "101%"}},
     [("spec.maxUnavailable", 'Invalid value: "101%": must not be greater than 100%')]),
    ("poddisruptionbudgets.policy", {"spec": {"minAvailable": 1, "maxUnavailable": 1}},
     [("spec", 'Invalid value: {"MinAvailable":1,"Selector":null,"MaxUnavailable":1,'
               '"UnhealthyPodEvictionPolicy":null}: minAvailable and maxUnavailable cannot be both'
               " set")]),
    ("ingresses.networking.k8s.io", {"spec": {}},
     [("spec", "Invalid value: null: either `defaultBackend` or `rules` must be specified")]),
    ("ingressclasses.networking.k8s.io", {"spec": {"controller": "x"}},
     [("spec.controller",
       'Invalid value: "x": must be a domain-prefixed path (such as "acme.io/foo")')]),
    ("networkpolicies.networking.k8s.io", {"spec": {"podSelector": {}, "ingress": [{"from": [{}]}]}},
     [("spec.ingress[0].from[0]", "Required value: must specify a peer")]),
    ("endpointslices.discovery.k8s.io", {"addressType": "IPv4", "endpoints": [{"addresses": []}]},
     [("endpoints[0].addresses", "Required value: must contain at least 1 address")]),
    ("persistentvolumeclaims", {"spec": {}},
     [("spec.accessModes", "Required value: at least 1 access mode is required"),
      ("spec.resources[storage]", "Required value")]),
    ("persistentvolumes", {"spec": {"capacity": {"storage": "0"}, "accessModes": ["ReadWriteOnce"],
                                    "hostPath": {"path": "/x"}}},
     [("spec.capacity[storage]", 'Invalid value: "0": must be greater than zero')]),
    ("storageclasses.storage.k8s.io", {"provisioner": "", "reclaimPolicy": "X"},
     [("provisioner", "Required value"),
      ("reclaimPolicy", 'Unsupported value: "X": supported values: "Delete", "Retain"')]),
    ("priorityclasses.scheduling.k8s.io", {"value": 2_000_000_001},
     [("value", "Forbidden: maximum allowed value of a user defined priority is 1000000000")]),
    ("horizontalpodautoscalers.autoscaling",
     {"spec": {"scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"},
               "minReplicas": 5, "maxReplicas": 2}},
     [("spec.maxReplicas", "Invalid value: 2: must be greater than or equal to `minReplicas`")]),
    ("resourcequotas", {"spec": {"hard": {"zork": "1"}}},
     [("spec.hard[zork]",
       'Invalid value: "zork": must be a standard resource type or fully qualified'),
      ("spec.hard[zork]", 'Invalid value: "zork": must be a standard resource for quota')]),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "parts", "expected"), CASES)
def test_a_fault_is_named(kind: str, parts: JsonObject, expected: list[tuple[str, str]]) -> None:
    assert faults(kind, **parts) == expected


CHANGES: list[tuple[str, JsonObject, JsonObject, list[str]]] = [
    ("deployments.apps", {"spec": a_set()}, {"spec": a_set(replicas=4)}, []),
    ("statefulsets.apps", {"spec": a_set()}, {"spec": a_set(serviceName="y")}, ["spec"]),
    ("statefulsets.apps", {"spec": a_set()}, {"spec": a_set(replicas=2)}, []),
    ("priorityclasses.scheduling.k8s.io", {"value": 1}, {"value": 2}, ["value"]),
    ("storageclasses.storage.k8s.io", {"provisioner": "a/b"}, {"provisioner": "a/c"}, ["provisioner"]),
    ("controllerrevisions.apps", {"data": {"a": 1}}, {"data": {"a": 2}}, ["data"]),
    ("runtimeclasses.node.k8s.io", {"handler": "a"}, {"handler": "b"}, ["handler"]),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "before", "after", "expected"), CHANGES)
def test_what_stays_may_not_change(
    kind: str, before: JsonObject, after: JsonObject, expected: list[str]
) -> None:
    old = made(kind, **before)
    assert [path for path, _ in faults(kind, old, **after)] == expected


# --- amounts --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("0.5", "500m"), ("1024Mi", "1Gi"), ("1.5Gi", "1536Mi"), ("1000", "1k"), ("1e3", "1e3"),
        ("0.1Ki", "102400m"), ("0", "0"), ("-1", "-1"), ("2000m", "2"), ("0.0000000001", "1n"),
        ("512Ki", "512Ki"), ("no amount", "no amount"),
    ],
)  # fmt: skip
def test_an_amount_has_one_form(written: str, shown: str) -> None:
    assert shortest(written) == shown
    assert shortest(shown) == shown


def test_amounts_are_found_wherever_they_are() -> None:
    amount = Schema(format="quantity", int_or_string=True)
    limits = Schema(type="object", additional=amount)
    schema = Schema(type="object", properties={"limits": limits, "name": Schema(type="string")})
    given: JsonObject = {"limits": {"cpu": 1, "memory": "1024Mi"}, "name": "1024Mi"}
    assert with_shortest(schema, given) == {
        "limits": {"cpu": "1", "memory": "1Gi"},
        "name": "1024Mi",
    }


def test_an_amount_beyond_all_bounds_is_the_most_there_is() -> None:
    assert [shortest(text) for text in ("1e300", "-1e300")] == [str(2**63 - 1), str(1 - 2**63)]
