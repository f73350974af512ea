"""Settings of EdgeCore."""

from __future__ import annotations

from dataclasses import dataclass, field

from gateway.config.edge_mappers import Mappers
from gateway.config.edge_services import (
    Dmi,
    EdgeStream,
    EdgeTasks,
    MetaServer,
    Plugins,
    ServiceBus,
)
from gateway.config.edge_workloads import Network, Workloads


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgeMqtt:
    """MQTT at the edge: the edge's own broker, one that is there already, or both."""

    mode: str = "internal"
    """`internal` runs the edge's own broker; `external` is a client of another one; `both` does both."""
    external: str = "127.0.0.1:1883"
    """host:port of the external broker."""
    external_client_id: str = ""
    """Client id there; empty takes `twinspan-` and the node's name."""
    external_username: str = ""
    """User name there; empty logs in without one."""
    external_password_file: str = ""
    """File with the password."""
    external_tls: bool = False
    """True connects over TLS; a password goes beyond loopback over TLS only."""
    external_ca: str = ""
    """PEM file of the CAs to trust; empty trusts the system's."""
    external_cert: str = ""
    """PEM file of the client's certificate chain; empty shows none."""
    external_key: str = ""
    """PEM file of its private key."""
    bind: str = "127.0.0.1:1884"
    """host:port; port 0 takes a free one."""
    max_packet: int = 262_144
    """Bytes in one packet."""
    max_connections: int = 1_000
    """Connected clients."""
    connect_timeout: float = 10.0
    """Seconds in which CONNECT must have arrived."""
    max_in_flight: int = 100
    """QoS 1 and 2 messages on their way from, and to, one client without an answer."""
    max_queue: int = 1_000
    """Messages that wait for one client; then the oldest QoS 0 message goes, or the client."""
    max_queued_bytes: int = 8_388_608
    """Bytes of messages that wait for all clients together."""
    max_retained: int = 10_000
    """Retained messages; more are delivered but not kept."""
    max_retained_bytes: int = 8_388_608
    """Bytes of retained messages, topics included."""
    max_subscriptions: int = 1_000
    """Subscriptions of one client."""
    max_session_expiry: float = 86_400.0
    """Seconds that the session of a client that is away is kept, whatever it asks for."""
    users_file: str = ""
    """File of `user:bcrypt hash` lines; empty lets anonymous clients in, on loopback only."""
    tls_cert: str = ""
    """PEM file of the server's certificate chain; needed beyond loopback."""
    tls_key: str = ""
    """PEM file of its private key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgeHub:
    """The edge's end of the cloud-edge link."""

    server: str = ""
    """host:port of CloudHub's WebSocket listener."""
    https_server: str = ""
    """host:port of CloudHub's HTTPS listener."""
    keepalive: float = 15.0
    """Seconds between keep-alives."""
    reconnect_cap: float = 15.0
    """Longest pause between tries, seconds; the first is under one second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spool:
    """Telemetry and events that wait on the edge's disk for the cloud."""

    max_telemetry_bytes: int = 67_108_864
    """Bytes of telemetry; above it the oldest goes and is counted."""
    max_event_bytes: int = 268_435_456
    """Bytes of events; above it new ones are refused, none is dropped."""
    min_free_bytes: int = 16_777_216
    """Bytes of the disk that stay free (a quarter of a small one): below it events are refused and telemetry
    takes the place of older telemetry, so that what the cloud has taken can still be deleted."""
    window: int = 100
    """Messages on their way to the cloud without an answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgeTraces:
    """Spans of an edge that exports none itself (`observe.traces.otlp`): they go to its CloudCore, if it
    is ours."""

    over_hub: bool = True
    """False keeps them here."""
    max_queue: int = 512
    """Spans that wait in memory; more are dropped and counted."""
    per_second: float = 20.0
    """Spans a second at most, behind everything else on the link."""
    interval: float = 5.0
    """Seconds between two messages."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Edge:
    """EdgeCore."""

    node_name: str = ""
    """This node's name; empty takes the host name."""
    mqtt: EdgeMqtt = field(default_factory=EdgeMqtt)
    hub: EdgeHub = field(default_factory=EdgeHub)
    spool: Spool = field(default_factory=Spool)
    metaserver: MetaServer = field(default_factory=MetaServer)
    servicebus: ServiceBus = field(default_factory=ServiceBus)
    dmi: Dmi = field(default_factory=Dmi)
    stream: EdgeStream = field(default_factory=EdgeStream)
    tasks: EdgeTasks = field(default_factory=EdgeTasks)
    plugins: Plugins = field(default_factory=Plugins)
    traces: EdgeTraces = field(default_factory=EdgeTraces)
    mappers: Mappers = field(default_factory=Mappers)
    workloads: Workloads = field(default_factory=Workloads)
    network: Network = field(default_factory=Network)
    telemetry_map: dict[str, str] = field(default_factory=dict)
    """More topics to send northbound: MQTT topic filter -> `telemetry` or `event`."""
