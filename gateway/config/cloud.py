"""Settings of CloudCore."""

from __future__ import annotations

from dataclasses import dataclass, field

from gateway.config.cloud_services import (
    AdmissionWebhook,
    Authorization,
    Dynamic,
    Leader,
    Router,
    Stream,
    Tasks,
)


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
    """Connected nodes; one more is refused with a named reason."""
    keepalive_timeout: float = 30.0
    """Seconds without a keep-alive after which a node's session ends; the edge sends one every 15 s."""
    acknowledge_timeout: float = 5.0
    """Seconds that an edge has to acknowledge an object before it is sent again (five times, then a rest)."""
    write_timeout: float = 30.0
    """Seconds that a node may take to read what waits for it; then its session ends."""
    sync_interval: float = 5.0
    """Seconds between two comparisons of what nodes have with what they should have."""
    queue: int = 1_000
    """Messages that wait for one node; the latest version of an object replaces older ones."""
    pending: int = 256
    """Messages of one node in work; reading from it pauses while there are more."""
    max_frame: int = 8_388_608
    """Bytes in one envelope."""
    certificate_days: int = 365
    """Days that an edge node's certificate is valid."""
    token_hours: float = 24.0
    """Hours that the join token in the cluster's `tokensecret` is valid; it is renewed at half of that."""
    node_deletion_revokes: bool = True
    """True refuses certificates issued before a Node was deleted; False is KubeEdge's behaviour."""
    ca_file: str = ""
    """File of the CA's certificate, PEM or DER; it goes before the Secret `casecret`, and into it."""
    ca_key_file: str = ""
    """File of the CA's EC key, without a password."""
    cert_file: str = ""
    """File of the server's certificate, issued by the CA, with every name of `cloud.advertise`."""
    key_file: str = ""
    """File of the server's EC key, without a password."""
    authorization: Authorization = field(default_factory=Authorization)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cloud:
    """CloudCore."""

    hub: CloudHub = field(default_factory=CloudHub)
    dynamic: Dynamic = field(default_factory=Dynamic)
    router: Router = field(default_factory=Router)
    stream: Stream = field(default_factory=Stream)
    tasks: Tasks = field(default_factory=Tasks)
    leader: Leader = field(default_factory=Leader)
    admission: AdmissionWebhook = field(default_factory=AdmissionWebhook)
    default_tenant: str = "DEFAULT_TENANT"
    """Tenant of telemetry from a node that names none by annotation twinspan.io/tenant."""
    advertise: tuple[str, ...] = ()
    """Names and addresses that go into the server certificate beside loopback. The first names this CloudCore
    in the cluster: of several CloudCores each needs one of its own, by which the others reach it."""
