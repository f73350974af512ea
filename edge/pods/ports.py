"""What the rooms of edged need of each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from edge.pods.podspec import Container, Handler, Pod
from edge.pods.runtime import (
    ContainerConfig,
    ContainerState,
    LinuxResources,
    Mount,
    Sandbox,
    SandboxConfig,
)
from gateway.errors import GatewayError
from gateway.model.json import JsonObject


class NotYet(GatewayError):
    """A step of a Pod's start cannot be done now; it is tried again with back-off.

    `reason` is shown as the container's waiting reason (`ErrImagePull`, `CreateContainerConfigError`,
    `ContainerCreating` ...), `message` says what was expected and what came.
    """

    status = 503
    code = "edge.pods.notyet"

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class NeverRuns(GatewayError):
    """This node refuses a Pod for good: it becomes `Failed` with `reason` and `message`."""

    status = 422
    code = "edge.pods.refused"

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Observed:
    """What the runtime has of one Pod, newest first. Containers carry their details (`Runtime.container`)."""

    uid: str
    sandboxes: tuple[Sandbox, ...] = ()
    containers: tuple[ContainerState, ...] = ()

    def newest(self, name: str) -> ContainerState | None:
        return next((each for each in self.containers if each.name == name), None)

    def all_of(self, name: str) -> list[ContainerState]:
        return [each for each in self.containers if each.name == name]


class Recorder(Protocol):
    """Events about Pods and the node, as the kubelet's (`source: kubelet`)."""

    def event(
        self, pod: Pod, kind: str, reason: str, message: str, container: Container | None = None
    ) -> None:
        """Tell of a Pod; `kind` is Normal or Warning. Never fails, never waits, bounded."""

    def node_event(self, kind: str, reason: str, message: str) -> None: ...


class Images(Protocol):
    """Images of containers."""

    async def ensure(self, pod: Pod, container: Container, sandbox: SandboxConfig | None) -> str:
        """Return the reference to run; pulls by policy, with the Pod's pull secrets.

        Errors: NotYet with `ErrImagePull`, `ImagePullBackOff`, `ErrImageNeverPull`, `InvalidImageName`,
                `RegistryUnavailable`.
        """


@dataclass(frozen=True, slots=True)
class MountedVolumes:
    """A Pod's volumes on this node: volume name -> folder (or file) to mount from."""

    paths: Mapping[str, str] = field(default_factory=dict)
    read_only: frozenset[str] = frozenset()


class Volumes(Protocol):
    """Volumes of Pods."""

    async def mount(self, pod: Pod) -> MountedVolumes:
        """Make all volumes of a Pod ready; may be called again at any time (also after a restart).

        Errors: NotYet (`ContainerCreating`): a ConfigMap, Secret, token or host path is not there.
        """

    def mounts(
        self, pod: Pod, container: Container, volumes: MountedVolumes, envs: Mapping[str, str]
    ) -> tuple[Mount, ...]:
        """Return the container's volume mounts, sub paths (expanded with `envs`) made and checked.

        Errors: NotYet (`CreateContainerConfigError`).
        """

    async def unmount(self, uid: str) -> None:
        """Undo all of a Pod that has ended: tmpfs unmounted, folders removed. Again: no error."""


class Configs(Protocol):
    """From a Pod to what the runtime is asked for."""

    async def sandbox(self, pod: Pod, attempt: int) -> SandboxConfig:
        """Errors: NotYet."""

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
        """`target_id`: the running container whose pid namespace an ephemeral one joins.

        Errors: NotYet with `CreateContainerConfigError` (a missing key, an image that runs as root ...).
        """

    def resources(self, pod: Pod, container: Container) -> LinuxResources:
        """Return a container's limits as the Pod asks for them now."""
        ...

    async def prepare(self, pod: Pod) -> None:
        """Make what must be there before the sandbox: cgroup with limits, log folder, /etc/hosts."""

    async def discard(self, pod: Pod) -> None:
        """Remove what `prepare` made. Again: no error."""

    async def termination_message(
        self, pod: Pod, container: Container, state: ContainerState
    ) -> str:
        """Return what an ended container left as its last words (at most 4,096 bytes; by its policy)."""


class Hooks(Protocol):
    """Lifecycle hooks."""

    async def run(
        self, pod: Pod, container: Container, container_id: str, handler: Handler, pod_ip: str
    ) -> None:
        """Errors: GatewayError with what the hook said, for an event."""


class Probes(Protocol):
    """Probes of running containers, and what they found."""

    def update(self, pod: Pod, observed: Observed, pod_ip: str) -> None:
        """Probe the running containers of a Pod from now on, cease with those that ended."""

    def forget(self, uid: str) -> None:
        """Cease to probe a Pod."""

    def is_started(self, pod: Pod, container: Container, container_id: str) -> bool:
        """True without a startup probe, or when it has succeeded."""

    def is_ready(self, pod: Pod, container: Container, container_id: str) -> bool:
        """True without a readiness probe (once started), or when it succeeds."""

    def failed(self, container_id: str) -> str | None:
        """Return why a container must be killed (`liveness` or `startup` failed, as a text), else None."""

    def grace_seconds(self, container_id: str) -> int | None:
        """The failed probe's own terminationGracePeriodSeconds, None where it has none."""


class StatusSink(Protocol):
    """Statuses on their way to the API; each patch carries the Pod's uid."""

    def set(self, pod: Pod, status: JsonObject) -> None:
        """Take a Pod's newest status: kept on disk, patched when the cloud is there, coalesced."""

    def known(self, uid: str) -> JsonObject | None:
        """Return the newest status of a Pod, also from before a restart."""

    def finished(self, pod: Pod) -> None:
        """All of a deleted Pod has ended: its last status goes first, then it is deleted with grace 0."""

    def forget(self, uid: str) -> None:
        """The Pod is gone from the API."""


@dataclass(frozen=True, slots=True)
class Running:
    """A Pod as others see it: local API, stats, eviction, services."""

    pod: Pod
    status: JsonObject
    observed: Observed


class PodView(Protocol):
    """All Pods of this node."""

    def pods(self) -> list[Running]: ...
    def find(self, namespace: str, name: str, uid: str = "") -> Running | None: ...
    def evict(self, uid: str, reason: str, message: str) -> None:
        """Stop a Pod for good: phase Failed, `reason` and `message` in its status (`Evicted` ...)."""

    def kick(self, uid: str) -> None:
        """Look at a Pod again soon (a probe's result changed, a mounted object changed)."""
