"""The container runtime as edged uses it: a port in the words of CRI v1, without its library.

`edge.pods.cri` speaks it to containerd or CRI-O. Times are Unix nanoseconds (0: not yet), sizes are bytes,
limits of 0 are none. Source: Kubernetes CRI v1 (`api.proto`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from gateway.errors import GatewayError

POD_NAME, POD_NAMESPACE, POD_UID = (
    "io.kubernetes.pod.name",
    "io.kubernetes.pod.namespace",
    "io.kubernetes.pod.uid",
)
CONTAINER_NAME = "io.kubernetes.container.name"
NODE_LABEL = "twinspan.io/node"
"""Label of all our sandboxes and containers: the node's name. What lacks it, or names another node, is not
ours and is never touched."""


class RuntimeFault(GatewayError):
    """The runtime refused or failed a call; `message` is its own words."""

    status = 502
    code = "edge.runtime.failed"
    rpc = ""
    """The call's gRPC status as Go writes it, such as `DeadlineExceeded`; "" where there was none."""

    @property
    def in_full(self) -> str:
        """The words with the call's status before them, as most messages of the kubelet have them."""
        return f"rpc error: code = {self.rpc} desc = {self.message}" if self.rpc else self.message


class RuntimeAway(RuntimeFault):
    """The runtime cannot be reached, or did not answer in time."""

    status = 503
    code = "edge.runtime.away"


class RuntimeLacks(RuntimeFault):
    """The runtime does not know the call (UNIMPLEMENTED)."""

    status = 501
    code = "edge.runtime.lacks"


class RuntimeNotFound(RuntimeFault):
    """There is no such sandbox, container or image."""

    status = 404
    code = "edge.runtime.notfound"


class State(Enum):
    """Of a container."""

    CREATED = "created"
    RUNNING = "running"
    EXITED = "exited"
    UNKNOWN = "unknown"


class Namespace(Enum):
    """Whose Linux namespace a container uses. Source: CRI NamespaceMode."""

    POD = 0
    CONTAINER = 1
    NODE = 2
    TARGET = 3


class Propagation(Enum):
    PRIVATE = 0
    HOST_TO_CONTAINER = 1
    BIDIRECTIONAL = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeInfo:
    """What the runtime is, and how it is: conditions with reason and message where they are false."""

    name: str
    version: str
    api_version: str
    is_ready: bool
    is_network_ready: bool
    runtime_message: str = ""
    network_message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Auth:
    """Credentials for one registry. Source: CRI AuthConfig."""

    username: str = ""
    password: str = field(default="", repr=False)
    auth: str = field(default="", repr=False)
    server_address: str = ""
    identity_token: str = field(default="", repr=False)
    registry_token: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """An image on this node. `user`: uid or user name that it runs as, empty for none said."""

    id: str
    tags: tuple[str, ...] = ()
    digests: tuple[str, ...] = ()
    size: int = 0
    uid: int | None = None
    username: str = ""
    pinned: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Seccomp:
    """`kind`: `RuntimeDefault`, `Unconfined` or `Localhost` (then `path` names the profile on this node)."""

    kind: str = "RuntimeDefault"
    path: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Namespaces:
    network: Namespace = Namespace.POD
    pid: Namespace = Namespace.CONTAINER
    ipc: Namespace = Namespace.POD
    target_id: str = ""
    """Container whose pid namespace is meant by TARGET."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PortMapping:
    protocol: str
    container_port: int
    host_port: int
    host_ip: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dns:
    servers: tuple[str, ...] = ()
    searches: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class LinuxResources:
    """Units: shares, microseconds, bytes; 0 for no limit. `unified`: cgroup v2 keys."""

    cpu_shares: int = 0
    cpu_quota: int = 0
    cpu_period: int = 0
    memory_limit: int = 0
    oom_score_adj: int = 0
    cpuset_cpus: str = ""
    cpuset_mems: str = ""
    hugepage_limits: tuple[tuple[str, int], ...] = ()
    unified: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxSecurity:
    namespaces: Namespaces = Namespaces()
    run_as_user: int | None = None
    run_as_group: int | None = None
    readonly_rootfs: bool = False
    supplemental_groups: tuple[int, ...] = ()
    privileged: bool = False
    seccomp: Seccomp | None = None
    selinux: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxConfig:
    """Of RunPodSandbox. With the node's network `hostname` must be empty."""

    name: str
    uid: str
    namespace: str
    attempt: int
    hostname: str = ""
    log_directory: str = ""
    dns: Dns | None = None
    ports: tuple[PortMapping, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    cgroup_parent: str = ""
    sysctls: Mapping[str, str] = field(default_factory=dict)
    security: SandboxSecurity = SandboxSecurity()
    overhead: LinuxResources | None = None
    resources: LinuxResources | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    container_path: str
    host_path: str
    readonly: bool = False
    selinux_relabel: bool = False
    propagation: Propagation = Propagation.PRIVATE


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    container_path: str
    host_path: str
    permissions: str = "rwm"


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerSecurity:
    capabilities_add: tuple[str, ...] = ()
    capabilities_drop: tuple[str, ...] = ()
    privileged: bool = False
    namespaces: Namespaces = Namespaces()
    run_as_user: int | None = None
    run_as_username: str = ""
    run_as_group: int | None = None
    readonly_rootfs: bool = False
    supplemental_groups: tuple[int, ...] = ()
    no_new_privs: bool = False
    masked_paths: tuple[str, ...] = ()
    readonly_paths: tuple[str, ...] = ()
    seccomp: Seccomp | None = None
    apparmor: Seccomp | None = None
    selinux: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerConfig:
    """Of CreateContainer. `command` replaces the image's entrypoint, `args` its command; `log_path` is
    relative to the sandbox's `log_directory`."""

    name: str
    attempt: int
    image: str
    """What the runtime runs: the reference that a pull or ImageStatus gave."""
    user_image: str = ""
    """The image as the Pod names it."""
    command: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    working_dir: str = ""
    envs: tuple[tuple[str, str], ...] = ()
    mounts: tuple[Mount, ...] = ()
    devices: tuple[Device, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    log_path: str = ""
    stdin: bool = False
    stdin_once: bool = False
    tty: bool = False
    resources: LinuxResources = LinuxResources()
    security: ContainerSecurity = ContainerSecurity()
    stop_signal: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sandbox:
    """A sandbox as listed (`ips` is filled by `sandbox` alone)."""

    id: str
    name: str
    namespace: str
    uid: str
    attempt: int
    is_ready: bool
    created_at: int
    ips: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerState:
    """A container. As listed, the fields from `started_at` on are empty: `container` fills them."""

    id: str
    sandbox_id: str
    name: str
    attempt: int
    state: State
    created_at: int
    image: str = ""
    image_ref: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    started_at: int = 0
    finished_at: int = 0
    exit_code: int = 0
    reason: str = ""
    message: str = ""
    log_path: str = ""
    image_id: str = ""
    """Digest reference (`imageID` of a status)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerStats:
    """Units: bytes, nanoseconds of CPU, `at` Unix ns. None: not told."""

    id: str
    labels: Mapping[str, str]
    at: int
    cpu_nanoseconds: int | None = None
    memory_working_set: int | None = None
    memory_usage: int | None = None
    memory_rss: int | None = None
    memory_page_faults: int | None = None
    memory_major_page_faults: int | None = None
    rootfs_bytes: int | None = None
    rootfs_inodes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FilesystemUsage:
    mountpoint: str
    used_bytes: int
    used_inodes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """What ExecSync answered."""

    stdout: bytes
    stderr: bytes
    exit_code: int


class Runtime(Protocol):
    """A container runtime. Removals of what is gone are no error.

    Errors: (of all) RuntimeFault and its children.
    Lists hold what carries `NODE_LABEL` with this node's name only.
    """

    async def info(self) -> RuntimeInfo: ...
    async def run_sandbox(self, config: SandboxConfig, handler: str = "") -> str: ...
    async def stop_sandbox(self, sandbox_id: str) -> None: ...
    async def remove_sandbox(self, sandbox_id: str) -> None: ...
    async def sandbox(self, sandbox_id: str) -> Sandbox: ...
    async def sandboxes(self) -> list[Sandbox]: ...
    async def create_container(
        self, sandbox_id: str, config: ContainerConfig, sandbox: SandboxConfig
    ) -> str: ...
    async def start_container(self, container_id: str) -> None: ...
    async def stop_container(self, container_id: str, grace_seconds: int) -> None: ...
    async def remove_container(self, container_id: str) -> None: ...
    async def container(self, container_id: str) -> ContainerState: ...
    async def containers(self) -> list[ContainerState]: ...
    async def update_resources(self, container_id: str, resources: LinuxResources) -> None: ...
    async def reopen_log(self, container_id: str) -> None: ...
    async def exec_sync(
        self, container_id: str, command: Sequence[str], timeout_seconds: float
    ) -> Ran:
        """Errors: also `TimeoutError` when the command took longer."""

    async def exec_url(
        self,
        container_id: str,
        command: Sequence[str],
        *,
        stdin: bool,
        stdout: bool,
        stderr: bool,
        tty: bool,
    ) -> str:
        """Return the one-time URL of the runtime's streaming server."""

    async def attach_url(
        self, container_id: str, *, stdin: bool, stdout: bool, stderr: bool, tty: bool
    ) -> str: ...
    async def port_forward_url(self, sandbox_id: str, ports: Sequence[int]) -> str: ...
    async def container_stats(self) -> list[ContainerStats]: ...
    def events(self) -> AsyncIterator[str]:
        """Yield uids of Pods in which something happened. Errors: RuntimeLacks where there are none."""

    async def image(self, reference: str) -> Image | None:
        """Return a present image by name, tag or id; None when absent."""

    async def images(self) -> list[Image]: ...
    async def pull(
        self, reference: str, auth: Auth | None = None, sandbox: SandboxConfig | None = None
    ) -> str:
        """Pull and return the image's reference."""

    async def remove_image(self, reference: str) -> None: ...
    async def image_filesystems(self) -> list[FilesystemUsage]: ...
    async def sandbox_image(self) -> str:
        """Return the image of sandboxes, as the runtime's settings name it; "" where it does not say."""

    async def close(self) -> None: ...
