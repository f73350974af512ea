"""What ownership of fields does not count: parts that are always there, or that a door cannot change.

Fields of a built-in kind that every object of it has, filled in or not, come into being with the object and
have no owner of their own. Source: Kubernetes 1.36 API types and registries.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import cast

from gateway.model.json import JsonObject
from gateway.wire.kube.fieldsets import NOTHING, Paths, compare
from gateway.wire.kube.parts import part
from gateway.wire.kube.resources import ResourceType

_POD: JsonObject = {"containers": None}
_TEMPLATE: JsonObject = {"metadata": {}, "spec": _POD}
_SCALED: JsonObject = {"scaleTargetRef": {"kind": "", "name": ""}, "maxReplicas": 0}
_ROLE_REF: JsonObject = {"apiGroup": "", "kind": "", "name": ""}
_NODE_INFO: JsonObject = dict.fromkeys(
    (
        "machineID",
        "systemUUID",
        "bootID",
        "kernelVersion",
        "osImage",
        "containerRuntimeVersion",
        "kubeletVersion",
        "kubeProxyVersion",
        "operatingSystem",
        "architecture",
    ),
    "",
)

_SPECS = (
    "v1 Namespace",
    "v1 PersistentVolume",
    "v1 ReplicationController",
    "v1 ResourceQuota",
    "coordination.k8s.io/v1 Lease",
    "networking.k8s.io/v1 IngressClass",
    "policy/v1 PodDisruptionBudget",
    "storage.k8s.io/v1 CSIDriver",
)

_BLANKS: Mapping[str, JsonObject] = MappingProxyType(
    {
        **dict.fromkeys(_SPECS, cast("JsonObject", {"spec": {}})),
        "v1 Event": {
            "involvedObject": {},
            "source": {},
            "firstTimestamp": None,
            "lastTimestamp": None,
            "eventTime": None,
            "reportingComponent": "",
            "reportingInstance": "",
        },
        "v1 LimitRange": {"spec": {"limits": None}},
        "v1 Node": {
            "spec": {},
            "status": {
                "daemonEndpoints": {"kubeletEndpoint": {"Port": 0}},
                "nodeInfo": _NODE_INFO,
            },
        },
        "v1 PersistentVolumeClaim": {"spec": {"resources": {}}},
        "v1 Pod": {"spec": _POD},
        "v1 PodTemplate": {"template": _TEMPLATE},
        "v1 Service": {"spec": {}, "status": {"loadBalancer": {}}},
        "events.k8s.io/v1 Event": {
            "eventTime": None,
            "regarding": {},
            "deprecatedSource": {},
            "deprecatedFirstTimestamp": None,
            "deprecatedLastTimestamp": None,
        },
        "apps/v1 ControllerRevision": {"data": None, "revision": 0},
        "apps/v1 DaemonSet": {
            "spec": {"selector": None, "template": _TEMPLATE, "updateStrategy": {}}
        },
        "apps/v1 Deployment": {"spec": {"selector": None, "template": _TEMPLATE, "strategy": {}}},
        "apps/v1 ReplicaSet": {"spec": {"selector": None, "template": _TEMPLATE}},
        "apps/v1 StatefulSet": {
            "spec": {
                "selector": None,
                "template": _TEMPLATE,
                "serviceName": "",
                "updateStrategy": {},
            }
        },
        "autoscaling/v1 HorizontalPodAutoscaler": {"spec": _SCALED},
        "autoscaling/v2 HorizontalPodAutoscaler": {"spec": _SCALED},
        "batch/v1 CronJob": {
            "spec": {
                "schedule": "",
                "jobTemplate": {"metadata": {}, "spec": {"template": _TEMPLATE}},
            }
        },
        "batch/v1 Job": {"spec": {"template": _TEMPLATE}},
        "certificates.k8s.io/v1 CertificateSigningRequest": {
            "spec": {"request": None, "signerName": ""}
        },
        "discovery.k8s.io/v1 EndpointSlice": {"addressType": "", "endpoints": None, "ports": None},
        "networking.k8s.io/v1 Ingress": {"spec": {}, "status": {"loadBalancer": {}}},
        "networking.k8s.io/v1 NetworkPolicy": {"spec": {"podSelector": {}}},
        "node.k8s.io/v1 RuntimeClass": {"handler": ""},
        "rbac.authorization.k8s.io/v1 ClusterRole": {"rules": None},
        "rbac.authorization.k8s.io/v1 ClusterRoleBinding": {"roleRef": _ROLE_REF},
        "rbac.authorization.k8s.io/v1 Role": {"rules": None},
        "rbac.authorization.k8s.io/v1 RoleBinding": {"roleRef": _ROLE_REF},
        "scheduling.k8s.io/v1 PriorityClass": {"value": 0},
        "storage.k8s.io/v1 CSINode": {"spec": {"drivers": None}},
        "storage.k8s.io/v1 CSIStorageCapacity": {"storageClassName": ""},
        "storage.k8s.io/v1 StorageClass": {"provisioner": ""},
        "storage.k8s.io/v1 VolumeAttachment": {
            "spec": {"attacher": "", "source": {}, "nodeName": ""}
        },
        "storage.k8s.io/v1 VolumeAttributesClass": {"driverName": ""},
        "apiextensions.k8s.io/v1 CustomResourceDefinition": {
            "spec": {
                "group": "",
                "names": {"plural": "", "kind": ""},
                "scope": "",
                "versions": None,
            }
        },
    }
)


def blank_of(resource: ResourceType) -> JsonObject:
    """What every object of a kind has. Shape: read, never changed."""
    if resource.is_custom:
        return {}
    blank = _BLANKS.get(f"{resource.group_version} {resource.kind}", {})
    return {"status": {}, **blank} if resource.has_status else blank


def over_blank(blank: JsonObject, item: JsonObject) -> JsonObject:
    """The document with what a kind always has; shares what it can."""
    if not blank:
        return item
    out = dict(item)
    for name, below in blank.items():
        held = item.get(name)
        if held is None:
            out[name] = below
        elif isinstance(below, dict) and isinstance(held, dict) and below:
            out[name] = over_blank(below, held)
    return out


_STATUS: Paths = frozenset({("f:status",)})
_STATUS_DOORS: Mapping[str, Paths] = {
    "deployments.apps": frozenset({("f:spec",), ("f:metadata", "f:labels")}),
    "pods": frozenset(
        {("f:spec",), ("f:metadata", "f:deletionTimestamp"), ("f:metadata", "f:ownerReferences")}
    ),
    "volumeattachments.storage.k8s.io": frozenset({("f:spec",), ("f:metadata",)}),
}
_SPEC: Paths = frozenset({("f:spec",)})
_ALL_BUT_STATUS: Paths = frozenset({("f:spec",), ("f:metadata",)})


def reset_of(resource: ResourceType, subresource: str | None) -> Paths:
    """The parts that this door to an object cannot change, whatever is sent."""
    if subresource == "status":
        if resource.is_custom:
            return _ALL_BUT_STATUS
        return _STATUS_DOORS.get(resource.storage_key, _SPEC)
    return _STATUS if resource.has_status else NOTHING


_JOB_LABELS = (
    "batch.kubernetes.io/controller-uid",
    "batch.kubernetes.io/job-name",
    "controller-uid",
    "job-name",
)
_GIVEN: Mapping[str, tuple[tuple[str, ...], ...]] = MappingProxyType(
    {
        "namespaces": (("spec", "finalizers"),),
        "services": (("spec", "clusterIPs"), ("spec", "clusterIP")),
        "jobs.batch": (
            ("spec", "selector"),
            *(
                (*place, "labels", *label)
                for place in (("metadata",), ("spec", "template", "metadata"))
                for label in ((), *((name,) for name in _JOB_LABELS))
            ),
        ),
        "pods": tuple(
            ("spec", name)
            for name in (
                "priority",
                "preemptionPolicy",
                "serviceAccount",
                "serviceAccountName",
                "tolerations",
            )
        ),
        "customresourcedefinitions.apiextensions.k8s.io": (("metadata", "finalizers"),),
    }
)
"""Parts that the server gives a new object which has none."""


def given_to(resource: ResourceType, sent: JsonObject, item: JsonObject) -> Paths:
    """What a new object got from the server, and by the rules that complete it, not from its maker."""
    found = set() if item is sent else compare(resource.schema, sent, item).added
    for path in _GIVEN.get(resource.storage_key, ()):
        held = part(sent, *path[:-1])
        if path[-1] not in held:
            found.add(tuple(f"f:{step}" for step in path))
    return frozenset(found)
