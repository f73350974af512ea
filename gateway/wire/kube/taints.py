"""Taints of nodes and the tolerations of Pods. Source: Kubernetes, "Taints and Tolerations"."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from gateway.model.json import JsonObject
from gateway.wire.kube.parts import part, rows, text

NO_SCHEDULE, PREFER_NOT, NO_EXECUTE = "NoSchedule", "PreferNoSchedule", "NoExecute"
REPELLING = (NO_SCHEDULE, NO_EXECUTE)
"""Effects that keep a Pod from being placed."""
PREFIX = "node.kubernetes.io/"
NOT_READY, UNREACHABLE = f"{PREFIX}not-ready", f"{PREFIX}unreachable"
UNSCHEDULABLE = f"{PREFIX}unschedulable"
OUT_OF_SERVICE = f"{PREFIX}out-of-service"


@dataclass(frozen=True, slots=True)
class Taint:
    """What keeps Pods away from a node."""

    key: str
    value: str
    effect: str


@dataclass(frozen=True, slots=True)
class Toleration:
    """What a Pod puts up with. `seconds` None: for ever; an empty key with `Exists` means every taint."""

    key: str
    operator: str
    value: str
    effect: str
    seconds: int | None

    def tolerates(self, taint: Taint) -> bool:
        if self.effect and self.effect != taint.effect:
            return False
        if self.key and self.key != taint.key:
            return False
        if self.operator == "Exists":
            return True
        return self.operator in ("", "Equal") and self.value == taint.value


def taints_of(node: JsonObject) -> tuple[Taint, ...]:
    """Return the taints of a Node."""
    return tuple(
        Taint(text(row.get("key")), text(row.get("value")), text(row.get("effect")))
        for row in rows(part(node, "spec").get("taints"))
    )


def tolerations_of(pod: JsonObject) -> tuple[Toleration, ...]:
    """Return the tolerations of a Pod."""
    return tuple(_toleration(row) for row in rows(part(pod, "spec").get("tolerations")))


def _toleration(row: JsonObject) -> Toleration:
    seconds = row.get("tolerationSeconds")
    return Toleration(
        text(row.get("key")),
        text(row.get("operator")),
        text(row.get("value")),
        text(row.get("effect")),
        seconds if isinstance(seconds, int) and not isinstance(seconds, bool) else None,
    )


def is_tolerated(taint: Taint, tolerations: Iterable[Toleration]) -> bool:
    """True when one of these tolerations covers a taint."""
    return any(toleration.tolerates(taint) for toleration in tolerations)


def repels(taints: Iterable[Taint], tolerations: tuple[Toleration, ...]) -> bool:
    """True when a Pod with these tolerations may not be placed where these taints are."""
    return any(
        taint.effect in REPELLING and not is_tolerated(taint, tolerations) for taint in taints
    )


def stay(taints: Iterable[Taint], tolerations: tuple[Toleration, ...]) -> float | None:
    """How many seconds a Pod may stay where these NoExecute taints are; None for as long as they are.

    Of each taint the first toleration that covers it counts; of these the shortest.
    """
    ends: list[int] = []
    for taint in taints:
        if taint.effect != NO_EXECUTE:
            continue
        used = next((entry for entry in tolerations if entry.tolerates(taint)), None)
        if used is None:
            return 0
        if used.seconds is not None:
            ends.append(max(used.seconds, 0))
    return min(ends, default=None)
