"""Settings of the relay to an existing Hono (`hono.mode: remote`)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteGateway:
    """The gateway device that a tenant of ours is at the remote Hono."""

    tenant: str
    """Tenant here whose telemetry, events and commands are relayed."""
    username: str = ""
    """`auth-id@tenant` at the remote; empty where a client certificate says it all."""
    password: str = ""
    """Password of `username`; better given as `password_file`."""
    password_file: str = ""
    """File that holds the password and nothing else but a line's end."""
    certificate: str = ""
    """PEM file with the client's chain, for a login by certificate (with TLS)."""
    key: str = ""
    """PEM file with the key of `certificate`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Remote:
    """An existing Hono that takes what devices of some tenants upload, and sends their commands."""

    address: str = ""
    """amqps://host:5671 or amqp://host:5672 (extra `amqp`), mqtts://host:8883 or mqtt://host:1883."""
    ca: str = ""
    """PEM file with the authorities that the remote's certificate is judged by; empty takes the system's."""
    server_name: str = ""
    """Name that the remote's certificate must have, also its SNI; empty takes the address's host."""
    gateways: tuple[RemoteGateway, ...] = ()
    """One for each tenant that is relayed; other tenants keep our own northbound endpoint."""
    commands: bool = True
    """False does not ask the remote for commands."""
    mqtt_version: int = 5
    """MQTT version, 5 or 3 (3.1.1); with 3 a refusal is known only from the remote's error topic."""
    window: int = 100
    """Messages without an outcome; one of them at most for each device and kind."""
    connect_timeout: float = 10.0
    """Seconds in which the remote must have let us in."""
    answer_timeout: float = 30.0
    """Seconds without an outcome of a message after which the connection is made anew."""
    keep_alive: float = 20.0
    """Seconds after which we show that we are there; twice that in silence ends the connection."""
    reconnect_cap: float = 30.0
    """Seconds that the pause between two tries to connect grows to; jittered."""
    max_telemetry_bytes: int = 268_435_456
    """Bytes of telemetry on disk, for each tenant; see `telemetry_when_full`."""
    max_event_bytes: int = 268_435_456
    """Bytes of events on disk, for each tenant; above it events are refused with 503."""
    max_telemetry_age: float = 86_400.0
    """Seconds after which telemetry that the remote did not take is dropped; 0 keeps it."""
    max_event_age: float = 0.0
    """Seconds after which an event that was not taken is dropped, beside its own TTL; 0 keeps it."""
    telemetry_when_full: str = "drop_oldest"
    """What gives way when telemetry has no room: drop_oldest, or refuse (503 for the new one)."""
    ready_without_remote: bool = True
    """False lets `/readiness` say 503 while the remote is away."""
