"""The probes of all running containers: one timetable, a bounded number of tries at a time.

What they found outlives this process in the Pods' statuses: a container that was started and ready before a
restart of EdgeCore stays so until a probe finds otherwise. Nothing here needs the cloud.
Source: Kubernetes, container probes.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field

from edge.pods import proberules
from edge.pods.podspec import Container, Pod, Probe
from edge.pods.ports import Observed, Recorder
from edge.pods.probehttp import TriedInVain
from edge.pods.probers import Probers
from edge.pods.proberules import Found, Kind, Tally, Turn
from edge.pods.runtime import ContainerState, State
from gateway.model.json import Json, JsonObject

log = logging.getLogger(__name__)

MAX_AT_ONCE, MAX_OF_A_POD = 128, 8
"""Tries at a time, of all and of one Pod; more wait for their turn. A Pod whose probes hang holds up none of
the others'."""
CROWDED_SECONDS = 0.25
"""After which a try that waits for others of its Pod is looked at again."""
RESUME_SECONDS = 10.0
"""A container that has run for longer when this process starts was there before it: its first tries are
spread over as many seconds."""
Labels = tuple[str, str, str, str, str, str]
"""Of `prober_probe_total`: probe_type, result, container, pod, namespace, pod_uid."""


@dataclass(slots=True, eq=False)
class _Watch:
    """One probe of one running container."""

    kind: Kind
    probe: Probe
    pod: Pod
    container: Container
    state: ContainerState
    pod_ip: str
    tally: Tally
    is_busy: bool = False
    due: float = 0.0
    is_gone: bool = False


@dataclass(slots=True)
class _Held:
    """A container's probes, and what was known of it when it was first seen."""

    uid: str
    was_started: bool
    was_ready: bool
    watches: dict[Kind, _Watch] = field(default_factory=dict)


class PodProbes:
    """Module, and the `Probes` port. `now` is Unix time in seconds, `clock` never goes back."""

    name = "edge.pods.probes"

    def __init__(
        self,
        probers: Probers,
        recorder: Recorder,
        kick: Callable[[str], None],
        known: Callable[[str], JsonObject | None],
        *,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._probers = probers
        self._recorder = recorder
        self._kick = kick
        self._known = known
        self._clock = clock
        self._now = now
        self._jitter = jitter
        self._began = now()
        self._held: dict[str, _Held] = {}
        self._pods: dict[str, set[str]] = {}
        """Pod -> its containers in `_held`."""
        self._timetable: list[tuple[float, int, _Watch]] = []
        self._count = itertools.count()
        self._wake = asyncio.Event()
        self._slots = asyncio.Semaphore(MAX_AT_ONCE)
        self._busy: Counter[str] = Counter()
        """Tries under way, by Pod."""
        self._totals: dict[Labels, int] = {}

    # --- the port ---------------------------------------------------------------------------------

    def update(self, pod: Pod, observed: Observed, pod_ip: str) -> None:
        running = dict(_running(pod, observed))
        for container_id in self._pods.get(pod.uid, set()) - running.keys():
            self._drop(container_id)
        for container_id, (container, state) in running.items():
            held = self._held.get(container_id)
            if held is None:
                self._begin(pod, container, state, pod_ip)
                continue
            for watch in held.watches.values():
                watch.pod, watch.pod_ip = pod, pod_ip

    def forget(self, uid: str) -> None:
        for container_id in list(self._pods.get(uid, ())):
            self._drop(container_id)
        self._totals = {key: each for key, each in self._totals.items() if key[5] != uid}

    def is_started(self, pod: Pod, container: Container, container_id: str) -> bool:
        if container.startup_probe is None:
            return True
        held = self._held.get(container_id)
        if held is None:
            return bool(_row(self._known(pod.uid), container_id).get("started"))
        watch = held.watches.get(Kind.STARTUP)
        return held.was_started if watch is None else watch.tally.result is True

    def is_ready(self, pod: Pod, container: Container, container_id: str) -> bool:
        if not self.is_started(pod, container, container_id):
            return False
        if container.readiness_probe is None:
            return True
        held = self._held.get(container_id)
        if held is None:
            return bool(_row(self._known(pod.uid), container_id).get("ready"))
        watch = held.watches.get(Kind.READINESS)
        return watch is not None and watch.tally.result is True

    def failed(self, container_id: str) -> str | None:
        watch = self._failed(container_id)
        return None if watch is None else watch.kind.value.lower()

    def grace_seconds(self, container_id: str) -> int | None:
        watch = self._failed(container_id)
        return None if watch is None else watch.probe.termination_grace_period_seconds

    def _failed(self, container_id: str) -> _Watch | None:
        held = self._held.get(container_id)
        watches = {} if held is None else held.watches
        found = (watches.get(kind) for kind in (Kind.STARTUP, Kind.LIVENESS))
        return next((each for each in found if each and each.tally.result is False), None)

    def totals(self) -> dict[Labels, int]:
        """Return how many tries there were, by labels."""
        return dict(self._totals)

    # --- what is watched --------------------------------------------------------------------------

    def _begin(self, pod: Pod, container: Container, state: ContainerState, pod_ip: str) -> None:
        row = _row(self._known(pod.uid), state.id)
        held = _Held(pod.uid, bool(row.get("started")), bool(row.get("ready")))
        self._held[state.id] = held
        self._pods.setdefault(pod.uid, set()).add(state.id)
        for kind in Kind:
            probe = proberules.probe_of(container, kind)
            if probe is None:
                continue
            tally = _adopted(kind, held)
            watch = _Watch(kind, probe, pod, container, state, pod_ip, tally)
            held.watches[kind] = watch
            self._plan(watch, self._clock() + self._first_delay(watch))

    def _first_delay(self, watch: _Watch) -> float:
        running = self._running_seconds(watch)
        delay = proberules.first_delay(watch.kind, watch.probe, running, self._jitter())
        was_there = self._now() - running < self._began - RESUME_SECONDS
        if was_there and watch.kind in proberules.FIRST_LOOK:
            delay += self._jitter() * min(RESUME_SECONDS, proberules.period(watch.probe))
        return delay

    def _running_seconds(self, watch: _Watch) -> float:
        return max(0.0, self._now() - watch.state.started_at / 1e9)

    def _plan(self, watch: _Watch, due: float) -> None:
        watch.due = due
        heapq.heappush(self._timetable, (due, next(self._count), watch))
        self._wake.set()

    def _drop(self, container_id: str) -> None:
        held = self._held.pop(container_id, None)
        if held is None:
            return
        for watch in held.watches.values():
            watch.is_gone = True
        rest = self._pods[held.uid]
        rest.discard(container_id)
        if not rest:
            del self._pods[held.uid]

    # --- the timetable ----------------------------------------------------------------------------

    async def run(self, ready: Callable[[], None]) -> None:
        ready()
        async with asyncio.TaskGroup() as tries:
            while True:
                self._wake.clear()
                for watch in self._due():
                    await self._slots.acquire()
                    tries.create_task(self._try(watch), name="probe")
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._rest()):
                        await self._wake.wait()

    def _rest(self) -> float | None:
        return max(0.0, self._timetable[0][0] - self._clock()) if self._timetable else None

    def _due(self) -> Iterator[_Watch]:
        """Yield what is to be tried now; what is to wait is planned anew."""
        while self._timetable and self._timetable[0][0] <= self._clock():
            due, _, watch = heapq.heappop(self._timetable)
            if watch.is_gone or watch.is_busy or due != watch.due:
                continue
            match self._turn(watch):
                case Turn.PROBE if self._busy[watch.pod.uid] >= MAX_OF_A_POD:
                    self._plan(watch, self._clock() + CROWDED_SECONDS)
                case Turn.PROBE:
                    watch.is_busy = True
                    self._busy[watch.pod.uid] += 1
                    yield watch
                case Turn.CEASE:
                    self._take(watch, Tally(True, is_resting=True))
                case Turn.WAIT:
                    self._plan(watch, self._clock() + self._wait(watch))

    def _turn(self, watch: _Watch) -> Turn:
        return proberules.turn(
            watch.kind,
            watch.probe,
            watch.tally,
            is_deleting=watch.pod.is_deleting,
            is_started=self.is_started(watch.pod, watch.container, watch.state.id),
            running_seconds=self._running_seconds(watch),
        )

    def _wait(self, watch: _Watch) -> float:
        """Return seconds until a probe that has to wait is looked at again."""
        left = watch.probe.initial_delay_seconds - self._running_seconds(watch)
        return left if 0 < left < proberules.period(watch.probe) else proberules.period(watch.probe)

    async def _try(self, watch: _Watch) -> None:
        began = self._clock()
        try:
            is_success = await self._found(watch)
            if is_success is not None and not watch.is_gone:
                rule = proberules.after
                self._take(watch, rule(watch.tally, watch.kind, watch.probe, is_success=is_success))
        except Exception:  # the top of a probe's task
            log.exception("a probe broke", extra={"container": watch.container.name})
        finally:  # whatever became of this try, there is a next one
            watch.is_busy = False
            self._slots.release()
            self._busy -= Counter((watch.pod.uid,))  # what comes to nothing goes
            if not watch.is_gone and not watch.tally.is_resting:
                self._plan(watch, proberules.next_try(began, self._clock(), watch.probe))

    async def _found(self, watch: _Watch) -> bool | None:
        """Try once and tell of it; None for a try that says nothing, or comes too late."""
        pod, container, kind = watch.pod, watch.container, watch.kind.value
        try:
            verdict = await self._probers.try_(
                pod, container, watch.state.id, watch.probe, watch.pod_ip
            )
        except TriedInVain as error:
            text = f"{kind} probe errored and resulted in unknown state: {error.message}"
            self._event(watch, "Unhealthy", text)
            return None
        if watch.is_gone:  # its Pod's figures may be dropped already
            return None
        self._count_one(watch, verdict.found)
        if verdict.found is Found.FAILURE:
            self._event(watch, "Unhealthy", f"{kind} probe failed: {verdict.output}")
        elif verdict.found is Found.WARNING:
            self._event(watch, "ProbeWarning", f"{kind} probe warning: {verdict.output}")
        return verdict.found is not Found.FAILURE

    def _event(self, watch: _Watch, reason: str, text: str) -> None:
        if not watch.is_gone:
            self._recorder.event(watch.pod, "Warning", reason, text, watch.container)

    def _count_one(self, watch: _Watch, found: Found) -> None:
        namespace, name = watch.pod.key
        said = "failed" if found is Found.FAILURE else "successful"
        key = (watch.kind.value, said, watch.container.name, name, namespace, watch.pod.uid)
        self._totals[key] = self._totals.get(key, 0) + 1

    def _take(self, watch: _Watch, tally: Tally) -> None:
        """Note a result; who shows or acts on it looks when it has changed."""
        before, watch.tally = watch.tally.result, tally
        if before is tally.result:
            return
        held = self._held.get(watch.state.id)
        if held is not None and watch.kind is Kind.STARTUP and tally.result:
            for other in held.watches.values():
                if other.kind is Kind.READINESS and not other.is_busy:
                    self._plan(other, self._clock())
        self._kick(watch.pod.uid)


def _running(
    pod: Pod, observed: Observed
) -> Iterator[tuple[str, tuple[Container, ContainerState]]]:
    """Yield the running containers that may have probes: plain ones and sidecars."""
    sidecars = [each for each in pod.spec.init_containers if each.is_sidecar]
    for container in (*pod.spec.containers, *sidecars):
        state = observed.newest(container.name)
        if state is not None and state.state is State.RUNNING:
            yield state.id, (container, state)


def _adopted(kind: Kind, held: _Held) -> Tally:
    """Return where a probe starts: from what was known of its container, else from the beginning."""
    if kind is Kind.STARTUP and held.was_started:
        return Tally(True, is_resting=True)
    if kind is Kind.READINESS and held.was_ready:
        return Tally(True)
    return proberules.fresh(kind)


def _row(status: JsonObject | None, container_id: str) -> JsonObject:
    """Return what a Pod's status says of a container, by its id."""
    for name in ("containerStatuses", "initContainerStatuses"):
        rows: Json = (status or {}).get(name)
        for row in rows if isinstance(rows, list) else []:
            if isinstance(row, dict) and str(row.get("containerID")).endswith(f"//{container_id}"):
                return row
    return {}
