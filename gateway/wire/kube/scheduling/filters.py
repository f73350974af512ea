"""What rules out a node for a Pod, one small question after another: the first no counts.

Each filter is a row of `FILTERS`, in the order in which kube-scheduler asks; the texts are its.
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

from gateway.wire.kube.nodeterms import NodeWish
from gateway.wire.kube.scheduling.cluster import Cluster, NodeInfo
from gateway.wire.kube.scheduling.needs import CPU, MEMORY
from gateway.wire.kube.scheduling.neighbours import (
    Requirements,
    is_far,
    is_near,
    is_welcome,
    requirements,
)
from gateway.wire.kube.scheduling.pods import ANY_ADDRESS, PodInfo, Port
from gateway.wire.kube.scheduling.spread import Spread, hard_spreads, is_even
from gateway.wire.kube.scheduling.volumes import (
    OTHER_ZONE,
    TAKEN,
    Volumes,
    is_in_zone,
    volume_faults,
    volumes_of,
)
from gateway.wire.kube.taints import NO_SCHEDULE, UNSCHEDULABLE, Taint, is_tolerated, repels

Filter: TypeAlias = "Callable[[Cycle, NodeInfo], Refusal | None]"
STORAGE = "ephemeral-storage"
_FIRST = {CPU: 0, MEMORY: 1, STORAGE: 2}
_CLOSED = Taint(UNSCHEDULABLE, "", NO_SCHEDULE)


class Cause(enum.Flag):
    """What may change a filter's answer."""

    NODE = enum.auto()
    POD_GONE = enum.auto()
    POD_PLACED = enum.auto()
    VOLUME = enum.auto()
    ANY = NODE | POD_GONE | POD_PLACED | VOLUME


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a node will not do. `is_final`: also when Pods were taken away from it."""

    reasons: tuple[str, ...]
    is_final: bool = False
    causes: Cause = Cause.NODE


class Cycle:
    """One attempt to place a Pod: what is counted once for all nodes."""

    def __init__(self, pod: PodInfo, cluster: Cluster) -> None:
        self.pod = pod
        self.cluster = cluster

    @cached_property
    def asked(self) -> tuple[tuple[str, int], ...]:
        """What the Pod takes, in the order in which it is told what is short."""
        found = [(key, value) for key, value in self.pod.requests.items() if value > 0]
        return tuple(sorted(found, key=lambda entry: (_FIRST.get(entry[0], 9), entry[0])))

    @cached_property
    def filters(self) -> tuple[Filter, ...]:
        """The filters that have something to ask about this Pod."""
        return tuple(filter_ for filter_, concerns in FILTERS.items() if concerns(self))

    @cached_property
    def volumes(self) -> Volumes | None:
        return volumes_of(self.pod, self.cluster)

    @cached_property
    def spreads(self) -> tuple[Spread, ...]:
        return hard_spreads(self.pod, self.cluster)

    @cached_property
    def neighbours(self) -> Requirements | None:
        return requirements(self.pod, self.cluster)


def refusal(cycle: Cycle, node: NodeInfo) -> Refusal | None:
    """Ask all filters; None where the Pod may go."""
    for filter_ in cycle.filters:
        found = filter_(cycle, node)
        if found is not None:
            return found
    return None


def _final(reason: str, causes: Cause = Cause.NODE) -> Refusal:
    return Refusal((reason,), is_final=True, causes=causes)


_IS_CLOSED = _final("node(s) were unschedulable")
_IS_TAINTED = _final("node(s) had untolerated taint(s)")
_IS_OTHER = _final("node(s) didn't match Pod's node affinity/selector")
_PORTS_TAKEN = Refusal(
    ("node(s) didn't have free ports for the requested pod ports",),
    causes=Cause.NODE | Cause.POD_GONE,
)
_CLAIM_TAKEN = Refusal((TAKEN,), causes=Cause.POD_GONE | Cause.VOLUME)
_OTHER_ZONE = _final(OTHER_ZONE, Cause.NODE | Cause.VOLUME)
_OF_PODS = Cause.NODE | Cause.POD_GONE | Cause.POD_PLACED
_NO_DOMAIN = _final(
    "node(s) didn't match pod topology spread constraints (missing required label)", _OF_PODS
)
_UNEVEN = Refusal(("node(s) didn't match pod topology spread constraints",), causes=_OF_PODS)
_NOT_NEAR = _final("node(s) didn't match pod affinity rules", _OF_PODS)
_NOT_FAR = Refusal(("node(s) didn't match pod anti-affinity rules",), causes=_OF_PODS)
_UNWELCOME = Refusal(("node(s) didn't satisfy existing pods anti-affinity rules",), causes=_OF_PODS)


def is_open(cycle: Cycle, node: NodeInfo) -> Refusal | None:
    """Cordoned nodes take Pods that put up with it only."""
    if not node.is_closed or is_tolerated(_CLOSED, cycle.pod.tolerations):
        return None
    return _IS_CLOSED


def tolerates(cycle: Cycle, node: NodeInfo) -> Refusal | None:
    """Taints keep away Pods that do not tolerate them."""
    is_repelled = bool(node.taints) and repels(node.taints, cycle.pod.tolerations)
    return _IS_TAINTED if is_repelled else None


def is_wanted(cycle: Cycle, node: NodeInfo) -> Refusal | None:
    """`nodeSelector` and required node affinity."""
    return None if cycle.pod.wish.matches(node.name, node.labels) else _IS_OTHER


def has_ports(cycle: Cycle, node: NodeInfo) -> Refusal | None:
    """Each port of a node is taken once, at each of its addresses."""
    wanted = cycle.pod.ports
    return _PORTS_TAKEN if wanted and any(is_taken(port, node.ports) for port in wanted) else None


def is_taken(port: Port, ports: Counter[Port]) -> bool:
    """True when a port is in use, at this address or at all of them."""
    address, protocol, number = port
    if address == ANY_ADDRESS:
        return any(held[1:] == (protocol, number) for held in ports)
    return port in ports or (ANY_ADDRESS, protocol, number) in ports


def has_room(cycle: Cycle, node: NodeInfo) -> Refusal | None:
    """Requests must fit into what is left of allocatable."""
    found: list[str] = []
    is_final = False
    if len(node.pods) + 1 > node.max_pods:
        found.append("Too many pods")
    for resource, wanted in cycle.asked:
        if wanted > node.free(resource):
            found.append(f"Insufficient {resource}")
            is_final = is_final or wanted > node.allocatable.get(resource, 0)
    if not found:
        return None
    return Refusal(tuple(found), is_final, Cause.NODE | Cause.POD_GONE)


def has_claim(cycle: Cycle, _node: NodeInfo) -> Refusal | None:
    """A claim for one Pod alone."""
    volumes = cycle.volumes
    return _CLAIM_TAKEN if volumes is not None and volumes.is_taken else None


def has_volumes(cycle: Cycle, node: NodeInfo) -> Refusal | None:
    """Bound volumes say where they may be used."""
    if cycle.volumes is None:
        return None
    reasons = volume_faults(node, cycle.volumes)
    return Refusal(reasons, is_final=True, causes=Cause.NODE | Cause.VOLUME) if reasons else None


def has_zone(cycle: Cycle, node: NodeInfo) -> Refusal | None:
    """Volumes with the label of a zone stay in it."""
    if cycle.volumes is None or is_in_zone(node, cycle.volumes):
        return None
    return _OTHER_ZONE


def is_spread(cycle: Cycle, node: NodeInfo) -> Refusal | None:
    """Topology spread constraints that must be kept."""
    if not cycle.spreads:
        return None
    found = is_even(node, cycle.spreads)
    if found:
        return None
    return _NO_DOMAIN if found is None else _UNEVEN


def suits_neighbours(cycle: Cycle, node: NodeInfo) -> Refusal | None:
    """Required affinity and anti-affinity between Pods, in both directions."""
    found, pod = cycle.neighbours, cycle.pod
    if found is None:
        return None
    if not is_near(pod, node, found, cycle.cluster):
        return _NOT_NEAR
    if not is_far(pod, node, found):
        return _NOT_FAR
    return None if is_welcome(node, found) else _UNWELCOME


FILTERS: Mapping[Filter, Callable[[Cycle], bool]] = {
    is_open: lambda _: True,
    tolerates: lambda _: True,
    is_wanted: lambda cycle: cycle.pod.wish != NodeWish(),
    has_ports: lambda cycle: bool(cycle.pod.ports),
    has_room: lambda _: True,
    has_claim: lambda cycle: cycle.volumes is not None,
    has_volumes: lambda cycle: cycle.volumes is not None,
    has_zone: lambda cycle: cycle.volumes is not None,
    is_spread: lambda cycle: bool(cycle.spreads),
    suits_neighbours: lambda cycle: cycle.neighbours is not None,
}
"""Filter -> whether it has something to ask about a Pod."""
