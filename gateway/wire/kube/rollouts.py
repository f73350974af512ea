"""How a Deployment spreads its replicas over its ReplicaSets: never more than allowed, never too few serving.

Sets are ReplicaSets as stored; what is decided are `Resize`s, to be done in this order. Source: Kubernetes
"Deployment", rolling update, proportional scaling.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from gateway.model.json import JsonObject
from gateway.wire.kube.parts import annotations_of, part, text, whole
from gateway.wire.kube.replicas import wanted
from gateway.wire.kube.shares import share_of

DESIRED = "deployment.kubernetes.io/desired-replicas"
MOST = "deployment.kubernetes.io/max-replicas"
ROLLING = "RollingUpdate"
_MAX = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Limits:
    """What a Deployment allows: `replicas` wanted, `surge` more at a time, `unavailable` fewer that serve."""

    replicas: int
    surge: int
    unavailable: int

    @property
    def most(self) -> int:
        return self.replicas + self.surge

    @property
    def least(self) -> int:
        return self.replicas - self.unavailable


@dataclass(frozen=True, slots=True)
class Resize:
    """A set gets another number of replicas."""

    name: str
    before: int
    after: int

    @property
    def text(self) -> str:
        way = "up" if self.after > self.before else "down"
        return f"Scaled {way} replica set {self.name} from {self.before} to {self.after}"


def is_rolling(deployment: JsonObject) -> bool:
    """True when old and new Pods may run side by side."""
    return part(deployment, "spec", "strategy").get("type", ROLLING) == ROLLING


def limits_of(deployment: JsonObject) -> Limits:
    """Return what a Deployment allows; where shares come to no Pod at all, one may be missing."""
    replicas = wanted(deployment)
    if not is_rolling(deployment):
        return Limits(replicas, 0, 0)
    said = part(deployment, "spec", "strategy", "rollingUpdate")
    surge = share_of(said.get("maxSurge"), replicas, up=True)
    unavailable = share_of(said.get("maxUnavailable"), replicas, up=False)
    if surge == 0 and unavailable == 0:
        unavailable = 1
    return Limits(replicas, surge, min(unavailable, replicas))


# --- a rolling update -----------------------------------------------------------------------------


def first_size(deployment: JsonObject, olds: Iterable[JsonObject]) -> int:
    """Return how many replicas a new set begins with."""
    limits = limits_of(deployment)
    if not is_rolling(deployment):
        return limits.replicas
    return max(0, min(limits.most - _present(olds), limits.replicas))


def new_set_resize(
    deployment: JsonObject, new: JsonObject, olds: Sequence[JsonObject]
) -> list[Resize]:
    """Return how the new set grows as far as it may, or shrinks to what is wanted."""
    limits, size = limits_of(deployment), wanted(new)
    if size >= limits.replicas or not is_rolling(deployment):
        return _resized(new, limits.replicas)
    room = limits.most - _present([*olds, new])
    return _resized(new, size + max(0, min(room, limits.replicas - size)))


def old_set_resizes(
    deployment: JsonObject, new: JsonObject, olds: Sequence[JsonObject]
) -> list[Resize]:
    """Return how old sets shrink: first by what does not serve anyway, then by what can be spared.

    Nothing is given up while a set has not said yet what its last change came to.
    """
    active = sorted((item for item in olds if wanted(item)), key=age_order)
    limits = limits_of(deployment)
    waiting = wanted(new) - serving(new)
    room = _total([*active, new]) - limits.least - waiting
    if not active or room <= 0 or any(is_unseen(item) for item in [*active, new]):
        return []
    sizes = {_name(item): wanted(item) for item in active}
    steps = _unhealthy(active, sizes, room)
    spare = sum(serving(item) for item in [*active, new]) - limits.least
    return steps + _spared(active, sizes, spare)


def _unhealthy(sets: Sequence[JsonObject], sizes: dict[str, int], room: int) -> list[Resize]:
    steps = []
    for item in sets:
        size = sizes[_name(item)]
        fewer = min(room, size - serving(item))
        if fewer > 0:
            steps.append(Resize(_name(item), size, size - fewer))
            sizes[_name(item)] = size - fewer
            room -= fewer
    return steps


def _spared(sets: Sequence[JsonObject], sizes: dict[str, int], spare: int) -> list[Resize]:
    steps = []
    for item in sets:
        size = sizes[_name(item)]
        fewer = min(size, spare)
        if fewer > 0:
            steps.append(Resize(_name(item), size, size - fewer))
            sizes[_name(item)] = size - fewer
            spare -= fewer
    return steps


def emptied(sets: Iterable[JsonObject]) -> list[Resize]:
    """Return how sets shrink to nothing."""
    return [step for item in sets for step in _resized(item, 0)]


# --- another number of replicas -------------------------------------------------------------------


def is_scaled(deployment: JsonObject, sets: Iterable[JsonObject]) -> bool:
    """True when a set with Pods was made for another number of replicas."""
    known = (_annotated(item, DESIRED) for item in sets if wanted(item))
    return any(desired is not None and desired != wanted(deployment) for desired in known)


def scale_resizes(
    deployment: JsonObject, new: JsonObject | None, olds: Sequence[JsonObject]
) -> list[Resize]:
    """Return how a change of `replicas` is spread: in proportion, in the middle of a rolling update.

    Sets that keep their size are among them: what they note of the Deployment has to be renewed.
    """
    single = _active_or_latest(new, olds)
    if single is not None:
        return [Resize(_name(single), wanted(single), wanted(deployment))]
    if new is not None and _is_saturated(deployment, new):
        return emptied(olds)
    sets = [item for item in ([*olds] if new is None else [*olds, new]) if wanted(item)]
    return _in_proportion(deployment, sets) if is_rolling(deployment) else []


def _active_or_latest(new: JsonObject | None, olds: Sequence[JsonObject]) -> JsonObject | None:
    """The only set with Pods, the newest one when none has any; None when several have."""
    sets = [*olds] if new is None else [*olds, new]
    active = [item for item in sets if wanted(item)]
    if len(active) > 1 or not sets:
        return None
    if active:
        return active[0]
    return new if new is not None else max(olds, key=age_order)


def _is_saturated(deployment: JsonObject, new: JsonObject) -> bool:
    """True when the new set alone can serve for the Deployment, and both know."""
    replicas = wanted(deployment)
    return wanted(new) == available(new) == _annotated(new, DESIRED) == replicas


def _in_proportion(deployment: JsonObject, sets: Sequence[JsonObject]) -> list[Resize]:
    """Larger sets first; of equal ones the newer one grows first and the older one shrinks first."""
    limits = limits_of(deployment)
    to_add = (limits.most if limits.replicas else 0) - _total(sets)
    ordered = sorted(sets, key=age_order, reverse=to_add > 0)
    ordered.sort(key=wanted, reverse=True)
    sizes: dict[str, int] = {}
    added = 0
    for item in ordered:
        more = _portion(deployment, item, to_add, added)
        sizes[_name(item)] = wanted(item) + more
        added += more
    if ordered and to_add:
        first = _name(ordered[0])
        sizes[first] = max(0, sizes[first] + to_add - added)
    return [Resize(_name(item), wanted(item), sizes[_name(item)]) for item in ordered]


def _portion(deployment: JsonObject, item: JsonObject, to_add: int, added: int) -> int:
    if not to_add or to_add == added:
        return 0
    part_of_it = _fraction(deployment, item)
    left = to_add - added
    return min(part_of_it, left) if to_add > 0 else max(part_of_it, left)


def _fraction(deployment: JsonObject, item: JsonObject) -> int:
    """How many more a set would have if it kept its share; what it was made for tells its share."""
    limits, size = limits_of(deployment), wanted(item)
    if limits.replicas == 0:
        return -size
    before = _annotated(item, MOST) or whole(part(deployment, "status").get("replicas"))
    return _rounded(size * limits.most / before) - size if before else 0


def _rounded(value: float) -> int:
    return int(value + 0.5)


# --- sets -----------------------------------------------------------------------------------------


def available(item: JsonObject) -> int:
    """Return how many Pods of a set serve for long enough."""
    return whole(part(item, "status").get("availableReplicas"))


def serving(item: JsonObject) -> int:
    """Return how many Pods of a set will serve when it has its size."""
    return min(available(item), wanted(item))


def is_unseen(item: JsonObject) -> bool:
    """True while a status is about an older size."""
    generation = whole(part(item, "metadata").get("generation"))
    return generation > whole(part(item, "status").get("observedGeneration"))


def age_order(item: JsonObject) -> tuple[str, str]:
    """Sort by age, older sets first."""
    meta = part(item, "metadata")
    return text(meta.get("creationTimestamp")), text(meta.get("name"))


def size_annotations(deployment: JsonObject) -> dict[str, str]:
    """Return what a set notes of the Deployment that it was sized for."""
    limits = limits_of(deployment)
    return {DESIRED: str(limits.replicas), MOST: str(limits.most)}


def _annotated(item: JsonObject, key: str) -> int | None:
    said = annotations_of(item).get(key, "")
    number = int(said) if said.isascii() and said.isdigit() and len(said) <= 10 else None
    return number if number is not None and number <= _MAX else None


def _resized(item: JsonObject, size: int) -> list[Resize]:
    return [] if wanted(item) == size else [Resize(_name(item), wanted(item), size)]


def _present(sets: Iterable[JsonObject]) -> int:
    """How many Pods sets have or will have: one that was told to shrink may not have come to it."""
    return sum(max(wanted(item), whole(part(item, "status").get("replicas"))) for item in sets)


def _total(sets: Iterable[JsonObject]) -> int:
    return sum(wanted(item) for item in sets)


def _name(item: JsonObject) -> str:
    return text(part(item, "metadata").get("name"))
