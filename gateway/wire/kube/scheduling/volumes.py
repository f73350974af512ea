"""Whether the volumes of a Pod let it run at a node. Source: Kubernetes, "Persistent Volumes"."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gateway.model.json import JsonObject
from gateway.wire.kube.nodeterms import NodeTerm, node_terms
from gateway.wire.kube.parts import annotations_of, labels_of, part, text
from gateway.wire.kube.scheduling.cluster import Cluster, NodeInfo
from gateway.wire.kube.scheduling.pods import PodInfo

NOT_FOUND = "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)"
ELSEWHERE = "node(s) didn't match PersistentVolume's node affinity"
NONE_FREE = "node(s) didn't find available persistent volumes to bind"
OTHER_ZONE = "node(s) had no available volume zone"
UNBOUND = "pod has unbound immediate PersistentVolumeClaims"
TAKEN = (
    "node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod access mode already"
    " in-use by another pod"
)
LATE = "WaitForFirstConsumer"
_ZONES = (
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
)


@dataclass(frozen=True, slots=True)
class Bound:
    """A volume that a claim has: where it may be used."""

    terms: tuple[NodeTerm, ...] | None
    zones: tuple[tuple[str, frozenset[str]], ...]


@dataclass(frozen=True, slots=True)
class Volumes:
    """What the volumes of a Pod ask of nodes.

    Shape:  `fault` is why no node will do.
    """

    fault: str = ""
    bound: tuple[Bound, ...] = ()
    is_lost: bool = False
    """A claim has a volume that is not there."""
    waits: bool = False
    """A claim is bound once a node is chosen, which nothing here does."""
    is_taken: bool = False


def volumes_of(pod: PodInfo, cluster: Cluster) -> Volumes | None:
    """Look up the claims of a Pod; None for one without."""
    if not pod.claims:
        return None
    bound: list[Bound] = []
    is_lost = waits = is_taken = False
    unbound = False
    for name in pod.claims:
        claim = cluster.facts.claim(pod.namespace, name)
        fault = _claim_fault(pod, name, claim)
        if fault or claim is None:
            return Volumes(fault=fault)
        is_taken = is_taken or (_is_exclusive(claim) and _is_used(pod, name, cluster))
        volume_name = text(part(claim, "spec").get("volumeName"))
        if not volume_name:
            is_late = _binds_late(claim, cluster)
            unbound, waits = unbound or not is_late, waits or is_late
            continue
        volume = cluster.facts.volume(volume_name)
        if volume is None:
            is_lost = True
        else:
            bound.append(_read_volume(volume))
    if unbound:
        return Volumes(fault=UNBOUND)
    return Volumes("", tuple(bound), is_lost, waits, is_taken)


def volume_faults(node: NodeInfo, volumes: Volumes) -> tuple[str, ...]:
    """Return why a node will not do for a Pod's volumes."""
    found: list[str] = []
    if any(
        volume.terms is not None
        and not any(term.matches(node.name, node.labels) for term in volume.terms)
        for volume in volumes.bound
    ):
        found.append(ELSEWHERE)
    if volumes.waits:
        found.append(NONE_FREE)
    if volumes.is_lost:
        found.append(NOT_FOUND)
    return tuple(found)


def is_in_zone(node: NodeInfo, volumes: Volumes) -> bool:
    """True where no volume belongs to another zone."""
    return all(
        node.labels.get(key) in values
        for volume in volumes.bound
        for key, values in volume.zones
        if any(zone in node.labels for zone in _ZONES)
    )


def _claim_fault(pod: PodInfo, name: str, claim: JsonObject | None) -> str:
    is_own = name in pod.own_claims
    if claim is None and is_own:
        return (
            f'waiting for ephemeral volume controller to create the persistentvolumeclaim "{name}"'
        )
    if claim is None:
        return f'persistentvolumeclaim "{name}" not found'
    if part(claim, "status").get("phase") == "Lost":
        volume = text(part(claim, "spec").get("volumeName"))
        return f'persistentvolumeclaim "{name}" bound to non-existent persistentvolume "{volume}"'
    if part(claim, "metadata").get("deletionTimestamp"):
        return f'persistentvolumeclaim "{name}" is being deleted'
    return ""


def _binds_late(claim: JsonObject, cluster: Cluster) -> bool:
    wanted = part(claim, "spec").get("storageClassName")
    if wanted is None:
        wanted = annotations_of(claim).get("volume.beta.kubernetes.io/storage-class")
    found = cluster.facts.storage_class(text(wanted)) if wanted else None
    return found is not None and found.get("volumeBindingMode") == LATE


def _is_exclusive(claim: JsonObject) -> bool:
    modes = part(claim, "spec").get("accessModes")
    return isinstance(modes, list) and "ReadWriteOncePod" in modes


def _is_used(pod: PodInfo, claim: str, cluster: Cluster) -> bool:
    return any(
        claim in other.claims and other.uid != pod.uid
        for other in cluster.of_namespace(pod.namespace).values()
    )


def _read_volume(volume: JsonObject) -> Bound:
    labels: Mapping[str, str] = labels_of(volume)
    zones = tuple((key, frozenset(labels[key].split("__"))) for key in _ZONES if key in labels)
    return Bound(node_terms(part(volume, "spec", "nodeAffinity").get("required")), zones)
