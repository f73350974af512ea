"""Waiting between tries: exponential, jittered, capped."""

from __future__ import annotations

import random


class Backoff:
    """Delays for one retry loop.

    Units:  seconds. The first delay is between half of `first` and `first`; each next doubles, up to `cap`;
            jitter keeps a thousand nodes from coming back in the same instant.
    """

    def __init__(self, first: float = 0.5, cap: float = 30.0) -> None:
        self._first = first
        self._cap = cap
        self._next = first

    def reset(self) -> None:
        """Start over after a success."""
        self._next = self._first

    def next(self) -> float:
        """Return how long to wait before the next try."""
        delay = self._next
        self._next = min(self._next * 2, self._cap)
        return delay * random.uniform(0.5, 1.0)  # noqa: S311  jitter, not a secret
