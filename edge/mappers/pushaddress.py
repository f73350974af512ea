"""Where a database is, as a Device's `addr` says it: `host:port`, or `tls://host:port`."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from urllib.parse import urlsplit

from gateway.errors import Rejected

PLAIN, SECURE = ("tcp",), ("tls", "ssl")


@dataclass(frozen=True, slots=True)
class Address:
    """A server, and whether it is reached over TLS."""

    host: str
    port: int
    is_secure: bool

    @property
    def is_loopback(self) -> bool:
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    def require_secrecy(self, field: str, what: str) -> None:
        """Errors: Rejected where `what` would leave this machine in plain text."""
        if not self.is_secure and not self.is_loopback:
            raise Rejected(f"{field}: {what} would go to {self.host} in plain text: say tls://")


def read_address(field: str, value: object, port: int) -> Address:
    """Read an address; `port` where it has none. Errors: Rejected, naming the field."""
    text = value if isinstance(value, str) else ""
    try:
        parts = urlsplit(text if "://" in text else f"tcp://{text}")
        given = parts.port
    except ValueError as error:
        raise Rejected(f"{field}: {error}") from error
    is_bare = not parts.username and not parts.path.strip("/") and not parts.query
    if parts.scheme not in (*PLAIN, *SECURE) or not parts.hostname or not is_bare:
        raise Rejected(f"{field}: expected host:port or tls://host:port")
    return Address(parts.hostname, given or port, parts.scheme in SECURE)
