"""ServiceAccountAccesses on their way to nodes, with a made-up edge."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gateway.errors import NotFound
from gateway.model.json import Json, JsonObject
from tests.cloud_rig import CloudCore, a_cloud, an_edge, content_of, eventually, join

RBAC, POLICY = "rbac.authorization.k8s.io/v1", "policy.kubeedge.io/v1alpha1"
RESOURCE = "default/serviceaccountaccess/robot"


def a_pod(name: str) -> JsonObject:
    containers: list[Json] = [{"name": "c", "image": "reg/app:1"}]
    return {
        "metadata": {"name": name},
        "spec": {"nodeName": "edge-1", "serviceAccountName": "robot", "containers": containers},
    }


def a_role(*verbs: str) -> Any:
    rule = {"apiGroups": [""], "resources": ["secrets"], "verbs": [*verbs]}
    return {"metadata": {"name": "reader"}, "rules": [rule]}


BINDING: Any = {
    "metadata": {"name": "robot-reads"},
    "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "reader"},
    "subjects": [{"kind": "ServiceAccount", "name": "robot", "namespace": "default"}],
}


def verbs_of(access: Any) -> list[str]:
    return [
        verb
        for bound in access["spec"].get("accessRoleBinding", [])
        for rule in bound["rules"]
        for verb in rule["verbs"]
    ]


async def prepare(cloud: CloudCore) -> None:
    account: JsonObject = {"metadata": {"name": "robot"}}
    await cloud.kube.create("v1", "serviceaccounts", "default", account)
    await cloud.kube.create(RBAC, "roles", "default", a_role("get"))
    await cloud.kube.create(RBAC, "rolebindings", "default", BINDING)
    await cloud.kube.create("v1", "pods", "default", a_pod("p1"))


async def test_rights_come_with_the_first_pod_change_with_rbac_and_go_with_the_last(
    tmp_path: Path,
) -> None:
    async with (
        a_cloud(tmp_path) as cloud,
        an_edge(cloud, "edge-1", await join(cloud, "edge-1")) as edge,
    ):
        await edge.register()
        await prepare(cloud)
        first = await edge.object(RESOURCE, "insert")
        assert first.route.source == "policycontroller"
        access: Any = content_of(first)
        assert access["kind"] == "ServiceAccountAccess"
        assert access["spec"]["serviceAccount"]["metadata"]["name"] == "robot"

        async def has_right() -> bool:
            stored: Any = await cloud.kube.get(POLICY, "serviceaccountaccesses", "default", "robot")
            nodes = stored.get("status", {}).get("nodeList")
            return verbs_of(stored) == ["get"] and nodes == ["edge-1"]

        await eventually(has_right)
        edge.forget()
        patch: Any = {"rules": a_role("get", "list")["rules"]}
        await cloud.kube.patch(RBAC, "roles", "default", "reader", patch)
        await edge.wait_for(
            lambda e: e.route.resource == RESOURCE and verbs_of(content_of(e)) == ["get", "list"]
        )
        await cloud.kube.delete("v1", "pods", "default", "p1", grace_seconds=0)
        await edge.object(RESOURCE, "delete")

        async def is_gone() -> bool:
            try:
                await cloud.kube.get(POLICY, "serviceaccountaccesses", "default", "robot")
            except NotFound:
                return True
            return False

        await eventually(is_gone)


async def test_a_restart_leaves_rights_at_the_node_alone(tmp_path: Path) -> None:
    async with a_cloud(tmp_path) as cloud:
        certificate = await join(cloud, "edge-1")
        async with an_edge(cloud, "edge-1", certificate, store="s") as edge:
            await edge.register()
            await prepare(cloud)
            await edge.object(RESOURCE, "insert")
            access = await cloud.object(POLICY, "serviceaccountaccesses", "default", "robot")
    async with a_cloud(tmp_path) as cloud, an_edge(cloud, "edge-1", certificate, store="s") as edge:
        await cloud.kube.create("v1", "pods", "default", a_pod("p2"))
        await edge.object("default/pod/p2")
        assert not any(
            e.route.resource == RESOURCE and e.route.operation == "delete" for e in edge.received
        )
        after = await cloud.object(POLICY, "serviceaccountaccesses", "default", "robot")
        assert after["metadata"]["uid"] == access["metadata"]["uid"]
