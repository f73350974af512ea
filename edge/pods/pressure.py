"""When this node runs short of memory, disk or processes. Pure.

A threshold is met when less is available than it says. A soft one counts after its grace; one that was met
stays so until the minimum to reclaim is available on top; a condition lasts at least the transition time.
Source: Kubernetes, node-pressure eviction.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal

from gateway.errors import InvalidSetting
from gateway.wire.kube.quantity import quantity

MEMORY, NODE_DISK, NODE_INODES = "memory.available", "nodefs.available", "nodefs.inodesFree"
IMAGE_DISK, IMAGE_INODES, PIDS = "imagefs.available", "imagefs.inodesFree", "pid.available"
MEMORY_RESOURCE, DISK_RESOURCE = "memory", "ephemeral-storage"
INODES_RESOURCE, PIDS_RESOURCE = "inodes", "pids"
RESOURCES: Mapping[str, str] = {
    MEMORY: MEMORY_RESOURCE,
    NODE_DISK: DISK_RESOURCE,
    NODE_INODES: INODES_RESOURCE,
    IMAGE_DISK: DISK_RESOURCE,
    IMAGE_INODES: INODES_RESOURCE,
    PIDS: PIDS_RESOURCE,
}
"""Signal -> what there is too little of."""
CONDITIONS: Mapping[str, str] = {
    MEMORY: "MemoryPressure",
    NODE_DISK: "DiskPressure",
    NODE_INODES: "DiskPressure",
    IMAGE_DISK: "DiskPressure",
    IMAGE_INODES: "DiskPressure",
    PIDS: "PIDPressure",
}
TRANSITION_SECONDS = 300.0
_SPAN = re.compile(r"(?:(\d{1,6})h)?(?:(\d{1,6})m)?(?:(\d{1,6})s)?")


@dataclass(frozen=True, slots=True)
class Amount:
    """A number of bytes, inodes or processes, or a share of all there is."""

    number: Decimal = Decimal(0)
    share: Decimal | None = None

    def of(self, capacity: int) -> int:
        """Return the number that is meant where there is `capacity` in all."""
        return int(self.number if self.share is None else self.share * capacity)


@dataclass(frozen=True, slots=True)
class Threshold:
    """`grace_seconds` of 0 is a hard one."""

    signal: str
    amount: Amount
    grace_seconds: float = 0.0
    reclaim: Amount = Amount()

    @property
    def is_hard(self) -> bool:
        return self.grace_seconds == 0


@dataclass(frozen=True, slots=True)
class Observation:
    """What is available of what there is. Units: bytes, inodes, processes."""

    available: int
    capacity: int


@dataclass(frozen=True, slots=True)
class Strain:
    """What is known from one look to the next; times are seconds that never go back."""

    first_met: Mapping[Threshold, float] = field(default_factory=dict)
    last_pressed: Mapping[str, float] = field(default_factory=dict)
    acting: tuple[Threshold, ...] = ()
    """Thresholds that are met, their grace over: something has to go."""


def read_thresholds(
    hard: Mapping[str, str],
    soft: Mapping[str, str],
    graces: Mapping[str, str],
    reclaims: Mapping[str, str],
) -> tuple[Threshold, ...]:
    """Read what an operator set. Errors: InvalidSetting."""
    found = [Threshold(*each) for each in _amounts("eviction_hard", hard)]
    for signal, amount in _amounts("eviction_soft", soft):
        seconds = read_span(graces.get(signal, ""))
        if not seconds:
            raise InvalidSetting(
                f"edge.workloads.eviction_soft_grace: {signal}: expected a time such as 1m30s"
            )
        found.append(Threshold(signal, amount, seconds))
    least = dict(_amounts("eviction_minimum_reclaim", reclaims))
    nothing = Amount()
    return tuple(
        Threshold(each.signal, each.amount, each.grace_seconds, least.get(each.signal, nothing))
        for each in found
    )


def _amounts(setting: str, rows: Mapping[str, str]) -> list[tuple[str, Amount]]:
    found = [(signal, _amount(setting, signal, text)) for signal, text in rows.items()]
    return [(signal, each) for signal, each in found if each.number or each.share]


def _amount(setting: str, signal: str, text: str) -> Amount:
    where = f"edge.workloads.{setting}: {signal}"
    if signal not in RESOURCES:
        raise InvalidSetting(f"{where}: expected one of {', '.join(sorted(RESOURCES))}")
    number = quantity(text.removesuffix("%"))
    is_share = text.endswith("%")
    if number is None or number < 0 or (is_share and number > 100):
        raise InvalidSetting(f"{where}: expected an amount or a percentage, got {text!r}")
    return Amount(share=number / 100) if is_share else Amount(number)


def read_span(text: str) -> float:
    """Read `1h30m`, `90s`; 0 for what is none."""
    found = _SPAN.fullmatch(text)
    if found is None:
        return 0.0
    hours, minutes, seconds = (int(each or 0) for each in found.groups())
    return float(hours * 3_600 + minutes * 60 + seconds)


def met(
    thresholds: Iterable[Threshold], seen: Mapping[str, Observation], *, with_reclaim: bool = False
) -> list[Threshold]:
    """Return the thresholds that are crossed; with the minimum to reclaim on top where asked."""
    found = []
    for each in thresholds:
        observed = seen.get(each.signal)
        if observed is None:
            continue
        wanted = each.amount.of(observed.capacity)
        wanted += each.reclaim.of(observed.capacity) if with_reclaim else 0
        if observed.available < wanted:
            found.append(each)
    return found


def look(
    strain: Strain, thresholds: Iterable[Threshold], seen: Mapping[str, Observation], now: float
) -> Strain:
    """Return what is known after one more look."""
    crossed = met(thresholds, seen)
    crossed += [each for each in met(strain.acting, seen, with_reclaim=True) if each not in crossed]
    first = {each: strain.first_met.get(each, now) for each in crossed}
    pressed = {**strain.last_pressed, **{CONDITIONS[each.signal]: now for each in crossed}}
    acting = [each for each, since in first.items() if now - since >= each.grace_seconds]
    return Strain(first, pressed, tuple(sorted(acting, key=_order)))


def _order(threshold: Threshold) -> bool:
    """Memory goes first."""
    return threshold.signal != MEMORY


def pressures(strain: Strain, now: float, transition: float = TRANSITION_SECONDS) -> frozenset[str]:
    """Return the conditions that hold."""
    return frozenset(
        kind
        for kind, since in strain.last_pressed.items()
        if now - since < transition or since == now
    )
