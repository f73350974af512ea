"""Sizes that the rules enforce; Ditto's defaults."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Units: bytes of compact JSON, or counts; the grains of expiry in seconds."""

    thing_bytes: int = 102_400
    policy_bytes: int = 102_400
    message_bytes: int = 256_000
    policy_imports: int = 10
    header_bytes: int = 5_120
    subjects: int = 100
    expiry_grain: float = 3_600.0
    """The expiry of a policy's subject is rounded up to a multiple of it."""
    announcement_grain: float = 60.0
    """So is the time before it at which its deletion is announced."""
    lockout_prevention: bool = True
    """False lets policies be without anyone who may change them."""


DEFAULT_LIMITS = Limits()
