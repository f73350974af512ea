"""Who has to go when a node runs short, and the words for it. Pure.

First go Pods that use more than they asked for, then those of low priority, then the one that is furthest
over. Critical Pods (static ones, and of a system priority) never go. A Pod that uses more disk than its own
limits allow goes whatever the node has.
Source: Kubernetes, node-pressure eviction; texts as the kubelet's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from edge.pods.podresources import limits_of
from edge.pods.podspec import Container, Pod
from edge.pods.pressure import (
    DISK_RESOURCE,
    IMAGE_DISK,
    IMAGE_INODES,
    INODES_RESOURCE,
    MEMORY,
    MEMORY_RESOURCE,
    NODE_DISK,
    NODE_INODES,
    PIDS,
    PIDS_RESOURCE,
    RESOURCES,
    Observation,
    Threshold,
)
from edge.pods.samples import FileSystem, NodeSample, PodSample
from gateway.wire.kube.quantity import units

CRITICAL_PRIORITY = 2_000_000_000
DISK_SIGNALS = frozenset({NODE_DISK, NODE_INODES, IMAGE_DISK, IMAGE_INODES})
_BINARY = ("", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei")


@dataclass(frozen=True, slots=True)
class Victim:
    """A Pod that has to go, and why."""

    pod: Pod
    message: str


def is_critical(pod: Pod) -> bool:
    """True for a Pod that is never evicted."""
    return pod.is_static or pod.is_mirror or (pod.spec.priority or 0) >= CRITICAL_PRIORITY


# --- what is seen ------------------------------------------------------------------------------------


def observations(node: NodeSample) -> dict[str, Observation]:
    """Return what is available of each signal's supply; what is not known is left out."""
    found = {
        MEMORY: _seen(node.memory.available, node.memory_total),
        NODE_DISK: _disk(node.disk),
        NODE_INODES: _inodes(node.disk),
        IMAGE_DISK: _disk(node.images),
        IMAGE_INODES: _inodes(node.images),
        PIDS: _seen(node.pids_max - node.pids, node.pids_max),
    }
    return {signal: each for signal, each in found.items() if each is not None}


def _seen(available: int | None, capacity: int | None) -> Observation | None:
    return Observation(max(0, available), capacity) if available is not None and capacity else None


def _disk(found: FileSystem) -> Observation | None:
    return _seen(found.available, found.capacity)


def _inodes(found: FileSystem) -> Observation | None:
    return _seen(found.inodes_free, found.inodes)


# --- who goes ----------------------------------------------------------------------------------------


def ranked(resource: str, pods: Iterable[Pod], samples: Mapping[str, PodSample]) -> list[Pod]:
    """Return Pods in the order in which they would go for a resource; critical ones are left out."""

    def order(pod: Pod) -> tuple[bool, bool, int, int]:
        used, asked = use_of(resource, samples.get(pod.uid)), request_of(resource, pod)
        priority = pod.spec.priority or 0
        if used is None:
            return (False, False, priority, 0)
        is_over = used > asked or resource == PIDS_RESOURCE
        return (True, not is_over, priority, asked - used)

    return sorted((pod for pod in pods if not is_critical(pod)), key=order)


def use_of(resource: str, sample: PodSample | None) -> int | None:
    """Return what a Pod uses of a resource; None where nobody knows."""
    if sample is None:
        return None
    return {
        MEMORY_RESOURCE: sample.memory.working_set,
        DISK_RESOURCE: sample.disk_used,
        INODES_RESOURCE: sample.inodes_used,
        PIDS_RESOURCE: sample.processes,
    }[resource]


def request_of(resource: str, pod: Pod) -> int:
    """Return what a Pod asked for: the more of what all its containers, or one init container, ask."""
    if resource not in (MEMORY_RESOURCE, DISK_RESOURCE):
        return 0
    whole = pod.spec.resources.requests.get(resource) if pod.spec.resources else None
    if whole is not None:
        return units(whole)
    sidecars = [each for each in pod.spec.init_containers if each.is_sidecar]
    together = sum(_asked(resource, each) for each in (*pod.spec.containers, *sidecars))
    alone = (_asked(resource, each) for each in pod.spec.init_containers)
    return max([together, *alone]) + units(pod.spec.overhead.get(resource))


def _asked(resource: str, container: Container) -> int:
    return units(container.resources.requests.get(resource))


# --- the words ---------------------------------------------------------------------------------------


def pressure_message(
    resource: str,
    pod: Pod,
    sample: PodSample | None,
    thresholds: Sequence[Threshold],
    seen: Mapping[str, Observation],
) -> str:
    """Return why a Pod goes for the node's sake."""
    text = f"The node was low on resource: {resource}. "
    crossed = (each for each in thresholds if RESOURCES[each.signal] == resource)
    for threshold in crossed:
        observed = seen.get(threshold.signal)
        if observed is not None:
            wanted = _shown(resource, threshold.amount.of(observed.capacity))
            left = _shown(resource, observed.available)
            text += f"Threshold quantity: {wanted}, available: {left}. "
            break
    return text + "".join(_blamed(resource, pod, sample))


def _blamed(resource: str, pod: Pod, sample: PodSample | None) -> Iterable[str]:
    for each in sample.containers if sample else ():
        container = pod.container(each.name)
        if container is None or container in pod.spec.ephemeral_containers:
            continue
        asked = container.resources.requests.get(resource, 0)
        if resource == MEMORY_RESOURCE:
            used = each.memory.working_set
        elif resource == DISK_RESOURCE and each.rootfs.used is not None:
            used = each.rootfs.used + (each.logs.used or 0)
        else:
            used = None
        if used is not None and used > units(asked):
            said = f"was using {_shown(resource, used)}, request is {asked}"
            yield f"Container {each.name} {said}, has larger consumption of {resource}. "


def _shown(resource: str, number: int) -> str:
    """Write an amount as Kubernetes would: bytes with a binary unit where one fits."""
    return binary(number) if resource in (MEMORY_RESOURCE, DISK_RESOURCE) else str(number)


def binary(number: int) -> str:
    """Write bytes with the biggest unit that leaves a whole number: 104857600 -> 100Mi."""
    power = 0
    while number and number % 1_024 == 0 and power < len(_BINARY) - 1:
        number, power = number // 1_024, power + 1
    return f"{number}{_BINARY[power]}"


# --- Pods over their own limits ------------------------------------------------------------------------


def over_own_limits(sample: PodSample, *, has_own_image_disk: bool) -> str:
    """Return why a Pod goes for what it writes itself, "" when it may stay."""
    pod = sample.pod
    for volume in pod.spec.volumes:
        limit = volume.empty_dir.size_limit if volume.empty_dir is not None else None
        used = sample.volumes.get(volume.name, FileSystem()).used
        if limit is not None and used is not None and 0 < units(limit) < used:
            return f'Usage of EmptyDir volume "{volume.name}" exceeds the limit "{limit}". '
    whole = limits_of(pod).get(DISK_RESOURCE)
    if whole is not None and sample.disk_used > whole:
        total = "Pod ephemeral local storage usage exceeds the total limit of containers"
        return f"{total} {binary(whole)}. "
    for each in sample.containers:
        container = pod.container(each.name)
        own = container.resources.limits.get(DISK_RESOURCE) if container else None
        used = (each.logs.used or 0) + (0 if has_own_image_disk else each.rootfs.used or 0)
        if own is not None and container in pod.spec.containers and 0 < units(own) < used:
            return f'Container {each.name} exceeded its local ephemeral storage limit "{own}". '
    return ""


def has_own_limits(pod: Pod) -> bool:
    """True for a Pod whose writing has to be watched."""
    dirs = (each.empty_dir for each in pod.spec.volumes)
    if any(each is not None and each.size_limit is not None for each in dirs):
        return True
    return DISK_RESOURCE in limits_of(pod) or any(
        DISK_RESOURCE in each.resources.limits for each in pod.spec.containers
    )
