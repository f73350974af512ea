"""Starts what a plan names: a sandbox, a container. Who cannot start is told why, and until when it waits."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from edge.pods.parts import Parts
from edge.pods.podspec import Container, Pod
from edge.pods.podstop import Stopper
from edge.pods.ports import MountedVolumes, NotYet, Observed
from edge.pods.restarts import crash_loop_message
from edge.pods.runtime import (
    ContainerConfig,
    ContainerState,
    RuntimeAway,
    RuntimeFault,
    Sandbox,
    SandboxConfig,
    State,
)
from gateway.errors import GatewayError

log = logging.getLogger(__name__)

CRASH_LOOP = "CrashLoopBackOff"
TRIES = 2
"""How often one attempt is tried before its number is given up: the runtime may keep a name for ever."""


class Held(GatewayError):
    """A container does not start now: `reason` and the message are its waiting state.

    `until`: Unix seconds before which it is of no use to try again; 0 where nobody knows.
    """

    status = 503
    code = "edge.pods.held"

    def __init__(self, reason: str, message: str, until: float = 0.0) -> None:
        super().__init__(message)
        self.reason = reason
        self.until = until


class Starter:
    """Starts sandboxes and containers of one Pod."""

    def __init__(self, parts: Parts, stopper: Stopper) -> None:
        self._parts = parts
        self._stopper = stopper
        self._tries: dict[tuple[str, int], int] = {}
        """Container (or "") and attempt -> tries that failed."""

    # --- sandboxes ----------------------------------------------------------------------------

    async def sandbox(self, pod: Pod, attempt: int) -> Sandbox:
        """Make a new sandbox. Errors: RuntimeFault; NotYet."""
        attempt = self._free("", attempt)
        async with self._parts.slots:
            try:
                config = await self._parts.configs.sandbox(pod, attempt)
                made = await self._parts.runtime.run_sandbox(config)
            except RuntimeAway:
                raise
            except (RuntimeFault, NotYet) as fault:
                self._failed("", attempt)
                told = f"Failed to create pod sandbox: {fault.message}"
                self._parts.recorder.event(pod, "Warning", "FailedCreatePodSandBox", told)
                raise
        return await self._parts.runtime.sandbox(made)

    # --- containers ---------------------------------------------------------------------------

    async def container(
        self,
        pod: Pod,
        container: Container,
        observed: Observed,
        sandbox: Sandbox,
        config: SandboxConfig,
        volumes: MountedVolumes,
    ) -> None:
        """Start a container. Errors: Held; RuntimeAway."""
        last = _last_ended(observed, container.name)
        now = self._parts.clock()
        self._hold_back(pod, container, last, now)
        image = await self._image(pod, container, config)
        attempt = await self._attempt(container, observed, config)
        try:
            made = await self._parts.configs.container(
                pod,
                container,
                attempt=attempt,
                image=image,
                sandbox=sandbox,
                volumes=volumes,
                target_id=_target(container, observed),
            )
        except NotYet as error:
            self._tell_failed(pod, container, error.message)
            raise Held(error.reason, error.message) from error
        self._parts.restarts.started(pod, container, last, now)
        await self._run(pod, container, sandbox, made, config)

    def _hold_back(
        self, pod: Pod, container: Container, last: ContainerState | None, now: float
    ) -> None:
        waiting = self._parts.restarts.waiting(pod, container, last, now)
        if waiting is None:
            return
        namespace, name = pod.key
        told = f"Back-off restarting failed container {container.name} in pod {name}_{namespace}({pod.uid})"
        self._parts.recorder.event(pod, "Warning", "BackOff", told, container)
        message = crash_loop_message(pod, container, waiting.seconds)
        raise Held(CRASH_LOOP, message, waiting.until)

    async def _image(self, pod: Pod, container: Container, config: SandboxConfig) -> str:
        try:
            return await self._parts.images.ensure(pod, container, config)
        except NotYet as error:
            self._tell_failed(pod, container, error.reason)
            raise Held(error.reason, error.message) from error

    async def _attempt(
        self, container: Container, observed: Observed, config: SandboxConfig
    ) -> int:
        """Return which run of a container this is; what was made and never ran is no run."""
        newest = observed.newest(container.name)
        if newest is None:
            folder = Path(config.log_directory, container.name)
            wanted = await asyncio.to_thread(_after_logs, folder) if config.log_directory else 0
        else:
            wanted = newest.attempt + (newest.state is not State.CREATED)
        return self._free(container.name, wanted)

    async def _run(
        self,
        pod: Pod,
        container: Container,
        sandbox: Sandbox,
        made: ContainerConfig,
        config: SandboxConfig,
    ) -> None:
        runtime, tell = self._parts.runtime, self._parts.recorder.event
        try:
            container_id = await runtime.create_container(sandbox.id, made, config)
        except RuntimeAway:
            raise
        except RuntimeFault as fault:
            self._failed(container.name, made.attempt)
            self._tell_failed(pod, container, fault.message)
            raise Held("CreateContainerError", fault.message) from fault
        tell(pod, "Normal", "Created", "Container created", container)
        try:
            await runtime.start_container(container_id)
        except RuntimeAway:
            raise
        except RuntimeFault as fault:
            self._tell_failed(pod, container, fault.message)
            raise Held("RunContainerError", fault.message) from fault
        tell(pod, "Normal", "Started", "Container started", container)
        self._tries.clear()
        await self._after_start(pod, container, container_id, sandbox)

    async def _after_start(
        self, pod: Pod, container: Container, container_id: str, sandbox: Sandbox
    ) -> None:
        """Run the hook after the start; a container whose hook fails does not live."""
        hook = container.lifecycle.post_start if container.lifecycle else None
        if hook is None:
            return
        pod_ip = sandbox.ips[0] if sandbox.ips else ""
        try:
            await self._parts.hooks.run(pod, container, container_id, hook, pod_ip)
        except RuntimeAway:
            raise
        except GatewayError as error:
            told = "PostStartHook failed"
            self._parts.recorder.event(pod, "Warning", "FailedPostStartHook", told, container)
            state = await self._parts.runtime.container(container_id)
            grace = pod.spec.termination_grace_period_seconds
            await self._stopper.stop(pod, state, grace, message="FailedPostStartHook")
            raise Held("PostStartHookError", error.message) from error

    def _tell_failed(self, pod: Pod, container: Container, message: str) -> None:
        self._parts.recorder.event(pod, "Warning", "Failed", f"Error: {message}", container)

    # --- attempts -----------------------------------------------------------------------------

    def _free(self, name: str, attempt: int) -> int:
        """Return the first attempt from this one on that did not fail too often."""
        while self._tries.get((name, attempt), 0) >= TRIES:
            attempt += 1
        return attempt

    def _failed(self, name: str, attempt: int) -> None:
        self._tries[name, attempt] = self._tries.get((name, attempt), 0) + 1


def _last_ended(observed: Observed, name: str) -> ContainerState | None:
    return next((each for each in observed.all_of(name) if each.state is State.EXITED), None)


def _target(container: Container, observed: Observed) -> str:
    """Return the running container that an ephemeral one looks into."""
    state = observed.newest(container.target_container_name)
    return state.id if state is not None and state.state is State.RUNNING else ""


def _after_logs(folder: Path) -> int:
    """Return the number after the last run's log: a runtime that forgot its containers starts no log anew."""
    try:
        names = [each.name.partition(".")[0] for each in folder.iterdir()]
    except OSError:
        return 0
    return max((int(name) + 1 for name in names if name.isdigit()), default=0)
