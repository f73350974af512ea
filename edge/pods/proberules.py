"""When a probe runs and what its results mean. Pure.

A liveness probe starts out well, a readiness probe not, a startup probe without a result. Liveness and
readiness wait for the startup probe; it and a failed liveness probe rest until there is another container.
Source: Kubernetes, container probes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

from edge.pods.podspec import Container, Probe


class Kind(Enum):
    """In the words of events and metrics."""

    LIVENESS = "Liveness"
    READINESS = "Readiness"
    STARTUP = "Startup"


class Found(Enum):
    """What one try of a probe found. WARNING counts as success, and is told of."""

    SUCCESS = "success"
    WARNING = "warning"
    FAILURE = "failure"


class Turn(Enum):
    """What is to be done with a probe that is due."""

    PROBE = "probe"
    WAIT = "wait"
    CEASE = "cease"


@dataclass(frozen=True, slots=True)
class Tally:
    """The results so far. `result`: what counts now; `run`: how often the last try's result came in a row."""

    result: bool | None = None
    last: bool | None = None
    run: int = 0
    is_resting: bool = False


_FIRST = {Kind.LIVENESS: True, Kind.READINESS: False, Kind.STARTUP: None}
FIRST_LOOK: frozenset[Kind] = frozenset({Kind.READINESS, Kind.STARTUP})
"""Those that are tried as soon as their container runs; the other waits up to a period."""


def fresh(kind: Kind) -> Tally:
    """Return the tally of a container that has just started."""
    return Tally(_FIRST[kind])


def probe_of(container: Container, kind: Kind) -> Probe | None:
    """Return a container's probe of a kind."""
    match kind:
        case Kind.LIVENESS:
            return container.liveness_probe
        case Kind.READINESS:
            return container.readiness_probe
        case Kind.STARTUP:
            return container.startup_probe


def after(tally: Tally, kind: Kind, probe: Probe, *, is_success: bool) -> Tally:
    """Return the tally with one more result."""
    run = tally.run + 1 if tally.last is is_success else 1
    needed = probe.success_threshold if is_success else probe.failure_threshold
    counted = replace(tally, last=is_success, run=run)
    if run < needed:
        return counted
    rests = kind is Kind.STARTUP or (kind is Kind.LIVENESS and not is_success)
    return replace(counted, result=is_success, is_resting=rests, run=0 if rests else run)


def turn(
    kind: Kind,
    probe: Probe,
    tally: Tally,
    *,
    is_deleting: bool,
    is_started: bool,
    running_seconds: float,
) -> Turn:
    """Say what is to be done now with a probe of a running container."""
    if is_deleting and kind is not Kind.READINESS:
        return Turn.CEASE
    is_too_early = int(running_seconds) < probe.initial_delay_seconds
    if tally.is_resting or is_too_early or is_started == (kind is Kind.STARTUP):
        return Turn.WAIT
    return Turn.PROBE


def first_delay(kind: Kind, probe: Probe, running_seconds: float, jitter: float) -> float:
    """Return seconds until a probe's first try.

    Shape:  `jitter` 0..1 is the part of a period that a probe waits which need not be tried at once.
    """
    spread = 0.0 if kind in FIRST_LOOK else jitter * period(probe)
    return max(0.0, probe.initial_delay_seconds - running_seconds) + spread


def period(probe: Probe) -> float:
    """Return seconds between tries."""
    return float(max(1, probe.period_seconds))


def next_try(started: float, now: float, probe: Probe) -> float:
    """Return when the try after one that began at `started` and has ended `now` is due."""
    return max(started + period(probe), now)
