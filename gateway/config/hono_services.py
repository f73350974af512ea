"""Where adapters find Hono's services when the registry and the router are not in their own process."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """One AMQP 1.0 endpoint of services; an empty address is that of `messaging`."""

    address: str = ""
    """host:port, or `unix:` and a path."""
    hostname: str = ""
    """Virtual host to ask for, e.g. `hono-internal`; empty asks for none."""
    username: str = ""
    """User for SASL PLAIN, e.g. `mqtt-adapter@HONO`; empty goes by certificate, or anonymously."""
    password: str = field(default="", repr=False)
    """Password of `username`."""
    tls: bool = False
    """True speaks TLS; the server's certificate is always checked."""
    ca: str = ""
    """PEM file with the authorities of the server's certificate; empty takes the system's."""
    certificate: str = ""
    """PEM file with our own certificate (SASL EXTERNAL)."""
    key: str = ""
    """PEM file with the key of `certificate`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """Services of an existing Hono, for `twinspan adapters`."""

    messaging: Peer = field(default_factory=Peer)
    """Messaging network: telemetry, events, command responses, commands, change notifications."""
    registry: Peer = field(default_factory=Peer)
    """Tenant, Device Registration and Credentials API."""
    command_router: Peer = field(default_factory=Peer)
    """Command Router API."""
    request_timeout: float = 1.0
    """Seconds to wait for a service's answer before a device is told 503."""
