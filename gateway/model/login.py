"""What a peer brings to prove that it is a device; nothing in it is checked yet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class TlsPeer:
    """What TLS says about the other end.

    Shape:  `certificate` is DER, proved to be the peer's by the handshake but trusted by nobody yet;
            `server_name` is the host that the peer asked for (SNI).
    """

    certificate: bytes | None = None
    server_name: str | None = None


NO_TLS = TlsPeer()
NO_CONTEXT: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """One attempt to log in, by one or several means.

    Shape:  None where the peer brought nothing. `token` is a JSON Web Token; `claimed` is (tenant, auth-id)
            as client identifier or address name them, for tokens that do not.
    """

    peer: TlsPeer = NO_TLS
    username: str | None = None
    password: bytes | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    claimed: tuple[str, str] | None = None
    context: Mapping[str, str] = field(default_factory=lambda: NO_CONTEXT)
    """What else is known about the attempt, e.g. `client-id`: credentials may ask for a certain value."""
