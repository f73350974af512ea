"""How volumes, claims and the kinds of `storage.k8s.io` are completed and judged.

Source: Kubernetes API reference, `PersistentVolume`, `storage.k8s.io/v1`; texts seen on version 1.36.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from gateway.model.json import Json, JsonObject
from gateway.wire.kube.amounts import shortest
from gateway.wire.kube.containerrules import no_way_back
from gateway.wire.kube.judging import Judge, fixed, forbidden, known, named, only_one
from gateway.wire.kube.names import (
    QUALIFIED_RULE,
    invalid_value,
    qualified_fault,
    required,
    subdomain_fault,
)
from gateway.wire.kube.parts import part, text
from gateway.wire.kube.placementrules import node_selector_faults
from gateway.wire.kube.podspecs import complete_claim_spec, fill, opened
from gateway.wire.kube.quantity import quantity
from gateway.wire.kube.status import Cause
from gateway.wire.kube.validate import canonical
from gateway.wire.kube.volumerules import HOST_TYPES, nfs_faults

MODES = ("ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod")
VOLUME_MODES = ("Block", "Filesystem")
PV_FINALIZER, PVC_FINALIZER = "kubernetes.io/pv-protection", "kubernetes.io/pvc-protection"


def _list(value: Json) -> list[Json]:
    return value if isinstance(value, list) else []


def _protect(item: JsonObject, finalizer: str) -> None:
    """Something in use is not to go."""
    metadata = opened(item, "metadata")
    held = _list(metadata.get("finalizers"))
    if finalizer not in held:
        metadata["finalizers"] = [*held, finalizer]


# --- volumes --------------------------------------------------------------------------------------


def prepare_volume(item: JsonObject, old: JsonObject | None) -> None:
    """Fill in what a PersistentVolume does not say."""
    spec = opened(item, "spec")
    fill(spec, {"persistentVolumeReclaimPolicy": "Retain", "volumeMode": "Filesystem"})
    host = spec.get("hostPath")
    if isinstance(host, dict):
        host.setdefault("type", "")
    if old is None:
        _protect(item, PV_FINALIZER)
        since = part(item, "metadata").get("creationTimestamp")
        item["status"] = {"phase": "Pending", "lastPhaseTransitionTime": since}


def volume_faults(item: JsonObject, old: JsonObject | None) -> list[Cause]:
    """What is wrong with a PersistentVolume; what it is made of stays."""
    found = [*_volume(part(item, "spec"))]
    if old is not None:
        found += _volume_fixed(part(item, "spec"), part(old, "spec"))
    return found


def _volume(spec: JsonObject) -> Iterator[Cause]:
    yield from _mode_faults("spec.accessModes", spec, "")
    capacity = part(spec, "capacity")
    if not capacity:
        yield required("spec.capacity")
    if set(capacity) != {"storage"}:
        shown = {name: shortest(str(value)) for name, value in sorted(capacity.items())}
        inner = ",".join(f'"{name}":"{value}"' for name, value in shown.items())
        value = f"{{{inner}}}" if capacity else "null"
        text_ = f'Unsupported value: {value}: supported values: "storage"'
        yield Cause("FieldValueNotSupported", text_, "spec.capacity")
    for name, amount in capacity.items():
        yield from _positive(f"spec.capacity[{name}]", amount, name == "storage")
    policies = ("Delete", "Recycle", "Retain")
    kept = spec.get("persistentVolumeReclaimPolicy")
    yield from known("spec.persistentVolumeReclaimPolicy", kept, policies)
    if "nodeAffinity" in spec:
        wanted = part(spec, "nodeAffinity")
        if not isinstance(wanted.get("required"), dict):
            yield required("spec.nodeAffinity.required", "must specify required node constraints")
        else:
            where = "spec.nodeAffinity.required"
            yield from node_selector_faults(where, part(wanted, "required"))
    yield from only_one("spec", spec, _SOURCES, _JUDGES, "volume")
    if not any(spec.get(name) is not None for name in _SOURCES):
        yield required("spec", "must specify a volume type")
    if spec.get("storageClassName"):
        yield from named("spec.storageClassName", spec["storageClassName"], subdomain_fault)
    yield from known("spec.volumeMode", spec.get("volumeMode"), VOLUME_MODES)


def _positive(path: str, amount: Json, is_storage: bool) -> Iterator[Cause]:
    value = quantity(amount)
    if is_storage and value is not None and value <= 0:
        yield invalid_value(path, shortest(str(amount)), "must be greater than zero")


def _mode_faults(path: str, spec: JsonObject, why: str) -> Iterator[Cause]:
    found = _list(spec.get("accessModes"))
    if not found:
        yield required(path, why)
    for mode in found:
        yield from known(path, mode, MODES)
    if "ReadWriteOncePod" in found and len(found) > 1:
        yield forbidden(path, "may not use ReadWriteOncePod with other access modes")


def _volume_fixed(spec: JsonObject, before: JsonObject) -> Iterator[Cause]:
    for name in _SOURCES:
        if canonical(spec.get(name)) != canonical(before.get(name)):
            why = "spec.persistentvolumesource is immutable after creation"
            yield forbidden("spec.persistentvolumesource", why)
            break
    yield from fixed("spec.volumeMode", before.get("volumeMode"), spec.get("volumeMode"))


def _host(path: str, source: JsonObject) -> Iterator[Cause]:
    place = text(source.get("path"))
    if not place:
        yield required(f"{path}.path")
    else:
        yield from no_way_back(f"{path}.path", place)
        yield from known(f"{path}.type", source.get("type"), HOST_TYPES)


def _local(path: str, source: JsonObject) -> Iterator[Cause]:
    if not source.get("path"):
        yield required(f"{path}.path")
    else:
        yield from no_way_back(f"{path}.path", text(source["path"]))


def _csi(path: str, source: JsonObject) -> Iterator[Cause]:
    for name in ("driver", "volumeHandle"):
        if not source.get(name):
            yield required(f"{path}.{name}")


_JUDGES: Mapping[str, Judge] = {"hostPath": _host, "nfs": nfs_faults, "local": _local, "csi": _csi}
_SOURCES = (
    "hostPath",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "glusterfs",
    "flocker",
    "nfs",
    "rbd",
    "quobyte",
    "cephfs",
    "iscsi",
    "cinder",
    "fc",
    "flexVolume",
    "azureFile",
    "vsphereVolume",
    "azureDisk",
    "portworxVolume",
    "photonPersistentDisk",
    "scaleIO",
    "local",
    "storageos",
    "csi",
)


# --- claims ---------------------------------------------------------------------------------------


def prepare_claim(item: JsonObject, old: JsonObject | None) -> None:
    """Fill in what a PersistentVolumeClaim does not say."""
    complete_claim_spec(opened(item, "spec"))
    if old is None:
        _protect(item, PVC_FINALIZER)
        item["status"] = {"phase": "Pending"}


def claim_faults(item: JsonObject, old: JsonObject | None) -> list[Cause]:
    """What is wrong with a PersistentVolumeClaim; it may grow, and be bound once."""
    spec = part(item, "spec")
    found = [*_claim(spec)]
    if old is not None:
        found += _claim_fixed(spec, part(old, "spec"))
    return found


def _claim(spec: JsonObject) -> Iterator[Cause]:
    yield from _mode_faults("spec.accessModes", spec, "at least 1 access mode is required")
    requests = part(spec, "resources", "requests")
    if "storage" not in requests:
        yield required("spec.resources[storage]")
    else:
        yield from _positive("spec.resources[storage]", requests["storage"], True)
    if spec.get("storageClassName"):
        yield from named("spec.storageClassName", spec["storageClassName"], subdomain_fault)
    yield from known("spec.volumeMode", spec.get("volumeMode"), VOLUME_MODES)


_CLAIM_FIXED = (
    "spec is immutable after creation except resources.requests and volumeAttributesClassName for"
    " bound claims"
)


def _claim_fixed(spec: JsonObject, before: JsonObject) -> Iterator[Cause]:
    old, new = dict(before), dict(spec)
    for each in (old, new):
        each.pop("resources", None)
        each.pop("volumeAttributesClassName", None)
        if not before.get("volumeName"):
            each.pop("volumeName", None)
        if not before.get("storageClassName"):
            each.pop("storageClassName", None)
    size, was = (
        quantity(part(each, "resources", "requests").get("storage")) for each in (spec, before)
    )
    if canonical(old) != canonical(new) or (size != was and not before.get("volumeName")):
        yield forbidden("spec", _CLAIM_FIXED)
    elif size is not None and was is not None and size < was:
        why = "field can not be less than status.capacity"
        yield forbidden("spec.resources.requests.storage", why)


# --- classes, drivers, attachments ----------------------------------------------------------------


def prepare_class(item: JsonObject, _old: JsonObject | None) -> None:
    fill(item, {"reclaimPolicy": "Delete", "volumeBindingMode": "Immediate"})


def class_faults(item: JsonObject, old: JsonObject | None) -> list[Cause]:
    """What is wrong with a StorageClass; it stays as it was made."""
    found = [*_class(item)]
    if old is not None:
        if canonical(old.get("parameters")) != canonical(item.get("parameters")):
            found.append(forbidden("parameters", "updates to parameters are forbidden."))
        for name in ("provisioner", "reclaimPolicy", "volumeBindingMode"):
            found += fixed(name, old.get(name), item.get(name))
    return found


def _class(item: JsonObject) -> Iterator[Cause]:
    provisioner = text(item.get("provisioner"))
    if not provisioner:
        yield required("provisioner")
    else:
        yield from _driver_like("provisioner", provisioner.lower())
    parameters = part(item, "parameters")
    if any(not name for name in parameters):
        yield invalid_value("parameters", "", "field can not be empty.")
    yield from known("reclaimPolicy", item.get("reclaimPolicy"), ("Delete", "Retain"))
    binding = ("Immediate", "WaitForFirstConsumer")
    yield from known("volumeBindingMode", item.get("volumeBindingMode"), binding)


def _driver_like(path: str, name: str) -> Iterator[Cause]:
    """A name with a domain before it: each of both parts says what is wrong."""
    prefix, slash, rest = name.partition("/")
    if slash and subdomain_fault(prefix):
        yield invalid_value(path, name, f"prefix part {subdomain_fault(prefix)}")
    if slash and not rest:
        yield invalid_value(path, name, "name part must be non-empty")
        yield invalid_value(path, name, QUALIFIED_RULE)
    elif not slash or not subdomain_fault(prefix):
        yield from named(path, name, qualified_fault)


_DRIVER: JsonObject = {
    "attachRequired": True,
    "podInfoOnMount": False,
    "storageCapacity": False,
    "fsGroupPolicy": "ReadWriteOnceWithFSType",
    "requiresRepublish": False,
    "seLinuxMount": False,
}
_POLICIES = ("File", "None", "ReadWriteOnceWithFSType")


def prepare_driver(item: JsonObject, _old: JsonObject | None) -> None:
    spec = opened(item, "spec")
    for name, value in _DRIVER.items():
        spec.setdefault(name, value)
    if not spec.get("volumeLifecycleModes"):
        spec["volumeLifecycleModes"] = ["Persistent"]


def driver_faults(item: JsonObject, old: JsonObject | None) -> list[Cause]:
    """What is wrong with a CSIDriver."""
    spec = part(item, "spec")
    found = [*known("spec.fsGroupPolicy", spec.get("fsGroupPolicy"), _POLICIES)]
    for at, mode in enumerate(_list(spec.get("volumeLifecycleModes"))):
        modes = ("Ephemeral", "Persistent")
        found += known(f"spec.volumeLifecycleModes[{at}]", mode, modes)
    if old is not None:
        before = part(old, "spec")
        needs, had = spec.get("attachRequired"), before.get("attachRequired")
        if needs != had:
            found.append(invalid_value("spec.attachedRequired", needs, "field is immutable"))
        modes_before = before.get("volumeLifecycleModes")
        found += fixed("spec.volumeLifecycleModes", modes_before, spec.get("volumeLifecycleModes"))
    return found


def prepare_node(item: JsonObject, _old: JsonObject | None) -> None:
    opened(item, "spec").setdefault("drivers", None)


def prepare_attachment(item: JsonObject, _old: JsonObject | None) -> None:
    opened(opened(item, "spec"), "source")
    opened(item, "status").setdefault("attached", False)


def attachment_faults(item: JsonObject, old: JsonObject | None) -> list[Cause]:
    """What is wrong with a VolumeAttachment; it stays as it was made."""
    found = [*_attachment(part(item, "spec"))]
    if old is not None and canonical(old.get("spec")) != canonical(item.get("spec")):
        found.append(invalid_value("spec", item.get("spec"), "field is immutable"))
    return found


def _attachment(spec: JsonObject) -> Iterator[Cause]:
    if not spec.get("attacher"):
        yield required("spec.attacher")
    source = part(spec, "source")
    names = [name for name in ("inlineVolumeSpec", "persistentVolumeName") if name in source]
    if not names:
        why = "must specify exactly one of inlineVolumeSpec and persistentVolumeName"
        yield required("spec.source", why)
    elif len(names) > 1:
        why = "must specify exactly one of inlineVolumeSpec and persistentVolumeName"
        yield forbidden("spec.source", why)
    yield from named("spec.nodeName", spec.get("nodeName") or "", subdomain_fault)


def attributes_faults(item: JsonObject, old: JsonObject | None) -> list[Cause]:
    """What is wrong with a VolumeAttributesClass; it stays as it was made."""
    found = [] if item.get("driverName") else [required("driverName")]
    if not part(item, "parameters"):
        found.append(required("parameters", "must contain at least one key/value pair"))
    if old is not None:
        for name in ("driverName", "parameters"):
            found += fixed(name, old.get(name), item.get(name))
    return found
