"""Watches what is left of memory, disk and processes, and has Pods go before there is nothing left.

On a shortage of disk what nobody uses goes first: dead containers and images. One Pod goes at a time, and the
next only when it is gone or half a minute has passed. Pods that write more than their own limits allow go
whatever the node has. Nothing here needs the cloud; taints are the control plane's.
Source: Kubernetes, node-pressure eviction.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol

from edge.pods import evictionrules as rules
from edge.pods import pressure
from edge.pods.podresources import BEST_EFFORT, qos_of
from edge.pods.podspec import Pod, Toleration
from edge.pods.ports import NeverRuns, Recorder, Running
from edge.pods.pressure import RESOURCES, Observation, Strain, Threshold
from edge.pods.runtime import State
from edge.pods.samples import NodeSample, Sample
from gateway.errors import GatewayError
from gateway.observe.metrics import Metrics

log = logging.getLogger(__name__)

REASON = "Evicted"
AT_ONCE_SECONDS = 1
"""Grace of a Pod that goes for a hard threshold or its own limits."""
CLEANUP_SECONDS = 30.0
"""For so long the next Pod waits for the last one's end."""
_ENDED = frozenset({"Succeeded", "Failed"})
_MEMORY_TAINT = "node.kubernetes.io/memory-pressure"


class Measures(Protocol):
    """Where samples come from: `edge.pods.statsource.PodStats`."""

    async def node(self) -> NodeSample: ...
    async def sample(self, max_age: float = ..., folders_age: float = ...) -> Sample: ...


class Pods(Protocol):
    """Part of `edge.pods.ports.PodView`."""

    def pods(self) -> list[Running]: ...
    def evict(
        self, uid: str, reason: str, message: str, grace_seconds: int | None = None
    ) -> None: ...


async def _nothing() -> None:
    """There is nothing to free."""


class Evictions:
    """Module. `reclaim` frees what nobody uses; `kick` has the Node's conditions told now."""

    name = "edge.pods.eviction"

    def __init__(
        self,
        measures: Measures,
        view: Pods,
        recorder: Recorder,
        thresholds: Sequence[Threshold],
        *,
        metrics: Metrics,
        reclaim: Callable[[], Awaitable[None]] = _nothing,
        kick: Callable[[], None] = lambda: None,
        interval: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._measures = measures
        self._view = view
        self._recorder = recorder
        self._thresholds = thresholds
        self._metrics = metrics
        self._reclaim = reclaim
        self._kick = kick
        self._interval = interval
        self._clock = clock
        self._strain = Strain()
        self._conditions: frozenset[str] = frozenset()
        self._going: dict[str, float] = {}
        """Uids of evicted Pods -> until when the next waits for them."""

    # --- what others ask --------------------------------------------------------------------------

    def pressures(self) -> frozenset[str]:
        """Return the Node's conditions that hold: `MemoryPressure`, `DiskPressure`, `PIDPressure`."""
        return self._conditions

    def admit(self, pod: Pod) -> None:
        """Errors: NeverRuns for a Pod that this node has no room for while it is short of something."""
        found = self._conditions
        if not found or rules.is_critical(pod):
            return
        if found == {"MemoryPressure"} and (
            qos_of(pod) != BEST_EFFORT or any(map(_tolerates_memory, pod.spec.tolerations))
        ):
            return
        shown = " ".join(sorted(found))
        raise NeverRuns(REASON, f"The node had condition: [{shown}]. ")

    # --- its life ---------------------------------------------------------------------------------

    async def run(self, ready: Callable[[], None]) -> None:
        ready()
        while True:
            try:
                await self.look()
            except (GatewayError, OSError) as error:
                log.warning("what is left cannot be measured", extra={"cause": str(error)})
            await asyncio.sleep(self._interval)

    async def look(self) -> None:
        """Measure, and have at most one Pod go for the node's sake."""
        node = await self._measures.node()
        seen = rules.observations(node)
        self._judge(seen)
        if self._is_cleaning_up() or await self._end_greedy():
            return
        if self._strain.acting:
            await self._relieve(self._strain.acting, seen)

    def _judge(self, seen: Mapping[str, Observation]) -> None:
        now = self._clock()
        self._strain = pressure.look(self._strain, self._thresholds, seen, now)
        before, self._conditions = self._conditions, pressure.pressures(self._strain, now)
        if before != self._conditions:
            log.warning(
                "the node's pressures", extra={"conditions": " ".join(sorted(self._conditions))}
            )
            self._kick()

    def _active(self) -> list[Running]:
        return [
            each
            for each in self._view.pods()
            if each.status.get("phase") not in _ENDED and each.pod.uid not in self._going
        ]

    def _is_cleaning_up(self) -> bool:
        """True while a Pod that was told to go still runs."""
        now, running = self._clock(), set[str]()
        for each in self._view.pods():
            states = (state.state for state in each.observed.containers)
            if State.RUNNING in states:
                running.add(each.pod.uid)
        known = {each.pod.uid for each in self._view.pods()}
        self._going = {uid: until for uid, until in self._going.items() if uid in known}
        return any(uid in running and now < until for uid, until in self._going.items())

    # --- Pods over their own limits -----------------------------------------------------------------

    async def _end_greedy(self) -> bool:
        """Have Pods go that write more than they may; False when there are none."""
        watched = {each.pod.uid for each in self._active() if rules.has_own_limits(each.pod)}
        if not watched:
            return False
        sample = await self._measures.sample(self._interval / 2, self._interval / 2)
        found = False
        for each in sample.pods:
            own_disk = sample.node.has_own_image_disk
            message = rules.over_own_limits(each, has_own_image_disk=own_disk)
            if message and each.pod.uid in watched and not rules.is_critical(each.pod):
                self._evict(each.pod, message, AT_ONCE_SECONDS, "limit")
                found = True
        return found

    # --- for the node's sake ----------------------------------------------------------------------

    async def _relieve(self, acting: Sequence[Threshold], seen: Mapping[str, Observation]) -> None:
        threshold = acting[0]
        resource = RESOURCES[threshold.signal]
        text = f"Attempting to reclaim {resource}"
        self._recorder.node_event("Warning", "EvictionThresholdMet", text)
        if threshold.signal in rules.DISK_SIGNALS and await self._is_freed():
            return
        sample = await self._measures.sample(0.0, self._interval / 2)
        samples = {each.pod.uid: each for each in sample.pods}
        active = [each.pod for each in self._active() if _runs(each)]
        for pod in rules.ranked(resource, active, samples)[:1]:
            message = rules.pressure_message(resource, pod, samples.get(pod.uid), acting, seen)
            grace = AT_ONCE_SECONDS if threshold.is_hard else None
            self._evict(pod, message, grace, threshold.signal)
            return
        log.warning("no Pod can go", extra={"resource": resource})

    async def _is_freed(self) -> bool:
        """Free what nobody uses; True when that was enough."""
        await self._reclaim()
        seen = rules.observations(await self._measures.node())
        return not pressure.met(self._thresholds, seen, with_reclaim=True)

    def _evict(self, pod: Pod, message: str, grace: int | None, why: str) -> None:
        namespace, name = pod.key
        log.warning("a Pod is evicted", extra={"namespace": namespace, "pod": name, "why": message})
        self._metrics.edge.evictions.labels(why).inc()
        self._recorder.event(pod, "Warning", REASON, message)
        self._going[pod.uid] = self._clock() + CLEANUP_SECONDS
        self._view.evict(pod.uid, REASON, message, grace)


def _runs(running: Running) -> bool:
    return any(each.state is State.RUNNING for each in running.observed.containers)


def _tolerates_memory(each: Toleration) -> bool:
    is_meant = each.key == _MEMORY_TAINT or (not each.key and each.operator == "Exists")
    fits = each.operator == "Exists" or not each.value
    return is_meant and fits and each.effect in ("", "NoSchedule")
