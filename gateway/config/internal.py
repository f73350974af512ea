"""Settings of Hono's internal services, for protocol adapters that run elsewhere."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Internal:
    """Authentication, registry, command router and messaging over AMQP 1.0, for Hono's adapters."""

    enabled: bool = False
    """True listens at `bind` and `tls_bind`."""
    bind: str = "127.0.0.1:15673"
    """host:port; port 0 takes a free one."""
    tls_bind: str = "127.0.0.1:15674"
    """host:port of the TLS listener; used where a certificate is at hand."""
    socket: str = ""
    """Path of a Unix socket for processes of the same user, who need no password there; empty for none."""
    permissions: str = ""
    """Hono's permissions file (JSON: roles, users); with `--demo` empty means Hono's sample adapters."""
    client_ca: str = ""
    """PEM file with the authorities of components' certificates (SASL EXTERNAL); empty asks for none."""
    signing_key: str = ""
    """PEM file with the key of tokens, EC (P-256, P-384) or RSA; empty makes one at each start."""
    shared_secret: str = ""
    """File with a secret of 32 bytes at least that tokens are signed with (HS256), instead of a key."""
    token_issuer: str = "https://hono.eclipse.org/auth-server"  # noqa: S105  who issues them
    """Claim `iss` of tokens."""
    token_audience: str = "hono-components"  # noqa: S105  whom they are for
    """Claim `aud` of tokens."""
    token_lifetime: float = 600.0
    """Seconds that a token is good for."""
    max_age: int = 180
    """Seconds that adapters may keep what the registry tells them; 0 forbids it."""
    max_frame: int = 16_384
    """Bytes in one frame."""
    max_message: int = 1_048_576
    """Bytes in one message of an adapter."""
    idle_timeout: float = 20.0
    """Seconds of silence after which a component's connection ends; it is told half of that."""
    max_connections: int = 1_000
    """Components; more are closed with amqp:resource-limit-exceeded."""
