"""Who may do what on the embedded API: Roles, escalation, impersonation, reviews, nodes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gateway.kube.bootstrap_policy import install_policy
from tests.kube_callers import Caller, bearer, calling, eventually
from tests.kube_server import KubeServer, kube_server

RBAC = "/apis/rbac.authorization.k8s.io/v1"
IN_DEFAULT = f"{RBAC}/namespaces/default"
CONFIGMAPS = "/api/v1/namespaces/default/configmaps"
SECRETS = "/api/v1/namespaces/default/secrets"
PODS = "/api/v1/namespaces/default/pods"
MAY_I = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
NODE = {"Impersonate-User": "system:node:n1", "Impersonate-Group": "system:nodes"}


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[KubeServer]:
    async with kube_server(tmp_path) as running:
        yield running


@pytest.fixture
async def http(server: KubeServer) -> AsyncIterator[aiohttp.ClientSession]:
    async with calling(server) as found:
        yield found


@pytest.fixture
def admin(http: aiohttp.ClientSession, server: KubeServer) -> Caller:
    return Caller(http, bearer(server.token))


@pytest.fixture
def ann(http: aiohttp.ClientSession, server: KubeServer) -> Caller:
    headers = {"Impersonate-User": "ann", "Impersonate-Group": "dev"}
    return Caller(http, bearer(server.token) | headers)


@pytest.fixture
def node(http: aiohttp.ClientSession, server: KubeServer) -> Caller:
    return Caller(http, bearer(server.token) | NODE)


def a_role(name: str, verbs: list[str], resources: list[str], **more: Any) -> dict[str, Any]:
    rule = {"apiGroups": [""], "resources": resources, "verbs": verbs, **more}
    return {"metadata": {"name": name}, "rules": [rule]}


def a_binding(name: str, role: str, *, kind: str = "Role", group: str = "dev") -> dict[str, Any]:
    return {
        "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": role},
        "subjects": [{"kind": "Group", "name": group}],
    }


async def grant(
    admin: Caller, name: str, verbs: list[str], resources: list[str], **more: Any
) -> None:
    await admin.ask("POST", f"{IN_DEFAULT}/roles", 201, a_role(name, verbs, resources, **more))
    await admin.ask("POST", f"{IN_DEFAULT}/rolebindings", 201, a_binding(name, name))


# --- roles ----------------------------------------------------------------------------------------


async def test_a_role_gives_what_it_says_where_it_is(admin: Caller, ann: Caller) -> None:
    said = await ann.ask("GET", CONFIGMAPS, 403)
    assert said["message"] == (
        'configmaps is forbidden: User "ann" cannot list resource "configmaps" in API group ""'
        ' in the namespace "default"'
    )
    await grant(admin, "maps", ["list", "create"], ["configmaps"])
    await ann.ask("GET", CONFIGMAPS, 200)
    await ann.ask("POST", CONFIGMAPS, 201, {"metadata": {"name": "a"}})
    await ann.ask("GET", f"{CONFIGMAPS}/a", 403)
    await ann.ask("DELETE", f"{CONFIGMAPS}/a", 403)
    await ann.ask("GET", "/api/v1/namespaces/kube-system/configmaps", 403)
    await ann.ask("GET", "/api/v1/configmaps", 403)
    await admin.ask("DELETE", f"{IN_DEFAULT}/rolebindings/maps", 200)
    await ann.ask("GET", CONFIGMAPS, 403)


async def test_a_role_that_is_changed_counts_at_once(admin: Caller, ann: Caller) -> None:
    await grant(admin, "maps", ["list"], ["configmaps"])
    await ann.ask("GET", CONFIGMAPS, 200)
    await admin.patch(f"{IN_DEFAULT}/roles/maps", 200, {"rules": []})
    await ann.ask("GET", CONFIGMAPS, 403)


async def test_names_limit_a_role_also_in_lists_of_one(admin: Caller, ann: Caller) -> None:
    await grant(admin, "one", ["get", "list"], ["secrets"], resourceNames=["mine"])
    for name in ("mine", "other"):
        await admin.ask("POST", SECRETS, 201, {"metadata": {"name": name}})
    await ann.ask("GET", f"{SECRETS}/mine", 200)
    await ann.ask("GET", f"{SECRETS}/other", 403)
    await ann.ask("GET", SECRETS, 403)
    found = await ann.ask("GET", f"{SECRETS}?fieldSelector=metadata.name%3Dmine", 200)
    assert len(found["items"]) == 1


async def test_an_apply_that_creates_needs_both_verbs(admin: Caller, ann: Caller) -> None:
    await grant(admin, "maps", ["patch"], ["configmaps"])
    apply = {"Content-Type": "application/apply-patch+yaml"}
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}}
    path = f"{CONFIGMAPS}/a?fieldManager=x"
    said = await ann.ask("PATCH", path, 403, body, **apply)
    assert 'cannot create resource "configmaps"' in said["message"]
    await grant(admin, "more", ["create"], ["configmaps"])
    await ann.ask("PATCH", path, 201, body, **apply)


async def test_a_binding_to_nothing_says_so(admin: Caller, ann: Caller) -> None:
    await admin.ask("POST", f"{IN_DEFAULT}/rolebindings", 201, a_binding("lost", "gone"))
    said = await ann.ask("GET", CONFIGMAPS, 403)
    assert said["message"].endswith(': RBAC: role.rbac.authorization.k8s.io "gone" not found')


async def test_a_role_gathers_others_by_their_labels(admin: Caller, ann: Caller) -> None:
    await admin.ask(
        "POST", f"{IN_DEFAULT}/rolebindings", 201, a_binding("v", "view", kind="ClusterRole")
    )
    await ann.ask("GET", CONFIGMAPS, 200)
    await ann.ask("GET", SECRETS, 403)
    role = a_role("more-view", ["list"], ["secrets"])
    role["metadata"]["labels"] = {"rbac.authorization.k8s.io/aggregate-to-view": "true"}
    await admin.ask("POST", f"{RBAC}/clusterroles", 201, role)
    await ann.ask("GET", SECRETS, 200)


async def test_the_rules_that_a_role_gathers_are_written_into_it(tmp_path: Path) -> None:
    async with (
        kube_server(tmp_path, controllers=("clusterrole-aggregation",)) as server,
        calling(server) as http,
    ):
        admin = Caller(http, bearer(server.token))

        async def is_shown() -> bool:
            role = await admin.ask("GET", f"{RBAC}/clusterroles/admin", 200)
            return any(
                "rolebindings" in rule.get("resources", []) for rule in role.get("rules") or []
            )

        await eventually(is_shown)


async def test_the_roles_of_the_start_come_back_and_keep_what_was_added(tmp_path: Path) -> None:
    extra = {"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}
    path = f"{RBAC}/clusterroles/system:discovery"
    async with kube_server(tmp_path) as server, calling(server) as http:
        admin = Caller(http, bearer(server.token))
        await admin.patch(path, 200, {"rules": [extra]})
        await admin.ask("DELETE", f"{RBAC}/clusterroles/view", 200)
        off = {"annotations": {"rbac.authorization.kubernetes.io/autoupdate": "false"}}
        await admin.patch(
            f"{RBAC}/clusterroles/system:basic-user", 200, {"metadata": off, "rules": []}
        )
    async with kube_server(tmp_path) as server, calling(server) as http:
        admin = Caller(http, bearer(server.token))
        rules = (await admin.ask("GET", path, 200))["rules"]
        assert extra in rules
        assert any("/api" in rule.get("nonResourceURLs", []) for rule in rules)
        await admin.ask("GET", f"{RBAC}/clusterroles/view", 200)
        assert not (await admin.ask("GET", f"{RBAC}/clusterroles/system:basic-user", 200)).get(
            "rules"
        )
        assert await install_policy(server.api.objects) == 0


# --- escalation and impersonation -----------------------------------------------------------------


async def test_nobody_grants_more_than_he_has(admin: Caller, ann: Caller) -> None:
    await admin.ask(
        "POST", f"{IN_DEFAULT}/rolebindings", 201, a_binding("a", "admin", kind="ClusterRole")
    )
    roles, bindings = f"{IN_DEFAULT}/roles", f"{IN_DEFAULT}/rolebindings"
    await ann.ask("POST", roles, 201, a_role("fine", ["get"], ["pods"]))
    said = await ann.ask("POST", roles, 403, a_role("bad", ["get", "list"], ["pods", "nodes"]))
    assert said["message"] == (
        'roles.rbac.authorization.k8s.io "bad" is forbidden: user "ann" (groups=["dev"'
        ' "system:authenticated"]) is attempting to grant RBAC permissions not currently held:\n'
        '{APIGroups:[""], Resources:["nodes"], Verbs:["get" "list"]}'
    )
    wider = {"rules": a_role("x", ["get"], ["nodes"])["rules"]}
    await ann.patch(f"{roles}/fine", 403, wider)
    await ann.patch(f"{roles}/fine", 200, {"metadata": {"finalizers": ["x.io/y"]}})
    await ann.ask("POST", bindings, 201, a_binding("ok", "view", kind="ClusterRole"))
    await ann.ask("POST", bindings, 403, a_binding("no", "cluster-admin", kind="ClusterRole"))
    await ann.ask("POST", bindings, 404, a_binding("no", "nothing"))
    allowed = {
        "apiGroups": ["rbac.authorization.k8s.io"],
        "resources": ["clusterroles"],
        "resourceNames": ["cluster-admin"],
        "verbs": ["bind"],
    }
    role = {"metadata": {"name": "binder"}, "rules": [allowed]}
    await admin.ask("POST", roles, 201, role)
    await admin.ask("POST", bindings, 201, a_binding("binder", "binder"))
    await ann.ask("POST", bindings, 201, a_binding("yes", "cluster-admin", kind="ClusterRole"))


async def test_labels_that_make_a_role_part_of_another_are_a_grant(
    admin: Caller, ann: Caller
) -> None:
    allowed = {
        "apiGroups": ["rbac.authorization.k8s.io"],
        "resources": ["clusterroles"],
        "verbs": ["patch"],
    }
    await admin.ask(
        "POST", f"{RBAC}/clusterroles", 201, {"metadata": {"name": "r"}, "rules": [allowed]}
    )
    await admin.ask(
        "POST", f"{RBAC}/clusterrolebindings", 201, a_binding("r", "r", kind="ClusterRole")
    )
    labels = {"labels": {"rbac.authorization.k8s.io/aggregate-to-view": "true"}}
    await ann.patch(f"{RBAC}/clusterroles/cluster-admin", 403, {"metadata": labels})


async def test_acting_for_others_is_a_right_to_each_part(
    admin: Caller, http: aiohttp.ClientSession
) -> None:
    rules = [
        {
            "apiGroups": [""],
            "resources": ["users"],
            "verbs": ["impersonate"],
            "resourceNames": ["bob"],
        },
        {
            "apiGroups": ["authentication.k8s.io"],
            "resources": ["userextras/team"],
            "verbs": ["impersonate"],
            "resourceNames": ["blue"],
        },
    ]
    await admin.ask(
        "POST", f"{RBAC}/clusterroles", 201, {"metadata": {"name": "i"}, "rules": rules}
    )
    binding = a_binding("i", "i", kind="ClusterRole")
    binding["subjects"] = [{"kind": "ServiceAccount", "name": "bot", "namespace": "default"}]
    await admin.ask("POST", f"{RBAC}/clusterrolebindings", 201, binding)
    accounts = "/api/v1/namespaces/default/serviceaccounts"
    await admin.ask("POST", accounts, 201, {"metadata": {"name": "bot"}})
    token = (await admin.ask("POST", f"{accounts}/bot/token", 201, {}))["status"]["token"]
    who = "/apis/authentication.k8s.io/v1/selfsubjectreviews"

    async def ask(expected: int, **headers: str) -> Any:
        bot = Caller(http, bearer(token) | headers)
        return await bot.ask("POST", who, expected, {})

    found = await ask(201, **{"Impersonate-User": "bob", "Impersonate-Extra-Team": "blue"})
    assert found["status"]["userInfo"] == {
        "username": "bob",
        "groups": ["system:authenticated"],
        "extra": {"team": ["blue"]},
    }
    said = await ask(403, **{"Impersonate-User": "bob", "Impersonate-Extra-Team": "red"})
    assert 'cannot impersonate resource "userextras/team"' in said["message"]
    said = await ask(403, **{"Impersonate-User": "ann"})
    assert said["message"].startswith('users "ann" is forbidden: User "system:serviceaccount:')
    await ask(403, **{"Impersonate-User": "bob", "Impersonate-Group": "system:masters"})
    await ask(403, **{"Impersonate-User": "system:serviceaccount:default:bot"})


# --- reviews --------------------------------------------------------------------------------------


async def test_reviews_answer_with_their_reason(admin: Caller, ann: Caller) -> None:
    await grant(admin, "maps", ["list"], ["configmaps"])
    wanted = {"verb": "list", "resource": "configmaps", "namespace": "default"}
    answer = await ann.ask("POST", MAY_I, 201, {"spec": {"resourceAttributes": wanted}})
    assert answer["status"] == {
        "allowed": True,
        "reason": 'RBAC: allowed by RoleBinding "maps/default" of Role "maps" to Group "dev"',
    }
    somebody = {"resourceAttributes": wanted, "user": "x", "groups": ["dev"]}
    path = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
    assert (await admin.ask("POST", path, 201, {"spec": somebody}))["status"]["allowed"] is True
    await ann.ask("POST", path, 403, {"spec": somebody})
    local = "/apis/authorization.k8s.io/v1/namespaces/default/localsubjectaccessreviews"
    here = {"metadata": {"namespace": "default"}, "spec": somebody}
    assert (await admin.ask("POST", local, 201, here))["status"]["allowed"] is True
    elsewhere = {**somebody, "resourceAttributes": {**wanted, "namespace": "other"}}
    said = await admin.ask("POST", local, 422, {**here, "spec": elsewhere})
    assert "must match metadata.namespace" in said["message"]
    url = {"nonResourceAttributes": {"verb": "get", "path": "/metrics"}}
    assert (await ann.ask("POST", MAY_I, 201, {"spec": url}))["status"] == {"allowed": False}
    said = await ann.ask("POST", MAY_I, 422, {"spec": {}})
    assert "exactly one of nonResourceAttributes or resourceAttributes" in said["message"]


async def test_rules_of_a_caller_are_listed(admin: Caller, ann: Caller) -> None:
    await grant(admin, "one", ["get"], ["secrets"], resourceNames=["mine"])
    path = "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews"
    status = (await ann.ask("POST", path, 201, {"spec": {"namespace": "default"}}))["status"]
    own = {"verbs": ["get"], "apiGroups": [""], "resources": ["secrets"], "resourceNames": ["mine"]}
    assert own in status["resourceRules"]
    assert status["incomplete"] is False
    assert any("/healthz" in rule["nonResourceURLs"] for rule in status["nonResourceRules"])
    said = await ann.ask("POST", path, 400, {"spec": {}})
    assert said["message"] == "no namespace on request"


# --- nodes ----------------------------------------------------------------------------------------


def a_pod(name: str, node: str, **spec: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": name},
        "spec": {"nodeName": node, "containers": [{"name": "c", "image": "x"}], **spec},
    }


async def test_a_node_reads_what_its_pods_name(admin: Caller, node: Caller) -> None:
    for name in ("mine", "other"):
        await admin.ask("POST", SECRETS, 201, {"metadata": {"name": name}})
    said = await node.ask("GET", f"{SECRETS}/mine", 403)
    assert said["message"].endswith("no relationship found between node 'n1' and this object")
    volumes = [{"name": "v", "secret": {"secretName": "mine"}}]
    await admin.ask("POST", PODS, 201, a_pod("p1", "n1", volumes=volumes))
    await admin.ask("POST", PODS, 201, a_pod("p2", "n2"))
    await node.ask("GET", f"{SECRETS}/mine", 200)
    await node.ask("GET", f"{SECRETS}/other", 403)
    await node.ask("GET", SECRETS, 403)
    await node.ask("PUT", f"{SECRETS}/mine", 403, {"metadata": {"name": "mine"}})
    await node.ask("GET", f"{PODS}/p1", 200)
    await node.ask("GET", f"{PODS}/p2", 403)
    await node.ask("GET", "/api/v1/pods", 403)
    found = await node.ask("GET", "/api/v1/pods?fieldSelector=spec.nodeName%3Dn1", 200)
    assert [item["metadata"]["name"] for item in found["items"]] == ["p1"]
    await node.ask("DELETE", f"{PODS}/p2", 403)
    await node.ask("POST", PODS, 403, a_pod("p3", "n1"))
    await admin.ask("DELETE", f"{PODS}/p1?gracePeriodSeconds=0", 200)
    await node.ask("GET", f"{SECRETS}/mine", 403)


async def test_a_node_has_tokens_for_its_pods_alone(admin: Caller, node: Caller) -> None:
    accounts = "/api/v1/namespaces/default/serviceaccounts"
    await admin.ask("POST", accounts, 201, {"metadata": {"name": "bot"}})
    pod = await admin.ask("POST", PODS, 201, a_pod("p1", "n1", serviceAccountName="bot"))
    uid = pod["metadata"]["uid"]
    bound = {"apiVersion": "v1", "kind": "Pod", "name": "p1", "uid": uid}
    path = f"{accounts}/bot/token"
    await node.ask("POST", path, 201, {"spec": {"boundObjectRef": bound}})
    said = await node.ask("POST", path, 403, {"spec": {}})
    assert said["message"].endswith("node requested token not bound to a pod")
    wrong = {**bound, "uid": "x"}
    await node.ask("POST", path, 403, {"spec": {"boundObjectRef": wrong}})
    vault = {"boundObjectRef": bound, "audiences": ["vault"]}
    said = await node.ask("POST", path, 403, {"spec": vault})
    assert 'audience "vault" not found in pod spec volume' in said["message"]


async def test_a_node_changes_of_itself_what_is_its_own(admin: Caller, node: Caller) -> None:
    labels = {"kubernetes.io/hostname": "n1", "node.kubernetes.io/x": "y", "team": "blue"}
    role = {"metadata": {"name": "n1", "labels": {"node-role.kubernetes.io/x": ""}}}
    said = await node.ask("POST", "/api/v1/nodes", 403, role)
    assert said["message"].endswith(
        'node "n1" is not allowed to set the following labels: node-role.kubernetes.io/x'
    )
    await node.ask("POST", "/api/v1/nodes", 201, {"metadata": {"name": "n1", "labels": labels}})
    await node.ask("GET", "/api/v1/nodes/n1", 200)
    await node.ask("GET", "/api/v1/nodes", 403)
    taints = {"spec": {"taints": [{"key": "a", "effect": "NoSchedule"}]}}
    said = await node.patch("/api/v1/nodes/n1", 403, taints)
    assert said["message"].endswith('node "n1" is not allowed to modify taints')
    restricted = {"metadata": {"labels": {"a.node-restriction.kubernetes.io/b": "c"}}}
    await node.patch("/api/v1/nodes/n1", 403, restricted)
    await node.patch("/api/v1/nodes/n1", 200, {"metadata": {"labels": {"team": "red"}}})
    await node.patch("/api/v1/nodes/n2", 403, {"metadata": {"labels": {"team": "red"}}})


async def test_many_callers_are_judged_while_roles_change(admin: Caller, ann: Caller) -> None:
    await grant(admin, "maps", ["list"], ["configmaps"])

    async def change() -> None:
        for at in range(20):
            await grant(admin, f"r{at}", ["get"], ["pods"])

    async def read() -> None:
        for _ in range(40):
            await ann.ask("GET", CONFIGMAPS, 200)

    async with asyncio.TaskGroup() as group:
        group.create_task(change())
        group.create_task(read())
