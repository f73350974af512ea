"""Settings of CloudCore."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class HubListener:
    """One of CloudHub's listeners."""

    bind: str
    """host:port; port 0 takes a free one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CloudHub:
    """The cloud's end of the cloud-edge link."""

    wss: HubListener = field(default_factory=lambda: HubListener(bind="127.0.0.1:10000"))
    https: HubListener = field(default_factory=lambda: HubListener(bind="127.0.0.1:10002"))
    node_limit: int = 1_000
    """Connected nodes."""
    keepalive_timeout: float = 60.0
    """Seconds of silence after which a node's session ends; the edge sends every 15 s."""
    queue: int = 1_000
    """Messages that wait for one node; the latest version of an object replaces older ones."""
    max_frame: int = 4_194_304
    """Bytes in one envelope."""
    node_deletion_revokes: bool = True
    """True refuses certificates issued before a Node was deleted; False is KubeEdge's behaviour."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cloud:
    """CloudCore."""

    hub: CloudHub = field(default_factory=CloudHub)
    default_tenant: str = "DEFAULT_TENANT"
    """Tenant of telemetry from a node that names none by annotation twinspan.io/tenant."""
    advertise: tuple[str, ...] = ()
    """Names and addresses that go into the server certificate beside loopback."""
