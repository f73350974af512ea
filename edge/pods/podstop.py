"""Ends containers: hook before the end, grace, and sidecars last in the reverse of their order.

Source: Kubernetes, termination of Pods; kubelet 1.36.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence

from edge.pods.podspec import Container, Pod
from edge.pods.ports import Hooks, Observed, Recorder
from edge.pods.runtime import ContainerState, Runtime, RuntimeFault, RuntimeNotFound, State
from gateway.errors import GatewayError

log = logging.getLogger(__name__)

LEAST_GRACE = 2
"""Seconds that a container always has."""
ORPHAN_GRACE = "io.kubernetes.pod.terminationGracePeriod"
"""Annotation of containers: the grace of a Pod that nobody knows any more."""


class Stopper:
    """Stops containers and sandboxes of one Pod after another, or side by side."""

    def __init__(self, runtime: Runtime, hooks: Hooks, recorder: Recorder) -> None:
        self._runtime = runtime
        self._hooks = hooks
        self._recorder = recorder

    async def stop_pod(self, pod: Pod, observed: Observed, grace: int) -> None:
        """Stop all containers, then all sandboxes. Errors: RuntimeFault: again later."""
        await self.stop_containers(pod, observed, grace)
        for sandbox in observed.sandboxes:
            try:
                await self._runtime.stop_sandbox(sandbox.id)
            except RuntimeNotFound:
                continue

    async def stop_containers(self, pod: Pod, observed: Observed, grace: int) -> None:
        """Stop what runs, side by side. Errors: RuntimeFault, after all were tried."""
        living = [each for each in observed.containers if is_living(each)]
        order = Order(pod, [each.name for each in living])
        faults: list[RuntimeFault] = []

        async def stop(state: ContainerState) -> None:
            try:
                await self.stop(pod, state, grace, order=order, pod_ip=address_of(observed))
            except RuntimeFault as fault:
                faults.append(fault)

        async with asyncio.TaskGroup() as group:
            for state in living:
                group.create_task(stop(state))
        if faults:
            raise faults[0]

    async def stop(
        self,
        pod: Pod,
        state: ContainerState,
        grace: int,
        *,
        message: str = "",
        order: Order | None = None,
        pod_ip: str = "",
    ) -> None:
        """Stop one container. Errors: RuntimeFault."""
        container = pod.container(state.name) or Container(name=state.name)
        told = message or f"Stopping container {state.name}"
        self._recorder.event(pod, "Normal", "Killing", told, container)
        time = asyncio.get_running_loop().time
        ends = time() + grace
        await self._before(pod, container, state, grace, pod_ip)
        if order is not None:
            await order.turn(state.name, ends - time())
        try:
            await self._runtime.stop_container(state.id, max(LEAST_GRACE, int(ends - time() + 0.5)))
        except RuntimeNotFound:
            log.debug("a container that was to end is gone", extra={"container_id": state.id})
        if order is not None:
            order.ended(state.name)

    async def _before(
        self, pod: Pod, container: Container, state: ContainerState, grace: int, pod_ip: str
    ) -> None:
        """Run the hook before the end; it takes from the container's grace."""
        hook = container.lifecycle.pre_stop if container.lifecycle else None
        if hook is None or grace <= 0 or state.state is not State.RUNNING:
            return
        try:
            async with asyncio.timeout(grace):
                await self._hooks.run(pod, container, state.id, hook, pod_ip)
            return
        except TimeoutError:
            log.info("a hook took longer than its grace", extra={"container_id": state.id})
        except GatewayError as error:
            log.info("a hook failed", extra={"container_id": state.id, "cause": error.message})
        self._recorder.event(pod, "Warning", "FailedPreStopHook", "PreStopHook failed", container)

    async def remove(self, containers: Iterable[str], sandboxes: Sequence[str] = ()) -> None:
        """Remove what has ended. Errors: RuntimeFault."""
        for each in containers:
            await self._quietly_remove(each)
        for each in sandboxes:
            try:
                await self._runtime.stop_sandbox(each)
                await self._runtime.remove_sandbox(each)
            except RuntimeNotFound:
                continue

    async def _quietly_remove(self, container_id: str) -> None:
        try:
            await self._runtime.remove_container(container_id)
        except RuntimeNotFound:
            return


class Order:
    """Who waits for whom: a sidecar for all containers, and for the sidecars after it."""

    def __init__(self, pod: Pod, running: Iterable[str]) -> None:
        self._left = set(running)
        self._changed = asyncio.Event()
        self._before: dict[str, frozenset[str]] = {}
        earlier = frozenset(each.name for each in pod.spec.containers)
        for container in reversed(pod.spec.init_containers):
            if container.is_sidecar:
                self._before[container.name] = earlier
                earlier |= {container.name}

    async def turn(self, name: str, seconds: float) -> None:
        """Wait until it is this container's turn, at most so long."""
        before = self._before.get(name, frozenset())
        try:
            async with asyncio.timeout(max(0.0, seconds)):
                while before & self._left:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            return

    def ended(self, name: str) -> None:
        self._left.discard(name)
        self._changed.set()


def address_of(observed: Observed) -> str:
    """Return the address of a Pod's newest sandbox, "" where it has none."""
    newest = observed.sandboxes[0] if observed.sandboxes else None
    return newest.ips[0] if newest is not None and newest.ips else ""


def is_living(state: ContainerState) -> bool:
    """True for what may run."""
    return state.state in (State.RUNNING, State.UNKNOWN)


def grace_of(states: Iterable[ContainerState], otherwise: int) -> int:
    """Return the grace of a Pod that is known from its containers alone."""
    texts = (each.annotations.get(ORPHAN_GRACE, "") for each in states)
    found = [int(text) for text in texts if text.isdigit()]
    return max(found) if found else otherwise
