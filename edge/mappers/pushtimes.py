"""Times as pushed samples carry them."""

from __future__ import annotations

from datetime import UTC, datetime


def clock_text(at: int) -> str:
    """Return milliseconds since the epoch as `yyyy-mm-dd hh:mm:ss`, in UTC."""
    return datetime.fromtimestamp(at / 1_000, UTC).strftime("%Y-%m-%d %H:%M:%S")
