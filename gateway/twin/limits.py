"""Sizes that the rules enforce; Ditto's defaults."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Units: bytes of compact JSON, or counts."""

    thing_bytes: int = 102_400
    policy_bytes: int = 102_400
    message_bytes: int = 256_000
    policy_imports: int = 10
    header_bytes: int = 5_120
    subjects: int = 100


DEFAULT_LIMITS = Limits()
