"""Settings of CloudCore's services beside the hub."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Authorization:
    """Kubernetes' Node authorizer for what edges ask."""

    enabled: bool = True
    """False lets a node read what its Pods do not name, and its MetaServer's clients do what CloudCore may;
    Nodes, Leases, Pods and tokens are guarded always."""
    debug: bool = False
    """True logs what would be refused, and lets it pass."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dynamic:
    """The cloud's end of the edges' MetaServers."""

    enabled: bool = True
    """False refuses what they ask."""
    max_watches: int = 1_000
    """Watches of one node."""
    keep_watches: float = 300.0
    """Seconds that the watches of a node that is away are kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Router:
    """Rules between REST, the edges' MQTT and the edges' HTTP services."""

    enabled: bool = False
    """True opens the REST entry and follows Rules."""
    bind: str = "127.0.0.1:9443"
    """host:port of the REST entry; port 0 takes a free one. Beyond loopback it needs users or a token."""
    timeout: float = 60.0
    """Seconds for one delivery with its retries."""
    max_body: int = 12_582_912
    """Bytes in one request body."""
    users_file: str = ""
    """File of `user:bcrypt hash` lines for Basic authentication; empty for none."""
    token_file: str = ""
    """File that holds one bearer token and nothing else but a line's end; empty for none."""
    allowed_targets: tuple[str, ...] = ()
    """URLs that rules may send to, as prefixes; empty allows all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """CloudStream: logs, exec, attach and metrics of Pods at the edge."""

    enabled: bool = True
    """False opens neither of its listeners."""
    bind: str = "127.0.0.1:10003"
    """host:port where API servers ask, with a client certificate; port 0 takes a free one."""
    tunnel_bind: str = "127.0.0.1:10004"
    """host:port where edges connect, with theirs; port 0 takes a free one."""
    client_ca: str = ""
    """PEM file of the CAs that API servers' certificates are judged by; empty takes the CloudCore's own."""
    usage_interval: float = 15.0
    """Seconds between readings of what nodes and Pods use, for `kubectl top` at the embedded API; 0 reads
    nothing, and the API has no metrics.k8s.io."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tasks:
    """Jobs on nodes: upgrade, image pre-pull, configuration."""

    enabled: bool = True
    """False leaves the jobs to another CloudCore."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdmissionWebhook:
    """KubeEdge's admission webhook, for a cluster elsewhere; the embedded API needs none."""

    enabled: bool = False
    """True opens the listener; it asks callers for nothing and writes nothing."""
    bind: str = "127.0.0.1:9444"
    """host:port; port 0 takes a free one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Leader:
    """Several CloudCores on one cluster: which one writes things from Devices."""

    lease_seconds: float = 15.0
    """Seconds without a sign of the leader after which another one takes over."""
