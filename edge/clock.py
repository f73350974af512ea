"""The edge's clock and the ids of what it makes; the pure parts get both as arguments."""

from __future__ import annotations

import time
import uuid
from datetime import UTC, datetime

from gateway.wire.cloudedge.envelope import Stamp


def now_ms() -> int:
    """Milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


def stamp() -> Stamp:
    """Make id and time of a new message."""
    return Stamp(str(uuid.uuid4()), now_ms())


def rfc3339(ms: int) -> str:
    """Write an instant as Kubernetes objects do: `2026-11-22T20:05:00Z`."""
    return datetime.fromtimestamp(ms // 1_000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def rfc3339_micro(ms: int) -> str:
    """Write an instant as a Lease does, with microseconds."""
    return datetime.fromtimestamp(ms / 1_000, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
