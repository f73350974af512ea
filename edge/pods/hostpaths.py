"""Paths of this machine as volumes: hostPath, and claims whose volume is a path of this machine.

Source: Kubernetes, hostPath types and `local` volumes; texts as the kubelet of 1.36 says them.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edge.pods.podspec import HostPath
from edge.ports import EdgeApi
from gateway.errors import BadRequest, Conflict, NotBuilt, NotFound
from gateway.model.json import Json, JsonObject
from gateway.wire.cloudedge.subjects import Subject
from gateway.wire.kube.nodeterms import node_terms
from gateway.wire.kube.parts import part, text

_NOT_SOURCES: Final = frozenset(
    {
        "accessModes",
        "capacity",
        "claimRef",
        "mountOptions",
        "nodeAffinity",
        "persistentVolumeReclaimPolicy",
        "storageClassName",
        "volumeAttributesClassName",
        "volumeMode",
    }
)


# --- hostPath -------------------------------------------------------------------------------------


def _make_folder(path: Path) -> None:
    path.mkdir(parents=True, exist_ok=True, mode=0o755)


def _make_file(path: Path) -> None:
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o644))


@dataclass(frozen=True, slots=True)
class _Type:
    """What must be there, how that is called, and how it is made where it is not."""

    is_so: Callable[[int], bool]
    words: str
    make: Callable[[Path], None] | None = None


_TYPES: Final[Mapping[str, _Type]] = {
    "DirectoryOrCreate": _Type(stat.S_ISDIR, "a directory", _make_folder),
    "Directory": _Type(stat.S_ISDIR, "a directory"),
    "FileOrCreate": _Type(stat.S_ISREG, "a file", _make_file),
    "File": _Type(stat.S_ISREG, "a file"),
    "Socket": _Type(stat.S_ISSOCK, "a socket file"),
    "CharDevice": _Type(stat.S_ISCHR, "a character device"),
    "BlockDevice": _Type(stat.S_ISBLK, "a block device"),
}


def host_path(wanted: HostPath) -> str:
    """Check, or make, a path of this machine. Errors: BadRequest; OSError."""
    if ".." in wanted.path.split("/"):
        raise BadRequest(f"invalid HostPath `{wanted.path}`: must not contain '..'")
    if not wanted.type:
        return wanted.path
    kind = _TYPES.get(wanted.type)
    if kind is None:
        raise BadRequest(f"{wanted.type[:100]} is an invalid volume type")
    path = Path(wanted.path)
    if kind.make is not None and not path.exists():
        kind.make(path)
    elif not path.exists() or not kind.is_so(path.stat().st_mode):
        raise BadRequest(f"hostPath type check failed: {wanted.path} is not {kind.words}")
    return wanted.path


# --- claims ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Claimed:
    """The path of a claim's volume; `is_managed`: fsGroup is applied to it."""

    path: str
    is_managed: bool


@dataclass(frozen=True, slots=True)
class NodeView:
    """What a volume may ask of its node."""

    name: str
    labels: Mapping[str, Json]


async def claimed(api: EdgeApi, namespace: str, name: str, node: NodeView) -> Claimed:
    """Return where a PersistentVolumeClaim's volume is on this machine.

    Errors: NotFound, Conflict and BadRequest say why there is none; NotBuilt for a source that this node
            has no hands for.
    """
    claim = await _object(api, Subject(namespace, "persistentvolumeclaim", name))
    volume_name = text(part(claim, "spec").get("volumeName"))
    if not volume_name or text(part(claim, "status").get("phase")) not in ("", "Bound"):
        raise Conflict(f'persistentvolumeclaim "{name}" is not bound to a PersistentVolume')
    if text(part(claim, "spec").get("volumeMode")) == "Block":
        raise NotBuilt(f'persistentvolumeclaim "{name}": volumeMode Block is not supported')
    volume = await _object(api, Subject(None, "persistentvolume", volume_name))
    _check_bound(claim, volume, name, volume_name)
    _check_node(volume, volume_name, node)
    return _path_of(volume, volume_name)


async def _object(api: EdgeApi, subject: Subject) -> JsonObject:
    try:
        return await api.query(subject)
    except NotFound as error:
        raise NotFound(f'{subject.type} "{subject.name}" not found') from error


def _check_bound(claim: JsonObject, volume: JsonObject, name: str, volume_name: str) -> None:
    """Errors: Conflict for a volume that is another claim's."""
    uid = text(part(claim, "metadata").get("uid"))
    if text(part(volume, "spec", "claimRef").get("uid")) != uid:
        raise Conflict(f'persistentvolume "{volume_name}" is not bound to claim "{name}"')


def _check_node(volume: JsonObject, name: str, node: NodeView) -> None:
    """Errors: Conflict for a volume of another node."""
    terms = node_terms(part(volume, "spec", "nodeAffinity").get("required"))
    if terms is not None and not any(term.matches(node.name, node.labels) for term in terms):
        raise Conflict(
            f'persistentvolume "{name}": no matching NodeSelectorTerms for node {node.name}'
        )


def _path_of(volume: JsonObject, name: str) -> Claimed:
    spec = part(volume, "spec")
    if "hostPath" in spec:
        source = part(spec, "hostPath")
        path = host_path(HostPath(path=text(source.get("path")), type=text(source.get("type"))))
        return Claimed(path, is_managed=False)
    if "local" in spec:
        return Claimed(_local(text(part(spec, "local").get("path"))), is_managed=True)
    sources = ", ".join(sorted(set(spec) - _NOT_SOURCES)) or "none"
    raise NotBuilt(f'persistentvolume "{name}": source {sources} is not supported by this node')


def _local(path: str) -> str:
    if not path.startswith("/") or ".." in path.split("/"):
        raise BadRequest(f"invalid local path `{path[:200]}`")
    if not Path(path).is_dir():
        raise NotFound(f'local volume path "{path}" is not a directory of this node')
    return path
