"""Settings of a Ditto elsewhere (`ditto.mode: remote`)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteThings:
    """The Ditto that keeps the things of Devices, reached over its HTTP API and WebSocket."""

    url: str = ""
    """https://host[:port] or http://host[:port], without path."""
    username: str = ""
    """User name for Basic authentication; empty for none."""
    password_file: str = ""
    """File that holds the password and nothing else but a line's end."""
    token_file: str = ""
    """File that holds a bearer token; read again when it changes."""
    subject: str = ""
    """The authorization subject that these credentials are there; stands in the policies that are made.
    Empty asks the remote.
    """
    ca: str = ""
    """PEM file of the CAs that its certificate is judged by; empty takes the system's."""
    max_rate: float = 100.0
    """HTTP requests a second."""
    ready_without_remote: bool = True
    """False lets `/readiness` say 503 while the remote is away."""
