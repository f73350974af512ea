"""Pods of the embedded API: how they are completed, judged, patched by their node, and how they end."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.errors import Conflict, NotFound, Unprocessable
from gateway.kube.builtin import builtin_registry
from gateway.kube.client import KubeClient, PatchType
from gateway.model.json import JsonObject
from gateway.wire.kube.tables import table
from tests.contract.test_kube_client import client, server

__all__ = ["client", "server"]

POD = ("v1", "pods", "default")


def a_pod(name: str = "p1", node: str = "edge-1", **spec: Any) -> JsonObject:
    return {
        "metadata": {"name": name},
        "spec": {"nodeName": node, "containers": [{"name": "c", "image": "reg/app:1"}], **spec},
    }


async def patch_status(client: KubeClient, patch: JsonObject) -> dict[str, Any]:
    done = await client.patch(
        *POD, "p1", patch, patch_type=PatchType.STRATEGIC, subresource="status"
    )
    return dict(done)


async def test_a_pod_is_completed_and_pending(client: KubeClient) -> None:
    pod: Any = await client.create(*POD, a_pod(volumes=[{"name": "v", "configMap": {"name": "m"}}]))
    assert pod["status"] == {"phase": "Pending", "qosClass": "BestEffort"}
    assert pod["spec"]["restartPolicy"] == "Always"
    assert pod["spec"]["serviceAccountName"] == "default"
    assert pod["spec"]["terminationGracePeriodSeconds"] == 30
    assert pod["spec"]["containers"][0]["imagePullPolicy"] == "IfNotPresent"
    assert pod["spec"]["volumes"][0]["configMap"] == {"name": "m", "defaultMode": 420}


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"containers": []}, "spec.containers"),
        ({"containers": [{"name": "C", "image": "i"}]}, r"spec.containers\[0\].name"),
        ({"containers": [{"name": "c"}]}, r"spec.containers\[0\].image"),
        ({"restartPolicy": "Sometimes"}, "spec.restartPolicy"),
        ({"volumes": [{"name": "v", "emptyDir": {}, "hostPath": {"path": "/"}}]}, "spec.volumes"),
        (
            {
                "containers": [
                    {"name": "c", "image": "i", "volumeMounts": [{"name": "x", "mountPath": "/x"}]}
                ]
            },
            "volumeMounts",
        ),
    ],
)
async def test_a_pod_that_could_not_run_is_refused(
    client: KubeClient, change: dict[str, Any], path: str
) -> None:
    with pytest.raises(Unprocessable, match=path):
        await client.create(*POD, a_pod(**change))


async def test_only_a_pod_s_image_changes_later(client: KubeClient) -> None:
    pod: Any = await client.create(*POD, a_pod())
    image: JsonObject = {"spec": {"containers": [{"name": "c", "image": "reg/app:2"}]}}
    changed: Any = await client.patch(*POD, "p1", image, patch_type=PatchType.STRATEGIC)
    assert changed["spec"]["containers"][0]["image"] == "reg/app:2"
    assert changed["status"] == pod["status"]
    with pytest.raises(Unprocessable, match="may not change fields other than"):
        await client.patch(*POD, "p1", {"spec": {"nodeName": "edge-2"}})


async def test_a_pod_on_a_node_ends_when_its_node_says_so(client: KubeClient) -> None:
    await client.create(*POD, a_pod())
    await client.delete(*POD, "p1")
    pod: Any = await client.get(*POD, "p1")
    assert pod["metadata"]["deletionGracePeriodSeconds"] == 30
    stays = await patch_status(client, {"status": {"phase": "Running"}})
    assert stays["metadata"]["deletionTimestamp"] == pod["metadata"]["deletionTimestamp"]
    await client.delete(*POD, "p1", grace_seconds=5)
    shorter: Any = await client.get(*POD, "p1")
    assert shorter["metadata"]["deletionGracePeriodSeconds"] == 5
    await client.delete(*POD, "p1", grace_seconds=60)
    assert (await client.get(*POD, "p1"))["metadata"] == shorter["metadata"]
    with pytest.raises(Conflict):
        await client.delete(*POD, "p1", grace_seconds=0, uid="another")
    await client.delete(*POD, "p1", grace_seconds=0, uid=pod["metadata"]["uid"])
    with pytest.raises(NotFound):
        await client.get(*POD, "p1")


async def test_a_pod_that_cannot_be_running_goes_at_once(client: KubeClient) -> None:
    await client.create(*POD, a_pod(node=""))
    await client.delete(*POD, "p1")
    await client.create(*POD, a_pod())
    await patch_status(client, {"status": {"phase": "Succeeded"}})
    await client.delete(*POD, "p1")
    with pytest.raises(NotFound):
        await client.get(*POD, "p1")


async def test_a_pod_with_a_finalizer_waits_for_it(client: KubeClient) -> None:
    body = a_pod()
    body["metadata"] = {"name": "p1", "finalizers": ["example.com/hold"]}
    await client.create(*POD, body)
    await client.delete(*POD, "p1", grace_seconds=0)
    held: Any = await client.get(*POD, "p1")
    assert held["metadata"]["deletionGracePeriodSeconds"] == 0
    await client.patch(*POD, "p1", {"metadata": {"finalizers": None}})
    with pytest.raises(NotFound):
        await client.get(*POD, "p1")


# --- what a node's patches mean (strategic merge) -------------------------------------------------

READY, SCHEDULED = {"type": "Ready", "status": "False"}, {"type": "PodScheduled", "status": "True"}


@pytest.mark.parametrize(
    ("before", "patch", "after"),
    [
        (
            {"conditions": [SCHEDULED]},
            {"conditions": [READY]},
            {"conditions": [READY, SCHEDULED]},
        ),
        (
            {"conditions": [SCHEDULED, READY]},
            {"conditions": [{"type": "Ready", "status": "True"}]},
            {"conditions": [SCHEDULED, {"type": "Ready", "status": "True"}]},
        ),
        (
            {"conditions": [SCHEDULED, READY]},
            {
                "$setElementOrder/conditions": [{"type": "Ready"}, {"type": "PodScheduled"}],
                "conditions": [{"type": "Ready", "reason": "r"}],
            },
            {"conditions": [{**READY, "reason": "r"}, SCHEDULED]},
        ),
        (
            {"conditions": [SCHEDULED, READY]},
            {"conditions": [{"$patch": "delete", "type": "Ready"}]},
            {"conditions": [SCHEDULED]},
        ),
        (
            {"conditions": [SCHEDULED, READY]},
            {"conditions": [{"$patch": "replace"}, READY]},
            {"conditions": [READY]},
        ),
        (
            {"podIPs": [{"ip": "10.0.0.1"}]},
            {"podIP": "fd00::2", "podIPs": [{"ip": "fd00::2"}]},
            {"podIP": "fd00::2", "podIPs": [{"ip": "fd00::2"}, {"ip": "10.0.0.1"}]},
        ),
        (
            {"podIPs": [{"ip": "10.0.0.1"}]},
            {
                "podIPs": [
                    {"ip": "10.0.0.2"},
                    {"$patch": "delete", "ip": "10.0.0.1"},
                ]
            },
            {"podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}]},
        ),
        (
            {},
            {"hostIP": "127.0.0.1", "hostIPs": [{"ip": "127.0.0.1"}]},
            {"hostIP": "127.0.0.1", "hostIPs": [{"ip": "127.0.0.1"}]},
        ),
        ({"message": "m", "reason": "r"}, {"message": None}, {"reason": "r"}),
        ({"phase": "Pending"}, {"$patch": "replace", "phase": "Running"}, {"phase": "Running"}),
        (
            {"startTime": "2026-11-22T20:05:00Z"},
            {"phase": "Running"},
            {"startTime": "2026-11-22T20:05:00Z", "phase": "Running"},
        ),
    ],
)
async def test_the_patches_of_a_kubelet_merge_as_kubernetes_merges_them(
    client: KubeClient, before: JsonObject, patch: JsonObject, after: JsonObject
) -> None:
    await client.create(*POD, a_pod())
    await client.patch(*POD, "p1", {"status": None}, subresource="status")
    await client.patch(*POD, "p1", {"status": before}, subresource="status")
    done = await patch_status(client, {"status": patch})
    found = done["status"]
    assert found.pop("qosClass") == "BestEffort"  # settled when the Pod was made
    assert {**found, "conditions": None} == {**after, "conditions": None}
    assert found.get("conditions") == after.get("conditions")


async def test_container_statuses_are_replaced_as_a_whole(client: KubeClient) -> None:
    await client.create(*POD, a_pod())

    def of(name: str) -> JsonObject:
        shared: JsonObject = {"image": "i", "imageID": "", "ready": False, "restartCount": 0}
        return {"status": {"containerStatuses": [{"name": name, **shared}]}}

    await patch_status(client, of("c"))
    done = await patch_status(client, of("d"))
    assert [each["name"] for each in done["status"]["containerStatuses"]] == ["d"]


async def test_a_status_patch_with_another_uid_or_of_no_pod_is_refused(client: KubeClient) -> None:
    with pytest.raises(NotFound):
        await patch_status(client, {"status": {"phase": "Running"}})
    await client.create(*POD, a_pod())
    with pytest.raises(Unprocessable, match=r'uid: Invalid value: "other": field is immutable$'):
        await patch_status(client, {"metadata": {"uid": "other"}, "status": {"phase": "Running"}})
    body = a_pod()
    body["metadata"] = {"name": "p1", "uid": "other"}
    with pytest.raises(Conflict, match="Precondition failed: UID in precondition: other, UID in"):
        await client.update(*POD, body, subresource="status")


@pytest.mark.parametrize(
    ("status", "fault"),
    [
        (
            {"podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "10.0.0.2"}]},
            r'status.podIPs: Invalid value: \[{"IP":"10.0.0.1"},{"IP":"10.0.0.2"}\]: may specify no',
        ),
        ({"podIP": "x"}, r'status.podIPs\[0\]: Invalid value: "x": must be a valid IP address'),
        (
            {"hostIP": "10.0.0.1", "hostIPs": [{"ip": "10.0.0.2"}]},
            r'status.hostIPs\[0\].ip: Invalid value: "10.0.0.2": must be equal to `hostIP`',
        ),
        ({"qosClass": "Guaranteed"}, 'status.qosClass: Invalid value: "Guaranteed": field is imm'),
    ],
)
async def test_a_status_that_cannot_be_a_pod_s_is_refused(
    client: KubeClient, status: JsonObject, fault: str
) -> None:
    await client.create(*POD, a_pod())
    with pytest.raises(Unprocessable, match=fault):
        await client.patch(*POD, "p1", {"status": status}, subresource="status")


def test_kubectl_is_told_how_a_pod_is() -> None:
    running: JsonObject = {
        "phase": "Running",
        "podIP": "10.0.0.9",
        "containerStatuses": [
            {"name": "c", "ready": True, "restartCount": 3, "state": {"running": {}}}
        ],
    }
    kind = builtin_registry().find("v1", "pods")
    assert kind is not None
    cells: Any = table(kind, [{**a_pod(), "status": running}], {}, 0)["rows"]
    assert cells[0]["cells"][:4] == ["p1", "1/1", "Running", "3"]
    assert cells[0]["cells"][5:7] == ["10.0.0.9", "edge-1"]


async def test_ports_without_a_protocol_are_tcp_also_when_applied(client: KubeClient) -> None:
    container: JsonObject = {"name": "c", "image": "i:1", "ports": [{"containerPort": 80}]}
    pod: JsonObject = {"apiVersion": "v1", "kind": "Pod", **a_pod(containers=[container])}
    applied: Any = await client.patch(*POD, "p1", pod, patch_type=PatchType.APPLY)
    assert applied["spec"]["containers"][0]["ports"] == [{"containerPort": 80, "protocol": "TCP"}]
    again: Any = await client.patch(*POD, "p1", pod, patch_type=PatchType.APPLY)
    assert again["metadata"]["resourceVersion"] == applied["metadata"]["resourceVersion"]
