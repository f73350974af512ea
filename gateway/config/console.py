"""Settings of the console, the web page on Ditto's port."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Console:
    """The web page at `/` of `ditto.http.bind`, and what it asks."""

    enabled: bool = True
    """False serves neither the page nor its API."""
    session_seconds: float = 43_200.0
    """Seconds after which one has to sign in again."""
    idle_seconds: float = 1_800.0
    """Seconds without a request after which a session ends; an open stream is none."""
    max_sessions: int = 1_000
    """Sessions at a time; above it the one that was used longest ago ends."""
    max_streams: int = 200
    """Open streams of events and messages, and followed logs; more are answered with 503."""
    prometheus: str = ""
    """URL of a Prometheus that scrapes this process, for plots of more than an hour; empty for none."""
