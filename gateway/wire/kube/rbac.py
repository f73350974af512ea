"""Roles and bindings when they are written: completed, and checked. Pure.

Source: Kubernetes rbac.authorization.k8s.io/v1 and its server's messages.
"""

from __future__ import annotations

from collections.abc import Sequence

from gateway.model.json import Json, JsonObject
from gateway.wire.kube.judging import selector_faults
from gateway.wire.kube.names import (
    invalid_value,
    path_segment_fault,
    quoted,
    required,
    subdomain_fault,
)
from gateway.wire.kube.status import Cause

GROUP = "rbac.authorization.k8s.io"
_SHOWN = (("apiGroup", "APIGroup"), ("kind", "Kind"), ("name", "Name"))
"""How a server's messages write the fields of a role reference."""


def prepare_binding(item: JsonObject, _old: JsonObject | None) -> None:
    """Complete the groups of a role reference and of subjects."""
    role = _table(item.get("roleRef"))
    if role and not role.get("apiGroup"):
        item["roleRef"] = {**role, "apiGroup": GROUP}
    subjects = item.get("subjects")
    if isinstance(subjects, list):
        item["subjects"] = [_with_group(each) for each in subjects]


def _with_group(subject: Json) -> Json:
    if not isinstance(subject, dict) or subject.get("apiGroup"):
        return subject
    is_person = subject.get("kind") in ("User", "Group")
    return {**subject, "apiGroup": GROUP} if is_person else subject


def role_faults(item: JsonObject, _old: JsonObject | None) -> list[Cause]:
    """Say what is wrong with a Role."""
    return _rule_faults(item, is_namespaced=True)


def cluster_role_faults(item: JsonObject, _old: JsonObject | None) -> list[Cause]:
    """Say what is wrong with a ClusterRole."""
    faults = _rule_faults(item, is_namespaced=False)
    gathers = item.get("aggregationRule")
    if isinstance(gathers, dict) and not gathers.get("clusterRoleSelectors"):
        why = "at least one clusterRoleSelector required if aggregationRule is non-nil"
        faults.append(required("aggregationRule.clusterRoleSelectors", why))
    for at, selector in enumerate(_tables(_table(gathers).get("clusterRoleSelectors"))):
        place = f"aggregationRule.clusterRoleSelectors[{at}]"
        found = list(selector_faults(place, selector))
        unread = [invalid_value(place, None, "invalid label selector.")] if found else []
        faults += [*found, *unread]
    return faults


def binding_faults(item: JsonObject, old: JsonObject | None) -> list[Cause]:
    """Say what is wrong with a RoleBinding."""
    return _binding_faults(item, old, ("Role", "ClusterRole"), is_namespaced=True)


def cluster_binding_faults(item: JsonObject, old: JsonObject | None) -> list[Cause]:
    """Say what is wrong with a ClusterRoleBinding."""
    return _binding_faults(item, old, ("ClusterRole",), is_namespaced=False)


def _rule_faults(item: JsonObject, *, is_namespaced: bool) -> list[Cause]:
    faults: list[Cause] = []
    for at, rule in enumerate(_tables(item.get("rules"))):
        faults += _one_rule(rule, f"rules[{at}]", is_namespaced)
    return faults


def _one_rule(rule: JsonObject, place: str, is_namespaced: bool) -> list[Cause]:
    faults = []
    if not rule.get("verbs"):
        faults.append(required(f"{place}.verbs", "verbs must contain at least one value"))
    urls = rule.get("nonResourceURLs")
    if urls:
        field = f"{place}.nonResourceURLs"
        if is_namespaced:
            why = "namespaced rules cannot apply to non-resource URLs"
            faults.append(invalid_value(field, urls, why))
        if rule.get("apiGroups") or rule.get("resources") or rule.get("resourceNames"):
            why = "rules cannot apply to both regular resources and non-resource URLs"
            faults.append(invalid_value(field, urls, why))
        return faults
    if not rule.get("apiGroups"):
        why = "resource rules must supply at least one api group"
        faults.append(required(f"{place}.apiGroups", why))
    if not rule.get("resources"):
        why = "resource rules must supply at least one resource"
        faults.append(required(f"{place}.resources", why))
    return faults


def _binding_faults(
    item: JsonObject, old: JsonObject | None, kinds: Sequence[str], *, is_namespaced: bool
) -> list[Cause]:
    role = _table(item.get("roleRef"))
    faults = []
    if role.get("apiGroup") != GROUP:
        faults.append(_unsupported("roleRef.apiGroup", role.get("apiGroup") or "", (GROUP,)))
    if role.get("kind") not in kinds:
        faults.append(_unsupported("roleRef.kind", role.get("kind") or "", kinds))
    name = str(role.get("name") or "")
    if not name:
        faults.append(required("roleRef.name", ""))
    elif why := path_segment_fault(name):
        faults.append(invalid_value("roleRef.name", name, why))
    for at, subject in enumerate(_tables(item.get("subjects"))):
        faults += _subject_faults(subject, f"subjects[{at}]", is_namespaced)
    if old is not None and old.get("roleRef") != item.get("roleRef"):
        shown: JsonObject = {there: role.get(name) or "" for name, there in _SHOWN}
        faults.append(invalid_value("roleRef", shown, "cannot change roleRef"))
    return faults


def _subject_faults(subject: JsonObject, place: str, is_namespaced: bool) -> list[Cause]:
    faults = []
    name, group = str(subject.get("name") or ""), str(subject.get("apiGroup") or "")
    if not name:
        faults.append(required(f"{place}.name", ""))
    match subject.get("kind"):
        case "ServiceAccount":
            if name and (why := subdomain_fault(name)):
                faults.append(invalid_value(f"{place}.name", name, why))
            if group:
                faults.append(_unsupported(f"{place}.apiGroup", group, ("",)))
            if not is_namespaced and not subject.get("namespace"):
                faults.append(required(f"{place}.namespace", ""))
        case "User" | "Group":
            if group != GROUP:
                faults.append(_unsupported(f"{place}.apiGroup", group, (GROUP,)))
        case other:
            known = ("ServiceAccount", "User", "Group")
            faults.append(_unsupported(f"{place}.kind", other or "", known))
    return faults


def _unsupported(field: str, value: Json, known: Sequence[str]) -> Cause:
    names = ", ".join(quoted(each) for each in known)
    text = f"Unsupported value: {quoted(value)}: supported values: {names}"
    return Cause("FieldValueNotSupported", text, field)


def _table(value: Json) -> JsonObject:
    return value if isinstance(value, dict) else {}


def _tables(value: Json) -> list[JsonObject]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []
