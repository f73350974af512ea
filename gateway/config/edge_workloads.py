"""Settings of edged: Pods of this node, run by a container runtime."""

from __future__ import annotations

from dataclasses import dataclass, field

from gateway.config.switch import AUTO, Switch


def _hard() -> dict[str, str]:
    return {
        "memory.available": "100Mi",
        "nodefs.available": "10%",
        "nodefs.inodesFree": "5%",
        "imagefs.available": "15%",
        "imagefs.inodesFree": "5%",
        "pid.available": "10%",
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Workloads:
    """Pods of this node."""

    enabled: Switch = AUTO
    """`auto`: when a container runtime with CRI answers at start; `on`: always, the node is not ready
    without one; `off`: never."""
    runtime: str = ""
    """CRI socket, `unix:///run/containerd/containerd.sock`; empty takes the first that is there of
    containerd's and CRI-O's."""
    root: str = ""
    """Folder of the Pods' volumes; empty takes `<data-dir>/edge/pods`."""
    logs: str = "/var/log/pods"
    """Folder of the containers' logs."""
    manifests: str = "/etc/twinspan/manifests"
    """Folder (or file) of Pods that this node runs by itself, one in each file; empty or absent: none."""
    allowed_unsafe_sysctls: tuple[str, ...] = ()
    """Sysctls that Pods may set beside the safe ones, such as `net.core.somaxconn` or `kernel.msg*`."""
    bind: str = "127.0.0.1:10350"
    """host:port of the kubelet's API, loopback only; port 0 takes a free one."""
    parallel_pulls: int = 3
    """Images pulled at a time; more wait."""
    registry_credentials: str = ""
    """File in the form of Docker's `config.json` with this node's own credentials of registries; they are
    tried after those of a Pod's `imagePullSecrets`."""
    image_gc_high: int = 85
    """Percent of the images' disk in use from which images that nobody uses are removed; 100: never."""
    image_gc_low: int = 80
    """Percent down to which they are removed."""
    image_gc_min_age: float = 120.0
    """Seconds for which an image stays that is new on this node."""
    image_gc_max_age: float = 0.0
    """Seconds without use after which an image goes whatever the disk; 0: never."""
    log_bytes: int = 10 * 1024 * 1024
    """Bytes of a container's log from which it is rotated."""
    log_files: int = 5
    """Files kept of one container's log, the current one among them; at least 2."""
    max_pods: int = 110
    """Pods at a time; more are refused with `OutOfpods`."""
    labels: dict[str, str] = field(default_factory=dict)
    """More labels of this Node."""
    system_reserved: dict[str, str] = field(default_factory=dict)
    """Amounts kept from Pods for the system: `cpu`, `memory`, `ephemeral-storage`."""
    kube_reserved: dict[str, str] = field(default_factory=dict)
    """The same for EdgeCore and the container runtime; both are taken off what is allocatable."""
    eviction_hard: dict[str, str] = field(default_factory=_hard)
    """Signal -> amount or percentage; with less available a Pod has to go at once. What is set here replaces
    all that stands here by itself, as with the kubelet."""
    eviction_soft: dict[str, str] = field(default_factory=dict)
    """The same, when it lasts for the time of `eviction_soft_grace`."""
    eviction_soft_grace: dict[str, str] = field(default_factory=dict)
    """Signal -> time, such as `1m30s`; each soft threshold needs one."""
    eviction_minimum_reclaim: dict[str, str] = field(default_factory=dict)
    """Signal -> amount or percentage to be available on top before eviction ends."""
    eviction_interval: float = 10.0
    """Seconds between looks at what is available."""
    cluster_dns: str = "169.254.20.10"
    """IPv4 address of the cluster's DNS as Pods of this node are told it; EdgeCore answers there itself where
    `edge.network.dns` allows it. Empty: Pods get the node's own resolvers."""
    cluster_domain: str = "cluster.local"
    """Domain of the cluster, behind `svc` and `pod`."""
    cgroup_root: str = "edgepods"
    """Name of the cgroup of all Pods; two edges of one machine need two. Empty: Pods have no groups."""
    cgroup_driver: str = "auto"
    """`cgroupfs` or `systemd`, as the container runtime has it; `auto` reads containerd's configuration."""
    pod_pids: int = 0
    """Processes of one Pod at a time; 0 for no limit."""
    seccomp_profiles: str = ""
    """Folder of the seccomp profiles that Pods name; empty takes `<data-dir>/edge/seccomp`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """Cluster DNS and Services for Pods of this node; only where workloads run."""

    dns: Switch = AUTO
    """`auto`: answer on `edge.workloads.cluster_dns` where the rights are there, else one warning; `on`:
    the node does not start without; `off`: another one answers there."""
    services: Switch = AUTO
    """The same for the addresses of Services; `off` where kube-proxy or a mesh runs on this machine."""
    max_services: int = 2_000
    """Ports of Services that are listened on; of more the last by name are left out, with a warning."""
    max_connections: int = 2_000
    """TCP connections through Services at a time, half of them by one client; more are hung up on."""
    max_clients: int = 2_000
    """UDP peers of Services at a time; the one that was silent longest goes."""
    udp_idle: float = 60.0
    """Seconds of silence after which a UDP peer is forgotten."""
    upstream: str = ""
    """`host[:port]` of resolvers for all other names, comma-separated; empty takes the machine's."""
    pod_cidr: str = ""
    """More subnets of Pods, comma-separated, that may ask the DNS; those of the CNI configuration may."""
