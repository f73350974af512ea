"""What volumes of Pods must obey. Source: Kubernetes API reference, `Volume`; texts seen on version 1.36.

Sources that nothing here mounts (disks of clouds, CSI) are judged by their type alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from gateway.model.json import JsonObject
from gateway.wire.kube.containerrules import (
    PULL,
    amount_of_faults,
    field_faults,
    inner_path_faults,
    no_way_back,
)
from gateway.wire.kube.judging import Judge, duplicate, forbidden, known, only_one
from gateway.wire.kube.names import invalid_value, label_fault, required
from gateway.wire.kube.parts import part, rows, text
from gateway.wire.kube.quantity import quantity
from gateway.wire.kube.status import Cause

HOST_TYPES = (
    "",
    "BlockDevice",
    "CharDevice",
    "Directory",
    "DirectoryOrCreate",
    "File",
    "FileOrCreate",
    "Socket",
)
MOST_MODE = 0o777
_MODE_RULE = "must be a number between 0 and 0777 (octal), both inclusive"
_FILE_FIELDS = (
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
)
MIN_TOKEN_SECONDS, MAX_TOKEN_SECONDS = 600, 1 << 32


def volume_faults(path: str, volumes: list[JsonObject]) -> Iterator[Cause]:
    """Return what is wrong with the volumes of a Pod."""
    seen: set[str] = set()
    for at, volume in enumerate(volumes):
        where, name = f"{path}[{at}]", text(volume.get("name"))
        yield from only_one(where, volume, _SOURCES, _JUDGES, "volume")
        if not name:
            yield required(f"{where}.name")
        elif label_fault(name):
            yield invalid_value(f"{where}.name", name, label_fault(name) or "")
        if name and name in seen:
            yield duplicate(f"{where}.name", name)
        seen.add(name)


def _mode(path: str, mode: object) -> Iterator[Cause]:
    if isinstance(mode, int) and not 0 <= mode <= MOST_MODE:
        yield invalid_value(path, mode, _MODE_RULE)


def _keys(path: str, source: JsonObject) -> Iterator[Cause]:
    for at, item in enumerate(rows(source.get("items"))):
        where = f"{path}.items[{at}]"
        if not item.get("key"):
            yield required(f"{where}.key")
        yield from _file(where, item)


def _file(where: str, item: JsonObject) -> Iterator[Cause]:
    if not item.get("path"):
        yield required(f"{where}.path")
    else:
        yield from inner_path_faults(f"{where}.path", text(item["path"]))
    yield from _mode(f"{where}.mode", item.get("mode"))


def _empty_dir(path: str, source: JsonObject) -> Iterator[Cause]:
    size = quantity(source.get("sizeLimit"))
    if size is not None and size < 0:
        why = "SizeLimit field must be a valid resource quantity"
        yield forbidden(f"{path}.sizeLimit", why)


def _host_path(path: str, source: JsonObject) -> Iterator[Cause]:
    place = text(source.get("path"))
    if not place:
        yield required(f"{path}.path")
    else:
        yield from no_way_back(f"{path}.path", place)
        yield from known(f"{path}.type", source.get("type"), HOST_TYPES)


def _config_map(path: str, source: JsonObject) -> Iterator[Cause]:
    if not source.get("name"):
        yield required(f"{path}.name")
    yield from _mode(f"{path}.defaultMode", source.get("defaultMode"))
    yield from _keys(path, source)


def _secret(path: str, source: JsonObject) -> Iterator[Cause]:
    if not source.get("secretName"):
        yield required(f"{path}.secretName")
    yield from _mode(f"{path}.defaultMode", source.get("defaultMode"))
    yield from _keys(path, source)


def _downward(path: str, source: JsonObject) -> Iterator[Cause]:
    yield from _mode(f"{path}.defaultMode", source.get("defaultMode"))
    for at, item in enumerate(rows(source.get("items"))):
        where = f"{path}.items[{at}]"
        yield from _file(where, item)
        field, amount = part(item, "fieldRef"), part(item, "resourceFieldRef")
        if field:
            yield from field_faults(f"{where}.fieldRef", field, _FILE_FIELDS)
            if amount:
                why = "fieldRef and resourceFieldRef can not be specified simultaneously"
                yield invalid_value(where, "resource", why)
        elif amount:
            yield from amount_of_faults(f"{where}.resourceFieldRef", amount)
        else:
            yield required(where, "one of fieldRef and resourceFieldRef is required")


def _projected(path: str, source: JsonObject) -> Iterator[Cause]:
    yield from _mode(f"{path}.defaultMode", source.get("defaultMode"))
    for at, each in enumerate(rows(source.get("sources"))):
        where = f"{path}.sources[{at}]"
        kinds = ("secret", "configMap", "downwardAPI", "serviceAccountToken")
        yield from only_one(where, each, kinds, _PROJECTED, "volume")


def _projected_name(path: str, source: JsonObject) -> Iterator[Cause]:
    if not source.get("name"):
        yield required(f"{path}.name")
    yield from _keys(path, source)


def _token(path: str, source: JsonObject) -> Iterator[Cause]:
    seconds = source.get("expirationSeconds")
    if isinstance(seconds, int) and seconds < MIN_TOKEN_SECONDS:
        why = "may not specify a duration less than 10 minutes"
        yield invalid_value(f"{path}.expirationSeconds", seconds, why)
    elif isinstance(seconds, int) and seconds > MAX_TOKEN_SECONDS:
        why = "may not specify a duration larger than 2^32 seconds"
        yield invalid_value(f"{path}.expirationSeconds", seconds, why)
    if not source.get("path"):
        yield required(f"{path}.path")
    else:
        yield from inner_path_faults(f"{path}.path", text(source["path"]))


def _claim(path: str, source: JsonObject) -> Iterator[Cause]:
    if not source.get("claimName"):
        yield required(f"{path}.claimName")


def nfs_faults(path: str, source: JsonObject) -> Iterator[Cause]:
    """A share of another machine."""
    for name in ("server", "path"):
        if not source.get(name):
            yield required(f"{path}.{name}")
    place = text(source.get("path"))
    if place and not place.startswith("/"):
        yield invalid_value(f"{path}.path", place, "must be an absolute path")


def _image(path: str, source: JsonObject) -> Iterator[Cause]:
    yield from known(f"{path}.pullPolicy", source.get("pullPolicy"), PULL, must=True)


_PROJECTED: Mapping[str, Judge] = {
    "secret": _projected_name,
    "configMap": _projected_name,
    "downwardAPI": _downward,
    "serviceAccountToken": _token,
}
_JUDGES: Mapping[str, Judge] = {
    "emptyDir": _empty_dir,
    "hostPath": _host_path,
    "configMap": _config_map,
    "secret": _secret,
    "downwardAPI": _downward,
    "projected": _projected,
    "persistentVolumeClaim": _claim,
    "nfs": nfs_faults,
    "image": _image,
}
_SOURCES = (
    "emptyDir",
    "hostPath",
    "gitRepo",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "secret",
    "nfs",
    "iscsi",
    "glusterfs",
    "flocker",
    "persistentVolumeClaim",
    "rbd",
    "cephfs",
    "quobyte",
    "downwardAPI",
    "fc",
    "configMap",
    "flexVolume",
    "azureFile",
    "vsphereVolume",
    "azureDisk",
    "photonPersistentDisk",
    "portworxVolume",
    "scaleIO",
    "storageos",
    "projected",
    "cinder",
    "csi",
    "ephemeral",
    "image",
)
