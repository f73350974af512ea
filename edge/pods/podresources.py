"""Amounts that Pods ask for, as what the kernel is told: shares, quotas, limits, who is killed first.

Units:  shares of a processor (1,024 is one), microseconds, bytes.
Source: Kubernetes "Resource Management for Pods and Containers", "Pod Quality of Service Classes", "Node
out of memory behavior"; rounding as the kubelet of 1.36.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from edge.pods.podspec import Container, Pod
from edge.pods.runtime import LinuxResources
from gateway.model.json import Json, JsonObject
from gateway.wire.kube.parts import part, text
from gateway.wire.kube.pods import qos_class
from gateway.wire.kube.podspecs import CONTAINERS
from gateway.wire.kube.quantity import units
from gateway.wire.kube.scheduling.needs import amounts, requests_of

GUARANTEED, BURSTABLE, BEST_EFFORT = "Guaranteed", "Burstable", "BestEffort"
MIN_SHARES: Final = 2
MAX_SHARES: Final = 262_144
PERIOD: Final = 100_000
MIN_QUOTA: Final = 1_000
HUGE: Final = "hugepages-"
_OF_PODS: Final = ("cpu", "memory")
_PROTECTED: Final = -997
_EXPENDABLE: Final = 1_000
_CRITICAL: Final = 2_000_000_000
_NODE_CRITICAL: Final = "system-node-critical"


def qos_of(pod: Pod) -> str:
    """Return a Pod's class: what its status says, else by what it asks for."""
    said = text(part(pod.raw, "status").get("qosClass"))
    if said in (GUARANTEED, BURSTABLE, BEST_EFFORT):
        return said
    spec = part(pod.raw, "spec")
    if pod.spec.resources is not None:
        return qos_class({"containers": [{"resources": spec.get("resources")}]})
    return qos_class(spec)


# --- conversions ----------------------------------------------------------------------------------


def shares_of(millicores: int) -> int:
    """Return the weight of a request; without one the least there is."""
    return min(max(millicores * 1_024 // 1_000, MIN_SHARES), MAX_SHARES)


def quota_of(millicores: int, period: int = PERIOD) -> int:
    """Return the microseconds per period that a limit allows; 0 for no limit."""
    return max(millicores * period // 1_000, MIN_QUOTA) if millicores else 0


def weight_of(shares: int) -> int:
    """Return cgroup v2's weight for shares."""
    shares = min(max(shares, MIN_SHARES), MAX_SHARES)
    return 1 + (shares - 2) * 9_999 // 262_142


def shares_of_weight(weight: int) -> int:
    """Return the shares that stand behind a weight of cgroup v2, about."""
    return (weight - 1) * 262_142 // 9_999 + 2


def page_size(resource: str) -> str:
    """Return a size of huge pages as cgroups name it: `hugepages-2Mi` -> `2MB`."""
    size = units(resource.removeprefix(HUGE))
    for unit in ("B", "KB", "MB", "GB"):
        if size < 1_024:
            return f"{size}{unit}"
        size //= 1_024
    return f"{size}TB"


def _huge_pages(limits: Mapping[str, Json]) -> dict[str, int]:
    return {page_size(key): units(value) for key, value in limits.items() if key.startswith(HUGE)}


# --- a Pod ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a cgroup of a Pod is set to; None leaves it as the kernel has it."""

    cpu_shares: int = MIN_SHARES
    cpu_quota: int | None = None
    cpu_period: int = PERIOD
    memory: int | None = None
    pids: int | None = None
    huge_pages: Mapping[str, int] = field(default_factory=dict)


def pod_limits(pod: Pod, pids: int = 0) -> Limits:
    """Return what a Pod as a whole may use: limited only where all of its containers are, or it is itself."""
    requests, limits = requests_of(pod.raw), limits_of(pod)
    qos = qos_of(pod)
    shares = MIN_SHARES if qos == BEST_EFFORT else shares_of(requests.get("cpu", 0))
    is_bound = {
        name: qos != BEST_EFFORT and _all_limited(pod, name) and bool(limits.get(name))
        for name in _OF_PODS
    }
    return Limits(
        cpu_shares=shares,
        cpu_quota=quota_of(limits["cpu"]) if is_bound["cpu"] else None,
        memory=limits["memory"] if is_bound["memory"] else None,
        pids=pids or None,
        huge_pages={
            page_size(key): value for key, value in requests.items() if key.startswith(HUGE)
        },
    )


def _all_limited(pod: Pod, resource: str) -> bool:
    own = pod.spec.resources
    if own is not None and amounts(own.limits).get(resource):
        return True
    parts = (*pod.spec.containers, *pod.spec.init_containers)
    return all(amounts(each.resources.limits).get(resource) for each in parts)


def limits_of(pod: Pod) -> dict[str, int]:
    """Return the sum of a Pod's limits: of what runs together, or of the greediest moment of its start.

    Units:  `cpu` in thousandths, all else in whole units.
    """
    total = _sum(each.resources.limits for each in pod.spec.containers)
    beside: dict[str, int] = {}
    peak: dict[str, int] = {}
    for each in pod.spec.init_containers:
        own = amounts(each.resources.limits)
        moment = _added(beside, own)
        if each.is_sidecar:
            total, beside = _added(total, own), moment
        peak = {key: max(peak.get(key, 0), moment.get(key, 0)) for key in peak | moment}
    total = {key: max(total.get(key, 0), peak.get(key, 0)) for key in total | peak}
    if pod.spec.resources is not None:
        said = amounts(pod.spec.resources.limits)
        total |= {key: said[key] for key in said if key in _OF_PODS or key.startswith(HUGE)}
    overhead = amounts(pod.spec.overhead)
    return {key: value + overhead.get(key, 0) if value else value for key, value in total.items()}


def _sum(tables: Iterable[Mapping[str, Json]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for table in tables:
        total = _added(total, amounts(table))
    return total


def _added(one: Mapping[str, int], more: Mapping[str, int]) -> dict[str, int]:
    return {key: one.get(key, 0) + more.get(key, 0) for key in {**one, **more}}


# --- a container ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What of this node decides how containers are limited."""

    memory: int
    """Bytes there are."""
    page_sizes: tuple[str, ...] = ()
    """Sizes of huge pages, as `2MB`: what a container does not ask for is limited to 0."""
    is_unified: bool = False
    """Cgroup v2."""
    has_swap: bool = False
    """The cgroups know of swap; containers get none."""


def container_resources(pod: Pod, container: Container, machine: Machine) -> LinuxResources:
    """Return what a container is limited to; also what a running one is updated to when it is resized."""
    of_pod = amounts(pod.spec.resources.limits) if pod.spec.resources is not None else {}
    limits, requests = amounts(container.resources.limits), amounts(container.resources.requests)
    cpu = limits.get("cpu") or of_pod.get("cpu", 0)
    return LinuxResources(
        cpu_shares=shares_of(requests.get("cpu", cpu)),
        cpu_quota=quota_of(cpu),
        cpu_period=PERIOD,
        memory_limit=limits.get("memory") or of_pod.get("memory", 0),
        oom_score_adj=oom_score_adj(pod, container, machine.memory),
        hugepage_limits=_page_limits(pod, container, machine),
        unified=_unified(machine),
    )


def _page_limits(pod: Pod, container: Container, machine: Machine) -> tuple[tuple[str, int], ...]:
    of_pod = pod.spec.resources.limits if pod.spec.resources is not None else {}
    asked = _huge_pages({**of_pod, **container.resources.limits})
    return tuple((size, asked.get(size, 0)) for size in machine.page_sizes)


def _unified(machine: Machine) -> dict[str, str]:
    """All of a container goes when its memory is full: half a program is of no use."""
    if not machine.is_unified:
        return {}
    swap = {"memory.swap.max": "0"} if machine.has_swap else {}
    return {"memory.oom.group": "1", **swap}


def oom_score_adj(pod: Pod, container: Container, capacity: int) -> int:
    """Return how soon a container is killed when the node's memory is full: -997 last, 1,000 first."""
    if _is_node_critical(pod):
        return _PROTECTED
    qos = qos_of(pod)
    if qos == GUARANTEED:
        return _PROTECTED
    if qos == BEST_EFFORT or capacity <= 0:
        return _EXPENDABLE
    spare = _unclaimed(pod)
    score = _score(_memory_request(container) + spare, capacity)
    if container.is_sidecar and container in pod.spec.init_containers:
        least = min((_memory_request(each) for each in pod.spec.containers), default=0)
        score = min(score, _score(least + spare, capacity))
    return min(max(score, _EXPENDABLE + _PROTECTED), _EXPENDABLE - 1)


def _score(request: int, capacity: int) -> int:
    return _EXPENDABLE - _EXPENDABLE * request // capacity


def _memory_request(container: Container) -> int:
    return amounts(container.resources.requests).get("memory", 0)


def _unclaimed(pod: Pod) -> int:
    """What a Pod asks for as a whole and its containers do not is shared by all of them."""
    if pod.spec.resources is None:
        return 0
    whole = amounts(pod.spec.resources.requests).get("memory", 0)
    spec = part(pod.raw, "spec")
    parts: JsonObject = {name: spec.get(name) for name in CONTAINERS}
    claimed = requests_of({"spec": parts}).get("memory", 0)
    sharing = len(pod.spec.containers) + len(pod.spec.init_containers)
    return max(whole - claimed, 0) // sharing if sharing else 0


def _is_node_critical(pod: Pod) -> bool:
    is_critical = pod.is_static or pod.is_mirror or (pod.spec.priority or 0) >= _CRITICAL
    return is_critical and pod.spec.priority_class_name == _NODE_CRITICAL
