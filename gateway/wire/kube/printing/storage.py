"""What `kubectl get` prints of volumes, claims and the kinds of `storage.k8s.io`."""

from __future__ import annotations

from collections.abc import Mapping

from gateway.model.json import Json, JsonObject
from gateway.wire.kube.parts import part, rows, text
from gateway.wire.kube.printing.cells import (
    NONE,
    UNSET,
    Printed,
    age,
    columns,
    flag,
    name_of,
    strings,
    word,
)

_MODES = (
    ("ReadWriteOnce", "RWO"),
    ("ReadOnlyMany", "ROX"),
    ("ReadWriteMany", "RWX"),
    ("ReadWriteOncePod", "RWOP"),
)
_CLASS = "volume.beta.kubernetes.io/storage-class"
_DEFAULT_CLASS = (
    "storageclass.kubernetes.io/is-default-class",
    "storageclass.beta.kubernetes.io/is-default-class",
)


def _modes(value: Json) -> str:
    given = strings(value)
    return ",".join(short for mode, short in _MODES if mode in given)


def _class(item: JsonObject) -> str:
    notes = part(item, "metadata", "annotations")
    return text(notes.get(_CLASS)) or text(part(item, "spec").get("storageClassName"))


def _phase(item: JsonObject) -> str:
    if part(item, "metadata").get("deletionTimestamp"):
        return "Terminating"
    return text(part(item, "status").get("phase"))


def _volume(item: JsonObject, now: float) -> list[Json]:
    spec, claim = part(item, "spec"), part(item, "spec", "claimRef")
    owner = f"{text(claim.get('namespace'))}/{text(claim.get('name'))}" if claim else ""
    return [
        name_of(item),
        word(part(spec, "capacity").get("storage"), "0"),
        _modes(spec.get("accessModes")),
        text(spec.get("persistentVolumeReclaimPolicy")),
        _phase(item),
        owner,
        _class(item),
        word(spec.get("volumeAttributesClassName"), UNSET),
        text(part(item, "status").get("reason")),
        age(item, now),
        word(spec.get("volumeMode"), UNSET),
    ]


def _claim(item: JsonObject, now: float) -> list[Json]:
    spec, status = part(item, "spec"), part(item, "status")
    volume = text(spec.get("volumeName"))
    return [
        name_of(item),
        _phase(item),
        volume,
        word(part(status, "capacity").get("storage"), "0") if volume else "",
        _modes(status.get("accessModes")) if volume else "",
        _class(item),
        word(spec.get("volumeAttributesClassName"), UNSET),
        age(item, now),
        word(spec.get("volumeMode"), UNSET),
    ]


def _storageclass(item: JsonObject, now: float) -> list[Json]:
    notes = part(item, "metadata", "annotations")
    is_default = any(notes.get(key) == "true" for key in _DEFAULT_CLASS)
    return [
        name_of(item) + (" (default)" if is_default else ""),
        text(item.get("provisioner")),
        word(item.get("reclaimPolicy"), "Delete"),
        word(item.get("volumeBindingMode"), "Immediate"),
        flag(item.get("allowVolumeExpansion")),
        age(item, now),
    ]


def _attachment(item: JsonObject, now: float) -> list[Json]:
    spec = part(item, "spec")
    return [
        name_of(item),
        text(spec.get("attacher")),
        text(part(spec, "source").get("persistentVolumeName")),
        text(spec.get("nodeName")),
        flag(part(item, "status").get("attached")),
        age(item, now),
    ]


def _csidriver(item: JsonObject, now: float) -> list[Json]:
    spec = part(item, "spec")
    asked = spec.get("tokenRequests")
    audiences = ",".join(text(row.get("audience")) for row in rows(asked))
    return [
        name_of(item),
        flag(spec.get("attachRequired"), True),
        flag(spec.get("podInfoOnMount")),
        flag(spec.get("storageCapacity")),
        UNSET if asked is None else audiences,
        flag(spec.get("requiresRepublish")),
        ",".join(strings(spec.get("volumeLifecycleModes"))) or NONE,
        age(item, now),
    ]


def _csinode(item: JsonObject, now: float) -> list[Json]:
    return [name_of(item), len(rows(part(item, "spec").get("drivers"))), age(item, now)]


def _attributesclass(item: JsonObject, now: float) -> list[Json]:
    return [name_of(item), text(item.get("driverName")), age(item, now)]


_VOLUME = (
    "Capacity",
    "Access Modes",
    "Reclaim Policy",
    "Status",
    "Claim",
    "StorageClass",
    "VolumeAttributesClass",
    "Reason",
    "Age",
    "VolumeMode*",
)
_CLAIM = (
    "Status",
    "Volume",
    "Capacity",
    "Access Modes",
    "StorageClass",
    "VolumeAttributesClass",
    "Age",
    "VolumeMode*",
)
_STORAGE_CLASS = (
    "Provisioner",
    "ReclaimPolicy",
    "VolumeBindingMode",
    "AllowVolumeExpansion",
    "Age",
)
_CSI_DRIVER = (
    "AttachRequired:boolean",
    "PodInfoOnMount:boolean",
    "StorageCapacity:boolean",
    "TokenRequests",
    "RequiresRepublish:boolean",
    "Modes",
    "Age",
)

PRINTED: Mapping[str, Printed] = {
    "persistentvolumes": Printed(columns(*_VOLUME), _volume),
    "persistentvolumeclaims": Printed(columns(*_CLAIM), _claim),
    "storageclasses.storage.k8s.io": Printed(columns(*_STORAGE_CLASS), _storageclass),
    "volumeattachments.storage.k8s.io": Printed(
        columns("Attacher", "PV", "Node", "Attached:boolean", "Age"), _attachment
    ),
    "csidrivers.storage.k8s.io": Printed(columns(*_CSI_DRIVER), _csidriver),
    "csinodes.storage.k8s.io": Printed(columns("Drivers:integer", "Age"), _csinode),
    "volumeattributesclasses.storage.k8s.io": Printed(
        columns("DriverName", "Age"), _attributesclass
    ),
}
