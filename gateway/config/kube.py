"""Settings of the Kubernetes API: the embedded server, or the way to a cluster."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class KubeHttps:
    """The API's listener."""

    bind: str = "127.0.0.1:6443"
    """host:port; port 0 takes a free one."""
    max_body: int = 3_145_728
    """Bytes in one request body."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KubeAudit:
    """The log of who asked the API for what: one `audit.k8s.io/v1` Event a line."""

    path: str = ""
    """File to append to, `-` for standard output; empty: no audit log."""
    level: str = "Metadata"
    """`Metadata`, `Request` (with what was sent) or `RequestResponse`; Secrets and tokens: metadata alone."""
    max_size: int = 104_857_600
    """Bytes after which the file is renamed and a new one begun."""
    max_backups: int = 10
    """Renamed files that are kept."""
    queue: int = 10_000
    """Events that wait to be written; one more is dropped and counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kube:
    """The Kubernetes API: `https` and `watch_*` are of the embedded server, the others lead to a cluster."""

    mode: str = "embedded"
    """`embedded`: a server of our own in this process; `cluster`: an existing one."""
    kubeconfig: str = ""
    """File with the way to the cluster; without one a Pod's ServiceAccount, else `$KUBECONFIG`, else
    `~/.kube/config`."""
    context: str = ""
    """Context of the kubeconfig; empty: its current one."""
    install_crds: bool = False
    """True brings CloudCore's CustomResourceDefinitions to the cluster at each start."""
    controllers: tuple[str, ...] = ("*",)
    """Control loops that run beside the embedded server, as `kube-controller-manager --controllers` names
    them: `*` for all, `name` for one, `-name` for not that one."""
    https: KubeHttps = field(default_factory=KubeHttps)
    token_file: str = ""
    """File with bearer tokens of users of the embedded server: `token,user,uid,"group1,group2"` a line."""
    audit: KubeAudit = field(default_factory=KubeAudit)
    anonymous: bool = True
    """False answers 401 to callers who show neither certificate nor token, whatever they ask."""
    service_network: str = "10.96.0.0/16"
    """Where Services of the embedded API get their addresses (ClusterIP) from."""
    node_ports: str = "30000-32767"
    """Where Services of type NodePort and LoadBalancer get their ports from: first-last."""
    watch_window: int = 10_000
    """Changes kept for watches to resume from; older resourceVersions are answered with 410."""
    watch_window_bytes: int = 4_194_304
    """Bytes that these changes take, for each kind; the latest 100 are kept in any case."""
    watch_buffer: int = 1_000
    """Events that wait for one watcher; one more ends its watch."""
