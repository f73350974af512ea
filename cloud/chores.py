"""What is to be looked at: each key once, in order; what failed again later, and later still."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable, Iterable
from typing import Generic, TypeVar

from gateway.runtime.backoff import Backoff

K = TypeVar("K", bound=Hashable)
FIRST_SECONDS, LONGEST_SECONDS = 0.5, 60.0


class Chores(Generic[K]):
    """A queue for one worker, bounded by the number of keys that there are."""

    def __init__(self) -> None:
        self._dirty: dict[K, None] = {}
        self._later: dict[K, float] = {}
        self._backoffs: dict[K, Backoff] = {}
        self._wake = asyncio.Event()

    def add(self, keys: Iterable[K]) -> None:
        """Look at these as soon as may be, also those that wait for their next try."""
        for key in keys:
            self._later.pop(key, None)
            self._dirty[key] = None
        self._wake.set()

    def again(self, key: K) -> None:
        """Look at this later: it failed."""
        backoff = self._backoffs.setdefault(key, Backoff(FIRST_SECONDS, LONGEST_SECONDS))
        self._later[key] = asyncio.get_running_loop().time() + backoff.next()

    def done(self, key: K) -> None:
        """Forget that this failed before."""
        self._backoffs.pop(key, None)

    async def next(self) -> K:
        """Return what to look at next; waits until there is something."""
        while True:
            self._wake.clear()
            self._take_due()
            if self._dirty:
                key = next(iter(self._dirty))
                del self._dirty[key]
                return key
            await self._wait()

    def _take_due(self) -> None:
        now = asyncio.get_running_loop().time()
        for key in [key for key, due in self._later.items() if due <= now]:
            del self._later[key]
            self._dirty[key] = None

    async def _wait(self) -> None:
        due = min(self._later.values(), default=None)
        try:
            async with asyncio.timeout_at(due):
                await self._wake.wait()
        except TimeoutError:
            return
