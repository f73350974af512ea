"""Rows of the built-in kinds as kubectl shows them."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.kube.builtin import builtin_registry
from gateway.model.json import JsonObject
from gateway.wire.kube.tables import columns_of, table

KINDS = builtin_registry()
NOW = 1_795_377_600.0  # 2026-11-22T20:00:00Z
SINCE = "2026-11-22T19:58:00Z"
TEMPLATE: JsonObject = {
    "spec": {"containers": [{"name": "a", "image": "i:1"}, {"name": "b", "image": "j:2"}]}
}


def cells(group_version: str, plural: str, item: JsonObject) -> list[Any]:
    kind = KINDS.find(group_version, plural)
    assert kind is not None
    named: JsonObject = {"metadata": {"name": "x", "creationTimestamp": SINCE}, **item}
    shown: Any = table(kind, [named], {}, NOW)
    (row,) = shown["rows"]
    assert len(row["cells"]) == len(shown["columnDefinitions"])
    return list(row["cells"])


ROWS: list[tuple[str, str, JsonObject, list[Any]]] = [
    (
        "apps/v1",
        "deployments",
        {
            "spec": {
                "replicas": 3,
                "template": TEMPLATE,
                "selector": {
                    "matchLabels": {"b": "2", "a": "1"},
                    "matchExpressions": [{"key": "c", "operator": "In", "values": ["y", "x"]}],
                },
            },
            "status": {"readyReplicas": 1, "updatedReplicas": 2, "availableReplicas": 1},
        },
        ["x", "1/3", 2, 1, "2m", "a,b", "i:1,j:2", "a=1,b=2,c in (x,y)"],
    ),
    (
        "apps/v1",
        "daemonsets",
        {
            "spec": {"selector": {}, "template": {"spec": {"nodeSelector": {"z": "1"}}}},
            "status": {"desiredNumberScheduled": 2, "numberReady": 1},
        },
        ["x", 2, 0, 1, 0, 0, "z=1", "2m", "", "", "<none>"],
    ),
    (
        "apps/v1",
        "controllerrevisions",
        {
            "metadata": {
                "name": "x",
                "creationTimestamp": SINCE,
                "ownerReferences": [
                    {"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "d", "controller": True}
                ],
            },
            "revision": 4,
        },
        ["x", "daemonset.apps/d", 4, "2m"],
    ),
    (
        "batch/v1",
        "jobs",
        {
            "spec": {"parallelism": 3, "template": TEMPLATE},
            "status": {"succeeded": 1, "startTime": "2026-11-22T19:59:30Z"},
        },
        ["x", "Running", "1/1 of 3", "30s", "2m", "a,b", "i:1,j:2", "<none>"],
    ),
    (
        "batch/v1",
        "jobs",
        {
            "spec": {"completions": 2, "template": TEMPLATE},
            "status": {
                "succeeded": 2,
                "startTime": "2026-11-22T19:59:30Z",
                "completionTime": "2026-11-22T19:59:40Z",
                "conditions": [{"type": "Complete", "status": "True"}],
            },
        },
        ["x", "Complete", "2/2", "10s", "2m", "a,b", "i:1,j:2", "<none>"],
    ),
    (
        "batch/v1",
        "cronjobs",
        {
            "spec": {"schedule": "* * * * *", "suspend": False, "jobTemplate": {}},
            "status": {"active": [{"name": "y"}], "lastScheduleTime": "2026-11-22T19:59:00Z"},
        },
        ["x", "* * * * *", "<none>", "False", 1, "60s", "2m", "", "", "<none>"],
    ),
    (
        "autoscaling/v2",
        "horizontalpodautoscalers",
        {
            "spec": {
                "scaleTargetRef": {"kind": "Deployment", "name": "d"},
                "maxReplicas": 5,
                "metrics": [
                    {
                        "type": "Resource",
                        "resource": {"name": "cpu", "target": {"averageUtilization": 80}},
                    },
                    {"type": "Pods", "pods": {"target": {"averageValue": "5"}}},
                    {"type": "Nonsense"},
                ],
            }
        },
        [
            "x",
            "Deployment/d",
            "cpu: <unknown>/80%, <unknown>/5 + 1 more...",
            "<unset>",
            5,
            0,
            "2m",
        ],
    ),
    (
        "v1",
        "services",
        {
            "spec": {
                "type": "LoadBalancer",
                "clusterIPs": ["10.0.0.1"],
                "ports": [{"port": 80, "nodePort": 30_080, "protocol": "TCP"}],
                "externalIPs": ["9.9.9.9"],
            },
            "status": {"loadBalancer": {"ingress": [{"ip": "8.8.8.8"}]}},
        },
        ["x", "LoadBalancer", "10.0.0.1", "8.8.8.8,9.9.9.9", "80:30080/TCP", "2m", "<none>"],
    ),
    (
        "v1",
        "endpoints",
        {
            "subsets": [
                {
                    "addresses": [{"ip": f"10.0.0.{n}"} for n in range(1, 6)],
                    "ports": [{"port": 80}],
                }
            ]
        },
        ["x", "10.0.0.1:80,10.0.0.2:80,10.0.0.3:80 + 2 more...", "2m"],
    ),
    (
        "discovery.k8s.io/v1",
        "endpointslices",
        {"addressType": "IPv4", "ports": [{"port": 80}, {"name": "all"}], "endpoints": []},
        ["x", "IPv4", "80,all", "<unset>", "2m"],
    ),
    (
        "networking.k8s.io/v1",
        "ingresses",
        {"spec": {"rules": [{"host": h} for h in "abcde"], "tls": [{}]}},
        ["x", "<none>", "a,b,c + 2 more...", "", "80, 443", "2m"],
    ),
    (
        "v1",
        "persistentvolumeclaims",
        {
            "spec": {"volumeName": "v", "storageClassName": "s", "volumeMode": "Block"},
            "status": {
                "phase": "Bound",
                "capacity": {"storage": "1Gi"},
                "accessModes": ["ReadWriteMany", "ReadWriteOnce"],
            },
        },
        ["x", "Bound", "v", "1Gi", "RWO,RWX", "s", "<unset>", "2m", "Block"],
    ),
    (
        "policy/v1",
        "poddisruptionbudgets",
        {"spec": {"minAvailable": "50%"}, "status": {"disruptionsAllowed": 1}},
        ["x", "50%", "N/A", 1, "2m"],
    ),
    (
        "v1",
        "resourcequotas",
        {
            "status": {
                "hard": {"pods": "4", "limits.cpu": "2", "cpu": "1"},
                "used": {"pods": "1"},
            }
        },
        ["x", "cpu: 0/1, pods: 1/4", "limits.cpu: 0/2", "2m"],
    ),
    (
        "rbac.authorization.k8s.io/v1",
        "rolebindings",
        {
            "roleRef": {"kind": "Role", "name": "r"},
            "subjects": [
                {"kind": "User", "name": "u"},
                {"kind": "ServiceAccount", "namespace": "n", "name": "s"},
            ],
        },
        ["x", "Role/r", "2m", "u", "", "n/s"],
    ),
    (
        "certificates.k8s.io/v1",
        "certificatesigningrequests",
        {
            "spec": {"signerName": "e/s", "username": "u", "expirationSeconds": 3_600},
            "status": {"conditions": [{"type": "Approved"}], "certificate": "eA=="},
        },
        ["x", "2m", "e/s", "u", "60m", "Approved,Issued"],
    ),
    (
        "storage.k8s.io/v1",
        "csidrivers",
        {"spec": {"tokenRequests": [{"audience": "a"}]}},
        ["x", True, False, False, "a", False, "<none>", "2m"],
    ),
    (
        "events.k8s.io/v1",
        "events",
        {
            "regarding": {"kind": "Pod", "name": "p"},
            "note": "it runs\n",
            "eventTime": "2026-11-22T19:59:50.000000Z",
            "reportingController": "c",
            "reportingInstance": "i",
        },
        ["10s", "", "", "pod/p", "", "c, i", "it runs", "10s", 1, "x"],
    ),
]


@pytest.mark.parametrize(("version", "plural", "item", "expected"), ROWS)
def test_a_row_shows(version: str, plural: str, item: JsonObject, expected: list[Any]) -> None:
    assert cells(version, plural, item) == expected


def test_every_stored_kind_has_columns_and_a_row_for_an_empty_object() -> None:
    for kind in KINDS:
        if not kind.is_virtual:
            assert len(cells(kind.group_version, kind.plural, {})) == len(columns_of(kind))


def pod_cells(status: JsonObject, **spec: Any) -> list[Any]:
    item: JsonObject = {"spec": {"containers": [{"name": "c"}], **spec}, "status": status}
    return cells("v1", "pods", item)[1:4]


def test_restarts_tell_when_the_last_one_was() -> None:
    ended: JsonObject = {"terminated": {"exitCode": 1, "finishedAt": "2026-11-22T19:59:50Z"}}
    row: JsonObject = {
        "name": "c",
        "restartCount": 3,
        "lastState": ended,
        "state": {"waiting": {"reason": "CrashLoopBackOff"}},
    }
    assert pod_cells({"phase": "Running", "containerStatuses": [row]}) == [
        "0/1",
        "CrashLoopBackOff",
        "3 (10s ago)",
    ]


def test_a_sidecar_counts_among_the_containers() -> None:
    side: JsonObject = {"name": "s", "started": True, "ready": True, "state": {"running": {}}}
    main: JsonObject = {"name": "c", "ready": True, "state": {"running": {}}}
    status: JsonObject = {
        "phase": "Running",
        "initContainerStatuses": [side],
        "containerStatuses": [main],
    }
    sidecar = [{"name": "s", "restartPolicy": "Always"}]
    assert pod_cells(status, initContainers=sidecar) == ["2/2", "Running", "0"]


def test_a_pod_that_completed_in_part_is_not_ready() -> None:
    done: JsonObject = {
        "name": "a",
        "state": {"terminated": {"exitCode": 0, "reason": "Completed"}},
    }
    up: JsonObject = {"name": "b", "ready": True, "state": {"running": {}}}
    status: JsonObject = {"phase": "Running", "containerStatuses": [done, up]}
    assert pod_cells(status)[1] == "NotReady"
