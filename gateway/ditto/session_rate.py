"""How fast one session may send."""

from __future__ import annotations

from typing import Final

TOLERANCE: Final = 1.25
"""How much of a second's messages may come at once, as in Ditto."""


class Rate:
    """A bucket of messages that fills at `per_second`; 0 lets everything through."""

    __slots__ = ("_at", "_left", "_most", "_per_second")

    def __init__(self, per_second: float) -> None:
        self._per_second = per_second
        self._most = max(1.0, per_second * TOLERANCE)
        self._left = self._most
        self._at = 0.0

    def allows(self, now: float) -> bool:
        """Take one message; False where it is one too many.

        Units:  `now` in seconds of a clock that never goes back.
        """
        if not self._per_second:
            return True
        self._left = min(self._most, self._left + (now - self._at) * self._per_second)
        self._at = now
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True
