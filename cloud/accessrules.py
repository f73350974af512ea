"""What RBAC lets a ServiceAccount do, as one document that an edge can judge by. Pure.

Source: KubeEdge reference, section 20.3; Kubernetes RBAC.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from gateway.model.json import Json, JsonObject
from gateway.wire.cloudedge.devices import ObjectMeta, mapping, text

RBAC = "rbac.authorization.k8s.io/v1"
_EVERYONE = frozenset({"system:authenticated", "system:serviceaccounts"})

FindRole = Callable[[str, str, str], "JsonObject | None"]
"""(kind, namespace, name) of a Role or ClusterRole -> the object."""


def access_spec(
    account: JsonObject,
    bindings: Iterable[JsonObject],
    cluster_bindings: Iterable[JsonObject],
    find_role: FindRole,
) -> JsonObject:
    """Return the spec of an account's ServiceAccountAccess; the same rights give the same document."""
    meta = ObjectMeta.read(account)
    spec: JsonObject = {
        "serviceAccount": _plain("v1", "ServiceAccount", account),
        "serviceAccountUid": meta.uid,
    }
    own = _bound(bindings, "RoleBinding", "roleBinding", meta, find_role)
    if own:
        spec["accessRoleBinding"] = own
    everywhere = _bound(
        cluster_bindings, "ClusterRoleBinding", "clusterRoleBinding", meta, find_role
    )
    if everywhere:
        spec["accessClusterRoleBinding"] = everywhere
    return spec


def _bound(
    bindings: Iterable[JsonObject],
    kind: str,
    field: str,
    account: ObjectMeta,
    find_role: FindRole,
) -> list[Json]:
    found = []
    for binding in bindings:
        if not _names(binding, account):
            continue
        role, meta = mapping(binding.get("roleRef")), ObjectMeta.read(binding)
        named = find_role(text(role.get("kind")), meta.namespace, text(role.get("name")))
        rules = named.get("rules") if named is not None else None
        if isinstance(rules, list) and rules:
            entry: JsonObject = {field: _plain(RBAC, kind, binding), "rules": rules}
            found.append(((meta.namespace, meta.name), entry))
    return [entry for _, entry in sorted(found, key=lambda item: item[0])]


def _names(binding: JsonObject, account: ObjectMeta) -> bool:
    subjects = binding.get("subjects")
    return any(
        _is_account(subject, account)
        for subject in (subjects if isinstance(subjects, list) else [])
        if isinstance(subject, dict)
    )


def _is_account(subject: JsonObject, account: ObjectMeta) -> bool:
    kind, name = text(subject.get("kind")), text(subject.get("name"))
    if kind == "ServiceAccount":
        return name == account.name and text(subject.get("namespace")) == account.namespace
    if kind == "Group":
        return name in _EVERYONE or name == f"system:serviceaccounts:{account.namespace}"
    return kind == "User" and name == f"system:serviceaccount:{account.namespace}:{account.name}"


def _plain(group_version: str, kind: str, item: JsonObject) -> JsonObject:
    """Return an object with its kind, without what changes while its rights do not."""
    meta = mapping(item.get("metadata"))
    kept: JsonObject = {key: meta[key] for key in ("name", "namespace", "uid") if meta.get(key)}
    return {
        "apiVersion": group_version,
        "kind": kind,
        **{key: item[key] for key in ("roleRef", "subjects") if key in item},
        "metadata": kept,
    }
