"""Settings of EdgeCore's services beside hub, broker and spool."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class MetaServer:
    """The Kubernetes API at the edge."""

    enabled: bool = True
    """False opens no listener and keeps no records for it."""
    bind: str = "127.0.0.1:10550"
    """host:port, loopback only; port 0 takes a free one."""
    auth: str = "strict"
    """`strict`: anonymous reads but of Secrets; `rbac`: every request needs a right; `kubeedge`: open."""
    max_body: int = 3_145_728
    """Bytes in one request body."""
    max_watches: int = 200
    """Watches at a time."""
    max_connections: int = 100
    """Connections at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceBus:
    """HTTP services at the edge: calls from the cloud's rules, and their own requests to REST targets."""

    enabled: bool = False
    """True serves the router's calls of services, and listens for their requests."""
    bind: str = "127.0.0.1:9060"
    """host:port where services of this machine ask; plain HTTP; port 0 takes a free one."""
    timeout: float = 60.0
    """Seconds for one call."""
    max_body: int = 5_242_880
    """Bytes in one body."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dmi:
    """Mappers that are processes of their own, over DMI (gRPC on Unix sockets)."""

    enabled: bool = False
    """True opens the socket."""
    socket: str = ""
    """Path of EdgeCore's socket; empty takes `<data-dir>/edge/dmi.sock`."""
    mappers_dir: str = ""
    """Directory that mappers' sockets must be in; empty takes `<data-dir>/edge/mappers`."""
    numbers: str = "float"
    """How JSON numbers reach mappers: `float` (32 bits, as KubeEdge) or `exact` (64 bits)."""
    calls_per_second: float = 1.0
    """Calls of mappers each second, all together, beyond the burst; KubeEdge's limit is 1."""
    burst: int = 100
    """Calls of mappers at once; more are refused with RESOURCE_EXHAUSTED."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgeStream:
    """The edge's end of the stream tunnel."""

    enabled: bool = True
    """False makes no tunnel."""
    server: str = ""
    """host:port of CloudStream's tunnel; empty takes port 10004 on the hub's host."""
    kubelet: str = ""
    """host:port of the kubelet API that requests through the tunnel go to, and nowhere else; empty takes
    our own, without workloads 127.0.0.1:10350."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgeTasks:
    """Jobs of the cloud on this node: image pre-pull, settings, upgrade."""

    enabled: bool = True
    """False refuses them all."""
    upgrade_command: str = ""
    """Absolute path of an executable that installs the version given as its one argument; empty for none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugins:
    """Entry points of other packages that are loaded."""

    modules: tuple[str, ...] = ()
    """Names in the group `twinspan.modules`: modules that run inside EdgeCore."""
    mappers: tuple[str, ...] = ()
    """Names in the group `twinspan.mappers`."""
