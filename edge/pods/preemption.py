"""Which Pods make room for a critical one. Pure. Source: behaviour of kubelet 1.36."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from edge.pods.podspec import Pod
from gateway.wire.kube.parts import part
from gateway.wire.kube.pods import qos_class
from gateway.wire.kube.scheduling.needs import CPU, MEMORY, PODS, Amounts, requests_of

REASON = "Preempting"
MESSAGE = "Preempted in order to admit critical pod"
SYSTEM_CRITICAL = 2_000_000_000
_CLASSES = ("BestEffort", "Burstable", "Guaranteed")


class NoRoom(Exception):
    """Also without the Pods that may go there is too little; says of what."""


def is_critical(pod: Pod) -> bool:
    """True for static Pods, mirrors, and Pods of the system's priority."""
    return pod.is_static or pod.is_mirror or (pod.spec.priority or 0) >= SYSTEM_CRITICAL


def takes(pod: Pod) -> Amounts:
    """Return what a Pod takes of its node, itself counted."""
    return {**requests_of(pod.raw), PODS: 1}


def victims(pod: Pod, others: Iterable[Pod], short: Mapping[str, int]) -> list[Pod]:
    """Return the Pods that go so that `short` is there: the cheapest class that will do first.

    Errors: NoRoom.
    """
    groups = {name: list[Pod]() for name in _CLASSES}
    for other in others:
        if _gives_way(other, pod):
            groups[qos_class(part(other.raw, "spec"))].append(other)
    best, burst, fixed = (groups[name] for name in _CLASSES)
    left = _less(short, [*best, *burst, *fixed])
    if left:
        raise NoRoom(_written(left))
    of_fixed = _nearest(fixed, _less(short, [*best, *burst]))
    of_burst = _nearest(burst, _less(short, [*best, *of_fixed]))
    of_best = _nearest(best, _less(short, [*of_burst, *of_fixed]))
    return [*of_best, *of_burst, *of_fixed]


def _gives_way(pod: Pod, to: Pod) -> bool:
    if is_critical(to) and not is_critical(pod):
        return True
    return (
        to.spec.priority is not None
        and pod.spec.priority is not None
        and to.spec.priority > pod.spec.priority
    )


def _less(short: Mapping[str, int], pods: Iterable[Pod]) -> Amounts:
    """Return what is still short when these Pods are gone."""
    left = dict(short)
    for pod in pods:
        for name, amount in takes(pod).items():
            if name in left:
                left[name] -= amount
    return {name: amount for name, amount in left.items() if amount > 0}


def _nearest(pods: list[Pod], short: Amounts) -> list[Pod]:
    """Take the Pods that leave least missing, of two such the smaller one."""
    rest, chosen = list(pods), list[Pod]()
    while short and rest:
        one = min(rest, key=lambda each: (_distance(each, short), _size(each)))
        rest.remove(one)
        chosen.append(one)
        short = _less(short, [one])
    return chosen


def _distance(pod: Pod, short: Amounts) -> float:
    given = takes(pod)
    parts = ((amount - given.get(name, 0), amount) for name, amount in short.items())
    return sum((missing / amount) ** 2 for missing, amount in parts if missing > 0)


def _size(pod: Pod) -> tuple[int, int]:
    asked = requests_of(pod.raw)
    return asked.get(MEMORY, 0), asked.get(CPU, 0)


def _written(short: Mapping[str, int]) -> str:
    return "[" + "".join(f"(res: {name}, q: {amount}), " for name, amount in short.items()) + "]"
