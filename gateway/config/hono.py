"""Settings of the Hono-compatible service."""

from __future__ import annotations

from dataclasses import dataclass, field

from gateway.config.hono_services import Services
from gateway.config.internal import Internal
from gateway.config.remote import Remote


@dataclass(frozen=True, slots=True, kw_only=True)
class Registry:
    """Device registry management API."""

    bind: str = "127.0.0.1:28080"
    """host:port; port 0 takes a free one."""
    tls_bind: str = "127.0.0.1:28443"
    """host:port of the TLS listener; used where a certificate is at hand."""
    authentication_required: bool = True
    """False opens `/v1` to everyone who reaches the port."""
    max_payload: int = 16_000
    """Bytes in one request body; larger ones are answered with 413."""
    max_bcrypt_cost: int = 10
    """Highest cost factor of a bcrypt hash that the registry takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpAdapter:
    """HTTP adapter for devices."""

    bind: str = "127.0.0.1:18080"
    """host:port; port 0 takes a free one."""
    tls_bind: str = "127.0.0.1:18443"
    """host:port of the TLS listener; used where a certificate is at hand."""
    authentication_required: bool = True
    """False lets a PUT that names tenant and device do without credentials."""
    max_payload: int = 2_048
    """Bytes in one request body; larger ones are answered with 413."""
    idle_timeout: float = 75.0
    """Seconds that a kept-alive connection may be silent."""
    request_timeout: float = 10.0
    """Seconds in which a whole request must have arrived."""
    max_connections: int = 10_000
    """Open sockets; more are closed at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MqttAdapter:
    """MQTT adapter for devices."""

    bind: str = "127.0.0.1:1883"
    """host:port; port 0 takes a free one."""
    max_payload: int = 2_048
    """Bytes in one PUBLISH payload; a larger packet ends the connection."""
    max_connections: int = 10_000
    """Devices; more are refused with CONNACK 0x9C (3.1.1: 3)."""
    authentication_required: bool = True
    """False lets devices in without credentials; they name tenant and device in every topic."""
    tls_bind: str = "127.0.0.1:8883"
    """host:port of the TLS listener, where a server certificate is configured."""
    connect_timeout: float = 10.0
    """Seconds in which CONNECT must have arrived."""
    max_in_flight: int = 100
    """Uploads of one device without an outcome; above it reading pauses."""
    send_to_device_timeout: float = 1.0
    """Seconds to wait for a device's PUBACK of a command."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AmqpAdapter:
    """AMQP 1.0 adapter for devices."""

    bind: str = "127.0.0.1:5672"
    """host:port; port 0 takes a free one."""
    tls_bind: str = "127.0.0.1:5671"
    """host:port of the TLS listener; used where a certificate is at hand."""
    authentication_required: bool = True
    """False also lets devices in without credentials (SASL ANONYMOUS)."""
    max_payload: int = 2_048
    """Bytes in one message, announced as the links' max-message-size."""
    max_frame: int = 16_384
    """Bytes in one frame."""
    idle_timeout: float = 60.0
    """Seconds of silence after which a device's connection ends."""
    max_connections: int = 10_000
    """Devices; more are closed with amqp:unauthorized-access."""
    prefetch: int = 30
    """Credits that a device's sender gets."""
    send_to_device_timeout: float = 1.0
    """Seconds to wait for a device's outcome of a command."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CoapAdapter:
    """CoAP adapter for devices: plain where they need no credentials, else DTLS (extra `coap`)."""

    enabled: bool = True
    """False runs no CoAP adapter."""
    bind: str = "127.0.0.1:5683"
    """host:port (UDP) of plain CoAP; used where `authentication_required` is false."""
    tls_bind: str = "127.0.0.1:5684"
    """host:port (UDP) of CoAP over DTLS; used where the extra `coap` is installed."""
    tls: str = "auto"
    """DTLS: `auto` where the extra `coap` is installed, `required` does not start without it, or `off`."""
    authentication_required: bool = True
    """False opens plain CoAP to devices that name tenant and device in the path."""
    max_payload: int = 2_048
    """Bytes in one request's body, all blocks together; larger ones are answered with 4.13."""
    timeout_to_ack: float = 0.5
    """Seconds to wait for an answer before the request is acknowledged without; 0 at once, -1 never."""
    max_requests: int = 10_000
    """Requests without an answer, waiting ones included; more are answered with 5.03."""
    max_remembered: int = 20_000
    """Answers kept for requests that come twice; above it the oldest is forgotten."""
    max_sessions: int = 2_000
    """DTLS sessions; above it the one that is idle for longest ends, if that is a minute at least."""
    session_idle_timeout: float = 1_800.0
    """Seconds of silence after which a DTLS session ends; the device makes a new one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraAdapter:
    """LoRaWAN adapter for network servers."""

    enabled: bool = False
    """True listens."""
    bind: str = "127.0.0.1:18081"
    """host:port; port 0 takes a free one."""
    tls_bind: str = "127.0.0.1:18444"
    """host:port of the TLS listener; used where a certificate is at hand."""
    max_payload: int = 16_384
    """Bytes in one request body; larger ones are answered with 413."""
    idle_timeout: float = 75.0
    """Seconds that a kept-alive connection may be silent."""
    request_timeout: float = 10.0
    """Seconds in which a whole request must have arrived."""
    max_connections: int = 1_000
    """Open sockets; more are closed at once."""
    command_timeout: float = 5.0
    """Seconds in which a network server must have taken a command."""
    command_hosts: tuple[str, ...] = ()
    """Host names that commands may be posted to; empty allows what gateways' command endpoints name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SigfoxAdapter:
    """Sigfox adapter for callbacks of the Sigfox backend."""

    enabled: bool = False
    """True listens."""
    bind: str = "127.0.0.1:18082"
    """host:port; port 0 takes a free one."""
    tls_bind: str = "127.0.0.1:18445"
    """host:port of the TLS listener; used where a certificate is at hand."""
    max_payload: int = 2_048
    """Bytes in one request body; larger ones are answered with 413."""
    idle_timeout: float = 75.0
    """Seconds that a kept-alive connection may be silent."""
    request_timeout: float = 10.0
    """Seconds in which a whole request must have arrived."""
    max_connections: int = 1_000
    """Open sockets; more are closed at once."""
    ttd_when_ack_required: int = 20
    """Seconds that a device with `ack=true` waits for a command; 0 waits for none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Northbound:
    """AMQP 1.0 endpoint for applications."""

    bind: str = "127.0.0.1:15672"
    """host:port; port 0 takes a free one."""
    tls_bind: str = "127.0.0.1:15671"
    """host:port of the TLS listener; used where a certificate is at hand."""
    max_frame: int = 65_536
    """Bytes in one frame."""
    max_message: int = 1_048_576
    """Bytes in one message that an application sends."""
    idle_timeout: float = 60.0
    """Seconds of silence after which an application's connection ends."""
    max_connections: int = 1_000
    """Applications."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Events:
    """Durable events."""

    max_bytes: int = 1_073_741_824
    """Bytes on disk; above it new events are refused with 503, none is dropped."""
    max_bytes_per_tenant: int = 268_435_456
    """Bytes of `max_bytes` that one tenant may use, above it its events are refused with 503; 0 for all."""
    max_ttl: float = 0.0
    """Seconds after which an undelivered event expires; 0 keeps it until it is consumed."""
    read_ahead: int = 500
    """Events that one consumer's cursor holds in memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """Certificate of the TLS listeners (registry, adapters and the northbound endpoint)."""

    enabled: bool = True
    """False runs the plain listeners only."""
    certificate: str = ""
    """PEM file with the chain; empty makes our own in `<data-dir>/tls`, to be trusted by its `ca.crt`."""
    key: str = ""
    """PEM file with the key of `certificate`."""
    hosts: tuple[str, ...] = ()
    """Names and addresses, beside loopback, in a certificate of our own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kafka:
    """Apache Kafka as messaging of tenants; used where `bootstrap_servers` is given."""

    bootstrap_servers: str = ""
    """host:port of some brokers, separated by commas; empty goes without Kafka."""
    common_client_config: dict[str, str] = field(default_factory=dict)
    """Kafka properties of all clients, e.g. `security.protocol`, `sasl.*`; Java names or librdkafka's."""
    producer_config: dict[str, str] = field(default_factory=dict)
    """Kafka properties of the producer alone, e.g. `delivery.timeout.ms`, `linger.ms`."""
    consumer_config: dict[str, str] = field(default_factory=dict)
    """Kafka properties of the consumer of commands alone."""
    max_queue: int = 50_000
    """Records that wait for the broker; more uploads are answered with 503."""
    max_commands: int = 500
    """Commands without an outcome; above it no more are fetched."""
    delivery_failures: bool = True
    """False sends no delivery failure notifications for commands."""
    partitions: int = 0
    """Partitions of a tenant's topics that we create; 0 leaves creating them to the broker."""
    replication_factor: int = 1
    """Copies of each partition of topics that we create."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredCommands:
    """Commands kept on disk for devices that are away, of tenants or devices that ask for it (`ext`)."""

    max_ttl: float = 604_800.0
    """Seconds that a command is kept at most; 0 keeps none, whatever tenants and devices say."""
    max_per_device: int = 100
    """Commands that wait for one device; more are refused as without this option."""
    max_bytes_per_tenant: int = 16_777_216
    """Bytes on disk of one tenant's commands; more are refused as without this option."""
    max_bytes: int = 134_217_728
    """Bytes on disk of all tenants' commands; more are refused as without this option."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hono:
    """The Hono-compatible service."""

    mode: str = "embedded"
    """embedded, or remote: the tenants of `remote.gateways` are relayed to an existing Hono."""
    remote: Remote = field(default_factory=Remote)
    registry: Registry = field(default_factory=Registry)
    http: HttpAdapter = field(default_factory=HttpAdapter)
    mqtt: MqttAdapter = field(default_factory=MqttAdapter)
    amqp: AmqpAdapter = field(default_factory=AmqpAdapter)
    lora: LoraAdapter = field(default_factory=LoraAdapter)
    sigfox: SigfoxAdapter = field(default_factory=SigfoxAdapter)
    coap: CoapAdapter = field(default_factory=CoapAdapter)
    northbound: Northbound = field(default_factory=Northbound)
    events: Events = field(default_factory=Events)
    kafka: Kafka = field(default_factory=Kafka)
    internal: Internal = field(default_factory=Internal)
    stored_commands: StoredCommands = field(default_factory=StoredCommands)
    workers: int = 0
    """Processes that run the MQTT, HTTP and AMQP adapters, sharing their ports; 0 runs them in this one."""
    services: Services = field(default_factory=Services)
    tls: Tls = field(default_factory=Tls)
    connection_events: str = "logging"
    """Who hears of devices that connect over MQTT, AMQP: events (applications), logging or none (the log)."""
    send_message_timeout: float = 1.0
    """Seconds to wait for a consumer's outcome before a device is told 503."""
    messaging_type: str = "kafka"
    """Messaging of tenants without `ext.messaging-type`: kafka (where it is set up) or amqp."""
