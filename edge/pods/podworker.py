"""One Pod from its first moment to its last: looks, decides (`podplan`), acts, and looks again.

A worker is serial: one step at a time, woken by changes of the Pod, of its containers, and by time. Nothing
is kept that would be missed after a crash: what the runtime has and what the Pod asks for say what is next.
A worker that is cancelled leaves its containers running.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress

from edge.pods.containerstatuses import HeldBack, Stop
from edge.pods.parts import Parts
from edge.pods.podplan import Plan, plan_of, superseded
from edge.pods.podspec import Pod
from edge.pods.podstart import Held, Starter
from edge.pods.podstatus import ENDED
from edge.pods.podstop import Stopper, address_of, grace_of, is_living
from edge.pods.podtelling import Teller, Why
from edge.pods.ports import MountedVolumes, NeverRuns, NotYet, Observed
from edge.pods.resizes import Resizer
from edge.pods.runtime import RuntimeAway, RuntimeFault, Sandbox, SandboxConfig
from gateway.errors import GatewayError
from gateway.model.json import JsonObject
from gateway.runtime.backoff import Backoff
from gateway.wire.kube.clock import parse_rfc3339
from gateway.wire.kube.parts import part

log = logging.getLogger(__name__)

FIRST_RETRY, RETRY_CAP = 1.0, 10.0
LOOK_SECONDS = 60.0
"""How long a Pod that waits for something is left alone at most."""
NETWORK_SECONDS = 5.0
MOST_HURRIED = 20
"""Steps in a row without a rest."""
INTERNAL = "error syncing the pod: an internal error, see EdgeCore's log"
DEADLINE = Stop("DeadlineExceeded", "Pod was active on the node longer than the specified deadline")


class PodWorker:
    """Works on one Pod. `may_start` says whether an older Pod of this name is out of the way."""

    def __init__(
        self,
        pod: Pod,
        parts: Parts,
        *,
        may_start: Callable[[Pod], bool] = lambda _pod: True,
        on_ended: Callable[[Pod], None] = lambda _pod: None,
        is_orphan: bool = False,
    ) -> None:
        self.pod = pod
        self.status: JsonObject = {}
        self.is_ended = False
        """True when nothing of the Pod runs any more, for good."""
        self._parts = parts
        self._may_start = may_start
        self._on_ended = on_ended
        self._is_orphan = is_orphan
        """Of the Pod there is nothing but containers."""
        self._stopper = Stopper(parts.runtime, parts.hooks, parts.recorder)
        self._starter = Starter(parts, self._stopper)
        self._teller = Teller(parts)
        self._resizer = Resizer(parts.runtime, parts.configs, parts.recorder, parts.room)
        self._wake = asyncio.Event()
        self._faster = asyncio.Event()
        self._grace: int | None = None
        self._stop: Stop | None = None
        self._refusal: NeverRuns | None = None
        self._is_gone = is_orphan
        self._is_over = False
        self._is_admitted = False
        self._is_settled = False
        """All that a stopped Pod leaves beside its containers is cleared away."""
        self._is_told = False
        self._is_cleared = False
        """Nothing is left of it anywhere."""
        self._waiting: dict[str, HeldBack] = {}
        self._not_before: dict[str, float] = {}
        """Container -> when it may be tried again, by the loop's clock, which nobody sets."""
        self._backoffs: dict[str, Backoff] = {}
        self._prepared: Pod | None = None
        """As whom its groups were made: containers of a resize that comes meanwhile would not fit in."""
        self._is_mounted = False
        """The volumes are known to their room, as the Pod is now: it keeps them up to date."""

    # --- what happens to it -------------------------------------------------------------------

    def take(self, pod: Pod) -> None:
        """Take a newer object of the same Pod."""
        if pod.spec != self.pod.spec:
            self._not_before.clear()
        if pod.meta != self.pod.meta:
            self._is_mounted = False
        self.pod = pod
        if pod.is_deleting:
            self._shorten(pod.meta.deletion_grace_period_seconds)
        self.wake()

    def gone(self, last: Pod | None = None) -> None:
        """The Pod is no more in the API (or its file is gone): end it and clear all away."""
        self._is_gone = True
        if last is not None:
            self._shorten(last.meta.deletion_grace_period_seconds)
        self.wake()

    def stop(self, why: Stop, grace: int | None = None) -> None:
        """Stop it for good; the first reason stands."""
        if self._stop is None:
            self._stop = why
        self._shorten(grace)
        self.wake()

    def wake(self) -> None:
        self._wake.set()

    def retry(self) -> None:
        """Something is there that may have been waited for."""
        self._not_before.clear()
        self.wake()

    @property
    def is_ending(self) -> bool:
        return (
            self._is_gone
            or self._is_over
            or self._stop is not None
            or self._refusal is not None
            or self.pod.is_deleting
        )

    def _shorten(self, grace: int | None) -> None:
        """A grace only ever gets shorter."""
        if grace is not None and (self._grace is None or grace < self._grace):
            self._grace = max(1, grace)
            self._faster.set()

    # --- its life -----------------------------------------------------------------------------

    async def run(self) -> None:
        """Work until all of the Pod is cleared away."""
        await self._parts.relist.first.wait()
        backoff, hurried = Backoff(FIRST_RETRY, RETRY_CAP), 0
        while not self._is_cleared:
            delay: float | None
            try:
                delay = await self._step()
                backoff.reset()
            except RuntimeAway as error:
                log.debug("a Pod waits for the runtime", extra=self._facts(error))
                delay = backoff.next()
            except NotYet as error:
                log.info("a Pod cannot start now", extra=self._facts(error))
                delay = backoff.next()
            except GatewayError as error:
                log.warning("a step of a Pod failed", extra=self._facts(error))
                delay = backoff.next()
            except Exception:
                log.exception("a step of a Pod failed", extra=self._facts(None))
                self._parts.recorder.event(self.pod, "Warning", "FailedSync", INTERNAL)
                delay = backoff.next()
            hurried = hurried + 1 if delay == 0.0 else 0
            if hurried > MOST_HURRIED:
                delay = FIRST_RETRY  # what was done does not show: no busy loop
            if delay != 0.0 and not self._is_cleared:
                await self._rest(delay)

    def _facts(self, error: GatewayError | None) -> dict[str, str]:
        namespace, name = self.pod.key
        cause = {} if error is None else {"cause": error.message}
        return {"namespace": namespace, "pod": name, "uid": self.pod.uid, **cause}

    async def _rest(self, seconds: float | None) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._wake.wait()

    async def _step(self) -> float | None:
        """Do one step; return seconds until the next (0: at once, None: when something changes)."""
        observed = await self._parts.relist.look(self.pod.uid)
        self._wake.clear()  # all that it may tell is read from here on
        return await (self._end(observed) if self.is_ending else self._go_on(observed))

    # --- while it is to run -------------------------------------------------------------------

    async def _go_on(self, observed: Observed) -> float | None:
        parts, pod = self._parts, self.pod
        if not self._admit(observed):
            return 0.0
        if not self._may_start(pod):
            return None
        parts.probes.update(pod, observed, self._address(observed))
        if await self._resize(observed):
            return 0.0
        status = await self._report(observed)
        if status.get("phase") in ENDED:
            self._is_over = True
            return 0.0
        left = self._time_left(status)
        if left is not None and left <= 0:
            parts.recorder.event(pod, "Normal", DEADLINE.reason, DEADLINE.message)
            self.stop(DEADLINE)
            return 0.0
        delay = await self._work(plan_of(pod, observed, parts.probes), observed)
        return _least(delay, left)

    async def _resize(self, observed: Observed) -> bool:
        """Give containers what is asked now; True when some are stopped to begin anew with it."""
        anew = await self._resizer.bring(self.pod, observed)
        for state in anew:
            told = f"Container {state.name} resize requires restart"
            await self._stopper.stop(self.pod, state, self._grace_seconds(), message=told)
        return bool(anew)

    def _admit(self, observed: Observed) -> bool:
        """Judge a Pod before its first step; what runs already was admitted when it began."""
        if self._is_admitted:
            return True
        if not observed.sandboxes and not observed.containers and not self._has_ended():
            try:
                self._parts.admit(self.pod)
            except NeverRuns as refusal:
                self._refusal = refusal
                self._parts.recorder.event(self.pod, "Warning", refusal.reason, refusal.message)
                return False
        self._is_admitted = True
        return True

    def _has_ended(self) -> bool:
        """True for a Pod whose end is known from before: it is judged no more."""
        known = self._parts.statuses.known(self.pod.uid) or part(self.pod.raw, "status")
        return known.get("phase") in ENDED

    def _time_left(self, status: JsonObject) -> float | None:
        limit, started = (
            self.pod.spec.active_deadline_seconds,
            parse_rfc3339(status.get("startTime")),
        )
        return None if limit is None or started is None else started + limit - self._parts.clock()

    def _address(self, observed: Observed) -> str:
        if self.pod.spec.host_network:
            hosts = self._parts.host_ips()
            return hosts[0] if hosts else ""
        return address_of(observed)

    async def _work(self, plan: Plan, observed: Observed) -> float | None:
        """Carry out a plan; return when to look again."""
        if plan.ends_pod:
            await self._stopper.stop_pod(self.pod, observed, self._grace_seconds())
            return 0.0
        if plan.create_sandbox and self._has_no_network():
            return NETWORK_SECONDS
        has_cleared = await self._clear(plan, observed)
        due = [name for name in plan.starts if self._is_due(name)]
        if not due and not plan.create_sandbox:
            await self._remount()
            return 0.0 if has_cleared else self._next_start(plan)
        return await self._start(plan, observed)

    def _has_no_network(self) -> bool:
        problem = self._parts.health.network_problem
        if not problem or self.pod.spec.host_network:
            return False
        told = f"network is not ready: {problem}"
        self._parts.recorder.event(self.pod, "Warning", "NetworkNotReady", told)
        return True

    def _is_due(self, name: str) -> bool:
        return self._not_before.get(name, 0.0) <= _now()

    def _next_start(self, plan: Plan) -> float:
        now = _now()
        waits = [self._not_before.get(name, now) - now for name in plan.starts]
        return max(0.05, min([*waits, LOOK_SECONDS]))

    # --- stopping what is in the way ----------------------------------------------------------

    async def _clear(self, plan: Plan, observed: Observed) -> bool:
        """Stop and remove what the plan says; True when there was something."""
        states = {each.id: each for each in observed.containers}
        if plan.kill_pod:
            if plan.sandbox is not None:
                told = "Pod sandbox changed, it will be killed and re-created."
                self._parts.recorder.event(self.pod, "Normal", "SandboxChanged", told)
            await self._stopper.stop_pod(self.pod, observed, self._grace_seconds())
        for kill in plan.kills:
            grace = self._parts.probes.grace_seconds(kill.container_id) if kill.is_probe else None
            await self._stopper.stop(
                self.pod,
                states[kill.container_id],
                self._grace_seconds() if grace is None else grace,
                message=kill.message,
                pod_ip=self._address(observed),
            )
        for each in plan.removes:
            if not plan.kill_pod and is_living(states[each]):
                await self._stopper.stop(self.pod, states[each], 0, message="killing")
            await self._stopper.remove([each])
        return bool(plan.kill_pod or plan.kills or plan.removes)

    # --- starting -----------------------------------------------------------------------------

    async def _start(self, plan: Plan, observed: Observed) -> float | None:
        pod, parts = self.pod, self._parts
        await self._prepare()
        volumes = await self._mount()
        if plan.create_sandbox:
            sandbox = await self._starter.sandbox(pod, plan.attempt)
        else:
            assert plan.sandbox is not None  # noqa: S101  no new one is needed: there is one
            sandbox = plan.sandbox
        config = await parts.configs.sandbox(pod, sandbox.attempt)
        done = [
            await self._start_one(name, observed, sandbox, config, volumes)
            for name in plan.ephemeral
        ]
        for name in plan.init:
            done.append(await self._start_one(name, observed, sandbox, config, volumes))
            container = pod.container(name)
            if not done[-1] and not (container and container.is_sidecar):
                break
        else:
            done += [
                await self._start_one(name, observed, sandbox, config, volumes)
                for name in plan.containers
            ]
        await self._tidy(observed, sandbox)
        return 0.0 if plan.create_sandbox or any(done) else await self._told_waiting(plan, observed)

    async def _told_waiting(self, plan: Plan, observed: Observed) -> float | None:
        """Nothing could start: say so, and wait."""
        await self._report(observed)
        return self._next_start(plan)

    async def _start_one(
        self,
        name: str,
        observed: Observed,
        sandbox: Sandbox,
        config: SandboxConfig,
        volumes: MountedVolumes,
    ) -> bool:
        """Start a container, unless it has to wait; True when it started."""
        pod = self._prepared or self.pod
        container = pod.container(name)
        if container is None or not self._is_due(name):
            return False
        try:
            await self._starter.container(pod, container, observed, sandbox, config, volumes)
        except Held as held:
            self._waiting[name] = HeldBack(held.reason, held.message)
            pause = self._backoffs.setdefault(name, Backoff(FIRST_RETRY, RETRY_CAP))
            seconds = held.until - self._parts.clock() if held.until else pause.next()
            self._not_before[name] = _now() + seconds
            return False
        for known in (self._waiting, self._not_before, self._backoffs):
            known.pop(name, None)
        return True

    async def _prepare(self) -> None:
        """Make what must be there before the sandbox. Errors: NotYet."""
        self._prepared = self.pod
        try:
            await self._parts.configs.prepare(self.pod)
        except NotYet as error:
            told = f"unable to ensure pod container exists: {error.message}"
            self._parts.recorder.event(self.pod, "Warning", "FailedCreatePodContainer", told)
            raise

    async def _mount(self) -> MountedVolumes:
        """Make the volumes ready. Errors: NotYet."""
        try:
            volumes = await self._parts.volumes.mount(self.pod)
        except NotYet as error:
            self._parts.recorder.event(self.pod, "Warning", "FailedMount", error.message)
            raise
        self._is_mounted = True
        return volumes

    async def _remount(self) -> None:
        """Make the volumes of a Pod that runs known again; one that fails keeps what it shows."""
        if not self._is_mounted:
            with suppress(NotYet):
                await self._mount()
            self._is_mounted = True

    async def _tidy(self, observed: Observed, current: Sandbox) -> None:
        """Remove old runs of init containers, and sandboxes that are dead and empty."""
        inits = [each.name for each in self.pod.spec.init_containers]
        old = superseded(observed, inits)
        inhabited = {each.sandbox_id for each in observed.containers if each.id not in old}
        dead = [
            each.id
            for each in observed.sandboxes
            if each.id != current.id and not each.is_ready and each.id not in inhabited
        ]
        await self._stopper.remove(old, dead)

    # --- the end ------------------------------------------------------------------------------

    def _grace_seconds(self) -> int:
        if self._grace is not None:
            return self._grace
        if self._is_orphan:
            states = self._parts.relist.of(self.pod.uid).containers
            return max(1, grace_of(states, self.pod.spec.termination_grace_period_seconds))
        return max(1, self.pod.spec.termination_grace_period_seconds)

    async def _end(self, observed: Observed) -> float | None:
        """Stop what runs; when nothing does, clear away and tell."""
        if _has_life(observed):
            if not self._is_orphan:  # what ends is not asked any more whether it lives
                self._parts.probes.update(self.pod, observed, self._address(observed))
            await self._report(observed)
            await self._stop_all(observed)
            return 0.0
        if not self._is_settled:
            await self._settle(observed)
        if self._is_gone:
            await self._stopper.remove([each.id for each in observed.containers])
            await self._parts.configs.discard(self.pod)  # and the logs, which were read until now
            await self._stopper.remove([], [each.id for each in observed.sandboxes])
            self._forget()
        elif self.pod.is_deleting and not self._is_told:
            self._parts.statuses.finished(self.pod)
            self._is_told = True
        return None

    async def _stop_all(self, observed: Observed) -> None:
        """Stop all, within a grace that may become shorter meanwhile. Errors: RuntimeFault."""
        self._faster.clear()
        work = asyncio.ensure_future(
            self._stopper.stop_pod(self.pod, observed, self._grace_seconds())
        )
        hurry = asyncio.ensure_future(self._faster.wait())
        try:
            await asyncio.wait({work, hurry}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            hurry.cancel()
            if not work.done():
                work.cancel()
            await asyncio.wait({work, hurry})
        if work.cancelled():
            return
        error = work.exception()
        if isinstance(error, RuntimeFault) and not isinstance(error, RuntimeAway):
            told = f"error killing pod: {error.message}"
            self._parts.recorder.event(self.pod, "Warning", "FailedKillPod", told)
        work.result()

    async def _settle(self, observed: Observed) -> None:
        """Nothing runs any more: say how it ended, undo volumes, let a successor start."""
        parts, pod = self._parts, self.pod
        parts.probes.forget(pod.uid)
        await self._report(observed, is_over=True)
        self.is_ended = True
        await parts.volumes.unmount(pod.uid)
        self._is_settled = True
        self._on_ended(pod)

    def _forget(self) -> None:
        self._parts.restarts.forget(self.pod.uid)
        if not self._is_orphan:
            self._parts.statuses.forget(self.pod.uid)
        self._is_cleared = True

    # --- what is told -------------------------------------------------------------------------

    async def _report(self, observed: Observed, *, is_over: bool = False) -> JsonObject:
        """Make the Pod's status and hand it on; nobody is told of what has no Pod."""
        if not self._is_orphan:
            resizes = self._resizer
            given = resizes.given(observed)
            why = Why(
                dict(self._waiting), self._stop, self._refusal, is_over, given, resizes.pending
            )
            self.status = await self._teller.status(self.pod, observed, why)
            self._parts.statuses.set(self.pod, self.status)
        return self.status


def _has_life(observed: Observed) -> bool:
    return any(is_living(each) for each in observed.containers) or any(
        each.is_ready for each in observed.sandboxes
    )


def _now() -> float:
    return asyncio.get_running_loop().time()


def _least(one: float | None, other: float | None) -> float | None:
    known = [each for each in (one, other) if each is not None]
    return max(0.0, min(known)) if known else None
