"""What `kubectl get` prints of rules: roles, budgets, quotas, classes, leases, certificate requests."""

from __future__ import annotations

from collections.abc import Mapping

from gateway.model.json import Json, JsonObject
from gateway.wire.kube.clock import age as span
from gateway.wire.kube.parts import part, rows, text
from gateway.wire.kube.printing.cells import (
    NONE,
    Printed,
    age,
    columns,
    containers,
    count,
    flag,
    labels_text,
    name_of,
    word,
)


def _created(item: JsonObject, _now: float) -> list[Json]:
    return [name_of(item), part(item, "metadata").get("creationTimestamp")]


def _binding(item: JsonObject, now: float) -> list[Json]:
    role, found = part(item, "roleRef"), rows(item.get("subjects"))
    return [
        name_of(item),
        f"{text(role.get('kind'))}/{text(role.get('name'))}",
        age(item, now),
        *(", ".join(_subjects(found, kind)) for kind in ("User", "Group", "ServiceAccount")),
    ]


def _subjects(found: list[JsonObject], kind: str) -> list[str]:
    names = [row for row in found if row.get("kind") == kind]
    if kind != "ServiceAccount":
        return [text(row.get("name")) for row in names]
    return [
        f"{text(row.get('namespace'))}/{text(row.get('name'))}"
        if row.get("namespace")
        else text(row.get("name"))
        for row in names
    ]


def _budget(item: JsonObject, now: float) -> list[Json]:
    spec = part(item, "spec")
    return [
        name_of(item),
        word(spec.get("minAvailable"), "N/A"),
        word(spec.get("maxUnavailable"), "N/A"),
        count(item, "status", "disruptionsAllowed"),
        age(item, now),
    ]


def _quota(item: JsonObject, now: float) -> list[Json]:
    hard, used = part(item, "status", "hard"), part(item, "status", "used")
    shown = {name: f"{name}: {word(used.get(name), '0')}/{hard[name]}" for name in sorted(hard)}
    limits = [line for name, line in shown.items() if name.startswith("limits.")]
    others = [line for name, line in shown.items() if not name.startswith("limits.")]
    return [name_of(item), ", ".join(others), ", ".join(limits), age(item, now)]


def _priority(item: JsonObject, now: float) -> list[Json]:
    return [
        name_of(item),
        count(item, "value"),
        flag(item.get("globalDefault")),
        age(item, now),
        text(item.get("preemptionPolicy")),
    ]


def _runtimeclass(item: JsonObject, now: float) -> list[Json]:
    return [name_of(item), text(item.get("handler")), age(item, now)]


def _lease(item: JsonObject, now: float) -> list[Json]:
    return [name_of(item), text(part(item, "spec").get("holderIdentity")), age(item, now)]


def _request(item: JsonObject, now: float) -> list[Json]:
    spec = part(item, "spec")
    seconds = spec.get("expirationSeconds")
    return [
        name_of(item),
        age(item, now),
        word(spec.get("signerName")),
        text(spec.get("username")),
        span(seconds) if isinstance(seconds, int) else NONE,
        _request_state(part(item, "status")),
    ]


def _request_state(status: JsonObject) -> str:
    kinds = {row.get("type") for row in rows(status.get("conditions"))}
    parts = ["Denied" if "Denied" in kinds else "Approved" if "Approved" in kinds else "Pending"]
    if "Failed" in kinds:
        parts.append("Failed")
    if status.get("certificate"):
        parts.append("Issued")
    return ",".join(parts)


def _podtemplate(item: JsonObject, _now: float) -> list[Json]:
    template = part(item, "template")
    return [
        name_of(item),
        *containers(template),
        labels_text(part(template, "metadata").get("labels")),
    ]


_CREATED = Printed(columns("Created At:date"), _created)
_BINDING = Printed(columns("Role", "Age", "Users*", "Groups*", "ServiceAccounts*"), _binding)

PRINTED: Mapping[str, Printed] = {
    "roles.rbac.authorization.k8s.io": _CREATED,
    "clusterroles.rbac.authorization.k8s.io": _CREATED,
    "rolebindings.rbac.authorization.k8s.io": _BINDING,
    "clusterrolebindings.rbac.authorization.k8s.io": _BINDING,
    "limitranges": _CREATED,
    "customresourcedefinitions.apiextensions.k8s.io": _CREATED,
    "csistoragecapacities.storage.k8s.io": _CREATED,
    "poddisruptionbudgets.policy": Printed(
        columns("Min Available", "Max Unavailable", "Allowed Disruptions:integer", "Age"), _budget
    ),
    "resourcequotas": Printed(columns("Request", "Limit", "Age"), _quota),
    "priorityclasses.scheduling.k8s.io": Printed(
        columns("Value:integer", "Global-Default:boolean", "Age", "PreemptionPolicy"), _priority
    ),
    "runtimeclasses.node.k8s.io": Printed(columns("Handler", "Age"), _runtimeclass),
    "leases.coordination.k8s.io": Printed(columns("Holder", "Age"), _lease),
    "certificatesigningrequests.certificates.k8s.io": Printed(
        columns("Age", "SignerName", "Requestor", "RequestedDuration", "Condition"), _request
    ),
    "podtemplates": Printed(columns("Containers", "Images", "Pod Labels"), _podtemplate),
}
