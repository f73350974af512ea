"""What a Pod's worker works with: the rooms of edged, put together by `edge.pods.build`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field

from edge.pods.health import RuntimeHealth
from edge.pods.podspec import Pod
from edge.pods.ports import Configs, Hooks, Images, Probes, Recorder, StatusSink, Volumes
from edge.pods.relist import Relist
from edge.pods.resizes import Room
from edge.pods.restarts import Restarts
from edge.pods.runtime import Runtime

SANDBOXES_AT_A_TIME = 4
"""More at once take longer for each, and no less for all."""

Admit = Callable[[Pod], None]
"""Raises NeverRuns for a Pod that this node refuses for good."""


async def _swept(_uids: Iterable[str]) -> None:
    """There is nothing to sweep."""


def _there_is(_pod: Pod) -> None:
    """Room for a Pod."""


def _nobody() -> frozenset[str]:
    return frozenset()


def _no_address() -> tuple[str, ...]:
    return ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """One of each per node."""

    runtime: Runtime
    relist: Relist
    health: RuntimeHealth
    configs: Configs
    volumes: Volumes
    images: Images
    hooks: Hooks
    probes: Probes
    statuses: StatusSink
    recorder: Recorder
    admit: Admit
    room: Room = _there_is
    restarts: Restarts = field(default_factory=Restarts)
    host_ips: Callable[[], tuple[str, ...]] = _no_address
    oom_killed: Callable[[], frozenset[str]] = _nobody
    """Ids of containers in which the kernel killed for memory."""
    sweep: Callable[[Iterable[str]], Awaitable[None]] = _swept
    """Removes what was made for Pods that are not among these uids."""
    slots: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(SANDBOXES_AT_A_TIME))
    clock: Callable[[], float] = time.time
    """Unix seconds."""
