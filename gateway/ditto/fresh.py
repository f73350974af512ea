"""A value that is worked out when asked, and good for a moment: for answers that anybody may ask for."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Fresh(Generic[T]):
    """One value.

    Units:  it is good for `seconds`; whoever asks meanwhile, or while it is worked out, gets the same one.
    """

    def __init__(self, work: Callable[[], Awaitable[T]], seconds: float = 1.0) -> None:
        self._work = work
        self._seconds = seconds
        self._known: tuple[float, T] | None = None
        self._lock = asyncio.Lock()

    async def get(self) -> T:
        """The value, worked out anew when it is too old; raises what the work raises."""
        async with self._lock:
            now = time.monotonic()
            if self._known is None or self._known[0] <= now:
                self._known = (now + self._seconds, await self._work())
            return self._known[1]
