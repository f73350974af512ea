"""Rules of RBAC as plain values: what they allow, cover and are written as."""

from __future__ import annotations

import pytest

from gateway.model.json import JsonObject
from gateway.wire.kube import rbac
from gateway.wire.kube.podrefs import pod_references
from gateway.wire.kube.rules import EVERYTHING, Rule, missing, subject_text, subject_user

PODS = Rule(("get", "list"), ("",), ("pods", "pods/log"))


@pytest.mark.parametrize(
    ("rule", "verb", "group", "resource", "subresource", "name", "allowed"),
    [
        (PODS, "get", "", "pods", "", "a", True),
        (PODS, "get", "", "pods", "log", "a", True),
        (PODS, "get", "", "pods", "exec", "a", False),
        (PODS, "watch", "", "pods", "", "", False),
        (PODS, "get", "apps", "pods", "", "a", False),
        (Rule(("*",), ("*",), ("*",)), "escalate", "x.io", "things", "part", "", True),
        (
            Rule(("update",), ("apps",), ("*/scale",)),
            "update",
            "apps",
            "widgets",
            "scale",
            "",
            True,
        ),
        (Rule(("update",), ("apps",), ("*/scale",)), "update", "apps", "widgets", "", "", False),
        (Rule(("get",), ("",), ("secrets",), ("one",)), "get", "", "secrets", "", "one", True),
        (Rule(("get",), ("",), ("secrets",), ("one",)), "get", "", "secrets", "", "two", False),
        (Rule(("get",), ("",), ("secrets",), ("one",)), "list", "", "secrets", "", "", False),
        (Rule(("create",), ("",), ("pods",), ("one",)), "create", "", "pods", "", "", False),
    ],
)
def test_a_rule_allows_what_it_says(
    rule: Rule, verb: str, group: str, resource: str, subresource: str, name: str, allowed: bool
) -> None:
    assert rule.allows(verb, group, resource, subresource, name) is allowed


@pytest.mark.parametrize(
    ("url", "path", "allowed"),
    [
        ("/healthz", "/healthz", True),
        ("/healthz", "/healthz/ping", False),
        ("/api/*", "/api/v1", True),
        ("/api/*", "/apis", False),
        ("*", "/anything", True),
    ],
)
def test_a_rule_allows_paths_by_their_beginning(url: str, path: str, allowed: bool) -> None:
    assert Rule(("get",), urls=(url,)).allows_url("get", path) is allowed


def test_who_holds_everything_lacks_nothing() -> None:
    assert missing(EVERYTHING, [PODS, Rule(("get",), urls=("/metrics",))]) == []


def test_what_is_missing_is_put_together_by_resource() -> None:
    wanted = [Rule(("get", "list", "delete"), ("",), ("pods", "nodes"))]
    texts = [rule.text for rule in missing([PODS], wanted)]
    assert texts == [
        '{APIGroups:[""], Resources:["nodes"], Verbs:["get" "list" "delete"]}',
        '{APIGroups:[""], Resources:["pods"], Verbs:["delete"]}',
    ]


def test_a_right_to_one_name_covers_that_name_alone() -> None:
    held = [Rule(("get",), ("",), ("secrets",), ("one",))]
    assert missing(held, [Rule(("get",), ("",), ("secrets",), ("one",))]) == []
    assert missing(held, [Rule(("get",), ("",), ("secrets",))])
    assert missing(held, [Rule(("get",), ("",), ("secrets",), ("one", "two"))])


def test_a_right_to_all_scales_covers_one() -> None:
    held = [Rule(("update",), ("apps",), ("*/scale",))]
    assert missing(held, [Rule(("update",), ("apps",), ("deployments/scale",))]) == []
    assert missing(held, [Rule(("update",), ("apps",), ("deployments",))])


def test_subjects_are_users_and_groups() -> None:
    assert subject_user({"kind": "User", "name": "ann"}, "") == ("user", "ann")
    assert subject_user({"kind": "Group", "name": "dev"}, "x") == ("group", "dev")
    account = {"kind": "ServiceAccount", "name": "bot"}
    assert subject_user(account, "x") == ("user", "system:serviceaccount:x:bot")
    assert subject_user(account, "") is None
    assert subject_user({"kind": "Robot", "name": "r"}, "") is None
    assert subject_text(account, "x") == 'ServiceAccount "bot/x"'


# --- writing --------------------------------------------------------------------------------------


def a_binding(**changes: object) -> JsonObject:
    body: JsonObject = {
        "roleRef": {"apiGroup": rbac.GROUP, "kind": "Role", "name": "r"},
        "subjects": [{"kind": "User", "name": "ann"}],
    }
    body.update(changes)  # type: ignore[arg-type]
    return body


def test_bindings_are_completed_with_their_groups() -> None:
    item = a_binding(roleRef={"kind": "Role", "name": "r"})
    rbac.prepare_binding(item, None)
    assert item["roleRef"] == {"apiGroup": rbac.GROUP, "kind": "Role", "name": "r"}
    assert item["subjects"] == [{"kind": "User", "name": "ann", "apiGroup": rbac.GROUP}]
    assert rbac.binding_faults(item, None) == []


def test_a_binding_keeps_its_role() -> None:
    item = a_binding(subjects=[])
    other = a_binding(subjects=[], roleRef={"apiGroup": rbac.GROUP, "kind": "Role", "name": "q"})
    (fault,) = rbac.binding_faults(other, item)
    assert fault.text == (
        'roleRef: Invalid value: {"APIGroup":"rbac.authorization.k8s.io","Kind":"Role","Name":"q"}:'
        " cannot change roleRef"
    )


def test_faults_of_roles_name_what_is_missing() -> None:
    texts = [cause.text for cause in rbac.role_faults({"rules": [{"verbs": ["get"]}]}, None)]
    assert texts == [
        "rules[0].apiGroups: Required value: resource rules must supply at least one api group",
        "rules[0].resources: Required value: resource rules must supply at least one resource",
    ]
    urls: JsonObject = {"rules": [{"verbs": ["get"], "nonResourceURLs": ["/x"]}]}
    assert "namespaced rules cannot apply" in rbac.role_faults(urls, None)[0].text
    assert rbac.cluster_role_faults(urls, None) == []
    assert rbac.cluster_role_faults({"aggregationRule": {}}, None)
    cluster = a_binding(subjects=[{"kind": "ServiceAccount", "name": "bot"}])
    fields = [cause.field for cause in rbac.cluster_binding_faults(cluster, None)]
    assert fields == ["roleRef.kind", "subjects[0].namespace"]


def test_an_account_without_namespace_is_of_its_binding_s_namespace() -> None:
    """As for kube-apiserver: only a ClusterRoleBinding, which has none, must say whose account it means."""
    bot: JsonObject = {"kind": "ServiceAccount", "name": "bot"}
    assert rbac.binding_faults(a_binding(subjects=[bot]), None) == []
    role: JsonObject = {"apiGroup": rbac.GROUP, "kind": "ClusterRole", "name": "r"}
    cluster = a_binding(subjects=[bot], roleRef=role)
    (fault,) = rbac.cluster_binding_faults(cluster, None)
    assert fault.text == "subjects[0].namespace: Required value"


@pytest.mark.parametrize(
    ("subject", "told"),
    [
        ({"kind": "User", "apiGroup": rbac.GROUP}, ["name: Required value"]),
        (
            {"kind": "ServiceAccount", "name": "Bot", "apiGroup": "x"},
            [
                'name: Invalid value: "Bot": ',
                'apiGroup: Unsupported value: "x": supported values: ""',
            ],
        ),
        (
            {"kind": "Group", "name": "g", "apiGroup": "x"},
            ['apiGroup: Unsupported value: "x": supported values: "rbac.authorization.k8s.io"'],
        ),
        (
            {"kind": "Robot", "name": "r"},
            [
                'kind: Unsupported value: "Robot":'
                ' supported values: "ServiceAccount", "User", "Group"'
            ],
        ),
    ],
)
def test_faults_of_subjects(subject: JsonObject, told: list[str]) -> None:
    texts = [cause.text for cause in rbac.binding_faults(a_binding(subjects=[subject]), None)]
    assert len(texts) == len(told)
    assert all(text.startswith(f"subjects[0].{one}") for text, one in zip(texts, told, strict=True))


def test_faults_of_role_references() -> None:
    item = a_binding(roleRef={"apiGroup": "x", "kind": "Robot"}, subjects=[])
    assert [cause.text for cause in rbac.binding_faults(item, None)] == [
        'roleRef.apiGroup: Unsupported value: "x": supported values: "rbac.authorization.k8s.io"',
        'roleRef.kind: Unsupported value: "Robot": supported values: "Role", "ClusterRole"',
        "roleRef.name: Required value",
    ]


def test_selectors_of_gathered_roles_are_judged() -> None:
    selector: JsonObject = {"matchExpressions": [{"key": "a", "operator": "Near"}]}
    item: JsonObject = {"aggregationRule": {"clusterRoleSelectors": [selector]}}
    place = "aggregationRule.clusterRoleSelectors[0]"
    assert [cause.text for cause in rbac.cluster_role_faults(item, None)] == [
        f'{place}.matchExpressions[0].operator: Invalid value: "Near":'
        " not a valid selector operator",
        f"{place}: Invalid value: null: invalid label selector.",
    ]
    item = {"aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"a": "b"}}]}}
    assert rbac.cluster_role_faults(item, None) == []


# --- what Pods name -------------------------------------------------------------------------------


def test_a_pod_names_objects_in_many_places() -> None:
    pod: JsonObject = {
        "metadata": {"name": "p"},
        "spec": {
            "serviceAccountName": "bot",
            "imagePullSecrets": [{"name": "pull"}],
            "initContainers": [{"envFrom": [{"secretRef": {"name": "env"}}]}],
            "containers": [
                {"env": [{"valueFrom": {"configMapKeyRef": {"name": "cfg", "key": "k"}}}]}
            ],
            "volumes": [
                {"name": "a", "secret": {"secretName": "vol"}},
                {"name": "b", "projected": {"sources": [{"configMap": {"name": "proj"}}]}},
                {"name": "c", "csi": {"nodePublishSecretRef": {"name": "csi"}}},
                {"name": "d", "persistentVolumeClaim": {"claimName": "claim"}},
                {"name": "e", "ephemeral": {}},
            ],
        },
    }
    assert pod_references(pod) == {
        ("serviceaccounts", "bot"),
        ("secrets", "pull"),
        ("secrets", "env"),
        ("secrets", "vol"),
        ("secrets", "csi"),
        ("configmaps", "cfg"),
        ("configmaps", "proj"),
        ("persistentvolumeclaims", "claim"),
        ("persistentvolumeclaims", "p-e"),
    }


def test_a_mirror_pod_gives_its_node_nothing() -> None:
    pod: JsonObject = {
        "metadata": {"annotations": {"kubernetes.io/config.mirror": "x"}},
        "spec": {"imagePullSecrets": [{"name": "pull"}]},
    }
    assert pod_references(pod) == frozenset()
