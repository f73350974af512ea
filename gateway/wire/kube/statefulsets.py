"""The members of a StatefulSet: their names, their Pods, their claims, and who owns those claims.

Source: Kubernetes "StatefulSets"; API `apps/v1` StatefulSetSpec.
"""

from __future__ import annotations

import re
from copy import deepcopy

from gateway.model.json import Json, JsonObject
from gateway.wire.kube.parts import labels_of, part, rows, text, whole
from gateway.wire.kube.revisions import REVISION_LABEL
from gateway.wire.kube.templates import owner_reference, pod_from

GROUP_VERSION, KIND = "apps/v1", "StatefulSet"
NAME_LABEL = "statefulset.kubernetes.io/pod-name"
INDEX_LABEL = "apps.kubernetes.io/pod-index"
RETAIN, DELETE = "Retain", "Delete"
_MEMBER = re.compile(r"(.*)-([0-9]+)", re.DOTALL)
_MAX_ORDINAL = 2**31 - 1


# --- names ----------------------------------------------------------------------------------------


def name_of(item: JsonObject) -> str:
    """Return an object's name."""
    return text(part(item, "metadata").get("name"))


def member_of(pod: JsonObject) -> tuple[str, int]:
    """Return (set, ordinal) as a Pod's name says; ("", -1) for a name that says none."""
    found = _MEMBER.fullmatch(name_of(pod))
    if found is None:
        return "", -1
    ordinal = int(found[2]) if len(found[2]) <= 10 else _MAX_ORDINAL + 1
    return found[1], ordinal if ordinal <= _MAX_ORDINAL else -1


def ordinal_of(pod: JsonObject) -> int:
    """Return the ordinal of a Pod, -1 for none."""
    return member_of(pod)[1]


def ordinals(stateful_set: JsonObject) -> range:
    """Return the ordinals that a set wants."""
    spec = part(stateful_set, "spec")
    start = whole(part(spec, "ordinals").get("start"))
    return range(start, start + whole(spec.get("replicas"), 1))


def claim_name(template: JsonObject, stateful_set: JsonObject, ordinal: int) -> str:
    """Return the name of the claim that a member has by this template."""
    return f"{name_of(template)}-{name_of(stateful_set)}-{ordinal}"


def claim_templates(stateful_set: JsonObject) -> list[JsonObject]:
    """Return the templates of the claims that each member has."""
    return rows(part(stateful_set, "spec").get("volumeClaimTemplates"))


# --- Pods -----------------------------------------------------------------------------------------


def member_pod(stateful_set: JsonObject, ordinal: int, revision: str) -> JsonObject:
    """Return a new Pod of this ordinal by the set's template."""
    reference = owner_reference(GROUP_VERSION, KIND, stateful_set)
    pod = pod_from(part(stateful_set, "spec", "template"), stateful_set, reference)
    name = f"{name_of(stateful_set)}-{ordinal}"
    metadata = part(pod, "metadata")
    metadata["name"] = name
    metadata["namespace"] = part(stateful_set, "metadata").get("namespace")
    metadata["labels"] = _identity(part(metadata, "labels"), name, ordinal) | {
        REVISION_LABEL: revision
    }
    spec = part(pod, "spec")
    spec["hostname"] = name
    if part(stateful_set, "spec").get("serviceName"):
        spec["subdomain"] = part(stateful_set, "spec").get("serviceName")
    volumes = _volumes(stateful_set, rows(spec.get("volumes")), ordinal)
    if volumes:
        spec["volumes"] = volumes
    return pod


def _identity(labels: JsonObject, name: str, ordinal: int) -> JsonObject:
    return {**labels, NAME_LABEL: name, INDEX_LABEL: str(ordinal)}


def _volumes(stateful_set: JsonObject, volumes: list[JsonObject], ordinal: int) -> list[Json]:
    """Claims stand for what a Pod says under the same name."""
    claims: dict[str, JsonObject] = {
        name_of(template): {
            "name": name_of(template),
            "persistentVolumeClaim": {"claimName": claim_name(template, stateful_set, ordinal)},
        }
        for template in claim_templates(stateful_set)
    }
    others = [volume for volume in volumes if text(volume.get("name")) not in claims]
    return [*claims.values(), *others]


def has_identity(stateful_set: JsonObject, pod: JsonObject) -> bool:
    """True when a Pod is called as a member is, and says so."""
    owner, ordinal = member_of(pod)
    return (
        ordinal >= 0
        and owner == name_of(stateful_set)
        and name_of(pod) == f"{owner}-{ordinal}"
        and labels_of(pod).get(NAME_LABEL) == name_of(pod)
    )


def has_storage(stateful_set: JsonObject, pod: JsonObject) -> bool:
    """True when a Pod uses the claims that it is to have."""
    volumes = {text(row.get("name")): row for row in rows(part(pod, "spec").get("volumes"))}
    return all(
        part(volumes.get(name_of(template)), "persistentVolumeClaim").get("claimName")
        == claim_name(template, stateful_set, ordinal_of(pod))
        for template in claim_templates(stateful_set)
    )


def repaired(stateful_set: JsonObject, pod: JsonObject) -> JsonObject | None:
    """Return a Pod as a member has to be; None when it is so."""
    fixed = dict(pod)
    if not has_identity(stateful_set, pod):
        metadata = dict(part(pod, "metadata"))
        metadata["labels"] = _identity(part(metadata, "labels"), name_of(pod), ordinal_of(pod))
        fixed["metadata"] = metadata
    if not has_storage(stateful_set, pod):
        spec = dict(part(pod, "spec"))
        spec["volumes"] = _volumes(stateful_set, rows(spec.get("volumes")), ordinal_of(pod))
        fixed["spec"] = spec
    return None if fixed == pod else fixed


# --- claims ---------------------------------------------------------------------------------------


def member_claims(stateful_set: JsonObject, ordinal: int) -> list[JsonObject]:
    """Return the claims that a member has, as they are created."""
    selector = part(stateful_set, "spec", "selector", "matchLabels")
    found = []
    for template in claim_templates(stateful_set):
        claim = deepcopy(template)
        claim.pop("status", None)
        metadata = dict(part(template, "metadata"))
        metadata["name"] = claim_name(template, stateful_set, ordinal)
        metadata["namespace"] = part(stateful_set, "metadata").get("namespace")
        metadata["labels"] = {**part(metadata, "labels"), **selector}
        found.append(
            {**claim, "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata}
        )
    return found


def retention(stateful_set: JsonObject) -> tuple[str, str]:
    """Return what becomes of claims (when the set is deleted, when it is scaled down)."""
    said = part(stateful_set, "spec", "persistentVolumeClaimRetentionPolicy")
    return text(said.get("whenDeleted")) or RETAIN, text(said.get("whenScaled")) or RETAIN


def is_stale_claim(stateful_set: JsonObject, claim: JsonObject, pod: JsonObject) -> bool:
    """True for a claim that goes with an earlier Pod of this name: no new Pod may take it."""
    return retention(stateful_set)[1] == DELETE and _names_another(claim, _of_pod(pod))


def claim_owners(stateful_set: JsonObject, claim: JsonObject, pod: JsonObject) -> list[Json] | None:
    """Return the owners that a claim is to have, so that it goes with them; None when it has them."""
    of_set, of_pod = owner_reference(GROUP_VERSION, KIND, stateful_set), _of_pod(pod)
    if _names_another(claim, of_set) or _names_another(claim, of_pod):
        return None
    wanted = _wanted_owners(stateful_set, pod, of_set, of_pod)
    mine = [row for row in _owners(claim) if _is_named(row, of_set) or _is_named(row, of_pod)]
    others = [row for row in _owners(claim) if row not in mine]
    if has_foreign_controller(stateful_set, claim, pod):
        wanted = []
    is_right = {text(row.get("uid")) for row in mine} == {
        text(row.get("uid")) for row in wanted
    } and all(row.get("controller") is True for row in mine)
    return None if is_right else [*others, *wanted]


def _wanted_owners(
    stateful_set: JsonObject, pod: JsonObject, of_set: JsonObject, of_pod: JsonObject
) -> list[JsonObject]:
    when_deleted, when_scaled = retention(stateful_set)
    if when_scaled == DELETE and ordinal_of(pod) not in ordinals(stateful_set):
        return [of_pod]
    return [of_set] if when_deleted == DELETE else []


def has_foreign_controller(stateful_set: JsonObject, claim: JsonObject, pod: JsonObject) -> bool:
    """True when somebody else manages a claim that the set is to delete one day."""
    if retention(stateful_set) == (RETAIN, RETAIN):
        return False
    own = (owner_reference(GROUP_VERSION, KIND, stateful_set), _of_pod(pod))
    return any(
        row.get("controller") is True and not any(_is_named(row, one) for one in own)
        for row in _owners(claim)
    )


def _of_pod(pod: JsonObject) -> JsonObject:
    return owner_reference("v1", "Pod", pod)


def _owners(claim: JsonObject) -> list[JsonObject]:
    return rows(part(claim, "metadata").get("ownerReferences"))


def _is_named(row: JsonObject, reference: JsonObject) -> bool:
    return all(row.get(key) == reference.get(key) for key in ("apiVersion", "kind", "name"))


def _names_another(claim: JsonObject, reference: JsonObject) -> bool:
    """True when an owner has this name and another uid: an earlier one that has gone."""
    return any(
        _is_named(row, reference) and row.get("uid") != reference.get("uid")
        for row in _owners(claim)
    )
