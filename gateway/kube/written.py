"""What writes lead to, and what their clients are told; which fields a kind is selected by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from gateway.kube.admission import Remarks
from gateway.kube.strategies import table
from gateway.kube.watch import Stored
from gateway.model.json import JsonObject
from gateway.wire.kube.resources import ResourceType
from gateway.wire.kube.status import success

SHOWN_WHEN_GONE = frozenset(
    {
        "namespaces",
        "persistentvolumeclaims",
        "persistentvolumes",
        "pods",
        "podtemplates",
        "resourcequotas",
        "serviceaccounts",
        "services",
        "csidrivers.storage.k8s.io",
        "csinodes.storage.k8s.io",
        "storageclasses.storage.k8s.io",
        "volumeattachments.storage.k8s.io",
        "volumeattributesclasses.storage.k8s.io",
    }
)
"""Kinds whose clients read the object itself from the answer to a delete, and no Status."""


@dataclass(frozen=True, slots=True)
class Written:
    """What a write led to."""

    stored: Stored
    is_new: bool = False
    remarks: Remarks = field(default_factory=Remarks)


@dataclass(frozen=True, slots=True)
class Deleted:
    """The last state, and whether it is gone or waits for finalizers."""

    stored: Stored
    is_gone: bool


def deletion_status(resource: ResourceType, deleted: Deleted) -> JsonObject:
    """What the client of a delete is told: success, or the object that lingers or was."""
    if not deleted.is_gone or resource.storage_key in SHOWN_WHEN_GONE:
        return deleted.stored.object
    uid = str(table(deleted.stored.object, "metadata").get("uid"))
    return success(deleted.stored.key.name, resource.group, resource.plural, uid)


def selectable(resource: ResourceType) -> Mapping[str, tuple[str, ...]] | None:
    """Fields to select by; None where a built-in kind has none of its own."""
    return resource.fields if resource.fields or resource.is_custom else None
