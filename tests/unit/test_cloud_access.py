"""From RBAC to what an edge judges by."""

from __future__ import annotations

from typing import Any

import pytest

from cloud.accessrules import access_spec
from edge.metarequests import Call
from edge.metarights import may

ACCOUNT: Any = {
    "metadata": {
        "name": "robot",
        "namespace": "default",
        "uid": "u-1",
        "resourceVersion": "7",
        "managedFields": [{}],
    }
}
READ = {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]}
WRITE = {"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["*"]}
ROLES: dict[tuple[str, str, str], Any] = {
    ("Role", "default", "reader"): {"rules": [READ]},
    ("ClusterRole", "", "writer"): {"rules": [WRITE]},
    ("ClusterRole", "", "empty"): {"rules": None},
}
ROBOT = {"kind": "ServiceAccount", "name": "robot", "namespace": "default"}
USER = "system:serviceaccount:default:robot"


def find(kind: str, namespace: str, name: str) -> Any:
    return ROLES.get((kind, namespace if kind == "Role" else "", name))


def a_binding(
    name: str, role: tuple[str, str], *subjects: dict[str, Any], namespace: str = "default"
) -> Any:
    meta = {"name": name, "uid": f"u-{name}"} | ({"namespace": namespace} if namespace else {})
    return {
        "metadata": meta,
        "roleRef": {"kind": role[0], "name": role[1]},
        "subjects": list(subjects),
    }


def spec_of(bindings: Any = (), cluster: Any = ()) -> Any:
    return access_spec(ACCOUNT, bindings, cluster, find)


def a_call(verb: str, plural: str, group: str = "", namespace: str = "default") -> Call:
    return Call(verb, group, "v1", plural, namespace, "", "", {})


def test_an_account_without_bindings_is_named_and_has_no_rights() -> None:
    spec = spec_of()
    assert spec["serviceAccount"]["metadata"] == {
        "name": "robot",
        "namespace": "default",
        "uid": "u-1",
    }
    assert spec["serviceAccountUid"] == "u-1"
    assert "accessRoleBinding" not in spec


def test_rules_stand_beside_their_bindings_and_the_edge_judges_by_them() -> None:
    spec = spec_of(
        [a_binding("b", ("Role", "reader"), ROBOT)],
        [a_binding("c", ("ClusterRole", "writer"), ROBOT, namespace="")],
    )
    assert spec["accessRoleBinding"][0]["rules"] == [READ]
    assert spec["accessRoleBinding"][0]["roleBinding"]["metadata"]["namespace"] == "default"
    access = [{"spec": spec}]
    assert may(USER, a_call("list", "pods"), access)
    assert not may(USER, a_call("list", "pods", namespace="other"), access)
    assert not may(USER, a_call("delete", "pods"), access)
    assert may(USER, a_call("delete", "deployments", "apps", "anywhere"), access)
    assert not may("system:serviceaccount:default:other", a_call("list", "pods"), access)


@pytest.mark.parametrize(
    ("subject", "counts"),
    [
        (ROBOT, True),
        ({"kind": "User", "name": USER}, True),
        ({"kind": "Group", "name": "system:serviceaccounts"}, True),
        ({"kind": "Group", "name": "system:serviceaccounts:default"}, True),
        ({"kind": "Group", "name": "system:authenticated"}, True),
        ({"kind": "Group", "name": "system:serviceaccounts:other"}, False),
        ({**ROBOT, "namespace": "other"}, False),
        ({"kind": "ServiceAccount", "name": "robot"}, False),
        ({"kind": "User", "name": "robot"}, False),
    ],
)
def test_a_binding_counts_for_those_that_it_names(subject: Any, *, counts: bool) -> None:
    spec = spec_of([a_binding("b", ("Role", "reader"), subject)])
    assert ("accessRoleBinding" in spec) is counts


@pytest.mark.parametrize("role", [("Role", "gone"), ("ClusterRole", "empty"), ("Odd", "reader")])
def test_a_role_without_rules_gives_none(role: tuple[str, str]) -> None:
    assert "accessRoleBinding" not in spec_of([a_binding("b", role, ROBOT)])


def test_the_order_of_bindings_makes_no_difference() -> None:
    bindings = [a_binding(name, ("Role", "reader"), ROBOT) for name in "cab"]
    assert spec_of(bindings) == spec_of(bindings[::-1])


@pytest.mark.parametrize("subjects", [None, 5, [None], [{"kind": 1}]])
def test_odd_subjects_name_nobody(subjects: Any) -> None:
    binding = a_binding("b", ("Role", "reader"))
    assert "accessRoleBinding" not in spec_of([{**binding, "subjects": subjects}])
