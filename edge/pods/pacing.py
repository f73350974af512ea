"""How many may go at a time. Pure: the time is an argument."""

from __future__ import annotations


class Bucket:
    """`burst` at once, then `rate` each second. Times are seconds of any clock that does not go back."""

    def __init__(self, rate: float, burst: float) -> None:
        self._rate, self._burst = rate, burst
        self._left = burst
        self._at: float | None = None

    def take(self, now: float) -> float:
        """Take one; returns after how many seconds it may go."""
        self._refill(now)
        self._left -= 1
        return max(0.0, -self._left / self._rate)

    def try_take(self, now: float) -> bool:
        """Take one if it may go now."""
        self._refill(now)
        if self._left < 1:
            return False
        self._left -= 1
        return True

    def _refill(self, now: float) -> None:
        since = 0.0 if self._at is None else max(0.0, now - self._at)
        self._left = min(self._burst, self._left + since * self._rate)
        self._at = now
