"""Frees the disk of images that nobody uses, and the runtime of containers that ended long ago.

What is removed is decided by pure functions; nothing that any container of this runtime uses goes, also
when the container is another's. Source: kubelet 1.36 (thresholds, order, texts of events).
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Protocol

from edge.pods.logrotation import remove_logs
from edge.pods.ports import Recorder
from edge.pods.runtime import (
    POD_UID,
    ContainerState,
    FilesystemUsage,
    Image,
    RuntimeAway,
    RuntimeFault,
    RuntimeNotFound,
    Sandbox,
    State,
)
from gateway.errors import GatewayError

log = logging.getLogger(__name__)

HIGH_PERCENT, LOW_PERCENT = 85, 80
MIN_AGE = 120.0
"""Seconds for which a new image stays: it may be pulled for a container that is about to be made."""
FRESH = 300.0
"""Seconds for which a container that was made and not started counts as about to start."""
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")

Measure = Callable[[str], tuple[int, int]]
"""Returns capacity and available bytes of the file system of a path. Errors: OSError."""


class ImageRuntime(Protocol):
    """What of the runtime the images' part uses."""

    async def images(self) -> list[Image]: ...
    async def used_images(self) -> frozenset[str]:
        """Return ids and names of images that any container uses, ours or not, and the sandboxes' own."""

    async def remove_image(self, reference: str) -> None: ...
    async def image_filesystems(self) -> list[FilesystemUsage]: ...


class ContainerRuntime(Protocol):
    """What of the runtime the containers' part uses."""

    async def containers(self) -> list[ContainerState]: ...
    async def container(self, container_id: str) -> ContainerState: ...
    async def stop_container(self, container_id: str, grace_seconds: int) -> None: ...
    async def remove_container(self, container_id: str) -> None: ...
    async def sandboxes(self) -> list[Sandbox]: ...
    async def stop_sandbox(self, sandbox_id: str) -> None: ...
    async def remove_sandbox(self, sandbox_id: str) -> None: ...


class DiskStaysFull(GatewayError):
    """Less could be freed than was to be."""

    status = 507
    code = "edge.pods.diskfull"


@dataclass(frozen=True, slots=True)
class Seen:
    """An image as this process knows it. Units: seconds of a rising clock."""

    image: Image
    first: float
    used: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """When images go. `max_age`: seconds without use after which one goes in any case; 0: never."""

    high: int = HIGH_PERCENT
    low: int = LOW_PERCENT
    min_age: float = MIN_AGE
    max_age: float = 0.0


# --- decisions --------------------------------------------------------------------------------------


def look(
    known: Mapping[str, Seen], images: Iterable[Image], used: frozenset[str], now: float
) -> dict[str, Seen]:
    """Return what is known after a list of what is there."""
    found = {}
    for image in images:
        seen = known.get(image.id) or Seen(image, now, 0.0)
        found[image.id] = replace(
            seen, image=image, used=now if is_used(image, used) else seen.used
        )
    return found


def is_used(image: Image, used: frozenset[str]) -> bool:
    return not used.isdisjoint((image.id, *image.tags, *image.digests))


def candidates(known: Mapping[str, Seen], used: frozenset[str]) -> list[Seen]:
    """Return what may go, the longest unused first."""
    free = [s for s in known.values() if not s.image.pinned and not is_used(s.image, used)]
    return sorted(free, key=lambda each: (each.used, each.first))


def percent_used(capacity: int, available: int) -> int:
    return 100 - min(available, capacity) * 100 // capacity


def to_free(policy: Policy, capacity: int, available: int) -> int:
    """Return how many bytes must go: 0 below the high threshold, else down to the low one."""
    if percent_used(capacity, available) < policy.high:
        return 0
    return max(0, capacity * (100 - policy.low) // 100 - available)


@dataclass(frozen=True, slots=True)
class Remains:
    """Containers and sandboxes whose time is over; `stops` are ended before, their state is not known."""

    containers: tuple[str, ...] = ()
    stops: frozenset[str] = frozenset()
    sandboxes: tuple[str, ...] = ()


def remains(
    containers: Sequence[ContainerState],
    sandboxes: Sequence[Sandbox],
    pods: frozenset[str],
    now: float,
    keep: int = 1,
) -> Remains:
    """Return what may go: of each container of a Pod all but the last `keep` ended ones.

    Shape:  of Pods that are not in `pods` (uids) all that has ended; a sandbox when it is not ready, has no
            containers left and is not its Pod's newest. Running ones are never among them.
    """
    dead = [each for each in containers if _is_over(each, now)]
    groups: dict[tuple[str, str], list[ContainerState]] = {}
    for each in sorted(dead, key=lambda each: each.created_at, reverse=True):
        groups.setdefault((_uid(each), each.name), []).append(each)
    over = [
        each for (uid, _), group in groups.items() for each in group[keep if uid in pods else 0 :]
    ]
    held = {each.sandbox_id for each in containers}
    newest: dict[str, Sandbox] = {}
    for box in sorted(sandboxes, key=lambda each: each.created_at):
        newest[box.uid] = box
    empty = [
        box.id
        for box in sandboxes
        if not box.is_ready
        and box.id not in held
        and (box.uid not in pods or newest[box.uid] is not box)
    ]
    unknown = frozenset(each.id for each in over if each.state is State.UNKNOWN)
    return Remains(tuple(each.id for each in over), unknown, tuple(empty))


def _is_over(container: ContainerState, now: float) -> bool:
    if container.state is State.CREATED:
        return container.created_at / 1e9 < now - FRESH
    return container.state is not State.RUNNING


def _uid(container: ContainerState) -> str:
    return container.labels.get(POD_UID, "")


# --- images -----------------------------------------------------------------------------------------


def measure(path: str) -> tuple[int, int]:
    """Return capacity and available bytes where a path is, or would be."""
    place = Path(path)
    while not place.exists() and place != place.parent:
        place = place.parent
    found = os.statvfs(place)
    return found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize


class ImageCollector:
    """Removes images nobody uses when the disk fills, or when they are old."""

    def __init__(
        self,
        runtime: ImageRuntime,
        recorder: Recorder,
        policy: Policy | None = None,
        *,
        measure: Measure = measure,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._runtime = runtime
        self._recorder = recorder
        self._policy = policy or Policy()
        self._measure = measure
        self._clock = clock
        self._since = clock()
        self._known: dict[str, Seen] = {}

    async def collect(self) -> int:
        """Free what the policy says and return how many bytes. Errors: DiskStaysFull; RuntimeFault."""
        used = await self._look()
        freed = await self._remove_old(used)
        for each in await self._runtime.image_filesystems():
            capacity, available = await asyncio.to_thread(self._measure, each.mountpoint)
            if capacity <= 0:
                text = "invalid capacity 0 on image filesystem"
                self._recorder.node_event("Warning", "InvalidDiskCapacity", text)
                raise DiskStaysFull(text)
            wanted = to_free(self._policy, capacity, available)
            if wanted:
                freed += await self._free(wanted, used, capacity, available)
        return freed

    async def free_all(self) -> int:
        """Remove all images that nobody uses and that are not new; return how many bytes. For eviction."""
        used = await self._look()
        return await self._remove(self._old_enough(used), None)

    async def _look(self) -> frozenset[str]:
        images, used = await self._runtime.images(), await self._runtime.used_images()
        self._known = look(self._known, images, used, self._clock())
        return used

    def _old_enough(self, used: frozenset[str]) -> list[Seen]:
        newest = self._clock() - self._policy.min_age
        return [each for each in candidates(self._known, used) if each.first <= newest]

    async def _remove_old(self, used: frozenset[str]) -> int:
        """Remove by age; what was used before this process began is not known to be old."""
        age, now = self._policy.max_age, self._clock()
        if not age or now - self._since <= age:
            return 0
        old = [s for s in candidates(self._known, used) if now - max(s.used, s.first) > age]
        return await self._remove(old, None)

    async def _free(self, wanted: int, used: frozenset[str], capacity: int, available: int) -> int:
        log.info("the images' disk is nearly full", extra={"count": wanted})
        freed = await self._remove(self._old_enough(used), wanted)
        if freed < wanted:
            text = (
                "Insufficient free disk space on the node's image filesystem "
                f"({percent_used(capacity, available)}% of {size_text(capacity)} used). Failed to free "
                f"sufficient space by deleting unused images (freed {freed} bytes). Investigate disk "
                "usage, as it could be used by active images, logs, volumes, or other data."
            )
            self._recorder.node_event("Warning", "FreeDiskSpaceFailed", text)
            raise DiskStaysFull(text)
        return freed

    async def _remove(self, images: Iterable[Seen], wanted: int | None) -> int:
        """Remove images until enough is free; one that stays leaves the others their turn."""
        freed = 0
        faults: list[RuntimeFault] = []
        for each in images:
            if wanted is not None and freed >= wanted:
                break
            try:
                await self._runtime.remove_image(each.image.id)
            except RuntimeFault as fault:
                faults.append(fault)
                continue
            freed += each.image.size
            self._known.pop(each.image.id, None)
            log.info("image removed", extra={"image": each.image.id, "count": each.image.size})
        if faults:
            raise RuntimeFault(f"images could not be removed: {faults[0].message}") from faults[0]
        return freed


def size_text(count: int) -> str:
    """Write bytes for people: `512 B`, `1.5 GiB`."""
    size, unit = float(count), 0
    while size >= 1_024 and unit < len(_UNITS) - 1:
        size, unit = size / 1_024, unit + 1
    return f"{size:.1f} {_UNITS[unit]}" if unit else f"{count} B"


# --- containers -------------------------------------------------------------------------------------


class ContainerCollector:
    """Removes containers and sandboxes that ended, but the last of each container, for its log."""

    def __init__(
        self,
        runtime: ContainerRuntime,
        pods: Callable[[], frozenset[str] | None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`pods`: uids of all Pods that are not yet cleared away; None while they are not known."""
        self._runtime = runtime
        self._pods = pods
        self._clock = clock

    async def collect(self) -> int:
        """Remove what is over and return how many. Errors: RuntimeFault, after all were tried."""
        containers = await self._runtime.containers()
        sandboxes = await self._runtime.sandboxes()
        pods = self._pods()
        if pods is None:
            return 0
        found = remains(containers, sandboxes, pods, self._clock())
        removals = [
            *(partial(self._remove, each, each in found.stops) for each in found.containers),
            *(partial(self._remove_sandbox, each) for each in found.sandboxes),
        ]
        faults = [fault for each in removals if (fault := await _fault_of(each)) is not None]
        if faults:
            raise faults[0]
        return len(removals)

    async def _remove_sandbox(self, sandbox_id: str) -> None:
        await self._runtime.stop_sandbox(sandbox_id)
        await self._runtime.remove_sandbox(sandbox_id)

    async def _remove(self, container_id: str, stop_first: bool) -> None:
        """Remove a container and its logs."""
        try:
            if stop_first:
                await self._runtime.stop_container(container_id, 0)
            log_path = (await self._runtime.container(container_id)).log_path
            await self._runtime.remove_container(container_id)
            if log_path:
                await asyncio.to_thread(remove_logs, log_path)
        except RuntimeNotFound:
            log.debug("a container that was to go is gone", extra={"container_id": container_id})


async def _fault_of(work: Callable[[], Awaitable[None]]) -> RuntimeFault | None:
    """Do a work and return why it failed: one that cannot go is in no other's way. Errors: RuntimeAway."""
    try:
        await work()
    except RuntimeAway:
        raise
    except RuntimeFault as fault:
        return fault
    return None
