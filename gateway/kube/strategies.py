"""What differs between kinds when they are written: how they are completed, what else must hold.

A kind without a row here obeys its type alone. `prepare` gets a document that nobody else holds and may
change it; `faults` returns what kubectl shows under 422.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from gateway.model.json import Json, JsonObject
from gateway.wire.kube import rbac, signingrequests
from gateway.wire.kube.definitions import definition_faults
from gateway.wire.kube.kindrules import RULES
from gateway.wire.kube.names import (
    Rule,
    config_key_fault,
    invalid_value,
    path_segment_fault,
    qualified_fault,
    quoted,
    required,
    subdomain_fault,
)
from gateway.wire.kube.pods import pod_faults, pod_grace, prepare_pod
from gateway.wire.kube.servicefaults import service_faults, service_name_fault
from gateway.wire.kube.services import prepare_service
from gateway.wire.kube.status import Cause

NAME_LABEL = "kubernetes.io/metadata.name"
MAX_DATA = 1_048_576
DOCKER_CONFIG = ".dockerconfigjson"


def _keep(_item: JsonObject, _old: JsonObject | None) -> None:
    """Nothing to complete."""


def _fine(_item: JsonObject, _old: JsonObject | None) -> list[Cause]:
    return []


def _at_once(_item: JsonObject, _asked: int | None) -> int:
    return 0


@dataclass(frozen=True, slots=True)
class Strategy:
    """`old` is None on create; `keeps_status` lets a new object bring its status (a node says how it is);
    `grace` says how many seconds a deletion may take, from what the client asked for."""

    prepare: Callable[[JsonObject, JsonObject | None], None] = _keep
    faults: Callable[[JsonObject, JsonObject | None], list[Cause]] = _fine
    name_rule: Rule = subdomain_fault
    keeps_status: bool = False
    grace: Callable[[JsonObject, int | None], int] = _at_once


def table(item: JsonObject, key: str) -> JsonObject:
    """A part of a document as a table; empty when it is absent."""
    value = item.get(key)
    return value if isinstance(value, dict) else {}


def own_table(item: JsonObject, key: str) -> JsonObject:
    """The same, made in the document and safe to change."""
    copy = dict(table(item, key))
    item[key] = copy
    return copy


# --- namespaces ---------------------------------------------------------------------------------


def _prepare_namespace(item: JsonObject, old: JsonObject | None) -> None:
    metadata = own_table(item, "metadata")
    labels = own_table(metadata, "labels")
    labels[NAME_LABEL] = metadata.get("name")
    if old is None:
        item["spec"] = {"finalizers": ["kubernetes"]}
        item["status"] = {"phase": "Active"}
    else:
        item["spec"] = old.get("spec")


# --- configmaps and secrets -----------------------------------------------------------------------


def _prepare_secret(item: JsonObject, _old: JsonObject | None) -> None:
    item.setdefault("type", "Opaque")
    plain = item.pop("stringData", None)
    if isinstance(plain, dict) and plain:
        data = own_table(item, "data")
        for key, value in plain.items():
            data[key] = base64.b64encode(str(value).encode()).decode()


def _data_faults(item: JsonObject, old: JsonObject | None) -> list[Cause]:
    found = [
        invalid_value(f"{part}[{key}]", key, why)
        for part in ("data", "binaryData")
        for key in table(item, part)
        if (why := config_key_fault(key))
    ]
    twice = table(item, "data").keys() & table(item, "binaryData").keys()
    found += [
        invalid_value(f"data[{key}]", key, "duplicate of key present in binaryData")
        for key in sorted(twice)
    ]
    size = sum(
        len(str(value)) for part in ("data", "binaryData") for value in table(item, part).values()
    )
    if size > MAX_DATA:
        found.append(
            Cause("FieldValueTooLong", f"Too long: may not be more than {MAX_DATA} bytes", "data")
        )
    return found + _immutable_faults(item, old)


def _immutable_faults(item: JsonObject, old: JsonObject | None) -> list[Cause]:
    if old is None or old.get("immutable") is not True:
        return []
    parts = ("data", "binaryData", "immutable")
    text = "Forbidden: field is immutable when `immutable` is set"
    return [
        Cause("FieldValueForbidden", text, part)
        for part in parts
        if item.get(part) != old.get(part)
    ]


_SECRET_KEYS: Mapping[str, tuple[str, ...]] = {
    "kubernetes.io/tls": ("tls.crt", "tls.key"),
    "kubernetes.io/ssh-auth": ("ssh-privatekey",),
    "kubernetes.io/dockerconfigjson": (DOCKER_CONFIG,),
    "kubernetes.io/dockercfg": (".dockercfg",),
}


def _secret_type_faults(item: JsonObject) -> list[Cause]:
    """What a Secret of a known type must hold."""
    kind, data = str(item.get("type") or ""), table(item, "data")
    found = [required(f"data[{key}]") for key in _SECRET_KEYS.get(kind, ()) if key not in data]
    if kind == "kubernetes.io/basic-auth" and not {"username", "password"} & data.keys():
        found += [required("data[username]"), required("data[password]")]
    name = "kubernetes.io/service-account.name"
    notes = table(table(item, "metadata"), "annotations")
    if kind == "kubernetes.io/service-account-token" and not notes.get(name):
        found.append(required(f"metadata.annotations[{name}]"))
    return found


def _secret_faults(item: JsonObject, old: JsonObject | None) -> list[Cause]:
    found = _data_faults(item, old) + _secret_type_faults(item)
    if old is not None and item.get("type") != old.get("type"):
        found.append(invalid_value("type", item.get("type"), "field is immutable"))
    return found


# --- nodes, leases, events ------------------------------------------------------------------------

_EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")


def _prepare_node(item: JsonObject, _old: JsonObject | None) -> None:
    """The first of a node's networks and the list of them tell the same."""
    network = table(item, "spec").get("podCIDR")
    if network and not table(item, "spec").get("podCIDRs"):
        own_table(item, "spec")["podCIDRs"] = [network]


def _node_faults(item: JsonObject, _old: JsonObject | None) -> list[Cause]:
    taints = table(item, "spec").get("taints")
    found: list[Cause] = []
    seen: list[tuple[Json, Json]] = []
    for at, taint in enumerate(taints if isinstance(taints, list) else []):
        if isinstance(taint, dict):
            found += _taint_faults(taint, f"metadata.taints[{at}]")
            mark = (taint.get("key"), taint.get("effect"))
            if mark in seen:
                found.append(_twice(taint, f"metadata.taints[{at}]"))
            seen.append(mark)
    return found


def _twice(taint: JsonObject, path: str) -> Cause:
    shown = f'{{"Key":"{taint.get("key")}","Value":"{taint.get("value") or ""}",'
    shown += f'"Effect":"{taint.get("effect")}","TimeAdded":null}}'
    why = f"Duplicate value: {shown}: taints must be unique by key and effect pair"
    return Cause("FieldValueDuplicate", why, path)


def _taint_faults(taint: JsonObject, path: str) -> list[Cause]:
    why = qualified_fault(str(taint.get("key") or ""))
    found = [invalid_value(f"{path}.key", taint.get("key") or "", why)] if why else []
    effect = taint.get("effect")
    if effect not in _EFFECTS:
        allowed = ", ".join(f'"{word}"' for word in _EFFECTS)
        text = f"Unsupported value: {quoted(effect or '')}: supported values: {allowed}"
        found.append(Cause("FieldValueNotSupported", text, f"{path}.effect"))
    return found


def _lease_faults(item: JsonObject, _old: JsonObject | None) -> list[Cause]:
    spec = table(item, "spec")
    found: list[Cause] = []
    seconds, moves = spec.get("leaseDurationSeconds"), spec.get("leaseTransitions")
    if isinstance(seconds, int) and seconds <= 0:
        found.append(invalid_value("spec.leaseDurationSeconds", seconds, "must be greater than 0"))
    if isinstance(moves, int) and moves < 0:
        found.append(
            invalid_value("spec.leaseTransitions", moves, "must be greater than or equal to 0")
        )
    if spec.get("holderIdentity") == "":
        found.append(invalid_value("spec.holderIdentity", "", "must not be empty"))
    return found


def _event_faults(item: JsonObject, _old: JsonObject | None) -> list[Cause]:
    own: Json = table(item, "metadata").get("namespace")
    involved = table(item, "involvedObject").get("namespace") or ""
    expected = involved or "default"
    if own == expected or (not involved and own == "kube-system"):
        return []
    return [invalid_value("involvedObject.namespace", involved, "does not match event.namespace")]


# --- definitions ------------------------------------------------------------------------------------


CLEANUP = "customresourcecleanup.apiextensions.k8s.io"


def _prepare_definition(item: JsonObject, old: JsonObject | None) -> None:
    """Fill in names and status: a definition that is stored is served from then on."""
    spec = own_table(item, "spec")
    names = own_table(spec, "names")
    kind = names.get("kind")
    if isinstance(kind, str) and kind:
        names.setdefault("singular", kind.lower())
        names.setdefault("listKind", f"{kind}List")
    spec.setdefault("conversion", {"strategy": "None"})
    metadata = own_table(item, "metadata")
    if old is None:
        held = metadata.get("finalizers")
        metadata["finalizers"] = [*(held if isinstance(held, list) else []), CLEANUP]
    created = metadata.get("creationTimestamp") or table(old or {}, "metadata").get(
        "creationTimestamp"
    )
    status = own_table(item, "status")
    status["acceptedNames"] = names
    status["storedVersions"] = _stored_versions(spec, status)
    status["conditions"] = [
        _condition("NamesAccepted", "NoConflicts", "no conflicts found", created),
        _condition(
            "Established", "InitialNamesAccepted", "the initial names have been accepted", created
        ),
    ]


def _stored_versions(spec: JsonObject, status: JsonObject) -> list[Json]:
    known = status.get("storedVersions")
    found: list[Json] = list(known) if isinstance(known, list) else []
    versions = spec.get("versions")
    for row in versions if isinstance(versions, list) else []:
        if isinstance(row, dict) and row.get("storage") is True and row.get("name") not in found:
            found.append(row.get("name"))
    return found


def _condition(kind: str, reason: str, message: str, since: Json) -> JsonObject:
    return {
        "type": kind,
        "status": "True",
        "lastTransitionTime": since,
        "reason": reason,
        "message": message,
    }


STRATEGIES: Mapping[str, Strategy] = {
    "namespaces": Strategy(_prepare_namespace, name_rule=service_name_fault),
    "configmaps": Strategy(faults=_data_faults),
    "secrets": Strategy(_prepare_secret, _secret_faults),
    "nodes": Strategy(_prepare_node, _node_faults, keeps_status=True),
    "leases.coordination.k8s.io": Strategy(faults=_lease_faults),
    "events": Strategy(faults=_event_faults),
    "services": Strategy(prepare_service, service_faults, name_rule=service_name_fault),
    "pods": Strategy(prepare_pod, pod_faults, grace=pod_grace),
    "certificatesigningrequests.certificates.k8s.io": Strategy(
        signingrequests.prepare, signingrequests.faults, name_rule=path_segment_fault
    ),
    f"roles.{rbac.GROUP}": Strategy(faults=rbac.role_faults, name_rule=path_segment_fault),
    f"clusterroles.{rbac.GROUP}": Strategy(
        faults=rbac.cluster_role_faults, name_rule=path_segment_fault
    ),
    f"rolebindings.{rbac.GROUP}": Strategy(
        rbac.prepare_binding, rbac.binding_faults, name_rule=path_segment_fault
    ),
    f"clusterrolebindings.{rbac.GROUP}": Strategy(
        rbac.prepare_binding, rbac.cluster_binding_faults, name_rule=path_segment_fault
    ),
    "customresourcedefinitions.apiextensions.k8s.io": Strategy(
        _prepare_definition, definition_faults
    ),
    **{
        key: Strategy(rules.prepare, rules.faults, name_rule=rules.name_rule)
        for key, rules in RULES.items()
    },
}

PLAIN = Strategy()


def strategy_of(storage_key: str) -> Strategy:
    return STRATEGIES.get(storage_key, PLAIN)
