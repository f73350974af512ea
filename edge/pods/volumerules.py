"""What a Pod's volumes may be and how they are mounted. Pure.

Source: Kubernetes, volumes; texts as the kubelet of 1.36 says them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from edge.pods.podspec import Container, EmptyDir, Pod, Volume, VolumeMount
from edge.pods.runtime import Propagation
from edge.pods.volumefolders import Group
from gateway.errors import BadRequest, NotBuilt
from gateway.wire.kube.quantity import units

MEMORY: Final = "Memory"
_PROPAGATIONS: Final[Mapping[str, Propagation]] = {
    "": Propagation.PRIVATE,
    "None": Propagation.PRIVATE,
    "HostToContainer": Propagation.HOST_TO_CONTAINER,
    "Bidirectional": Propagation.BIDIRECTIONAL,
}
_FILES = ("emptyDir", "hostPath", "configMap", "secret", "downwardAPI", "projected")
_KNOWN_SOURCES = frozenset((*_FILES, "persistentVolumeClaim"))
_UNKNOWN_PROJECTIONS: Final = (
    ("cluster_trust_bundle", "clusterTrustBundle"),
    ("pod_certificate", "podCertificate"),
)


def used_volumes(pod: Pod) -> list[Volume]:
    """Return the volumes that a container uses; others are not made."""
    used = {mount.name for each in pod.containers() for mount in each.volume_mounts}
    used |= {device.name for each in pod.containers() for device in each.volume_devices}
    return [volume for volume in pod.spec.volumes if volume.name in used]


def check_source(pod: Pod, volume: Volume) -> None:
    """Errors: NotBuilt for a source that this node has no hands for."""
    foreign = _foreign_source(pod, volume.name)
    if foreign:
        raise NotBuilt(f"volume source {foreign} is not supported by this node")
    for source in volume.projected.sources if volume.projected is not None else []:
        for field, name in _UNKNOWN_PROJECTIONS:
            if getattr(source, field) is not None:
                raise NotBuilt(f"projected source {name} is not supported by this node")


def _foreign_source(pod: Pod, volume: str) -> str:
    """Return the source of a volume that this node has no hands for (`nfs`, `csi` ...), else ""."""
    spec = pod.raw.get("spec")
    volumes = spec.get("volumes") if isinstance(spec, dict) else None
    for row in volumes if isinstance(volumes, list) else []:
        if isinstance(row, dict) and row.get("name") == volume:
            keys = [key for key in row if key not in _KNOWN_SOURCES and key != "name"]
            return keys[0] if keys else ""
    return ""


def fs_group(pod: Pod) -> Group | None:
    """Return the group that a Pod's volumes belong to."""
    security = pod.spec.security_context
    if security.fs_group is None:
        return None
    return Group(security.fs_group, security.fs_group_change_policy == "OnRootMismatch")


# --- emptyDir -------------------------------------------------------------------------------------


def check_medium(source: EmptyDir) -> None:
    """Errors: NotBuilt; BadRequest."""
    if source.medium.startswith("HugePages"):
        raise NotBuilt(
            f'emptyDir with medium "{source.medium[:100]}" is not supported by this node'
        )
    if source.medium not in ("", MEMORY):
        raise BadRequest(f'unknown storage medium "{source.medium[:100]}"')


def memory_size(pod: Pod, source: EmptyDir, allocatable: str | float | None) -> int:
    """Return the bound of an emptyDir in memory: of node, Pod and volume the least that is set.

    Units:  bytes.
    """
    bounds = (units(allocatable), pod_memory(pod), units(source.size_limit))
    return min((bound for bound in bounds if bound > 0), default=0)


def pod_memory(pod: Pod) -> int:
    """Return how much memory a Pod may use at most, 0 where it has no limit. Units: bytes."""
    own = units(pod.spec.resources.limits.get("memory")) if pod.spec.resources else 0
    if own:
        return own
    plain = [_limit(each) for each in pod.spec.containers]
    init = [(_limit(each), each.is_sidecar) for each in pod.spec.init_containers]
    if not all(plain) or not all(limit for limit, _ in init):
        return 0
    most = sidecars = 0
    for limit, stays in init:
        most = max(most, sidecars + limit)
        sidecars += limit if stays else 0
    return max(most, sidecars + sum(plain))


def _limit(container: Container) -> int:
    return units(container.resources.limits.get("memory"))


# --- mounts of containers -------------------------------------------------------------------------


def propagation(mount: VolumeMount) -> Propagation:
    """Errors: BadRequest."""
    found = _PROPAGATIONS.get(mount.mount_propagation)
    if found is None:
        raise BadRequest(f'invalid MountPropagation mode: "{mount.mount_propagation[:100]}"')
    return found


def check_recursive(mount: VolumeMount) -> None:
    """Refuse read-only mounts with all below them: the runtime's port has no such mount.

    Errors: BadRequest; NotBuilt.
    """
    mode = mount.recursive_read_only
    if mode in ("", "Disabled"):
        return
    head = f'failed to resolve recursive read-only mode: volume "{mount.name}" requested'
    if not mount.read_only:
        raise BadRequest(f"{head} recursive read-only mode, but it is not read-only")
    if mode == "Enabled":
        raise NotBuilt(f"{head} recursive read-only mode, but it is not supported by the runtime")
    if mode != "IfPossible":
        raise BadRequest(f'unknown recursive read-only mode "{mode[:100]}"')


def check_devices(container: Container) -> None:
    """Errors: NotBuilt."""
    if container.volume_devices:
        name = container.volume_devices[0].name
        raise NotBuilt(f'volumeDevices: block volume "{name}" is not supported by this node')


def container_path(path: str) -> str:
    return path if path.startswith("/") else f"/{path}"
