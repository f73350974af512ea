"""The thread of a control loop: keys that need a look, now or later, each looked at by one at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

from gateway.runtime.keyworker import KeyWorker

K = TypeVar("K", bound=Hashable)
MAX_WAIT_SECONDS = 5.0
"""Between two tries at most: a loop that rests is a cluster that does not mend itself."""
NEWS_SECONDS = 0.2
"""What failed runs again after this time when its key is poked: news may have removed the cause."""
MAX_DELAY_SECONDS = 30 * 86_400.0
"""Clocks are set and loops restart: who waits longer looks again in between."""


class Loop(Generic[K]):
    """Runs `work(key)` for each key that was asked for; a GatewayError tries it again with back-off.

    The work reads the newest state by itself, so asking twice, late or in vain does no harm. May be asked
    before it runs. Bounded by the number of keys, that is of objects.

    Units:  `at_once` keys side by side; `pause` seconds between two runs of one key.
    """

    def __init__(
        self, work: Callable[[K], Awaitable[None]], *, at_once: int = 8, pause: float = 0.0
    ) -> None:
        self._work = work
        self._at_once = at_once
        self._pause = pause
        self._worker: KeyWorker[K] | None = None
        self._early: dict[K, None] = {}
        self._later: dict[K, asyncio.TimerHandle] = {}

    def poke(self, key: K) -> None:
        """Look at `key` soon."""
        if self._worker is None:
            self._early[key] = None
        else:
            self._worker.poke(key)

    def poke_after(self, key: K, seconds: float) -> None:
        """Look at `key` after some time at the latest; an earlier appointment stays."""
        loop = asyncio.get_running_loop()
        when = loop.time() + min(max(seconds, 0.0), MAX_DELAY_SECONDS)
        known = self._later.get(key)
        if known is not None and known.when() <= when:
            return
        if known is not None:
            known.cancel()
        self._later[key] = loop.call_at(when, self._due, key)

    def forget(self, key: K) -> None:
        """Cancel an appointment: the key is gone."""
        handle = self._later.pop(key, None)
        if handle is not None:
            handle.cancel()

    async def run(self) -> None:
        """Work until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                self._worker = KeyWorker(
                    group,
                    self._work,
                    pause=self._pause,
                    at_once=self._at_once,
                    news_after=NEWS_SECONDS,
                    max_wait=MAX_WAIT_SECONDS,
                )
                for key in self._early:
                    self._worker.poke(key)
                self._early.clear()
                await asyncio.Event().wait()
        finally:
            self._worker = None
            for key in list(self._later):
                self.forget(key)

    def _due(self, key: K) -> None:
        self._later.pop(key, None)
        self.poke(key)
