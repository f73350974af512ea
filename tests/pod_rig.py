"""A node's Pods on a runtime in memory, with rooms that do what they are told, on a clock that jumps.

`PodRig` is what outlives a process (the runtime, what is on disk); `rig.process()` is one life of edged.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from edge.pods.containerstatuses import HeldBack
from edge.pods.edged import Edged
from edge.pods.health import RuntimeHealth
from edge.pods.parts import Parts
from edge.pods.podresources import Machine, container_resources
from edge.pods.podspec import Container, Handler, Pod, read_pod
from edge.pods.ports import MountedVolumes, NeverRuns, NotYet, Observed
from edge.pods.relist import Relist
from edge.pods.resizes import ASKED, asked_text
from edge.pods.runtime import (
    ContainerConfig,
    ContainerState,
    LinuxResources,
    Mount,
    Sandbox,
    SandboxConfig,
    SandboxSecurity,
)
from edge.pods.spechash import HASH, spec_hash
from gateway.errors import GatewayError
from gateway.model.json import JsonObject
from gateway.wire.cloudedge.names import Operation
from gateway.wire.cloudedge.subjects import Subject
from gateway.wire.cloudedge.to_edge import ObjectChanged
from tests.fake_runtime import FakeRuntime
from tests.virtual_time import VirtualLoop, run_virtually

START = 1_700_000_000.0


def a_container(name: str = "c", **fields: Any) -> JsonObject:
    return {"name": name, "image": "app:1", **fields}


def a_pod(name: str = "p", uid: str = "u1", **spec: Any) -> JsonObject:
    """Return a Pod; `spec` are fields of its spec, one container `c` unless said otherwise."""
    return {
        "metadata": {"name": name, "namespace": "default", "uid": uid},
        "spec": {"containers": [a_container()], "terminationGracePeriodSeconds": 30, **spec},
        "status": {"phase": "Pending"},
    }


def deleted(pod: JsonObject, grace: int = 30) -> JsonObject:
    """Return a Pod as it is once somebody deleted it."""
    metadata = pod["metadata"]
    assert isinstance(metadata, dict)
    marks: JsonObject = {
        "deletionTimestamp": "2026-01-01T00:00:00Z",
        "deletionGracePeriodSeconds": grace,
    }
    return {**pod, "metadata": {**metadata, **marks}}


class FakeRooms:
    """Configs, Volumes, Images, Hooks, Probes, StatusSink and Recorder in one: all is noted."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str]] = []
        """Reason and message."""
        self.statuses: dict[str, JsonObject] = {}
        self.history: dict[str, list[JsonObject]] = {}
        self.ended: list[str] = []
        """Uids of which `finished` was told."""
        self.mounted: set[str] = set()
        self.prepared: set[str] = set()
        self.not_yet: dict[str, NotYet] = {}
        """Container (or "volumes") -> why it cannot be had."""
        self.failed_probes: dict[str, str] = {}
        self.probed: dict[str, Pod] = {}
        """Pods as the probes know them."""
        self.probe_grace: int | None = None
        self.unstarted: set[str] = set()
        """Containers whose startup probe has not succeeded."""
        self.hooks: list[str] = []
        self.on_hook: Callable[[str], Awaitable[None]] | None = None
        self.refused: NeverRuns | None = None
        self.oom: frozenset[str] = frozenset()
        self.no_room: HeldBack | None = None

    # --- Recorder -----------------------------------------------------------------------------

    def event(
        self, pod: Pod, kind: str, reason: str, message: str, container: Container | None = None
    ) -> None:
        self.events.append((reason, message))

    def node_event(self, kind: str, reason: str, message: str) -> None:
        self.events.append((reason, message))

    def told(self, reason: str) -> list[str]:
        """Return the messages of all events of a reason."""
        return [message for why, message in self.events if why == reason]

    # --- StatusSink ---------------------------------------------------------------------------

    def set(self, pod: Pod, status: JsonObject) -> None:
        self.statuses[pod.uid] = status
        self.history.setdefault(pod.uid, []).append(status)

    def known(self, uid: str) -> JsonObject | None:
        return self.statuses.get(uid)

    def finished(self, pod: Pod) -> None:
        self.ended.append(pod.uid)

    # --- Volumes ------------------------------------------------------------------------------

    async def mount(self, pod: Pod) -> MountedVolumes:
        if "volumes" in self.not_yet:
            raise self.not_yet["volumes"]
        self.mounted.add(pod.uid)
        return MountedVolumes()

    def mounts(
        self, pod: Pod, container: Container, volumes: MountedVolumes, envs: Mapping[str, str]
    ) -> tuple[Mount, ...]:
        return ()

    async def unmount(self, uid: str) -> None:
        self.mounted.discard(uid)

    # --- Configs ------------------------------------------------------------------------------

    async def sandbox(self, pod: Pod, attempt: int) -> SandboxConfig:
        namespace, name = pod.key
        return SandboxConfig(
            name=name,
            uid=pod.uid,
            namespace=namespace,
            attempt=attempt,
            security=SandboxSecurity(),
        )

    async def container(
        self,
        pod: Pod,
        container: Container,
        *,
        attempt: int,
        image: str,
        sandbox: Sandbox,
        volumes: MountedVolumes,
        target_id: str = "",
    ) -> ContainerConfig:
        if container.name in self.not_yet:
            raise self.not_yet[container.name]
        grace = str(pod.spec.termination_grace_period_seconds)
        notes = {
            HASH: spec_hash(container),
            "io.kubernetes.pod.terminationGracePeriod": grace,
            ASKED: asked_text(pod, container.name),
        }
        return ContainerConfig(
            name=container.name,
            attempt=attempt,
            image=image,
            user_image=container.image,
            annotations=notes,
        )

    def resources(self, pod: Pod, container: Container) -> LinuxResources:
        return container_resources(pod, container, Machine(memory=1 << 30))

    def room(self, pod: Pod) -> HeldBack | None:
        return self.no_room

    async def prepare(self, pod: Pod) -> None:
        self.prepared.add(pod.uid)

    async def discard(self, pod: Pod) -> None:
        self.prepared.discard(pod.uid)

    async def termination_message(
        self, pod: Pod, container: Container, state: ContainerState
    ) -> str:
        return ""

    # --- Images -------------------------------------------------------------------------------

    async def ensure(self, pod: Pod, container: Container, sandbox: SandboxConfig | None) -> str:
        if f"image of {container.name}" in self.not_yet:
            raise self.not_yet[f"image of {container.name}"]
        return container.image

    # --- Hooks --------------------------------------------------------------------------------

    async def run(
        self, pod: Pod, container: Container, container_id: str, handler: Handler, pod_ip: str
    ) -> None:
        self.hooks.append(container.name)
        if self.on_hook is not None:
            await self.on_hook(container.name)

    # --- Probes -------------------------------------------------------------------------------

    def update(self, pod: Pod, observed: Observed, pod_ip: str) -> None:
        """Nothing is probed: tests say what was found."""
        self.probed[pod.uid] = pod

    def is_started(self, pod: Pod, container: Container, container_id: str) -> bool:
        return container.name not in self.unstarted

    def is_ready(self, pod: Pod, container: Container, container_id: str) -> bool:
        return True

    def failed(self, container_id: str) -> str | None:
        return self.failed_probes.get(container_id)

    def grace_seconds(self, container_id: str) -> int | None:
        return self.probe_grace

    def forget(self, uid: str) -> None:
        """Of probes and of statuses: nothing is kept that matters."""

    # --- admission ----------------------------------------------------------------------------

    def admit(self, pod: Pod) -> None:
        if self.refused is not None:
            raise self.refused


class FakeMeta:
    """MetaManager's disk, and what the cloud sends."""

    def __init__(self) -> None:
        self.stored: dict[str, JsonObject] = {}
        self.taker: Any = None

    def on_kind(self, _kind: str, taker: Any) -> None:
        self.taker = taker

    async def list(self, _kind: str) -> list[JsonObject]:
        await asyncio.sleep(0)
        return [*self.stored.values()]

    def delete_meta(self, key: str, _uid: str, done: Callable[[object], None]) -> None:
        self.stored.pop(key, None)
        done(True)

    def send(self, operation: Operation, item: JsonObject) -> None:
        pod = read_pod(item)
        namespace, name = pod.key
        key = f"{namespace}/pod/{name}"
        if operation is Operation.DELETE:
            self.stored.pop(key, None)
        else:
            self.stored[key] = item
        if self.taker is not None:
            change = ObjectChanged(Subject(namespace, "pod", name), operation, item, "1", "edge")
            self.taker.object_changed(change, None)


@dataclass
class PodRig:
    """What outlives a process."""

    loop: VirtualLoop
    runtime: FakeRuntime = field(default_factory=FakeRuntime)
    rooms: FakeRooms = field(default_factory=FakeRooms)
    meta: FakeMeta = field(default_factory=FakeMeta)
    edged: Edged | None = None

    def __post_init__(self) -> None:
        self.runtime.clock = self.clock

    def clock(self) -> float:
        return START + self.loop.time()

    def build(self) -> Edged:
        rooms: Any = self.rooms
        parts = Parts(
            runtime=self.runtime,
            relist=Relist(self.runtime),
            health=RuntimeHealth(self.runtime),
            configs=rooms,
            volumes=rooms,
            images=rooms,
            hooks=rooms,
            probes=rooms,
            statuses=rooms,
            recorder=rooms,
            admit=rooms.admit,
            room=rooms.room,
            host_ips=lambda: ("192.0.2.7",),
            oom_killed=lambda: self.rooms.oom,
            clock=self.clock,
        )
        meta: Any = self.meta
        return Edged(meta, meta, parts)

    @asynccontextmanager
    async def process(self) -> AsyncIterator[Edged]:
        """Run edged for the length of the block; its end is that of the process."""
        edged = self.edged = self.build()
        ready = asyncio.Event()
        task = asyncio.create_task(edged.run(ready.set))
        self.runtime.on_cut = task.cancel
        try:
            wait = asyncio.create_task(ready.wait())
            await asyncio.wait({task, wait}, return_when=asyncio.FIRST_COMPLETED)
            wait.cancel()
            yield edged
        finally:
            self.runtime.on_cut = _nothing
            task.cancel()
            await asyncio.wait({task})
            if not task.cancelled() and task.exception() is not None:
                raise task.exception() or GatewayError("")
            self.meta.taker = None

    # --- what the cloud does ------------------------------------------------------------------

    def apply(self, pod: JsonObject) -> None:
        self.meta.send(Operation.UPDATE, pod)

    def delete(self, pod: JsonObject, grace: int = 30) -> None:
        """As `kubectl delete`."""
        self.meta.send(Operation.UPDATE, deleted(pod, grace))

    def remove(self, pod: JsonObject, grace: int = 30) -> None:
        """The Pod is no more in the API."""
        self.meta.send(Operation.DELETE, deleted(pod, grace))

    # --- what can be seen ---------------------------------------------------------------------

    async def until(self, check: Callable[[], object], *, seconds: float = 400.0) -> None:
        """Let time pass until `check` is true."""
        end = self.loop.time() + seconds
        while not check():
            assert self.loop.time() < end, f"did not happen: {self.runtime.calls[-12:]}"
            await asyncio.sleep(0.05)

    def phase(self, uid: str = "u1") -> object:
        return self.rooms.statuses.get(uid, {}).get("phase")

    def state(self, container: str = "c", uid: str = "u1", key: str = "state") -> JsonObject:
        """Return the state of a container in its Pod's status."""
        status = self.rooms.statuses.get(uid, {})
        for group in ("containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses"):
            found = status.get(group)
            for row in found if isinstance(found, list) else []:
                if isinstance(row, dict) and row["name"] == container:
                    state = row[key]
                    return state if isinstance(state, dict) else {"value": state}
        return {}

    def waits_for(self, reason: str, container: str = "c", uid: str = "u1") -> bool:
        waiting = self.state(container, uid).get("waiting")
        return isinstance(waiting, dict) and waiting.get("reason") == reason

    @property
    def is_clean(self) -> bool:
        """True when nothing is left of any Pod."""
        return not (
            self.runtime.rooms or self.runtime.boxes or self.rooms.mounted or self.rooms.prepared
        )


def on_a_rig(work: Callable[[PodRig], Awaitable[None]]) -> None:
    """Run a test on a rig of its own."""

    async def run(loop: VirtualLoop) -> None:
        await work(PodRig(loop))

    run_virtually(run)


def _nothing() -> None:
    """No process to end."""
